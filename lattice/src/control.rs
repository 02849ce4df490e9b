//! The control store: ordered keys to bytes, with transactions and a watch.
//!
//! Owns what callers see ([`ControlStore`]) and the limits. It must know no record: what the keys mean is `compose`'s.
//! [`Embedded`] is the store of a single voter, [`Replica`] a copy of it on another host; a replicated one implements the
//! same trait and changes nothing above it.

mod embedded;
mod history;
pub mod replica;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use self::embedded::{Embedded, OpenError};
pub use self::history::{Watch, WatchError};
pub use self::replica::Replica;

/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = 512;

/// The longest value, in bytes. What is larger is an artifact, and a record names its digest.
pub const VALUE_LEN_MAX: usize = 64 << 10;

/// The most operations of one transaction, and the most comparisons.
pub const OPS_MAX: usize = 1_000;

/// The longest transaction, in bytes of its keys and values: it is to fit into one message between voters.
pub const TRANSACTION_LEN_MAX: usize = 768 << 10;

/// The longest name of a sender, in bytes.
pub const SENDER_LEN_MAX: usize = 256;

/// The most entries that one [`ControlStore::range`] gives; for more, ask again after the last key.
pub const RANGE_LEN_MAX: usize = 1_000;

/// Where the store is after a commit. Rises by one with each transaction that changed something; 0 is the empty store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its bytes.
    pub value: Bytes,
    /// The commit that last put it; what [`Expected::Modified`] compares with.
    pub modified: Index,
}

/// The name of a transaction, chosen by its sender. A repeat is applied once and gets the first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandId(pub u128);

impl CommandId {
    /// A new one, random.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// What must hold of a key for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// How it must be found.
    pub expected: Expected,
}

/// How a key must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It is not there: how a claim is made.
    Absent,
    /// It was last put by this commit: how a lost update is avoided.
    Modified(Index),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Modified(index) => write!(f, "as of commit {index}"),
        }
    }
}

/// One change of a transaction. They apply in order; the last one to a key wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts a value. It counts as a change even if the value is the same.
    Put {
        /// The key.
        key: String,
        /// Its bytes.
        value: Bytes,
    },
    /// Deletes a key. Without it, nothing changes.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Delete { .. } => None,
        }
    }
}

/// Changes that are applied all or not at all.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// Its name. Sending the same again after an answer was lost is safe.
    pub id: CommandId,
    /// Who sent it, as an operator would name them.
    pub by: String,
    /// What must hold. All are looked at before anything is changed.
    pub compare: Vec<Compare>,
    /// What changes.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// A transaction with a random id and nothing in it.
    pub fn by(sender: impl Into<String>) -> Self {
        Self {
            id: CommandId::random(),
            by: sender.into(),
            compare: Vec::new(),
            ops: Vec::new(),
        }
    }

    /// Only if `key` is found as `expected`.
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, expected: Expected) -> Self {
        let key = key.into();
        self.compare.push(Compare { key, expected });
        self
    }

    /// Puts a value.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    fn check(&self) -> Result<(), CommitError> {
        within("the transaction's sender", self.by.len(), SENDER_LEN_MAX)?;
        within("the transaction's list of operations", self.ops.len(), OPS_MAX)?;
        within(
            "the transaction's list of comparisons",
            self.compare.len(),
            OPS_MAX,
        )?;
        let mut len = 0;
        for key in self.compare.iter().map(|compare| compare.key.as_str()) {
            len += key.len();
            check_key(key)?;
        }
        for op in &self.ops {
            let (key, value_len) = (op.key(), op.value().map_or(0, Bytes::len));
            len += key.len() + value_len;
            check_key(key)?;
            if value_len > VALUE_LEN_MAX {
                within(&format!("the value of `{key}`"), value_len, VALUE_LEN_MAX)?;
            }
        }
        within("the transaction", len, TRANSACTION_LEN_MAX)
    }
}

fn within(subject: &str, len: usize, max: usize) -> Result<(), CommitError> {
    if len <= max {
        return Ok(());
    }
    Err(CommitError::TooLarge {
        subject: subject.to_owned(),
        len,
        max,
    })
}

fn check_key(key: &str) -> Result<(), CommitError> {
    if key.is_empty() {
        return Err(CommitError::EmptyKey);
    }
    if key.len() > KEY_LEN_MAX {
        let start = key.floor_char_boundary(64);
        within(&format!("the key `{}...`", &key[..start]), key.len(), KEY_LEN_MAX)?;
    }
    Ok(())
}

/// What one commit changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where the store is after it.
    pub index: Index,
    /// Who sent it.
    pub by: String,
    /// The changes, each key once, in the order of the keys.
    pub changes: Vec<Change>,
}

/// A key that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its bytes, or `None` if it was deleted.
    pub value: Option<Bytes>,
}

/// Why a transaction was not applied, or may not have been.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A comparison did not hold. Nothing was changed.
    #[error("`{key}` was expected {expected}, and is {}: read it again and decide anew", found_text(*.found))]
    Conflict {
        /// The first key for which it did not hold.
        key: String,
        /// How it was expected.
        expected: Expected,
        /// How it was found; `None` is absent.
        found: Option<Index>,
    },
    /// A key without a character.
    #[error("a key is empty: give it a name")]
    EmptyKey,
    /// Beyond one of this module's limits. Nothing was changed.
    #[error("{subject} is {len} long and may be at most {max}: make it smaller or split it")]
    TooLarge {
        /// What is too large.
        subject: String,
        /// Bytes, or elements of a list.
        len: usize,
        /// The limit, in the same unit.
        max: usize,
    },
    /// Too many transactions wait already, or there is no quorum. Nothing was changed.
    #[error("the control store is unavailable: {0}; try again later")]
    Unavailable(String),
    /// The storage failed. Whether the transaction was applied is known once it works again: repeat it with the same id.
    #[error("the control store's storage failed: look at the disk, its space first, and try again")]
    Storage(#[source] StorageError),
    /// The store was closed.
    #[error("the control store is closed, as the host stops")]
    Closed,
}

fn found_text(found: Option<Index>) -> String {
    found.map_or_else(|| "absent".to_owned(), |index| format!("as of commit {index}"))
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The storage failed.
    #[error("the control store's storage failed: look at the disk")]
    Storage(#[from] StorageError),
    /// No voter could say what the last commit is.
    #[error("the control store is unavailable: {0}; try again later")]
    Unavailable(String),
}

/// What the storage said. Shared, as one failure answers every transaction of a group.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct StorageError(Arc<redb::Error>);

impl From<redb::Error> for StorageError {
    fn from(error: redb::Error) -> Self {
        Self(Arc::new(error))
    }
}

/// A control store. Its clones and users share one; every method may be called from any task.
pub trait ControlStore: Send + Sync + 'static {
    /// The entry of `key`, as of the last acknowledged commit or a later one.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, ReadError>>;

    /// The entries whose keys start with `prefix` and come after the key `after`, in order, at most `limit` (and
    /// [`RANGE_LEN_MAX`]), with the index at which they were read: all of one moment, and where a watch goes on.
    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<(Vec<Entry>, Index), ReadError>>;

    /// Applies `transaction` and gives the index after it, once it is safe. One that changes nothing gives the index
    /// that was there.
    ///
    /// Dropping the future does not withdraw what was sent.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Index, CommitError>>;

    /// Every change after `from`, in order. Reading a range and watching from its index misses nothing.
    fn watch(&self, from: Index) -> Result<Watch, ReadError>;
}
