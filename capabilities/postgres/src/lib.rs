//! SQL on Postgres: a bounded pool of connections to a server of its own.
//!
//! Owns the pool, the sessions in it and what each of them has prepared, how a statement is stopped on the server, and
//! how Postgres's values and errors are told. It must not know who asks.
//!
//! A statement by itself is one transaction of the server's, `READ COMMITTED`. Transactions are `SERIALIZABLE` unless
//! told otherwise, as with SQLite: of two that can't both have been first, one is [`SqlError::Busy`] and has to be
//! tried again from its beginning.
//!
//! Nothing that one user of a connection does stays on it for the next.
//!
//! Read next: `session.rs` for what happens to a statement and to what it leaves behind, `plain.rs` for which leave nothing,
//! `pool.rs` for who gets which connection, `connect.rs` for how they are made.

mod bounded;
mod connect;
mod error;
mod param;
mod plain;
mod pool;
mod session;
mod statement;
mod tables;
mod transaction;
mod value;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;
use weft_capabilities::sql::tables::SqlTables;
use weft_capabilities::sql::{Executed, Rows, Sql, SqlError, SqlTransaction, SqlValue, check_statement};

use crate::connect::{Connections, Connector};
pub use crate::error::OpenError;
use crate::pool::Pool;
use crate::session::{Effect, Failure, Lease, Output};
use crate::transaction::Transaction;

/// The longest that a statement or a transaction waits and runs, if its caller names no deadline. The server is told the
/// same, for when it is not heard any more.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(60);
/// Connections, if not told otherwise: a tenth of what a server has by default, as other hosts have theirs.
const CONNECTIONS_DEFAULT: usize = 10;
/// The longest that closing waits for connections to say goodbye.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// How much transactions see of each other. Each level is what Postgres calls so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// As if one ran after the other. One of two that conflict is [`SqlError::Busy`].
    #[default]
    Serializable,
    /// Each sees one snapshot. One of two that write to the same row is [`SqlError::Busy`].
    RepeatableRead,
    /// Each statement sees what is committed then: what was read may be changed before it is written.
    ReadCommitted,
}

impl Isolation {
    fn begin(self) -> &'static str {
        match self {
            Self::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            Self::RepeatableRead => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Self::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }
    }
}

/// How a database is reached.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, or Postgres's `key=value` form. Several hosts are tried in their
    /// order. With `sslmode=require` the connection is TLS and the server's certificate must be good for its name;
    /// without, it is plain.
    pub url: String,
    /// Connections, at most; at least one.
    pub connections: usize,
    /// What certificates are trusted, as a file of PEM. `None` is the system's trust.
    pub ca_file: Option<PathBuf>,
    /// How much transactions see of each other.
    pub isolation: Isolation,
}

impl PostgresOptions {
    /// The defaults, for a database.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections: CONNECTIONS_DEFAULT,
            ca_file: None,
            isolation: Isolation::default(),
        }
    }
}

impl fmt::Debug for PostgresOptions {
    /// Without the address, which has the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("connections", &self.connections)
            .field("ca_file", &self.ca_file)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

/// SQL in one database.
pub struct PostgresSql {
    pool: Arc<Pool>,
    connector: Arc<Connector>,
    tasks: TaskTracker,
    isolation: Isolation,
}

impl PostgresSql {
    /// Takes a database's address. The first statement connects; a server that is away is no error here.
    ///
    /// A connection lives on the runtime of the caller that it is made for.
    ///
    /// # Errors
    /// [`OpenError`]: the address or the certificates can't be read.
    pub fn open(options: &PostgresOptions) -> Result<Self, OpenError> {
        let tasks = TaskTracker::new();
        let connector = Arc::new(Connector::new(options, tasks.clone())?);
        let pool = Pool::new(Connections::new(connector.clone()), options.connections.max(1));
        Ok(Self {
            pool,
            connector,
            tasks,
            isolation: options.isolation,
        })
    }

    async fn lease(&self, deadline: Instant) -> Result<Lease, SqlError> {
        Ok(Lease::new(self.pool.get(deadline).await?))
    }

    async fn run(
        &self,
        text: &str,
        params: Vec<SqlValue>,
        effect: Effect,
        deadline: Option<Instant>,
    ) -> Result<Output, SqlError> {
        check_statement(text, &params)?;
        let deadline = deadline_of(deadline);
        let mut lease = self.lease(deadline).await?;
        lease
            .run(text, &params, effect, deadline)
            .await
            .map_err(|failure| match failure {
                Failure::Told(error) | Failure::Cut(error) => error,
                Failure::Lost => SqlError::MayHaveCommitted,
            })
    }
}

fn deadline_of(deadline: Option<Instant>) -> Instant {
    let latest = Instant::now() + TIME_MAX;
    deadline.map_or(latest, |deadline| deadline.min(latest))
}

impl Sql for PostgresSql {
    fn query<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        async move {
            match self.run(statement, params, Effect::Rows, deadline).await? {
                Output::Rows(rows) => Ok(rows),
                Output::Executed(_) => Ok(Rows::default()),
            }
        }
        .boxed()
    }

    fn execute<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        async move {
            match self.run(statement, params, Effect::Changes, deadline).await? {
                Output::Executed(executed) => Ok(executed),
                Output::Rows(_) => Ok(Executed { rows_affected: 0 }),
            }
        }
        .boxed()
    }

    fn begin(&self, deadline: Option<Instant>) -> BoxFuture<'_, Result<Box<dyn SqlTransaction>, SqlError>> {
        async move {
            let deadline = deadline_of(deadline);
            let lease = self.lease(deadline).await?;
            let transaction =
                Transaction::begin(lease, self.isolation.begin(), deadline, &self.connector).await?;
            Ok(Box::new(transaction) as Box<dyn SqlTransaction>)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.pool.close();
            self.tasks.close();
            if tokio::time::timeout(CLOSE_WAIT, self.tasks.wait()).await.is_err() {
                tracing::warn!("connections to Postgres were still busy when it was closed");
            }
        }
        .boxed()
    }

    fn tables(&self) -> Option<&dyn SqlTables> {
        Some(self)
    }
}
