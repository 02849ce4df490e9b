//! The thread that writes the file.
//!
//! Owns the order of commits: transactions that wait are applied one after the other in one redb transaction, with one
//! sync (group commit), and answered when it is safe. Must not know what a transaction means.

use std::sync::Arc;

use redb::Database;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::history::History;
use super::super::{CommitError, Event, Index, StorageError, Transaction};
use super::state::{self, Answer, Tables};

/// The most transactions that share a sync: the wait of the first grows with each.
const GROUP_LEN_MAX: usize = 64;

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

pub(super) struct Writer {
    db: Arc<Database>,
    history: Arc<History>,
    moving: watch::Sender<Index>,
}

impl Writer {
    pub(super) fn new(db: Arc<Database>, history: Arc<History>, moving: watch::Sender<Index>) -> Self {
        Self { db, history, moving }
    }

    /// Runs until the queue is closed and empty.
    pub(super) fn run(self, mut queue: mpsc::Receiver<Message>) {
        let mut closing = Vec::new();
        while let Some(first) = queue.blocking_recv() {
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

    fn commit(&self, group: Vec<Commit>) {
        let answers = match self.write(&group) {
            Ok(applied) => applied,
            Err(error) => {
                let error = StorageError::from(error);
                tracing::error!(%error, "failed to commit to the control store");
                let failed = || (Err(CommitError::Storage(error.clone())), None);
                group.iter().map(|_| failed()).collect()
            }
        };
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

    fn write(&self, group: &[Commit]) -> Result<Vec<(Answer, Option<Event>)>, redb::Error> {
        let txn = state::begin(&self.db)?;
        let mut tables = Tables::open(&txn)?;
        let applied = group.iter().map(|commit| tables.apply(&commit.transaction));
        let applied = applied.collect::<Result<_, _>>()?;
        tables.close()?;
        txn.commit()?;
        Ok(applied)
    }
}
