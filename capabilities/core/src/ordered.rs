//! A key-value backend out of an ordered map of bytes.
//!
//! Owns what the embedded backends have in common: limits, paging, what each write does to a map, and who is told of it
//! ([`Watchers`]), so that a backend brings a map, a way to write to it, and nothing else.

mod watchers;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};

use crate::key_value::{
    BatchBytes, Bucket, Changes, KeyValue, KeyValueError, PAGE_LEN_MAX, Page, Swap, Watch, check_buckets,
    check_value, scope_prefix,
};

pub use watchers::{Effects, WATCHES_MAX, Watchers};

/// An ordered map that lives in this process. Whoever implements it has [`KeyValue`].
pub trait Ordered: Send + Sync + 'static {
    /// The value of a stored key. Called on the caller's thread: it must be short.
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, KeyValueError>;

    /// Whether a stored key has a value.
    fn contains(&self, key: &[u8]) -> Result<bool, KeyValueError> {
        Ok(self.read(key)?.is_some())
    }

    /// Shows `visit` the keys after `after` and before `before` in order, until it says `false`.
    fn scan(
        &self,
        after: &[u8],
        before: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), KeyValueError>;

    /// Applies one write, wholly or not, and answers when it is as durable as this map makes it.
    fn write(&self, write: Write) -> BoxFuture<'_, Result<Written, KeyValueError>>;

    /// Who is to be told what writes have changed, once it is durable and in their order.
    fn watchers(&self) -> &Watchers;

    /// See [`KeyValue::close`].
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// One write, its limits checked. Keys are stored keys ([`Bucket::key`]).
#[derive(Debug, Clone)]
pub enum Write {
    /// Sets all of these.
    Set(Vec<(Vec<u8>, Bytes)>),
    /// Deletes all of these.
    Delete(Vec<Vec<u8>>),
    /// Adds to a number.
    Increment {
        /// The stored key.
        key: Vec<u8>,
        /// What to add.
        delta: i64,
    },
    /// Sets one key if it has the expected value.
    CompareAndSwap {
        /// The stored key.
        key: Vec<u8>,
        /// The value that it must have.
        expected: Option<Bytes>,
        /// The value that it then gets.
        new: Bytes,
    },
}

/// What a write gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Nothing but that it is done.
    Done,
    /// The sum.
    Sum(i64),
    /// What the swap did.
    Swap(Swap),
}

/// A map while it is written to. `E` is what a failing map says; refusals are [`KeyValueError`]s of the write alone.
pub trait Table {
    /// Why the map failed, or why it refuses.
    type Error: From<KeyValueError>;
    /// The value of a key, as this very write would see it.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;
    /// Sets all entries or, refusing, none.
    fn set(&mut self, entries: &[(Vec<u8>, Bytes)]) -> Result<(), Self::Error>;
    /// Takes a key away; whether it was there.
    fn remove(&mut self, key: &[u8]) -> Result<bool, Self::Error>;
}

impl Write {
    /// Bytes of the write's keys and values.
    pub fn len(&self) -> usize {
        match self {
            Self::Set(entries) => entries.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Self::Delete(keys) => keys.iter().map(Vec::len).sum(),
            Self::Increment { key, .. } => key.len(),
            Self::CompareAndSwap { key, expected, new } => {
                key.len() + new.len() + expected.as_ref().map_or(0, Bytes::len)
            }
        }
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does the write to `table`, and notes in `effects` what it changes. A refused write has changed nothing.
    ///
    /// # Errors
    /// The table's, and [`KeyValueError::NotANumber`] and [`KeyValueError::OutOfRange`].
    pub fn apply<T: Table>(self, table: &mut T, effects: &mut Effects) -> Result<Written, T::Error> {
        match self {
            Self::Set(entries) => {
                table.set(&entries)?;
                for (key, value) in &entries {
                    effects.note(key, Some(value));
                }
            }
            Self::Delete(keys) => {
                for key in &keys {
                    if table.remove(key)? {
                        effects.note(key, None);
                    }
                }
            }
            Self::Increment { key, delta } => {
                let sum = add(table.get(&key)?.as_deref(), delta, &key)?;
                let entry = [(key, Bytes::from(sum.to_string()))];
                table.set(&entry)?;
                effects.note(&entry[0].0, Some(&entry[0].1));
                return Ok(Written::Sum(sum));
            }
            Self::CompareAndSwap { key, expected, new } => {
                let now = table.get(&key)?;
                if now != expected {
                    return Ok(Written::Swap(Swap::Changed(now)));
                }
                let entry = [(key, new)];
                table.set(&entry)?;
                effects.note(&entry[0].0, Some(&entry[0].1));
                return Ok(Written::Swap(Swap::Done));
            }
        }
        Ok(Written::Done)
    }
}

fn add(value: Option<&[u8]>, delta: i64, stored_key: &[u8]) -> Result<i64, KeyValueError> {
    // The caller's key is what follows the three parts of the bucket.
    let key = || {
        let key = stored_key.splitn(4, |&b| b == 0).last().unwrap_or_default();
        String::from_utf8_lossy(key).into_owned()
    };
    let before = match value {
        None => 0,
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
            .ok_or_else(|| KeyValueError::NotANumber { key: key() })?,
    };
    before
        .checked_add(delta)
        .ok_or_else(|| KeyValueError::OutOfRange { key: key() })
}

impl<T: Ordered> KeyValue for T {
    fn get<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, KeyValueError>> {
        future::lazy(move |_| self.read(&bucket.key(key)?)).boxed()
    }

