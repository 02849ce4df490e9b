//! Changes of keys, by Redis's notifications: at most once, and to all who listen.
//!
//! Owns a connection for each watch, which lives as long as that: if it is lost the watch ends, and who wants more begins
//! anew. A notification says which key was changed and not how, so that the value is read then and may be a later one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Msg, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use weft_capabilities::key_value::watch::{CHANGES_LEN_MAX, Watcher, changes};
use weft_capabilities::{Bucket, Change, Changes, KeyValueError, Watch};

use crate::error::unexpected;
use crate::key::{Names, escaped};
use crate::lanes::Lanes;
use crate::{RedisKeyValue, Sent, bytes_of, error};

/// Watches of one store at once, at most: each has a connection of its own.
const WATCHES_MAX: usize = 64;
/// Values that are read at once for one watch, at most: each may have 8 MiB.
const READ_AT_ONCE: usize = 4;
/// How often a connection is asked whether it still is one.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The longest wait for that answer.
const ASK_WAIT: Duration = Duration::from_secs(1);
/// The longest wait for a connection that listens.
const LISTEN_WAIT: Duration = Duration::from_secs(3);
/// The setting of the server, and what it has to have: that notifications name keys, and tell when values are set (`$`),
/// taken away (`g`), expire (`x`) or are evicted (`e`).
const SETTING: &str = "notify-keyspace-events";
const NEEDED: &str = "Kg$xe";
/// What stands for all of those but the first.
const ALL_KINDS: char = 'A';

impl RedisKeyValue {
    pub(crate) async fn watch(&self, bucket: &Bucket, watch: Watch) -> Result<Changes, KeyValueError> {
        let names = Names::of(bucket)?;
        if self.is_cluster {
            let cannot = "a cluster can't be watched, as each of its servers tells of its own keys only";
            return Err(KeyValueError::Unavailable(cannot.to_owned()));
        }
        if self.watching.is_cancelled() {
            return Err(KeyValueError::Closed);
        }
        if self.watches.len() >= WATCHES_MAX {
            let full = format!("it has {WATCHES_MAX} watches already");
            return Err(KeyValueError::Unavailable(full));
        }
        self.have_changes_told().await?;
        let channel = format!("__keyspace@{}__:{}", self.lanes.database(), names.values());
        let listening = timeout(LISTEN_WAIT, self.listen(&channel, &watch.prefix)).await;
        let late = || KeyValueError::Unavailable(format!("there was no answer within {LISTEN_WAIT:?}"));
        let (sink, stream) = listening.map_err(|_| late())??;
        let (watcher, changes) = changes();
        let stop = self.watching.child_token();
        let ear = Ear {
            lanes: self.lanes.clone(),
            timeout: self.timeout,
            names,
            bucket: bucket.clone(),
            channel,
            watch,
            watcher,
        };
        let task = ear.pass_on(sink, stream, stop.clone());
        self.watches.spawn(task);
        Ok(changes.until(stop.drop_guard()))
    }

    /// Listens on a connection of its own.
    async fn listen(&self, channel: &str, prefix: &str) -> Result<(PubSubSink, PubSubStream), KeyValueError> {
        let connected = self.lanes.listening().await;
        let (mut sink, stream) = connected.map_err(error::of_command)?.split();
        let pattern = format!("{}{}*", escaped(channel), escaped(prefix));
        sink.psubscribe(pattern).await.map_err(error::of_command)?;
        Ok((sink, stream))
    }

    /// Has the server tell of changes, beside what it tells already.
    async fn have_changes_told(&self) -> Result<(), KeyValueError> {
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg(SETTING);
        let told = self.setting(&ask).await.and_then(setting_of)?;
        let Some(wanted) = with_needed(&told) else {
            return Ok(());
        };
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg(SETTING).arg(wanted);
        self.setting(&set).await.map(drop)
    }

    /// Asks for a setting, or sets it. Not all servers let clients do so.
    async fn setting(&self, command: &redis::Cmd) -> Result<Value, KeyValueError> {
        let until = Instant::now() + self.timeout;
        self.send_until(command, until).await.map_err(|sent| match sent {
            Sent::Failed(refused) if matches!(refused.code(), Some("NOPERM" | "ERR")) => {
                KeyValueError::Unavailable(format!(
                    "the server does not let this user see to it that changes are told: set {SETTING} to \"{NEEDED}\" in \
                     its configuration, and let the user do CONFIG GET ({refused})"
                ))
            }
            sent => error::of_sent(sent),
        })
    }
}

