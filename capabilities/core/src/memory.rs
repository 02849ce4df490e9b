//! Key-value in this process's memory, and a blob store in `memory/`: for tests, caches, and what may be lost with the
//! process.

mod blob_store;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};

use crate::key_value::KeyValueError;
use crate::ordered::{Ordered, Table, Watchers, Write, Written};

pub use blob_store::MemoryBlobStore;

/// Bytes that a store holds unless it is told otherwise: a part of a small machine, and room for tests.
pub const BYTES_MAX_DEFAULT: usize = 256 << 20;
/// What an entry costs beside its key and value: the map's slots and both heads.
const ENTRY_OVERHEAD: usize = 96;

/// Key-value in memory. Gone when it is dropped.
#[derive(Debug)]
pub struct MemoryKeyValue {
    map: RwLock<Map>,
    closed: AtomicBool,
    watchers: Watchers,
}

#[derive(Debug)]
struct Map {
    entries: BTreeMap<Vec<u8>, Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl MemoryKeyValue {
    /// An empty store that holds at most `bytes_max` bytes of keys, values and what the map adds.
    pub fn new(bytes_max: usize) -> Self {
        let map = Map {
            entries: BTreeMap::new(),
            bytes: 0,
            bytes_max,
        };
        Self {
            map: RwLock::new(map),
            closed: AtomicBool::new(false),
            watchers: Watchers::default(),
        }
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

fn cost(key: &[u8], value: &Bytes) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD
}

impl Table for Map {
    type Error = KeyValueError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KeyValueError> {
        Ok(self.entries.get(key).cloned())
    }

    fn set(&mut self, entries: &[(Vec<u8>, Bytes)]) -> Result<(), KeyValueError> {
        let freed = |key: &Vec<u8>| self.entries.get(key).map_or(0, |old| cost(key, old));
        // Counts a key that comes twice as two, which refuses a little early and never late.
        let (more, less) = entries.iter().fold((0, 0), |(more, less), (key, value)| {
            (more + cost(key, value), less + freed(key))
        });
        if more > less && self.bytes + (more - less) > self.bytes_max {
            return Err(KeyValueError::Full {
                bytes_max: self.bytes_max,
            });
        }
        for (key, value) in entries {
            self.bytes += cost(key, value);
            // A value may be a slice of a much larger message: what is kept is its own.
            let value = Bytes::copy_from_slice(value);
            if let Some(old) = self.entries.insert(key.clone(), value) {
                self.bytes -= cost(key, &old);
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<bool, KeyValueError> {
        let old = self.entries.remove(key);
        if let Some(old) = &old {
            self.bytes -= cost(key, old);
        }
        Ok(old.is_some())
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
            map.entries.range::<[u8], _>(range).all(|(key, _)| visit(key));
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
