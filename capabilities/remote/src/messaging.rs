//! Messaging between the hosts of a lattice, on a connection that they have already.
//!
//! Owns the step from a scope's subjects to the lattice's, and which answer is whose. NATS knows who listens, and which of
//! a group gets a message; what it loses is lost, so that it is delivered at most once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use weft_capabilities::messaging::{
    Delivery, Guarantee, INBOX, Listen, Message, Messaging, MessagingError, Scope, Subscriber, Subscription,
    subscription,
};
use weft_lattice::envelope;
use weft_lattice::subject::{Subject, SubjectError, Subjects};
use weft_lattice::transport::TransportError;
use weft_lattice::transport::nats::{Heard, Listening, NatsTransport};

/// Requests that wait for answers at once, at most.
const REQUESTS_MAX: usize = 65_536;
/// The longest that what is on its way is waited for, when nobody wants more: without a connection it does not come.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Gives the connection, once there is one.
type Connection = dyn Fn() -> Option<NatsTransport> + Send + Sync;

/// Messaging over the lattice: at most once.
pub struct LatticeMessaging(Arc<Inner>);

struct Inner {
    connection: Box<Connection>,
    subjects: Subjects,
    provider: [String; 3],
    /// A token that nobody else has; this end's answers are awaited below it.
    end: String,
    asked: Mutex<Asked>,
    /// Answers in the scopes of apps, and in the shared one: listened to from the first request on.
    answers: [OnceCell<()>; 2],
    tasks: Mutex<JoinSet<()>>,
    closed: CancellationToken,
}

#[derive(Default)]
struct Asked {
    next: u64,
    waiting: HashMap<String, oneshot::Sender<Heard>>,
}

impl LatticeMessaging {
    /// The messaging of the provider `namespace/app/name` on the connection that `connection` gives, from when it gives
    /// one.
    pub fn new(
        connection: impl Fn() -> Option<NatsTransport> + Send + Sync + 'static,
        subjects: Subjects,
        provider: [&str; 3],
    ) -> Self {
        Self(Arc::new(Inner {
            connection: Box::new(connection),
            subjects,
            provider: provider.map(str::to_owned),
            end: format!("{:016x}", rand::random::<u64>()),
            asked: Mutex::default(),
            answers: Default::default(),
            tasks: Mutex::default(),
            closed: CancellationToken::new(),
        }))
    }
}

impl Inner {
    fn connection(&self) -> Result<NatsTransport, MessagingError> {
        if self.closed.is_cancelled() {
            return Err(MessagingError::Closed);
        }
        let none = || MessagingError::Unavailable("this host has not joined its lattice yet".to_owned());
        (self.connection)().ok_or_else(none)
    }

    /// The lattice's subject for what a scope calls `full`.
    fn subject(&self, full: &str) -> Result<Subject, MessagingError> {
        let [namespace, app, name] = &self.provider;
        let subject = self.subjects.message(namespace, app, name, full);
        subject.map_err(|error: SubjectError| MessagingError::Backend(error.into()))
    }

    /// What `scope` calls a subject of the lattice.
    fn stripped(&self, scope: &Scope, subject: &str) -> Option<String> {
        // The three tokens of the lattice and three of the provider; a wildcard is never among them.
        let full = subject.splitn(7, '.').nth(6)?;
        Some(scope.strip(full)?.into_owned())
    }

    fn message(&self, scope: &Scope, heard: &Heard) -> Option<Message> {
        let envelope::Message { body, headers } = envelope::Message::decode(&heard.payload).ok()?;
        let reply_to = heard.reply.as_ref();
        Some(Message {
            subject: self.stripped(scope, &heard.subject)?,
            body,
            // One that is not of the scope could not be answered.
            reply_to: reply_to.and_then(|reply| self.stripped(scope, reply)),
            headers,
        })
    }

    async fn say(
        &self,
        scope: &Scope,
        message: Message,
        reply_to: Option<&str>,
    ) -> Result<(), MessagingError> {
        message.check()?;
        let subject = self.subject(&scope.subject(&message.subject)?)?;
        let reply = reply_to
            .map(|reply| self.subject(&scope.subject(reply)?))
            .transpose()?;
        let connection = self.connection()?;
        let Message { body, headers, .. } = message;
        let payload = envelope::Message { body, headers }.encode();
        connection
            .say(&subject, reply.as_ref(), payload)
            .await
            .map_err(failed)
    }

    /// Begins to hear the answers in `scope`, if that was not done.
    async fn hear_answers(self: &Arc<Self>, scope: &Scope) -> Result<(), MessagingError> {
        let is_shared = *scope == Scope::shared();
        let root = if is_shared {
            INBOX.to_owned()
        } else {
            Scope::inbox_of_all()
        };
        let begin = async {
            let subject = self.subject(&format!("{root}.{}.*", self.end))?;
            let mut listening = self.connection()?.listen(&subject, None).await.map_err(failed)?;
            let (inner, closed) = (Arc::downgrade(self), self.closed.clone());
            self.spawn(async move {
                while let Some(Some(heard)) = closed.run_until_cancelled(listening.next()).await {
                    let Some(inner) = inner.upgrade() else { return };
                    inner.answered(heard);
                }
            });
            Ok(())
        };
        self.answers[usize::from(is_shared)]
            .get_or_try_init(|| begin)
            .await
            .map(drop)
    }

