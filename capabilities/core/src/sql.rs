//! SQL: statements with parameters, typed rows, transactions.
//!
//! Owns the trait, its limits and its errors. Statements are the backend's own dialect, but for parameters: those are
//! written `$1`, `$2` and so on, which SQLite and Postgres both read.

pub mod tables;

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;

use self::tables::SqlTables;

/// Bytes of one result, at most: it is held whole, here and in the guest.
pub const RESULT_BYTES_MAX: usize = 8 << 20;
/// Rows of one result, at most.
pub const RESULT_ROWS_MAX: usize = 100_000;
/// Bytes of one statement's text, at most.
pub const STATEMENT_LEN_MAX: usize = 64 << 10;
/// Parameters of one statement, at most: what SQLite takes, and half of what Postgres does.
pub const PARAMS_LEN_MAX: usize = 32_766;
/// Bytes of one statement's parameters, at most.
pub const PARAMS_BYTES_MAX: usize = 16 << 20;

/// One value of a row or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    /// No value.
    Null,
    /// A truth value. SQLite gives these for columns that are declared `BOOLEAN`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Bytes),
}

impl SqlValue {
    /// What the value counts towards the bounds on results and parameters, in bytes.
    pub fn len(&self) -> usize {
        let variable = match self {
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
            _ => 0,
        };
        size_of::<Self>() + variable
    }

    /// Never: every value counts.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A result: names of columns, and rows of as many values each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The columns' names.
    pub columns: Vec<String>,
    /// What Postgres calls the columns' types, with `_` before that of an array's elements; empty where the backend is
    /// another one, or another host's.
    pub types: Vec<String>,
    /// The rows, in the order that the backend gave them.
    pub rows: Vec<Vec<SqlValue>>,
}

/// What a statement without a result did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executed {
    /// Rows that it inserted, changed or deleted. 0 for statements that do none of these.
    pub rows_affected: u64,
}

/// A SQL backend.
///
/// Every statement outside a transaction is one of its own. A statement whose future is dropped is interrupted, and
/// has either happened wholly or not at all. `deadline` bounds the waiting and the running; without one, the backend's
/// own bound does.
pub trait Sql: Send + Sync + 'static {
    /// Runs a statement and gives its rows.
    fn query<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>>;

    /// Runs a statement for its effect; rows that it gives are dropped.
    fn execute<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>>;

    /// Starts a transaction, which sees no other's unfinished changes, nor they its. It ends at `deadline`.
    fn begin(&self, deadline: Option<Instant>) -> BoxFuture<'_, Result<Box<dyn SqlTransaction>, SqlError>>;

    /// Refuses what comes after, waits for what was accepted, and lets go of the store. May be called twice.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Whether a statement certainly changes nothing, and so may run on a store that is being moved.
    fn only_reads(&self, _statement: &str) -> bool {
        false
    }

    /// What copies its tables to and from other databases, if it can.
    fn tables(&self) -> Option<&dyn SqlTables> {
        None
    }
}

/// A transaction. Dropped before [`SqlTransaction::commit`], it is rolled back.
///
/// A statement that fails leaves the transaction open, without that statement's effect, where the backend can (SQLite
/// does); where it can't (Postgres), every further statement fails. A statement whose future is dropped ends the
/// transaction.
pub trait SqlTransaction: Send {
    /// As [`Sql::query`], within the transaction.
    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>>;

    /// As [`Sql::execute`], within the transaction.
    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>>;

    /// Makes the changes durable and visible. [`SqlError::MayHaveCommitted`] if it can't be known whether they are.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>>;

    /// Undoes the changes, and ends when that is done.
    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>>;
}

/// What kind of rule a change would have broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    /// A primary key or a unique index.
    Unique,
    /// A column that must have a value.
    NotNull,
    /// A row that refers to one that is not there, or is referred to.
    ForeignKey,
    /// A check, or a value of a type that its column does not take.
    Check,
    /// Another one.
    Other,
}

