//! What is sent to a thread, and how its caller waits for the answer.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use weft_capabilities::sql::{Executed, Rows, SqlError, SqlValue};

use crate::transaction::Transaction;

/// Statements that wait for a thread, at most.
const QUEUE_LEN_MAX: usize = 256;
/// KiB of parameters that wait, at most: four of the largest.
const QUEUE_KIB_MAX: u32 = 64 << 10;
/// How long a statement waits for a seat in the queue.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// Where a statement is, agreed between its caller and the thread that runs it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket(Arc<AtomicU8>);

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const LEFT: u8 = 2;

impl Ticket {
    fn new() -> Self {
        Self(Arc::new(AtomicU8::new(WAITING)))
    }

    /// The thread begins. `false` if nobody wants it any more.
    pub(crate) fn start(&self) -> bool {
        self.swap(WAITING, RUNNING)
    }

    /// The thread passes it on to another.
    pub(crate) fn pass_on(&self) -> bool {
        self.swap(RUNNING, WAITING)
    }

    /// The caller takes it back, if it has not begun.
    fn withdraw(&self) -> bool {
        self.swap(WAITING, LEFT)
    }

    pub(crate) fn is_left(&self) -> bool {
        self.0.load(Ordering::Acquire) == LEFT
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// The caller's half: gone, it stops what runs.
struct Caller(Ticket);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.0.store(LEFT, Ordering::Release);
    }
}

/// What the caller wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Rows,
    Changes,
}

#[derive(Debug)]
pub(crate) enum Output {
    Rows(Rows),
    Executed(Executed),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, SqlError>>;

/// A statement on its way.
pub(crate) struct Call {
    pub(crate) statement: String,
    pub(crate) params: Vec<SqlValue>,
    pub(crate) effect: Effect,
    pub(crate) deadline: Instant,
}

impl Call {
    pub(crate) fn new(statement: &str, params: Vec<SqlValue>, effect: Effect, deadline: Instant) -> Self {
        Self {
            statement: statement.to_owned(),
            params,
            effect,
            deadline,
        }
    }
}

pub(crate) struct Job {
    pub(crate) task: Task,
    pub(crate) ticket: Ticket,
    _bytes: Option<OwnedSemaphorePermit>,
}

pub(crate) enum Task {
    Call(Call, Reply<Output>),
    Begin(Instant, Reply<Transaction>),
}

/// The way to a thread, or to several with the same work.
#[derive(Clone)]
pub(crate) struct Queue {
    /// `None` once closed.
    jobs: Arc<Mutex<Option<mpsc::Sender<Job>>>>,
    bytes: Arc<Semaphore>,
}

impl Queue {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel(QUEUE_LEN_MAX);
        let queue = Self {
            jobs: Arc::new(Mutex::new(Some(jobs))),
            bytes: Arc::new(Semaphore::new(QUEUE_KIB_MAX as usize)),
        };
        (queue, receiver)
    }

    pub(crate) async fn call(&self, call: Call) -> Result<Output, SqlError> {
        let deadline = call.deadline;
        let bytes = call.params.iter().map(SqlValue::len).sum::<usize>() + call.statement.len();
        self.ask(bytes, deadline, |reply| Task::Call(call, reply)).await
    }

    pub(crate) async fn begin(&self, deadline: Instant) -> Result<Transaction, SqlError> {
        self.ask(0, deadline, |reply| Task::Begin(deadline, reply)).await
    }

    /// Passes on what another thread had begun. Never waits.
    pub(crate) fn pass_on(&self, job: Job) {
        let jobs = self.jobs();
        let refused = match jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            None => return,
            Some(Ok(())) => return,
            Some(Err(mpsc::error::TrySendError::Closed(_))) => return,
            Some(Err(mpsc::error::TrySendError::Full(job))) => job,
        };
        if let Task::Call(_, reply) = refused.task {
            drop(reply.send(Err(SqlError::Busy)));
        }
    }

    /// Refuses what comes; what is queued is still done.
    pub(crate) fn close(&self) {
        self.jobs().take();
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(
        &self,
        bytes: usize,
        deadline: Instant,
        task: impl FnOnce(Reply<T>) -> Task,
    ) -> Result<T, SqlError> {
        let jobs = self.jobs().clone().ok_or(SqlError::Closed)?;
        let kib = u32::try_from(bytes >> 10)
            .unwrap_or(u32::MAX)
            .clamp(1, QUEUE_KIB_MAX);
        let seat = async {
            let bytes = self.bytes.clone().acquire_many_owned(kib).await.ok()?;
            Some((bytes, jobs.reserve().await.ok()?))
        };
        let seat_by = deadline.min(Instant::now() + QUEUE_WAIT);
        let (bytes, seat) = match tokio::time::timeout_at(seat_by.into(), seat).await {
            Ok(seat) => seat.ok_or(SqlError::Closed)?,
            Err(_) if seat_by == deadline => return Err(SqlError::DeadlineExceeded),
            Err(_) => return Err(SqlError::Busy),
        };
        let (reply, mut answer) = oneshot::channel();
        let caller = Caller(Ticket::new());
        seat.send(Job {
            task: task(reply),
            ticket: caller.0.clone(),
            _bytes: Some(bytes),
        });
        drop(jobs);
        let answer = match tokio::time::timeout_at(deadline.into(), &mut answer).await {
            Ok(answer) => answer,
            Err(_) if caller.0.withdraw() => return Err(SqlError::DeadlineExceeded),
            // It runs, and is stopped by the same deadline: its thread knows whether it was done before.
            Err(_) => answer.await,
        };
        answer.unwrap_or_else(|_| {
            Err(if caller.0.withdraw() {
                SqlError::Closed
            } else {
                SqlError::MayHaveCommitted
            })
        })
    }
}

/// One step of a transaction, which has no queue: its caller waits for each.
pub(crate) struct Step {
    pub(crate) task: StepTask,
    pub(crate) ticket: Ticket,
}

pub(crate) enum StepTask {
    Call(Call, Reply<Output>),
    Commit(Reply<()>),
    Rollback(Reply<()>),
}

impl Step {
    /// Sends a step with `send`, and waits for its answer. `None` if there is none.
    pub(crate) async fn ask<T>(
        send: impl FnOnce(Self) -> bool,
        task: impl FnOnce(Reply<T>) -> StepTask,
    ) -> Option<Result<T, SqlError>> {
        let (reply, answer) = oneshot::channel();
        let caller = Caller(Ticket::new());
        let step = Self {
            task: task(reply),
            ticket: caller.0.clone(),
        };
        if !send(step) {
            return None;
        }
        let answer = answer.await.ok();
        drop(caller);
        answer
    }
}
