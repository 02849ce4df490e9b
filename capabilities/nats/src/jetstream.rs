//! What JetStream is asked, and what it answers: the messages of its API that the backends use.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_capabilities::{BlobError, KeyValueError};

use crate::error::{OpenError, Reason, Unanswered};
use crate::link::Connection;

/// What the subjects of the API begin with.
pub(crate) const API: &str = "$JS.API";

/// A write is for a subject whose last message has this place; 0 if it has none.
pub(crate) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// A message's place in the stream.
const SEQUENCE: &str = "Nats-Sequence";

/// As JetStream counts time.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const NOT_FOUND: u16 = 404;
const UNAVAILABLE: u16 = 503;

/// What went wrong, by JetStream's numbers.
pub(crate) mod code {
    pub(crate) const NO_MESSAGE: u32 = 10_037;
    /// It is there, and was made otherwise.
    pub(crate) const STREAM_EXISTS: u32 = 10_058;
    pub(crate) const STREAM_NOT_FOUND: u32 = 10_059;
    pub(crate) const STORE_FAILED: u32 = 10_077;
    const WRONG_SEQUENCE: u32 = 10_071;
    /// Another write of the subject is on its way to the replicas.
    const SEQUENCE_NOT_READY: u32 = 10_163;
    const WRONG_SEQUENCE_CONSTANT: u32 = 10_164;
    const ACCOUNT_RESOURCES_EXCEEDED: u32 = 10_002;
    const INSUFFICIENT_RESOURCES: u32 = 10_023;
    const STREAMS_MAX: u32 = 10_027;
    const MEMORY_EXCEEDED: u32 = 10_028;
    const STORAGE_EXCEEDED: u32 = 10_047;

    /// Whether a limit of the server or of the account is reached.
    pub(crate) fn is_full(code: u32) -> bool {
        matches!(
            code,
            ACCOUNT_RESOURCES_EXCEEDED
                | INSUFFICIENT_RESOURCES
                | STREAMS_MAX
                | MEMORY_EXCEEDED
                | STORAGE_EXCEEDED
        )
    }

    /// Whether the subject has another last message than was expected.
    pub(crate) fn is_conflict(code: u32) -> bool {
        matches!(
            code,
            WRONG_SEQUENCE | SEQUENCE_NOT_READY | WRONG_SEQUENCE_CONSTANT
        )
    }
}

/// What JetStream refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, thiserror::Error)]
#[serde(default)]
#[error("JetStream refuses it: {description} ({err_code})")]
pub(crate) struct Refusal {
    /// As HTTP's.
    pub(crate) code: u16,
    pub(crate) err_code: u32,
    pub(crate) description: String,
}

/// Why a request did nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{}", .0.text())]
    Unanswered(Unanswered),
    #[error(transparent)]
    Refused(Refusal),
    #[error("the stream is full: {bytes_max} bytes")]
    Full { bytes_max: usize },
    #[error(
        "this version of the NATS server can't keep marks of deleted keys, which watches need: it has to be 2.11 or later"
    )]
    TooOld,
    #[error("JetStream gave an answer of another shape")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Failure> for KeyValueError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unanswered(unanswered) => unanswered.into(),
            Failure::Full { bytes_max } => Self::Full { bytes_max },
            // As HTTP has it: what may be better in a while.
            Failure::Refused(refusal) if refusal.code >= 500 => Self::Unavailable(refusal.to_string()),
            Failure::TooOld => Self::Unavailable(failure.to_string()),
            other => Self::Backend(Box::new(other)),
        }
    }
}

impl From<Failure> for BlobError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unanswered(unanswered) => unanswered.into(),
            Failure::Full { .. } => Self::Full,
            Failure::Refused(refusal) if refusal.err_code == code::STREAM_NOT_FOUND => Self::NoSuchContainer,
            Failure::Refused(refusal) if code::is_full(refusal.err_code) => Self::Full,
            Failure::Refused(refusal) if refusal.code >= 500 => Self::Unavailable(refusal.to_string()),
            other => Self::Backend(Box::new(other)),
        }
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        Self::Unanswered(unanswered)
    }
}

#[derive(Deserialize)]
struct Refused {
    error: Refusal,
}

/// Reads an answer. A refusal has none of the fields that `T` must have.
pub(crate) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(payload).map_err(|error| match serde_json::from_slice(payload) {
        Ok(Refused { error }) => Failure::Refused(error),
        Err(_) => Failure::Unreadable(Box::new(error)),
    })
}

