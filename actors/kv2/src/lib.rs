//! Key-value over HTTP, by `wasi:keyvalue@0.2.0-draft2`: `GET`, `HEAD`, `PUT` and `DELETE /BUCKET/KEY`.
//!
//! The rest work on the bucket of the query's `bucket`: `POST /incr/KEY?by=`, `GET /list?cursor=` (a key a line, then
//! the cursor, if there is one), and `GET`, `PUT` or `DELETE /many?keys=a,b` (a `PUT` sets all of them to its body).
//! `POST /swap/KEY?meanwhile=` sets the key to the body by compare and swap, after setting it to `meanwhile`, if that is
//! given, so that the first try has to fail; it answers the tries that it took.
//!
//! What it is told of changes of keys it writes into the bucket `told`: of a key the value, or `deleted`.

wit_bindgen::generate!({
    world: "weft:kv2/kv2",
    path: ["../../wit/deps/keyvalue-draft2.wit", "wit"],
    generate_all,
});

use std::io::Read as _;

use exports::wasi::keyvalue::watcher::Guest as Watcher;
use wasi::keyvalue::atomics::{Cas, CasError};
use wasi::keyvalue::store::{self, Bucket, Error};
use wasi::keyvalue::{atomics, batch};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};
use weft_guest_support::{Target, respond};

wasip2::http::proxy::export!(Kv2);
export!(Kv2);

struct Kv2;

type Answer = Result<(u16, String), Error>;

impl Guest for Kv2 {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let (status, text) = answer(&request).unwrap_or_else(|error| match error {
            Error::NoSuchStore => (404, "no-such-store\n".to_owned()),
            Error::AccessDenied => (403, "access-denied\n".to_owned()),
            Error::Other(text) => (500, format!("other: {text}\n")),
        });
        respond(response_out, status, &text);
    }
}

impl Watcher for Kv2 {
    fn on_set(_: Bucket, key: String, value: Vec<u8>) {
        tell(&key, &value);
    }

    fn on_delete(_: Bucket, key: String) {
        tell(&key, b"deleted");
    }
}

fn tell(key: &str, what: &[u8]) {
    let told = store::open("told").and_then(|told| told.set(key, what));
    told.expect("the bucket `told` takes what it is told");
}

fn answer(request: &IncomingRequest) -> Answer {
    let target = Target::of(request);
    let named = || store::open(&target.text("bucket").unwrap_or_else(|| "default".to_owned()));
    match (
        request.method(),
        target.path.trim_start_matches('/').split_once('/'),
    ) {
        (Method::Get, None) if target.path == "/list" => list(&named()?, &target),
        (method, None) if target.path == "/many" => many(&named()?, &method, &target, request),
        (Method::Post, Some(("incr", key))) => {
            let sum = atomics::increment(&named()?, key, by(&target))?;
            Ok((200, format!("{sum}\n")))
        }
        (Method::Post, Some(("swap", key))) => swap(&named()?, key, &target, request),
        (method, Some((bucket, key))) => one(&store::open(bucket)?, &method, key, request),
        _ => Ok((404, "There is nothing here; see kv2/src/lib.rs.\n".to_owned())),
    }
}

fn one(bucket: &Bucket, method: &Method, key: &str, request: &IncomingRequest) -> Answer {
    match method {
        Method::Get => Ok(match bucket.get(key)? {
            Some(value) => (200, String::from_utf8_lossy(&value).into_owned()),
            None => (404, "no such key\n".to_owned()),
        }),
        Method::Head => Ok((if bucket.exists(key)? { 200 } else { 404 }, String::new())),
        Method::Put => bucket.set(key, &sent(request)).map(|()| (200, String::new())),
        Method::Delete => bucket.delete(key).map(|()| (200, String::new())),
        _ => Ok((405, "GET, HEAD, PUT or DELETE\n".to_owned())),
    }
}

fn list(bucket: &Bucket, target: &Target) -> Answer {
    let page = bucket.list_keys(target.text("cursor").as_deref())?;
    let mut lines = page.keys;
    lines.extend(page.cursor.map(|cursor| format!("cursor: {cursor}")));
    Ok((200, lines.join("\n")))
}

/// It may be negative.
fn by(target: &Target) -> i64 {
    target.text("by").and_then(|by| by.parse().ok()).unwrap_or(1)
}

fn swap(bucket: &Bucket, key: &str, target: &Target, request: &IncomingRequest) -> Answer {
    const TRIES_MAX: u32 = 10;
    let value = sent(request);
    let mut cas = Cas::new(bucket, key)?;
    let before = cas.current()?;
    if let Some(meanwhile) = target.text("meanwhile") {
        bucket.set(key, meanwhile.as_bytes())?;
    }
    for tries in 1..=TRIES_MAX {
        match atomics::swap(cas, &value) {
            Ok(()) => {
                let before = before.map_or("none".into(), |value| {
                    String::from_utf8_lossy(&value).into_owned()
                });
                return Ok((200, format!("before: {before}\ntries: {tries}\n")));
            }
            Err(CasError::CasFailed(fresh)) => cas = fresh,
            Err(CasError::StoreError(error)) => return Err(error),
        }
    }
    Ok((409, format!("others won {TRIES_MAX} times\n")))
}

fn many(bucket: &Bucket, method: &Method, target: &Target, request: &IncomingRequest) -> Answer {
    let keys = target.text("keys").unwrap_or_default();
    let keys: Vec<_> = keys.split(',').map(str::to_owned).collect();
    match method {
        Method::Get => {
            let found = batch::get_many(bucket, &keys)?;
            let lines: Vec<_> = found
                .into_iter()
                .map(|pair| match pair {
                    Some((key, value)) => format!("{key}={}", String::from_utf8_lossy(&value)),
                    None => "none".to_owned(),
                })
                .collect();
            Ok((200, lines.join("\n")))
        }
        Method::Put => {
            let value = sent(request);
            let pairs: Vec<_> = keys.into_iter().map(|key| (key, value.clone())).collect();
            batch::set_many(bucket, &pairs).map(|()| (200, String::new()))
        }
        Method::Delete => batch::delete_many(bucket, &keys).map(|()| (200, String::new())),
        _ => Ok((405, "GET, PUT or DELETE\n".to_owned())),
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
