//! One member of a group: the consumer, what is pulled from it, and what was asked on the way that keeps nothing.
//!
//! A member pulls what it has room for. What it has is handed on one by one, as there is room in its queue, and the server
//! is told every now and then that it still is here; so a group's messages go to who has time for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use weft_capabilities::Scope;
use weft_capabilities::messaging::{Delivery, Listen, Subscriber};

use super::super::listen::{Ear, Heard};
use super::super::{Broker, wire};
use super::settle::Kept;
use super::{ASKED, REPLY_TO, StreamOptions};
use crate::deliveries::Held;
use crate::jetstream::{Failure, nanos};
use crate::pull::{Pull, taken};

/// Messages that a member has beside those in its queue, at most: enough that the way to the server and back costs little.
const AHEAD_MAX: usize = 64;
/// Messages of a group that are not settled, at most, over all its members.
const UNSETTLED_MAX: usize = 10_000;
/// How long a consumer without a group is kept for who may come back.
const ALONE_WAIT: Duration = Duration::from_secs(60);
/// The pause before another try to pull, where the consumer or its server is gone.
const AGAIN_PAUSE: Duration = Duration::from_millis(250);
/// Times that a delivery's time is begun anew within it.
const PROLONGED: u32 = 3;
/// Bytes of a group's name in that of its consumer, for people.
const NAME_LEN_MAX: usize = 48;

/// What a member of a group is.
pub(super) struct Group {
    broker: Arc<Broker>,
    options: Arc<StreamOptions>,
    scope: Scope,
    pattern: String,
    consumer: Arc<str>,
    is_alone: bool,
    /// Messages that it has beside those in its queue.
    ahead: usize,
    held: Held,
}

/// A member at one connection.
pub(super) struct Member {
    /// What is asked for without being kept.
    asked: Heard,
    pull: Pull,
}

impl Group {
    pub(super) fn new(
        broker: Arc<Broker>,
        options: Arc<StreamOptions>,
        scope: Scope,
        pattern: String,
        listen: &Listen,
    ) -> Self {
        let consumer = match &listen.group {
            Some(group) => consumer(group, &pattern),
            None => format!("alone-{:032x}", rand::random::<u128>()),
        };
        Self {
            broker,
            options,
            scope,
            pattern,
            consumer: consumer.into(),
            is_alone: listen.group.is_none(),
            ahead: listen.queue_len.clamp(1, AHEAD_MAX),
            held: Held::default(),
        }
    }

    /// Makes the consumer if it is missing, and listens. When this returns, messages come.
    pub(super) async fn join(&self, ear: &Ear) -> Result<Member, Failure> {
        let (connection, ()) = self.broker.link.connection().await?;
        let (stream, consumer) = (&self.options.name, &*self.consumer);
        let mut config = json!({
            "name": consumer,
            "filter_subject": self.pattern,
            "deliver_policy": "new",
            "ack_policy": "explicit",
            "ack_wait": nanos(self.options.ack_wait),
            // It is counted here, as the server keeps no dead letters.
            "max_deliver": -1,
            "max_ack_pending": UNSETTLED_MAX,
            "inactive_threshold": nanos(if self.is_alone { ALONE_WAIT } else { self.options.age_max }),
        });
        if !self.is_alone {
            config["durable_name"] = consumer.into();
        }
        let pull = Pull::begin(connection.clone(), stream, consumer, &config, self.ahead).await?;
        let asked = ear.at(connection).await?;
        Ok(Member { asked, pull })
    }

    /// Joins again, on the connection that there is next. `None` if there will be none.
    async fn join_again(&self, ear: &Ear) -> Option<Member> {
        loop {
            sleep(AGAIN_PAUSE).await;
            self.broker.link.up().await?;
            match self
                .broker
                .link
                .within(self.broker.link.deadline(), self.join(ear))
                .await
            {
                Ok(member) => return Some(member),
                Err(failure) => {
                    tracing::warn!(consumer = %self.consumer, %failure, "failed to join a group of JetStream");
                }
            }
        }
    }

