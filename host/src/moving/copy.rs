//! Keys and values from one store to another.
//!
//! Owns the comparison of two stores page by page, so that a copy that is made again writes only what differs, and what the
//! new store has and the old one has not is deleted. It must not know why anything is copied.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::key_value::BATCH_LEN_MAX;
use weft_capabilities::{Bucket, KeyValue, KeyValueError};

use crate::provider::key_value::Notes;

/// Keys that are copied at once.
const PAGE_LEN: usize = 500;

/// Whose buckets or containers are copied: an app's, as namespace and name, or the shared ones.
pub type Scope = Option<(String, String)>;

/// How much was copied; numbers only rise.
#[derive(Debug, Default)]
pub struct Copied {
    /// Keys, rows or objects that were looked at.
    pub keys: AtomicU64,
    /// Those of them that were written or deleted.
    pub changed: AtomicU64,
    /// Their bytes that were written.
    pub bytes: AtomicU64,
}

/// Makes the buckets of `scopes` in `to` what they are in `from`.
///
/// # Errors
/// The first that either store gives; what was copied stays.
pub async fn copy_all(
    from: &dyn KeyValue,
    to: &dyn KeyValue,
    scopes: &[Scope],
    copied: &Copied,
) -> Result<(), KeyValueError> {
    for bucket in buckets(from, to, scopes).await? {
        copy_bucket(from, to, &bucket, copied).await?;
    }
    Ok(())
}

/// Those that either has, if the new one can tell.
async fn buckets(
    from: &dyn KeyValue,
    to: &dyn KeyValue,
    scopes: &[Scope],
) -> Result<HashSet<Bucket>, KeyValueError> {
    let mut buckets = HashSet::new();
    for scope in scopes {
        let scope = borrowed(scope);
        buckets.extend(from.buckets(scope).await?);
        // One that can't tell has no more than what was copied there from the old one.
        buckets.extend(to.buckets(scope).await.unwrap_or_default());
    }
    Ok(buckets)
}

/// A bucket of `scopes` that has a key in `to`, if there is one.
///
/// # Errors
/// The store's.
pub async fn first_in_use(
    from: &dyn KeyValue,
    to: &dyn KeyValue,
    scopes: &[Scope],
) -> Result<Option<Bucket>, KeyValueError> {
    for bucket in buckets(from, to, scopes).await? {
        if !to.list_keys(&bucket, None, 1).await?.keys.is_empty() {
            return Ok(Some(bucket));
        }
    }
    Ok(None)
}

pub(super) fn borrowed(scope: &Scope) -> Option<(&str, &str)> {
    scope
        .as_ref()
        .map(|(namespace, app)| (namespace.as_str(), app.as_str()))
}

