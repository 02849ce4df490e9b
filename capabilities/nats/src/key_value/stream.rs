//! The stream that a bucket of JetStream is.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::json;

use super::BucketOptions;
use crate::error::Reason;
use crate::jetstream::{self, API, EXPECTED, Failure, StreamInfo, code};
use crate::link::Connection;

/// What a message says of itself that is none of a key with a value. Other clients write such.
const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

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
        })
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

    /// Leaves no message of `subject`, nor one that says that there was one.
    pub(super) async fn purge(&self, connection: &Connection, subject: &str) -> Result<(), Failure> {
        jetstream::purge(connection, &self.name, subject, None).await
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

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn has_value(headers: &HeaderMap) -> bool {
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
