//! Key-value: byte values under text keys, in buckets.
//!
//! Owns the trait, its limits, its errors, and how a bucket and a key become the one key that a backend stores. [`watch`]
//! owns what is told of changes.

pub mod watch;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use watch::{Change, Changes, Watch};

/// The longest key, in bytes: what Redis, NATS KV and redb all carry with ease, also with a bucket before it.
pub const KEY_LEN_MAX: usize = 1_024;
/// The largest value, in bytes. What is larger belongs in a blob store.
pub const VALUE_LEN_MAX: usize = 8 << 20;
/// The longest name of a bucket, in bytes.
pub const BUCKET_LEN_MAX: usize = 255;
/// Keys in one page of a listing, at most: a megabyte of the longest ones.
pub const PAGE_LEN_MAX: usize = 1_000;
/// Keys in one batch, at most.
pub const BATCH_LEN_MAX: usize = 1_000;
/// Bytes of keys and values in one batch, at most: two of the largest values.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Buckets that a backend tells at once, at most: a megabyte or two of names.
pub const BUCKETS_LEN_MAX: usize = 10_000;

/// Ends each part of a stored key. No part but the last, the caller's key, holds one.
const SEPARATOR: char = '\0';

/// Where keys live. Cheap to clone.
///
/// A scoped bucket belongs to one app, so that two apps on one backend don't meet; a shared one belongs to whoever
/// names it. A name that can't be one (over [`BUCKET_LEN_MAX`] bytes, or with a NUL) makes a bucket that no backend
/// has: every operation on it is [`KeyValueError::NoSuchStore`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bucket(Arc<str>);

impl Bucket {
    /// The bucket `name` of one app.
    pub fn scoped(namespace: &str, app: &str, name: &str) -> Self {
        if namespace.is_empty() || app.is_empty() {
            return Self("".into());
        }
        Self::of([namespace, app, name])
    }

    /// The bucket `name` of all apps whose links say `shared`.
    pub fn shared(name: &str) -> Self {
        Self::of(["", "", name])
    }

    fn of(parts: [&str; 3]) -> Self {
        if parts
            .iter()
            .any(|part| part.len() > BUCKET_LEN_MAX || part.contains(SEPARATOR))
        {
            return Self("".into());
        }
        let [namespace, app, name] = parts;
        Self(format!("{namespace}{SEPARATOR}{app}{SEPARATOR}{name}{SEPARATOR}").into())
    }

    /// The bucket whose [`Bucket::prefix`] is `prefix`, if one has it.
    pub fn from_prefix(prefix: &str) -> Option<Self> {
        let mut parts = prefix.strip_suffix(SEPARATOR)?.split(SEPARATOR);
        let (namespace, app, name) = (parts.next()?, parts.next()?, parts.next()?);
        let bucket = match (namespace, app) {
            ("", "") => Self::shared(name),
            _ => Self::scoped(namespace, app, name),
        };
        // One that has more parts, or too long ones, is not what was made of them.
        (*bucket.0 == *prefix).then_some(bucket)
    }

    /// What every stored key of this bucket begins with, and no other bucket's does.
    ///
    /// # Errors
    /// [`KeyValueError::NoSuchStore`] if the bucket's name can't be one.
    pub fn prefix(&self) -> Result<&str, KeyValueError> {
        if self.0.is_empty() {
            return Err(KeyValueError::NoSuchStore);
        }
        Ok(&self.0)
    }

    /// Whether `key` is within the limits: the one place where they are.
    ///
    /// # Errors
    /// [`KeyValueError::NoSuchStore`], [`KeyValueError::EmptyKey`] or [`KeyValueError::TooLarge`].
    pub fn check(&self, key: &str) -> Result<(), KeyValueError> {
        self.prefix()?;
        if key.is_empty() {
            return Err(KeyValueError::EmptyKey);
        }
        at_most("key", key.len(), KEY_LEN_MAX)
    }

    /// The stored key of `key`, its limits checked.
    ///
    /// # Errors
    /// [`KeyValueError::NoSuchStore`], [`KeyValueError::EmptyKey`] or [`KeyValueError::TooLarge`].
    pub fn key(&self, key: &str) -> Result<Vec<u8>, KeyValueError> {
        self.check(key)?;
        let prefix = self.prefix()?;
        let mut stored = Vec::with_capacity(prefix.len() + key.len());
        stored.extend_from_slice(prefix.as_bytes());
        stored.extend_from_slice(key.as_bytes());
        Ok(stored)
    }
}

impl fmt::Display for Bucket {
    /// `namespace/app/name`, or the bare name of a shared bucket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.trim_end_matches(SEPARATOR).trim_start_matches(SEPARATOR);
        f.write_str(&path.replace(SEPARATOR, "/"))
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({self})")
    }
}

/// Whether a value may be stored.
///
/// # Errors
/// [`KeyValueError::TooLarge`].
pub fn check_value(value: &[u8]) -> Result<(), KeyValueError> {
    at_most("value", value.len(), VALUE_LEN_MAX)
}

