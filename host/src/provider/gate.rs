//! What stands before a backend that can move to another: the circuit of [`Health`], the hold, and the notes.
//!
//! Owns, for a move to another backend (weft_compose::moving), the notes of what is written, and the hold on writes. Who
//! waits in a hold goes on with whatever backend is there at its end, so that also a call that began before the switch writes
//! to where the data is. It must not know what a backend does: [`super::key_value`], [`super::sql`] and
//! [`super::blob_store`] do.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};
use tokio::time::timeout;

use super::health::{Health, Judged};

/// The longest that a write waits in a hold: as long as a hold lasts at most, and less than a request has.
pub const HOLD_MAX: Duration = Duration::from_secs(10);
/// The longest that writes which run are waited for; those that come meanwhile wait as in a hold.
const ENDED_WAIT: Duration = Duration::from_secs(4);
/// What is noted, at most: some tens of MB. With more, all is copied again.
const NOTES_MAX: usize = 200_000;
/// What is told to who waited in a hold for too long.
pub const HELD: &str = "its data is being moved, which takes longer than a write waits; nothing was written";

/// What was written.
#[derive(Debug)]
pub struct Notes<K> {
    /// Which.
    pub keys: HashSet<K>,
    /// There were too many to note.
    pub overflow: bool,
}

impl<K> Default for Notes<K> {
    fn default() -> Self {
        Self {
            keys: HashSet::new(),
            overflow: false,
        }
    }
}

/// It waited in a hold for as long as it may.
#[derive(Debug)]
pub struct HeldTooLong;

/// What stands before one backend, which may become another. `K` is what is noted of a write.
pub struct Gate<S: ?Sized, K> {
    store: ArcSwap<Arc<S>>,
    pub(super) health: Arc<Health>,
    /// Held for reading by each write that runs.
    writes: Arc<RwLock<()>>,
    held: Mutex<Option<OwnedRwLockWriteGuard<()>>>,
    is_noting: AtomicBool,
    notes: Mutex<Notes<K>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: ?Sized, K: Eq + Hash> Gate<S, K> {
    /// Before `store`.
    pub fn new(store: Arc<S>, health: Arc<Health>) -> Arc<Self> {
        Arc::new(Self {
            store: ArcSwap::from_pointee(store),
            health,
            writes: Arc::default(),
            held: Mutex::default(),
            is_noting: AtomicBool::new(false),
            notes: Mutex::new(Notes::default()),
        })
    }

    /// The backend itself, for who copies it or looks whether it answers.
    pub fn store(&self) -> Arc<S> {
        Arc::clone(&self.store.load())
    }

    /// Puts another backend in its place, and gives the old one: reads that run end on it.
    pub fn replace(&self, store: Arc<S>) -> Arc<S> {
        Arc::unwrap_or_clone(self.store.swap(Arc::new(store)))
    }

    /// Begins to note anew. Once it has returned, every write that was not noted has ended.
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
    pub fn take_notes(&self) -> Notes<K> {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// Puts back what could not be copied.
    pub fn give_back(&self, back: Notes<K>) {
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

    /// The result of an operation, by which the backend is judged.
    pub(super) fn told<T, E: Judged>(&self, result: Result<T, E>) -> Result<T, E> {
        self.health.note(&result);
        result
    }

    /// Begins a write, which runs for as long as what is given is there.
    pub(super) async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, HeldTooLong> {
        if let Ok(running) = self.writes.try_read() {
            return Ok(running);
        }
        timeout(HOLD_MAX, self.writes.read())
            .await
            .map_err(|_| HeldTooLong)
    }

    /// The same, for what outlives a call.
    pub(super) async fn enter_for_long(&self) -> Result<OwnedRwLockReadGuard<()>, HeldTooLong> {
        timeout(HOLD_MAX, self.writes.clone().read_owned())
            .await
            .map_err(|_| HeldTooLong)
    }

    /// Whether writes are noted.
    pub(super) fn is_noting(&self) -> bool {
        self.is_noting.load(Relaxed)
    }

    /// Notes what is written.
    pub(super) fn take_note(&self, keys: impl Iterator<Item = K>) {
        let mut notes = lock(&self.notes);
        for key in keys {
            if notes.keys.len() < NOTES_MAX {
                notes.keys.insert(key);
            } else {
                notes.overflow = true;
            }
        }
    }
}

impl<S: ?Sized, K: Eq + Hash + Clone> Gate<S, K> {
    /// Begins a write of what `noted` names.
    pub(super) async fn write(
        &self,
        noted: impl FnOnce() -> Vec<K>,
    ) -> Result<Running<'_, S, K>, HeldTooLong> {
        let running = self.enter().await?;
        let noted = if self.is_noting() { noted() } else { Vec::new() };
        self.take_note(noted.iter().cloned());
        Ok(Running {
            gate: self,
            noted,
            _running: running,
        })
    }
}

/// A write that runs. What it writes is noted when it begins, and again when it has ended, before it is acknowledged: who
/// took the notes meanwhile may have copied what was there before it.
pub(super) struct Running<'g, S: ?Sized, K: Eq + Hash> {
    gate: &'g Gate<S, K>,
    noted: Vec<K>,
    _running: RwLockReadGuard<'g, ()>,
}

impl<S: ?Sized, K: Eq + Hash> Drop for Running<'_, S, K> {
    fn drop(&mut self) {
        if !self.noted.is_empty() && self.gate.is_noting() {
            self.gate.take_note(std::mem::take(&mut self.noted).into_iter());
        }
    }
}

impl<S: ?Sized, K: Eq + Hash> fmt::Debug for Gate<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("health", &self.health)
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}
