//! The requests of one connection that wait for a reply, by the token that their reply's subject ends with.
//!
//! A request is out of the table when its reply came or its future was dropped, so who gives up leaves nothing behind.
//! How many there are is bounded by those who ask.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    waiting: HashMap<u64, Request>,
}

struct Request {
    subject: Subject,
    /// Where the reply is awaited: an app that has the token may not say it is another's.
    reply: Subject,
    sender: oneshot::Sender<Result<Message, Unanswered>>,
}

/// A request that waits. Dropped, it is forgotten.
pub(crate) struct Waiting {
    /// Where the reply is awaited.
    pub(crate) reply: Subject,
    token: u64,
    arrives: oneshot::Receiver<Result<Message, Unanswered>>,
    replies: Replies,
}

impl Replies {
    /// Enters a request to `subject`, whose reply's subject is a token after `inbox`.
    pub(crate) fn enter(&self, subject: Subject, inbox: &str) -> Result<Waiting, Unanswered> {
        let mut table = self.lock();
        if table.is_lost {
            return Err(Unanswered::Lost);
        }
        let token = table.next;
        table.next += 1;
        let (sender, arrives) = oneshot::channel();
        let reply = Subject::from(format!("{inbox}.{token}"));
        let request = Request {
            subject,
            reply: reply.clone(),
            sender,
        };
        table.waiting.insert(token, request);
        Ok(Waiting {
            reply,
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
        let waiting = match self.lock().waiting.entry(token) {
            Entry::Occupied(entry) if entry.get().reply == message.subject => entry.remove(),
            _ => return,
        };
        let arrived = match message.status {
            Some(StatusCode::NO_RESPONDERS) => Err(Unanswered::NoResponders),
            _ => Ok(message),
        };
        drop(waiting.sender.send(arrived));
    }

    /// Ends all that wait, as their replies can't come any more, and all that come later.
    pub(crate) fn lose(&self) {
        let waiting = {
            let mut table = self.lock();
            table.is_lost = true;
            std::mem::take(&mut table.waiting)
        };
        for request in waiting.into_values() {
            drop(request.sender.send(Err(Unanswered::Lost)));
        }
    }

    /// Ends those whose subject the server's complaint quotes: they may not be sent, and nobody else tells them.
    pub(crate) fn deny(&self, complaint: &str) {
        let mut table = self.lock();
        let denied = table
            .waiting
            .extract_if(|_, request| complaint.contains(&format!(" \"{}\"", request.subject)));
        for (_, request) in denied {
            drop(request.sender.send(Err(Unanswered::Denied)));
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

    const INBOX: &str = "_INBOX.x";

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
            replies.enter("a".into(), INBOX).unwrap(),
            replies.enter("b".into(), INBOX).unwrap(),
        );
        replies.arrive(message(two.token, None));
        replies.arrive(message(one.token, Some(StatusCode::NO_RESPONDERS)));
        replies.arrive(message(77, None));
        assert_eq!(two.arrived().await.unwrap().payload, "hello");
        assert_eq!(one.arrived().await.unwrap_err(), Unanswered::NoResponders);
    }

    #[tokio::test]
    async fn what_comes_elsewhere_with_the_right_token_is_no_reply() {
        let replies = Replies::default();
        let waiting = replies.enter("a".into(), "weft-reply.default.shop.x").unwrap();
        replies.arrive(message(waiting.token, None));
        assert!(!replies.lock().waiting.is_empty());
        replies.lose();
        assert_eq!(waiting.arrived().await.unwrap_err(), Unanswered::Lost);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let replies = Replies::default();
        drop(replies.enter("a".into(), INBOX).unwrap());
        assert!(replies.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_complaint_ends_those_whom_it_is_about() {
        let replies = Replies::default();
        let denied = replies.enter("$KV.weft.a".into(), INBOX).unwrap();
        let other = replies.enter("$KV.weft.ab".into(), INBOX).unwrap();
        replies.deny("Permissions Violation for Publish to \"$KV.weft.a\"");
        assert_eq!(denied.arrived().await.unwrap_err(), Unanswered::Denied);
        replies.lose();
        assert_eq!(other.arrived().await.unwrap_err(), Unanswered::Lost);
        assert_eq!(replies.enter("c".into(), INBOX).err(), Some(Unanswered::Lost));
    }
}