    /// Passes on what comes, until nobody wants more; and then sees to what is not settled yet.
    pub(super) async fn pass_on(
        self,
        ear: Ear,
        mut member: Member,
        subscriber: Subscriber,
        stop: CancellationToken,
    ) {
        let mut waiting = VecDeque::new();
        let mut prolong = interval(self.options.ack_wait / PROLONGED);
        prolong.set_missed_tick_behavior(MissedTickBehavior::Delay);
        {
            let mut giving: Option<BoxFuture<'_, bool>> = None;
            let is_heard = loop {
                if giving.is_none()
                    && let Some((message, kept)) = waiting.pop_front()
                {
                    giving = Some(subscriber.send(self.delivery(message, kept)).boxed());
                }
                let is_joined = tokio::select! {
                    biased;
                    () = stop.cancelled() => break true,
                    is_heard = taken(&mut giving) => {
                        giving = None;
                        if !is_heard {
                            break false;
                        }
                        true
                    }
                    _ = prolong.tick() => {
                        self.prolong().await;
                        true
                    }
                    () = self.held.due() => {
                        self.give_back().await;
                        true
                    }
                    message = member.asked.next() => match message {
                        Some(message) => self.hand_on_asked(message, &subscriber),
                        None => false,
                    },
                    message = member.pull.next(waiting.len()) => match message {
                        Some(message) => {
                            waiting.extend(self.take(message).await);
                            true
                        }
                        None => false,
                    },
                };
                if !is_joined {
                    tokio::select! {
                        () = stop.cancelled() => break true,
                        joined = self.join_again(&ear) => match joined {
                            Some(joined) => member = joined,
                            None => break false,
                        },
                    }
                }
            };
            let Member { asked, pull } = member;
            let mut is_heard = is_heard && subscriber.unheard().now_or_never().is_none();
            // From here on the server gives to others.
            if is_heard {
                let last = pull.last().await;
                waiting.extend(last.into_iter().filter_map(|message| self.hold(message)));
                for message in asked.last().await {
                    self.hand_on_asked(message, &subscriber);
                }
            } else {
                drop(pull);
            }
            if is_heard {
                is_heard = self.give(giving, &mut prolong).await;
            }
            for (message, kept) in waiting {
                if is_heard {
                    let giving = subscriber.send(self.delivery(message, kept)).boxed();
                    is_heard = self.give(Some(giving), &mut prolong).await;
                } else {
                    kept.release().await;
                }
            }
        }
        drop(subscriber);
        while !self.held.is_empty() {
            tokio::select! {
                () = self.broker.closing.cancelled() => return,
                _ = prolong.tick() => self.prolong().await,
                () = self.held.due() => self.give_back().await,
            }
        }
    }

    /// Tells the server of what is not settled yet, on the connection that there is now: a delivery may outlive the one
    /// that brought it.
    async fn prolong(&self) {
        if let Ok((connection, ())) = self.broker.link.connection().await {
            self.held.prolong(&connection).await;
        }
    }

    async fn give_back(&self) {
        let connection = self.broker.link.connection().await;
        let connection = connection.as_ref().ok().map(|(connection, ())| connection);
        self.held.give_back(connection).await;
    }

    /// Waits until a delivery is handed on, which may take long. Whether somebody takes more.
    async fn give(&self, mut giving: Option<BoxFuture<'_, bool>>, prolong: &mut Interval) -> bool {
        if giving.is_none() {
            return true;
        }
        loop {
            tokio::select! {
                is_heard = taken(&mut giving) => return is_heard,
                _ = prolong.tick() => self.prolong().await,
            }
        }
    }

    fn delivery(&self, message: weft_capabilities::Message, kept: Kept) -> Delivery {
        Delivery::kept(message, kept.attempt, kept)
    }

    /// Takes what was pulled, if it is one to be handed on.
    async fn take(&self, message: Message) -> Option<(weft_capabilities::Message, Kept)> {
        let (message, kept) = self.hold(message)?;
        if kept.attempt <= self.options.deliveries_max {
            return Some((message, kept));
        }
        if let Err(error) = kept.bury("nobody said whether it was handled").await {
            tracing::warn!(%error, "failed to put a dead letter aside");
        }
        None
    }

    fn hold(&self, mut message: Message) -> Option<(weft_capabilities::Message, Kept)> {
        let kept = Kept::hold(&self.broker, &self.options, &self.consumer, &self.held, &message)?;
        let reply = message.headers.as_ref().and_then(|headers| headers.get(REPLY_TO));
        message.reply = reply.map(|reply| reply.as_str().into());
        Some((wire::read(&self.scope, message)?, kept))
    }

    fn hand_on_asked(&self, mut message: Message, subscriber: &Subscriber) -> bool {
        if let Some(subject) = message
            .subject
            .strip_prefix(ASKED)
            .and_then(|rest| rest.strip_prefix('.'))
        {
            message.subject = subject.into();
            if let Some(message) = wire::read(&self.scope, message) {
                subscriber.offer(Delivery::once(message));
            }
        }
        true
    }
}

/// The name of a group's consumer: the same on each host, and another for each pattern.
fn consumer(group: &str, pattern: &str) -> String {
    let digest = Sha256::digest(format!("{group} {pattern}"));
    let digest: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{digest}", &group[..group.floor_char_boundary(NAME_LEN_MAX)])
}
