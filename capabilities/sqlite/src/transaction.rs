//! A transaction: the caller's handle, and the loop that holds the writer for it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use weft_capabilities::sql::{Executed, Rows, SqlError, SqlTransaction, SqlValue, check_statement};

use crate::connection::Connection;
use crate::job::{Call, Effect, Output, Reply, Step, StepTask, Ticket};
use crate::schema::Schema;
use crate::{error, statement, writer};

/// How long a transaction may hold the writer without a statement: every other write waits meanwhile.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Steps on their way: one that is waited for, and one whose caller left.
const STEPS_MAX: usize = 2;

/// The caller's handle. Dropped, the transaction is rolled back.
pub(crate) struct Transaction {
    steps: SyncSender<Step>,
    deadline: Instant,
    ended: Arc<OnceLock<&'static str>>,
}

impl Transaction {
    async fn call(
        &mut self,
        statement: &str,
        params: Vec<SqlValue>,
        effect: Effect,
    ) -> Result<Output, SqlError> {
        check_statement(statement, &params)?;
        let call = Call::new(statement, params, effect, self.deadline);
        let send = |step| self.steps.try_send(step).is_ok();
        let answer = Step::ask(send, |reply| StepTask::Call(call, reply)).await;
        answer.unwrap_or_else(|| Err(self.rolled_back()))
    }

    async fn end(
        self,
        task: impl FnOnce(Reply<()>) -> StepTask,
        unknown: Option<SqlError>,
    ) -> Result<(), SqlError> {
        let send = |step| self.steps.try_send(step).is_ok();
        let answer = Step::ask(send, task).await;
        // Without a reason, the thread has gone in the middle.
        answer.unwrap_or_else(|| match (self.ended.get(), unknown) {
            (None, Some(unknown)) => Err(unknown),
            _ => Err(self.rolled_back()),
        })
    }

    fn rolled_back(&self) -> SqlError {
        let reason = self.ended.get().copied().unwrap_or("a statement's caller left");
        SqlError::RolledBack { reason }
    }
}

impl SqlTransaction for Transaction {
    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        async move {
            match self.call(statement, params, Effect::Rows).await? {
                Output::Rows(rows) => Ok(rows),
                Output::Executed(_) => Ok(Rows::default()),
            }
        }
        .boxed()
    }

    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        async move {
            match self.call(statement, params, Effect::Changes).await? {
                Output::Executed(executed) => Ok(executed),
                Output::Rows(_) => Ok(Executed { rows_affected: 0 }),
            }
        }
        .boxed()
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        self.end(StepTask::Commit, Some(SqlError::MayHaveCommitted))
            .boxed()
    }

    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        async move {
            match self.end(StepTask::Rollback, None).await {
                // It is what was asked for.
                Err(SqlError::RolledBack { .. }) => Ok(()),
                done => done,
            }
        }
        .boxed()
    }
}

/// Holds the writer for one transaction, from its begin to its end.
pub(crate) fn serve(
    connection: &Connection,
    schema: &Schema,
    deadline: Instant,
    reply: Reply<Transaction>,
    ticket: Ticket,
) {
    let (begun, stop) = connection.watched(Some(deadline), Some(ticket), |connection| {
        connection.own("BEGIN IMMEDIATE")
    });
    if let Err(failed) = begun {
        drop(reply.send(Err(statement::Failed::Sqlite(failed).explain(stop))));
        return;
    }
    let (steps, receiver) = sync_channel(STEPS_MAX);
    let ended = Arc::new(OnceLock::new());
    let handle = Transaction {
        steps,
        deadline,
        ended: ended.clone(),
    };
    let end = match reply.send(Ok(handle)) {
        Ok(()) => steps_of(connection, schema, deadline, &receiver),
        // The caller left before it had the handle.
        Err(_) => End::RolledBack("its caller left", None),
    };
    let (reason, asked) = match end {
        End::Committed => return,
        End::RolledBack(reason, asked) => (reason, asked),
    };
    // Told before the receiver goes, so that whoever finds it gone finds the reason.
    ended.get_or_init(|| reason);
    let done = if connection.sqlite.is_autocommit() {
        Ok(())
    } else {
        connection.own("ROLLBACK")
    };
    if let Some(asked) = asked {
        drop(asked.send(done.map_err(error::of_statement)));
    }
}

enum End {
    Committed,
    /// Why, and who asked for it.
    RolledBack(&'static str, Option<Reply<()>>),
}

fn steps_of(connection: &Connection, schema: &Schema, deadline: Instant, steps: &Receiver<Step>) -> End {
    let mut changes_schema = false;
    loop {
        let now = Instant::now();
        let idle_by = deadline.min(now + IDLE_MAX);
        let step = match steps.recv_timeout(idle_by.saturating_duration_since(now)) {
            Ok(step) => step,
            Err(RecvTimeoutError::Disconnected) => return End::RolledBack("it was dropped", None),
            Err(RecvTimeoutError::Timeout) if idle_by == deadline => {
                return End::RolledBack("its time was up", None);
            }
            Err(RecvTimeoutError::Timeout) => {
                return End::RolledBack("it held the database for too long without a statement", None);
            }
        };
        let ticket = step.ticket;
        if !ticket.start() {
            return End::RolledBack("a statement's caller left", None);
        }
        match step.task {
            StepTask::Call(call, reply) => {
                let answer = writer::run(connection, &call, ticket, |connection, statement, changes| {
                    changes_schema |= changes;
                    statement::run(connection, statement, &call.params, call.effect)
                });
                let deadline_exceeded = matches!(answer, Err(SqlError::DeadlineExceeded));
                if reply.send(answer).is_err() {
                    return End::RolledBack("a statement's caller left", None);
                }
                // SQLite rolls back by itself when a change is interrupted or the disk is full.
                if connection.sqlite.is_autocommit() || deadline_exceeded {
                    return End::RolledBack("a statement failed", None);
                }
            }
            StepTask::Commit(reply) => {
                let commit = || connection.own("COMMIT");
                let done = if changes_schema {
                    schema.change(commit)
                } else {
                    commit()
                };
                return match done {
                    Ok(()) => {
                        drop(reply.send(Ok(())));
                        End::Committed
                    }
                    Err(error) => {
                        let undone = !connection.sqlite.is_autocommit();
                        let told = if undone {
                            error::of_statement(error)
                        } else {
                            SqlError::MayHaveCommitted
                        };
                        drop(reply.send(Err(told)));
                        End::RolledBack("it could not be committed", None)
                    }
                };
            }
            StepTask::Rollback(reply) => return End::RolledBack("it was asked for", Some(reply)),
        }
    }
}
