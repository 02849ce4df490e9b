//! A copy of another host's control store, in memory.
//!
//! Owns the copy: it is read like the store itself, at the same indices, and goes on being read when the other host is
//! away. It takes no change of its own: those go to the host that has the store. [`follow`] keeps it up to date.

mod follow;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::sync::watch;

pub use self::follow::{FOLLOW_WAIT, answer, follow};
use super::history::History;
use super::{CommitError, ControlStore, Entry, Event, Index, RANGE_LEN_MAX, ReadError, Transaction, Watch};
use crate::envelope::{EnvelopeError, Records, RecordsReply};

/// A copy. Clones are the same.
#[derive(Clone)]
pub struct Replica(Arc<Inner>);

struct Inner {
    copy: RwLock<Copy>,
    history: Arc<History>,
    moving: watch::Sender<Index>,
}

#[derive(Default)]
struct Copy {
    /// Of which store; none before anything was copied.
    store: Option<String>,
    entries: BTreeMap<String, Entry>,
    /// As the store counts.
    index: Index,
    /// How often another store, or an older state of the same, took the place of what was there.
    generation: u64,
}

/// The bits of an index that are the store's own; above them is the generation, so that who watches never takes one
/// store's moment for another's. A store gets there with a commit a microsecond in nine years.
const INDEX_BITS: u32 = 48;

impl Copy {
    /// The index as this copy's readers see it: the store's own, in all but the rare copy that had another before.
    fn moment(&self, index: Index) -> Index {
        Index(self.generation << INDEX_BITS | index.0)
    }
}

impl Default for Replica {
    fn default() -> Self {
        Self::of(Copy::default())
    }
}

impl Replica {
    fn of(copy: Copy) -> Self {
        let index = copy.moment(copy.index);
        Self(Arc::new(Inner {
            copy: RwLock::new(copy),
            history: Arc::new(History::new(index)),
            moving: watch::channel(index).0,
        }))
    }

    /// The copy that [`Replica::to_bytes`] wrote.
    ///
    /// # Errors
    /// They are something else.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let mut copy = Copy::default();
        let mut rest = bytes.clone();
        while rest.len() > 4 {
            let len = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if rest.len() < 4 + len {
                return Err(EnvelopeError::Malformed);
            }
            let page = RecordsReply::decode(&rest.slice(4..4 + len))?;
            rest = rest.slice(4 + len..);
            let Records::Page { at, entries, .. } = page.records else {
                return Err(EnvelopeError::Malformed);
            };
            (copy.store, copy.index) = (Some(page.store), at);
            copy.entries
                .extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
        }
        match (rest.is_empty(), &copy.store) {
            (true, Some(_)) => Ok(Self::of(copy)),
            _ => Err(EnvelopeError::Malformed),
        }
    }

    /// The copy, to be kept on disk for a start without the other host. Pages, each after its length in four bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let copy = self.read();
        let entries: Vec<Entry> = copy.entries.values().cloned().collect();
        let mut bytes = Vec::new();
        let mut pages = entries.chunks(RANGE_LEN_MAX).peekable();
        let mut first = true;
        while first || pages.peek().is_some() {
            first = false;
            let page = RecordsReply {
                store: copy.store.clone().unwrap_or_default(),
                records: Records::Page {
                    at: copy.index,
                    entries: pages.next().unwrap_or_default().to_vec(),
                    more: pages.peek().is_some(),
                },
            };
            let page = page.encode();
            // A page of the longest values is 64 MiB.
            bytes.extend(u32::try_from(page.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(page);
        }
        bytes
    }

    /// The store that it is a copy of, if it is one yet.
    pub fn store(&self) -> Option<String> {
        self.read().store.clone()
    }

    /// The moment that it is a copy of, as the store counts.
    pub fn index(&self) -> Index {
        self.read().index
    }

    /// Takes all entries of the moment `index` in place of those that are there. Who watches reads everything anew.
    fn replace(&self, store: &str, entries: BTreeMap<String, Entry>, index: Index) {
        let moment = {
            let mut copy = self.0.copy.write().unwrap_or_else(PoisonError::into_inner);
            let goes_on = match &copy.store {
                None => true,
                Some(old) => old == store && index > copy.index,
            };
            *copy = Copy {
                store: Some(store.to_owned()),
                entries,
                index,
                generation: copy.generation + u64::from(!goes_on),
            };
            let moment = copy.moment(index);
            self.0.history.reset(moment);
            moment
        };
        self.0.moving.send_replace(moment);
    }

    /// Takes changes that come right after the moment that is there; whether they do.
    fn apply(&self, events: &[Arc<Event>]) -> bool {
        let moment = {
            let mut copy = self.0.copy.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                if event.index.0 != copy.index.0 + 1 {
                    return false;
                }
                for change in &event.changes {
                    match &change.value {
                        Some(value) => {
                            let entry = Entry {
                                key: change.key.clone(),
                                value: value.clone(),
                                modified: event.index,
                            };
                            copy.entries.insert(change.key.clone(), entry);
                        }
                        None => drop(copy.entries.remove(&change.key)),
                    }
                }
                copy.index = event.index;
                let index = copy.moment(event.index);
                self.0.history.push(Event {
                    index,
                    ..Event::clone(event)
                });
            }
            copy.moment(copy.index)
        };
        self.0.moving.send_replace(moment);
        true
    }

    fn read(&self) -> RwLockReadGuard<'_, Copy> {
        self.0.copy.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlStore for Replica {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, ReadError>> {
        future::ready(Ok(self.read().entries.get(key).cloned())).boxed()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<(Vec<Entry>, Index), ReadError>> {
        let copy = self.read();
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let found = copy
            .entries
            .range::<str, _>((begin, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit.min(RANGE_LEN_MAX))
            .map(|(_, entry)| entry.clone());
        future::ready(Ok((found.collect(), copy.moment(copy.index)))).boxed()
    }

    fn commit(&self, _: Transaction) -> BoxFuture<'_, Result<Index, CommitError>> {
        let reason = "this host has a copy of it only, and changes are made by the controller".to_owned();
        future::ready(Err(CommitError::Unavailable(reason))).boxed()
    }

    fn watch(&self, from: Index) -> Result<Watch, ReadError> {
        Ok(Watch::new(
            self.0.history.clone(),
            self.0.moving.subscribe(),
            from,
        ))
    }
}
