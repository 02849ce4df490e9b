//! The smallest actor that is of use: a page at `/`, and a plain line at `/plain`.
//!
//! It is also what the benchmarks load, so it asks the host for as little as it can: no call that the answer
//! doesn't need, and one write for the whole body.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Hello);

struct Hello;

const PAGE: &str = include_str!("page.html");

/// What `blocking-write-and-flush` takes at once; the page is kept below it.
const WRITE_LEN_MAX: usize = 4096;
const _: () = assert!(PAGE.len() <= WRITE_LEN_MAX);

impl Guest for Hello {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let (status, content_type, body) = match path {
            "/" => (200, "text/html; charset=utf-8", PAGE),
            "/plain" => (200, "text/plain; charset=utf-8", "Hello from Weft!\n"),
            _ => (
                404,
                "text/plain; charset=utf-8",
                "There is nothing here; try / or /plain.\n",
            ),
        };
        respond(response_out, status, content_type, body);
    }
}

fn respond(response_out: ResponseOutparam, status: u16, content_type: &str, text: &str) {
    let headers = Fields::from_list(&[
        ("content-type".to_owned(), content_type.as_bytes().to_vec()),
        ("content-length".to_owned(), text.len().to_string().into_bytes()),
    ])
    .expect("both headers are well-formed and allowed");
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(status)
        .expect("200 and 404 are status codes");
    let body = response
        .body()
        .expect("the body of a new response was not taken yet");
    ResponseOutparam::set(response_out, Ok(response));

    let stream = body.write().expect("the stream of a new body was not taken yet");
    // An error means that the client has gone, which is nothing to act on: the body then stays unfinished.
    if stream.blocking_write_and_flush(text.as_bytes()).is_ok() {
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
