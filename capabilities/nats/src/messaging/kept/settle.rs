//! A delivery's end: the word to the server that it was handled or not, and what it is told while neither is known.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use futures::FutureExt;
use futures::future::BoxFuture;
use weft_capabilities::MessagingError;
use weft_capabilities::messaging::Settle;

use super::super::{Broker, wire};
use super::{DEAD, StreamOptions};
use crate::deliveries::{Delivered, Held};
use crate::jetstream;

/// Bytes of the reason in a dead letter.
const REASON_LEN_MAX: usize = 1_024;
/// What a dead letter says beside what its message did.
const REASON: &str = "Weft-Reason";
const ATTEMPTS: &str = "Weft-Attempts";
const CONSUMER: &str = "Weft-Consumer";

/// One delivery, until it is settled.
pub(super) struct Kept {
    broker: Arc<Broker>,
    options: Arc<StreamOptions>,
    consumer: Arc<str>,
    held: Held,
    acks: Subject,
    /// As the stream has it.
    message: Message,
    /// How often it was delivered by now.
    pub(super) attempt: u32,
}

impl Kept {
    /// Holds a message that a consumer gave. `None` if it is not from one.
    pub(super) fn hold(
        broker: &Arc<Broker>,
        options: &Arc<StreamOptions>,
        consumer: &Arc<str>,
        held: &Held,
        message: &Message,
    ) -> Option<Self> {
        let acks = message.reply.clone()?;
        let Delivered { attempt, .. } = Delivered::read(&acks)?;
        held.add(&acks);
        Some(Self {
            broker: broker.clone(),
            options: options.clone(),
            consumer: consumer.clone(),
            held: held.clone(),
            acks,
            message: message.clone(),
            attempt,
        })
    }

    /// Gives it back, for whoever is next of the group.
    pub(super) async fn release(self) {
        // Otherwise it comes again when its time is over.
        drop(self.tell("-NAK").await);
    }

    /// Puts it among the dead letters, and takes it from the stream after that.
    pub(super) async fn bury(&self, reason: &str) -> Result<(), MessagingError> {
        let mut headers = self.message.headers.clone().unwrap_or_default();
        let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
        headers.insert(REASON, &reason[..reason.floor_char_boundary(REASON_LEN_MAX)]);
        headers.insert(ATTEMPTS, self.attempt.to_string());
        headers.insert(CONSUMER, &*self.consumer);
        let subject = format!("{DEAD}.{}", self.message.subject);
        tracing::warn!(
            subject = %self.message.subject,
            consumer = %self.consumer,
            attempts = self.attempt,
            reason,
            "a message is a dead letter"
        );
        let buried = async {
            let (connection, ()) = self.broker.link.connection().await?;
            jetstream::publish(&connection, subject, Some(headers), self.message.payload.clone()).await
        };
        let buried = self.broker.link.within(self.broker.link.deadline(), buried).await;
        buried.map_err(|failure| wire::error(failure, &self.message.subject))?;
        self.tell("+TERM").await
    }

    /// Says a word of it, and waits until the server has heard it.
    async fn tell(&self, word: &'static str) -> Result<(), MessagingError> {
        let told = async {
            let (connection, ()) = self.broker.link.connection().await?;
            Ok(connection.request(self.acks.clone(), None, word.into()).await?)
        };
        let told = self.broker.link.within(self.broker.link.deadline(), told).await;
        told.map(drop)
            .map_err(|failure| wire::error(failure, &self.message.subject))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.held.remove(&self.acks);
    }
}

impl Settle for Kept {
    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), MessagingError>> {
        async move { self.tell("+ACK").await }.boxed()
    }

    fn nak(
        self: Box<Self>,
        delay: Duration,
        reason: String,
    ) -> BoxFuture<'static, Result<(), MessagingError>> {
        async move {
            if self.attempt >= self.options.deliveries_max {
                return self.bury(&reason).await;
            }
            if delay.is_zero() {
                return self.tell("-NAK").await;
            }
            self.held.refuse(&self.acks, delay);
            Ok(())
        }
        .boxed()
    }
}