/// Why a stream that is needed is not there.
pub(crate) fn reason(failure: Failure) -> Reason {
    match failure {
        Failure::Unanswered(Unanswered::NoResponders) => {
            Reason::away("JetStream is off at this server: turn it on there, and for the user's account")
        }
        Failure::Unanswered(Unanswered::Denied) => Reason::Denied,
        failure => Reason::away(failure.to_string()),
    }
}

/// The longest name of a bucket or stream, in bytes: with it, the longest key still fits in a line of the protocol.
pub(crate) const NAME_LEN_MAX: usize = 64;

/// Whether a bucket or stream can be called this.
pub(crate) fn check_name(name: &str) -> Result<(), OpenError> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match (1..=NAME_LEN_MAX).contains(&name.len()) && name.chars().all(is_legal) {
        true => Ok(()),
        false => Err(OpenError::Name(name.to_owned())),
    }
}

/// Where a stream's messages are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In the server's memory.
    Memory,
}

impl Storage {
    /// As JetStream calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Memory => "memory",
        }
    }
}

/// Asks the API.
pub(crate) async fn ask<T: DeserializeOwned>(
    connection: &Connection,
    subject: &str,
    question: &impl Serialize,
) -> Result<T, Failure> {
    let question = serde_json::to_vec(question).map_err(|error| Failure::Unreadable(Box::new(error)))?;
    let answer = connection
        .request(format!("{API}.{subject}"), None, question.into())
        .await?;
    read(&answer.payload)
}

/// What a stream is, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamInfo {
    /// As RFC 3339 has it.
    #[serde(default)]
    pub(crate) created: String,
    pub(crate) config: StreamConfig,
    #[serde(default)]
    pub(crate) state: StreamState,
    /// Subjects that the question was for, of which the answer has some.
    #[serde(default)]
    pub(crate) total: usize,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamConfig {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    #[serde(default)]
    pub(crate) max_msgs_per_subject: i64,
    #[serde(default)]
    pub(crate) max_bytes: i64,
    /// Nanoseconds after which a message goes; 0 if none does.
    #[serde(default)]
    pub(crate) max_age: u64,
    #[serde(default)]
    pub(crate) num_replicas: usize,
    #[serde(default)]
    pub(crate) allow_direct: bool,
    #[serde(default)]
    pub(crate) allow_msg_ttl: bool,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamState {
    /// Subjects, and how many messages each has.
    #[serde(default)]
    pub(crate) subjects: HashMap<String, u64>,
}

/// Leaves no message of the subjects that match `filter`, nor one that says that there was one; with `before`, only none of
/// those whose place is before it.
pub(crate) async fn purge(
    connection: &Connection,
    stream: &str,
    filter: &str,
    before: Option<u64>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Question<'a> {
        filter: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    }
    let question = Question { filter, seq: before };
    let done = ask(connection, &format!("STREAM.PURGE.{stream}"), &question).await;
    done.map(|_: Done| ())
}

/// An answer to what is done or refused.
#[derive(Deserialize)]
pub(crate) struct Done {
    #[expect(dead_code, reason = "an answer without it is a refusal")]
    success: bool,
}

/// The subjects of a stream that match `filter`: how many there are, and those from number `offset` on that fit in an
/// answer.
pub(crate) async fn subjects(
    connection: &Connection,
    stream: &str,
    filter: &str,
    offset: usize,
) -> Result<(usize, HashMap<String, u64>), Failure> {
    #[derive(Serialize)]
    struct Question<'a> {
        subjects_filter: &'a str,
        offset: usize,
    }
    let question = Question {
        subjects_filter: filter,
        offset,
    };
    let info: StreamInfo = ask(connection, &format!("STREAM.INFO.{stream}"), &question).await?;
    Ok((info.total, info.state.subjects))
}

/// The streams that have a subject which matches `filter`, in the order of their names: how many there are, and those from
/// number `offset` on that a server tells at once.
pub(crate) async fn streams(
    connection: &Connection,
    filter: &str,
    offset: usize,
) -> Result<(usize, Vec<StreamConfig>), Failure> {
    #[derive(Serialize)]
    struct Question<'a> {
        subject: &'a str,
        offset: usize,
    }
    #[derive(Deserialize)]
    struct Listed {
        total: usize,
        #[serde(default)]
        streams: Option<Vec<StreamInfo>>,
        /// Those of which no server of a cluster told.
        #[serde(default)]
        missing: Option<Vec<String>>,
    }
    let question = Question {
        subject: filter,
        offset,
    };
    let listed: Listed = ask(connection, "STREAM.LIST", &question).await?;
    if let Some(missing) = listed.missing.unwrap_or_default().first() {
        return Err(Failure::Refused(Refusal {
            code: UNAVAILABLE,
            err_code: 0,
            description: format!("the servers that have the stream {missing} don't answer"),
        }));
    }
    let streams = listed.streams.unwrap_or_default().into_iter();
    Ok((listed.total, streams.map(|stream| stream.config).collect()))
}

