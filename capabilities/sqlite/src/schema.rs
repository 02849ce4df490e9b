//! Which schema the readers' prepared statements were made for.
//!
//! SQLite prepares a statement again when the schema has changed, on whatever stack it runs on. That must be ours, so a
//! change is committed only while no read runs on a caller's thread, and each change has a number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, TryLockError};

/// The number of the schema that is committed.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// Held to write while a change is committed.
    changing: RwLock<()>,
    number: AtomicU64,
}

impl Schema {
    /// Keeps the number as it is for as long as the guard lives. `None` if a change is on its way.
    pub(crate) fn try_hold(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.changing.try_read() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The number now. While a change is on its way it is the old one.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Runs what commits a change, with a number of its own whether it succeeds or not.
    pub(crate) fn change<T>(&self, commit: impl FnOnce() -> T) -> T {
        let _changing = self.changing.write().unwrap_or_else(PoisonError::into_inner);
        let done = commit();
        self.number.fetch_add(1, Ordering::AcqRel);
        done
    }
}
