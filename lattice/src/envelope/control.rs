//! What one host says to another about calls: a cancel, or nothing but the question whether it lives.

use bytes::Bytes;

use super::map::{Reader, Writer};
use super::{EnvelopeError, InvocationId, VERSION};

/// A message to a host's control subject. It is answered at once, by no guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    /// A call whose caller has gone.
    pub cancel: Option<InvocationId>,
}

/// The answer: the host lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlReply {
    /// How busy it is, as in [`super::Reply::load`].
    pub load: u32,
    /// It takes no more calls.
    pub leaving: bool,
}

impl Control {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(1 + u64::from(self.cancel.is_some()), 0);
        out.number("v", VERSION);
        self.cancel.inspect(|id| out.bytes("cancel", &id.0));
        out.finish()
    }

    /// Reads what [`Control::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let cancel = fields.id_if_there("cancel")?.map(InvocationId);
        Ok(Self { cancel })
    }
}

impl ControlReply {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(2 + u64::from(self.leaving), 0);
        out.number("v", VERSION);
        out.number("load", u64::from(self.load));
        if self.leaving {
            out.flag("leaving", true);
        }
        out.finish()
    }

    /// Reads what [`ControlReply::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        Ok(Self {
            load: fields.needed("load", fields.number("load")?)?,
            leaving: fields.flag("leaving")?.unwrap_or_default(),
        })
    }
}
