//! The writer: a thread that runs each statement that is not a read, one after the other.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Statement;
use tokio::sync::{mpsc, watch};
use weft_capabilities::sql::SqlError;

use crate::connection::Connection;
use crate::job::{Call, Job, Output, Queue, Task, Ticket};
use crate::readers::PREPARED_MAX;
use crate::schema::Schema;
use crate::statement::{self, Failed};
use crate::transaction;

/// The stack of our threads: many times what the deepest statement that the limits allow was seen to need.
pub(crate) const STACK_LEN: usize = 16 << 20;

pub(crate) struct Writer {
    queue: Queue,
    ended: watch::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(connection: Connection, schema: Arc<Schema>) -> io::Result<Self> {
        let (queue, jobs) = Queue::new();
        let (alive, ended) = watch::channel(());
        connection
            .sqlite
            .set_prepared_statement_cache_capacity(PREPARED_MAX);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .stack_size(STACK_LEN);
        let thread = thread.spawn(move || {
            serve(&connection, jobs, &schema);
            drop(connection);
            drop(alive);
        })?;
        Ok(Self {
            queue,
            ended,
            thread: Some(thread),
        })
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) async fn close(&self) {
        self.queue.close();
        while self.ended.clone().changed().await.is_ok() {}
    }
}

impl Drop for Writer {
    /// Waits for what was accepted. A host closes first, and then waits for nothing.
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(connection: &Connection, mut jobs: mpsc::Receiver<Job>, schema: &Schema) {
    while let Some(job) = jobs.blocking_recv() {
        if !job.ticket.start() {
            continue;
        }
        match job.task {
            Task::Call(call, reply) => {
                let answer = if Instant::now() >= call.deadline {
                    Err(SqlError::DeadlineExceeded)
                } else {
                    run(
                        connection,
                        &call,
                        job.ticket,
                        |connection, statement, changes_schema| {
                            let mut run = || statement::run(connection, statement, &call.params, call.effect);
                            if changes_schema { schema.change(run) } else { run() }
                        },
                    )
                };
                drop(reply.send(answer));
            }
            Task::Begin(deadline, reply) => {
                transaction::serve(connection, schema, deadline, reply, job.ticket)
            }
        }
    }
}

/// Prepares and runs a statement with `step`, which is told whether the statement changes the schema.
pub(crate) fn run(
    connection: &Connection,
    call: &Call,
    ticket: Ticket,
    step: impl FnOnce(&Connection, &mut Statement<'_>, bool) -> Result<Output, Failed>,
) -> Result<Output, SqlError> {
    connection.take_changes_schema();
    let (done, stop) = connection.watched(Some(call.deadline), Some(ticket), |connection| {
        let mut prepared = connection.sqlite.prepare_cached(&call.statement)?;
        let changes_schema = connection.take_changes_schema();
        let done = step(connection, &mut prepared, changes_schema);
        if changes_schema {
            // It is not run again soon, and only its first preparation tells what it is.
            prepared.discard();
        }
        done
    });
    done.map_err(|failed| failed.explain(stop))
}
