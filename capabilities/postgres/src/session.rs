//! One connection: its prepared statements, one statement's run, and how it comes back to the pool.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;
use tokio::time::{timeout, timeout_at};
use tokio_postgres::{Client, SimpleQueryMessage, Statement};
use weft_capabilities::sql::{BoundedRows, Executed, Rows, SqlError, SqlValue};

use crate::bounded::Overrun;
use crate::connect::Canceller;
use crate::param::{self, Param};
use crate::plain::is_plain;
use crate::pool::Taken;
use crate::statement::{self, Kind};
use crate::{error, value};

/// Prepared statements that a connection keeps, which are as many plans in the server's memory.
const STATEMENTS_MAX: usize = 128;
/// The longest text of a statement that is kept: together they are half a megabyte.
const STATEMENT_KEPT_LEN_MAX: usize = 4 << 10;
/// How long a statement that was cancelled, or whatever was left on a connection, may take to end. A connection where it
/// takes longer is closed.
const END_WAIT: Duration = Duration::from_secs(5);
/// Times that a connection is asked to end what is left on it: a late cancel may hit the question.
const END_TRIES: usize = 3;
/// Makes a connection what it was when it was made, but for what the client has prepared, as `DISCARD ALL` would; all or
/// nothing of it, as it is one message. `RESET ALL` brings back what the connection was begun with, the pool's own settings
/// among that. Settings come first: a search path may lead to other functions.
///
/// The answer is whether there is a prepared statement that the client did not prepare. It may stand in the place of one that
/// it did; then the connection is of no use any more.
const RESET: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; \
                     SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP; \
                     SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)";

/// A connection to the server.
pub(crate) struct Session {
    client: Client,
    /// Where its task runs.
    pub(crate) runtime: Id,
    /// Ends by itself once the client is gone and all answers are in.
    driver: AbortHandle,
    overrun: Overrun,
    canceller: Arc<Canceller>,
    statements: HashMap<String, Kept>,
    /// Something was run that may stay on the connection.
    touched: bool,
    uses: u64,
    used: Instant,
}

struct Kept {
    statement: Statement,
    kind: Kind,
    is_plain: bool,
    used: u64,
}

/// What the caller wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Rows,
    Changes,
}

pub(crate) enum Output {
    Rows(Rows),
    Executed(Executed),
}

/// Why a statement has no output.
pub(crate) enum Failure {
    /// It is known what became of it: nothing.
    Told(SqlError),
    /// Rows were on their way that nobody wants.
    Cut(SqlError),
    /// Nobody knows.
    Lost,
}

