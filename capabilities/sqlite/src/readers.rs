//! The read connections: on the caller's thread for what is known to be short, on threads of ours for the rest.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use weft_capabilities::sql::{Rows, SqlError, SqlValue};

use crate::connection::{Connection, Stop};
use crate::job::{Call, Effect, Job, Output, Queue, Task};
use crate::schema::Schema;
use crate::statement::{self, Shape};
use crate::writer::STACK_LEN;

/// Statements that a connection keeps prepared. Beyond them it starts over, as its actors then make statements up.
pub(crate) const PREPARED_MAX: usize = 256;

/// What is known of a statement.
#[derive(Clone)]
enum Way {
    /// Prepared, and it was short.
    Inline(Arc<Shape>),
    /// Prepared, and it was long.
    Thread,
    /// Not a read.
    Writer,
}

struct Reader {
    connection: Connection,
    /// Statements of schema number `schema`. All but those of the writer are in the connection's cache.
    known: HashMap<String, Way>,
    schema: u64,
}

struct Pool {
    /// `None` once closed.
    idle: Mutex<Option<Vec<Reader>>>,
    freed: Condvar,
    /// Threads that wait for `freed`, counted under the lock: to wake no one is a system call, too.
    waiting: AtomicUsize,
    schema: Arc<Schema>,
}

/// What came of a query on its caller's thread.
pub(crate) enum Inline {
    Done(Result<Rows, SqlError>),
    /// It must run on a thread of ours.
    Elsewhere,
    /// It is not a read.
    Writes,
}

pub(crate) struct Readers {
    pool: Arc<Pool>,
    queue: Queue,
    ended: watch::Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(crate) fn start(
        connections: Vec<Connection>,
        schema: Arc<Schema>,
        writer: &Queue,
    ) -> io::Result<Self> {
        let readers = connections.into_iter().map(|connection| {
            connection
                .sqlite
                .set_prepared_statement_cache_capacity(PREPARED_MAX);
            Reader {
                connection,
                known: HashMap::new(),
                schema: 0,
            }
        });
        let readers: Vec<_> = readers.collect();
        let count = readers.len();
        let pool = Arc::new(Pool {
            idle: Mutex::new(Some(readers)),
            freed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            schema,
        });
        let (queue, jobs) = Queue::new();
        let jobs = Arc::new(Mutex::new(jobs));
        let (alive, ended) = watch::channel(());
        let mut this = Self {
            pool,
            queue,
            ended,
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (pool, jobs, writer, alive) =
                (this.pool.clone(), jobs.clone(), writer.clone(), alive.clone());
            let thread = std::thread::Builder::new()
                .name("sqlite-reader".to_owned())
                .stack_size(STACK_LEN);
            this.threads.push(thread.spawn(move || {
                serve(&pool, &jobs, &writer);
                drop(alive);
            })?);
        }
        Ok(this)
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Runs a query here and now, if it is known, short, and a connection that has it prepared is free.
    pub(crate) fn try_inline(
        &self,
        statement: &str,
        params: &[SqlValue],
        deadline: Option<Instant>,
    ) -> Inline {
        // Held until the end: no change of the schema is committed meanwhile.
        let Some(_held) = self.pool.schema.try_hold() else {
            return Inline::Elsewhere;
        };
        let schema = self.pool.schema.number();
        let (mut reader, shape) = {
            let mut idle = self.pool.idle();
            let Some(idle) = idle.as_mut() else {
                return Inline::Elsewhere;
            };
            let way = |reader: &Reader| {
                let known = (reader.schema == schema).then(|| reader.known.get(statement))?;
                known.cloned()
            };
            let knows = idle
                .iter()
                .enumerate()
                .rev()
                .find_map(|(at, reader)| Some((at, way(reader)?)));
            match knows {
                Some((at, Way::Inline(shape))) => (idle.swap_remove(at), shape),
                Some((_, Way::Writer)) => return Inline::Writes,
                Some((_, Way::Thread)) | None => return Inline::Elsewhere,
            }
        };
        let (done, stop) = reader.connection.watched(deadline, None, |connection| {
            let mut prepared = connection.sqlite.prepare_cached(statement)?;
            statement::read(&mut prepared, params, &shape)
        });
        if stop == Some(Stop::Long) {
            reader.known.insert(statement.to_owned(), Way::Thread);
        }
        self.pool.give_back(reader);
        match done {
            Ok(Output::Rows(rows)) => Inline::Done(Ok(rows)),
            Err(_) if stop == Some(Stop::Long) => Inline::Elsewhere,
            Err(failed) => Inline::Done(Err(failed.explain(stop))),
            Ok(Output::Executed(_)) => Inline::Elsewhere,
        }
    }

    pub(crate) async fn close(&self) {
        self.queue.close();
        while self.ended.clone().changed().await.is_ok() {}
        *self.pool.idle() = None;
    }
}

impl Drop for Readers {
    /// Waits for what was accepted. A host closes first, and then waits for nothing.
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Option<Vec<Reader>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a connection. There are as many as threads, and callers keep one for a moment only.
    fn take(&self) -> Option<Reader> {
        let mut idle = self.idle();
        loop {
            if let Some(reader) = idle.as_mut()?.pop() {
                return Some(reader);
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            idle = self.freed.wait(idle).unwrap_or_else(PoisonError::into_inner);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn give_back(&self, reader: Reader) {
        let mut idle = self.idle();
        if let Some(idle) = idle.as_mut() {
            idle.push(reader);
        }
        let is_awaited = self.waiting.load(Ordering::Relaxed) > 0;
        drop(idle);
        if is_awaited {
            self.freed.notify_one();
        }
    }
}

fn serve(pool: &Pool, jobs: &Mutex<mpsc::Receiver<Job>>, writer: &Queue) {
    loop {
        let job = jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        let Some(job) = job else { return };
        if !job.ticket.start() {
            continue;
        }
        let Some(mut reader) = pool.take() else { return };
        let answer = match &job.task {
            Task::Call(call, _) => reader.run(call, &job, pool.schema.number()),
            Task::Begin(..) => None,
        };
        pool.give_back(reader);
        match (answer, job) {
            (
                Some(answer),
                Job {
                    task: Task::Call(_, reply),
                    ..
                },
            ) => drop(reply.send(answer)),
            (_, job) => {
                if job.ticket.pass_on() {
                    writer.pass_on(job);
                }
            }
        }
    }
}

impl Reader {
    /// Runs a read on this thread. `None` if it is none.
    fn run(&mut self, call: &Call, job: &Job, schema: u64) -> Option<Result<Output, SqlError>> {
        if self.schema != schema || self.known.len() >= PREPARED_MAX {
            self.known.clear();
            self.connection.sqlite.flush_prepared_statement_cache();
            self.schema = schema;
        }
        let (mut writes, mut way) = (false, Way::Writer);
        let (done, stop) =
            self.connection
                .watched(Some(call.deadline), Some(job.ticket.clone()), |connection| {
                    let mut prepared = connection.sqlite.prepare_cached(&call.statement)?;
                    if !prepared.readonly() {
                        writes = true;
                        prepared.discard();
                        return Ok(Output::Rows(Rows::default()));
                    }
                    let done = statement::run(connection, &mut prepared, &call.params, Effect::Rows);
                    way = Way::Inline(Arc::new(Shape::of(&prepared)?));
                    done
                });
        let is_long = matches!(self.known.get(&call.statement), Some(Way::Thread));
        if done.is_ok() && !is_long {
            self.known.insert(call.statement.clone(), way);
        }
        if writes {
            return None;
        }
        Some(done.map_err(|failed| failed.explain(stop)))
    }
}