/// Counts a batch's bytes and refuses the one that goes over [`BATCH_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct BatchBytes(usize);

impl BatchBytes {
    /// Starts to count a batch of `len` keys.
    ///
    /// # Errors
    /// [`KeyValueError::TooLarge`] over [`BATCH_LEN_MAX`] keys.
    pub fn of_keys(len: usize) -> Result<Self, KeyValueError> {
        at_most("batch of keys", len, BATCH_LEN_MAX)?;
        Ok(Self(0))
    }

    /// Adds `len` bytes.
    ///
    /// # Errors
    /// [`KeyValueError::TooLarge`] over [`BATCH_BYTES_MAX`].
    pub fn add(&mut self, len: usize) -> Result<(), KeyValueError> {
        self.0 = self.0.saturating_add(len);
        at_most("batch", self.0, BATCH_BYTES_MAX)
    }
}

fn at_most(what: &'static str, len: usize, len_max: usize) -> Result<(), KeyValueError> {
    if len > len_max {
        return Err(KeyValueError::TooLarge { what, len, len_max });
    }
    Ok(())
}

/// Some keys of a bucket, in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, in the order of their bytes.
    pub keys: Vec<String>,
    /// The last key seen, if more may follow it.
    pub cursor: Option<String>,
}

/// What a compare-and-swap did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The new value is stored.
    Done,
    /// Nothing was stored: the value is this one by now.
    Changed(Option<Bytes>),
}

/// A key-value backend.
///
/// Every operation may be called from any number of tasks at once. A write that was answered is as durable as the
/// backend makes it (the embedded one: on disk), and is seen by every read that starts after the answer. A write whose
/// future is dropped may still happen. Each single-key operation is atomic.
pub trait KeyValue: Send + Sync + 'static {
    /// The value of `key`, if it has one.
    fn get<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, KeyValueError>>;

    /// Makes `value` the value of `key`.
    fn set<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        value: Bytes,
    ) -> BoxFuture<'a, Result<(), KeyValueError>>;

    /// Takes `key` and its value away; it is no error if there is none.
    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<(), KeyValueError>>;

    /// Whether `key` has a value.
    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, KeyValueError>>;

    /// Keys after `cursor`, the last key seen, in key order: at most `limit` of them, and at most [`PAGE_LEN_MAX`].
    ///
    /// A key that is there from the first page to the last is listed exactly once, whatever is written meanwhile.
    fn list_keys<'a>(
        &'a self,
        bucket: &'a Bucket,
        cursor: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, KeyValueError>>;

    /// Adds `delta` to the number in `key` and gives the sum. A key without a value counts as 0.
    ///
    /// The value is decimal text. [`KeyValueError::NotANumber`] if it is none, [`KeyValueError::OutOfRange`] if the
    /// sum is no `i64`.
    fn increment<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, KeyValueError>>;

    /// Makes `new` the value of `key` if it is `expected` now (`None`: if there is no value).
    fn compare_and_swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> BoxFuture<'a, Result<Swap, KeyValueError>>;

    /// The values of `keys`, in their order. Not one snapshot: each value is one that its key had meanwhile.
    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, KeyValueError>>;

    /// Sets each key, all or none where the backend can (memory and redb do); the last of equal keys counts.
    ///
    /// A backend that can't is atomic for each key only, and says so.
    fn set_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        entries: Vec<(String, Bytes)>,
    ) -> BoxFuture<'a, Result<(), KeyValueError>>;

    /// Deletes each key, all or none where the backend can, as [`KeyValue::set_many`].
    fn delete_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<(), KeyValueError>>;

    /// The buckets that have a key, in any order: those of one app (namespace and name), or with `None` the shared ones.
    /// One that has its first or last key meanwhile may be told or not. At most [`BUCKETS_LEN_MAX`].
    ///
    /// For who copies a store; a backend may be unable to tell, and then is [`KeyValueError::Unavailable`].
    fn buckets<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Bucket>, KeyValueError>> {
        let _ = scope;
        let cannot = "this backend can't tell which buckets it has".to_owned();
        Box::pin(std::future::ready(Err(KeyValueError::Unavailable(cannot))))
    }

    /// Tells the changes of a bucket's keys from now on. When this returns, a write that begins is told.
    ///
    /// A change is told when it is as durable as the backend makes it. Of one key, changes come in the order of its writes.
    /// How many are told, and how often, each backend says. The changes end if the backend is closed or can't be
    /// followed any more; who wants more begins anew. A backend may be unable to tell of changes, and then is
    /// [`KeyValueError::Unavailable`].
    fn watch<'a>(
        &'a self,
        bucket: &'a Bucket,
        watch: Watch,
    ) -> BoxFuture<'a, Result<Changes, KeyValueError>> {
        let _ = (bucket, watch);
        let cannot = "this backend can't tell of changes".to_owned();
        Box::pin(std::future::ready(Err(KeyValueError::Unavailable(cannot))))
    }

    /// Refuses what comes after, and ends when all that was accepted is durable. May be called twice.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What the prefixes of an app's buckets begin with, or of the shared ones.
