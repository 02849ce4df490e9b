//! SQL that is elsewhere, with transactions that the one run that began them keeps.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use weft_capabilities::sql::check_statement;
use weft_capabilities::{Executed, Rows, Sql, SqlError, SqlTransaction, SqlValue};
use weft_lattice::envelope::FailureKind;

use crate::SQL;
use crate::cbor::{Read, Write, encode};
use crate::remote::{Function, NoAnswer, Remote, Run};

/// How long a statement without a deadline may take: as long as the backends let one run.
const CALL_MAX: Duration = Duration::from_secs(60);

/// An answer is waited for this much longer than the statement may run, so that what the backend says of its end comes,
/// and not only that nobody knows.
const GRACE: Duration = Duration::from_secs(2);

/// A SQL provider that is elsewhere.
///
/// A statement that may have run and has no answer is [`SqlError::MayHaveCommitted`]; one that certainly did not start
/// is `Unavailable`, `Busy`, `Denied` or `DeadlineExceeded`. A transaction is kept by the run of the provider that began
/// it: with that run it is rolled back. Closing it closes this end alone.
pub struct RemoteSql {
    remote: Remote,
    is_closed: AtomicBool,
}

/// When something ends, as this side counts and as the other one is told.
#[derive(Clone, Copy)]
struct Within {
    deadline: tokio::time::Instant,
    ms: Option<u64>,
}

impl Within {
    fn until(deadline: Option<Instant>) -> Result<Self, SqlError> {
        let now = Instant::now();
        let Some(deadline) = deadline else {
            let deadline = (now + CALL_MAX + GRACE).into();
            return Ok(Self { deadline, ms: None });
        };
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(SqlError::DeadlineExceeded);
        }
        // Rounded up: no statement ends before its time.
        let ms = u64::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        Ok(Self {
            deadline: (deadline + GRACE).into(),
            ms: Some(ms),
        })
    }
}

impl RemoteSql {
    /// The provider that `remote` leads to.
    pub fn new(remote: Remote) -> Self {
        Self {
            remote,
            is_closed: AtomicBool::new(false),
        }
    }

    fn run(&self) -> Result<Run, SqlError> {
        if self.is_closed.load(Relaxed) {
            return Err(SqlError::Closed);
        }
        self.remote.now().map_err(|failure| not_answered(failure.into()))
    }

    async fn statement<T: Read>(
        &self,
        name: &'static str,
        statement: &str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> Result<T, SqlError> {
        let run = self.run()?;
        check_statement(statement, &params)?;
        let within = Within::until(deadline)?;
        let args = (statement, params, within.ms);
        let done = call(&self.remote, &run, name, within.deadline, &args).await;
        done.unwrap_or_else(|why| Err(not_answered(why)))
    }
}

async fn call<T: Read>(
    remote: &Remote,
    run: &Run,
    name: &'static str,
    deadline: tokio::time::Instant,
    args: &impl Write,
) -> Result<Result<T, SqlError>, NoAnswer> {
    let function = Function {
        interface: SQL,
        name,
        deadline,
        reads: false,
        args: encode(args).into(),
    };
    let (done,): (Result<T, SqlError>,) = remote.call(run, function).await?;
    Ok(done)
}

/// What a statement outside a transaction comes to that has no answer.
fn not_answered(why: NoAnswer) -> SqlError {
    match why {
        NoAnswer::TooLong { len_max, .. } => SqlError::TooLarge {
            what: "request",
            len_max,
        },
        NoAnswer::Failed(failure) if failure.may_have_started => SqlError::MayHaveCommitted,
        NoAnswer::Failed(failure) => match failure.kind {
            FailureKind::Overloaded => SqlError::Busy,
            FailureKind::Deadline => SqlError::DeadlineExceeded,
            FailureKind::Denied => SqlError::Denied { what: failure.detail },
            _ => SqlError::Unavailable {
                message: failure.detail,
            },
        },
    }
}

impl Sql for RemoteSql {
    fn query<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        self.statement("query", statement, params, deadline).boxed()
    }

