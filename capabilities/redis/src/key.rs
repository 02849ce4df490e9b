//! What a bucket and a key are called in Redis.
//!
//! `weft:{NAMESPACE/APP/BUCKET}:v:KEY` has a value; `weft:{NAMESPACE/APP/BUCKET}:k` is the bucket's index, a sorted set
//! of its keys. What stands in braces decides which slot of a cluster a key is in, so a bucket is in one.

use std::fmt::Write as _;

use weft_capabilities::key_value::scope_prefix;
use weft_capabilities::{Bucket, KeyValueError};

/// The names of one bucket.
pub(crate) struct Names {
    /// `weft:{...}:`
    bucket: String,
}

impl Names {
    /// # Errors
    /// [`KeyValueError::NoSuchStore`].
    pub(crate) fn of(bucket: &Bucket) -> Result<Self, KeyValueError> {
        let prefix = bucket.prefix()?;
        let mut name = String::with_capacity("weft:{}:".len() + prefix.len());
        name.push_str("weft:{");
        for (n, part) in prefix.split_terminator('\0').enumerate() {
            if n > 0 {
                name.push('/');
            }
            escape(part, &mut name);
        }
        name.push_str("}:");
        Ok(Self { bucket: name })
    }

    /// What the names of all its values begin with.
    pub(crate) fn values(&self) -> String {
        format!("{}v:", self.bucket)
    }

    pub(crate) fn index(&self) -> Vec<u8> {
        format!("{}k", self.bucket).into_bytes()
    }

    /// The name of a key's value, the limits on keys checked.
    pub(crate) fn value(&self, bucket: &Bucket, key: &str) -> Result<Vec<u8>, KeyValueError> {
        bucket.check(key)?;
        Ok([self.bucket.as_str(), "v:", key].concat().into_bytes())
    }
}

/// What `SCAN` finds the indices of an app's buckets by, or of the shared ones.
///
/// # Errors
/// [`KeyValueError::NoSuchStore`].
pub(crate) fn pattern(scope: Option<(&str, &str)>) -> Result<String, KeyValueError> {
    Ok(format!("{}*}}:k", escaped(&start(scope)?)))
}

/// A text as what stands for itself in a pattern.
pub(crate) fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if "*?[]\\".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// The bucket whose index has a name; `None` if it is no index, or not of the scope.
pub(crate) fn bucket_of(name: &[u8], scope: Option<(&str, &str)>) -> Option<Bucket> {
    let name = std::str::from_utf8(name).ok()?;
    let escaped = name.strip_prefix(&start(scope).ok()?)?.strip_suffix("}:k")?;
    let name = unescape(escaped)?;
    Some(match scope {
        Some((namespace, app)) => Bucket::scoped(namespace, app, &name),
        None => Bucket::shared(&name),
    })
}

/// What the names of all buckets of a scope begin with.
fn start(scope: Option<(&str, &str)>) -> Result<String, KeyValueError> {
    let mut name = "weft:{".to_owned();
    for part in scope_prefix(scope)?.split_terminator('\0') {
        escape(part, &mut name);
        name.push('/');
    }
    Ok(name)
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut whole = parts.next()?.to_owned();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2)?;
        whole.push(char::from(u8::from_str_radix(hex, 16).ok()?));
        whole.push_str(rest);
    }
    // Between braces there is neither.
    (!text.contains(['/', '{', '}'])).then_some(whole)
}

/// Braces would end what decides the slot, and a slash is between the parts.
fn escape(part: &str, out: &mut String) {
    let mut rest = part;
    while let Some(at) = rest.find(['%', '/', '{', '}']) {
        out.push_str(&rest[..at]);
        // Writing to a string can't fail.
        write!(out, "%{:02X}", rest.as_bytes()[at]).ok();
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_as_a_path() {
        let bucket = Bucket::scoped("default", "shop", "a/{b}");
        let names = Names::of(&bucket).unwrap();
        let value = names.value(&bucket, "k{}").unwrap();
        assert_eq!(value, b"weft:{default/shop/a%2F%7Bb%7D}:v:k{}");
        assert_eq!(names.index(), b"weft:{default/shop/a%2F%7Bb%7D}:k");
    }

    proptest! {
        #[test]
        fn no_two_keys_share_a_name_and_a_bucket_has_one_slot(
            a in ("[ab]{1,2}", "[ab]{1,2}", "[ab/%{}]{0,3}", "[ab:{}]{1,3}"),
            b in ("[ab]{1,2}", "[ab]{1,2}", "[ab/%{}]{0,3}", "[ab:{}]{1,3}"),
        ) {
            let name = |(namespace, app, name, key): &(String, String, String, String)| {
                let bucket = Bucket::scoped(namespace, app, name);
                let names = Names::of(&bucket).unwrap();
                (String::from_utf8(names.value(&bucket, key).unwrap()).unwrap(), String::from_utf8(names.index()).unwrap())
            };
            prop_assert_eq!(name(&a).0 == name(&b).0, a == b);
            prop_assert_ne!(name(&a).0, name(&b).1);
            let tag = |name: &str| name[6..].split_once('}').map(|(tag, _)| tag.to_owned());
            prop_assert_eq!(tag(&name(&a).0), tag(&name(&a).1));
            let shared = Bucket::shared(&a.2);
            let shared_name = Names::of(&shared).unwrap().value(&shared, &a.3).unwrap();
            let scoped_name = name(&a).0.into_bytes();
            prop_assert_ne!(scoped_name, shared_name);
        }

        #[test]
        fn a_bucket_is_found_again_by_the_name_of_its_index(
            a in ("[ab]{1,2}", "[ab]{1,2}", "\\PC{0,6}"), b in ("[ab]{1,2}", "[ab]{1,2}"),
        ) {
            let (namespace, app, name) = (&*a.0, &*a.1, &*a.2);
            let scope = Some((namespace, app));
            let index = |bucket: &Bucket| Names::of(bucket).unwrap().index();
            let (scoped, shared) = (Bucket::scoped(namespace, app, name), Bucket::shared(name));
            prop_assert_eq!(bucket_of(&index(&scoped), scope), Some(scoped.clone()));
            prop_assert_eq!(bucket_of(&index(&shared), None), Some(shared.clone()));
            prop_assert_eq!(bucket_of(&index(&shared), scope), None);
            let other = Some((&*b.0, &*b.1));
            prop_assert_eq!(bucket_of(&index(&scoped), other).is_some(), other == scope);
        }
    }
}
