//! Calls `callee` over HTTP: `POST /bytes`, `GET /deep?n=10` and so on, a path a function.
//!
//! `/repeat?n=&len=` makes many calls inside one invocation and answers how long they took, for benchmarks.

wit_bindgen::generate!({ world: "caller", path: "../call" });

use std::io::Read as _;
use std::time::Instant;

use test::call::echo::{self, Colour, Everything, Point, Rights, Shape};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};
use weft_guest_support::{Body, Target, respond};

wasip2::http::proxy::export!(Caller);

struct Caller;

impl Guest for Caller {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = Target::of(&request);
        let number = |name: &str| u32::try_from(target.number(name, 0)).unwrap_or(u32::MAX);
        let answer = match (request.method(), target.path.as_str()) {
            (Method::Post, "/bytes") => {
                return respond_bytes(response_out, &echo::bytes(&sent(&request)));
            }
            (Method::Post, "/text") => match String::from_utf8(sent(&request)) {
                Ok(text) => echo::text(&text),
                Err(_) => return respond(response_out, 400, "the body is not UTF-8\n"),
            },
            (Method::Get, "/mix") => mixed(),
            (Method::Get, "/sum") => echo::sum(number("first"), &[1, 2, 3], Some(-4)).to_string(),
            (Method::Get, "/nothing") => {
                echo::nothing();
                "nothing".to_owned()
            }
            (Method::Get, "/refuse") => match echo::refuse("no reason") {
                Err(Shape::Named(reason)) => format!("refused: {reason}"),
                other => return respond(response_out, 500, &format!("unexpected: {other:?}\n")),
            },
            (Method::Get, "/trap") => {
                echo::trap();
                "returned".to_owned()
            }
            (Method::Get, "/burn") => {
                echo::burn();
                "returned".to_owned()
            }
            (Method::Get, "/hoard") => {
                echo::hoard();
                "returned".to_owned()
            }
            (Method::Get, "/wait") => echo::wait(number("ms")).to_string(),
            (Method::Get, "/deep") => echo::deep(number("n")).to_string(),
            (Method::Get, "/calls-before") => echo::calls_before().to_string(),
            (Method::Get, "/repeat") => repeated(number("n"), number("len")),
            _ => {
                return respond(
                    response_out,
                    404,
                    "There is nothing here; see caller/src/lib.rs.\n",
                );
            }
        };
        respond(response_out, 200, &format!("{answer}\n"));
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

fn respond_bytes(response_out: ResponseOutparam, bytes: &[u8]) {
    let mut body = Body::start(
        response_out,
        200,
        &[("content-type", b"application/octet-stream")],
    );
    if body.write(bytes).is_ok() {
        body.finish(None);
    }
}

/// `same`, or what was sent and what came back.
fn mixed() -> String {
    let sent = everything();
    let back = echo::mix(&sent);
    // The generated types can't be compared, but print all that they hold.
    let (sent, back) = (format!("{sent:?}"), format!("{back:?}"));
    if sent == back {
        "same".to_owned()
    } else {
        format!("sent {sent}\nback {back}")
    }
}

fn everything() -> Everything {
    let point = Point { x: -3, y: i32::MAX };
    Everything {
        flag: true,
        unsigned: (u8::MAX, u16::MAX, u32::MAX, u64::MAX),
        signed: (i8::MIN, i16::MIN, i32::MIN, i64::MIN),
        floats: (f32::MIN_POSITIVE, f64::NEG_INFINITY),
        letter: '\u{1F9F5}',
        text: "naïve\0text".to_owned(),
        bytes: (0..=u8::MAX).collect(),
        point,
        shapes: vec![
            Shape::Nothing,
            Shape::Circle(-0.0),
            Shape::Polygon(vec![point, Point { x: 0, y: 0 }]),
            Shape::Named(String::new()),
        ],
        colour: Colour::Blue,
        rights: Rights::READ | Rights::EXECUTE,
        maybe: Some(None),
        outcome: Err("an error".to_owned()),
        done: Ok(()),
        pairs: vec![("one".to_owned(), 1), ("two".to_owned(), 2)],
    }
}

/// The nanoseconds that `n` calls with `len` bytes took, all together.
fn repeated(n: u32, len: u32) -> String {
    let bytes = vec![7; len as usize];
    let start = Instant::now();
    for _ in 0..n {
        if echo::bytes(&bytes).len() != bytes.len() {
            return "a call returned something else".to_owned();
        }
    }
    start.elapsed().as_nanos().to_string()
}
