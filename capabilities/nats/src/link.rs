//! The one connection to NATS: made, set up, watched, and made again.
//!
//! Owns a task, the keeper, which is all that connects. Everyone else uses what it made, or is told at once why there is
//! nothing: a server that is away costs a caller no time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::traits::Publisher as _;
use async_nats::message::OutboundMessage;
use async_nats::{Client, Event, HeaderMap, Message, PublishErrorKind, ServerError, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{SelectAll, select_all};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::connect::Source;
use crate::error::{Reason, Unanswered};
use crate::jetstream::Failure;
use crate::replies::{Replies, Waiting};

/// What the subjects of replies begin with.
const INBOX: &str = "_INBOX";
/// The longest that setting up a connection takes.
const SET_UP_WAIT: Duration = Duration::from_secs(5);
/// The pause after a server was not reached, which doubles with each try, up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A connection. Cheap to clone; what clones send goes over the same socket.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Inner>);

struct Inner {
    client: Client,
    /// What is only this connection's in the subjects of replies, between their root and the token of their request.
    own: String,
    replies: Replies,
    /// The next inbox for more than one reply.
    inboxes: AtomicU64,
    /// It is of no use any more.
    lost: CancellationToken,
    _reader: AbortOnDropHandle<()>,
}

impl Connection {
    async fn make(source: &mut Source, roots: &[String]) -> Result<Self, Reason> {
        let (replies, lost) = (Replies::default(), CancellationToken::new());
        let on_event = {
            let (replies, lost) = (replies.clone(), lost.clone());
            move |event: &Event| match event {
                Event::Disconnected | Event::Closed => {
                    lost.cancel();
                    replies.lose();
                }
                Event::ServerError(ServerError::Other(complaint)) => {
                    tracing::warn!(%complaint, "the NATS server complains");
                    replies.deny(complaint);
                }
                _ => {}
            }
        };
        let client = source.connect(on_event).await?;
        let own = format!("{:032x}", rand::random::<u128>());
        let mut replied = Vec::new();
        for root in roots {
            let subscribed = client.subscribe(format!("{root}.{own}.*")).await;
            replied.push(subscribed.map_err(|error| Reason::away(error.to_string()))?);
        }
        let reader = tokio::runtime::Handle::current().spawn(take(select_all(replied), replies.clone()));
        Ok(Self(Arc::new(Inner {
            client,
            own,
            replies,
            inboxes: AtomicU64::new(0),
            lost,
            _reader: AbortOnDropHandle::new(reader),
        })))
    }

    /// Sends a request and waits for its reply, for as long as it takes.
    pub(crate) async fn request(
        &self,
        subject: impl Into<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, Unanswered> {
        self.request_from(INBOX, subject.into(), headers, payload).await
    }

    /// The same, with a reply whose subject begins with `root`, one of those that the link was started with or is below
    /// one of them.
    pub(crate) async fn request_from(
        &self,
        root: &str,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, Unanswered> {
        self.send(root, subject, headers, payload).await?.arrived().await
    }

    /// Sends a request, whose reply comes to what this gives. Of two requests of one caller the first is sent first.
    pub(crate) async fn ask(
        &self,
        subject: impl Into<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Waiting, Unanswered> {
        self.send(INBOX, subject.into(), headers, payload).await
    }

    async fn send(
        &self,
        root: &str,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Waiting, Unanswered> {
        let inbox = format!("{root}.{}", self.0.own);
        let waiting = self.0.replies.enter(subject.clone(), &inbox)?;
        self.publish(subject, Some(waiting.reply.clone()), headers, payload)
            .await?;
        Ok(waiting)
    }

    /// Bytes that the server takes in a message, its headers included.
    pub(crate) fn payload_max(&self) -> usize {
        self.0.client.max_payload()
    }

    /// Sends a message, as soon as there is room for it.
    pub(crate) async fn publish(
        &self,
        subject: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<(), Unanswered> {
        let (client, len) = (&self.0.client, payload.len());
        let message = OutboundMessage {
            subject,
            payload,
            reply,
            headers,
        };
        let sent = client.publish_message(message).await;
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Unanswered::TooLarge {
                len,
                len_max: client.max_payload(),
            },
            PublishErrorKind::InvalidSubject | PublishErrorKind::Send => Unanswered::Lost,
        })
    }

    /// Listens to a subject. When this returns, messages come.
    pub(crate) async fn listen(&self, subject: &str, group: Option<&str>) -> Result<Subscriber, Unanswered> {
        let client = &self.0.client;
        let heard = match group {
            None => client.subscribe(subject.to_owned()).await,
            Some(group) => client.queue_subscribe(subject.to_owned(), group.to_owned()).await,
        };
        let heard = heard.map_err(|_| Unanswered::Lost)?;
        // A server that does not let us says so before it sends this back.
        self.barrier(subject).await?;
        Ok(heard)
    }

    /// Waits until the server has done what it was told before, which was about `subject`.
    pub(crate) async fn barrier(&self, subject: &str) -> Result<(), Unanswered> {
        let inbox = format!("{INBOX}.{}", self.0.own);
        let waiting = self.0.replies.enter(subject.into(), &inbox)?;
        self.publish(waiting.reply.clone(), None, None, Bytes::new())
            .await?;
        waiting.arrived().await.map(drop)
    }

    /// A subject for more than one reply, to be listened to.
    pub(crate) fn inbox(&self) -> String {
        let n = self.0.inboxes.fetch_add(1, Ordering::Relaxed);
        format!("{INBOX}.{}.many.{n}", self.0.own)
    }

    /// Ends when the connection is of no use any more.
    pub(crate) async fn lost(&self) {
        self.0.lost.cancelled().await;
    }
}

async fn take(mut replied: SelectAll<Subscriber>, replies: Replies) {
    while let Some(message) = replied.next().await {
        replies.arrive(message);
    }
    replies.lose();
}

/// How things stand. `T` is what the connection was set up with.
#[derive(Clone)]
enum State<T> {
    Connecting,
    Up(Connection, T),
    Down(Reason),
    Closed,
}

/// What is done with a connection before it is used.
pub(crate) type SetUp<T> = Box<dyn Fn(Connection) -> BoxFuture<'static, Result<T, Reason>> + Send + Sync>;

/// The way to the connection.
pub(crate) struct Link<T> {
    state: watch::Sender<State<T>>,
    wake: Arc<Notify>,
    keeper: Mutex<Option<AbortOnDropHandle<()>>>,
    timeout: Duration,
}

impl<T: Clone + Send + Sync + 'static> Link<T> {
    /// Starts to connect. The keeper, and the connection, live on the runtime that this is called on. No operation takes
    /// longer than `timeout`. The subjects of replies begin with [`INBOX`], or as one of `roots` says.
    pub(crate) fn start(source: Source, set_up: SetUp<T>, mut roots: Vec<String>, timeout: Duration) -> Self {
        let (state, _) = watch::channel(State::Connecting);
        let wake = Arc::new(Notify::new());
        roots.push(INBOX.to_owned());
        let keeper = keep(source, roots, set_up, state.clone(), wake.clone());
        let keeper = tokio::runtime::Handle::current().spawn(keeper);
        Self {
            state,
            wake,
            keeper: Mutex::new(Some(AbortOnDropHandle::new(keeper))),
            timeout,
        }
    }

    /// When an operation that begins now has to be over.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The connection. Waits only for the first try to make one.
    pub(crate) async fn connection(&self) -> Result<(Connection, T), Unanswered> {
        let read = |state: &State<T>| match state {
            State::Up(connection, made) => Some(Ok((connection.clone(), made.clone()))),
            State::Down(reason) => Some(Err(Unanswered::Not(reason.clone()))),
            State::Closed => Some(Err(Unanswered::Closed)),
            State::Connecting => None,
        };
        if let Some(known) = read(&self.state.borrow()) {
            return known;
        }
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        known
            .ok()
            .and_then(|state| read(&state))
            .unwrap_or(Err(Unanswered::Closed))
    }

    /// Waits until there is a connection; `None` if there will be none.
    pub(crate) async fn up(&self) -> Option<(Connection, T)> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| match state {
            State::Up(connection, _) => !connection.0.lost.is_cancelled(),
            State::Closed => true,
            State::Connecting | State::Down(_) => false,
        });
        match known.await.as_deref() {
            Ok(State::Up(connection, made)) => Some((connection.clone(), made.clone())),
            _ => None,
        }
    }

    /// Does something with the connection, until `until`.
    pub(crate) async fn within<R>(
        &self,
        until: Instant,
        act: impl Future<Output = Result<R, Failure>>,
    ) -> Result<R, Failure> {
        let acted = timeout_at(until, act).await;
        let acted = acted.unwrap_or(Err(Unanswered::Late(self.timeout).into()));
        if let Err(Failure::Unanswered(Unanswered::NoResponders | Unanswered::Late(_))) = acted {
            // What was set up may be gone.
            self.wake.notify_one();
        }
        acted
    }

    pub(crate) fn refuse(&self) {
        self.state.send_replace(State::Closed);
    }

    pub(crate) async fn end(&self) {
        self.keeper.lock().await.take();
    }
}

async fn keep<T>(
    mut source: Source,
    roots: Vec<String>,
    set_up: SetUp<T>,
    state: watch::Sender<State<T>>,
    wake: Arc<Notify>,
) {
    // False once it is closed.
    let set = |new: State<T>| {
        state.send_if_modified(|state| {
            let is_open = !matches!(state, State::Closed);
            if is_open {
                *state = new;
            }
            is_open
        })
    };
    let mut pause = BACKOFF_MIN;
    let mut told = None;
    loop {
        let reason = match Connection::make(&mut source, &roots).await {
            Err(reason) => reason,
            Ok(connection) => loop {
                let made = tokio::select! {
                    made = timeout(SET_UP_WAIT, set_up(connection.clone())) => made,
                    () = connection.0.lost.cancelled() => break lost(),
                };
                match made {
                    Ok(Ok(made)) => {
                        if told.take().is_some() {
                            tracing::info!("NATS answers again");
                        }
                        if !set(State::Up(connection.clone(), made)) {
                            return;
                        }
                        pause = BACKOFF_MIN;
                    }
                    Ok(Err(reason)) => break reason,
                    Err(_) => break Reason::away(format!("it did not answer within {SET_UP_WAIT:?}")),
                }
                tokio::select! {
                    () = wake.notified() => {}
                    () = connection.0.lost.cancelled() => break lost(),
                }
            },
        };
        if told.as_ref() != Some(&reason) {
            tracing::warn!(reason = reason.text(), "NATS can't be used");
            told = Some(reason.clone());
        }
        if !set(State::Down(reason)) {
            return;
        }
        // A half more or less, so that hosts don't come together.
        sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

fn lost() -> Reason {
    Reason::away("the connection was lost")
}
