//! What goes over the wire: the types of `wit/weft-provider.wit`, as the traits have them.

mod blob_store;

use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use weft_capabilities::sql::ConstraintKind;
use weft_capabilities::{Bucket, KeyValueError, Page, Rows, SqlError, SqlValue, Swap};

pub(crate) use self::blob_store::Begun;
use crate::cbor::{Read, Reader, Unreadable, Write, Writer, put, put_case, record};

/// What a backend calls what was too large, and why it rolled back; another word is told as the last of them.
const WHATS: &[&str] = &[
    "key",
    "value",
    "batch of keys",
    "batch",
    "statement in bytes",
    "number of parameters",
    "size of all parameters in bytes",
    "result in bytes",
    "result in rows",
    "value in bytes",
    "request",
];
const REASONS: &[&str] = &[
    "a statement failed",
    "a statement's caller left",
    "its time was up",
    "it held the database for too long without a statement",
    "it could not be committed",
    IDLE,
    "it ended on its provider",
];

/// Why a transaction is unknown where it was.
pub(crate) const IDLE: &str = "it had ended, or nothing was done in it for too long";

/// Something that a provider keeps for its caller, and the run of the provider that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) run: String,
    pub(crate) id: Bytes,
}

/// Changes of keys, and how many more were lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) changes: Vec<Changed>,
    pub(crate) lost: u64,
}

/// That a key was set to a value, or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) key: String,
    pub(crate) value: Option<Bytes>,
}

/// An answer that is read in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LongAnswer {
    pub(crate) run: String,
    pub(crate) id: Bytes,
    pub(crate) len: u64,
}

/// Why a part was not taken or given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartsError {
    NoRoom,
    TooLong,
    Unknown,
    Misplaced,
}

struct Limit {
    what: String,
    len: u64,
    max: u64,
}

/// A limit, where it does not matter by how much it is passed.
struct Bound {
    what: String,
    max: u64,
}

struct Violation {
    kind: ConstraintKind,
    message: String,
}

record!(Handle[2] { "id" id, "run" run });
record!(Batch[2] { "lost" lost, "changes" changes });
record!(Changed[2] { "key" key, "value" value });
record!(LongAnswer[3] { "id" id, "len" len, "run" run });
record!(Limit[3] { "len" len, "max" max, "what" what });
record!(Bound[2] { "max" max, "what" what });
record!(Violation[2] { "kind" kind, "message" message });
record!(Page[2] { "keys" keys, "cursor" cursor });
// The types are for a front that needs a connection of its own.
record!(Rows[2] { "rows" rows, "columns" columns } without types);

/// An error that came from elsewhere as text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Told(pub(crate) String);

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a String takes all text");
        cause = error.source();
    }
    text
}

/// The word of `words` that `text` is, or the last.
fn word(text: &str, words: &'static [&'static str]) -> &'static str {
    let known = words.iter().find(|word| **word == text);
    known.or(words.last()).copied().unwrap_or_default()
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The body of an answer that is read in parts, of whatever function.
pub(crate) struct InParts(pub(crate) LongAnswer);

impl Write for InParts {
    fn write(&self, out: &mut Writer) {
        put_case(out, "in-parts", &self.0);
    }
}

impl Read for InParts {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        match from.case()? {
            ("in-parts", len) => from.payload(len).map(Self),
            _ => Err(Unreadable("`in-parts`")),
        }
    }
}

impl Write for PartsError {
    fn write(&self, out: &mut Writer) {
        put(out.str(match self {
            Self::NoRoom => "no-room",
            Self::TooLong => "too-long",
            Self::Unknown => "unknown",
            Self::Misplaced => "misplaced",
        }));
    }
}

impl Read for PartsError {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Ok(match from.text()? {
            "no-room" => Self::NoRoom,
            "too-long" => Self::TooLong,
            "unknown" => Self::Unknown,
            "misplaced" => Self::Misplaced,
            _ => return Err(Unreadable("an error of parts")),
        })
    }
}

impl Write for Bucket {
    fn write(&self, out: &mut Writer) {
        // A bucket that can't be named is refused before it is sent.
        put(out.str(self.prefix().unwrap_or_default()));
    }
}

impl Read for Bucket {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Self::from_prefix(from.text()?).ok_or(Unreadable("a bucket: three names, each with a NUL after it"))
    }
}

impl Write for Swap {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Done => put_case(out, "done", &()),
            Self::Changed(now) => put_case(out, "changed", now),
        }
    }
}

impl Read for Swap {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Ok(match from.case()? {
            ("done", len) => from.payload(len).map(|()| Self::Done)?,
            ("changed", len) => Self::Changed(from.payload(len)?),
            _ => return Err(Unreadable("`done` or `changed`")),
        })
    }
}

impl Write for KeyValueError {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::NoSuchStore => put_case(out, "no-such-store", &()),
            Self::AccessDenied => put_case(out, "access-denied", &()),
            Self::EmptyKey => put_case(out, "empty-key", &()),
            Self::TooLarge { what, len, len_max } => {
                let limit = Limit {
                    what: (*what).to_owned(),
                    len: *len as u64,
                    max: *len_max as u64,
                };
                put_case(out, "too-large", &limit);
            }
            // The caller knows its key.
            Self::NotANumber { .. } => put_case(out, "not-a-number", &()),
            Self::OutOfRange { .. } => put_case(out, "out-of-range", &()),
            Self::Full { bytes_max } => put_case(out, "full", &(*bytes_max as u64)),
            Self::Overloaded => put_case(out, "overloaded", &()),
            Self::Closed => put_case(out, "closed", &()),
            Self::Unavailable(why) => put_case(out, "unavailable", why),
            Self::Backend(error) => put_case(out, "failed", &chain(&**error)),
        }
    }
}

