//! Means harm: each path is an attack on the host, or on those who share it.
//!
//! `GET /` lists the paths. Where `fault` fails as programs fail, this tries to take more than its share: of processor
//! time, memory, handles, the log, connections, stores. A host must end or bound each, and nobody else may notice.

wit_bindgen::generate!({
    world: "test:hostile/hostile",
    path: [
        "../../wit/deps/config.wit",
        "../../wit/deps/keyvalue-draft2.wit",
        "../../wit/deps/logging.wit",
        "../../wit/deps/weft-sql.wit",
        "wit",
    ],
    generate_all,
});

mod answers;
mod compute;
mod floods;
mod logs;
mod memory;
mod stores;

use test::hostile::again;
use wasip2::exports::http::incoming_handler::Guest as Handler;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use weft_guest_support::{Target, respond};

struct Hostile;

wasip2::http::proxy::export!(Hostile);
export!(Hostile);

const PATHS: &str = "\
/ok
/loop /fill /copy /recursion
/memory /grows /random?len=
/handles?of=fields|streams|pollables|requests|big-fields /timers?n= /poll-one?n= /fetches?url=&n= /byte-by-byte
/log-line?len= /log-flood?n=
/headers?n=&len= /status?code=&length= /bad-headers /trailers?len= /nothing
/endless-body /stalled-body /trap-mid-body
/calls-deep?n= /cycle?n=
/kv-large?len= /kv-keys?n= /kv-names /sql-forever /sql-large /config-large?len=
";

impl Handler for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let number = |name: &str, default: usize| {
            usize::try_from(target.number(name, default as u64)).unwrap_or(usize::MAX)
        };
        let text = match target.path.as_str() {
            "/" => PATHS.to_owned(),
            "/ok" => "ok\n".to_owned(),

            "/loop" => compute::spin(),
            "/fill" => compute::fill(),
            "/copy" => compute::copy(),
            "/recursion" => compute::recurse(),

            "/memory" => memory::take_all(),
            "/grows" => memory::grow_by_pages(),
            "/random" => memory::random(target.number("len", u64::MAX)),

            "/handles" => floods::keep(&target.text("of").unwrap_or_default()),
            "/timers" => floods::wait_for_timers(number("n", 4_096)),
            "/poll-one" => floods::poll_one(number("n", 1_000_000)),
            "/fetches" => floods::fetch(&target.text("url").unwrap_or_default(), number("n", 5_000)),
            "/byte-by-byte" => floods::read_byte_by_byte(&request),

            "/log-line" => logs::line(number("len", 16 << 20)),
            "/log-flood" => logs::flood(number("n", usize::MAX)),

            "/headers" => return answers::headers(out, number("n", 10_000), number("len", 5)),
            "/status" => return answers::status(out, number("code", 0), target.text("length")),
            "/bad-headers" => answers::bad_headers(),
            "/trailers" => return answers::trailers(out, number("len", 1 << 20)),
            // Drops all that it was given; what this one gives back is an answer to nobody.
            "/nothing" => return drop((request, out)),
            "/endless-body" => return answers::endless(out),
            "/stalled-body" => return answers::stalled(out),
            "/trap-mid-body" => return answers::trap_midway(out),

            "/calls-deep" | "/cycle" => {
                let n = u32::try_from(number("n", 1_000_000)).unwrap_or(u32::MAX);
                format!("{}\n", again::deep(n))
            }

            "/kv-large" => stores::large_value(number("len", 100_000_000)),
            "/kv-keys" => stores::many_keys(number("n", 100_000)),
            "/kv-names" => stores::odd_names(),
            "/sql-forever" => stores::endless_statement(),
            "/sql-large" => stores::large_result(),
            "/config-large" => stores::large_setting(number("len", 1 << 20)),
            _ => {
                let text = format!("There is nothing here; try one of:\n{PATHS}");
                return respond(out, 404, &text);
            }
        };
        respond(out, 200, &text);
    }
}

impl exports::test::hostile::again::Guest for Hostile {
    fn deep(n: u32) -> u32 {
        n.checked_sub(1).map_or(0, |rest| again::deep(rest) + 1)
    }
}

/// Traps without a word: one `unreachable` instruction.
fn trap() -> ! {
    std::process::abort()
}
