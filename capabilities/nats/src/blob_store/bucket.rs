//! What a bucket's stream is asked.
//!
//! What is known of an object is read from the server that leads the stream's copies, which is never behind. Its bytes
//! may come from any copy: they don't change, so one that is behind can only have less of them, and then the leader is
//! asked.

use std::time::SystemTime;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use weft_capabilities::{BlobError, Container};

use super::ObjectOptions;
use super::name::{Bucket, DESCRIPTION, is_nuid, read_nuid};
use crate::error::Unanswered;
use crate::jetstream::{self, API, Done, EXPECTED, Failure, StreamInfo, code};
use crate::link::Connection;
use crate::replies::Waiting;

/// A chunk's place in its object, from 0. Objects of other clients have none.
pub(super) const CHUNK: &str = "Weft-Chunk";
/// With it, a message takes the place of those before it of its subject.
const ROLLUP: &str = "Nats-Rollup";

/// What is known of an object, as all clients of NATS write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) bucket: String,
    #[serde(default)]
    pub(super) nuid: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) mtime: String,
    #[serde(default)]
    pub(super) chunks: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<MetaOptions>,
    /// Others leave it behind where an object was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct MetaOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_chunk_size: Option<u64>,
    /// It stands for another object. Others write such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) link: Option<serde_json::Value>,
}

impl Meta {
    /// Bytes of each chunk but the last, if Weft wrote it: others' chunks may be of any length.
    pub(super) fn chunk_len(&self) -> Option<u64> {
        read_nuid(&self.nuid)?;
        self.options.as_ref()?.max_chunk_size.filter(|len| *len > 0)
    }

    /// What its bytes are called, if it has any.
    pub(super) fn chunks_of(&self) -> Option<&str> {
        (self.size > 0 && is_nuid(&self.nuid)).then_some(&self.nuid)
    }
}

/// The last that was said of an object.
pub(super) struct Last {
    /// Its place; 0 if nothing was said.
    pub(super) sequence: u64,
    /// What is there.
    pub(super) found: Option<Found>,
}

/// An object that is there.
pub(super) struct Found {
    pub(super) created_at: SystemTime,
    pub(super) meta: Meta,
}

/// A chunk of an object.
pub(super) struct Chunk {
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// Its place in the object.
    pub(super) index: Option<u64>,
    pub(super) bytes: Bytes,
}

