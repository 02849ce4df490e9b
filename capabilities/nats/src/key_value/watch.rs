//! Changes of keys, by a consumer of the bucket's stream: at least once, and to one of a group.
//!
//! Owns the consumer, which its group shares, and what is pulled from it, on the connection that there is: if that is lost
//! the watch ends, and who wants more begins anew and goes on where it was. The stream has the last value of each key, so
//! that one which was replaced before it was told is passed over. A key that is deleted leaves a mark ([`super::stream`]) that it
//! is gone, and is told as deleted once it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use weft_capabilities::key_value::watch::{Settle, Watcher, changes};
use weft_capabilities::{Bucket, Change, Changes, KeyValueError, Watch};

use super::NatsKeyValue;
use super::name::{Named, Names};
use super::stream::{MARK_AGE_MAX, Stream, has_value};
use crate::deliveries::{Delivered, Held};
use crate::jetstream::{Failure, nanos};
use crate::link::{Connection, Link};
use crate::pull::{Pull, taken};

/// Watches of one store at once, at most.
const WATCHES_MAX: usize = 256;
/// Changes that a member has beside those in its queue, at most: each may have 8 MiB.
const AHEAD_MAX: usize = 16;
/// Changes of a group that are not settled, at most, over all its members.
const UNSETTLED_MAX: usize = 1_000;
/// How often a change is told before it is given up: with the pauses between, some two minutes.
const DELIVERIES_MAX: u32 = 8;
/// How long the server waits for a host that says nothing more of a change. While it is handled, the host says so.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Times that a change's time is begun anew within it.
const PROLONGED: u32 = 3;
/// The pause before it is looked again whether a key is gone of which a mark says so: its deletion is under way.
const GONE_PAUSE: Duration = Duration::from_millis(100);

impl NatsKeyValue {
    pub(super) async fn watch(&self, bucket: &Bucket, watch: Watch) -> Result<Changes, KeyValueError> {
        let names = Names::of(&self.prefix, bucket)?;
        if self.watches.len() >= WATCHES_MAX {
            let full = format!("it has {WATCHES_MAX} watches already");
            return Err(KeyValueError::Unavailable(full));
        }
        let ear = Ear {
            link: self.link.clone(),
            consumer: consumer(&watch, &names.filter_all()),
            names,
            watch,
            held: Held::default(),
        };
        let joined = self.link.within(self.link.deadline(), ear.join()).await;
        let member = joined?;
        let (watcher, changes) = changes();
        let stop = self.watching.child_token();
        let task = ear.pass_on(member, watcher, stop.clone(), self.watching.clone());
        self.watches.spawn_on(task, &self.runtime);
        Ok(changes.until(stop.drop_guard()))
    }
}

/// The name of a group's consumer: the same on each host, and another for other keys.
fn consumer(watch: &Watch, filter: &str) -> String {
    let digest = Sha256::digest(format!("{}\n{filter}\n{}", watch.group, watch.prefix));
    let digest: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("weft-watch-{digest}")
}

/// What a member of a group is.
struct Ear {
    link: Arc<Link<Arc<Stream>>>,
    names: Names,
    consumer: String,
    watch: Watch,
    held: Held,
}

/// A member at one connection.
struct Member {
    stream: Arc<Stream>,
    pull: Pull,
}

impl Ear {
    /// Makes the consumer if it is missing, and listens. When this returns, changes come.
    async fn join(&self) -> Result<Member, Failure> {
        let (connection, stream) = self.link.connection().await?;
        stream.mark_what_is_gone(&connection).await?;
        let config = json!({
            "name": self.consumer,
            "durable_name": self.consumer,
            "filter_subject": self.names.filter_all(),
            "deliver_policy": "new",
            "ack_policy": "explicit",
            "ack_wait": nanos(ACK_WAIT),
            // It is counted here, as the server would say nothing of it.
            "max_deliver": -1,
            "max_ack_pending": UNSETTLED_MAX,
            // What is gone is not known for longer.
            "inactive_threshold": nanos(MARK_AGE_MAX),
        });
        let pull = Pull::begin(connection, stream.name(), &self.consumer, &config, AHEAD_MAX).await?;
        Ok(Member { stream, pull })
    }

