//! Counts its invocations in its own memory, which tells whether its instance has served others.
//!
//! `/forget` and `/unfinished` leave something of the invocation behind.

use std::cell::Cell;
use std::mem;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, ResponseOutparam};
use weft_guest_support::{Body, Target, respond};

wasip2::http::proxy::export!(Memo);

struct Memo;

const PATHS: &str = "/count /forget /unfinished /half-a-line /trap";

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

impl Guest for Memo {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let count = COUNT.get() + 1;
        COUNT.set(count);
        let count = format!("{count}\n");
        match Target::of(&request).path.as_str() {
            "/count" => respond(response_out, 200, &count),
            "/forget" => {
                mem::forget(Fields::new());
                respond(response_out, 200, &count);
            }
            "/unfinished" => {
                let mut body = Body::start(response_out, 200, &[]);
                let _ = body.write(count.as_bytes());
                mem::forget(body);
            }
            "/half-a-line" => {
                // Not buffered by the guest itself.
                eprint!("half of invocation {count}");
                eprint!("the other half");
                respond(response_out, 200, &count);
            }
            "/trap" => std::process::abort(),
            _ => respond(
                response_out,
                404,
                &format!("There is nothing here; try one of: {PATHS}\n"),
            ),
        }
    }
}