impl Session {
    /// Of a connection whose task runs on this runtime.
    pub(crate) fn new(client: Client, driver: AbortHandle, overrun: Overrun, canceller: Canceller) -> Self {
        Self {
            client,
            runtime: Handle::current().id(),
            driver,
            overrun,
            canceller: Arc::new(canceller),
            statements: HashMap::new(),
            touched: false,
            uses: 0,
            used: Instant::now(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(crate) fn idle(&self) -> Duration {
        self.used.elapsed()
    }

    /// Whether the server answers.
    pub(crate) async fn ask(&self) -> bool {
        self.client.batch_execute("").await.is_ok()
    }

    /// A command of our own.
    pub(crate) async fn own(&self, command: &str) -> Result<(), Failure> {
        self.client
            .batch_execute(command)
            .await
            .map_err(|error| self.failure(error))
    }

    /// Ends the transaction, if there is one, and takes away what else was left. Whether the connection may be used further.
    async fn clear(&mut self, has_transaction: bool) -> Result<bool, Failure> {
        if has_transaction {
            self.own("ROLLBACK").await?;
        }
        if self.touched {
            let answers = self.client.simple_query(RESET).await;
            let answers = answers.map_err(|error| self.failure(error))?;
            let last = answers.iter().rev().find_map(|answer| match answer {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            if last != Some("f") {
                return Ok(false);
            }
            self.touched = false;
        }
        Ok(true)
    }

    /// Runs a statement. `once` is whether it may not be tried again with a new plan.
    async fn run(
        &mut self,
        text: &str,
        params: &[SqlValue],
        effect: Effect,
        once: bool,
    ) -> Result<Output, Failure> {
        let (statement, kind) = self.prepared(text).await?;
        match self.run_prepared(&statement, params, effect, kind).await {
            Err(error) if error::is_stale(&error) => {
                self.statements.remove(text);
                if once {
                    return Err(Failure::Told(SqlError::Busy));
                }
                let (statement, kind) = self.prepared(text).await?;
                self.run_prepared(&statement, params, effect, kind)
                    .await
                    .unwrap_or_else(|error| Err(self.failure(error)))
            }
            other => other.unwrap_or_else(|error| Err(self.failure(error))),
        }
    }

    /// The statement, if an actor may run it.
    async fn prepared(&mut self, text: &str) -> Result<(Statement, Kind), Failure> {
        self.uses += 1;
        if let Some(kept) = self.statements.get_mut(text) {
            kept.used = self.uses;
            self.touched |= !kept.is_plain;
            return Ok((kept.statement.clone(), kept.kind));
        }
        let kind = statement::check(text).map_err(Failure::Told)?;
        let is_plain = is_plain(text);
        self.touched |= !is_plain;
        let statement = match self.client.prepare(text).await {
            Ok(statement) => statement,
            Err(error) => return Err(self.failure(error)),
        };
        if text.len() <= STATEMENT_KEPT_LEN_MAX {
            if self.statements.len() >= STATEMENTS_MAX {
                let oldest = self.statements.iter().min_by_key(|(_, kept)| kept.used);
                if let Some(oldest) = oldest.map(|(text, _)| text.clone()) {
                    self.statements.remove(&oldest);
                }
            }
            let kept = Kept {
                statement: statement.clone(),
                kind,
                is_plain,
                used: self.uses,
            };
            self.statements.insert(text.to_owned(), kept);
        }
        Ok((statement, kind))
    }

    async fn run_prepared(
        &self,
        statement: &Statement,
        params: &[SqlValue],
        effect: Effect,
        kind: Kind,
    ) -> Result<Result<Output, Failure>, tokio_postgres::Error> {
        let columns = statement.columns();
        let checked = param::check(statement, params).and_then(|()| match effect {
            Effect::Changes => Ok(()),
            Effect::Rows => columns
                .iter()
                .try_for_each(|column| value::check(column.name(), column.type_())),
        });
        if let Err(error) = checked {
            return Ok(Err(Failure::Told(error)));
        }
        let stream = self.client.query_raw(statement, params.iter().map(Param)).await?;
        let mut stream = pin!(stream);
        if effect == Effect::Changes {
            while stream.try_next().await?.is_some() {}
            let rows_affected = match kind {
                Kind::Reads => 0,
                Kind::MayWrite => stream.rows_affected().unwrap_or(0),
            };
            return Ok(Ok(Output::Executed(Executed { rows_affected })));
        }
        let types = columns.iter().map(|column| value::name(column.type_()));
        let mut rows = BoundedRows::new(columns.iter().map(|column| column.name().to_owned()).collect())
            .with_types(types.collect());
        while let Some(row) = stream.try_next().await? {
            let mut values = Vec::with_capacity(columns.len());
            for (n, column) in columns.iter().enumerate() {
                let value = match row.try_get(n)? {
                    value::Raw(None) => rows.admit(0).map(|()| SqlValue::Null),
                    value::Raw(Some(raw)) => rows
                        .admit(raw.len())
                        .and_then(|()| value::read(column.type_(), raw)),
                };
                match value {
                    Ok(value) => values.push(value),
                    Err(error) => return Ok(Err(Failure::Cut(error))),
                }
            }
            if let Err(error) = rows.push(values) {
                return Ok(Err(Failure::Cut(error)));
            }
        }
        Ok(Ok(Output::Rows(rows.finish())))
    }

    fn failure(&self, error: tokio_postgres::Error) -> Failure {
        if self.overrun.happened() {
            return Failure::Cut(error::result_too_large());
        }
        match error::of_statement(error) {
            Some(error) => Failure::Told(error),
            None => Failure::Lost,
        }
    }
}

/// A session out of the pool. Dropped, it goes back when nothing is left on it.
pub(crate) struct Lease {
    /// `None` once it is on its way back.
    session: Option<Taken>,
    left: Left,
}

/// What is left on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Transaction,
    Statement,
}

impl Lease {
    pub(crate) fn new(session: Taken) -> Self {
        Self {
            session: Some(session),
            left: Left::Nothing,
        }
    }

    /// Runs a command of our own that begins or ends a transaction.
    pub(crate) async fn own(&mut self, command: &str, deadline: Instant) -> Result<(), Failure> {
        let Some(session) = self.session.as_deref_mut() else {
            return Err(Failure::Lost);
        };
        self.left = Left::Statement;
        match timeout_at(deadline.into(), session.own(command)).await {
            Ok(done) => {
                self.left = Left::Transaction;
                done
            }
            Err(_) => Err(Failure::Lost),
        }
    }

    /// Says that the transaction has ended.
    pub(crate) fn ended(&mut self) {
        self.left = Left::Nothing;
    }

    /// Runs a statement until `deadline`, and has it cancelled then.
    pub(crate) async fn run(
        &mut self,
        text: &str,
        params: &[SqlValue],
        effect: Effect,
        deadline: Instant,
    ) -> Result<Output, Failure> {
        let Some(session) = self.session.as_deref_mut() else {
            return Err(Failure::Lost);
        };
        let before = self.left;
        self.left = Left::Statement;
        session.used = Instant::now();
        let canceller = session.canceller.clone();
        let mut run = pin!(session.run(text, params, effect, before == Left::Transaction));
        let result = match timeout_at(deadline.into(), &mut run).await {
            Ok(result) => {
                if !matches!(result, Err(Failure::Cut(_) | Failure::Lost)) {
                    self.left = before;
                }
                return result;
            }
            // It may be done by now: then it is, and the answer says so.
            Err(_) => {
                let stopped = async { tokio::join!(canceller.cancel(), &mut run).1 };
                timeout(END_WAIT, stopped).await
            }
        };
        result.unwrap_or(Err(Failure::Lost))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        if self.left == Left::Nothing && !session.touched {
            return session.give_back();
        }
        let canceller = session.canceller.clone();
        canceller.spawn(clear_and_give_back(session, self.left));
    }
}

/// Takes away what is left on a session and gives it back, or closes it. Nobody waits for that but who needs its place.
async fn clear_and_give_back(mut session: Taken, mut left: Left) {
    for _ in 0..END_TRIES {
        if session.is_closed() {
            break;
        }
        if left == Left::Statement {
            session.canceller.cancel().await;
        }
        match timeout(END_WAIT, session.clear(left != Left::Nothing)).await {
            Ok(Ok(true)) => return session.give_back(),
            // The cancel came late.
            Ok(Err(Failure::Told(SqlError::DeadlineExceeded))) if left != Left::Nothing => {
                left = Left::Transaction;
            }
            _ => break,
        }
    }
    // Nothing more is expected of it.
    session.driver.abort();
}
