//! The lattice over NATS.
//!
//! Owns all that is known of async-nats: connecting, its events, and what it leaves open. It queues 2,048 messages while
//! there is no connection: here they are refused. Its sending can wait for ever: here it has a limit. Its requests leak
//! when they are not answered: here the replies have an inbox and a table of their own. It panics on line ends in the
//! values of headers: here are no headers.
//!
//! A host has a connection for each [`Role`], so that bytes in bulk don't hold up heartbeats. A request goes out on the
//! connection that its reply comes back on, as only that one hears that nobody serves.

mod batches;
mod messages;
mod send;
mod serve;
mod settings;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Event, StatusCode};
use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{FutureExt, StreamExt};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use self::batches::{Outbox, take_answers};
pub use self::messages::{Heard, Listening};
use self::send::Sender;
pub use self::settings::{Auth, NatsError, NatsSettings, Role, Tls, check_server};
use super::replies::{Arrived, Replies, Waiting};
use super::{Handler, Served, Serving, Subscription, Transport, TransportError, check_len, subscription};
use crate::subject::{QUEUE, Subject};

/// How long a message may wait for room in the client's queue, which is emptied as fast as the server takes it.
const SEND_WAIT: Duration = Duration::from_secs(1);

/// How long the server has to take over a subscription.
const BARRIER_WAIT: Duration = Duration::from_secs(5);

/// How often the way to the server is measured: two messages, which hosts that are idle hardly notice.
const LAG_EACH: Duration = Duration::from_secs(30);

/// A host's connection for one role. Clones are the same.
#[derive(Clone)]
pub struct NatsTransport(Arc<Inner>);

struct Inner {
    sender: Sender,
    /// `<prefix>.<random>`; a reply's subject has the token of its request after it.
    inbox: String,
    replies: Replies,
    /// Requests that go together, once that is wanted.
    batches: OnceLock<Arc<Outbox>>,
    /// Answers that go together.
    answers: Arc<Outbox>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Counters {
    connects: AtomicU64,
    disconnects: AtomicU64,
    slow_consumers: AtomicU64,
    server_errors: AtomicU64,
    send_timeouts: AtomicU64,
    strays: AtomicU64,
    refused: AtomicU64,
    unanswerable: AtomicU64,
    batches: AtomicU64,
    batched: AtomicU64,
    /// In nanoseconds; 0 before the first.
    round_trip: AtomicU64,
}

/// Numbers of one connection since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NatsStats {
    /// Whether there is a connection.
    pub connected: bool,
    /// Times that a connection was made, the first included.
    pub connects: u64,
    /// Times that it was lost.
    pub disconnects: u64,
    /// Times that messages were dropped as a subscription was full.
    pub slow_consumers: u64,
    /// What the server complained of, as rights that are missing.
    pub server_errors: u64,
    /// Messages that were not sent, as there was no room for too long.
    pub send_timeouts: u64,
    /// Messages that were refused as there was no connection.
    pub refused: u64,
    /// Replies that nobody waited for.
    pub strays: u64,
    /// Requests that can't be answered, as they name no inbox.
    pub unanswerable: u64,
    /// Messages with several requests or answers that were sent.
    pub batches: u64,
    /// Requests and answers in them.
    pub batched: u64,
    /// Requests that wait for a reply.
    pub waiting: u64,
    /// How long a message took to the server and back, when it was looked at last.
    pub round_trip: Option<Duration>,
}

impl NatsTransport {
    /// Connects to one of the servers. From then on it connects again by itself whenever the connection is lost.
    ///
    /// # Errors
    /// No server answers, or it refuses, or a file can't be read.
    pub async fn connect(settings: &NatsSettings) -> Result<Self, NatsError> {
        let replies = Replies::default();
        let counters = Arc::<Counters>::default();
        let (events, role) = ((replies.clone(), counters.clone()), settings.role);
        let options = settings.options().await?.event_callback(move |event| {
            on_event(role, &events.0, &events.1, &event);
            future::ready(())
        });
        let client = options
            .connect(&settings.servers[..])
            .await
            .map_err(|source| NatsError::Connect {
                servers: settings.shown_servers(),
                source,
            })?;
        let inbox = format!("{}.{:016x}", settings.inbox, rand::random::<u64>());
        let replied = client.subscribe(format!("{inbox}.*")).await?;
        let sender = Sender {
            client,
            counters: counters.clone(),
        };
        let answers = Arc::new(Outbox::answers(sender.clone()));
        let transport = Self(Arc::new(Inner {
            sender,
            inbox,
            replies: replies.clone(),
            batches: OnceLock::new(),
            answers: answers.clone(),
            tasks: Mutex::default(),
        }));
        transport.spawn(answers.run());
        let path = transport.path();
        transport.spawn(take_replies(replied, replies, counters));
        transport.spawn(watch_lag(path));
        transport.barrier().await?;
        Ok(transport)
    }

    /// How long a message takes to the server and back.
    ///
    /// # Errors
    /// There is no connection, or it takes more than some seconds.
    pub async fn round_trip(&self) -> Result<Duration, TransportError> {
        self.path().round_trip().await
    }