    /// Passes on what comes, until nobody wants more or the connection is lost; and then sees to what is not settled yet.
    async fn pass_on(
        self,
        Member { stream, mut pull }: Member,
        watcher: Watcher,
        stop: CancellationToken,
        closing: CancellationToken,
    ) {
        let mut waiting = VecDeque::new();
        let mut prolong = interval(ACK_WAIT / PROLONGED);
        prolong.set_missed_tick_behavior(MissedTickBehavior::Delay);
        {
            let mut giving: Option<BoxFuture<'_, bool>> = None;
            loop {
                if giving.is_none()
                    && let Some(change) = waiting.pop_front()
                {
                    giving = Some(watcher.send(change).boxed());
                }
                let goes_on = tokio::select! {
                    biased;
                    () = stop.cancelled() => false,
                    () = watcher.unheard() => false,
                    is_heard = taken(&mut giving) => {
                        giving = None;
                        is_heard
                    }
                    _ = prolong.tick() => {
                        self.held.prolong(&pull.connection).await;
                        self.held.give_back(Some(&pull.connection)).await;
                        true
                    }
                    () = self.held.due() => {
                        self.held.give_back(Some(&pull.connection)).await;
                        true
                    }
                    message = pull.next(waiting.len()) => match message {
                        Some(message) => {
                            waiting.extend(self.change(&stream, &pull.connection, message).await);
                            true
                        }
                        None => false,
                    },
                };
                if !goes_on {
                    break;
                }
            }
        }
        drop(watcher);
        let connection = pull.connection.clone();
        // For whoever is next of the group.
        for acks in pull.last().await.into_iter().filter_map(|message| message.reply) {
            self.held.give_up(&acks);
        }
        drop(waiting);
        self.held.give_back(Some(&connection)).await;
        while !self.held.is_empty() {
            tokio::select! {
                () = closing.cancelled() => return,
                _ = prolong.tick() => if let Ok((connection, _)) = self.link.connection().await {
                    self.held.prolong(&connection).await;
                    self.held.give_back(Some(&connection)).await;
                },
                () = self.held.due() => {
                    let connection = self.link.connection().await;
                    let connection = connection.as_ref().ok().map(|(connection, _)| connection);
                    self.held.give_back(connection).await;
                }
            }
        }
    }

    /// The change that a message is, if it is one to be told; otherwise it is settled here.
    async fn change(&self, stream: &Stream, connection: &Connection, message: Message) -> Option<Change> {
        let acks = message.reply.clone()?;
        let delivered = Delivered::read(&acks)?;
        let mut kept = Kept {
            link: self.link.clone(),
            held: self.held.clone(),
            acks,
            attempt: delivered.attempt,
            is_settled: false,
        };
        self.held.add(&kept.acks);
        let named = self.names.read(&message.subject);
        let is_told = |key: &str| key.starts_with(&self.watch.prefix);
        let (key, value) = match named {
            Some(Named::Key(key)) if is_told(&key) => {
                let headers = message.headers.unwrap_or_default();
                (key, has_value(&headers).then_some(message.payload))
            }
            Some(Named::Gone(key, subject)) if is_told(&key) => {
                let last = async { stream.last(connection, &subject).await };
                let last = self.link.within(self.link.deadline(), last).await;
                match last {
                    Ok(last) if last.sequence == 0 => (key, None),
                    // It was set again, which is told by itself.
                    Ok(last) if last.sequence > delivered.sequence => {
                        kept.say("+ACK").await;
                        return None;
                    }
                    // It is not gone yet, and may never be.
                    _ if delivered.attempt < DELIVERIES_MAX => {
                        kept.refuse(GONE_PAUSE * delivered.attempt);
                        return None;
                    }
                    _ => {
                        kept.say("+TERM").await;
                        return None;
                    }
                }
            }
            _ => {
                kept.say("+ACK").await;
                return None;
            }
        };
        if delivered.attempt > DELIVERIES_MAX {
            tracing::warn!(
                key,
                consumer = self.consumer,
                "a change of a key was told too often, and is given up"
            );
            kept.say("+TERM").await;
            return None;
        }
        Some(Change::kept(key, value, delivered.attempt, kept))
    }
}

/// One delivery, until it is settled.
struct Kept {
    link: Arc<Link<Arc<Stream>>>,
    held: Held,
    acks: Subject,
    attempt: u32,
    /// Whether a word of it was said.
    is_settled: bool,
}

impl Kept {
    /// Says a word of it that nobody waits for: if it is not heard, it comes again.
    async fn say(&mut self, word: &str) {
        self.is_settled = true;
        if let Ok((connection, _)) = self.link.connection().await {
            let said = connection.publish(self.acks.clone(), None, None, word.to_owned().into());
            drop(said.await);
        }
    }

    /// Has it come again after `delay`.
    fn refuse(&mut self, delay: Duration) {
        self.is_settled = true;
        self.held.refuse(&self.acks, delay);
    }

    /// Says a word of it, and waits until the server has heard it.
    async fn tell(&mut self, word: &'static str) -> Result<(), KeyValueError> {
        self.is_settled = true;
        let told = async {
            let (connection, _) = self.link.connection().await?;
            Ok(connection.request(self.acks.clone(), None, word.into()).await?)
        };
        let told = self.link.within(self.link.deadline(), told).await;
        Ok(told.map(drop)?)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        match self.is_settled {
            true => self.held.remove(&self.acks),
            false => self.held.give_up(&self.acks),
        }
    }
}

impl Settle for Kept {
    fn comes_again(&self) -> bool {
        self.attempt < DELIVERIES_MAX
    }

    fn ack(mut self: Box<Self>) -> BoxFuture<'static, Result<(), KeyValueError>> {
        async move { self.tell("+ACK").await }.boxed()
    }

    fn nak(mut self: Box<Self>, delay: Duration) -> BoxFuture<'static, Result<(), KeyValueError>> {
        async move {
            if self.comes_again() {
                self.refuse(delay);
                return Ok(());
            }
            self.tell("+TERM").await
        }
        .boxed()
    }
}
