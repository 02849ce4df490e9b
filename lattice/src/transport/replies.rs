//! The requests of one connection that wait for a reply, by the token that their reply subject ends with.
//!
//! Owns the table and its bound. A request is out of it when its reply came or its future was dropped, so a caller that
//! gives up leaves nothing behind.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{TransportError, WAITING_MAX};
use crate::subject::Subject;

/// What a reply's message says: bytes, or that nobody serves the subject.
#[derive(Debug)]
pub(crate) enum Arrived {
    Reply(Bytes),
    NoResponders,
    ConnectionLost,
    /// It did not go out.
    NotSent(TransportError),
}

/// The table. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Replies(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
}

struct Waiter {
    sender: oneshot::Sender<Arrived>,
    /// The batch that it went out with.
    batch: Option<u64>,
}

/// A request that waits. Dropped, it is forgotten.
pub(crate) struct Waiting {
    token: u64,
    subject: Subject,
    arrives: oneshot::Receiver<Arrived>,
    /// It is out of the table already.
    done: bool,
    table: Replies,
}

impl Replies {
    /// Enters a request to `subject`.
    pub(crate) fn enter(&self, subject: &Subject) -> Result<Waiting, TransportError> {
        let mut table = self.lock();
        if table.waiting.len() >= WAITING_MAX {
            return Err(TransportError::Full);
        }
        let token = table.next;
        table.next += 1;
        let (sender, arrives) = oneshot::channel();
        table.waiting.insert(token, Waiter { sender, batch: None });
        Ok(Waiting {
            token,
            subject: subject.clone(),
            arrives,
            done: false,
            table: self.clone(),
        })
    }

    /// Hands over what came for `token`; whether somebody waits for it.
    pub(crate) fn arrive(&self, token: u64, arrived: Arrived) -> bool {
        let waiting = self.lock().waiting.remove(&token);
        waiting.is_some_and(|waiting| waiting.sender.send(arrived).is_ok())
    }

    /// Enters those of `parts` that still wait as one batch, and gives its number.
    pub(crate) fn batch(&self, mut parts: Vec<(u64, Bytes)>) -> (u64, Vec<(u64, Bytes)>) {
        let mut table = self.lock();
        let batch = table.next;
        table.next += 1;
        parts.retain(|(token, _)| match table.waiting.get_mut(token) {
            Some(waiter) => {
                waiter.batch = Some(batch);
                true
            }
            None => false,
        });
        (batch, parts)
    }

    /// Tells all of a batch that nobody serves their subject.
    pub(crate) fn no_responders(&self, batch: u64) {
        let mut table = self.lock();
        let unheard = table
            .waiting
            .extract_if(.., |_, waiter| waiter.batch == Some(batch));
        for (_, waiter) in unheard {
            // Who gave up meanwhile needs no word of it.
            let _ = waiter.sender.send(Arrived::NoResponders);
        }
    }

    /// Ends all that wait, as their replies can't come any more.
    pub(crate) fn connection_lost(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for waiter in waiting.into_values() {
            // Who gave up meanwhile needs no word of it.
            let _ = waiter.sender.send(Arrived::ConnectionLost);
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    pub(crate) fn token(&self) -> u64 {
        self.token
    }
}

impl Future for Waiting {
    type Output = Result<Bytes, TransportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.arrives).poll(cx).map(|arrived| {
            self.done = true;
            match arrived {
                Ok(Arrived::Reply(reply)) => Ok(reply),
                Ok(Arrived::NoResponders) => Err(TransportError::NoResponders(self.subject.clone())),
                Ok(Arrived::NotSent(error)) => Err(error),
                Ok(Arrived::ConnectionLost) | Err(_) => {
                    Err(TransportError::ConnectionLost(self.subject.clone()))
                }
            }
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done {
            self.table.lock().waiting.remove(&self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Subjects;

    fn subject() -> Subject {
        Subjects::new("test").unwrap().raft("1").unwrap()
    }

    #[tokio::test]
    async fn a_reply_reaches_who_waits_and_a_second_one_nobody() {
        let replies = Replies::default();
        let waiting = replies.enter(&subject()).unwrap();
        let token = waiting.token();
        assert!(replies.arrive(token, Arrived::Reply("x".into())));
        assert!(!replies.arrive(token, Arrived::Reply("y".into())));
        assert_eq!(waiting.await.unwrap(), "x");
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let replies = Replies::default();
        let waiting = replies.enter(&subject()).unwrap();
        let token = waiting.token();
        drop(waiting);
        assert_eq!(replies.len(), 0);
        assert!(!replies.arrive(token, Arrived::Reply("x".into())));
    }

    #[tokio::test]
    async fn a_lost_connection_ends_all_that_wait() {
        let replies = Replies::default();
        let waiting = replies.enter(&subject()).unwrap();
        replies.connection_lost();
        assert_eq!(waiting.await, Err(TransportError::ConnectionLost(subject())));
    }

    #[tokio::test]
    async fn who_gave_up_is_not_in_the_batch_and_the_others_hear_that_nobody_serves_it() {
        let replies = Replies::default();
        let [first, gone, other] = [(); 3].map(|()| replies.enter(&subject()).unwrap());
        let part = |waiting: &Waiting| (waiting.token(), Bytes::new());
        let parts = vec![part(&first), part(&gone)];
        drop(gone);
        let (batch, parts) = replies.batch(parts);
        assert_eq!(parts, [part(&first)]);
        replies.no_responders(batch);
        assert_eq!(first.await, Err(TransportError::NoResponders(subject())));
        assert_eq!(replies.len(), 1);
        drop(other);
    }

    #[test]
    fn no_more_wait_than_the_bound() {
        let replies = Replies::default();
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| replies.enter(&subject()).unwrap())
            .collect();
        assert_eq!(replies.enter(&subject()).err(), Some(TransportError::Full));
        drop(waiting);
        assert!(replies.enter(&subject()).is_ok());
    }
}