    /// Numbers since the start.
    pub fn stats(&self) -> NatsStats {
        let counters = &self.0.sender.counters;
        NatsStats {
            connected: self.is_connected(),
            connects: counters.connects.load(Relaxed),
            disconnects: counters.disconnects.load(Relaxed),
            slow_consumers: counters.slow_consumers.load(Relaxed),
            server_errors: counters.server_errors.load(Relaxed),
            send_timeouts: counters.send_timeouts.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            strays: counters.strays.load(Relaxed),
            unanswerable: counters.unanswerable.load(Relaxed),
            batches: counters.batches.load(Relaxed),
            batched: counters.batched.load(Relaxed),
            waiting: self.0.replies.len() as u64,
            round_trip: Some(counters.round_trip.load(Relaxed))
                .filter(|nanos| *nanos > 0)
                .map(Duration::from_nanos),
        }
    }

    /// Whether there is a connection, as far as is known: one that is cut without a word is noticed late.
    pub fn is_connected(&self) -> bool {
        self.0.sender.client.connection_state() == State::Connected
    }

    /// Sends what is queued, and ends all that this connection serves and listens to.
    pub async fn close(&self) {
        self.0.answers.flush().await;
        // What the server does not take now, it never does.
        let _ = tokio::time::timeout(SEND_WAIT, self.0.sender.client.flush()).await;
        self.tasks().shutdown_now();
        let _ = tokio::time::timeout(SEND_WAIT, self.0.sender.client.drain()).await;
    }

    /// Waits until the server has taken over all that was sent before.
    async fn barrier(&self) -> Result<(), TransportError> {
        self.path().round_trip().await.map(drop)
    }

    fn path(&self) -> Path {
        Path {
            inbox: self.0.inbox.clone(),
            replies: self.0.replies.clone(),
            sender: self.0.sender.clone(),
        }
    }

    fn check(&self, subject: &Subject, payload: &Bytes) -> Result<(), TransportError> {
        if !self.0.sender.is_open() {
            return Err(TransportError::Disconnected);
        }
        check_len(subject, payload, self.payload_len_max())
    }

    fn enter(&self, subject: &Subject, payload: &Bytes) -> Result<Waiting, TransportError> {
        self.check(subject, payload)?;
        self.0.replies.enter(subject)
    }

    async fn send(
        &self,
        subject: &Subject,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), TransportError> {
        let len = payload.len();
        let sent = self
            .0
            .sender
            .send(subject.as_str().to_owned(), reply, payload)
            .await;
        sent.map_err(|unsent| unsent.of(subject, len, self.payload_len_max()))
    }

    fn tasks(&self) -> Tasks<'_> {
        Tasks(self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks().0;
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// The tasks of a connection: they end with it.
struct Tasks<'t>(std::sync::MutexGuard<'t, JoinSet<()>>);

impl Tasks<'_> {
    fn shutdown_now(mut self) {
        self.0.abort_all();
    }
}

fn on_event(role: Role, replies: &Replies, counters: &Counters, event: &Event) {
    let count = |counter: &AtomicU64| counter.fetch_add(1, Relaxed);
    match event {
        Event::Connected => {
            count(&counters.connects);
            info!(role = role.as_str(), "connected to the lattice");
        }
        Event::Disconnected | Event::Closed => {
            count(&counters.disconnects);
            replies.connection_lost();
            warn!(role = role.as_str(), "lost the connection to the lattice");
        }
        Event::SlowConsumer(_) => {
            count(&counters.slow_consumers);
            warn!(
                role = role.as_str(),
                "messages were dropped, as more came than were taken"
            );
        }
        Event::ServerError(error) => {
            count(&counters.server_errors);
            warn!(role = role.as_str(), %error, "the NATS server complains");
        }
        event => info!(role = role.as_str(), %event, "the NATS server says"),
    }
}

/// The reply, if it comes in time.
async fn replied(waiting: Waiting, subject: Subject, deadline: Instant) -> Result<Bytes, TransportError> {
    let replied = tokio::time::timeout_at(deadline, waiting).await;
    replied.unwrap_or(Err(TransportError::Timeout {
        subject,
        may_have_started: true,
    }))
}

/// The way to the server and back to this connection's own inbox.
struct Path {
    inbox: String,
    replies: Replies,
    sender: Sender,
}

impl Path {
    /// How long it takes. What was sent before has reached the server then.
    async fn round_trip(&self) -> Result<Duration, TransportError> {
        let begin = Instant::now();
        let own = Subject::of_inbox(&self.inbox);
        let waiting = self.replies.enter(&own)?;
        let subject = format!("{}.{}", self.inbox, waiting.token());
        let timeout = TransportError::Timeout {
            subject: own,
            may_have_started: false,
        };
        let reached = async {
            self.sender
                .client
                .publish(subject, Bytes::new())
                .await
                .map_err(|_| TransportError::Disconnected)?;
            waiting.await.map(drop)
        };
        tokio::time::timeout(BARRIER_WAIT, reached)
            .await
            .unwrap_or(Err(timeout))?;
        Ok(begin.elapsed())
    }
}

