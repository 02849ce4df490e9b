//! Logs through `wasi:logging`, once a level. It is not part of `fault`, as not every host has that interface.

wit_bindgen::generate!({
    world: "weft:logger/logger",
    path: ["../../wit/deps/logging.wit", "wit"],
    generate_all,
});

use wasi::logging::logging::{Level, log};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use weft_guest_support::{Target, respond};

wasip2::http::proxy::export!(Logger);

struct Logger;

const LEVELS: [(Level, &str); 6] = [
    (Level::Trace, "trace"),
    (Level::Debug, "debug"),
    (Level::Info, "info"),
    (Level::Warn, "warn"),
    (Level::Error, "error"),
    (Level::Critical, "critical"),
];

impl Guest for Logger {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        if Target::of(&request).path != "/logging" {
            return respond(response_out, 404, "There is nothing here; try /logging.\n");
        }
        for (level, name) in LEVELS {
            log(level, "logger", &format!("a message of level {name}"));
        }
        respond(response_out, 200, "logged\n");
    }
}
