//! Gives back what it is sent, in several ways: whole streams, heads, counts, slow reads and event streams.

use std::fmt::Write as _;
use std::time::Duration;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, ResponseOutparam, Scheme, Trailers,
};
use wasip2::io::streams::StreamError;
use weft_guest_support::{Body, TEXT, Target, respond, sleep};

wasip2::http::proxy::export!(Echo);

struct Echo;

const CHUNK_LEN_MAX: u64 = 64 * 1024;

impl Guest for Echo {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = Target::of(&request);
        match (request.method(), target.path.as_str()) {
            (Method::Post, "/") => echo(&request, response_out),
            (Method::Get, "/headers") => respond(response_out, 200, &described(&request)),
            (Method::Post, "/count") => count(&request, response_out, Duration::ZERO),
            (Method::Post, "/slow-read") => count(&request, response_out, target.millis("ms", 10)),
            (Method::Get, "/sse") => events(&target, response_out),
            _ => respond(
                response_out,
                404,
                "There is nothing here; try POST /, /count or /slow-read?ms=, GET /headers or /sse?n=&ms=.\n",
            ),
        }
    }
}

/// Sends each chunk back when it comes, and the trailers after the last.
fn echo(request: &IncomingRequest, response_out: ResponseOutparam) {
    let sent = request.headers();
    let content_type = first_value(&sent, "content-type").unwrap_or_else(|| TEXT.into());
    let announced = first_value(&sent, "trailer");
    let mut headers = vec![("content-type", content_type.as_slice())];
    // Over HTTP/1.1 a host passes on only the trailers that the head announced.
    headers.extend(announced.as_deref().map(|names| ("trailer", names)));
    let mut answer = Body::start(response_out, 200, &headers);
    let read = read_body(request, |chunk| answer.write(chunk).is_ok());
    // A request that broke off must not look like a whole answer, so the answer is then left unfinished.
    if let Some(trailers) = read {
        answer.finish(trailers);
    }
}

/// Reads the whole body, pausing after each chunk, and answers its length.
fn count(request: &IncomingRequest, response_out: ResponseOutparam, pause: Duration) {
    let mut length = 0;
    let read = read_body(request, |chunk| {
        length += chunk.len();
        if !pause.is_zero() {
            sleep(pause);
        }
        true
    });
    match read {
        Some(_) => respond(response_out, 200, &format!("{length}\n")),
        None => respond(
            response_out,
            400,
            &format!("the body broke off after {length} bytes\n"),
        ),
    }
}

/// Hands each chunk to `each` until that says no. `None` if the body was not read to its end, else its trailers.
fn read_body(request: &IncomingRequest, mut each: impl FnMut(&[u8]) -> bool) -> Option<Option<Trailers>> {
    let body = request.consume().expect("the body of a request is taken once");
    let stream = body.stream().expect("the stream of a body is taken once");
    loop {
        match stream.blocking_read(CHUNK_LEN_MAX) {
            Ok(chunk) if each(&chunk) => {}
            Ok(_) | Err(StreamError::LastOperationFailed(_)) => return None,
            Err(StreamError::Closed) => break,
        }
    }
    drop(stream);
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    trailers.get()?.ok()?.ok()
}

fn first_value(headers: &Fields, name: &str) -> Option<Vec<u8>> {
    headers.get(name).into_iter().next()
}

/// The head of the request, a `name: value` a line.
fn described(request: &IncomingRequest) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name}: {value}");
    };
    line("method", &method_text(request.method()));
    line("path", &request.path_with_query().unwrap_or_default());
    line("authority", &request.authority().unwrap_or_default());
    line("scheme", &request.scheme().map(scheme_text).unwrap_or_default());
    for (name, value) in request.headers().entries() {
        line(&name, &String::from_utf8_lossy(&value));
    }
    text
}

fn method_text(method: Method) -> String {
    match method {
        Method::Other(name) => name,
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    }
}

fn scheme_text(scheme: Scheme) -> String {
    match scheme {
        Scheme::Http => "http".to_owned(),
        Scheme::Https => "https".to_owned(),
        Scheme::Other(name) => name,
    }
}

fn events(target: &Target, response_out: ResponseOutparam) {
    let headers: [(&str, &[u8]); 2] = [
        ("content-type", b"text/event-stream"),
        ("cache-control", b"no-store"),
    ];
    let mut answer = Body::start(response_out, 200, &headers);
    let pause = target.millis("ms", 100);
    for number in 0..target.number("n", 10) {
        if number > 0 {
            sleep(pause);
        }
        if answer.write(format!("data: {number}\n\n").as_bytes()).is_err() {
            return;
        }
    }
    answer.finish(None);
}
