//! What one host asks of another about an artifact: a part of its bytes, to fetch it, or to look at its copy again.

use bytes::Bytes;

use super::map::{Reader, Writer, field};
use super::{EnvelopeError, Failure, FailureKind, FieldError, VERSION};
use crate::artifact::ArtifactDigest;
use crate::subject::Address;

/// A message to a host's artifact subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRequest {
    /// Which artifact.
    pub digest: ArtifactDigest,
    /// What about it.
    pub ask: ArtifactAsk,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactAsk {
    /// Some of its bytes.
    Read {
        /// Where they begin.
        offset: u64,
        /// How many at most.
        len: u64,
    },
    /// Fetch it from this host, if it is not there. Asked again and again until it is.
    Fetch(Address),
    /// The asker got other bytes than the digest says: look whether the copy is damaged.
    Damaged,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactReply {
    /// To a read.
    Part {
        /// The length of the whole, in bytes.
        size: u64,
        /// The bytes, fewer than asked for at the end, or where the holder sends no more at once.
        data: Bytes,
    },
    /// To the others: whether the artifact is here now, whole.
    Have(bool),
    /// It can't be done.
    Failed(Failure),
}

impl ArtifactRequest {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let fields = match self.ask {
            ArtifactAsk::Read { .. } => 4,
            ArtifactAsk::Fetch(_) | ArtifactAsk::Damaged => 3,
        };
        let mut out = Writer::new(fields, 0);
        out.number("v", VERSION);
        match &self.ask {
            ArtifactAsk::Read { offset, len } => {
                out.number("at", *offset);
                out.number("len", *len);
            }
            ArtifactAsk::Damaged => out.flag("bad", true),
            ArtifactAsk::Fetch(_) => {}
        }
        out.bytes("sha", &self.digest.0);
        if let ArtifactAsk::Fetch(from) = &self.ask {
            out.cut_text("from", from.as_str());
        }
        out.finish()
    }

    /// Reads what [`ArtifactRequest::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let digest = fields.needed("sha", fields.bytes("sha")?)?;
        let digest = digest.as_ref().try_into();
        let digest = digest.map_err(|_| field("sha", FieldError::Kind("32 bytes")))?;
        let read = (fields.number("at")?, fields.number("len")?);
        let ask = match (read, fields.address("from")?, fields.flag("bad")?) {
            ((Some(offset), Some(len)), None, None) => ArtifactAsk::Read { offset, len },
            ((None, None), Some(from), None) => ArtifactAsk::Fetch(from),
            ((None, None), None, Some(true)) => ArtifactAsk::Damaged,
            _ => {
                return Err(field(
                    "sha",
                    FieldError::Kind("beside one of `at` and `len`, `from`, `bad`"),
                ));
            }
        };
        let digest = ArtifactDigest(digest);
        Ok(Self { digest, ask })
    }
}

impl ArtifactReply {
    /// A refusal. Asking does nothing that can't be done twice, so nothing has started.
    pub fn failed(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self::Failed(Failure {
            kind,
            may_have_started: false,
            detail: detail.into(),
        })
    }

    /// The bytes to send. A detail that is too long is cut.
    pub fn encode(&self) -> Bytes {
        let mut out = match self {
            Self::Part { data, .. } => Writer::new(3, data.len()),
            Self::Have(_) => Writer::new(2, 0),
            Self::Failed(_) => Writer::new(3, 0),
        };
        out.number("v", VERSION);
        match self {
            Self::Part { size, data } => {
                out.bytes("data", data);
                out.number("size", *size);
            }
            Self::Have(have) => out.flag("have", *have),
            Self::Failed(failure) => {
                out.cut_text("err", failure.kind.as_str());
                out.cut_text("detail", &failure.detail);
            }
        }
        out.finish()
    }

    /// Reads what [`ArtifactReply::encode`] of this or another version made. The data is a part of `bytes`, not a copy.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let part = (fields.number("size")?, fields.bytes("data")?);
        match (part, fields.flag("have")?, fields.text("err")?) {
            ((Some(size), Some(data)), None, None) => Ok(Self::Part { size, data }),
            ((None, None), Some(have), None) => Ok(Self::Have(have)),
            ((None, None), None, Some(kind)) => Ok(Self::failed(
                FailureKind::from_wire(&kind),
                fields.text("detail")?.unwrap_or_default(),
            )),
            _ => Err(field(
                "v",
                FieldError::Kind("beside one of `size` and `data`, `have`, `err`"),
            )),
        }
    }
}
