//! A key-value backend as actors and other hosts get it: supervised, and able to move.
//!
//! Owns what stands between a caller and the backend: the circuit of [`Health`], and for a move to another backend
//! (weft_compose::moving) the notes of what is written, and the hold on writes. Who waits in a hold goes on with whatever
//! backend is there at its end, so that also a call that began before the switch writes to where the data is.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};
use tokio::time::timeout;
use weft_capabilities::{Bucket, KeyValue, KeyValueError, Page, Swap};

use super::health::Health;

/// The longest that a write waits in a hold: as long as a hold lasts at most, and less than a request has.
pub const HOLD_MAX: Duration = Duration::from_secs(10);
/// The longest that writes which run are waited for; those that come meanwhile wait as in a hold.
const ENDED_WAIT: Duration = Duration::from_secs(4);
/// Keys that are noted, at most: some tens of MB. With more, all is copied again.
const NOTES_MAX: usize = 200_000;

/// Keys that were written.
#[derive(Debug, Default)]
pub struct Notes {
    /// Which.
    pub keys: HashSet<(Bucket, String)>,
    /// There were too many to note.
    pub overflow: bool,
}

/// What stands before one backend, which may become another.
pub struct Gate {
    store: ArcSwap<Arc<dyn KeyValue>>,
    health: Arc<Health>,
    /// Held for reading by each write that runs.
    writes: Arc<RwLock<()>>,
    held: Mutex<Option<OwnedRwLockWriteGuard<()>>>,
    is_noting: AtomicBool,
    notes: Mutex<Notes>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// Before `store`.
    pub fn new(store: Arc<dyn KeyValue>, health: Arc<Health>) -> Arc<Self> {
        Arc::new(Self {
            store: ArcSwap::from_pointee(store),
            health,
            writes: Arc::default(),
            held: Mutex::default(),
            is_noting: AtomicBool::new(false),
            notes: Mutex::default(),
        })
    }

    /// The backend itself, for who copies it or looks whether it answers.
    pub fn store(&self) -> Arc<dyn KeyValue> {
        Arc::clone(&self.store.load())
    }

    /// Puts another backend in its place, and gives the old one: reads that run end on it.
    pub fn replace(&self, store: Arc<dyn KeyValue>) -> Arc<dyn KeyValue> {
        Arc::unwrap_or_clone(self.store.swap(Arc::new(store)))
    }

    /// Begins to note keys anew. Once it has returned, every write that was not noted has ended.
    ///
    /// `false` if those that run have not ended in time.
    pub async fn note(&self) -> bool {
        let _all_ended = match self.is_held() {
            true => None,
            false => match timeout(ENDED_WAIT, self.writes.write()).await {
                Ok(ended) => Some(ended),
                Err(_) => return false,
            },
        };
        *lock(&self.notes) = Notes::default();
        self.is_noting.store(true, Relaxed);
        true
    }

    /// Whether a move has anything to do with it.
    pub fn is_moving(&self) -> bool {
        self.is_noting.load(Relaxed) || self.is_held()
    }

    /// What was noted, which is forgotten.
    pub fn take_notes(&self) -> Notes {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// Puts back what could not be copied.
    pub fn give_back(&self, back: Notes) {
        let mut notes = lock(&self.notes);
        notes.keys.extend(back.keys);
        notes.overflow |= back.overflow;
    }

    /// Has writes wait from now on, and returns when those that run have ended; `false` if they have not in time,
    /// and then none waits.
    pub async fn hold(&self) -> bool {
        if lock(&self.held).is_some() {
            return true;
        }
        let Ok(held) = timeout(ENDED_WAIT, self.writes.clone().write_owned()).await else {
            return false;
        };
        *lock(&self.held) = Some(held);
        true
    }

    /// Whether writes wait.
    pub fn is_held(&self) -> bool {
        lock(&self.held).is_some()
    }

    /// Has writes go on, and be noted as before.
    pub fn release(&self) {
        lock(&self.held).take();
    }

    /// Has writes go on, and notes none any more.
    pub fn end(&self) {
        self.is_noting.store(false, Relaxed);
        self.take_notes();
        self.release();
    }

    /// The backend for a read.
    fn reading(&self) -> Result<Arc<dyn KeyValue>, KeyValueError> {
        match self.health.refusal() {
            None => Ok(self.store()),
            Some(reason) => Err(KeyValueError::Unavailable(reason)),
        }
    }

    /// The backend for a write of `keys`, which runs for as long as what comes with it is there.
    async fn writing<'k>(
        &self,
        bucket: &Bucket,
        keys: impl Iterator<Item = &'k str>,
    ) -> Result<(Running<'_>, Arc<dyn KeyValue>), KeyValueError> {
        self.reading()?;
        let running = self.enter().await?;
        let noted = self.is_noting.load(Relaxed).then(|| {
            let keys: Vec<_> = keys.map(str::to_owned).collect();
            self.take_note(bucket, &keys);
            (bucket.clone(), keys)
        });
        let running = Running {
            gate: self,
            noted,
            _running: running,
        };
        // Not the one from before a hold.
        Ok((running, self.store()))
    }

