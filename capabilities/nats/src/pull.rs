//! Messages out of a consumer of JetStream, which are asked for as there is room for them.
//!
//! Owns how a consumer is made and asked, and what the server says of that, on one connection. What becomes of a message, and
//! who asks again on the next connection, is the caller's.

use std::time::Duration;

use async_nats::Message;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::jetstream::{self, API, Failure, nanos};
use crate::link::Connection;

/// How long a pull is open. The server ends it then, and says so; after twice that time without a word it is asked anew.
const OPEN_WAIT: Duration = Duration::from_secs(5);
/// How long who leaves waits for what the server may be sending: where much comes, that is all that was asked for.
const LEAVE_WAIT: Duration = Duration::from_millis(100);
/// What is left of a pull that has ended.
const PENDING: &str = "Nats-Pending-Messages";

const NO_MESSAGES: u16 = 404;
const TIMED_OUT: u16 = 408;

/// A consumer that is pulled from.
pub(crate) struct Pull {
    pub(crate) connection: Connection,
    /// What is pulled, and the server's words about it.
    told: async_nats::Subscriber,
    /// Where it is asked for.
    subject: String,
    inbox: String,
    /// Messages that are asked for, or were and wait to be handed on, at most.
    ahead: usize,
    /// Messages that the server may still send.
    wanted: usize,
    quiet_since: Instant,
}

impl Pull {
    /// Makes the consumer if it is missing, and listens. When this returns, messages are kept for it.
    pub(crate) async fn begin(
        connection: Connection,
        stream: &str,
        consumer: &str,
        config: &Value,
        ahead: usize,
    ) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Made {
            #[expect(dead_code, reason = "an answer without it is a refusal")]
            name: String,
        }
        let question = json!({ "stream_name": stream, "config": config });
        let subject = format!("CONSUMER.CREATE.{stream}.{consumer}");
        let _made: Made = jetstream::ask(&connection, &subject, &question).await?;
        let inbox = connection.inbox();
        Ok(Self {
            told: connection.listen(&inbox, None).await?,
            connection,
            subject: format!("{API}.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox,
            ahead,
            wanted: 0,
            quiet_since: Instant::now(),
        })
    }

    /// The next message, where `waiting` are not handed on yet; more are asked for as there is room. `None` once the consumer
    /// or the connection is gone.
    ///
    /// Dropped before it ends, it loses nothing.
    pub(crate) async fn next(&mut self, waiting: usize) -> Option<Message> {
        loop {
            self.ask(waiting).await;
            let message = tokio::select! {
                biased;
                message = self.told.next() => message?,
                () = self.connection.lost() => return None,
                () = sleep_until(self.quiet_since + 2 * OPEN_WAIT) => {
                    self.wanted = 0;
                    // There may be no room to ask again.
                    self.quiet_since = Instant::now();
                    continue;
                }
            };
            self.quiet_since = Instant::now();
            match message.status.map(|status| status.as_u16()) {
                None => {
                    self.wanted = self.wanted.saturating_sub(1);
                    return Some(message);
                }
                Some(NO_MESSAGES | TIMED_OUT) => {
                    let left = message.headers.as_ref().and_then(|headers| headers.get(PENDING));
                    let left = left.and_then(|left| left.as_str().parse().ok());
                    self.wanted = self.wanted.saturating_sub(left.unwrap_or(usize::MAX));
                }
                Some(_) => return None,
            }
        }
    }

    /// Asks for what there is room for.
    async fn ask(&mut self, waiting: usize) {
        let room = self.ahead.saturating_sub(waiting + self.wanted);
        // Not for each by itself.
        if room * 2 < self.ahead {
            return;
        }
        let question = json!({ "batch": room, "expires": nanos(OPEN_WAIT) });
        let (subject, inbox) = (self.subject.as_str().into(), Some(self.inbox.as_str().into()));
        let asked = self
            .connection
            .publish(subject, inbox, None, question.to_string().into())
            .await;
        if asked.is_ok() {
            self.wanted += room;
        }
        self.quiet_since = Instant::now();
    }

    /// Asks for no more: what was asked for already and comes soon. The rest is the next member's.
    pub(crate) async fn last(mut self) -> Vec<Message> {
        let until = Instant::now() + LEAVE_WAIT;
        let mut messages = Vec::new();
        while messages.len() < self.wanted
            && let Ok(Some(message)) = timeout_at(until, self.told.next()).await
        {
            messages.push(message);
        }
        messages
    }
}

/// Ends when what is handed on was taken, and tells whether somebody takes more; never if nothing is handed on.
pub(crate) async fn taken(giving: &mut Option<BoxFuture<'_, bool>>) -> bool {
    match giving {
        Some(giving) => giving.await,
        None => std::future::pending().await,
    }
}
