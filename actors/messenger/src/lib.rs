//! Messages by `wasmcloud:messaging@0.2.0`, as components of wasmCloud 1.x say and handle them.
//!
//! Over HTTP: `POST /publish/SUBJECT` says the body, `POST /request/SUBJECT?timeout=MS` asks and answers the answer, and
//! `GET /heard/BODY` tells how often such a message was handled, and on which subject last. What was handled is counted
//! in a key-value store, which all who handle share.
//!
//! A message is answered with its body in upper case if it asks for an answer. `trap` traps, `fail` is an error of the
//! handler's own, `slow:MS` takes so long, and `forward:SUBJECT` is said again there, with the same place for an answer.

wit_bindgen::generate!({
    world: "weft:messenger/messenger",
    path: ["../../wit/deps/wasmcloud-messaging.wit", "../../wit/deps/keyvalue.wit", "wit"],
    generate_all,
});

use std::io::Read as _;

use exports::wasmcloud::messaging::handler::{BrokerMessage, Guest as Handler};
use wasi::keyvalue::atomics;
use wasi::keyvalue::store::{self, Bucket};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};
use wasmcloud::messaging::{consumer, types};
use weft_guest_support::{Target, respond, sleep};

wasip2::http::proxy::export!(Messenger);
export!(Messenger);

struct Messenger;

impl Guest for Messenger {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let (status, text) = match answer(&request) {
            Ok(text) => (200, text),
            Err(text) => (502, text),
        };
        respond(response_out, status, &text);
    }
}

fn answer(request: &IncomingRequest) -> Result<String, String> {
    let target = Target::of(request);
    let path = target.path.trim_start_matches('/').split_once('/');
    match (request.method(), path) {
        (Method::Post, Some(("publish", subject))) => {
            consumer::publish(&message(subject, sent(request), target.text("reply-to")))?;
            Ok("published\n".to_owned())
        }
        (Method::Post, Some(("request", subject))) => {
            let timeout = u32::try_from(target.number("timeout", 5_000)).unwrap_or(u32::MAX);
            let answer = consumer::request(subject, &sent(request), timeout)?;
            Ok(String::from_utf8_lossy(&answer.body).into_owned())
        }
        (Method::Get, Some(("heard", body))) => {
            let bucket = counts()?;
            let read = |key: &str| bucket.get(key).map_err(|error| error.to_string());
            let count = read(body)?.unwrap_or_else(|| b"0".to_vec());
            let subject = read(&format!("{body} on"))?.unwrap_or_default();
            Ok([&count[..], b" ", &subject].concat().escape_ascii().to_string())
        }
        _ => Err("There is nothing here; see messenger/src/lib.rs.\n".to_owned()),
    }
}

impl Handler for Messenger {
    fn handle_message(msg: BrokerMessage) -> Result<(), String> {
        let text = String::from_utf8_lossy(&msg.body).into_owned();
        match text.split_once(':') {
            _ if text == "trap" => panic!("a message that traps"),
            _ if text == "fail" => return Err("a message that\nfails".to_owned()),
            Some(("slow", millis)) => {
                sleep(std::time::Duration::from_millis(millis.parse().unwrap_or(0)));
            }
            Some(("forward", subject)) => {
                return consumer::publish(&message(subject, b"forwarded".to_vec(), msg.reply_to));
            }
            _ => {}
        }
        let bucket = counts()?;
        let told = |error: store::Error| error.to_string();
        bucket
            .set(&format!("{text} on"), msg.subject.as_bytes())
            .map_err(told)?;
        atomics::increment(&bucket, &text, 1).map_err(told)?;
        match msg.reply_to {
            Some(reply_to) => consumer::publish(&message(&reply_to, text.to_uppercase().into_bytes(), None)),
            None => Ok(()),
        }
    }
}

fn counts() -> Result<Bucket, String> {
    store::open("heard").map_err(|error| error.to_string())
}

fn message(subject: &str, body: Vec<u8>, reply_to: Option<String>) -> types::BrokerMessage {
    types::BrokerMessage {
        subject: subject.to_owned(),
        body,
        reply_to,
    }
}

/// What was read of the body, if it broke off.
fn sent(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("the body of a request is taken once");
    let mut stream = body.stream().expect("the stream of a body is taken once");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
