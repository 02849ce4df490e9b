//! Messaging on JetStream: at least once.
//!
//! What is published is acknowledged by the stream, which keeps it until each group that listens has handled it. A group
//! is a durable consumer that its members pull from ([`group`]); a delivery is settled by a confirmed word to the server
//! ([`settle`]), and one that came too often is put into a second stream, the dead letters.
//!
//! Requests and answers are messages of NATS as it is, as nobody waits for an answer that comes after a restart: a
//! request goes to subjects of its own, which members of a group hear too.

mod group;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio_util::sync::DropGuard;
use weft_capabilities::messaging::{Guarantee, INBOX, Listen, Subscription, subscription};
use weft_capabilities::{Message, Messaging, MessagingError, Scope};

use self::group::Group;
use super::listen::Ear;
use super::{Broker, wire};
use crate::connect::NatsOptions;
use crate::error::{OpenError, Reason, Unanswered};
use crate::jetstream::{self, Failure, Storage, StreamInfo, code, nanos};
use crate::link::Connection;

/// What the subjects of all scopes of apps match.
const SCOPED: &str = "weft-app.>";
/// What the subjects of requests begin with, before those of their messages: no stream has them.
const ASKED: &str = "weft-ask";
/// What the subjects of dead letters begin with, before those of their messages.
const DEAD: &str = "weft-dead";
/// The header with the subject on which an answer is awaited: the stream would take NATS's own for that of the publisher,
/// who waits for the acknowledgement.
const REPLY_TO: &str = "Weft-Reply-To";

/// The stream, and how it is made if it is missing; and how often and for how long a message is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// Its name. That of the dead letters is this and `-dead`.
    pub name: String,
    /// Subjects of the shared scope that it has beside those of all apps.
    pub subjects: Vec<String>,
    /// Servers that have a copy.
    pub replicas: usize,
    /// Where they have it.
    pub storage: Storage,
    /// Bytes that each of the two streams holds. One that is full refuses messages; of dead letters the oldest go.
    pub bytes_max: u64,
    /// How long a message is kept for a group that does not take it, and a group that nobody is in.
    pub age_max: Duration,
    /// How often a message is delivered before it is a dead letter.
    pub deliveries_max: u32,
    /// How long the server waits for a host that says nothing more of a message. While it is handled, the host says so.
    pub ack_wait: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            name: "weft".to_owned(),
            subjects: Vec::new(),
            replicas: 1,
            storage: Storage::default(),
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(7 * 24 * 3_600),
            deliveries_max: 5,
            ack_wait: Duration::from_secs(30),
        }
    }
}

impl StreamOptions {
    /// Both streams, which are made if they are missing.
    async fn find_or_make(&self, connection: &Connection) -> Result<(), Reason> {
        let mut subjects = vec![SCOPED.to_owned()];
        subjects.extend(self.subjects.iter().cloned());
        let kept = json!({ "retention": "interest", "discard": "new" });
        self.make(connection, &self.name, subjects, kept).await?;
        let dead = json!({ "retention": "limits", "discard": "old" });
        self.make(connection, &self.dead(), vec![format!("{DEAD}.>")], dead)
            .await
    }

    async fn make(
        &self,
        connection: &Connection,
        name: &str,
        subjects: Vec<String>,
        mut config: serde_json::Value,
    ) -> Result<(), Reason> {
        let found = jetstream::ask(connection, &format!("STREAM.INFO.{name}"), &json!({})).await;
        let found: StreamInfo = match found {
            Err(Failure::Refused(refusal)) if refusal.err_code == code::STREAM_NOT_FOUND => {
                config["name"] = name.into();
                config["subjects"] = subjects.clone().into();
                config["storage"] = self.storage.name().into();
                config["num_replicas"] = self.replicas.into();
                config["max_bytes"] = self.bytes_max.into();
                config["max_age"] = nanos(self.age_max).into();
                tracing::info!(stream = name, "making a stream of JetStream");
                jetstream::ask(connection, &format!("STREAM.CREATE.{name}"), &config).await
            }
            found => found,
        }
        .map_err(jetstream::reason)?;
        let missing = subjects
            .iter()
            .find(|&subject| !found.config.subjects.contains(subject));
        match missing {
            None => Ok(()),
            Some(subject) => Err(Reason::away(format!(
                "the stream {name} is there and has not the subject `{subject}`: add it there, or name another stream"
            ))),
        }
    }

