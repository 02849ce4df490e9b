//! What can be wrong with a file, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use redb::{DatabaseError, StorageError};
use weft_capabilities::KeyValueError;

/// Why a file could not be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another provider of this one, has it.
    #[error("{path} is open already: end the other process, or give this provider a file of its own")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{path} is not a key-value store: name another file, or move this one away")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("{path} is damaged ({message}): restore it from a backup, or move it away to start empty")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb says about it.
        message: String,
    },
    /// A newer version wrote it.
    #[error(
        "{path} has format {found}, which is newer than this version reads: use the version that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that it has.
        found: u64,
    },
    /// An older redb wrote it.
    #[error("{path} has the old redb format {found}: copy its keys with the version that wrote it")]
    Older {
        /// The file.
        path: PathBuf,
        /// The format that it has.
        found: u8,
    },
    /// The system did not give what is needed: the file, its folder, a thread.
    #[error("failed to open {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("failed to open {path}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

impl OpenError {
    pub(crate) fn of(path: &Path, source: DatabaseError) -> Self {
        let path = path.to_owned();
        match source {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked { path },
            DatabaseError::UpgradeRequired(found) => Self::Older { path, found },
            // redb's own word for a file that does not begin as one of its files does.
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Foreign { path }
            }
            DatabaseError::Storage(StorageError::Corrupted(message)) => Self::Damaged { path, message },
            other => Self::failed(&path, other.into()),
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn failed(path: &Path, source: redb::Error) -> Self {
        let path = path.to_owned();
        match source {
            redb::Error::Corrupted(message) => Self::Damaged { path, message },
            redb::Error::TableTypeMismatch { .. } => Self::Foreign { path },
            source => Self::Failed {
                path,
                source: Box::new(source),
            },
        }
    }
}

pub(crate) fn storage(error: StorageError) -> KeyValueError {
    KeyValueError::Backend(Box::new(error))
}

/// Why a write was not done; told to the host, as the guest is told no cause.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The disk failed it.
    #[error(transparent)]
    Storage(redb::Error),
    /// The file could not be opened again yet.
    #[error("the disk failed the file, which can't be opened again yet")]
    Closed,
}

impl WriteError {
    /// Whether the disk has no more room, or the file's owner may have no more of it.
    pub(crate) fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Storage(redb::Error::Io(error)) if full.contains(&error.kind()))
    }
}