impl Read for KeyValueError {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let (case, len) = from.case()?;
        let nothing = |error, from: &mut Reader<'_>| from.payload::<()>(len).map(|()| error);
        match case {
            "no-such-store" => nothing(Self::NoSuchStore, from),
            "access-denied" => nothing(Self::AccessDenied, from),
            "empty-key" => nothing(Self::EmptyKey, from),
            "too-large" => from.payload(len).map(|limit: Limit| Self::TooLarge {
                what: word(&limit.what, WHATS),
                len: size(limit.len),
                len_max: size(limit.max),
            }),
            "not-a-number" => nothing(Self::NotANumber { key: String::new() }, from),
            "out-of-range" => nothing(Self::OutOfRange { key: String::new() }, from),
            "full" => from.payload(len).map(|max| Self::Full { bytes_max: size(max) }),
            "overloaded" => nothing(Self::Overloaded, from),
            "closed" => nothing(Self::Closed, from),
            "unavailable" => from.payload(len).map(Self::Unavailable),
            "failed" => from.payload(len).map(|why| Self::Backend(Told(why).into())),
            _ => Err(Unreadable("an error of key-value")),
        }
    }
}

impl Write for SqlValue {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Null => put_case(out, "null", &()),
            Self::Boolean(value) => put_case(out, "boolean", value),
            Self::Integer(value) => put_case(out, "integer", value),
            Self::Real(value) => put_case(out, "real", value),
            Self::Text(value) => put_case(out, "text", value),
            Self::Blob(value) => put_case(out, "blob", value),
        }
    }
}

impl Read for SqlValue {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Ok(match from.case()? {
            ("null", len) => from.payload(len).map(|()| Self::Null)?,
            ("boolean", len) => Self::Boolean(from.payload(len)?),
            ("integer", len) => Self::Integer(from.payload(len)?),
            ("real", len) => Self::Real(from.payload(len)?),
            ("text", len) => Self::Text(from.payload(len)?),
            ("blob", len) => Self::Blob(from.payload(len)?),
            _ => return Err(Unreadable("a value of SQL")),
        })
    }
}

impl Write for ConstraintKind {
    fn write(&self, out: &mut Writer) {
        put(out.str(match self {
            Self::Unique => "unique",
            Self::NotNull => "not-null",
            Self::ForeignKey => "foreign-key",
            Self::Check => "check",
            Self::Other => "other",
        }));
    }
}

impl Read for ConstraintKind {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Ok(match from.text()? {
            "unique" => Self::Unique,
            "not-null" => Self::NotNull,
            "foreign-key" => Self::ForeignKey,
            "check" => Self::Check,
            "other" => Self::Other,
            _ => return Err(Unreadable("a kind of constraint")),
        })
    }
}

impl Write for SqlError {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Syntax { message } => put_case(out, "syntax", message),
            Self::Constraint { kind, message } => {
                let violation = Violation {
                    kind: *kind,
                    message: message.clone(),
                };
                put_case(out, "constraint", &violation);
            }
            Self::Busy => put_case(out, "busy", &()),
            Self::DeadlineExceeded => put_case(out, "deadline-exceeded", &()),
            Self::TooLarge { what, len_max } => {
                let limit = Bound {
                    what: (*what).to_owned(),
                    max: *len_max as u64,
                };
                put_case(out, "too-large", &limit);
            }
            Self::Denied { what } => put_case(out, "denied", what),
            Self::RolledBack { reason } => put_case(out, "rolled-back", *reason),
            Self::Closed => put_case(out, "closed", &()),
            Self::Unavailable { message } => put_case(out, "unavailable", message),
            Self::MayHaveCommitted => put_case(out, "may-have-committed", &()),
            Self::Backend { source } => put_case(out, "failed", &chain(&**source)),
        }
    }
}

impl Read for SqlError {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let (case, len) = from.case()?;
        let nothing = |error, from: &mut Reader<'_>| from.payload::<()>(len).map(|()| error);
        match case {
            "syntax" => from.payload(len).map(|message| Self::Syntax { message }),
            "constraint" => from.payload(len).map(|violation: Violation| Self::Constraint {
                kind: violation.kind,
                message: violation.message,
            }),
            "busy" => nothing(Self::Busy, from),
            "deadline-exceeded" => nothing(Self::DeadlineExceeded, from),
            "too-large" => from.payload(len).map(|limit: Bound| Self::TooLarge {
                what: word(&limit.what, WHATS),
                len_max: size(limit.max),
            }),
            "denied" => from.payload(len).map(|what| Self::Denied { what }),
            "rolled-back" => from.payload(len).map(|reason: String| Self::RolledBack {
                reason: word(&reason, REASONS),
            }),
            "closed" => nothing(Self::Closed, from),
            "unavailable" => from.payload(len).map(|message| Self::Unavailable { message }),
            "may-have-committed" => nothing(Self::MayHaveCommitted, from),
            "failed" => from.payload(len).map(|why: String| Self::Backend {
                source: Told(why).into(),
            }),
            _ => Err(Unreadable("an error of SQL")),
        }
    }
}