impl Bucket {
    /// Makes the stream; whether it was not there.
    pub(super) async fn create(
        &self,
        connection: &Connection,
        container: &Container,
        options: &ObjectOptions,
    ) -> Result<bool, Failure> {
        // As all clients of NATS make one. Of one that is there with the very same settings a server may say that it was
        // made; so no two have the same.
        let config = json!({
            "name": self.stream(),
            "description": format!("{DESCRIPTION}{container}"),
            "subjects": self.subjects(),
            "storage": options.storage.name(),
            "num_replicas": options.replicas,
            "discard": "new",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "allow_rollup_hdrs": true,
            "allow_direct": true,
            "metadata": { "weft.made": format!("{:032x}", rand::random::<u128>()) },
        });
        let made = jetstream::ask(connection, &format!("STREAM.CREATE.{}", self.stream()), &config).await;
        match made.map(|_: StreamInfo| ()) {
            Ok(()) => Ok(true),
            Err(Failure::Refused(refusal)) if refusal.err_code == code::STREAM_EXISTS => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn delete(&self, connection: &Connection) -> Result<(), Failure> {
        let question = format!("STREAM.DELETE.{}", self.stream());
        let done = jetstream::ask(connection, &question, &json!({})).await;
        done.map(|_: Done| ())
    }

    pub(super) async fn info(&self, connection: &Connection) -> Result<StreamInfo, Failure> {
        jetstream::ask(connection, &format!("STREAM.INFO.{}", self.stream()), &json!({})).await
    }

    /// What is known of an object.
    pub(super) async fn last(&self, connection: &Connection, object: &str) -> Result<Last, Failure> {
        let question = json!({ "last_by_subj": self.meta(object) });
        let Some(stored) = jetstream::stored(connection, &self.stream(), &question).await? else {
            return Ok(Last {
                sequence: 0,
                found: None,
            });
        };
        let meta: Meta =
            serde_json::from_slice(&stored.payload).map_err(|error| Failure::Unreadable(Box::new(error)))?;
        let found = match meta.deleted {
            true => None,
            false => Some(Found {
                created_at: time(&stored.time)?,
                meta,
            }),
        };
        Ok(Last {
            sequence: stored.sequence,
            found,
        })
    }

    /// Says what an object is, if the last that was said of it has the place `expected`; whether it had.
    pub(super) async fn put(
        &self,
        connection: &Connection,
        object: &str,
        expected: u64,
        meta: Bytes,
    ) -> Result<bool, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ROLLUP, "sub");
        headers.insert(EXPECTED, expected.to_string());
        match jetstream::publish(connection, self.meta(object), Some(headers), meta).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if code::is_conflict(refusal.err_code) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Takes away what was said of an object up to the place `sequence`. What was said later stays.
    pub(super) async fn take_away(
        &self,
        connection: &Connection,
        object: &str,
        sequence: u64,
    ) -> Result<(), Failure> {
        let before = Some(sequence.saturating_add(1));
        jetstream::purge(connection, &self.stream(), &self.meta(object), before).await
    }

    /// Takes away the bytes of one write.
    pub(super) async fn purge(&self, connection: &Connection, nuid: &str) -> Result<(), Failure> {
        jetstream::purge(connection, &self.stream(), &self.chunks(nuid), None).await
    }

    /// Asks any copy for the first chunk at `sequence` or after it.
    pub(super) async fn ask_for_chunk(
        &self,
        connection: &Connection,
        nuid: &str,
        sequence: u64,
    ) -> Result<Waiting, Unanswered> {
        let question = json!({ "seq": sequence, "next_by_subj": self.chunks(nuid) });
        let subject = format!("{API}.DIRECT.GET.{}", self.stream());
        connection.ask(subject, None, question.to_string().into()).await
    }

    /// What came to [`Bucket::ask_for_chunk`]. `None` if that copy does not have it, or none is asked this way.
    pub(super) async fn given(waiting: Waiting) -> Result<Option<Chunk>, Failure> {
        let answer = match waiting.arrived().await {
            Err(Unanswered::NoResponders) => return Ok(None),
            answer => answer?,
        };
        Ok(
            jetstream::direct(answer)?.map(|(sequence, headers, bytes)| Chunk {
                sequence,
                index: headers.get(CHUNK).and_then(|index| index.as_str().parse().ok()),
                bytes,
            }),
        )
    }

    /// The first chunk at `sequence` or after it.
    pub(super) async fn chunk(
        &self,
        connection: &Connection,
        nuid: &str,
        sequence: u64,
    ) -> Result<Option<Chunk>, Failure> {
        let waiting = self.ask_for_chunk(connection, nuid, sequence).await?;
        if let Some(chunk) = Self::given(waiting).await? {
            return Ok(Some(chunk));
        }
        let question = json!({ "seq": sequence, "next_by_subj": self.chunks(nuid) });
        let stored = jetstream::stored(connection, &self.stream(), &question).await?;
        Ok(stored.map(|stored| {
            let mut headers = stored.headers.lines().filter_map(|line| line.split_once(':'));
            let index = headers.find(|(name, _)| *name == CHUNK);
            Chunk {
                sequence: stored.sequence,
                index: index.and_then(|(_, index)| index.trim().parse().ok()),
                bytes: stored.payload,
            }
        }))
    }
}

/// When a container was made.
pub(super) fn created_at(info: &StreamInfo) -> Result<SystemTime, BlobError> {
    Ok(time(&info.created)?)
}

fn time(text: &str) -> Result<SystemTime, Failure> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(SystemTime::from)
        .map_err(|error| Failure::Unreadable(Box::new(error)))
}
