//! SQLite's errors in the words of the trait.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Error, ErrorCode, ffi};
use weft_capabilities::sql::{ConstraintKind, RESULT_BYTES_MAX, SqlError};

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is something else, or damaged.
    #[error("{path} is not a SQLite database, or is damaged: name another file, or restore it from a backup")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error("{path} is locked by another process: end that process, or give this provider a file of its own")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file's folder can't hold a database with a log.
    #[error("{path} can't have a write-ahead log: its folder must be writable and on a local file system")]
    NoLog {
        /// The file.
        path: PathBuf,
    },
    /// Anything else that SQLite says.
    #[error("failed to open {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
    /// The system did not give what is needed: a folder that can be synced, threads.
    #[error("failed to open {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn of(path: &Path, source: Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Foreign { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            _ => Self::Sqlite { path, source },
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// What a failed statement tells its caller. What stopped it, if anything did, is known to the connection.
pub(crate) fn of_statement(error: Error) -> SqlError {
    let message = error.to_string();
    match &error {
        Error::SqliteFailure(code, _) | Error::SqlInputError { error: code, .. } => match code.code {
            ErrorCode::ConstraintViolation => SqlError::Constraint {
                kind: constraint(code.extended_code),
                message,
            },
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => SqlError::Busy,
            ErrorCode::DiskFull => SqlError::Unavailable {
                message: "its disk is full: nothing was written, and what is there can be read".to_owned(),
            },
            ErrorCode::AuthorizationForStatementDenied => SqlError::Denied { what: message },
            ErrorCode::TooBig => SqlError::TooLarge {
                what: "value in bytes",
                len_max: RESULT_BYTES_MAX,
            },
            ErrorCode::TypeMismatch | ErrorCode::ParameterOutOfRange | ErrorCode::Unknown => {
                SqlError::Syntax { message }
            }
            _ => SqlError::Backend {
                source: Box::new(error),
            },
        },
        Error::MultipleStatement => SqlError::Syntax {
            message: "it is more than one statement; run each by itself".to_owned(),
        },
        Error::NulError(_) => SqlError::Syntax {
            message: "it has a NUL byte".to_owned(),
        },
        _ => SqlError::Backend {
            source: Box::new(error),
        },
    }
}

fn constraint(extended_code: i32) -> ConstraintKind {
    match extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            ConstraintKind::Unique
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => ConstraintKind::NotNull,
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ConstraintKind::ForeignKey,
        ffi::SQLITE_CONSTRAINT_CHECK | ffi::SQLITE_CONSTRAINT_DATATYPE => ConstraintKind::Check,
        _ => ConstraintKind::Other,
    }
}
