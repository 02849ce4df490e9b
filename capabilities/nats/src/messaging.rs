//! Messaging on NATS as it is: at most once.
//!
//! A message is one of NATS, on the subject that a scope makes of it. What a host listens to is a subscription on its one
//! connection, made again with the next one. [`wire`] is what messages look like, [`kept`] the backend on JetStream.

pub(crate) mod kept;
mod listen;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use weft_capabilities::messaging::{Guarantee, Listen, Subscription, subscription};
use weft_capabilities::{Message, Messaging, MessagingError, Scope};

use self::listen::{Ear, Heard};
use crate::connect::{NatsOptions, Source};
use crate::error::{OpenError, Reason, Unanswered};
use crate::jetstream::Failure;
use crate::link::{Connection, Link, SetUp};

/// Requests that wait for an answer at once, at most. Each has the memory of one message.
const REQUESTS_MAX: usize = 4_096;
/// What a check of the connection is told to be about: no subject of anybody's.
const CHECKED: &str = "_INBOX";
/// How long subscriptions have to give away what reached them, when the backend is closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Messaging on NATS, at most once.
pub struct NatsMessaging {
    broker: Arc<Broker>,
    _ends: DropGuard,
}

impl NatsMessaging {
    /// Starts to connect. A server that is away is no error here, but one of each operation, until it comes.
    ///
    /// The connection lives on the runtime that this is called on, whoever uses it.
    ///
    /// # Errors
    /// [`OpenError`]: an address or the certificates can't be used.
    pub fn open(options: &NatsOptions) -> Result<Self, OpenError> {
        let ready = |_| std::future::ready(Ok(())).boxed();
        let broker = Broker::open(options, Box::new(ready))?;
        Ok(Self {
            _ends: broker.closing.clone().drop_guard(),
            broker,
        })
    }
}

/// What both backends have: a connection, and those who listen.
struct Broker {
    link: Link<()>,
    requests: Semaphore,
    /// Where the tasks of subscriptions live.
    runtime: Handle,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Broker {
    fn open(options: &NatsOptions, set_up: SetUp<()>) -> Result<Arc<Self>, OpenError> {
        let source = Source::new(options)?;
        Ok(Arc::new(Self {
            link: Link::start(source, set_up, vec![Scope::inbox_of_all()], options.timeout),
            requests: Semaphore::new(REQUESTS_MAX),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }))
    }

    /// Sends a message as it is.
    async fn send(&self, scope: &Scope, message: Message) -> Result<(), MessagingError> {
        let (subject, named) = (scope.subject(&message.subject)?, message.subject.clone());
        let headers = wire::headers(&message);
        let reply = wire::reply(scope, &message)?;
        let sent = async {
            let (connection, ()) = self.link.connection().await?;
            Ok(connection
                .publish(subject.into(), reply.map(Into::into), headers, message.body)
                .await?)
        };
        let sent = self.link.within(self.link.deadline(), sent).await;
        sent.map_err(|failure| wire::error(failure, &named))
    }

    /// Sends a message to `subject` and waits for what is published where it asks for the answer.
    async fn ask(
        &self,
        scope: &Scope,
        subject: String,
        message: Message,
        timeout: Duration,
    ) -> Result<Message, MessagingError> {
        let until = Instant::now() + timeout;
        let (inbox, named) = (scope.inbox()?, message.subject.clone());
        let headers = wire::headers(&message);
        let _place = self
            .requests
            .try_acquire()
            .map_err(|_| match self.requests.is_closed() {
                true => MessagingError::Closed,
                false => MessagingError::Overloaded,
            })?;
        let asked = async {
            let (connection, ()) = self.link.connection().await?;
            connection
                .request_from(&inbox, subject.into(), headers, message.body)
                .await
        };
        let asked = self.closing.run_until_cancelled(timeout_at(until, asked));
        match asked.await.ok_or(MessagingError::Closed)? {
            Ok(Ok(answer)) => wire::read(scope, answer)
                .ok_or_else(|| MessagingError::Backend("the answer is of another scope".into())),
            Ok(Err(unanswered)) => Err(wire::error(unanswered.into(), &named)),
            Err(_) => Err(MessagingError::Timeout { subject: named }),
        }
    }

    /// Listens to a subject of NATS.
    async fn hear(&self, ear: &Ear) -> Result<Heard, Failure> {
        let heard = async {
            let (connection, ()) = self.link.connection().await?;
            Ok(ear.at(connection).await?)
        };
        self.link.within(self.link.deadline(), heard).await
    }

    /// Has the server do all that it was told before, and then `more`; by way of a message to this end itself.
    async fn check<F: Future<Output = Result<(), Reason>>>(
        &self,
        more: impl FnOnce(Connection) -> F,
    ) -> Result<(), MessagingError> {
        let asked = async {
            let (connection, ()) = self.link.connection().await?;
            match connection.barrier(CHECKED).await {
                // A server that refuses that message answers.
                Ok(()) | Err(Unanswered::Denied) => {}
                Err(unanswered) => return Err(unanswered.into()),
            }
            more(connection)
                .await
                .map_err(|reason| Unanswered::Not(reason).into())
        };
        let asked = self.link.within(self.link.deadline(), asked).await;
        asked.map_err(|failure| wire::error(failure, CHECKED))
    }

    async fn close(&self) {
        self.link.refuse();
        self.requests.close();
        self.closing.cancel();
        self.tasks.close();
        // A subscription that nobody takes from is not waited for.
        drop(timeout(CLOSE_WAIT, self.tasks.wait()).await);
        self.link.end().await;
    }
}

impl Messaging for NatsMessaging {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtMostOnce
    }

    fn publish<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
    ) -> BoxFuture<'a, Result<(), MessagingError>> {
        async move {
            message.check()?;
            self.broker.send(scope, message).await
        }
        .boxed()
    }

    fn request<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Message, MessagingError>> {
        async move {
            message.check()?;
            let subject = scope.subject(&message.subject)?;
            self.broker.ask(scope, subject, message, timeout).await
        }
        .boxed()
    }

    fn subscribe<'a>(
        &'a self,
        scope: &'a Scope,
        listen: Listen,
    ) -> BoxFuture<'a, Result<Subscription, MessagingError>> {
        async move {
            listen.check_group()?;
            let subject = scope.pattern(&listen.pattern)?;
            let ear = Ear {
                subject,
                group: listen.group,
            };
            let heard = self.broker.hear(&ear).await;
            let heard = heard.map_err(|failure| wire::error(failure, &listen.pattern))?;
            let (subscriber, subscription) = subscription(listen.queue_len);
            let stop = self.broker.closing.child_token();
            let task = listen::pass_on(
                self.broker.clone(),
                ear,
                heard,
                scope.clone(),
                subscriber,
                stop.clone(),
            );
            self.broker.tasks.spawn_on(task, &self.broker.runtime);
            Ok(subscription.until(stop.drop_guard()))
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), MessagingError>> {
        self.broker.check(|_| std::future::ready(Ok(()))).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.broker.close().boxed()
    }
}
