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
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use weft_capabilities::key_value::watch::{Settle, Watcher, changes};
use weft_capabilities::{Bucket, Change, Changes, KeyValueError, Watch};

use super::NatsKeyValue;
use super::name::{Named, Names};
use super::stream::{MARK_AGE_MAX, Stream, has_value};
use crate::deliveries::{Delivered, Held};
use crate::jetstream::{self, API, Failure};
use crate::link::{Connection, Link};

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
/// How long a pull is open. The server ends it then, and says so; after twice that time without a word it is asked anew.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// How long who leaves waits for what the server may be sending.
const LEAVE_WAIT: Duration = Duration::from_millis(100);
/// The pause before it is looked again whether a key is gone of which a mark says so: its deletion is under way.
const GONE_PAUSE: Duration = Duration::from_millis(100);
/// What is left of a pull that has ended.
const PENDING: &str = "Nats-Pending-Messages";

const NO_MESSAGES: u16 = 404;
const TIMED_OUT: u16 = 408;

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

/// As JetStream counts time.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
    connection: Connection,
    stream: Arc<Stream>,
    /// What is pulled, and the server's words about it.
    pulled: async_nats::Subscriber,
    inbox: String,
    /// Messages that the server may still send.
    wanted: usize,
    quiet_since: Instant,
}

impl Ear {
    /// Makes the consumer if it is missing, and listens. When this returns, changes come.
    async fn join(&self) -> Result<Member, Failure> {
        #[derive(Deserialize)]
        struct Made {
            #[expect(dead_code, reason = "an answer without it is a refusal")]
            name: String,
        }
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
        let question = json!({ "stream_name": stream.name(), "config": config });
        let subject = format!("CONSUMER.CREATE.{}.{}", stream.name(), self.consumer);
        let _made: Made = jetstream::ask(&connection, &subject, &question).await?;
        let inbox = connection.inbox();
        Ok(Member {
            pulled: connection.listen(&inbox, None).await?,
            connection,
            stream,
            inbox,
            wanted: 0,
            quiet_since: Instant::now(),
        })
    }

    /// Passes on what comes, until nobody wants more or the connection is lost; and then sees to what is not settled yet.
    async fn pass_on(
        self,
        mut member: Member,
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
                self.pull(&mut member, waiting.len()).await;
                let goes_on = tokio::select! {
                    biased;
                    () = stop.cancelled() => false,
                    () = member.connection.lost() => false,
                    () = watcher.unheard() => false,
                    is_heard = done(&mut giving) => {
                        giving = None;
                        is_heard
                    }
                    _ = prolong.tick() => {
                        self.held.prolong(&member.connection).await;
                        self.held.give_back(Some(&member.connection)).await;
                        true
                    }
                    () = self.held.due() => {
                        self.held.give_back(Some(&member.connection)).await;
                        true
                    }
                    message = member.pulled.next() => match message {
                        Some(message) => self.take(&mut member, message, &mut waiting).await,
                        None => false,
                    },
                    () = sleep_until(member.quiet_since + 2 * PULL_WAIT) => {
                        member.wanted = 0;
                        // There may be no room to ask again.
                        member.quiet_since = Instant::now();
                        true
                    }
                };
                if !goes_on {
                    break;
                }
            }
        }
        drop(watcher);
        // For whoever is next of the group.
        let until = Instant::now() + LEAVE_WAIT;
        while member.wanted > 0
            && let Ok(Some(message)) = timeout_at(until, member.pulled.next()).await
        {
            member.wanted -= 1;
            if let Some(acks) = message.reply {
                self.held.give_up(&acks);
            }
        }
        drop(waiting);
        self.held.give_back(Some(&member.connection)).await;
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

    /// Asks for what there is room for.
    async fn pull(&self, member: &mut Member, waiting: usize) {
        let room = AHEAD_MAX.saturating_sub(waiting + member.wanted);
        // Not for each by itself.
        if room * 2 < AHEAD_MAX {
            return;
        }
        let question = json!({ "batch": room, "expires": nanos(PULL_WAIT) });
        let stream = member.stream.name();
        let subject = format!("{API}.CONSUMER.MSG.NEXT.{stream}.{}", self.consumer);
        let inbox = Some(member.inbox.as_str().into());
        let asked = member
            .connection
            .publish(subject.into(), inbox, None, question.to_string().into())
            .await;
        if asked.is_ok() {
            member.wanted += room;
        }
        member.quiet_since = Instant::now();
    }

    /// Takes what came for a pull. Whether the consumer still is there.
    async fn take(&self, member: &mut Member, message: Message, waiting: &mut VecDeque<Change>) -> bool {
        member.quiet_since = Instant::now();
        match message.status.map(|status| status.as_u16()) {
            None => {
                member.wanted = member.wanted.saturating_sub(1);
                waiting.extend(self.change(member, message).await);
                true
            }
            Some(NO_MESSAGES | TIMED_OUT) => {
                let left = message.headers.as_ref().and_then(|headers| headers.get(PENDING));
                let left = left.and_then(|left| left.as_str().parse().ok());
                member.wanted = member.wanted.saturating_sub(left.unwrap_or(usize::MAX));
                true
            }
            Some(_) => false,
        }
    }

    /// The change that a message is, if it is one to be told; otherwise it is settled here.
    async fn change(&self, member: &Member, message: Message) -> Option<Change> {
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
                let last = async { member.stream.last(&member.connection, &subject).await };
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

/// Ends when a change was handed on; never if there is none.
async fn done(giving: &mut Option<BoxFuture<'_, bool>>) -> bool {
    match giving {
        Some(giving) => giving.await,
        None => std::future::pending().await,
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
