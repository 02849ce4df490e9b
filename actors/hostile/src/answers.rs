//! Answers that are too large, malformed, or never whole.

use std::time::Duration;

use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use weft_guest_support::{Body, TEXT, respond, sleep};

use crate::trap;

/// `n` headers of `len` bytes each. Those that the host refuses are left out.
pub fn headers(out: ResponseOutparam, n: usize, len: usize) {
    let fields = Fields::new();
    let value = vec![b'v'; len];
    let refused = (0..n)
        .filter(|at| fields.append(&format!("x-header-{at}"), &value).is_err())
        .count();
    answer(out, 200, fields, format!("{refused} refused\n").as_bytes());
}

/// Answers with this status, and with this `content-length` whatever the body has.
pub fn status(out: ResponseOutparam, code: usize, length: Option<String>) {
    let code = u16::try_from(code).unwrap_or(u16::MAX);
    let fields = Fields::new();
    if let Some(length) = length
        && fields.append("content-length", length.as_bytes()).is_err()
    {
        return respond(out, 200, "the length was refused\n");
    }
    if OutgoingResponse::new(Fields::new())
        .set_status_code(code)
        .is_err()
    {
        return respond(out, 200, "the status was refused\n");
    }
    answer(out, code, fields, b"twelve bytes");
}

fn answer(out: ResponseOutparam, code: u16, fields: Fields, text: &[u8]) {
    let response = OutgoingResponse::new(fields);
    let _ = response.set_status_code(code);
    let body = response
        .body()
        .expect("the body of a new response was not taken yet");
    ResponseOutparam::set(out, Ok(response));
    if let Ok(stream) = body.write() {
        let _ = stream.blocking_write_and_flush(text);
    }
    let _ = OutgoingBody::finish(body, None);
}

/// Tells which of some names and values that no header may have were taken.
pub fn bad_headers() -> String {
    const NAMES: [&str; 7] = [
        "",
        "a b",
        "a\r\nb",
        "a:b",
        "\u{e4}",
        "connection",
        "transfer-encoding",
    ];
    const VALUES: [&[u8]; 4] = [b"a\r\nset-cookie: b", b"a\nb", b"\0", b"\x7f"];
    let fields = Fields::new();
    let names = NAMES.iter().filter(|name| fields.append(name, b"value").is_ok());
    let names: Vec<_> = names.collect();
    let values = VALUES
        .iter()
        .filter(|value| fields.append("x-name", value).is_ok());
    let values: Vec<_> = values.collect();
    format!("taken: {names:?} {values:?}\n")
}

pub fn trailers(out: ResponseOutparam, len: usize) {
    let mut body = Body::start(out, 200, &[("content-type", TEXT.as_bytes())]);
    if body.write(b"a body\n").is_err() {
        return;
    }
    let trailers = Fields::new();
    let value = vec![b'v'; 4_000];
    for at in 0..len.div_ceil(value.len()) {
        let _ = trailers.append(&format!("x-trailer-{at}"), &value);
    }
    body.finish(Some(trailers));
}

/// Ends only when the client has gone.
pub fn endless(out: ResponseOutparam) {
    let mut body = Body::start(out, 200, &[("content-type", TEXT.as_bytes())]);
    while body.write(&[b'.'; 64 << 10]).is_ok() {}
}

pub fn stalled(out: ResponseOutparam) {
    let mut body = Body::start(out, 200, &[("content-type", TEXT.as_bytes())]);
    let _ = body.write(b"the first chunk\n");
    loop {
        sleep(Duration::MAX);
    }
}

/// Traps once the client has a part of the body: it waits a little, so that the head is on its way.
pub fn trap_midway(out: ResponseOutparam) {
    let mut body = Body::start(out, 200, &[("content-type", TEXT.as_bytes())]);
    for _ in 0..8 {
        let _ = body.write(&[b'.'; 64 << 10]);
        sleep(Duration::from_millis(5));
    }
    trap();
}