///
/// # Errors
/// [`KeyValueError::NoSuchStore`] if no app can be called so.
pub fn scope_prefix(scope: Option<(&str, &str)>) -> Result<String, KeyValueError> {
    let bucket = match scope {
        Some((namespace, app)) => Bucket::scoped(namespace, app, ""),
        None => Bucket::shared(""),
    };
    let prefix = bucket.prefix()?;
    // Without the end of the name, which is empty.
    Ok(prefix[..prefix.len() - 1].to_owned())
}

/// Counts buckets and refuses the one that goes over [`BUCKETS_LEN_MAX`].
///
/// # Errors
/// [`KeyValueError::TooLarge`].
pub fn check_buckets(len: usize) -> Result<(), KeyValueError> {
    at_most("number of buckets", len, BUCKETS_LEN_MAX)
}

/// Why an operation on keys failed. Nothing was written unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum KeyValueError {
    /// The backend has no such bucket, and can't make one.
    #[error("no such bucket: its name is up to {BUCKET_LEN_MAX} bytes without NUL")]
    NoSuchStore,
    /// The caller may not do this.
    #[error("access to the bucket is denied")]
    AccessDenied,
    /// A key without a byte.
    #[error("the key is empty: a key has 1 to {KEY_LEN_MAX} bytes")]
    EmptyKey,
    /// Something is over its limit.
    #[error("the {what} is too large: {len}, at most {len_max}")]
    TooLarge {
        /// What it is: a key, a value, a batch.
        what: &'static str,
        /// How large it is.
        len: usize,
        /// How large it may be.
        len_max: usize,
    },
    /// The value to add to is not decimal text.
    #[error("the value of `{key}` is not a number: increments need decimal text")]
    NotANumber {
        /// The key.
        key: String,
    },
    /// The sum does not fit.
    #[error("the sum for `{key}` is out of range: it must fit in 64 bits")]
    OutOfRange {
        /// The key.
        key: String,
    },
    /// The backend holds as much as it may.
    #[error("the store is full: {bytes_max} bytes; delete keys or raise its limit")]
    Full {
        /// What it may hold.
        bytes_max: usize,
    },
    /// Too many writes wait; try again later.
    #[error("the store is overloaded: its queue of writes stayed full; try again later")]
    Overloaded,
    /// The backend was closed.
    #[error("the store is closed")]
    Closed,
    /// The backend can't be reached or gave up. A write may have happened.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The backend failed. A write may have happened.
    #[error("the store failed")]
    Backend(#[source] Box<dyn Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_reads_as_a_path() {
        assert_eq!(
            Bucket::scoped("default", "shop", "items").to_string(),
            "default/shop/items"
        );
        assert_eq!(Bucket::shared("items").to_string(), "items");
    }

    #[test]
    fn a_bucket_that_can_not_be_named_is_no_store() {
        for bucket in [
            Bucket::scoped("default", "shop", "a\0b"),
            Bucket::scoped("", "shop", "a"),
            Bucket::scoped("default", "", "a"),
            Bucket::shared(&"x".repeat(BUCKET_LEN_MAX + 1)),
        ] {
            assert!(matches!(bucket.key("k"), Err(KeyValueError::NoSuchStore)));
        }
    }

    proptest! {
        #[test]
        fn a_bucket_is_found_again_by_its_prefix_and_nothing_else_is_one(
            names in ("[a-b]{0,2}", "[a-b]{0,2}", "[a-b]{0,2}"),
            text in "[a-b\\x00]{0,8}",
        ) {
            for bucket in [Bucket::scoped(&names.0, &names.1, &names.2), Bucket::shared(&names.2)] {
                if let Ok(prefix) = bucket.prefix() {
                    prop_assert_eq!(Bucket::from_prefix(prefix), Some(bucket.clone()));
                }
            }
            if let Some(bucket) = Bucket::from_prefix(&text) {
                prop_assert_eq!(bucket.prefix().unwrap(), text);
            }
        }

        #[test]
        fn no_two_buckets_share_a_stored_key(
            a in ("[a-b]{1,2}", "[a-b]{1,2}", "[a-b]{0,2}", "[a-b\\x00]{1,3}"),
            b in ("[a-b]{1,2}", "[a-b]{1,2}", "[a-b]{0,2}", "[a-b\\x00]{1,3}"),
        ) {
            let stored = |(namespace, app, name, key): &(String, String, String, String)| {
                Bucket::scoped(namespace, app, name).key(key).unwrap()
            };
            prop_assert_eq!(stored(&a) == stored(&b), a == b);
            prop_assert_ne!(stored(&a), Bucket::shared(&b.2).key(&b.3).unwrap());
        }
    }
}
