//! Messages between the hosts of a lattice: requests with a reply, and publishing.
//!
//! Owns the trait that all that crosses machines is written against, shaped so that a request is two messages, with no
//! subscription and no task of its own. Must not know what is in a message: it carries bytes, and no headers. There are
//! three implementations: within a process ([`memory::Hub`]), NATS ([`nats::NatsTransport`]), and for tests a network
//! with faults (`testing::sim`).
//!
//! A request is made at most once. It is never queued while there is no connection, and never repeated here.

pub mod memory;
pub mod nats;
pub(crate) mod replies;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::subject::Subject;

/// The longest message, in bytes: the default of NATS. What is longer is a stream.
pub const PAYLOAD_LEN_MAX: usize = 1 << 20;

/// Requests of one connection that may wait for replies at once. Each holds some 200 bytes; there are fewer places in a
/// host to call from.
pub const WAITING_MAX: usize = 65_536;

/// Why a request has no reply, or a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nobody serves the subject. It did not start: try another host.
    #[error("nobody serves `{0}`")]
    NoResponders(Subject),
    /// The time was up.
    #[error("no reply on `{subject}` in time")]
    Timeout {
        /// Where it was sent.
        subject: Subject,
        /// Whether it was sent, and may have been begun or even finished.
        may_have_started: bool,
    },
    /// There is no connection. It was not sent.
    #[error("not connected to the lattice: is its server up?")]
    Disconnected,
    /// The connection went while the reply was awaited, which is lost with it.
    #[error("the connection to the lattice was lost before the reply on `{0}` came")]
    ConnectionLost(Subject),
    /// Too much of this host waits to be sent, or for replies. It was not sent.
    #[error("too many requests of this host are on their way already: try again when some have come back")]
    Full,
    /// Longer than the connection takes. It was not sent, or the reply is known to be too long.
    #[error("a message of {len} bytes on `{subject}` is longer than {len_max}: send it as a stream")]
    TooLarge {
        /// Where it was to be sent.
        subject: Subject,
        /// Its length.
        len: usize,
        /// The longest that goes.
        len_max: usize,
        /// Whether the callee has run: it is the reply that is too long.
        may_have_started: bool,
    },
}

impl TransportError {
    /// Whether the callee may have run.
    pub fn may_have_started(&self) -> bool {
        match self {
            Self::NoResponders(_) | Self::Disconnected | Self::Full => false,
            Self::ConnectionLost(_) => true,
            Self::Timeout { may_have_started, .. } | Self::TooLarge { may_have_started, .. } => {
                *may_have_started
            }
        }
    }
}

/// Whoever answers the requests on a subject.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; `None` is no answer at all. The future is dropped when nobody waits for the answer any
    /// more, if that is known.
    ///
    /// A request that is answered in the first poll costs no task. So what computes for long gives way first: the
    /// first poll may hold up the requests behind it.
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>>;

    /// Answers a request that comes when [`Serving::concurrency`] others run: at once, and with an error that says
    /// that it did not start.
    fn shed(&self, request: Bytes) -> Option<Bytes>;

    /// As [`Handler::handle`], where what is served stands for many subjects: `subject` is the one that it came on.
    fn handle_on(&self, _subject: &str, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        self.handle(request)
    }

    /// As [`Handler::shed`], in the same way.
    fn shed_on(&self, _subject: &str, request: Bytes) -> Option<Bytes> {
        self.shed(request)
    }
}

/// How a subject is served.
#[derive(Debug, Clone, Copy)]
pub struct Serving {
    /// Requests that run at once; those beyond are shed.
    pub concurrency: usize,
}

