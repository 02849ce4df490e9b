//! What a key is called in NATS.
//!
//! `$KV.BUCKET-OF-JETSTREAM.NAMESPACE.APP.BUCKET.KEY`, where each of the last four is one token of the characters that
//! NATS has for keys. A token is read as it is written where that is short: letters, digits, `-`, `_` and `/` stand for
//! themselves, other bytes are `=XX`. What would be more than twice as long that way is `==` and base64 (URL-safe,
//! without padding), and no text at all is `=`. So any key fits in a subject.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weft_capabilities::{Bucket, KeyValueError};

/// The last token of the subject of a mark that a key is gone.
const GONE: &str = ".gone";

/// What a subject of a bucket is of.
pub(crate) enum Named {
    /// A key.
    Key(String),
    /// The mark that a key is gone, and the key's own subject.
    Gone(String, String),
}

/// The subject of the mark that the key of `subject` is gone: one token longer, so that no listing of keys has it.
pub(crate) fn gone(subject: &str) -> String {
    format!("{subject}{GONE}")
}

/// The subjects of one bucket's keys.
pub(crate) struct Names {
    /// `$KV.weft.NAMESPACE.APP.BUCKET.`
    prefix: String,
}

impl Names {
    /// `store` is what the subjects of the bucket of JetStream begin with.
    ///
    /// # Errors
    /// [`KeyValueError::NoSuchStore`].
    pub(crate) fn of(store: &str, bucket: &Bucket) -> Result<Self, KeyValueError> {
        let mut prefix = store.to_owned();
        for part in bucket.prefix()?.split_terminator('\0') {
            encode(part, &mut prefix);
            prefix.push('.');
        }
        Ok(Self { prefix })
    }

    /// The subject of a key, the limits on keys checked.
    pub(crate) fn subject(&self, bucket: &Bucket, key: &str) -> Result<String, KeyValueError> {
        // For its checks alone: what it gives is the embedded stores' form.
        bucket.key(key)?;
        let mut subject = self.prefix.clone();
        encode(key, &mut subject);
        Ok(subject)
    }

    /// What all subjects of keys match, and no other bucket's.
    pub(crate) fn filter(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// What all subjects of keys match, and all marks that keys are gone.
    pub(crate) fn filter_all(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// What a subject is of, if it is of this bucket.
    pub(crate) fn read(&self, subject: &str) -> Option<Named> {
        match subject.strip_suffix(GONE) {
            Some(of) => Some(Named::Gone(self.key(of)?, of.to_owned())),
            None => self.key(subject).map(Named::Key),
        }
    }

    /// The key of a subject. `None` if no key has it.
    pub(crate) fn key(&self, subject: &str) -> Option<String> {
        decode(subject.strip_prefix(&self.prefix)?)
    }
}

fn encode(text: &str, out: &mut String) {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/');
    if text.is_empty() {
        out.push('=');
    } else if text.bytes().filter(|byte| !is_plain(byte)).count() * 2 > text.len() {
        out.push_str("==");
        URL_SAFE_NO_PAD.encode_string(text, out);
    } else {
        for byte in text.bytes() {
            match is_plain(&byte) {
                true => out.push(char::from(byte)),
                // Writing to a string can't fail.
                false => write!(out, "={byte:02X}").unwrap_or_default(),
            }
        }
    }
}

fn decode(token: &str) -> Option<String> {
    if token == "=" {
        return Some(String::new());
    }
    if let Some(encoded) = token.strip_prefix("==") {
        return String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok();
    }
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'=' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_capabilities::key_value::{BUCKET_LEN_MAX, KEY_LEN_MAX};

    use super::*;
    use crate::jetstream::NAME_LEN_MAX;

    const STORE: &str = "$KV.weft.";

    /// The server's limit on a line of the protocol, less what is beside a subject in the longest one.
    const SUBJECT_LEN_MAX: usize = 4_096 - 256;

    #[test]
    fn reads_as_a_path_where_it_can() {
        for (bucket, key, subject) in [
            (
                Bucket::scoped("default", "shop", "items"),
                "item-1",
                "$KV.weft.default.shop.items.item-1",
            ),
            (
                Bucket::scoped("default", "shop", ""),
                "a/b.c:d",
                "$KV.weft.default.shop.=.a/b=2Ec=3Ad",
            ),
            (
                Bucket::shared("items"),
                "schlüssel",
                "$KV.weft.=.=.items.schl=C3=BCssel",
            ),
            (Bucket::shared("items"), "鍵", "$KV.weft.=.=.items.==6Y21"),
        ] {
            let names = Names::of(STORE, &bucket).unwrap();
            assert_eq!(names.subject(&bucket, key).unwrap(), subject);
        }
    }

    #[test]
    fn the_longest_names_fit_in_a_line_of_the_protocol() {
        for c in ["\0", "\u{10ffff}", ".", "a.", "ü"] {
            let fill = |len_max: usize| c.repeat(len_max / c.len());
            let name = fill(BUCKET_LEN_MAX).replace('\0', "\u{1}");
            let label = "n".repeat(63);
            let bucket = Bucket::scoped(&label, &label, &name);
            let store = format!("$KV.{}.", "b".repeat(NAME_LEN_MAX));
            let subject = Names::of(&store, &bucket)
                .unwrap()
                .subject(&bucket, &fill(KEY_LEN_MAX))
                .unwrap();
            let subject = gone(&subject);
            assert!(subject.len() <= SUBJECT_LEN_MAX, "{c:?}: {}", subject.len());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_of_nats_and_is_found_again(key in "\\PC{1,40}|[\\x00-\\x7f]{1,40}|[a-z.=/]{1,8}") {
            let bucket = Bucket::scoped("default", "shop", "a.b");
            let names = Names::of(STORE, &bucket).unwrap();
            let subject = names.subject(&bucket, &key).unwrap();
            prop_assert_eq!(names.key(&subject), Some(key.clone()));
            prop_assert!(matches!(names.read(&subject), Some(Named::Key(read)) if read == key));
            let mark = gone(&subject);
            prop_assert!(matches!(names.read(&mark), Some(Named::Gone(read, of)) if read == key && of == subject));
            let token = subject.strip_prefix("$KV.weft.default.shop.a=2Eb.").unwrap();
            let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_/=".contains(c);
            prop_assert!(!token.is_empty() && token.chars().all(is_legal), "{}", token);
        }

        #[test]
        fn no_two_keys_share_a_subject(
            a in ("[ab]{1,2}", "[ab]{1,2}", "[ab/.=\u{e9}]{0,3}", "[ab=.\u{e9}\u{9375}]{1,3}"),
            b in ("[ab]{1,2}", "[ab]{1,2}", "[ab/.=\u{e9}]{0,3}", "[ab=.\u{e9}\u{9375}]{1,3}"),
        ) {
            let subject = |bucket: Bucket, key: &str| {
                Names::of(STORE, &bucket).unwrap().subject(&bucket, key).unwrap()
            };
            let scoped = |(namespace, app, name, key): &(String, String, String, String)| {
                subject(Bucket::scoped(namespace, app, name), key)
            };
            prop_assert_eq!(scoped(&a) == scoped(&b), a == b);
            prop_assert_ne!(scoped(&a), subject(Bucket::shared(&b.2), &b.3));
        }

        #[test]
        fn what_others_wrote_is_a_key_or_none(token in "[a-f0-9=/-]{0,12}|\\PC{0,12}") {
            let names = Names { prefix: STORE.to_owned() };
            names.key(&format!("{STORE}{token}"));
            names.read(&format!("{STORE}{token}"));
        }
    }
}
