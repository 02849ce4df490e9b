//! Several requests for one host, or answers to one, in one message.

use bytes::Bytes;

use super::EnvelopeError;
use super::VERSION;
use super::map::{Reader, Writer};

/// The most that one message has: who writes has a lower bound.
const PARTS_MAX: u64 = 256;

/// What a part takes beside its payload, in bytes, at most: its number, two lengths and an array's head.
const PART_OVERHEAD: usize = 16;

/// Requests that were ready to be sent at the same time, or answers to such. Each has the number that its sender knows it
/// by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Numbers and envelopes.
    pub parts: Vec<(u64, Bytes)>,
}

impl Batch {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let len: usize = self
            .parts
            .iter()
            .map(|(_, payload)| payload.len() + PART_OVERHEAD)
            .sum();
        let mut out = Writer::new(2, len);
        out.number("v", VERSION);
        out.array("all", &self.parts, |cbor, (number, payload)| {
            cbor.array(2)?.u64(*number)?.bytes(payload)?;
            Ok(())
        });
        out.finish()
    }

    /// Reads what [`Batch::encode`] of this or another version made. The parts are of `bytes`, not copies.
    ///
    /// # Errors
    /// [`EnvelopeError`]; none of the parts can be believed then.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let parts = Reader::new(bytes)?.array("all", PARTS_MAX, |cbor| {
            cbor.array().ok().flatten().filter(|len| *len == 2)?;
            let number = cbor.u64().ok()?;
            Some((number, bytes.slice_ref(cbor.bytes().ok()?)))
        })?;
        Ok(Self { parts })
    }
}