    fn set<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        value: Bytes,
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            check_value(&value)?;
            self.write(Write::Set(vec![(bucket.key(key)?, value)]))
                .await
                .map(drop)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move { self.write(Write::Delete(vec![bucket.key(key)?])).await.map(drop) }.boxed()
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, KeyValueError>> {
        future::lazy(move |_| self.contains(&bucket.key(key)?)).boxed()
    }

    fn list_keys<'a>(
        &'a self,
        bucket: &'a Bucket,
        cursor: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, KeyValueError>> {
        future::lazy(move |_| page(self, bucket, cursor, limit)).boxed()
    }

    fn increment<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, KeyValueError>> {
        async move {
            let key = bucket.key(key)?;
            match self.write(Write::Increment { key, delta }).await? {
                Written::Sum(sum) => Ok(sum),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> BoxFuture<'a, Result<Swap, KeyValueError>> {
        async move {
            check_value(&new)?;
            let key = bucket.key(key)?;
            match self.write(Write::CompareAndSwap { key, expected, new }).await? {
                Written::Swap(swap) => Ok(swap),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, KeyValueError>> {
        future::lazy(move |_| {
            let mut bytes = BatchBytes::of_keys(keys.len())?;
            keys.iter()
                .map(|key| {
                    let value = self.read(&bucket.key(key)?)?;
                    bytes.add(key.len() + value.as_ref().map_or(0, Bytes::len))?;
                    Ok(value)
                })
                .collect()
        })
        .boxed()
    }

    fn set_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        entries: Vec<(String, Bytes)>,
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            let mut bytes = BatchBytes::of_keys(entries.len())?;
            let mut checked = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                check_value(&value)?;
                bytes.add(key.len() + value.len())?;
                checked.push((bucket.key(&key)?, value));
            }
            self.write(Write::Set(checked)).await.map(drop)
        }
        .boxed()
    }

    fn delete_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            BatchBytes::of_keys(keys.len())?;
            let checked = keys.iter().map(|key| bucket.key(key)).collect::<Result<_, _>>()?;
            self.write(Write::Delete(checked)).await.map(drop)
        }
        .boxed()
    }

    fn buckets<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Bucket>, KeyValueError>> {
        future::lazy(move |_| buckets(self, scope)).boxed()
    }

    fn watch<'a>(
        &'a self,
        bucket: &'a Bucket,
        watch: Watch,
    ) -> BoxFuture<'a, Result<Changes, KeyValueError>> {
        future::ready(self.watchers().begin(bucket, &watch)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            Ordered::close(self).await;
            self.watchers().end();
        }
        .boxed()
    }
}

/// Looks at the first key of each bucket only.
fn buckets(map: &impl Ordered, scope: Option<(&str, &str)>) -> Result<Vec<Bucket>, KeyValueError> {
    let mut after = scope_prefix(scope)?.into_bytes();
    let before = following(&after);
    let mut buckets = Vec::new();
    loop {
        let mut first = None;
        map.scan(&after, &before, &mut |stored| {
            // The third of the parts ends it.
            let end = stored.iter().enumerate().filter(|(_, byte)| **byte == 0).nth(2);
            first = end.map(|(at, _)| stored[..=at].to_vec());
            false
        })?;
        let Some(prefix) = first else {
            return Ok(buckets);
        };
        let bucket = std::str::from_utf8(&prefix).ok().and_then(Bucket::from_prefix);
        buckets.extend(bucket);
        check_buckets(buckets.len())?;
        after = following(&prefix);
    }
}

/// What comes after all that begins with `prefix`, whose last byte is 0.
fn following(prefix: &[u8]) -> Vec<u8> {
    let mut following = prefix.to_vec();
    if let Some(last) = following.last_mut() {
        *last += 1;
    }
    following
}

fn page(
    map: &impl Ordered,
    bucket: &Bucket,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page, KeyValueError> {
    let prefix = bucket.prefix()?;
    let limit = limit.clamp(1, PAGE_LEN_MAX);
    // No stored key is the bare prefix, so that "after" loses none.
    let after = format!("{prefix}{}", cursor.unwrap_or_default());
    let before = following(prefix.as_bytes());
    let mut page = Page::default();
    let mut broken = None;
    map.scan(after.as_bytes(), &before, &mut |stored| {
        if page.keys.len() == limit {
            page.cursor = page.keys.last().cloned();
            return false;
        }
        match std::str::from_utf8(&stored[prefix.len()..]) {
            Ok(key) => page.keys.push(key.to_owned()),
            Err(error) => broken = Some(error),
        }
        broken.is_none()
    })?;
    match broken {
        None => Ok(page),
        Some(error) => Err(KeyValueError::Backend(Box::new(error))),
    }
}

fn unexpected(written: &Written) -> KeyValueError {
    KeyValueError::Backend(format!("the backend answered another write: {written:?}").into())
}
