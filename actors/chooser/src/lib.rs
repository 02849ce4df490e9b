//! Chooses its links by their names, by `wasmcloud:bus/lattice`.
//!
//! The query names the link as `link`; without one nothing is chosen. `old=1` chooses by version 1.0.0 of the interface.
//!
//! - `GET /value/KEY` and `PUT /value/KEY?value=`: a key of the store.
//! - `GET /weave/KEY?links=a,b,a&pause=MS`: adds 1 to the key by each link in turn, through one handle that was opened
//!   before, and waits between; answers the sums.
//! - `GET /object/NAME` and `PUT /object/NAME?value=`: an object of a container; `order=early` makes the value before the
//!   link is chosen.
//! - `GET /rule`: what another actor answers. `GET /sql?query=`: the first value of a result. `POST /say/SUBJECT?body=`.
//! - `GET /choose/INTERFACE`: chooses the link for one interface, and answers what came of it.

wit_bindgen::generate!({
    world: "weft:chooser/chooser",
    path: [
        "../../wit/deps/io.wit",
        "../../wit/deps/blobstore.wit",
        "../../wit/deps/keyvalue.wit",
        "../../wit/deps/wasmcloud-bus.wit",
        "../../wit/deps/wasmcloud-bus-2.wit",
        "../../wit/deps/wasmcloud-messaging.wit",
        "../../wit/deps/weft-sql.wit",
        "../../compose/apps/shop/wit",
        "wit",
    ],
    with: {
        "wasi:io/error@0.2.12": wasip2::io::error,
        "wasi:io/poll@0.2.12": wasip2::io::poll,
        "wasi:io/streams@0.2.12": wasip2::io::streams,
    },
    generate_all,
});

use std::fmt::Debug;
use std::io::Write as _;

use shop::api::pricing;
use wasi::blobstore::blobstore;
use wasi::blobstore::types::{IncomingValue, OutgoingValue};
use wasi::keyvalue::{atomics, store};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};
use wasmcloud::bus1_0_0::lattice as bus1;
use wasmcloud::bus2_0_1::lattice as bus2;
use wasmcloud::messaging::{consumer, types};
use weft::sql::database;
use weft_guest_support::{Target, respond, sleep};

wasip2::http::proxy::export!(Chooser);

struct Chooser;

/// What has links here.
const ALL: [&str; 8] = [
    "wasi:keyvalue/store",
    "wasi:keyvalue/atomics",
    "wasi:keyvalue/batch",
    "wasi:blobstore/blobstore",
    "wasi:blobstore/container",
    "weft:sql/database",
    "wasmcloud:messaging/consumer",
    "shop:api/pricing",
];

impl Guest for Chooser {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        match answer(&request, &Target::of(&request)) {
            Ok(text) => respond(response_out, 200, &text),
            Err(text) => respond(response_out, 500, &text),
        }
    }
}

fn answer(request: &IncomingRequest, target: &Target) -> Result<String, String> {
    let (what, name) = target
        .path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((&target.path, ""));
    let is_get = matches!(request.method(), Method::Get);
    let value = target.text("value").unwrap_or_default();
    match what {
        "value" => {
            choose(target, &ALL[..3])?;
            let bucket = store::open("chosen").map_err(told)?;
            if is_get {
                let value = bucket.get(name).map_err(told)?;
                return Ok(value.map_or_else(
                    || "none".to_owned(),
                    |value| String::from_utf8_lossy(&value).into_owned(),
                ));
            }
            bucket.set(name, value.as_bytes()).map_err(told)?;
            Ok(String::new())
        }
        "weave" => weave(target, name),
        "object" if is_get => {
            choose(target, &ALL[3..5])?;
            let container = blobstore::get_container("chosen")?;
            let value = container.get_data(name, 0, u64::MAX)?;
            let bytes = IncomingValue::incoming_value_consume_sync(value)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "object" => write(target, name, &value),
        "/rule" => {
            choose(target, &ALL[7..])?;
            Ok(pricing::rule_name())
        }
        "/sql" => {
            choose(target, &ALL[5..6])?;
            let rows = database::query(&target.text("query").unwrap_or_default(), &[]).map_err(told)?;
            Ok(format!("{:?}", rows.rows))
        }
        "say" => {
            choose(target, &ALL[6..7])?;
            let body = target.text("body").unwrap_or_default().into_bytes();
            let subject = name.to_owned();
            consumer::publish(&types::BrokerMessage {
                subject,
                body,
                reply_to: None,
            })?;
            Ok(String::new())
        }
        "choose" => choose(target, &[name]).map(|()| "chosen".to_owned()),
        _ => Err("There is nothing here; see chooser/src/lib.rs.\n".to_owned()),
    }
}

/// Chooses the link that the request names, if it names one.
fn choose(target: &Target, interfaces: &[&str]) -> Result<(), String> {
    let Some(link) = target.text("link") else {
        return Ok(());
    };
    let parts = interfaces.iter().map(|interface| {
        let (namespace, rest) = interface.split_once(':').unwrap_or((interface, ""));
        let (package, interface) = rest.split_once('/').unwrap_or((rest, ""));
        (namespace, package, interface)
    });
    if target.text("old").is_some() {
        let targets = parts.map(|(namespace, package, interface)| {
            bus1::CallTargetInterface::new(namespace, package, interface)
        });
        bus1::set_link_name(&link, targets.collect());
        return Ok(());
    }
    let targets = parts
        .map(|(namespace, package, interface)| bus2::CallTargetInterface::new(namespace, package, interface));
    bus2::set_link_name(&link, targets.collect())
}

fn weave(target: &Target, key: &str) -> Result<String, String> {
    let bucket = store::open("chosen").map_err(told)?;
    let links = target.text("links").unwrap_or_default();
    let mut sums = Vec::new();
    for link in links.split(',') {
        let atomics = bus2::CallTargetInterface::new("wasi", "keyvalue", "atomics");
        bus2::set_link_name(link, vec![atomics])?;
        sleep(target.millis("pause", 0));
        sums.push(atomics::increment(&bucket, key, 1).map_err(told)?.to_string());
    }
    Ok(sums.join(","))
}

fn write(target: &Target, name: &str, value: &str) -> Result<String, String> {
    let early = target
        .text("order")
        .is_some()
        .then(OutgoingValue::new_outgoing_value);
    choose(target, &ALL[3..5])?;
    let container = blobstore::create_container("chosen").or_else(|_| blobstore::get_container("chosen"))?;
    let outgoing = early.unwrap_or_else(OutgoingValue::new_outgoing_value);
    container.write_data(name, &outgoing)?;
    let mut body = outgoing
        .outgoing_value_write_body()
        .map_err(|()| "the body was given before".to_owned())?;
    body.write_all(value.as_bytes()).map_err(told)?;
    drop(body);
    OutgoingValue::finish(outgoing)?;
    Ok(String::new())
}

fn told(error: impl Debug) -> String {
    format!("{error:?}")
}