/// The value of the one setting that was asked for.
fn setting_of(answer: Value) -> Result<String, KeyValueError> {
    let value = match answer {
        Value::Array(pair) => pair.into_iter().nth(1),
        Value::Map(pairs) => pairs.into_iter().next().map(|(_, value)| value),
        _ => None,
    };
    match value {
        Some(Value::BulkString(text)) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Some(Value::SimpleString(text)) => Ok(text),
        _ => Err(unexpected("CONFIG GET")),
    }
}

/// What the setting has to be so that all is told which is needed, and what was before; `None` if it is.
fn with_needed(told: &str) -> Option<String> {
    let is_told = |kind: &char| told.contains(*kind) || *kind != 'K' && told.contains(ALL_KINDS);
    let missing: String = NEEDED.chars().filter(|kind| !is_told(kind)).collect();
    (!missing.is_empty()).then(|| format!("{told}{missing}"))
}

/// What is listened to, and for whom.
struct Ear {
    lanes: Arc<Lanes>,
    timeout: Duration,
    names: Names,
    bucket: Bucket,
    /// What the channels of the bucket's keys begin with.
    channel: String,
    watch: Watch,
    watcher: Watcher,
}

type Reading<'e> = FuturesOrdered<BoxFuture<'e, Result<Change, KeyValueError>>>;

impl Ear {
    /// Passes on what is heard, until nobody wants more or the connection is lost.
    async fn pass_on(self, mut sink: PubSubSink, mut stream: PubSubStream, stop: CancellationToken) {
        let mut ask = interval(ASK_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reading = Reading::new();
        // The client's own queue has no bound, and so is always emptied.
        let mut heard = VecDeque::new();
        loop {
            while reading.len() < READ_AT_ONCE
                && let Some(key) = heard.pop_front()
            {
                reading.push_back(self.read(key).boxed());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.watcher.unheard() => return,
                notified = stream.next() => match notified {
                    Some(notified) => match self.key(&notified) {
                        Some(_) if heard.len() >= CHANGES_LEN_MAX => self.watcher.count_dropped(),
                        key => heard.extend(key),
                    },
                    None => return,
                },
                Some(read) = reading.next() => match read {
                    Ok(change) => drop(self.watcher.offer(change)),
                    // Somebody else made something of that name which is no value.
                    Err(error @ KeyValueError::Backend(_)) => {
                        tracing::debug!(%error, bucket = %self.bucket, "passed over a key that has no value");
                    }
                    Err(error) => {
                        tracing::warn!(%error, bucket = %self.bucket, "failed to read a key that was changed");
                        return;
                    }
                },
                _ = ask.tick() => match timeout(ASK_WAIT, sink.ping::<Value>()).await {
                    Ok(Ok(_)) => {}
                    _ => return,
                },
            }
        }
    }

    /// The key that a notification is of, if it is one to be told.
    fn key(&self, notified: &Msg) -> Option<String> {
        let key = notified.get_channel_name().strip_prefix(&self.channel)?;
        let is_told = key.starts_with(&self.watch.prefix) && (self.watch.takes)(key);
        is_told.then(|| key.to_owned())
    }

    async fn read(&self, key: String) -> Result<Change, KeyValueError> {
        let mut get = redis::cmd("GET");
        get.arg(self.names.value(&self.bucket, &key)?);
        let until = Instant::now() + self.timeout;
        let read = async {
            let mut way = self.lanes.first().await?;
            way.connection.send(&get).await.map_err(error::of_command)
        };
        let late = || Err(error::of_sent(Sent::Unanswered(self.timeout)));
        let value: Option<Bytes> =
            bytes_of(timeout_at(until, read).await.unwrap_or_else(|_| late())?, "GET")?;
        Ok(Change::once(key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_already_goes_on_being_told() {
        for (told, wanted) in [
            ("", Some("Kg$xe")),
            ("KA", None),
            ("AKE", None),
            ("AE", Some("AEK")),
            ("Ex", Some("ExKg$e")),
            ("gxe$K", None),
        ] {
            assert_eq!(with_needed(told).as_deref(), wanted, "{told}");
        }
    }
}
