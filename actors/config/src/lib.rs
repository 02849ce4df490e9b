//! Reads settings over HTTP, by each name that `wasi:config` has had: `GET /KEY` answers a line each, `GET /` all keys.

wit_bindgen::generate!({
    world: "weft:config-test/config",
    path: [
        "../../wit/deps/config.wit",
        "../../wit/deps/config-rc1.wit",
        "../../wit/deps/config-2024-09-27.wit",
        "wit",
    ],
    generate_all,
});

use std::fmt::Debug;

use wasi::{config0_2_0_draft, config0_2_0_draft_2024_09_27, config0_2_0_rc_1};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use weft_guest_support::{Target, respond};

wasip2::http::proxy::export!(Config);

struct Config;

impl Guest for Config {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let path = Target::of(&request).path;
        let key = path.trim_start_matches('/');
        let text = if key.is_empty() {
            let mut pairs = config0_2_0_rc_1::store::get_all().unwrap_or_default();
            pairs.sort();
            let lines = pairs.into_iter().map(|(key, value)| format!("{key}={value}\n"));
            lines.collect()
        } else {
            [
                line("store draft", config0_2_0_draft::store::get(key)),
                line("runtime draft", config0_2_0_draft::runtime::get(key)),
                line("store rc.1", config0_2_0_rc_1::store::get(key)),
                line("store 2024-09-27", config0_2_0_draft_2024_09_27::store::get(key)),
            ]
            .concat()
        };
        respond(response_out, 200, &text);
    }
}

fn line(name: &str, value: Result<Option<String>, impl Debug>) -> String {
    match value {
        Ok(Some(value)) => format!("{name}: {value}\n"),
        Ok(None) => format!("{name} is not set\n"),
        Err(error) => format!("{name} failed: {error:?}\n"),
    }
}
