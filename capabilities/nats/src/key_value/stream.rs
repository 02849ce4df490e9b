//! The stream that a bucket of JetStream is.
//!
//! A key that is deleted is purged, which a consumer is not told. So once somebody watches keys, a mark that the key is gone
//! is written before, on a subject of its own, which the server removes after a while. That a stream takes such marks (its
//! setting `allow_msg_ttl`) is what tells the hosts that somebody watches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::json;

use super::BucketOptions;
use super::name::gone;
use crate::error::Reason;
use crate::jetstream::{self, API, EXPECTED, Failure, StreamInfo, code, nanos};
use crate::link::Connection;

/// What a message says of itself that is none of a key with a value. Other clients write such.
const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

/// How long a mark that a key is gone is kept for a group that does not take it.
pub(super) const MARK_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The same, as the server reads it.
const MARK_TTL: (&str, &str) = ("Nats-TTL", "24h");
/// How often a host looks whether somebody watches by now, if keys are deleted.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the subjects of a bucket's keys begin with.
pub(super) fn prefix(bucket: &str) -> String {
    format!("$KV.{bucket}.")
}

/// The stream of a bucket.
pub(super) struct Stream {
    name: String,
    /// Whether any server that has a copy may be asked. One that is behind would answer with what was before; so only
    /// if there is no other.
    is_alone: bool,
    bytes_max: usize,
    /// Whether it takes marks.
    is_watched: AtomicBool,
    /// When it was looked at last whether it does.
    looked: Mutex<Instant>,
}

/// The last message of a subject.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// 0 if there is none.
    pub(super) sequence: u64,
    pub(super) value: Option<Bytes>,
}

