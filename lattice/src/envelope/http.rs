//! Heads of HTTP requests and responses that go from one host to another. They are the arguments and the result of a
//! call; a body that is short and complete goes with them, any other one over the call's stream.

use bytes::Bytes;
use minicbor::Decoder;

use super::map::{FieldError, Reader, Writer, field};
use super::{EnvelopeError, VERSION};

/// The longest body that goes with a head.
pub const INLINE_BODY_MAX: usize = 64 << 10;

/// The most headers: as many as an ingress takes, and some of its own.
const HEADERS_MAX: u64 = 256;

/// A header: its name, and its value, which need not be text.
pub type Header = (String, Bytes);

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// The target, with scheme and authority if it has them.
    pub uri: String,
    /// Whether it came over TLS.
    pub secure: bool,
    /// In their order.
    pub headers: Vec<Header>,
    /// The body, if it is complete; else it comes over the stream.
    pub body: Option<Bytes>,
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// In their order.
    pub headers: Vec<Header>,
    /// The body, if it is complete; else it comes over the stream.
    pub body: Option<Bytes>,
}

impl HttpRequest {
    /// The bytes to send.
    ///
    /// # Errors
    /// A text is too long.
    pub fn encode(&self) -> Result<Bytes, EnvelopeError> {
        let optional = [self.secure, self.body.is_some()];
        let len = 4 + optional.into_iter().map(u64::from).sum::<u64>();
        let mut out = Writer::new(len, self.body.as_ref().map_or(0, Bytes::len));
        out.number("v", VERSION);
        out.bytes("uri", self.uri.as_bytes());
        out.text("method", &self.method)?;
        headers(&mut out, &self.headers);
        if self.secure {
            out.flag("secure", true);
        }
        self.body.as_ref().inspect(|body| out.bytes("body", body));
        Ok(out.finish())
    }

    /// Reads what [`HttpRequest::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let uri = fields.needed("uri", fields.bytes("uri")?)?;
        Ok(Self {
            method: fields.needed("method", fields.text("method")?)?,
            uri: String::from_utf8(uri.to_vec()).map_err(|_| field("uri", FieldError::Kind("a URI")))?,
            secure: fields.flag("secure")?.unwrap_or_default(),
            headers: fields.array("headers", HEADERS_MAX, header)?,
            body: fields.bytes("body")?,
        })
    }
}

impl HttpResponse {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let len = 3 + u64::from(self.body.is_some());
        let mut out = Writer::new(len, self.body.as_ref().map_or(0, Bytes::len));
        out.number("v", VERSION);
        out.number("status", u64::from(self.status));
        headers(&mut out, &self.headers);
        self.body.as_ref().inspect(|body| out.bytes("body", body));
        out.finish()
    }

    /// Reads what [`HttpResponse::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        Ok(Self {
            status: fields.needed("status", fields.number("status")?)?,
            headers: fields.array("headers", HEADERS_MAX, header)?,
            body: fields.bytes("body")?,
        })
    }
}

/// Trailers, as they follow a body on a stream.
pub fn encode_trailers(trailers: &[Header]) -> Bytes {
    let mut out = Writer::new(2, 0);
    out.number("v", VERSION);
    headers(&mut out, trailers);
    out.finish()
}

/// Reads what [`encode_trailers`] made.
///
/// # Errors
/// [`EnvelopeError`]
pub fn decode_trailers(bytes: &Bytes) -> Result<Vec<Header>, EnvelopeError> {
    Reader::new(bytes)?.array("headers", HEADERS_MAX, header)
}

fn headers(out: &mut Writer, headers: &[Header]) {
    let count = usize::try_from(HEADERS_MAX).unwrap_or(usize::MAX);
    let headers = &headers[..headers.len().min(count)];
    out.array("headers", headers, |cbor, (name, value)| {
        cbor.array(2)?.str(name)?.bytes(value).map(drop)
    });
}

fn header(cbor: &mut Decoder<'_>) -> Option<Header> {
    if cbor.array().ok()?? != 2 {
        return None;
    }
    Some((
        cbor.str().ok()?.to_owned(),
        Bytes::copy_from_slice(cbor.bytes().ok()?),
    ))
}
