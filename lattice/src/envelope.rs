//! What hosts say to each other, as CBOR: the request and the reply of a call, control, frames of streams, membership.
//!
//! Owns the fields, their bounds and the version. Must not know what the arguments are: they are bytes that `codec`
//! made. `docs/wire.md` has both with a vector each.
//!
//! An envelope is a map with text keys, in deterministic form. A reader ignores fields that it does not know, in any
//! order, and refuses a version that it does not know: what an old reader may ignore is a new field, everything else is
//! a new version.

mod artifact;
mod batch;
mod control;
mod frame;
mod http;
mod map;
mod membership;
mod message;
mod records;

use bytes::Bytes;

pub use self::artifact::{ArtifactAsk, ArtifactReply, ArtifactRequest};
pub use self::batch::Batch;
pub use self::control::{Control, ControlReply};
pub use self::frame::{Frame, FrameKind, Side};
pub use self::http::{Header, HttpRequest, HttpResponse, INLINE_BODY_MAX, decode_trailers, encode_trailers};

pub use self::map::FieldError;
use self::map::{Reader, Writer};
pub(crate) use self::membership::DETAILS_LEN_MAX;
pub use self::membership::{Digest, Heartbeat, Record, Standing};
pub use self::message::Message;
pub(crate) use self::records::EVENTS_MAX;
pub use self::records::{Records, RecordsReply, RecordsRequest};
use crate::subject::Address;

/// The version that is written, and the only one that is read.
pub const VERSION: u64 = 1;

/// The longest text of an envelope, in bytes: names have 63 a part, a trace state 512.
pub const TEXT_LEN_MAX: usize = 1024;

/// An invocation's name, random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvocationId(pub [u8; 16]);

impl InvocationId {
    /// A new name.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// A stream's name, random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

impl StreamId {
    /// A new name.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// W3C trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// `traceparent`
    pub parent: String,
    /// `tracestate`, or nothing.
    pub state: String,
}

/// A call of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The call. A repeat of it is dropped by the callee.
    pub id: InvocationId,
    /// Who is called, `namespace/app/name`.
    pub target: String,
    /// The interface, with its version: `shop:catalog/items@1.0.0`.
    pub interface: String,
    /// The function in it.
    pub function: String,
    /// Milliseconds that the caller still waits.
    pub remaining_ms: u64,
    /// When the caller sent it, in milliseconds of the sending host's monotonic clock: it is compared only with other
    /// stamps of that host.
    pub sent_ms: u64,
    /// Who sends it, and whose clock the stamp is of; none for a client that is no host.
    pub from: Option<Address>,
    /// The callee's stamp that the sender was last asked for ([`Reply::clock_ms`]).
    pub echo_ms: Option<u64>,
    /// The stream that goes with the call, both ways.
    pub stream: Option<StreamId>,
    /// Calls between the root call and this one.
    pub hops: u8,
    /// The trace that it belongs to, if it is traced.
    pub trace: Option<Trace>,
    /// Who calls, `namespace/app/name`, or the name of a trigger.
    pub caller: String,
    /// The target's revision, if it must be that one.
    pub revision: Option<u64>,
    /// The arguments, an array as CBOR.
    pub body: Bytes,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The call.
    pub id: InvocationId,
    /// The results, an array as CBOR; or why there are none.
    pub outcome: Result<Bytes, Failure>,
    /// How busy the callee's host is: 0 idle, 1,000 full, more if calls wait.
    pub load: u32,
    /// A stamp of the callee's clock, to be sent as [`Request::echo_ms`] with the next request to it. If the call did
    /// not start, that is this one again: the callee does not know the caller's clock.
    pub clock_ms: Option<u64>,
    /// The callee takes requests in a [`Batch`]. Said with a stamp, which every caller gets with its first reply.
    pub batches: bool,
    /// The callee takes no more calls: choose others from now on.
    pub leaving: bool,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.as_str())]
pub struct Failure {
    /// Which of the few kinds.
    pub kind: FailureKind,
    /// Whether the callee may have begun.
    pub may_have_started: bool,
    /// For people. At most [`TEXT_LEN_MAX`] bytes travel.
    pub detail: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No such actor, interface or function there.
    NotFound,
    /// Its places and its queue are full.
    Overloaded,
    /// The time was up.
    Deadline,
    /// The guest trapped or reached a limit.
    Trap,
    /// The caller has no right to it.
    Denied,
    /// The guest did not take the arguments.
    RefusedByGuest,
    /// What it needs is away. Also what an unknown kind of a later version is read as.
    Unavailable,
}

impl FailureKind {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::NotFound,
        Self::Overloaded,
        Self::Deadline,
        Self::Trap,
        Self::Denied,
        Self::RefusedByGuest,
        Self::Unavailable,
    ];

    /// The word for it, on the wire and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Trap => "trap",
            Self::Denied => "denied",
            Self::RefusedByGuest => "refused-by-guest",
            Self::Unavailable => "unavailable",
        }
    }

    fn from_wire(word: &str) -> Self {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.unwrap_or(Self::Unavailable)
    }
}

/// Why bytes are no envelope, or an envelope can't be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Written by a version that this one does not know.
    #[error("the envelope has version {0}, and this host knows version {VERSION}: update the older side")]
    Version(u64),
    /// Not a map of texts to values, or cut short, or with bytes after it.
    #[error("the envelope is not a well-formed CBOR map")]
    Malformed,
    /// Something is wrong with one field.
    #[error("the envelope's field `{field}` {problem}")]
    Field {
        /// The field's key.
        field: &'static str,
        /// What is wrong with it.
        problem: FieldError,
    },
}

