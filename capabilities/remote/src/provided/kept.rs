//! What a provider keeps for its callers: open transactions, objects that are read or written, watches, and what comes or
//! goes in parts.
//!
//! Owns the bounds on all, and when each is let go of: when it is used up, its owner has gone, or nothing was done with
//! it for a while. An id is random, and only its owner gets at what it names.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_capabilities::{BlobWriter, Changes, SqlTransaction};
use weft_lattice::subject::Address;

use super::blob_store::Reading;
use crate::PARTS_LEN_MAX;
use crate::shape::PartsError;

/// All that is kept at once: more than a backend has connections.
const KEPT_MAX: usize = 1_024;

/// Objects that are read or written at once; each may hold a megabyte, and a file.
const OBJECTS_MAX: usize = 128;

/// Bytes of all that is kept in parts: three of the longest.
const KEPT_BYTES_MAX: usize = 3 * PARTS_LEN_MAX;

pub(super) type Id = [u8; 16];

/// Whose something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) from: Option<Address>,
    pub(super) caller: String,
}

pub(super) enum What {
    /// None while a statement runs in it.
    Transaction(Option<Box<dyn SqlTransaction>>),
    /// None while a chunk is read.
    Reading(Option<Reading>),
    /// None while a chunk is written.
    Writing(Option<Writing>),
    /// None while changes are waited for.
    Watching(Option<Changes>),
    /// Arguments that come, and how long they will be.
    Incoming(BytesMut, usize),
    /// Results that are fetched.
    Outgoing(Bytes),
}

/// An object that is written, and how many bytes came.
pub(super) struct Writing {
    pub(super) writer: Box<dyn BlobWriter>,
    pub(super) written: u64,
}

/// What one call at a time has, and its place while no call does.
pub(super) trait Lent: Sized {
    fn place(what: &mut What) -> Option<&mut Option<Self>>;
}

macro_rules! lent {
    ($($ty:ty: $case:ident),*) => {
        $(impl Lent for $ty {
            fn place(what: &mut What) -> Option<&mut Option<Self>> {
                match what {
                    What::$case(place) => Some(place),
                    _ => None,
                }
            }
        })*
    };
}

lent!(Box<dyn SqlTransaction>: Transaction, Reading: Reading, Writing: Writing, Changes: Watching);

#[derive(Default)]
pub(super) struct Kept {
    table: Mutex<Table>,
    emptied: Notify,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Id, Entry>,
    reserved: usize,
    expired: u64,
}

struct Entry {
    owner: Owner,
    touched: Instant,
    what: What,
}

#[derive(Default)]
pub(super) struct KeptStats {
    pub(super) transactions: u64,
    pub(super) objects: u64,
    pub(super) reserved: u64,
    pub(super) expired: u64,
}

/// Why what is kept can't be had.
pub(super) enum NotTaken {
    Gone,
    Busy,
}

/// What a call has. Dropped before [`Taken::give_back`], it ends.
pub(super) struct Taken<'k, T: Lent> {
    pub(super) lent: Option<T>,
    kept: &'k Kept,
    id: Id,
    given_back: bool,
}

impl What {
    fn reserves(&self) -> usize {
        match self {
            Self::Transaction(_) | Self::Reading(_) | Self::Writing(_) | Self::Watching(_) => 0,
            Self::Incoming(_, len) => *len,
            Self::Outgoing(bytes) => bytes.len(),
        }
    }

    fn is_lent(&self) -> bool {
        matches!(
            self,
            Self::Transaction(None) | Self::Reading(None) | Self::Writing(None) | Self::Watching(None)
        )
    }

    fn is_object(&self) -> bool {
        matches!(self, Self::Reading(_) | Self::Writing(_))
    }
}

impl Table {
    /// What `id` names, if it is `owner`'s.
    fn of(&mut self, id: &[u8], owner: &Owner) -> Option<&mut Entry> {
        let id: &Id = id.try_into().ok()?;
        let entry = self.entries.get_mut(id).filter(|entry| entry.owner == *owner)?;
        entry.touched = Instant::now();
        Some(entry)
    }

    fn objects(&self) -> usize {
        let entries = self.entries.values();
        entries.filter(|entry| entry.what.is_object()).count()
    }

    fn remove(&mut self, id: &Id) -> Option<What> {
        let what = self.entries.remove(id)?.what;
        self.reserved -= what.reserves();
        Some(what)
    }

    /// What is dropped by the caller, outside the lock: a rollback may take a moment.
    fn remove_if(&mut self, mut goes: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let gone: Vec<Entry> = self
            .entries
            .extract_if(|_, entry| goes(entry))
            .map(|(_, entry)| entry)
            .collect();
        self.reserved -= gone.iter().map(|entry| entry.what.reserves()).sum::<usize>();
        gone
    }
}

impl Kept {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `what` under a new id, if there is room.
    pub(super) fn keep(&self, owner: &Owner, what: What) -> Option<Id> {
        let id = rand::random();
        self.keep_as(id, owner, what).then_some(id)
    }