/// A connection to the lattice.
pub trait Transport: Send + Sync + 'static {
    /// Sends `payload` to one of those who serve `subject`, and gives the reply, after at most `timeout`.
    ///
    /// Dropping the future gives the reply up, and the callee's work with it where that is known.
    fn request(
        &self,
        subject: &Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// From now on what is asked by [`Transport::request_in_batch`] may go together, and be answered below `answers`, the
    /// subject of this host's answers. Where messages cost little, nothing goes together.
    fn batch(&self, _answers: Subject) -> BoxFuture<'static, Result<(), TransportError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// As [`Transport::request`], to a host that takes batches: it may go in one message with others to `subject` that are
    /// ready to be sent at the same time.
    fn request_in_batch(
        &self,
        subject: &Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.request(subject, payload, timeout)
    }

    /// Serves `subject`, which may be one that stands for many, until what is returned is dropped; several who serve one
    /// share its requests. When it returns, requests come.
    ///
    /// After that no new request comes, and one that is on its way may be lost: who wants to lose none first says so
    /// to its callers. Those that run go on to their end.
    fn serve(
        &self,
        subject: Subject,
        serving: Serving,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Served, TransportError>>;

    /// Sends `payload` to all who are subscribed to `subject`. Nobody may be; a subscriber that is behind loses it.
    fn publish(&self, subject: &Subject, payload: Bytes) -> BoxFuture<'static, Result<(), TransportError>>;

    /// Every message that is published on `subject` from now on, of which at most `queue_len` wait. The subject may be
    /// one that stands for many ([`Subject::is_wildcard`]).
    fn subscribe(
        &self,
        subject: Subject,
        queue_len: usize,
    ) -> BoxFuture<'static, Result<Subscription, TransportError>>;

    /// The longest message that goes, in bytes.
    fn payload_len_max(&self) -> usize;
}

pub(crate) fn check_len(subject: &Subject, payload: &Bytes, len_max: usize) -> Result<(), TransportError> {
    if payload.len() <= len_max {
        return Ok(());
    }
    Err(TransportError::TooLarge {
        subject: subject.clone(),
        len: payload.len(),
        len_max,
        may_have_started: false,
    })
}

/// A subject that is served, until this is dropped.
pub struct Served {
    guard: Box<dyn Send + Sync>,
    /// What has it end in peace, and what tells that it has.
    finish: Option<(CancellationToken, CancellationToken)>,
}

impl Served {
    /// Serving ends when `guard` is dropped. For implementations of [`Transport`].
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self {
            guard: Box::new(guard),
            finish: None,
        }
    }

    /// As [`Served::new`], where it can be told when all that came is answered: `finish` is cancelled to have that so, and
    /// `ended` once it is.
    pub fn with_end(
        guard: impl Send + Sync + 'static,
        finish: CancellationToken,
        ended: CancellationToken,
    ) -> Self {
        Self {
            guard: Box::new(guard),
            finish: Some((finish, ended)),
        }
    }

    /// Serves no more, and ends when all that came is answered, which takes some tenths of a second; where that can't be told,
    /// at once. Where requests are rare, one that comes in the very moment in which the subscription ends may be lost.
    pub async fn finish(self) {
        let Some((finish, ended)) = self.finish else {
            return;
        };
        finish.cancel();
        ended.cancelled().await;
        drop(self.guard);
    }
}

/// Messages of a subject, until this is dropped.
pub struct Subscription {
    queue: mpsc::Receiver<Bytes>,
    lost: Arc<AtomicU64>,
}

/// The sending end of a [`Subscription`]. For implementations of [`Transport`].
pub struct Subscriber {
    queue: mpsc::Sender<Bytes>,
    lost: Arc<AtomicU64>,
}

/// A subscription with room for `queue_len` messages (at least one), and its sending end.
pub fn subscription(queue_len: usize) -> (Subscriber, Subscription) {
    let (sender, queue) = mpsc::channel(queue_len.max(1));
    let lost = Arc::<AtomicU64>::default();
    let subscriber = Subscriber {
        queue: sender,
        lost: lost.clone(),
    };
    (subscriber, Subscription { queue, lost })
}

impl Subscriber {
    /// Queues a message, or drops it if there is no room. Whether anybody still listens.
    pub fn send(&self, message: Bytes) -> bool {
        match self.queue.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Waits until nobody listens any more.
    pub async fn unheard(&self) {
        self.queue.closed().await;
    }

    /// Whether anybody still listens.
    pub fn is_heard(&self) -> bool {
        !self.queue.is_closed()
    }
}

impl Subscription {
    /// The next message; `None` when the connection is gone for good. Dropping the future loses none.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.queue.recv().await
    }

    /// Messages that were dropped because the queue was full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Served")
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