    fn told<T>(&self, result: Result<T, KeyValueError>) -> Result<T, KeyValueError> {
        self.health.note(&result);
        result
    }

    async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, KeyValueError> {
        if let Ok(running) = self.writes.try_read() {
            return Ok(running);
        }
        timeout(HOLD_MAX, self.writes.read()).await.map_err(|_| {
            let why = "its data is being moved, which takes longer than a write waits; nothing was written";
            KeyValueError::Unavailable(why.to_owned())
        })
    }

    fn take_note(&self, bucket: &Bucket, keys: &[String]) {
        let mut notes = lock(&self.notes);
        for key in keys {
            if notes.keys.len() < NOTES_MAX {
                notes.keys.insert((bucket.clone(), key.clone()));
            } else {
                notes.overflow = true;
            }
        }
    }
}

/// A write that runs. Its keys are noted when it begins, and again when it has ended, before it is acknowledged: who took
/// the notes meanwhile may have copied what was there before it.
struct Running<'g> {
    gate: &'g Gate,
    noted: Option<(Bucket, Vec<String>)>,
    _running: RwLockReadGuard<'g, ()>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some((bucket, keys)) = &self.noted
            && self.gate.is_noting.load(Relaxed)
        {
            self.gate.take_note(bucket, keys);
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("health", &self.health)
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}

/// The backend behind a [`Gate`].
pub struct Guarded(pub Arc<Gate>);

type Answer<'a, T> = BoxFuture<'a, Result<T, KeyValueError>>;

