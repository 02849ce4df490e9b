//! What is told of changes of keys: a [bounded queue](crate::queue) of them, and how each is settled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};

use super::KeyValueError;
use crate::queue::{self, Queued, queue};

/// Changes that wait in one watch, at most: a burst, and not a backlog.
pub const CHANGES_LEN_MAX: usize = 1_024;

/// Whether a key falls to one of several who are all told of it.
pub type Takes = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What to tell, and to whom.
#[derive(Clone)]
pub struct Watch {
    /// What the keys begin with; empty for all of the bucket.
    pub prefix: String,
    /// Of all who watch the same keys as one group, one is told each change. A backend that keeps changes does so for this
    /// group and these keys.
    pub group: String,
    /// Asked by a backend that tells each member of a group everything: a key that it says no to falls to another.
    pub takes: Takes,
}

impl Watch {
    /// The keys that begin with `prefix`, as one of `group`, of which this is the only one as far as is known.
    pub fn new(prefix: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            group: group.into(),
            takes: Arc::new(|_| true),
        }
    }
}

/// The changes that a watch tells, until this is dropped.
pub type Changes = queue::Receiver<Change>;
/// The backend's end of [`Changes`].
pub type Watcher = queue::Sender<Change>;

/// An empty queue of [`CHANGES_LEN_MAX`] changes, and the backend's end of it.
pub fn changes() -> (Watcher, Changes) {
    queue(CHANGES_LEN_MAX)
}

/// That a key was set or taken away.
///
/// One that is dropped unsettled is told again where the backend keeps changes, after the time that it gives handlers;
/// while this lives that time is prolonged.
pub struct Change {
    /// Which key.
    pub key: String,
    /// What it was set to; `None` if it was taken away.
    pub value: Option<Bytes>,
    /// How often it was told by now: 1 at first.
    pub attempt: u32,
    settle: Option<Box<dyn Settle>>,
}

/// What settles a change, where the backend keeps changes.
pub trait Settle: Send + Sync {
    /// Whether it is told again if it is not handled now.
    fn comes_again(&self) -> bool;

    /// It was handled.
    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), KeyValueError>>;

    /// It was not: it is to be told again after `delay`, or not at all if it was told too often.
    fn nak(self: Box<Self>, delay: Duration) -> BoxFuture<'static, Result<(), KeyValueError>>;
}

impl Change {
    /// One that is not told again, whatever becomes of it.
    pub fn once(key: impl Into<String>, value: Option<Bytes>) -> Self {
        Self {
            key: key.into(),
            value,
            attempt: 1,
            settle: None,
        }
    }

    /// One that is told again until it is settled.
    pub fn kept(key: String, value: Option<Bytes>, attempt: u32, settle: impl Settle + 'static) -> Self {
        Self {
            key,
            value,
            attempt,
            settle: Some(Box::new(settle)),
        }
    }

    /// Whether it is told again if it is not handled now.
    pub fn comes_again(&self) -> bool {
        self.settle.as_ref().is_some_and(|settle| settle.comes_again())
    }

    /// It was handled.
    ///
    /// # Errors
    /// The backend could not be told, and may tell it again.
    pub fn ack(self) -> BoxFuture<'static, Result<(), KeyValueError>> {
        match self.settle {
            Some(settle) => settle.ack(),
            None => future::ok(()).boxed(),
        }
    }

    /// It was not handled. Where the backend keeps changes it comes again after `delay`, unless it came too often;
    /// otherwise it is lost.
    ///
    /// # Errors
    /// The backend could not be told, and may tell it again earlier or later.
    pub fn nak(self, delay: Duration) -> BoxFuture<'static, Result<(), KeyValueError>> {
        match self.settle {
            Some(settle) => settle.nak(delay),
            None => future::ok(()).boxed(),
        }
    }
}

impl Queued for Change {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.value.is_some() { "set" } else { "delete" };
        write!(f, "Change({what} {}, attempt {})", self.key, self.attempt)
    }
}
