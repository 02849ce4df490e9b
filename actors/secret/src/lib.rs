//! Reveals its secrets over HTTP, by `wasmcloud:secrets`, as no real actor does: `GET /KEY` answers the kind of the value
//! and the value, bytes in hexadecimal digits. `GET /KEY?held=yes` gets it and reveals nothing.

wit_bindgen::generate!({
    world: "weft:secret-test/secret",
    path: ["../../wit/deps/wasmcloud-secrets.wit", "wit"],
    generate_all,
});

use std::fmt::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use wasmcloud::secrets::reveal::reveal;
use wasmcloud::secrets::store::{SecretValue, SecretsError, get};
use weft_guest_support::{Target, respond};

wasip2::http::proxy::export!(Secret);

struct Secret;

impl Guest for Secret {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = Target::of(&request);
        let (status, text) = match get(target.path.trim_start_matches('/')) {
            Ok(_) if target.text("held").is_some() => (200, "held".to_owned()),
            Ok(secret) => (200, shown(reveal(&secret))),
            Err(SecretsError::NotFound) => (404, "not-found".to_owned()),
            Err(SecretsError::Upstream(reason)) => (502, format!("upstream: {reason}")),
            Err(SecretsError::Io(reason)) => (500, format!("io: {reason}")),
        };
        respond(response_out, status, &text);
    }
}

fn shown(value: SecretValue) -> String {
    match value {
        SecretValue::String(text) => format!("string: {text}"),
        SecretValue::Bytes(bytes) => bytes.iter().fold("bytes: ".to_owned(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    }
}
