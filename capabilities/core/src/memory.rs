//! Key-value in this process's memory, and a blob store in `memory/`: for tests, caches, and what may be lost with the
//! process.

mod blob_store;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::time::Instant;

use crate::key_value::KeyValueError;
use crate::ordered::{Ordered, Table, Watchers, Write, Written};

pub use blob_store::MemoryBlobStore;

/// Bytes that a store holds unless it is told otherwise: a part of a small machine, and room for tests.
pub const BYTES_MAX_DEFAULT: usize = 256 << 20;
/// What an entry costs beside its key and value: the map's slots and both heads.
const ENTRY_OVERHEAD: usize = 96;
/// What one costs that is forgotten some time, beside its key once more.
const DUE_OVERHEAD: usize = 96;
/// Entries that a write takes away of those that are due: more than it adds, and few enough that others don't wait for it.
const FORGOTTEN_AT_ONCE: usize = 1_024;

/// Key-value in memory. Gone when it is dropped.
#[derive(Debug)]
pub struct MemoryKeyValue {
    map: RwLock<Map>,
    closed: AtomicBool,
    watchers: Watchers,
}

#[derive(Debug)]
struct Map {
    entries: BTreeMap<Vec<u8>, Entry>,
    bytes: usize,
    bytes_max: usize,
    /// How long a value is kept after it was written, if not for ever.
    ttl: Option<Duration>,
    /// The keys whose values are forgotten some time, in the order in which they are.
    due: BTreeMap<Due, Vec<u8>>,
    /// Values that were written.
    count: u64,
}

/// When a value is forgotten, and which one it was.
type Due = (Instant, u64);

#[derive(Debug)]
struct Entry {
    value: Bytes,
    due: Option<Due>,
}

impl MemoryKeyValue {
    /// An empty store that holds at most `bytes_max` bytes of keys, values and what the map adds.
    pub fn new(bytes_max: usize) -> Self {
        let map = Map {
            entries: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            ttl: None,
            due: BTreeMap::new(),
            count: 0,
        };
        Self {
            map: RwLock::new(map),
            closed: AtomicBool::new(false),
            watchers: Watchers::default(),
        }
    }

    /// The same store, which forgets a value `ttl` after it was last written.
    pub fn forgetting(mut self, ttl: Duration) -> Self {
        self.map.get_mut().unwrap_or_else(PoisonError::into_inner).ttl = Some(ttl);
        self
    }

    fn map(&self) -> Result<RwLockReadGuard<'_, Map>, KeyValueError> {
        self.open()?;
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn open(&self) -> Result<(), KeyValueError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(KeyValueError::Closed);
        }
        Ok(())
    }
}

impl Default for MemoryKeyValue {
    fn default() -> Self {
        Self::new(BYTES_MAX_DEFAULT)
    }
}

impl Entry {
    fn is_there(&self, now: Instant) -> bool {
        self.due.is_none_or(|(due, _)| due > now)
    }
}

impl Map {
    fn cost(&self, key: &[u8], value: &Bytes) -> usize {
        let due = self.ttl.map_or(0, |_| key.len() + DUE_OVERHEAD);
        key.len() + value.len() + ENTRY_OVERHEAD + due
    }

    fn take(&mut self, key: &[u8]) {
        if let Some(old) = self.entries.remove(key) {
            self.bytes -= self.cost(key, &old.value);
            if let Some(due) = old.due {
                self.due.remove(&due);
            }
        }
    }

    /// Takes away what is due, at most `len_max` entries.
    fn forget(&mut self, len_max: usize) {
        let now = Instant::now();
        for _ in 0..len_max {
            let Some((_, key)) = self.due.first_key_value().filter(|((due, _), _)| *due <= now) else {
                return;
            };
            let key = key.clone();
            self.take(&key);
        }
    }

    /// Whether there were too many bytes with `entries`. Counts a key that comes twice as two, which refuses a little
    /// early and never late.
    fn is_too_much(&self, entries: &[(Vec<u8>, Bytes)]) -> bool {
        let freed = |key: &Vec<u8>| {
            let old = self.entries.get(key);
            old.map_or(0, |old| self.cost(key, &old.value))
        };
        let (more, less) = entries.iter().fold((0, 0), |(more, less), (key, value)| {
            (more + self.cost(key, value), less + freed(key))
        });
        more > less && self.bytes + (more - less) > self.bytes_max
    }
}

