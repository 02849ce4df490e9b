//! A message of an app, on its way to who subscribed.

use bytes::Bytes;

use super::map::{Reader, Writer};
use super::{EnvelopeError, TEXT_LEN_MAX, VERSION};

/// Headers of one message, at most.
const HEADERS_LEN_MAX: u64 = 64;
/// The longest value of a header, in bytes: all headers of a message have so many.
const HEADER_LEN_MAX: usize = 16 << 10;

/// What is said on a subject, beside the subjects themselves, which the transport carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// What is said.
    pub body: Bytes,
    /// Names and values, in order: a name may come twice.
    pub headers: Vec<(String, String)>,
}

impl Message {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 8)
            .sum();
        let has_headers = !self.headers.is_empty();
        let mut out = Writer::new(2 + u64::from(has_headers), self.body.len() + headers);
        out.number("v", VERSION);
        out.bytes("body", &self.body);
        if has_headers {
            out.array("headers", &self.headers, |cbor, (name, value)| {
                cbor.array(2)?.str(name)?.str(value)?;
                Ok(())
            });
        }
        out.finish()
    }

    /// Reads what [`Message::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        Ok(Self {
            body: fields.needed("body", fields.bytes("body")?)?,
            headers: fields.array("headers", HEADERS_LEN_MAX, |cbor| {
                cbor.array().ok().flatten().filter(|len| *len == 2)?;
                let name = cbor.str().ok().filter(|text| text.len() <= TEXT_LEN_MAX)?;
                let value = cbor.str().ok().filter(|text| text.len() <= HEADER_LEN_MAX)?;
                Some((name.to_owned(), value.to_owned()))
            })?,
        })
    }
}
