//! Redis's errors in the words of the trait.

use std::path::PathBuf;

use redis::{ErrorKind, RedisError};
use weft_capabilities::KeyValueError;

use crate::Sent;

/// Why a store can't be used as it is configured. No text has the password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no address.
    #[error(
        "there is no address: write one as redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for TLS"
    )]
    NoAddress,
    /// An address can't be read. What it says is not shown, as it may hold a password.
    #[error(
        "address {n} is none of Redis: write it as redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for TLS"
    )]
    Address {
        /// Which one, from 1.
        n: usize,
    },
    /// Only some addresses say TLS.
    #[error(
        "some addresses are redis:// and some rediss://: the servers of one store all speak TLS, or none does"
    )]
    MixedTls,
    /// The file of trusted certificates can't be read.
    #[error("failed to read the certificates in {path}: name a file of PEM certificates")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The client refuses it.
    #[error("the addresses can't be used")]
    Client(#[source] RedisError),
}

/// What the connection makes of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is about the command alone.
    Fine,
    /// The connection has to be looked at.
    Suspect,
    /// There has to be another one, as this one leads to the wrong server.
    Replace,
}

pub(crate) fn judge(error: &RedisError) -> Verdict {
    match error.code() {
        // What was the first server is a replica now.
        Some("READONLY" | "MASTERDOWN") => Verdict::Replace,
        // The password was changed.
        Some("NOAUTH") => Verdict::Replace,
        Some(_) => Verdict::Fine,
        None if error.is_unrecoverable_error() || error.is_io_error() => Verdict::Suspect,
        None => Verdict::Fine,
    }
}

/// Whether the server has not seen a script.
pub(crate) fn is_unknown_script(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

/// What a failed command tells its caller.
pub(crate) fn of_command(error: RedisError) -> KeyValueError {
    if matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
        || error.kind() == ErrorKind::AuthenticationFailed
    {
        return KeyValueError::AccessDenied;
    }
    // What may be better in a while, in the server's words.
    let is_passing = matches!(
        error.code(),
        Some(
            "BUSY"
                | "CLUSTERDOWN"
                | "LOADING"
                | "MASTERDOWN"
                | "MISCONF"
                | "NOREPLICAS"
                | "OOM"
                | "READONLY"
                | "TRYAGAIN"
        )
    );
    if is_passing || error.is_io_error() || error.is_unrecoverable_error() || error.is_cluster_error() {
        return KeyValueError::Unavailable(error.to_string());
    }
    KeyValueError::Backend(Box::new(error))
}

pub(crate) fn of_sent(sent: Sent) -> KeyValueError {
    match sent {
        Sent::Not(error) => error,
        Sent::Failed(error) => of_command(error),
        Sent::Unanswered(limit) => {
            KeyValueError::Unavailable(format!("there was no answer within {limit:?}"))
        }
    }
}

/// An answer of another shape than the command has.
pub(crate) fn unexpected(command: &'static str) -> KeyValueError {
    KeyValueError::Backend(format!("the server gave {command} an answer of another shape").into())
}