impl KeyValue for Guarded {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Answer<'a, Option<Bytes>> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.get(bucket, key).await)
        }
        .boxed()
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Bytes) -> Answer<'a, ()> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0.told(store.set(bucket, key, value).await)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Answer<'a, ()> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0.told(store.delete(bucket, key).await)
        }
        .boxed()
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Answer<'a, bool> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.exists(bucket, key).await)
        }
        .boxed()
    }

    fn list_keys<'a>(
        &'a self,
        bucket: &'a Bucket,
        cursor: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Page> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.list_keys(bucket, cursor, limit).await)
        }
        .boxed()
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> Answer<'a, i64> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0.told(store.increment(bucket, key, delta).await)
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> Answer<'a, Swap> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0
                .told(store.compare_and_swap(bucket, key, expected, new).await)
        }
        .boxed()
    }

    fn get_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> Answer<'a, Vec<Option<Bytes>>> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.get_many(bucket, keys).await)
        }
        .boxed()
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, entries: Vec<(String, Bytes)>) -> Answer<'a, ()> {
        async move {
            let keys = entries.iter().map(|(key, _)| key.as_str());
            let (_running, store) = self.0.writing(bucket, keys).await?;
            self.0.told(store.set_many(bucket, entries).await)
        }
        .boxed()
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> Answer<'a, ()> {
        async move {
            let noted = keys.iter().map(String::as_str);
            let (_running, store) = self.0.writing(bucket, noted).await?;
            self.0.told(store.delete_many(bucket, keys).await)
        }
        .boxed()
    }

    fn buckets<'a>(&'a self, scope: Option<(&'a str, &'a str)>) -> Answer<'a, Vec<Bucket>> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.buckets(scope).await)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move { self.0.store().close().await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use weft_capabilities::{MemoryKeyValue, conformance};

    use super::*;

    fn gate(store: Arc<dyn KeyValue>) -> Arc<Gate> {
        Gate::new(store, Health::new("default/shop/carts".parse().unwrap()))
    }

    fn memory() -> Arc<dyn KeyValue> {
        Arc::new(MemoryKeyValue::default())
    }

    #[tokio::test]
    async fn a_write_that_runs_while_notes_are_taken_is_noted_again_when_it_has_ended() {
        let gate = gate(memory());
        let bucket = Bucket::scoped("default", "shop", "carts");
        let has_it = || gate.take_notes().keys.contains(&(bucket.clone(), "k".to_owned()));
        assert!(gate.note().await);
        let (running, _) = gate.writing(&bucket, ["k"].into_iter()).await.unwrap();
        assert!(has_it() && !has_it());
        drop(running);
        assert!(has_it());
        // And not when nobody notes any more.
        let (running, _) = gate.writing(&bucket, ["k"].into_iter()).await.unwrap();
        gate.end();
        drop(running);
        assert!(!has_it());
    }

    #[tokio::test]
    async fn behind_its_gate_a_backend_keeps_the_contract() {
        conformance::key_value(|| Arc::new(Guarded(gate(memory())))).await;
        conformance::tells_its_buckets(&Guarded(gate(memory()))).await;
    }

    #[tokio::test]
    async fn while_keys_are_noted_and_written_also_a_batch_none_is_missed() {
        let gate = gate(memory());
        let (store, bucket) = (Guarded(gate.clone()), Bucket::shared("b"));
        store.set(&bucket, "before", "1".into()).await.unwrap();
        assert!(gate.note().await);
        store.set(&bucket, "a", "1".into()).await.unwrap();
        store.delete(&bucket, "b").await.unwrap();
        store.increment(&bucket, "c", 1).await.unwrap();
        store
            .compare_and_swap(&bucket, "d", None, "1".into())
            .await
            .unwrap();
        store
            .set_many(&bucket, vec![("e".to_owned(), "1".into())])
            .await
            .unwrap();
        store.delete_many(&bucket, &["f".to_owned()]).await.unwrap();
        store.get(&bucket, "read").await.unwrap();
        let mut noted: Vec<_> = gate.take_notes().keys.into_iter().map(|(_, key)| key).collect();
        noted.sort();
        assert_eq!(noted, ["a", "b", "c", "d", "e", "f"]);
        gate.end();
        store.set(&bucket, "after", "1".into()).await.unwrap();
        assert!(gate.take_notes().keys.is_empty());
    }

    #[tokio::test]
    async fn a_write_that_waits_in_a_hold_goes_to_the_backend_that_is_there_at_its_end() {
        let (old, new) = (memory(), memory());
        let gate = gate(old.clone());
        let (store, bucket) = (Guarded(gate.clone()), Bucket::shared("b"));
        assert!(gate.hold().await);
        assert!(gate.hold().await, "it may be told twice");
        let write = store.set(&bucket, "k", "v".into());
        tokio::pin!(write);
        assert!(futures::poll!(&mut write).is_pending());
        assert_eq!(store.get(&bucket, "k").await.unwrap(), None, "reads don't wait");
        gate.replace(new.clone());
        assert!(futures::poll!(&mut write).is_pending());
        gate.release();
        write.await.unwrap();
        assert!(!old.exists(&bucket, "k").await.unwrap());
        assert!(new.exists(&bucket, "k").await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_does_not_end_fails_writes_in_time_and_loses_none() {
        let gate = gate(memory());
        let (store, bucket) = (Guarded(gate.clone()), Bucket::shared("b"));
        assert!(gate.hold().await);
        let refused = store.set(&bucket, "k", "v".into()).await.unwrap_err();
        assert!(
            matches!(&refused, KeyValueError::Unavailable(why) if why.contains("moved")),
            "{refused}"
        );
        gate.end();
        assert_eq!(store.get(&bucket, "k").await.unwrap(), None);
        store.set(&bucket, "k", "v".into()).await.unwrap();
    }
}
