//! A subscription, on whatever connection there is.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::task::coop::unconstrained;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use weft_capabilities::Scope;
use weft_capabilities::messaging::{Delivery, Subscriber};

use super::{Broker, wire};
use crate::error::Unanswered;
use crate::link::Connection;

/// The longest that what is on its way is waited for, when nobody wants more.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Messages that are taken then, at most: what the client holds for one subscription.
const LAST_MAX: usize = 65_536;
/// The pause before another try to listen, on a connection that does not let us.
const AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// What is listened to.
pub(super) struct Ear {
    pub(super) subject: String,
    pub(super) group: Option<String>,
}

/// What is heard at one connection.
pub(super) struct Heard {
    pub(super) connection: Connection,
    messages: async_nats::Subscriber,
}

impl Ear {
    /// Listens. When this returns, messages come.
    pub(super) async fn at(&self, connection: Connection) -> Result<Heard, Unanswered> {
        let messages = connection.listen(&self.subject, self.group.as_deref()).await?;
        Ok(Heard { connection, messages })
    }

    /// Listens at the next connection that lets us; `None` if there will be none.
    pub(super) async fn at_next(&self, broker: &Broker) -> Option<Heard> {
        loop {
            let (connection, ()) = broker.link.up().await?;
            let heard = async { Ok(self.at(connection).await?) };
            match broker.link.within(broker.link.deadline(), heard).await {
                Ok(heard) => return Some(heard),
                Err(failure) => {
                    tracing::warn!(subject = self.subject, %failure, "failed to listen");
                    sleep(AGAIN_PAUSE).await;
                }
            }
        }
    }
}

impl Heard {
    /// The next message; `None` once the connection is lost and all that it brought is told.
    pub(super) async fn next(&mut self) -> Option<async_nats::Message> {
        tokio::select! {
            biased;
            message = self.messages.next() => message,
            () = self.connection.lost() => None,
        }
    }

    /// What has come by now.
    pub(super) async fn last(mut self) -> Vec<async_nats::Message> {
        let barrier = self.connection.barrier("_INBOX");
        drop(timeout(LAST_WAIT, barrier).await);
        // Without tokio's budget, which would have the queue seem empty after a hundred or so.
        let next = || unconstrained(self.messages.next()).now_or_never().flatten();
        std::iter::from_fn(next).take(LAST_MAX).collect()
    }
}

/// Passes on what is heard, until nobody wants more.
pub(super) async fn pass_on(
    broker: Arc<Broker>,
    ear: Ear,
    mut heard: Heard,
    scope: Scope,
    subscriber: Subscriber,
    stop: CancellationToken,
) {
    let give = |message| match wire::read(&scope, message) {
        Some(message) => subscriber.offer(Delivery::once(message)),
        None => true,
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            message = heard.next() => match message {
                Some(message) => if !give(message) { return },
                None => tokio::select! {
                    () = stop.cancelled() => return,
                    next = ear.at_next(&broker) => match next {
                        Some(next) => heard = next,
                        None => return,
                    },
                },
            },
        }
    }
    for message in heard.last().await {
        give(message);
    }
}
