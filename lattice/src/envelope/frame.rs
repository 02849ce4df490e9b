//! One message of a stream.

use bytes::Bytes;

use super::map::{Reader, Writer, field};
use super::{EnvelopeError, FieldError, StreamId, VERSION};

/// Which end of a stream sent a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Who made the call that the stream goes with.
    Caller,
    /// Who was called.
    Callee,
}

impl Side {
    /// The one at the other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// One message of a stream. What has data, or ends, is numbered from 0 by each end; one that is missing ends the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The stream.
    pub stream: StreamId,
    /// Who sent it.
    pub side: Side,
    /// Its number; of a frame without data and end, that of the next one that has.
    pub number: u64,
    /// What it says.
    pub kind: FrameKind,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameKind {
    /// The next bytes.
    Data(Bytes),
    /// Who gets this may have sent so much since the beginning. It may be said again, to show that one is there.
    Credit(u64),
    /// No bytes follow.
    End,
    /// The stream is over in both directions, and what was sent may not have come; why, for people.
    Reset(String),
    /// Nothing that is known here.
    Other,
}

impl Frame {
    /// The bytes to send. A reason that is too long is cut.
    pub fn encode(&self) -> Bytes {
        let (optional, body_len) = match &self.kind {
            FrameKind::Data(bytes) => (1, bytes.len()),
            FrameKind::Other => (0, 0),
            _ => (1, 0),
        };
        let mut out = Writer::new(4 + optional, body_len);
        out.number("n", self.number);
        out.bytes("s", &self.stream.0);
        out.number("v", VERSION);
        if let FrameKind::End = self.kind {
            out.flag("end", true);
        }
        out.flag("back", self.side == Side::Callee);
        match &self.kind {
            FrameKind::Data(bytes) => out.bytes("data", bytes),
            FrameKind::Reset(why) => out.cut_text("reset", why),
            FrameKind::Credit(up_to) => out.number("credit", *up_to),
            FrameKind::End | FrameKind::Other => {}
        }
        out.finish()
    }

    /// Reads what [`Frame::encode`] of this or another version made. The data is a part of `bytes`, not a copy.
    ///
    /// # Errors
    /// [`EnvelopeError`]; the frame is to be dropped, and the stream ends when the next one comes.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let mut kinds = [
            fields.bytes("data")?.map(FrameKind::Data),
            fields.number("credit")?.map(FrameKind::Credit),
            fields.text("reset")?.map(FrameKind::Reset),
            fields.flag("end")?.map(|_| FrameKind::End),
        ]
        .into_iter()
        .flatten();
        let kind = kinds.next().unwrap_or(FrameKind::Other);
        if kinds.next().is_some() {
            return Err(field("data", FieldError::Excluded("credit, reset or end")));
        }
        let back = fields.needed("back", fields.flag("back")?)?;
        Ok(Self {
            stream: StreamId(fields.id("s")?),
            side: if back { Side::Callee } else { Side::Caller },
            number: fields.needed("n", fields.number("n")?)?,
            kind,
        })
    }
}