/// Goes through both listings side by side: each page of the old store, with what the new one has in the same stretch.
async fn copy_bucket(
    from: &dyn KeyValue,
    to: &dyn KeyValue,
    bucket: &Bucket,
    copied: &Copied,
) -> Result<(), KeyValueError> {
    let mut cursor: Option<String> = None;
    loop {
        let page = from.list_keys(bucket, cursor.as_deref(), PAGE_LEN).await?;
        let until = page.cursor.clone();
        make_equal(from, to, bucket, &page.keys, copied).await?;
        let stretch = (cursor.as_deref(), until.as_deref());
        drop_stale(from, to, bucket, stretch, &page.keys, copied).await?;
        cursor = until;
        if cursor.is_none() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

/// Deletes what the new store has after one key and up to another, and the old one, which has `known` there, has not.
async fn drop_stale(
    from: &dyn KeyValue,
    to: &dyn KeyValue,
    bucket: &Bucket,
    (after, until): (Option<&str>, Option<&str>),
    known: &[String],
    copied: &Copied,
) -> Result<(), KeyValueError> {
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    let mut cursor = after.map(str::to_owned);
    loop {
        let mut page = to.list_keys(bucket, cursor.as_deref(), PAGE_LEN).await?;
        let count = page.keys.len();
        page.keys
            .retain(|key| until.is_none_or(|until| key.as_str() <= until));
        let is_over = page.keys.len() < count || page.cursor.is_none();
        page.keys.retain(|key| !known.contains(key.as_str()));
        // One that came to the old store since its page was read is no stale one: it is looked up there.
        make_equal(from, to, bucket, &page.keys, copied).await?;
        cursor = page.cursor;
        if is_over {
            return Ok(());
        }
    }
}

/// Copies keys that were noted.
///
/// # Errors
/// The first that either store gives.
pub async fn copy_keys(
    from: &dyn KeyValue,
    to: &dyn KeyValue,
    notes: &Notes,
) -> Result<Copied, KeyValueError> {
    let mut of: HashMap<&Bucket, Vec<String>> = HashMap::new();
    for (bucket, key) in &notes.keys {
        of.entry(bucket).or_default().push(key.clone());
    }
    let copied = Copied::default();
    for (bucket, keys) in of {
        make_equal(from, to, bucket, &keys, &copied).await?;
    }
    Ok(copied)
}

/// Makes `keys` in the new store what they are in the old one, batch by batch.
async fn make_equal(
    from: &dyn KeyValue,
    to: &dyn KeyValue,
    bucket: &Bucket,
    keys: &[String],
    copied: &Copied,
) -> Result<(), KeyValueError> {
    for keys in keys.chunks(PAGE_LEN.min(BATCH_LEN_MAX)) {
        let (mine, theirs) = (values(from, bucket, keys).await?, values(to, bucket, keys).await?);
        let (mut set, mut gone) = (Vec::new(), Vec::new());
        for ((key, mine), theirs) in keys.iter().zip(mine).zip(theirs) {
            match mine {
                Some(value) if theirs.as_ref() != Some(&value) => set.push((key.clone(), value)),
                None if theirs.is_some() => gone.push(key.clone()),
                _ => {}
            }
        }
        copied.keys.fetch_add(keys.len() as u64, Relaxed);
        copied.changed.fetch_add((set.len() + gone.len()) as u64, Relaxed);
        let bytes: usize = set.iter().map(|(_, value)| value.len()).sum();
        copied.bytes.fetch_add(bytes as u64, Relaxed);
        write(to, bucket, set).await?;
        if !gone.is_empty() {
            to.delete_many(bucket, &gone).await?;
        }
    }
    Ok(())
}

/// The values of keys, in as many batches as it takes.
fn values<'a>(
    store: &'a dyn KeyValue,
    bucket: &'a Bucket,
    keys: &'a [String],
) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, KeyValueError>> {
    async move {
        match (store.get_many(bucket, keys).await, keys) {
            (Err(KeyValueError::TooLarge { .. }), [key]) => Ok(vec![store.get(bucket, key).await?]),
            (Err(KeyValueError::TooLarge { .. }), _) => {
                let (first, second) = keys.split_at(keys.len() / 2);
                let mut all = values(store, bucket, first).await?;
                all.extend(values(store, bucket, second).await?);
                Ok(all)
            }
            (answer, _) => answer,
        }
    }
    .boxed()
}

fn write<'a>(
    to: &'a dyn KeyValue,
    bucket: &'a Bucket,
    mut entries: Vec<(String, Bytes)>,
) -> BoxFuture<'a, Result<(), KeyValueError>> {
    async move {
        if entries.is_empty() {
            return Ok(());
        }
        if entries.len() == 1
            && let Some((key, value)) = entries.pop()
        {
            return to.set(bucket, &key, value).await;
        }
        match to.set_many(bucket, entries.clone()).await {
            Err(KeyValueError::TooLarge { .. }) => {
                let second = entries.split_off(entries.len() / 2);
                write(to, bucket, entries).await?;
                write(to, bucket, second).await
            }
            done => done,
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use weft_capabilities::MemoryKeyValue;

    use super::*;

    const SCOPE: Option<(&str, &str)> = Some(("default", "shop"));

    fn scopes() -> Vec<Scope> {
        vec![Some(("default".to_owned(), "shop".to_owned()))]
    }

    async fn all(store: &dyn KeyValue) -> BTreeMap<(String, String), Bytes> {
        let mut all = BTreeMap::new();
        for bucket in store.buckets(SCOPE).await.unwrap() {
            for key in store.list_keys(&bucket, None, 1_000).await.unwrap().keys {
                let value = store.get(&bucket, &key).await.unwrap().unwrap();
                all.insert((bucket.to_string(), key), value);
            }
        }
        all
    }

    fn entries() -> impl Strategy<Value = BTreeMap<(String, String), u8>> {
        proptest::collection::btree_map(("[ab]", "[a-d]{1,2}"), any::<u8>(), 0..20)
    }

    proptest! {
        #[test]
        fn after_a_copy_both_have_the_same_whatever_the_new_one_had(old in entries(), new in entries()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (from, to) = (MemoryKeyValue::default(), MemoryKeyValue::default());
                for (store, entries) in [(&from, &old), (&to, &new)] {
                    for ((bucket, key), value) in entries {
                        let bucket = Bucket::scoped("default", "shop", bucket);
                        store.set(&bucket, key, vec![*value].into()).await.unwrap();
                    }
                }
                let other = Bucket::scoped("default", "other", "a");
                to.set(&other, "k", "theirs".into()).await.unwrap();
                let copied = Copied::default();
                copy_all(&from, &to, &scopes(), &copied).await.unwrap();
                assert_eq!(all(&from).await, all(&to).await);
                assert_eq!(to.get(&other, "k").await.unwrap().unwrap(), "theirs");
                // The second time there is nothing to write.
                let before = copied.changed.load(Relaxed);
                copy_all(&from, &to, &scopes(), &copied).await.unwrap();
                assert_eq!(copied.changed.load(Relaxed), before);
            });
        }
    }

    #[tokio::test]
    async fn values_too_large_for_one_batch_and_keys_of_many_pages_are_copied() {
        let (from, to) = (MemoryKeyValue::default(), MemoryKeyValue::default());
        let bucket = Bucket::scoped("default", "shop", "a");
        for n in 0..5 {
            let value = Bytes::from(vec![n; 7 << 20]);
            from.set(&bucket, &format!("large-{n}"), value).await.unwrap();
        }
        for n in 0..1_234 {
            from.set(&bucket, &format!("small-{n:04}"), "v".into())
                .await
                .unwrap();
            to.set(&bucket, &format!("stale-{n:04}"), "v".into())
                .await
                .unwrap();
        }
        let copied = Copied::default();
        copy_all(&from, &to, &scopes(), &copied).await.unwrap();
        let left = to.list_keys(&bucket, Some("small-1233"), 10).await.unwrap();
        assert!(left.keys.is_empty(), "{left:?}");
        assert_eq!(to.get(&bucket, "large-4").await.unwrap().unwrap().len(), 7 << 20);
        assert_eq!(copied.changed.load(Relaxed), 5 + 1_234 + 1_234);
        assert_eq!(first_in_use(&from, &to, &scopes()).await.unwrap(), Some(bucket));
    }
}