impl Table for Map {
    type Error = KeyValueError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KeyValueError> {
        let entry = self
            .entries
            .get(key)
            .filter(|entry| entry.is_there(Instant::now()));
        Ok(entry.map(|entry| entry.value.clone()))
    }

    fn set(&mut self, entries: &[(Vec<u8>, Bytes)]) -> Result<(), KeyValueError> {
        self.forget(FORGOTTEN_AT_ONCE);
        if self.is_too_much(entries) {
            self.forget(usize::MAX);
        }
        if self.is_too_much(entries) {
            return Err(KeyValueError::Full {
                bytes_max: self.bytes_max,
            });
        }
        let due = self.ttl.and_then(|ttl| Instant::now().checked_add(ttl));
        for (key, value) in entries {
            self.take(key);
            self.bytes += self.cost(key, value);
            // A value may be a slice of a much larger message: what is kept is its own.
            let value = Bytes::copy_from_slice(value);
            self.count += 1;
            let due = due.map(|due| (due, self.count));
            if let Some(due) = due {
                self.due.insert(due, key.clone());
            }
            self.entries.insert(key.clone(), Entry { value, due });
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<bool, KeyValueError> {
        let was_there = self.get(key)?.is_some();
        self.take(key);
        Ok(was_there)
    }
}

impl Ordered for MemoryKeyValue {
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, KeyValueError> {
        self.map()?.get(key)
    }

    fn scan(
        &self,
        after: &[u8],
        before: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), KeyValueError> {
        let map = self.map()?;
        // A cursor beyond the bucket's end is an empty range, which `range` would panic at.
        if after < before {
            let range = (Bound::Excluded(after), Bound::Excluded(before));
            let now = Instant::now();
            let found = map.entries.range::<[u8], _>(range);
            found
                .filter(|(_, entry)| entry.is_there(now))
                .all(|(key, _)| visit(key));
        }
        Ok(())
    }

    fn write(&self, write: Write) -> BoxFuture<'_, Result<Written, KeyValueError>> {
        future::lazy(move |_| {
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            self.open()?;
            let mut effects = self.watchers.effects();
            let written = write.apply(&mut *map, &mut effects)?;
            // Before the next write can be done, so that they are told in their order.
            self.watchers.tell(effects);
            Ok(written)
        })
        .boxed()
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        future::ready(()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance;
    use crate::key_value::{Bucket, KeyValue};

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::key_value(|| Arc::new(MemoryKeyValue::default())).await;
        conformance::tells_its_buckets(&MemoryKeyValue::default()).await;
        conformance::tells_changes(|| Arc::new(MemoryKeyValue::default())).await;
    }

    #[tokio::test]
    async fn forgets_what_was_not_written_for_a_while() {
        let open = |ttl| MemoryKeyValue::default().forgetting(ttl);
        let (long, short) = (Duration::from_secs(3_600), Duration::from_secs(1));
        conformance::key_value(|| Arc::new(open(long))).await;
        conformance::forgets_values(&open(short), short).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_makes_room_and_what_is_overwritten_takes_none_twice() {
        let ttl = Duration::from_secs(60);
        let store = MemoryKeyValue::new(10_000).forgetting(ttl);
        let bucket = Bucket::shared("b");
        for round in 0..10 {
            for n in 0..20 {
                let key = format!("{round}-{n}");
                for _ in 0..5 {
                    store.set(&bucket, &key, vec![0; 100].into()).await.unwrap();
                }
            }
            tokio::time::advance(ttl).await;
        }
        let map = store.map().unwrap();
        assert_eq!(map.entries.len(), map.due.len());
    }

    #[tokio::test]
    async fn refuses_a_batch_that_does_not_fit_as_a_whole_and_counts_what_is_freed() {
        let store = MemoryKeyValue::new(1_000);
        let bucket = Bucket::shared("b");
        let value = Bytes::from(vec![0; 400]);
        let both = vec![("a".to_owned(), value.clone()), ("b".to_owned(), value.clone())];
        assert!(matches!(
            store.set_many(&bucket, both).await,
            Err(KeyValueError::Full { bytes_max: 1_000 })
        ));
        assert!(!store.exists(&bucket, "a").await.unwrap());
        for _ in 0..100 {
            store.set(&bucket, "a", value.clone()).await.unwrap();
            store.delete(&bucket, "a").await.unwrap();
            store.set(&bucket, "b", value.clone()).await.unwrap();
            store.delete(&bucket, "b").await.unwrap();
        }
    }
}