    /// Keeps `what` under the id that its owner chose; whether there is room, and the id is new.
    pub(super) fn keep_as(&self, id: Id, owner: &Owner, what: What) -> bool {
        let mut table = self.table();
        let reserved = table.reserved.saturating_add(what.reserves());
        let is_full = table.entries.len() >= KEPT_MAX
            || reserved > KEPT_BYTES_MAX
            || what.is_object() && table.objects() >= OBJECTS_MAX;
        if is_full || table.entries.contains_key(&id) {
            return false;
        }
        let entry = Entry {
            owner: owner.clone(),
            touched: Instant::now(),
            what,
        };
        table.reserved = reserved;
        table.entries.insert(id, entry);
        true
    }

    /// What `id` names, for one call.
    pub(super) fn take<T: Lent>(&self, id: &[u8], owner: &Owner) -> Result<Taken<'_, T>, NotTaken> {
        let mut table = self.table();
        let place = table.of(id, owner).and_then(|entry| T::place(&mut entry.what));
        Ok(Taken {
            lent: Some(place.ok_or(NotTaken::Gone)?.take().ok_or(NotTaken::Busy)?),
            kept: self,
            id: id.try_into().map_err(|_| NotTaken::Gone)?,
            given_back: false,
        })
    }

    /// Takes `id` away, whatever it is, also if a statement runs in it, which then ends with it.
    pub(super) fn take_away(&self, id: &[u8], owner: &Owner) -> Option<What> {
        let mut table = self.table();
        table.of(id, owner)?;
        let what = table.remove(id.try_into().ok()?);
        drop(table);
        self.tell_if_empty();
        what
    }

    /// Adds a part to what comes.
    pub(super) fn write(&self, id: &[u8], owner: &Owner, at: u64, part: &[u8]) -> Result<(), PartsError> {
        let mut table = self.table();
        let Some(What::Incoming(bytes, len)) = table.of(id, owner).map(|entry| &mut entry.what) else {
            return Err(PartsError::Unknown);
        };
        if at != bytes.len() as u64 || part.len() > *len - bytes.len() {
            return Err(PartsError::Misplaced);
        }
        bytes.extend_from_slice(part);
        Ok(())
    }

    /// What came, if it is whole.
    pub(super) fn take_incoming(&self, id: &[u8], owner: &Owner) -> Result<Bytes, PartsError> {
        let mut table = self.table();
        match table.of(id, owner).map(|entry| &entry.what) {
            Some(What::Incoming(bytes, len)) if bytes.len() == *len => {}
            Some(What::Incoming(..)) => return Err(PartsError::Misplaced),
            _ => return Err(PartsError::Unknown),
        }
        let whole = id.try_into().ok().and_then(|id| table.remove(id));
        let Some(What::Incoming(bytes, _)) = whole else {
            return Err(PartsError::Unknown);
        };
        Ok(bytes.freeze())
    }

    /// At most `len` bytes of what is fetched; with its last it is gone.
    pub(super) fn read(&self, id: &[u8], owner: &Owner, at: u64, len: usize) -> Result<Bytes, PartsError> {
        let mut table = self.table();
        let Some(What::Outgoing(bytes)) = table.of(id, owner).map(|entry| &entry.what) else {
            return Err(PartsError::Unknown);
        };
        let at = usize::try_from(at)
            .ok()
            .filter(|at| *at < bytes.len())
            .ok_or(PartsError::Misplaced)?;
        let end = at.saturating_add(len).min(bytes.len());
        let (part, is_last) = (bytes.slice(at..end), end == bytes.len());
        if is_last && let Ok(id) = id.try_into() {
            table.remove(id);
        }
        drop(table);
        self.tell_if_empty();
        Ok(part)
    }

    pub(super) fn let_go_of_idle(&self, now: Instant, idle_max: Duration) {
        let mut table = self.table();
        let is_idle =
            |entry: &Entry| !entry.what.is_lent() && now.saturating_duration_since(entry.touched) >= idle_max;
        let gone = table.remove_if(is_idle);
        table.expired += gone.len() as u64;
        drop(table);
        drop(gone);
        self.tell_if_empty();
    }

    pub(super) fn let_go_of(&self, whose: impl Fn(&Owner) -> bool) {
        let gone = self.table().remove_if(|entry| whose(&entry.owner));
        drop(gone);
        self.tell_if_empty();
    }

    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.table().entries.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    pub(super) fn stats(&self) -> KeptStats {
        let table = self.table();
        let is_transaction = |entry: &&Entry| matches!(entry.what, What::Transaction(_));
        KeptStats {
            transactions: table.entries.values().filter(is_transaction).count() as u64,
            objects: table.objects() as u64,
            reserved: table.reserved as u64,
            expired: table.expired,
        }
    }

    fn tell_if_empty(&self) {
        if self.table().entries.is_empty() {
            self.emptied.notify_waiters();
        }
    }
}

impl<T: Lent> Taken<'_, T> {
    /// The call has ended: what it had waits for the next, if its owner did not end it meanwhile.
    pub(super) fn give_back(mut self) {
        let mut table = self.kept.table();
        if let Some(entry) = table.entries.get_mut(&self.id) {
            entry.touched = Instant::now();
            if let Some(place) = T::place(&mut entry.what) {
                *place = self.lent.take();
            }
        }
        self.given_back = true;
    }

    /// What it has, for its end.
    pub(super) fn into_inner(mut self) -> Option<T> {
        self.lent.take()
    }
}

impl<T: Lent> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        self.kept.table().remove(&self.id);
        self.kept.tell_if_empty();
    }
}
