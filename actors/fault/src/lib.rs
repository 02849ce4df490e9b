//! Misbehaves on request: the path names the fault. Tests hold the host's limits against it.
//!
//! `GET /` lists the paths. A fault that a host should stop never ends by itself.

mod body;
mod outgoing;
mod stop;

use std::fmt::Write as _;
use std::time::Duration;

use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use weft_guest_support::{Target, respond, sleep};

wasip2::http::proxy::export!(Fault);

struct Fault;

const PATHS: &str = "\
/ok /trap /spin /stack /memory /handles /pollables /sleep?ms= /no-response /trap-after-head /endless-body
/stall-body /headers?n= /log?n=&len= /outgoing?url= /env /random /post-response /subtask-many?n=
";

impl Guest for Fault {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = Target::of(&request);
        match target.path.as_str() {
            "/" => respond(response_out, 200, PATHS),
            "/ok" => respond(response_out, 200, "ok\n"),
            "/trap" => stop::deep_in_the_guest(),
            "/spin" => stop::spin(),
            "/stack" => stop::recurse(),
            "/memory" => stop::fill_memory(),
            "/handles" => stop::keep_fields(),
            "/pollables" => stop::keep_pollables(),
            "/sleep" => {
                sleep(target.millis("ms", 100));
                respond(response_out, 200, "ok\n");
            }
            "/no-response" => drop(response_out),
            "/trap-after-head" => body::trap_after_head(response_out),
            "/endless-body" => body::endless(response_out),
            "/stall-body" => body::stall(response_out),
            "/headers" => body::many_headers(response_out, target.number("n", 100)),
            "/log" => log(&target, response_out),
            "/outgoing" => respond(response_out, 200, &outgoing::described(&target)),
            "/env" => respond(response_out, 200, &surroundings()),
            "/random" => respond(response_out, 200, &random_hex()),
            "/post-response" => {
                respond(response_out, 200, "answered\n");
                sleep(Duration::from_millis(200));
                println!("after the response");
            }
            "/subtask-many" => wait_for_many(response_out, target.number("n", 100)),
            _ => respond(
                response_out,
                404,
                &format!("There is nothing here; try one of:\n{PATHS}"),
            ),
        }
    }
}

fn log(target: &Target, response_out: ResponseOutparam) {
    let line = "x".repeat(usize::try_from(target.number("len", 80)).unwrap_or(usize::MAX));
    for _ in 0..target.number("n", 1) {
        println!("{line}");
    }
    eprintln!("a line on stderr");
    respond(response_out, 200, "logged\n");
}

fn surroundings() -> String {
    let variables = std::env::vars_os().count();
    let arguments = std::env::args_os().count();
    let preopens = wasip2::filesystem::preopens::get_directories().len();
    format!("env: {variables}\nargs: {arguments}\npreopens: {preopens}\n")
}

fn random_hex() -> String {
    let bytes = wasip2::random::random::get_random_bytes(16);
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text + "\n"
}

/// Waits on `number` timers in one call, and answers how many had run out when it returned.
fn wait_for_many(response_out: ResponseOutparam, number: u64) {
    const NANOS: u64 = 10_000_000;
    let timers: Vec<_> = (0..number)
        .map(|_| monotonic_clock::subscribe_duration(NANOS))
        .collect();
    // The host traps on an empty list.
    let ready = match timers.is_empty() {
        true => 0,
        false => wasip2::io::poll::poll(&timers.iter().collect::<Vec<_>>()).len(),
    };
    respond(response_out, 200, &format!("{ready} of {number} ready\n"));
}