    fn execute<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        let done = self.statement("execute", statement, params, deadline);
        done.map(|done| done.map(|rows_affected| Executed { rows_affected }))
            .boxed()
    }

    fn begin(&self, deadline: Option<Instant>) -> BoxFuture<'_, Result<Box<dyn SqlTransaction>, SqlError>> {
        async move {
            let run = self.run()?;
            let within = Within::until(deadline)?;
            // From here on it is rolled back if this future is dropped, as the other side may have begun it.
            let mut transaction = RemoteTransaction {
                remote: self.remote.clone(),
                run: run.clone(),
                id: Bytes::copy_from_slice(&rand::random::<[u8; 16]>()),
                deadline,
                is_in_statement: false,
                is_open: true,
            };
            let args = (transaction.id.clone(), within.ms);
            let begun = call::<String>(&self.remote, &run, "begin", within.deadline, &args).await;
            let name = begun.unwrap_or_else(|why| {
                Err(match not_answered(why) {
                    // Nothing was done in it.
                    SqlError::MayHaveCommitted => SqlError::Unavailable {
                        message: "no answer came to the beginning of a transaction".to_owned(),
                    },
                    error => error,
                })
            })?;
            let pinned = self.remote.pinned(&run, &name);
            transaction.run = pinned.map_err(|failure| not_answered(failure.into()))?;
            Ok(Box::new(transaction) as Box<dyn SqlTransaction>)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.is_closed.store(true, Relaxed);
        future::ready(()).boxed()
    }
}

struct RemoteTransaction {
    remote: Remote,
    run: Run,
    id: Bytes,
    deadline: Option<Instant>,
    /// So from the beginning of a statement to its end: still so when the next begins, its future was dropped.
    is_in_statement: bool,
    /// Whether there is something to roll back.
    is_open: bool,
}

const LOST: SqlError = SqlError::RolledBack {
    reason: "the connection to its provider was lost",
};

impl RemoteTransaction {
    fn check(&mut self) -> Result<Within, SqlError> {
        let reason = if self.is_in_statement {
            "a statement's caller left"
        } else if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            "its time was up"
        } else if self.is_open {
            return Within::until(self.deadline);
        } else {
            return Err(LOST);
        };
        self.end();
        Err(SqlError::RolledBack { reason })
    }

    /// Rolls it back, if that is still to be done.
    fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.remote
                .end(self.run.clone(), SQL, "rollback", self.id.clone());
        }
    }

    async fn statement<T: Read>(
        &mut self,
        name: &'static str,
        statement: &str,
        params: Vec<SqlValue>,
    ) -> Result<T, SqlError> {
        let within = self.check()?;
        check_statement(statement, &params)?;
        self.is_in_statement = true;
        let args = (&self.id, statement, params);
        let done = call(&self.remote, &self.run, name, within.deadline, &args).await;
        self.is_in_statement = false;
        done.unwrap_or_else(|why| {
            Err(match not_answered(why) {
                // What it did is undone with the rest.
                SqlError::MayHaveCommitted => {
                    self.end();
                    LOST
                }
                error => error,
            })
        })
    }
}

impl SqlTransaction for RemoteTransaction {
    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        self.statement("query-in", statement, params).boxed()
    }

    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        let done = self.statement("execute-in", statement, params);
        done.map(|done| done.map(|rows_affected| Executed { rows_affected }))
            .boxed()
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        async move {
            let within = self.check()?;
            let args = (self.id.clone(),);
            let done = call(&self.remote, &self.run, "commit", within.deadline, &args).await;
            // If it did not start, the drop rolls it back.
            let done = done.map_err(not_answered);
            self.is_open = matches!(done, Err(ref error) if !matches!(error, SqlError::MayHaveCommitted));
            done.unwrap_or_else(Err)
        }
        .boxed()
    }

    fn rollback(mut self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        async move {
            let within = match self.check() {
                Ok(within) => within,
                // It is rolled back already.
                Err(SqlError::RolledBack { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            let args = (self.id.clone(),);
            let done = call(&self.remote, &self.run, "rollback", within.deadline, &args).await;
            // Without an answer it is asked for once more, and else the provider finds it idle.
            self.is_open = done.is_err();
            done.unwrap_or(Ok(()))
        }
        .boxed()
    }
}

impl Drop for RemoteTransaction {
    fn drop(&mut self) {
        self.end();
    }
}