    fn dead(&self) -> String {
        format!("{}-dead", self.name)
    }
}

/// Messaging on JetStream, at least once.
pub struct JetStreamMessaging {
    broker: Arc<Broker>,
    options: Arc<StreamOptions>,
    _ends: DropGuard,
}

impl JetStreamMessaging {
    /// Starts to connect. A server that is away is no error here, but one of each operation, until it comes.
    ///
    /// The connection lives on the runtime that this is called on, whoever uses it.
    ///
    /// # Errors
    /// [`OpenError`]: an address, the certificates or the stream's name can't be used.
    pub fn open(options: &NatsOptions, stream: StreamOptions) -> Result<Self, OpenError> {
        jetstream::check_name(&stream.name)?;
        let stream = Arc::new(stream);
        let set_up = {
            let stream = stream.clone();
            move |connection: Connection| {
                let stream = stream.clone();
                async move { stream.find_or_make(&connection).await }.boxed()
            }
        };
        let broker = Broker::open(options, Box::new(set_up))?;
        Ok(Self {
            _ends: broker.closing.clone().drop_guard(),
            broker,
            options: stream,
        })
    }

    async fn keep(&self, scope: &Scope, message: Message) -> Result<(), MessagingError> {
        let subject = scope.subject(&message.subject)?;
        let mut headers = wire::headers(&message).unwrap_or_default();
        if let Some(reply) = wire::reply(scope, &message)? {
            headers.insert(REPLY_TO, reply);
        }
        let headers = (!headers.is_empty()).then_some(headers);
        let kept = async {
            let (connection, ()) = self.broker.link.connection().await?;
            jetstream::publish(&connection, subject, headers, message.body).await
        };
        let kept = self.broker.link.within(self.broker.link.deadline(), kept).await;
        kept.map(drop).map_err(|failure| match failure {
            Failure::Unanswered(Unanswered::NoResponders) => MessagingError::Unavailable(format!(
                "no stream of JetStream has `{}`: add it to the provider's subjects",
                message.subject
            )),
            Failure::Refused(refusal) if refusal.err_code == code::STORE_FAILED => MessagingError::Overloaded,
            failure => wire::error(failure, &message.subject),
        })
    }
}

impl Messaging for JetStreamMessaging {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn publish<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
    ) -> BoxFuture<'a, Result<(), MessagingError>> {
        async move {
            message.check()?;
            let is_answer = message.subject.split('.').next() == Some(INBOX);
            match is_answer {
                true => self.broker.send(scope, message).await,
                false => self.keep(scope, message).await,
            }
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
            let subject = format!("{ASKED}.{}", scope.subject(&message.subject)?);
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
            let pattern = scope.pattern(&listen.pattern)?;
            let (subscriber, subscription) = subscription(listen.queue_len);
            let stop = self.broker.closing.child_token();
            let ear = Ear {
                subject: format!("{ASKED}.{pattern}"),
                group: listen.group.clone(),
            };
            let group = Group::new(
                self.broker.clone(),
                self.options.clone(),
                scope.clone(),
                pattern,
                &listen,
            );
            let joined = self
                .broker
                .link
                .within(self.broker.link.deadline(), group.join(&ear))
                .await;
            let heard = joined.map_err(|failure| wire::error(failure, &listen.pattern))?;
            let task = group.pass_on(ear, heard, subscriber, stop.clone());
            self.broker.tasks.spawn_on(task, &self.broker.runtime);
            Ok(subscription.until(stop.drop_guard()))
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), MessagingError>> {
        // A stream that somebody deleted is made again, as it is when the connection is.
        let options = self.options.clone();
        let streams = move |connection| async move { options.find_or_make(&connection).await };
        self.broker.check(streams).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.broker.close().boxed()
    }
}