/// A message that a stream has.
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    /// When it came, as RFC 3339 has it.
    pub(crate) time: String,
    /// A line each, after that of the protocol.
    pub(crate) headers: String,
    pub(crate) payload: Bytes,
}

/// The message that `question` is for, from the server that leads the stream's copies: so it is not behind. `None` if there
/// is none.
pub(crate) async fn stored(
    connection: &Connection,
    stream: &str,
    question: &impl Serialize,
) -> Result<Option<Stored>, Failure> {
    #[derive(Deserialize)]
    struct Found {
        message: Encoded,
    }
    #[derive(Deserialize)]
    struct Encoded {
        seq: u64,
        #[serde(default)]
        time: String,
        #[serde(default)]
        hdrs: String,
        #[serde(default)]
        data: String,
    }
    let message = match ask(connection, &format!("STREAM.MSG.GET.{stream}"), question).await {
        Err(Failure::Refused(refusal)) if refusal.err_code == code::NO_MESSAGE => return Ok(None),
        found => {
            let Found { message } = found?;
            message
        }
    };
    let decoded = |text| {
        let decoded = STANDARD.decode(text);
        decoded.map_err(|error| Failure::Unreadable(Box::new(error)))
    };
    Ok(Some(Stored {
        sequence: message.seq,
        time: message.time,
        headers: String::from_utf8_lossy(&decoded(message.hdrs)?).into_owned(),
        payload: decoded(message.data)?.into(),
    }))
}

/// A message that any server gave that has a copy, and its place. `None` if it has none.
pub(crate) fn direct(answer: Message) -> Result<Option<(u64, HeaderMap, Bytes)>, Failure> {
    match answer.status {
        Some(status) if status.as_u16() == NOT_FOUND => return Ok(None),
        Some(status) => {
            let text = answer.description.unwrap_or_default();
            return Err(Failure::Unreadable(format!("{status} {text}").into()));
        }
        None => {}
    }
    let headers = answer.headers.unwrap_or_default();
    let sequence = headers.get(SEQUENCE).and_then(|text| text.as_str().parse().ok());
    let sequence = sequence.ok_or_else(|| Failure::Unreadable("it has no sequence".into()))?;
    Ok(Some((sequence, headers, answer.payload)))
}

/// Writes a message into the stream that has its subject, and gives its sequence.
pub(crate) async fn publish(
    connection: &Connection,
    subject: String,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Result<u64, Failure> {
    let answer = connection.request(subject, headers, payload).await?;
    read_ack(&answer.payload)
}

/// Unlike others, a refusal of a write has what an acknowledgement has.
pub(crate) fn read_ack(payload: &[u8]) -> Result<u64, Failure> {
    #[derive(Deserialize)]
    struct Ack {
        seq: u64,
        error: Option<Refusal>,
    }
    let Ack { seq, error } = read(payload)?;
    match error {
        None => Ok(seq),
        Some(refusal) => Err(Failure::Refused(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_refusal_from_an_answer_and_from_what_is_none() {
        let info: StreamInfo = read(br#"{"config":{"num_replicas":3},"state":{"messages":1}}"#).unwrap();
        assert_eq!(info.config.num_replicas, 3);
        let refused =
            br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"},"total":0}"#;
        let error = read::<StreamInfo>(refused).unwrap_err();
        assert!(matches!(error, Failure::Refused(refusal) if refusal.err_code == code::STREAM_NOT_FOUND));
        assert_eq!(read_ack(br#"{"stream":"KV_weft","seq":7}"#).unwrap(), 7);
        let refused = br#"{"error":{"code":400,"err_code":10071},"stream":"KV_weft","seq":0}"#;
        let error = read_ack(refused).unwrap_err();
        assert!(matches!(error, Failure::Refused(refusal) if code::is_conflict(refusal.err_code)));
        for other in [&b"{}"[..], b"", b"[]", b"\xff"] {
            assert!(matches!(read::<StreamInfo>(other), Err(Failure::Unreadable(_))));
        }
    }
}