impl Stream {
    /// The stream of a bucket, which is made if it is missing.
    pub(super) async fn find_or_make(
        connection: &Connection,
        bucket: &BucketOptions,
    ) -> Result<Self, Reason> {
        let name = format!("KV_{}", bucket.name);
        let subjects = format!("{}>", prefix(&bucket.name));
        let info = jetstream::ask(connection, &format!("STREAM.INFO.{name}"), &json!({})).await;
        let info: StreamInfo = match info {
            Err(Failure::Refused(refusal)) if refusal.err_code == code::STREAM_NOT_FOUND => {
                // As all clients of NATS make one.
                let config = json!({
                    "name": name,
                    "subjects": [subjects],
                    "max_msgs_per_subject": 1,
                    "storage": bucket.storage.name(),
                    "num_replicas": bucket.replicas,
                    "discard": "new",
                    "max_consumers": -1,
                    "max_msgs": -1,
                    "max_bytes": -1,
                    "max_msg_size": -1,
                    "max_age": bucket.ttl.map_or(0, nanos),
                    "allow_rollup_hdrs": true,
                    "deny_delete": true,
                    "allow_direct": true,
                });
                tracing::info!(bucket = bucket.name, "making a bucket of JetStream");
                jetstream::ask(connection, &format!("STREAM.CREATE.{name}"), &config).await
            }
            info => info,
        }
        .map_err(jetstream::reason)?;
        let config = info.config;
        if config.max_msgs_per_subject < 1 || !config.subjects.contains(&subjects) {
            return Err(Reason::away(format!(
                "the stream {name} is there and no bucket: name another bucket"
            )));
        }
        if let Some(ttl) = bucket.ttl
            && config.max_age != nanos(ttl)
        {
            let keeps = match config.max_age {
                0 => "for ever".to_owned(),
                age => format!("for {:?}", Duration::from_nanos(age)),
            };
            return Err(Reason::away(format!(
                "the bucket {} is there and keeps values {keeps}, not for {ttl:?}: name another bucket, or change \
                 the age that its stream {name} has",
                bucket.name
            )));
        }
        Ok(Self {
            name,
            is_alone: config.allow_direct && config.num_replicas <= 1,
            bytes_max: usize::try_from(config.max_bytes).unwrap_or_default(),
            is_watched: AtomicBool::new(config.allow_msg_ttl),
            looked: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Has the stream take marks of keys that are gone, from now on.
    pub(super) async fn mark_what_is_gone(&self, connection: &Connection) -> Result<(), Failure> {
        /// All of it, to be given back.
        #[derive(serde::Deserialize)]
        struct Config {
            config: serde_json::Map<String, serde_json::Value>,
        }
        if self.is_watched.load(Ordering::Relaxed) {
            return Ok(());
        }
        let name = &self.name;
        let told = jetstream::ask(connection, &format!("STREAM.INFO.{name}"), &json!({})).await?;
        let Config { mut config } = told;
        config.insert("allow_msg_ttl".to_owned(), true.into());
        let changed: StreamInfo =
            jetstream::ask(connection, &format!("STREAM.UPDATE.{name}"), &config).await?;
        if !changed.config.allow_msg_ttl {
            return Err(Failure::TooOld);
        }
        self.is_watched.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether somebody watches, as far as is known here; what was not known lately is asked.
    async fn is_watched(&self, connection: &Connection) -> bool {
        if self.is_watched.load(Ordering::Relaxed) {
            return true;
        }
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK_EVERY {
                return false;
            }
            *looked = Instant::now();
        }
        let info = jetstream::ask(connection, &format!("STREAM.INFO.{}", self.name), &json!({})).await;
        let is_watched = info.is_ok_and(|info: StreamInfo| info.config.allow_msg_ttl);
        self.is_watched.store(is_watched, Ordering::Relaxed);
        is_watched
    }

    /// The last message of `subject`.
    pub(super) async fn last(&self, connection: &Connection, subject: &str) -> Result<Last, Failure> {
        if !self.is_alone {
            return self.last_at_leader(connection, subject).await;
        }
        let question = format!("{API}.DIRECT.GET.{}.{subject}", self.name);
        let answer = connection.request(question, None, Bytes::new()).await?;
        let Some((sequence, headers, payload)) = jetstream::direct(answer)? else {
            return Ok(Last::default());
        };
        Ok(Last {
            sequence,
            value: has_value(&headers).then_some(payload),
        })
    }

    async fn last_at_leader(&self, connection: &Connection, subject: &str) -> Result<Last, Failure> {
        let question = json!({ "last_by_subj": subject });
        let Some(message) = jetstream::stored(connection, &self.name, &question).await? else {
            return Ok(Last::default());
        };
        let is_marker = message.headers.lines().any(|line| {
            let (name, value) = line.split_once(':').unwrap_or_default();
            is_marker(name, value.trim())
        });
        Ok(Last {
            sequence: message.sequence,
            value: (!is_marker).then_some(message.payload),
        })
    }

    /// Makes `value` the last message of `subject` if its last one is `expected`; whether it was.
    pub(super) async fn write(
        &self,
        connection: &Connection,
        subject: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<bool, Failure> {
        let headers = expected.map(|sequence| {
            let mut headers = HeaderMap::new();
            headers.insert(EXPECTED, sequence.to_string());
            headers
        });
        match jetstream::publish(connection, subject.to_owned(), headers, value).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if code::is_conflict(refusal.err_code) => Ok(false),
            Err(Failure::Refused(refusal))
                if refusal.err_code == code::STORE_FAILED && self.bytes_max > 0 =>
            {
                Err(Failure::Full {
                    bytes_max: self.bytes_max,
                })
            }
            Err(failure) => Err(failure),
        }
    }

    /// Leaves no message of `subject`; of a stream that is watched, but for a mark that there was one.
    pub(super) async fn purge(&self, connection: &Connection, subject: &str) -> Result<(), Failure> {
        let marked = match self.is_watched(connection).await {
            true => Some(self.mark(connection, subject).await?),
            false => None,
        };
        // What was written after the mark stays: it is told after it.
        jetstream::purge(connection, &self.name, subject, marked.flatten()).await
    }

    /// Marks that the key of `subject` is gone. Gives the place of the mark; none if the stream takes no mark, as it is full.
    async fn mark(&self, connection: &Connection, subject: &str) -> Result<Option<u64>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        headers.insert(MARK_TTL.0, MARK_TTL.1);
        match jetstream::publish(connection, gone(subject), Some(headers), Bytes::new()).await {
            Ok(sequence) => Ok(Some(sequence)),
            Err(Failure::Refused(refusal)) => {
                tracing::debug!(%refusal, "a key is deleted without a mark");
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The subjects that match `filter`: how many there are, and those from number `offset` on that fit in an answer.
    pub(super) async fn subjects(
        &self,
        connection: &Connection,
        filter: &str,
        offset: usize,
    ) -> Result<(usize, HashMap<String, u64>), Failure> {
        jetstream::subjects(connection, &self.name, filter, offset).await
    }
}

/// Whether a message of these headers is a value.
pub(super) fn has_value(headers: &HeaderMap) -> bool {
    let is = |name| {
        headers
            .get(name)
            .is_some_and(|value| is_marker(name, value.as_str()))
    };
    !is(OPERATION) && !is(MARKER)
}

/// Whether a header says that its message is no value.
fn is_marker(name: &str, value: &str) -> bool {
    name == MARKER || (name == OPERATION && value != "PUT")
}