/// Why a statement failed. It had no effect unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The statement can't be run: its grammar, an unknown name, a wrong number of parameters, types that don't fit.
    #[error("the statement can't be run: {message}")]
    Syntax {
        /// What the backend says about it.
        message: String,
    },
    /// A rule of the schema forbids the change.
    #[error("a constraint forbids the change: {message}")]
    Constraint {
        /// Which rule.
        kind: ConstraintKind,
        /// What the backend says about it.
        message: String,
    },
    /// Too many statements wait, or another transaction holds what this one needs; try again later.
    #[error("the database is busy; try again later")]
    Busy,
    /// The time was up.
    #[error("the statement's time was up; it was undone")]
    DeadlineExceeded,
    /// Something is over its limit.
    #[error("the {what} is too large: at most {len_max}")]
    TooLarge {
        /// What it is: a result's bytes or rows, a statement, parameters.
        what: &'static str,
        /// How large it may be.
        len_max: usize,
    },
    /// The statement is one that actors may not run.
    #[error("{what} is denied to actors")]
    Denied {
        /// What it tried.
        what: String,
    },
    /// The transaction was rolled back before.
    #[error("the transaction was rolled back: {reason}")]
    RolledBack {
        /// Why.
        reason: &'static str,
    },
    /// The backend was closed.
    #[error("the database is closed")]
    Closed,
    /// The backend can't be reached, or its disk is full. The statement did nothing.
    #[error("the database is unavailable: {message}")]
    Unavailable {
        /// Why.
        message: String,
    },
    /// The answer was lost: the change may be there or not.
    #[error("the connection was lost before the answer: the change may have been committed")]
    MayHaveCommitted,
    /// The backend failed.
    #[error("the database failed")]
    Backend {
        /// How.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Whether a statement and its parameters are within the limits.
///
/// # Errors
/// [`SqlError::TooLarge`].
pub fn check_statement(statement: &str, params: &[SqlValue]) -> Result<(), SqlError> {
    let bytes = params.iter().map(SqlValue::len).sum::<usize>();
    for (what, len, len_max) in [
        ("statement in bytes", statement.len(), STATEMENT_LEN_MAX),
        ("number of parameters", params.len(), PARAMS_LEN_MAX),
        ("size of all parameters in bytes", bytes, PARAMS_BYTES_MAX),
    ] {
        if len > len_max {
            return Err(SqlError::TooLarge { what, len_max });
        }
    }
    Ok(())
}

/// A result while it is made, within [`RESULT_BYTES_MAX`] and [`RESULT_ROWS_MAX`].
#[derive(Debug, Default)]
pub struct BoundedRows {
    rows: Rows,
    bytes: usize,
}

impl BoundedRows {
    /// A result with these columns and no row.
    pub fn new(columns: Vec<String>) -> Self {
        let rows = Rows {
            columns,
            ..Rows::default()
        };
        Self { rows, bytes: 0 }
    }

    /// The same, with the types of the columns.
    #[must_use]
    pub fn with_types(mut self, types: Vec<String>) -> Self {
        self.rows.types = types;
        self
    }

    /// Counts `len` bytes of a value, before it is copied from where the backend has it.
    ///
    /// # Errors
    /// [`SqlError::TooLarge`].
    pub fn admit(&mut self, len: usize) -> Result<(), SqlError> {
        self.bytes = self.bytes.saturating_add(len + size_of::<SqlValue>());
        if self.bytes > RESULT_BYTES_MAX {
            return Err(SqlError::TooLarge {
                what: "result in bytes",
                len_max: RESULT_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`SqlError::TooLarge`].
    pub fn push(&mut self, row: Vec<SqlValue>) -> Result<(), SqlError> {
        if self.rows.rows.len() == RESULT_ROWS_MAX {
            return Err(SqlError::TooLarge {
                what: "result in rows",
                len_max: RESULT_ROWS_MAX,
            });
        }
        self.rows.rows.push(row);
        Ok(())
    }

    /// The result.
    pub fn finish(self) -> Rows {
        self.rows
    }
}