    /// Gives an answer to who asked. One that comes too late is nobody's.
    fn answered(&self, heard: Heard) {
        let waiting = self.asked().waiting.remove(&heard.subject);
        if let Some(waiting) = waiting {
            drop(waiting.send(heard));
        }
    }

    async fn ask(
        self: &Arc<Self>,
        scope: &Scope,
        message: Message,
        timeout: Duration,
    ) -> Result<Message, MessagingError> {
        message.check()?;
        let subject = message.subject.clone();
        let asked = async {
            self.hear_answers(scope).await?;
            let (answer, answered) = oneshot::channel();
            let (reply_to, _waits) = self.wait_for_answer(scope, answer)?;
            self.say(scope, message, Some(&reply_to)).await?;
            answered.await.map_err(|_| MessagingError::Closed)
        };
        let heard = match tokio::time::timeout(timeout, asked).await {
            Ok(heard) => heard?,
            Err(_) => return Err(MessagingError::Timeout { subject }),
        };
        if heard.no_responders {
            return Err(MessagingError::NoResponders { subject });
        }
        let unreadable = || {
            MessagingError::Unavailable("the answer can't be read: is every host of one version?".to_owned())
        };
        self.message(scope, &heard).ok_or_else(unreadable)
    }

    /// Where an answer is awaited, and what forgets that when it is dropped.
    fn wait_for_answer(
        self: &Arc<Self>,
        scope: &Scope,
        answer: oneshot::Sender<Heard>,
    ) -> Result<(String, Waits), MessagingError> {
        let mut asked = self.asked();
        if asked.waiting.len() >= REQUESTS_MAX {
            return Err(MessagingError::Overloaded);
        }
        asked.next += 1;
        let reply_to = format!("{INBOX}.{}.{}", self.end, asked.next);
        let subject = self.subject(&scope.subject(&reply_to)?)?.as_str().to_owned();
        asked.waiting.insert(subject.clone(), answer);
        Ok((reply_to, Waits(Arc::downgrade(self), subject)))
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// A request that waits; dropped, it is forgotten.
struct Waits(Weak<Inner>, String);

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.asked().waiting.remove(&self.1);
        }
    }
}

/// Gives what is heard to who subscribed, until nobody takes it any more.
async fn deliver(
    inner: Weak<Inner>,
    scope: Scope,
    mut listening: Listening,
    subscriber: Subscriber,
    end: CancellationToken,
    closed: CancellationToken,
) {
    let mut until: Option<Instant> = None;
    loop {
        let heard = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            () = end.cancelled(), if until.is_none() => {
                // What has come already is delivered all the same.
                let last = Instant::now() + LAST_WAIT;
                until = Some(last);
                drop(timeout_at(last, listening.end()).await);
                continue;
            }
            () = passed(until) => return,
            () = subscriber.unheard() => return,
            heard = listening.next() => heard,
        };
        let (Some(heard), Some(inner)) = (heard, inner.upgrade()) else {
            return;
        };
        match inner.message(&scope, &heard) {
            Some(message) => drop(subscriber.offer(Delivery::once(message))),
            // Not of a host of this version.
            None => subscriber.count_dropped(),
        }
    }
}

/// Ends at `until`; never without.
async fn passed(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn failed(error: TransportError) -> MessagingError {
    match error {
        TransportError::TooLarge { len, len_max, .. } => MessagingError::TooLarge {
            what: "message",
            len,
            len_max,
        },
        TransportError::Timeout { .. } | TransportError::Full => MessagingError::Overloaded,
        error => MessagingError::Unavailable(error.to_string()),
    }
}

impl Messaging for LatticeMessaging {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtMostOnce
    }

    fn publish<'a>(
        &'a self,
        scope: &'a Scope,
        mut message: Message,
    ) -> BoxFuture<'a, Result<(), MessagingError>> {
        async move {
            let reply_to = message.reply_to.take();
            self.0.say(scope, message, reply_to.as_deref()).await
        }
        .boxed()
    }

    fn request<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Message, MessagingError>> {
        self.0.ask(scope, message, timeout).boxed()
    }

    fn subscribe<'a>(
        &'a self,
        scope: &'a Scope,
        listen: Listen,
    ) -> BoxFuture<'a, Result<Subscription, MessagingError>> {
        async move {
            listen.check_group()?;
            let subject = self.0.subject(&scope.pattern(&listen.pattern)?)?;
            let connection = self.0.connection()?;
            let listening = connection.listen(&subject, listen.group.as_deref()).await;
            let (subscriber, subscription) = subscription(listen.queue_len);
            let end = CancellationToken::new();
            let subscription = subscription.until(end.clone().drop_guard());
            let (inner, closed) = (Arc::downgrade(&self.0), self.0.closed.clone());
            let listening = listening.map_err(failed)?;
            let task = deliver(inner, scope.clone(), listening, subscriber, end, closed);
            self.0.spawn(task);
            Ok(subscription)
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), MessagingError>> {
        // Whether the host is in its lattice is the host's to tell, and its condition, for all that goes over it.
        let checked = match self.0.closed.is_cancelled() {
            true => Err(MessagingError::Closed),
            false => Ok(()),
        };
        std::future::ready(checked).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.0.closed.cancel();
            self.0.asked().waiting.clear();
            let mut tasks = {
                let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *tasks)
            };
            while tasks.join_next().await.is_some() {}
        }
        .boxed()
    }
}
