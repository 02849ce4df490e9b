//! Who is told of changes of a store in this process.
//!
//! Owns their list. A backend notes what a write changes ([`Effects`]) and tells it when that is durable, in the order of
//! its writes. It must not know what a write is.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use crate::key_value::watch::{Watcher, changes};
use crate::key_value::{Bucket, Change, Changes, KeyValueError, Watch};

/// Watches of one store at once, at most: each change is compared with all.
pub const WATCHES_MAX: usize = 256;

/// Who watches a store. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Watchers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// How many there are, for who writes.
    len: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    next: u64,
    listeners: BTreeMap<u64, Listener>,
}

struct Listener {
    /// What the stored keys begin with: the bucket, and what its keys begin with.
    prefix: String,
    /// How much of it is the bucket.
    bucket_len: usize,
    group: String,
    watcher: Watcher,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({:?}, {})", self.prefix, self.group)
    }
}

/// What a write changes, if anybody wants to know.
#[derive(Debug, Default)]
pub struct Effects(Option<Vec<(Vec<u8>, Option<Bytes>)>>);

impl Effects {
    /// Notes the new value of a stored key; `None` if it was taken away.
    pub fn note(&mut self, key: &[u8], value: Option<&Bytes>) {
        if let Some(effects) = &mut self.0 {
            effects.push((key.to_vec(), value.cloned()));
        }
    }
}

/// Ends a watch when it is dropped.
struct Guard(Weak<Shared>, u64);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            let mut table = shared.lock();
            table.listeners.remove(&self.1);
            shared.len.store(table.listeners.len(), Ordering::Release);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchers {
    /// Begins to tell the changes of a bucket.
    ///
    /// # Errors
    /// The bucket can't be one, the store is closed, or there are [`WATCHES_MAX`] already.
    pub fn begin(&self, bucket: &Bucket, watch: &Watch) -> Result<Changes, KeyValueError> {
        let bucket = bucket.prefix()?;
        let mut table = self.0.lock();
        if table.closed {
            return Err(KeyValueError::Closed);
        }
        if table.listeners.len() >= WATCHES_MAX {
            let full = format!("it has {WATCHES_MAX} watches already");
            return Err(KeyValueError::Unavailable(full));
        }
        let (watcher, changes) = changes();
        let listener = Listener {
            prefix: format!("{bucket}{}", watch.prefix),
            bucket_len: bucket.len(),
            group: watch.group.clone(),
            watcher,
        };
        let id = table.next;
        table.next += 1;
        table.listeners.insert(id, listener);
        self.0.len.store(table.listeners.len(), Ordering::Release);
        Ok(changes.until(Guard(Arc::downgrade(&self.0), id)))
    }

    /// Where a write notes what it changes: nothing, if nobody watches.
    pub fn effects(&self) -> Effects {
        let is_watched = self.0.len.load(Ordering::Acquire) > 0;
        Effects(is_watched.then(Vec::new))
    }

    /// Tells what was changed, now that it is durable. What finds a queue full is lost there, and counted.
    pub fn tell(&self, effects: Effects) {
        let Some(effects) = effects.0.filter(|effects| !effects.is_empty()) else {
            return;
        };
        let table = self.0.lock();
        for (stored, value) in &effects {
            table.tell(stored, value.as_ref());
        }
    }

    /// Ends all watches, and refuses those that come.
    pub fn end(&self) {
        let mut table = self.0.lock();
        table.closed = true;
        table.listeners.clear();
        self.0.len.store(0, Ordering::Release);
    }
}

impl Table {
    fn tell(&self, stored: &[u8], value: Option<&Bytes>) {
        let mut groups: BTreeMap<(&str, &str), Vec<&Listener>> = BTreeMap::new();
        let heard = |listener: &&Listener| stored.starts_with(listener.prefix.as_bytes());
        for listener in self.listeners.values().filter(heard) {
            let group = (listener.group.as_str(), listener.prefix.as_str());
            groups.entry(group).or_default().push(listener);
        }
        for members in groups.into_values() {
            // All changes of a key go to the same one, so that they stay in order.
            let member = members[turn(stored) % members.len()];
            let Ok(key) = std::str::from_utf8(&stored[member.bucket_len..]) else {
                continue;
            };
            // A value may be a slice of a much larger message: what waits is its own.
            let value = value.map(|value| Bytes::copy_from_slice(value));
            member.watcher.offer(Change::once(key, value));
        }
    }
}

/// Which member of a group a key falls to, beyond how many there are.
fn turn(stored: &[u8]) -> usize {
    let mut hasher = DefaultHasher::new();
    stored.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_noted_of_a_store_that_nobody_watches() {
        let (watchers, bucket) = (Watchers::default(), Bucket::shared("b"));
        let mut effects = watchers.effects();
        effects.note(b"k", None);
        assert!(effects.0.is_none());
        let watched = watchers.begin(&bucket, &Watch::new("", "g")).unwrap();
        assert!(watchers.effects().0.is_some());
        drop(watched);
        assert!(watchers.effects().0.is_none() && watchers.0.lock().listeners.is_empty());
    }

    #[tokio::test]
    async fn watches_have_a_bound_and_what_does_not_fit_into_one_is_counted() {
        let (watchers, bucket) = (Watchers::default(), Bucket::shared("b"));
        let begin = || watchers.begin(&bucket, &Watch::new("", "g"));
        let all: Vec<_> = (1..WATCHES_MAX).map(|_| begin().unwrap()).collect();
        drop(all);
        let watched = begin().unwrap();
        let key = bucket.key("k").unwrap();
        let mut effects = watchers.effects();
        for _ in 0..=crate::key_value::watch::CHANGES_LEN_MAX {
            effects.note(&key, None);
        }
        watchers.tell(effects);
        assert_eq!(watched.dropped(), 1);
        let others: Vec<_> = (1..WATCHES_MAX).map(|_| begin().unwrap()).collect();
        assert!(matches!(begin(), Err(KeyValueError::Unavailable(_))));
        drop(others);
        watchers.end();
        assert!(matches!(begin(), Err(KeyValueError::Closed)));
    }
}
