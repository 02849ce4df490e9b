//! The requests of one connection that wait for a reply, by the token that their reply's subject ends with.
//!
//! A request is out of the table when its reply came or its future was dropped, so who gives up leaves nothing behind.
//! How many there are is bounded by those who ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Message, StatusCode, Subject};
use tokio::sync::oneshot;

use crate::error::Unanswered;

/// The table. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Replies(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    is_lost: bool,
    waiting: HashMap<u64, (Subject, oneshot::Sender<Result<Message, Unanswered>>)>,
}

/// A request that waits. Dropped, it is forgotten.
pub(crate) struct Waiting {
    pub(crate) token: u64,
    arrives: oneshot::Receiver<Result<Message, Unanswered>>,
    replies: Replies,
}

impl Replies {
    /// Enters a request to `subject`.
    pub(crate) fn enter(&self, subject: Subject) -> Result<Waiting, Unanswered> {
        let mut table = self.lock();
        if table.is_lost {
            return Err(Unanswered::Lost);
        }
        let token = table.next;
        table.next += 1;
        let (sender, arrives) = oneshot::channel();
        table.waiting.insert(token, (subject, sender));
        Ok(Waiting {
            token,
            arrives,
            replies: self.clone(),
        })
    }

    /// Hands over what came. What nobody waits for any more is dropped.
    pub(crate) fn arrive(&self, message: Message) {
        let token = message.subject.rsplit_once('.');
        let Some(token) = token.and_then(|(_, token)| token.parse().ok()) else {
            return;
        };
        let waiting = self.lock().waiting.remove(&token);
        let arrived = match message.status {
            Some(StatusCode::NO_RESPONDERS) => Err(Unanswered::NoResponders),
            _ => Ok(message),
        };
        if let Some((_, sender)) = waiting {
            drop(sender.send(arrived));
        }
    }

    /// Ends all that wait, as their replies can't come any more, and all that come later.
    pub(crate) fn lose(&self) {
        let waiting = {
            let mut table = self.lock();
            table.is_lost = true;
            std::mem::take(&mut table.waiting)
        };
        for (_, sender) in waiting.into_values() {
            drop(sender.send(Err(Unanswered::Lost)));
        }
    }

    /// Ends those whose subject the server's complaint quotes: they may not be sent, and nobody else tells them.
    pub(crate) fn deny(&self, complaint: &str) {
        let mut table = self.lock();
        let denied = table
            .waiting
            .extract_if(|_, (subject, _)| complaint.contains(&format!("\"{subject}\"")));
        for (_, (_, sender)) in denied {
            drop(sender.send(Err(Unanswered::Denied)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    pub(crate) async fn arrived(mut self) -> Result<Message, Unanswered> {
        (&mut self.arrives).await.unwrap_or(Err(Unanswered::Lost))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.replies.lock().waiting.remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(token: u64, status: Option<StatusCode>) -> Message {
        Message {
            subject: format!("_INBOX.x.{token}").into(),
            reply: None,
            payload: "hello".into(),
            headers: None,
            status,
            description: None,
            length: 0,
        }
    }

    #[tokio::test]
    async fn a_reply_reaches_who_waits_for_it() {
        let replies = Replies::default();
        let (one, two) = (
            replies.enter("a".into()).unwrap(),
            replies.enter("b".into()).unwrap(),
        );
        replies.arrive(message(two.token, None));
        replies.arrive(message(one.token, Some(StatusCode::NO_RESPONDERS)));
        replies.arrive(message(77, None));
        assert_eq!(two.arrived().await.unwrap().payload, "hello");
        assert_eq!(one.arrived().await.unwrap_err(), Unanswered::NoResponders);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let replies = Replies::default();
        drop(replies.enter("a".into()).unwrap());
        assert!(replies.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_complaint_ends_those_whom_it_is_about() {
        let replies = Replies::default();
        let denied = replies.enter("$KV.weft.a".into()).unwrap();
        let other = replies.enter("$KV.weft.ab".into()).unwrap();
        replies.deny("Permissions Violation for Publish to \"$KV.weft.a\"");
        assert_eq!(denied.arrived().await.unwrap_err(), Unanswered::Denied);
        replies.lose();
        assert_eq!(other.arrived().await.unwrap_err(), Unanswered::Lost);
        assert_eq!(replies.enter("c".into()).err(), Some(Unanswered::Lost));
    }
}
