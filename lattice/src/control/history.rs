//! The last events of a control store, and those who watch them.
//!
//! Owns one bounded list that all watchers read from at their own pace: a slow one costs nothing, and one that is too
//! slow is told to read the store anew. Must not know where events come from.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Event, Index};

/// Events that are kept: what a watcher may be behind. At a hundred commits a second it is a minute and a half.
const EVENTS_MAX: usize = 10_000;

/// Bytes of keys and values in the events that are kept, so that large values don't fill the memory of an idle host.
const BYTES_MAX: usize = 4 << 20;

/// The last events. Written by the store's writer alone.
pub(super) struct History {
    kept: Mutex<Kept>,
}

struct Kept {
    /// Without gaps: each has the index after the one before it.
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    last: Index,
}

impl History {
    /// No events, of a store that is at `index`.
    pub(super) fn new(index: Index) -> Self {
        let kept = Kept {
            events: VecDeque::new(),
            bytes: 0,
            last: index,
        };
        Self {
            kept: Mutex::new(kept),
        }
    }

    /// Adds the event of the next index.
    pub(super) fn push(&self, event: Event) {
        let mut kept = self.lock();
        debug_assert_eq!(event.index.0, kept.last.0 + 1, "events have no gaps");
        kept.last = event.index;
        kept.bytes += bytes_of(&event);
        kept.events.push_back(Arc::new(event));
        while kept.events.len() > EVENTS_MAX || (kept.bytes > BYTES_MAX && kept.events.len() > 1) {
            if let Some(oldest) = kept.events.pop_front() {
                kept.bytes -= bytes_of(&oldest);
            }
        }
    }

    /// Forgets all events, as the store is at `index` by another way: who watches is told to read it anew.
    pub(super) fn reset(&self, index: Index) {
        *self.lock() = Kept {
            events: VecDeque::new(),
            bytes: 0,
            last: index,
        };
    }

    /// The event after `index`, or `None` if there is none yet.
    fn after(&self, index: Index) -> Result<Option<Arc<Event>>, WatchError> {
        let kept = self.lock();
        if index == kept.last {
            return Ok(None);
        }
        let oldest = kept.events.front().map_or(kept.last.0 + 1, |event| event.index.0);
        let at = (index.0 + 1)
            .checked_sub(oldest)
            .and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| kept.events.get(at)) {
            Some(event) => Ok(Some(event.clone())),
            None => Err(WatchError::Compacted { from: index }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(event: &Event) -> usize {
    let change = |change: &super::Change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
    event.by.len() + event.changes.iter().map(change).sum::<usize>()
}

/// Every change after an index, in order.
pub struct Watch {
    history: Arc<History>,
    moved: watch::Receiver<Index>,
    at: Index,
}

/// Why a watch can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The next event is no longer kept, or never was: read the range anew and watch from its index.
    #[error("the control store no longer has the changes after commit {from}: read the range anew")]
    Compacted {
        /// The index after which the watcher was to go on.
        from: Index,
    },
    /// The store was closed; all its events were given.
    #[error("the control store is closed, as the host stops")]
    Closed,
}

impl Watch {
    /// Watches `history` after `from`. `moved` tells the index after each change, and ends with the store.
    pub(super) fn new(history: Arc<History>, moved: watch::Receiver<Index>, from: Index) -> Self {
        Self {
            history,
            moved,
            at: from,
        }
    }

    /// The next event, when there is one. Dropping the future loses none.
    ///
    /// # Errors
    /// [`WatchError`]; the same again at each call after it.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchError> {
        loop {
            self.moved.mark_unchanged();
            if let Some(event) = self.history.after(self.at)? {
                self.at = event.index;
                return Ok(event);
            }
            if self.moved.changed().await.is_err() && self.history.after(self.at)?.is_none() {
                return Err(WatchError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::Change;
    use super::*;

    fn event(index: u64, len: usize) -> Event {
        let value = Some(Bytes::from(vec![0; len]));
        Event {
            index: Index(index),
            by: String::new(),
            changes: vec![Change {
                key: "k".to_owned(),
                value,
            }],
        }
    }

    fn watch_of(history: &Arc<History>, from: u64) -> (watch::Sender<Index>, Watch) {
        let (sender, receiver) = watch::channel(Index(0));
        (sender, Watch::new(history.clone(), receiver, Index(from)))
    }

    #[test]
    fn a_watcher_that_is_too_far_behind_is_told_to_read_anew() {
        let history = Arc::new(History::new(Index(0)));
        (1..=EVENTS_MAX as u64 + 2).for_each(|index| history.push(event(index, 1)));
        let next = |from| watch_of(&history, from).1.next().now_or_never();
        assert_eq!(next(1).unwrap(), Err(WatchError::Compacted { from: Index(1) }));
        assert_eq!(next(2).unwrap().unwrap().index, Index(3));
    }

    #[test]
    fn large_values_shorten_the_history_but_leave_the_last_event() {
        let history = Arc::new(History::new(Index(0)));
        history.push(event(1, BYTES_MAX));
        history.push(event(2, BYTES_MAX));
        let next = |from| watch_of(&history, from).1.next().now_or_never();
        assert!(next(0).unwrap().is_err());
        assert_eq!(next(1).unwrap().unwrap().index, Index(2));
    }

    #[test]
    fn an_index_that_the_store_never_had_is_not_waited_for() {
        let history = Arc::new(History::new(Index(7)));
        let (_open, mut ahead) = watch_of(&history, 8);
        assert!(ahead.next().now_or_never().unwrap().is_err());
        let (_open, mut behind) = watch_of(&history, 6);
        assert!(behind.next().now_or_never().unwrap().is_err());
        let (_open, mut there) = watch_of(&history, 7);
        assert!(there.next().now_or_never().is_none());
    }

    #[test]
    fn a_closed_store_gives_its_last_events_first() {
        let history = Arc::new(History::new(Index(0)));
        let (open, mut watch) = watch_of(&history, 0);
        history.push(event(1, 1));
        drop(open);
        assert_eq!(watch.next().now_or_never().unwrap().unwrap().index, Index(1));
        assert_eq!(watch.next().now_or_never().unwrap(), Err(WatchError::Closed));
    }
}
