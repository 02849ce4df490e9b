//! Takes handles, timers and connections, and never gives one back.

use std::hint::black_box;

use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingRequest, OutgoingBody, OutgoingRequest, Scheme,
};
use wasip2::io::poll;
use wasip2::io::streams::StreamError;

pub fn keep(of: &str) -> ! {
    match of {
        "streams" => without_end(wasip2::cli::stdout::get_stdout),
        "pollables" => without_end(|| monotonic_clock::subscribe_duration(u64::MAX)),
        "requests" => without_end(|| {
            let request = OutgoingRequest::new(Fields::new());
            let body = request
                .body()
                .expect("the body of a new request was not taken yet");
            let mut stream = body.write().expect("the stream of a new body was not taken yet");
            // As much as the host buffers for one.
            let _ = std::io::Write::write(&mut stream, &[b'.'; 64 << 10]);
            // In this order they would have to be dropped.
            (stream, body, request)
        }),
        "big-fields" => without_end(|| {
            let fields = Fields::new();
            for at in 0..32 {
                let _ = fields.append(&format!("x-{at}"), &[b'.'; 4_000]);
            }
            fields
        }),
        _ => without_end(Fields::new),
    }
}

fn without_end<T>(mut make: impl FnMut() -> T) -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(make()));
    }
}

/// Waits for `n` timers of centuries at once.
pub fn wait_for_timers(n: usize) -> String {
    let timers: Vec<_> = (0..n)
        .map(|_| monotonic_clock::subscribe_duration(u64::MAX / 2))
        .collect();
    let ready = poll::poll(&timers.iter().collect::<Vec<_>>());
    format!("{} timers ran out\n", ready.len())
}

/// Asks for the same ready pollable `n` times in one list, again and again.
pub fn poll_one(n: usize) -> ! {
    let timer = monotonic_clock::subscribe_duration(0);
    let list = vec![&timer; n];
    loop {
        black_box(poll::poll(&list));
    }
}

/// Sends `n` requests before it looks at an answer, then waits for each. Tells how each of them went.
pub fn fetch(url: &str, n: usize) -> String {
    let mut refused = 0;
    let mut sent = Vec::new();
    for _ in 0..n {
        match send(url) {
            Some(Ok(future)) => sent.push(future),
            _ => refused += 1,
        }
    }
    let mut answered = 0;
    let mut failed = 0;
    let mut first = None;
    // Kept, so that their connections stay in use.
    let mut kept = Vec::new();
    for future in &sent {
        future.subscribe().block();
        match future.get() {
            Some(Ok(Ok(response))) => {
                answered += 1;
                kept.push(response);
            }
            other => {
                failed += 1;
                first.get_or_insert_with(|| format!("{other:?}"));
            }
        }
    }
    drop(kept);
    format!(
        "{answered} answered, {failed} failed, {refused} refused {}\n",
        first.unwrap_or_default()
    )
}

fn send(url: &str) -> Option<Result<FutureIncomingResponse, ErrorCode>> {
    let (authority, path) = url.strip_prefix("http://")?.split_once('/')?;
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(&format!("/{path}"))).ok()?;
    let body = request.body().ok()?;
    OutgoingBody::finish(body, None).ok()?;
    Some(outgoing_handler::handle(request, None))
}

/// Reads the request's body in calls of one byte each.
pub fn read_byte_by_byte(request: &IncomingRequest) -> String {
    let body = request.consume().expect("the body of a request is taken once");
    let stream = body.stream().expect("the stream of a body is taken once");
    let mut len = 0_u64;
    loop {
        match stream.blocking_read(1) {
            Ok(bytes) => len += bytes.len() as u64,
            Err(StreamError::Closed) => return format!("{len} bytes\n"),
            Err(StreamError::LastOperationFailed(error)) => {
                return format!("{len} bytes, then {}\n", error.to_debug_string());
            }
        }
    }
}
