//! Makes an outgoing request: `GET /?url=http://host/path`. Answers the status and the body, or the error's name.
//!
//! `method=POST` makes it another method; the body is then passed on. `headers=1` answers the head, too.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    ResponseOutparam, Scheme,
};
use weft_guest_support::{Target, respond};

wasip2::http::proxy::export!(Fetch);

struct Fetch;

impl Guest for Fetch {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = Target::of(&request);
        let Some(url) = target.text("url") else {
            return respond(response_out, 400, "say which: /?url=http://host/path\n");
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return respond(response_out, 400, "the URL has no scheme\n");
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let outgoing = OutgoingRequest::new(Fields::new());
        let is_set = outgoing.set_method(&method(&target)).is_ok()
            && outgoing.set_scheme(Some(&self::scheme(scheme))).is_ok()
            && outgoing.set_authority(Some(authority)).is_ok()
            && outgoing
                .set_path_with_query(Some(if path.is_empty() { "/" } else { path }))
                .is_ok();
        if !is_set {
            return respond(response_out, 400, "the URL or the method is malformed\n");
        }
        match fetched(outgoing, &sent(&request), target.number("headers", 0) == 1) {
            Ok(text) => respond(response_out, 200, &text),
            Err(error) => respond(response_out, 502, &format!("{}\n", name(&error))),
        }
    }
}

/// Sends the request with `body`; `STATUS`, the head if it is wanted, an empty line, and the body of the answer.
fn fetched(request: OutgoingRequest, body: &[u8], with_head: bool) -> Result<String, ErrorCode> {
    let outgoing = request
        .body()
        .expect("the body of a new request was not taken yet");
    let future = outgoing_handler::handle(request, None)?;
    let mut stream = outgoing
        .write()
        .expect("the stream of a new body was not taken yet");
    // An error means that the other side answered without reading, or that it is told below why it failed.
    let _ = stream
        .write_all(body)
        .and_then(|()| std::io::Write::flush(&mut stream));
    drop(stream);
    let _ = OutgoingBody::finish(outgoing, None);

    future.subscribe().block();
    let response = future
        .get()
        .expect("it is ready")
        .expect("it was not taken yet")?;
    let mut text = format!("{}\n", response.status());
    if with_head {
        for (name, value) in response.headers().entries() {
            let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(&value));
        }
    }
    text.push('\n');
    text.push_str(&received(&response));
    Ok(text)
}

/// The body of the answer, and a line about it if it broke off.
fn received(response: &IncomingResponse) -> String {
    let body = response.consume().expect("the body of a response is taken once");
    let mut stream = body.stream().expect("the stream of a body is taken once");
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if read.is_err() {
        text.push_str("\n(the body broke off)\n");
    }
    text
}

/// What was read of the body, if it broke off.
fn sent(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("the body of a request is taken once");
    let mut stream = body.stream().expect("the stream of a body is taken once");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn method(target: &Target) -> Method {
    match target.text("method").as_deref() {
        None | Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        Some("PUT") => Method::Put,
        Some("DELETE") => Method::Delete,
        Some(other) => Method::Other(other.to_owned()),
    }
}

fn scheme(text: &str) -> Scheme {
    match text {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    }
}

/// `ConnectionRefused`, without what some cases carry.
fn name(error: &ErrorCode) -> String {
    let text = format!("{error:?}");
    let text = text.trim_start_matches("ErrorCode::");
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}
