//! NATS's errors in the words of the traits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use weft_capabilities::{BlobError, KeyValueError};

use crate::jetstream::NAME_LEN_MAX;

/// Why a backend can't be used as it is configured. No text has a secret.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no address.
    #[error("there is no address: write one as nats://HOST:PORT, or tls:// for TLS")]
    NoAddress,
    /// An address can't be read. What it says is not shown, as it may hold a password.
    #[error("address {n} is none of NATS: write it as nats://USER:PASSWORD@HOST:PORT, or tls:// for TLS")]
    Address {
        /// Which one, from 1.
        n: usize,
    },
    /// The file of trusted certificates can't be read.
    #[error("failed to read the certificates in {path}: name a file of PEM certificates")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The folder for what is being written can't be used.
    #[error("failed to open the folder {folder}: make it one that this user may write to")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A bucket or stream of JetStream can't be called this.
    #[error(
        "`{0}` can't be a bucket or stream of JetStream: use 1 to {NAME_LEN_MAX} letters, digits, `-` and `_`"
    )]
    Name(String),
}

/// Why there is no connection, or none that is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    Denied,
    Away(Arc<str>),
}

impl Reason {
    pub(crate) fn away(text: impl Into<Arc<str>>) -> Self {
        Self::Away(text.into())
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Denied => "the server refuses the user, or what it may not do",
            Self::Away(text) => text,
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The backend was closed.
    Closed,
    /// There was no connection.
    Not(Reason),
    /// The connection was lost meanwhile.
    Lost,
    /// Nobody listens there.
    NoResponders,
    /// The server says that this user may not ask.
    Denied,
    /// It is longer than the server takes.
    TooLarge { len: usize, len_max: usize },
    /// It took too long.
    Late(Duration),
}

impl Unanswered {
    /// As `Unavailable` says it; what is of another kind is told apart by the traits' own errors.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Closed => "it was closed".to_owned(),
            Self::Not(reason) => reason.text().to_owned(),
            Self::Lost => "the connection was lost before the answer".to_owned(),
            Self::NoResponders => "JetStream does not answer: is it on at this server?".to_owned(),
            Self::Denied => Reason::Denied.text().to_owned(),
            Self::TooLarge { len, len_max } => {
                format!("it has {len} bytes, and the server takes {len_max} at most")
            }
            Self::Late(limit) => format!("there was no answer within {limit:?}"),
        }
    }
}

impl From<Unanswered> for KeyValueError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Closed => Self::Closed,
            Unanswered::Denied | Unanswered::Not(Reason::Denied) => Self::AccessDenied,
            Unanswered::TooLarge { len, len_max } => Self::TooLarge {
                what: "value for this server",
                len,
                len_max,
            },
            other => Self::Unavailable(other.text()),
        }
    }
}

impl From<Unanswered> for BlobError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Closed => Self::Closed,
            Unanswered::Denied | Unanswered::Not(Reason::Denied) => Self::AccessDenied,
            Unanswered::TooLarge { len, len_max } => Self::TooLarge {
                what: "message for this server",
                len: len as u64,
                len_max: len_max as u64,
            },
            other => Self::Unavailable(other.text()),
        }
    }
}
