//! What the test guests share: the parts of a request's target, and answers, whole or in chunks.
//!
//! An example actor should show all that it does, so `hello` doesn't use this.

use std::io::{self, Write};
use std::time::Duration;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam, Trailers,
};
use wasip2::io::streams::OutputStream;

pub const TEXT: &str = "text/plain; charset=utf-8";

/// The path and the query of a request.
pub struct Target {
    pub path: String,
    query: String,
}

impl Target {
    pub fn of(request: &IncomingRequest) -> Self {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Self {
            path: path.to_owned(),
            query: query.to_owned(),
        }
    }

    /// The first value of `name`, with its percent escapes decoded.
    pub fn text(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| percent_decoded(value))
    }

    /// The first value of `name` if it is a number, else `default`.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.text(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    }

    pub fn millis(&self, name: &str, default: u64) -> Duration {
        Duration::from_millis(self.number(name, default))
    }
}

/// A `%` that no two hexadecimal digits follow stands for itself.
fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%').and_then(|digits| {
            let digits = str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        decoded.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Answers with a whole body.
pub fn respond(response_out: ResponseOutparam, status: u16, text: &str) {
    let length = text.len().to_string();
    let headers = [
        ("content-type", TEXT.as_bytes()),
        ("content-length", length.as_bytes()),
    ];
    let mut body = Body::start(response_out, status, &headers);
    if body.write(text.as_bytes()).is_ok() {
        body.finish(None);
    }
}

/// The body of an answer whose head was sent. One that is dropped unfinished tells the host that it was cut off.
pub struct Body {
    // Dropped first: a body can't go before its stream.
    stream: OutputStream,
    body: OutgoingBody,
}

impl Body {
    /// Sends the head.
    pub fn start(response_out: ResponseOutparam, status: u16, headers: &[(&str, &[u8])]) -> Self {
        let entries: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
            .collect();
        let fields = Fields::from_list(&entries).expect("the guest sets only headers that it may set");
        let response = OutgoingResponse::new(fields);
        response
            .set_status_code(status)
            .expect("the guest answers with known status codes");
        let body = response
            .body()
            .expect("the body of a new response was not taken yet");
        ResponseOutparam::set(response_out, Ok(response));
        let stream = body.write().expect("the stream of a new body was not taken yet");
        Self { stream, body }
    }

    /// Writes a chunk and waits until the host took it. An error means that the client has gone.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.stream.write_all(chunk)?;
        io::Write::flush(&mut self.stream)
    }

    pub fn finish(self, trailers: Option<Trailers>) {
        drop(self.stream);
        // An error here is the host's to report: it knows which client it was.
        let _ = OutgoingBody::finish(self.body, trailers);
    }
}

/// Waits on the host's clock, as any wait for I/O would.
pub fn sleep(time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    monotonic_clock::subscribe_duration(nanos).block();
}
