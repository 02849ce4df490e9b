//! From a backend to who subscribed: a [bounded queue](crate::queue) of messages, and how each is settled.

use std::fmt;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture};

use super::{Message, MessagingError};
use crate::queue::{self, Queued, queue};

/// Messages of one subscription, until this is dropped.
pub type Subscription = queue::Receiver<Delivery>;
/// The backend's end of a [`Subscription`].
pub type Subscriber = queue::Sender<Delivery>;
/// Why a message was not queued.
pub type Refused = queue::Refused<Delivery>;

/// A subscription with room for `queue_len` messages (at least one), and the backend's end of it.
pub fn subscription(queue_len: usize) -> (Subscriber, Subscription) {
    queue(queue_len)
}

/// A message that was delivered.
///
/// One that is dropped unsettled is delivered again where the backend keeps messages, after the time that it gives
/// handlers; while this lives that time is prolonged.
pub struct Delivery {
    /// The message, its subjects as the subscriber's scope has them.
    pub message: Message,
    /// How often it was delivered by now: 1 at first.
    pub attempt: u32,
    settle: Option<Box<dyn Settle>>,
}

/// What settles a delivery, where the backend keeps messages.
pub trait Settle: Send + Sync {
    /// It was handled.
    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), MessagingError>>;

    /// It was not, for `reason`: it is to come again after `delay`, or to be put aside if it came too often.
    fn nak(
        self: Box<Self>,
        delay: Duration,
        reason: String,
    ) -> BoxFuture<'static, Result<(), MessagingError>>;
}

impl Delivery {
    /// One that is not delivered again, whatever becomes of it.
    pub fn once(message: Message) -> Self {
        Self {
            message,
            attempt: 1,
            settle: None,
        }
    }

    /// One that is delivered again until it is settled.
    pub fn kept(message: Message, attempt: u32, settle: impl Settle + 'static) -> Self {
        Self {
            message,
            attempt,
            settle: Some(Box::new(settle)),
        }
    }

    /// It was handled.
    ///
    /// # Errors
    /// The backend could not be told, and may deliver it again.
    pub fn ack(self) -> BoxFuture<'static, Result<(), MessagingError>> {
        match self.settle {
            Some(settle) => settle.ack(),
            None => future::ok(()).boxed(),
        }
    }

    /// It was not handled, for `reason`. Where the backend keeps messages it comes again after `delay`, or is put aside
    /// if it came too often; otherwise it is lost.
    ///
    /// # Errors
    /// The backend could not be told, and may deliver it again earlier or later.
    pub fn nak(
        self,
        delay: Duration,
        reason: impl Into<String>,
    ) -> BoxFuture<'static, Result<(), MessagingError>> {
        match self.settle {
            Some(settle) => settle.nak(delay, reason.into()),
            None => future::ok(()).boxed(),
        }
    }
}

impl Queued for Delivery {
    fn weight(&self) -> usize {
        let Message {
            subject,
            body,
            headers,
            ..
        } = &self.message;
        let headers = headers.iter().map(|(name, value)| name.len() + value.len());
        size_of::<Self>() + subject.len() + body.len() + headers.sum::<usize>()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, attempt, .. } = self;
        write!(f, "Delivery({}, attempt {attempt})", message.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::BODY_LEN_MAX;
    use crate::queue::QUEUE_BYTES_MAX;

    #[tokio::test]
    async fn a_queue_has_a_bound_of_messages_and_one_of_bytes() {
        let (subscriber, mut subscription) = subscription(2);
        for _ in 0..3 {
            assert!(subscriber.offer(Delivery::once(Message::new("a", "b"))));
        }
        assert_eq!(subscription.dropped(), 1);
        drop(subscriber);
        assert!(subscription.next().await.is_some() && subscription.next().await.is_some());
        assert!(subscription.next().await.is_none());

        let (subscriber, mut subscription) = super::subscription(1_000);
        let largest = || Delivery::once(Message::new("a", vec![0; BODY_LEN_MAX]));
        while subscription.dropped() == 0 {
            assert!(subscriber.offer(largest()));
        }
        assert!(subscription.next().await.is_some());
        subscriber.try_send(largest()).unwrap();
        assert!(matches!(subscriber.try_send(largest()), Err(Refused::Full(_))));
        drop(subscription);
        assert!(!subscriber.offer(largest()));
    }

    #[tokio::test]
    async fn who_waits_for_room_keeps_the_bound_of_bytes() {
        let (subscriber, mut subscription) = subscription(1_000);
        let largest = || Delivery::once(Message::new("a", vec![0; BODY_LEN_MAX]));
        let mut sent = 0;
        while subscriber.send(largest()).now_or_never().is_some() {
            sent += 1;
        }
        assert_eq!(sent, QUEUE_BYTES_MAX / largest().weight());
        let mut waiting = Box::pin(subscriber.send(largest()));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(subscription.next().await.is_some());
        assert!(waiting.await, "it has room now");
        let mut waiting = Box::pin(subscriber.send(largest()));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(subscription);
        assert!(!waiting.await, "nobody takes it any more");
    }
}
