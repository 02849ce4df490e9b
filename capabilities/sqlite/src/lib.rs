//! SQL on SQLite: one file, one writer, some readers.
//!
//! Owns the file, its connections and their threads. Whoever opens a file has it alone: another process may read it,
//! and must not change it.
//!
//! Writes go through one thread, in the order in which they came; a transaction holds that thread to itself. Reads run
//! on one of a few read connections, in one of two ways. A statement that was prepared and was short before runs on the
//! **caller's thread**, as crossing to another would cost several times what it takes; it may take some steps of
//! SQLite's machine, and is begun again on a thread of ours if those don't do. Everything else runs on those threads
//! from the start.
//!
//! The caller may be a guest's fiber with a small stack, so what runs there must need little of it. Nothing is parsed
//! there: statements are prepared on our threads, SQLite's habit to prepare again for new parameters is off, and no
//! change of the schema is committed while a read runs on a caller's thread. What is left is SQLite's
//! machine itself, which recurses in a few functions only: patterns and JSON. The worst of what the limits allow was seen
//! to need between 96 and 160 KiB (`tests/stack.rs` holds the latter).

mod connection;
mod error;
mod job;
mod readers;
mod schema;
mod statement;
mod tables;
mod transaction;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use weft_capabilities::sql::tables::{SqlTables, first_word};
use weft_capabilities::sql::{Executed, Rows, Sql, SqlError, SqlTransaction, SqlValue, check_statement};

use crate::connection::{Connection, Role};
pub use crate::error::OpenError;
use crate::job::{Call, Effect, Output};
use crate::readers::{Inline, Readers};
use crate::schema::Schema;
use crate::writer::Writer;

/// The longest that a statement or a transaction waits and runs, if its caller names no deadline.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Read connections, if not told otherwise: each has its own cache of pages.
const READERS_DEFAULT: usize = 4;
/// KiB of pages that a connection caches, if not told otherwise: what SQLite itself takes. A page that is not in it costs
/// a system call.
const CACHE_KIB_DEFAULT: u32 = 2_000;

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub struct SqliteOptions {
    /// Read connections, and threads for long reads; at least one.
    pub readers: usize,
    /// KiB of pages that each connection caches.
    pub cache_kib: u32,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            readers: READERS_DEFAULT,
            cache_kib: CACHE_KIB_DEFAULT,
        }
    }
}

/// SQL in one file.
pub struct SqliteSql {
    readers: Readers,
    writer: Writer,
}

impl SqliteSql {
    /// Opens the file at `path`, or makes it, with the log that SQLite keeps beside it.
    ///
    /// # Errors
    /// [`OpenError`], which names the file and what to do.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let schema = Arc::new(Schema::default());
        // The writer first: it makes the file and its log, without which readers can't open it.
        let connection = Connection::open(path, Role::Writer, options)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))
            .and_then(|folder| folder.sync_all())
            .map_err(|source| OpenError::io(path, source))?;
        let writer =
            Writer::start(connection, schema.clone()).map_err(|source| OpenError::io(path, source))?;
        let connections = (0..options.readers.max(1))
            .map(|_| Connection::open(path, Role::Reader, options))
            .collect::<Result<_, _>>()?;
        let readers = Readers::start(connections, schema, writer.queue())
            .map_err(|source| OpenError::io(path, source))?;
        Ok(Self { readers, writer })
    }

    async fn query(
        &self,
        statement: &str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> Result<Rows, SqlError> {
        check_statement(statement, &params)?;
        let inline = self.readers.try_inline(statement, &params, deadline);
        let queue = match inline {
            Inline::Done(rows) => return rows,
            Inline::Elsewhere => self.readers.queue(),
            Inline::Writes => self.writer.queue(),
        };
        let call = Call::new(statement, params, Effect::Rows, deadline_of(deadline));
        match queue.call(call).await? {
            Output::Rows(rows) => Ok(rows),
            Output::Executed(_) => Ok(Rows::default()),
        }
    }

    async fn execute(
        &self,
        statement: &str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> Result<Executed, SqlError> {
        check_statement(statement, &params)?;
        let call = Call::new(statement, params, Effect::Changes, deadline_of(deadline));
        match self.writer.queue().call(call).await? {
            Output::Executed(executed) => Ok(executed),
            Output::Rows(_) => Ok(Executed { rows_affected: 0 }),
        }
    }
}

fn deadline_of(deadline: Option<Instant>) -> Instant {
    let latest = Instant::now() + TIME_MAX;
    deadline.map_or(latest, |deadline| deadline.min(latest))
}

impl Sql for SqliteSql {
    fn query<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        self.query(statement, params, deadline).boxed()
    }

    fn execute<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        self.execute(statement, params, deadline).boxed()
    }

    fn begin(&self, deadline: Option<Instant>) -> BoxFuture<'_, Result<Box<dyn SqlTransaction>, SqlError>> {
        async move {
            let transaction = self.writer.queue().begin(deadline_of(deadline)).await?;
            Ok(Box::new(transaction) as Box<dyn SqlTransaction>)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.readers.close().await;
            self.writer.close().await;
        }
        .boxed()
    }

    /// No function that a statement may call here changes anything.
    fn only_reads(&self, statement: &str) -> bool {
        let word = first_word(statement);
        ["SELECT", "VALUES"]
            .iter()
            .any(|reads| word.eq_ignore_ascii_case(reads))
    }

    fn tables(&self) -> Option<&dyn SqlTables> {
        Some(self)
    }
}
