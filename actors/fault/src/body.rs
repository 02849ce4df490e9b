//! Faults in an answer: heads that are too large, bodies that break off, stall or never end.

use std::time::Duration;

use wasip2::http::types::ResponseOutparam;
use weft_guest_support::{Body, TEXT, sleep};

use crate::stop;

fn start(response_out: ResponseOutparam) -> Body {
    Body::start(response_out, 200, &[("content-type", TEXT.as_bytes())])
}

pub fn trap_after_head(response_out: ResponseOutparam) {
    let mut answer = start(response_out);
    let _ = answer.write(b"the first chunk\n");
    stop::deep_in_the_guest();
}

/// Ends only when the client has gone.
pub fn endless(response_out: ResponseOutparam) {
    let mut answer = start(response_out);
    while answer.write(&[b'.'; 4096]).is_ok() {}
}

pub fn stall(response_out: ResponseOutparam) {
    let mut answer = start(response_out);
    let _ = answer.write(b"the first chunk\n");
    loop {
        sleep(Duration::MAX);
    }
}

pub fn many_headers(response_out: ResponseOutparam, number: u64) {
    let names: Vec<_> = (0..number).map(|at| format!("x-header-{at}")).collect();
    let headers: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), b"value".as_slice()))
        .collect();
    let mut answer = Body::start(response_out, 200, &headers);
    if answer.write(format!("{number} headers\n").as_bytes()).is_ok() {
        answer.finish(None);
    }
}
