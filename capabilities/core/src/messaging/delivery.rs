//! From a backend to who subscribed: a bounded queue of messages, and how each is settled.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::{Notify, mpsc};

use super::{Message, MessagingError};

/// Bytes of messages that wait in one subscription, at most, however few they are.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;

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

    fn len(&self) -> usize {
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

/// Messages of one subscription, until this is dropped.
pub struct Subscription {
    queue: mpsc::Receiver<Delivery>,
    counts: Arc<Counts>,
    guard: Option<Box<dyn Send + Sync>>,
}

/// The backend's end of a [`Subscription`].
pub struct Subscriber {
    queue: mpsc::Sender<Delivery>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    dropped: AtomicU64,
    bytes: AtomicUsize,
    /// A message was taken.
    taken: Notify,
}

impl Counts {
    /// Counts `len` bytes if there is room for them. A message by itself always has it.
    fn try_add(&self, len: usize) -> bool {
        let with = |bytes| (bytes == 0 || bytes + len <= QUEUE_BYTES_MAX).then_some(bytes + len);
        let added = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, with);
        added.is_ok()
    }

    fn subtract(&self, len: usize) {
        self.bytes.fetch_sub(len, Ordering::Relaxed);
        self.taken.notify_waiters();
    }
}

/// Why a delivery was not queued.
#[derive(Debug)]
pub enum Refused {
    /// There is no room.
    Full(Box<Delivery>),
    /// Nobody takes any more.
    Gone(Box<Delivery>),
}

/// A subscription with room for `queue_len` messages (at least one) of [`QUEUE_BYTES_MAX`], and the backend's end of it.
pub fn subscription(queue_len: usize) -> (Subscriber, Subscription) {
    let (sender, queue) = mpsc::channel(queue_len.max(1));
    let counts = Arc::<Counts>::default();
    let subscriber = Subscriber {
        queue: sender,
        counts: counts.clone(),
    };
    let guard = None;
    (subscriber, Subscription { queue, counts, guard })
}

impl Subscription {
    /// For backends: `guard` is dropped when no more messages are wanted. The backend then gives what has reached it
    /// already, and drops its [`Subscriber`].
    #[must_use]
    pub fn until(mut self, guard: impl Send + Sync + 'static) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    /// The next message; `None` when no more will come. Dropping the future loses none.
    pub async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.queue.recv().await?;
        self.counts.subtract(delivery.len());
        Some(delivery)
    }

    /// Wants no more messages: [`Subscription::next`] gives those that have come, and then `None`.
    pub fn end(&mut self) {
        self.guard = None;
    }

    /// Messages that were lost because the queue was full. The newest are: those that wait have been accepted.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Subscriber {
    /// Queues a delivery if there is room.
    ///
    /// # Errors
    /// The delivery, as there is none or nobody takes it.
    pub fn try_send(&self, delivery: Delivery) -> Result<(), Refused> {
        // Before the bytes are looked at: what nobody took counts among them.
        if self.queue.is_closed() {
            return Err(Refused::Gone(Box::new(delivery)));
        }
        let len = delivery.len();
        if !self.counts.try_add(len) {
            return Err(Refused::Full(Box::new(delivery)));
        }
        let sent = self.queue.try_send(delivery).map_err(|error| match error {
            mpsc::error::TrySendError::Full(delivery) => Refused::Full(Box::new(delivery)),
            mpsc::error::TrySendError::Closed(delivery) => Refused::Gone(Box::new(delivery)),
        });
        if sent.is_err() {
            self.counts.subtract(len);
        }
        sent
    }

    /// Queues a delivery, or drops it and counts that if there is no room. Whether anybody still listens.
    pub fn offer(&self, delivery: Delivery) -> bool {
        match self.try_send(delivery) {
            Ok(()) => true,
            Err(Refused::Full(_)) => {
                self.count_dropped();
                true
            }
            Err(Refused::Gone(_)) => false,
        }
    }

    /// Queues a delivery, as soon as there is room: for backends that keep what is not taken. Whether anybody still
    /// listens.
    pub async fn send(&self, delivery: Delivery) -> bool {
        let Ok(place) = self.queue.reserve().await else {
            return false;
        };
        loop {
            // Begins to listen before it looks, so that nothing is taken unheard in between.
            let taken = self.counts.taken.notified();
            if self.counts.try_add(delivery.len()) {
                place.send(delivery);
                return true;
            }
            tokio::select! {
                () = taken => {}
                () = self.queue.closed() => return false,
            }
        }
    }

    /// Counts a message that was lost as there was no room.
    pub fn count_dropped(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nobody takes any more.
    pub async fn unheard(&self) {
        self.queue.closed().await;
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, attempt, .. } = self;
        write!(f, "Delivery({}, attempt {attempt})", message.subject)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::BODY_LEN_MAX;

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
        assert_eq!(sent, QUEUE_BYTES_MAX / largest().len());
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