impl Request {
    /// The bytes to send.
    ///
    /// # Errors
    /// A text is longer than [`TEXT_LEN_MAX`].
    pub fn encode(&self) -> Result<Bytes, EnvelopeError> {
        let trace = self.trace.as_ref();
        let state = trace
            .map(|trace| trace.state.as_str())
            .filter(|state| !state.is_empty());
        let optional = [
            self.revision.is_some(),
            self.from.is_some(),
            self.echo_ms.is_some(),
            self.stream.is_some(),
            trace.is_some(),
            state.is_some(),
        ];
        let len = 10 + optional.into_iter().map(u64::from).sum::<u64>();
        // In the order of the encoded keys: the shorter ones first.
        let mut out = Writer::new(len, self.body.len());
        out.number("v", VERSION);
        out.text("by", &self.caller)?;
        out.text("fn", &self.function)?;
        out.bytes("id", &self.id.0);
        out.text("if", &self.interface)?;
        out.text("to", &self.target)?;
        self.revision.inspect(|revision| out.number("rev", *revision));
        out.number("ttl", self.remaining_ms);
        out.bytes("args", &self.body);
        self.echo_ms.inspect(|echo| out.number("echo", *echo));
        if let Some(from) = &self.from {
            out.text("from", from.as_str())?;
        }
        out.number("hops", u64::from(self.hops));
        out.number("sent", self.sent_ms);
        if let Some(state) = state {
            out.text("state", state)?;
        }
        if let Some(trace) = trace {
            out.text("trace", &trace.parent)?;
        }
        if let Some(stream) = &self.stream {
            out.bytes("stream", &stream.0);
        }
        Ok(out.finish())
    }

    /// Reads what [`Request::encode`] of this or another version made. The body is a part of `bytes`, not a copy.
    ///
    /// # Errors
    /// [`EnvelopeError`]; nothing of the bytes can be believed then.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let state = fields.text("state")?.unwrap_or_default();
        let trace = |parent: String| Trace { parent, state };
        Ok(Self {
            id: InvocationId(fields.id("id")?),
            target: fields.needed("to", fields.text("to")?)?,
            interface: fields.needed("if", fields.text("if")?)?,
            function: fields.needed("fn", fields.text("fn")?)?,
            remaining_ms: fields.needed("ttl", fields.number("ttl")?)?,
            sent_ms: fields.needed("sent", fields.number("sent")?)?,
            from: fields.address("from")?,
            echo_ms: fields.number("echo")?,
            stream: fields.id_if_there("stream")?.map(StreamId),
            hops: fields.needed("hops", fields.number("hops")?)?,
            trace: fields.text("trace")?.map(trace),
            caller: fields.needed("by", fields.text("by")?)?,
            revision: fields.number("rev")?,
            body: fields.needed("args", fields.bytes("args")?)?,
        })
    }
}

impl Reply {
    /// The bytes to send. A detail that is too long is cut.
    pub fn encode(&self) -> Bytes {
        let optional = [self.clock_ms.is_some(), self.batches, self.leaving];
        let optional = optional.into_iter().map(u64::from).sum::<u64>();
        let (fields, body_len) = match &self.outcome {
            Ok(body) => (4, body.len()),
            Err(_) => (6, 0),
        };
        let mut out = Writer::new(fields + optional, body_len);
        out.number("v", VERSION);
        out.bytes("id", &self.id.0);
        if let Ok(body) = &self.outcome {
            out.bytes("ok", body);
        }
        self.clock_ms.inspect(|stamp| out.number("clk", *stamp));
        if let Err(failure) = &self.outcome {
            out.cut_text("err", failure.kind.as_str());
        }
        out.number("load", u64::from(self.load));
        if self.batches {
            out.flag("batch", true);
        }
        if let Err(failure) = &self.outcome {
            out.cut_text("detail", &failure.detail);
        }
        if self.leaving {
            out.flag("leaving", true);
        }
        if let Err(failure) = &self.outcome {
            out.flag("started", failure.may_have_started);
        }
        out.finish()
    }

    /// Reads what [`Reply::encode`] of this or another version made. The body is a part of `bytes`, not a copy.
    ///
    /// # Errors
    /// [`EnvelopeError`]; whether the call started is not known then.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let outcome = match (fields.bytes("ok")?, fields.text("err")?) {
            (Some(body), None) => Ok(body),
            (None, Some(kind)) => Err(Failure {
                kind: FailureKind::from_wire(&kind),
                // Who does not say may have.
                may_have_started: fields.flag("started")?.unwrap_or(true),
                detail: fields.text("detail")?.unwrap_or_default(),
            }),
            (None, None) => return Err(map::field("ok", FieldError::Missing)),
            (Some(_), Some(_)) => return Err(map::field("err", FieldError::Excluded("ok"))),
        };
        Ok(Self {
            id: InvocationId(fields.id("id")?),
            outcome,
            load: fields.needed("load", fields.number("load")?)?,
            clock_ms: fields.number("clk")?,
            batches: fields.flag("batch")?.unwrap_or_default(),
            leaving: fields.flag("leaving")?.unwrap_or_default(),
        })
    }
}
