//! Postgres's errors in the words of the trait.

use std::path::PathBuf;

use tokio_postgres::error::{DbError, SqlState};
use weft_capabilities::sql::{ConstraintKind, RESULT_BYTES_MAX, SqlError};

/// Why a database can't be used as it is configured. No text has the password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address can't be read. What it says is not shown, as it may hold a password.
    #[error("the address is none of Postgres: write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Address,
    /// The address has no host that can be connected to.
    #[error("the address names no host: write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    NoHost,
    /// The file of trusted certificates can't be read.
    #[error("failed to read the certificates in {path}: name a file of PEM certificates")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What went wrong with a connection, for whoever waits for one.
pub(crate) fn of_connect(error: &tokio_postgres::Error) -> SqlError {
    let message = match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => with_causes(error),
    };
    SqlError::Unavailable { message }
}

/// An error with all that caused it, as one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What a statement's failure tells its caller. `None` if the server did not say what became of it.
pub(crate) fn of_statement(error: tokio_postgres::Error) -> Option<SqlError> {
    if let Some(db) = error.as_db_error() {
        return Some(of_server(db).unwrap_or_else(|| SqlError::Backend {
            source: Box::new(error),
        }));
    }
    None
}

/// `None` for what is the server's own failure.
fn of_server(error: &DbError) -> Option<SqlError> {
    let message = error.message().to_owned();
    let constraint = |kind| SqlError::Constraint {
        kind,
        message: error.message().to_owned(),
    };
    let code = error.code();
    let of_code = match *code {
        SqlState::UNIQUE_VIOLATION => constraint(ConstraintKind::Unique),
        SqlState::NOT_NULL_VIOLATION => constraint(ConstraintKind::NotNull),
        SqlState::FOREIGN_KEY_VIOLATION => constraint(ConstraintKind::ForeignKey),
        SqlState::CHECK_VIOLATION
        | SqlState::STRING_DATA_RIGHT_TRUNCATION
        | SqlState::NUMERIC_VALUE_OUT_OF_RANGE
        | SqlState::INVALID_DATETIME_FORMAT
        | SqlState::DATETIME_FIELD_OVERFLOW
        | SqlState::INVALID_TEXT_REPRESENTATION
        | SqlState::CHARACTER_NOT_IN_REPERTOIRE => constraint(ConstraintKind::Check),
        SqlState::RAISE_EXCEPTION => constraint(ConstraintKind::Other),
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::TOO_MANY_CONNECTIONS => SqlError::Busy,
        SqlState::QUERY_CANCELED => SqlError::DeadlineExceeded,
        SqlState::INSUFFICIENT_PRIVILEGE => SqlError::Denied {
            what: format!("this statement ({message})"),
        },
        SqlState::IN_FAILED_SQL_TRANSACTION => SqlError::RolledBack {
            reason: "a statement failed",
        },
        SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::DISK_FULL
        | SqlState::READ_ONLY_SQL_TRANSACTION => SqlError::Unavailable { message },
        _ => match code.code().get(..2)? {
            "23" => constraint(ConstraintKind::Other),
            "0A" | "20" | "21" | "22" | "25" | "26" | "2B" | "2D" | "34" | "3D" | "3F" | "42" | "44"
            | "54" | "55" => SqlError::Syntax { message },
            "08" => SqlError::Unavailable { message },
            _ => return None,
        },
    };
    Some(of_code)
}

/// A prepared statement that no longer fits the schema, or that a function of the database has thrown away.
pub(crate) fn is_stale(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        *db.code() == SqlState::INVALID_SQL_STATEMENT_NAME
            || *db.code() == SqlState::FEATURE_NOT_SUPPORTED && db.routine() == Some("RevalidateCachedQuery")
    })
}

pub(crate) fn result_too_large() -> SqlError {
    SqlError::TooLarge {
        what: "result in bytes",
        len_max: RESULT_BYTES_MAX,
    }
}