/// Looks again and again how long the way to the server takes.
async fn watch_lag(path: Path) {
    loop {
        tokio::time::sleep(LAG_EACH).await;
        if let Ok(took) = path.round_trip().await {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            path.sender.counters.round_trip.store(nanos.max(1), Relaxed);
        }
    }
}

async fn take_replies(mut replied: async_nats::Subscriber, replies: Replies, counters: Arc<Counters>) {
    while let Some(message) = replied.next().await {
        let token = message
            .subject
            .rsplit_once('.')
            .and_then(|(_, token)| token.parse().ok());
        let arrived = match message.status {
            Some(StatusCode::NO_RESPONDERS) => Arrived::NoResponders,
            _ => Arrived::Reply(message.payload),
        };
        if !token.is_some_and(|token| replies.arrive(token, arrived)) {
            counters.strays.fetch_add(1, Relaxed);
        }
    }
}

impl Transport for NatsTransport {
    fn request(
        &self,
        subject: &Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let waiting = match self.enter(subject, &payload) {
            Ok(waiting) => waiting,
            Err(error) => return future::err(error).boxed(),
        };
        let (transport, subject) = (self.clone(), subject.clone());
        async move {
            let deadline = Instant::now() + timeout;
            let reply = format!("{}.{}", transport.0.inbox, waiting.token());
            transport.send(&subject, Some(reply), payload).await?;
            replied(waiting, subject, deadline).await
        }
        .boxed()
    }

    fn batch(&self, answers: Subject) -> BoxFuture<'static, Result<(), TransportError>> {
        let transport = self.clone();
        async move {
            transport.check(&answers, &Bytes::new())?;
            let inner = &transport.0;
            let answered = inner
                .sender
                .client
                .subscribe(answers.below().as_str().to_owned())
                .await;
            let answered = answered.map_err(|_| TransportError::Disconnected)?;
            transport.barrier().await?;
            let (replies, counters) = (inner.replies.clone(), inner.sender.counters.clone());
            let outbox = Arc::new(Outbox::requests(inner.sender.clone(), answers, replies.clone()));
            if inner.batches.set(outbox.clone()).is_ok() {
                transport.spawn(take_answers(answered, replies, counters));
                transport.spawn(outbox.run());
            }
            Ok(())
        }
        .boxed()
    }

    fn request_in_batch(
        &self,
        subject: &Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let Some(batches) = self
            .0
            .batches
            .get()
            .filter(|batches| batches.takes(payload.len()))
        else {
            return self.request(subject, payload, timeout);
        };
        let waiting = match self.enter(subject, &payload) {
            Ok(waiting) => waiting,
            Err(error) => return future::err(error).boxed(),
        };
        let (batches, subject) = (batches.clone(), subject.clone());
        async move {
            let deadline = Instant::now() + timeout;
            batches.put(&subject, waiting.token(), payload)?;
            replied(waiting, subject, deadline).await
        }
        .boxed()
    }

    fn serve(
        &self,
        subject: Subject,
        serving: Serving,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Served, TransportError>> {
        let transport = self.clone();
        async move {
            transport.check(&subject, &Bytes::new())?;
            let requests = transport
                .0
                .sender
                .client
                .queue_subscribe(subject.as_str().to_owned(), QUEUE.to_owned());
            let requests = requests.await.map_err(|_| TransportError::Disconnected)?;
            transport.barrier().await?;
            let (task, serving) = serve::begin(&transport, requests, serving, handler);
            transport.spawn(task);
            Ok(serving)
        }
        .boxed()
    }

    fn publish(&self, subject: &Subject, payload: Bytes) -> BoxFuture<'static, Result<(), TransportError>> {
        if let Err(error) = self.check(subject, &payload) {
            return future::err(error).boxed();
        }
        let (transport, subject) = (self.clone(), subject.clone());
        async move { transport.send(&subject, None, payload).await }.boxed()
    }

    fn subscribe(
        &self,
        subject: Subject,
        queue_len: usize,
    ) -> BoxFuture<'static, Result<Subscription, TransportError>> {
        let transport = self.clone();
        async move {
            transport.check(&subject, &Bytes::new())?;
            let messages = transport
                .0
                .sender
                .client
                .subscribe(subject.as_str().to_owned())
                .await;
            let mut messages = messages.map_err(|_| TransportError::Disconnected)?;
            transport.barrier().await?;
            let (subscriber, subscription) = subscription(queue_len);
            transport.spawn(async move {
                loop {
                    tokio::select! {
                        biased;
                        () = subscriber.unheard() => return,
                        message = messages.next() => {
                            let Some(message) = message else { return };
                            subscriber.send(message.payload);
                        }
                    }
                }
            });
            Ok(subscription)
        }
        .boxed()
    }

    fn payload_len_max(&self) -> usize {
        self.0.sender.client.max_payload()
    }
}
