//! The thread that writes the file.
//!
//! Owns the order of commits: transactions that wait are applied one after the other in one redb transaction, with one
//! sync (group commit), and answered when it is safe. A write that the disk fails, as when it is full, ends redb's use of
//! the file, for reads too: it is opened again here. Must not know what a transaction means.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::history::History;
use super::super::{CommitError, Event, Index, StorageError, Transaction};
use super::state::{self, Answer, Tables};
use super::{File, OpenError, closed};

/// The most transactions that share a sync: the wait of the first grows with each.
const GROUP_LEN_MAX: usize = 64;

/// How often a file that could not be opened again is tried, and whether a transaction came meanwhile.
const AGAIN_EACH: Duration = Duration::from_secs(1);
const QUEUE_LOOK: Duration = Duration::from_millis(20);

/// A transaction on its way.
pub(super) struct Commit {
    pub(super) transaction: Transaction,
    pub(super) answer: oneshot::Sender<Answer>,
}

pub(super) enum Message {
    Commit(Commit),
    /// No more transactions; the sender is dropped when all that came before are answered.
    Close(oneshot::Sender<()>),
}

/// Opens the file again.
pub(super) type Again = Box<dyn FnMut() -> Result<(Database, Index), OpenError> + Send>;

pub(super) struct Writer {
    file: Arc<File>,
    again: Again,
    /// When it was opened last, or tried to be.
    tried: Instant,
    history: Arc<History>,
    moving: watch::Sender<Index>,
}

impl Writer {
    pub(super) fn new(
        file: Arc<File>,
        again: Again,
        history: Arc<History>,
        moving: watch::Sender<Index>,
    ) -> Self {
        Self {
            file,
            again,
            tried: Instant::now(),
            history,
            moving,
        }
    }

    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut closing = Vec::new();
        while let Some(first) = self.next(&mut queue) {
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Commit(commit) => group.push(commit),
                    Message::Close(done) => {
                        queue.close();
                        closing.push(done);
                    }
                }
                next = (group.len() < GROUP_LEN_MAX)
                    .then(|| queue.try_recv().ok())
                    .flatten();
            }
            if !group.is_empty() {
                self.commit(group);
            }
        }
    }

    /// The next of the queue; `None` when there will be none. A file that is not open is tried meanwhile.
    fn next(&mut self, queue: &mut mpsc::Receiver<Message>) -> Option<Message> {
        while self.file.load().is_none() {
            if self.tried.elapsed() >= AGAIN_EACH {
                self.open_again();
            }
            match queue.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => sleep(QUEUE_LOOK),
            }
        }
        queue.blocking_recv()
    }

    /// Closes the file and opens it again. Who reads it just now has it open: then another try does.
    fn open_again(&mut self) {
        self.tried = Instant::now();
        let was_open = self.file.swap(None).is_some();
        match (self.again)() {
            Ok((db, index)) => {
                // What the disk failed may be there nevertheless, or only now be known not to be.
                if index != *self.moving.borrow() {
                    self.history.reset(index);
                    self.moving.send_replace(index);
                }
                self.file.store(Some(Arc::new(db)));
                if !was_open {
                    tracing::info!("the control store is open again");
                }
            }
            Err(error) if was_open => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the disk failed the control store, which can't be opened again: it is tried each second"
            ),
            Err(_) => {}
        }
    }

    fn commit(&mut self, group: Vec<Commit>) {
        let Some(db) = self.file.load_full() else {
            for commit in group {
                // Who has gone is not waiting.
                commit.answer.send(Err(CommitError::Unavailable(closed()))).ok();
            }
            return;
        };
        let written = write(&db, &group);
        drop(db);
        let answers = written.unwrap_or_else(|error| {
            let error = StorageError::from(error);
            tracing::error!(%error, "failed to commit to the control store");
            self.open_again();
            let failed = || (Err(CommitError::Storage(error.clone())), None);
            group.iter().map(|_| failed()).collect()
        });
        // Only now is all of it safe, and may be seen: first by watchers, so that who is answered finds them there.
        for (commit, (answer, event)) in group.into_iter().zip(answers) {
            if let Some(event) = event {
                let index = event.index;
                self.history.push(event);
                self.moving.send_replace(index);
            }
            // A sender that has gone does not undo what it sent.
            commit.answer.send(answer).ok();
        }
    }
}

fn write(db: &Database, group: &[Commit]) -> Result<Vec<(Answer, Option<Event>)>, redb::Error> {
    let txn = state::begin(db)?;
    let mut tables = Tables::open(&txn)?;
    let applied = group.iter().map(|commit| tables.apply(&commit.transaction));
    let applied = applied.collect::<Result<_, _>>()?;
    tables.close()?;
    txn.commit()?;
    Ok(applied)
}
