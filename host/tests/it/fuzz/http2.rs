//! HTTP/2 at the front door: floods, and frames in any order.

use proptest::prelude::*;

use super::Fuzzed;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field as HPACK writes it without a table. Names and values are short.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend(name.as_bytes());
    field.push(value.len() as u8);
    field.extend(value.as_bytes());
    field
}

fn head(method: &str, path: &str) -> Vec<u8> {
    [
        (":method", method),
        (":path", path),
        (":scheme", "http"),
        (":authority", "a"),
    ]
    .map(|(name, value)| field(name, value))
    .concat()
}

fn opened(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    bytes.extend(frames.into_iter().flatten());
    bytes
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![
        4 => Just(head("GET", "/headers")),
        2 => Just(head("POST", "/")),
        1 => Just([head("GET", "/"), field("host", "b")].concat()),
        1 => Just([head("POST", "/"), field("content-length", "3")].concat()),
        1 => Just([head("GET", "/"), field(":path", "/")].concat()),
        1 => Just(field("connection", "close")),
        1 => Just(head("CONNECT", "a:1")),
    ];
    let payload = prop_oneof![
        6 => head,
        2 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just(vec![0; 4]),
        1 => Just(vec![0x7f, 0xff, 0xff, 0xff]),
        1 => Just(vec![0, 4, 0xff, 0xff, 0xff, 0xff]),
        1 => Just(vec![0, 0, 0, 1, 16]),
        1 => Just(vec![b'x'; 17_000]),
    ];
    let stream =
        prop_oneof![8 => prop::sample::select(vec![1_u32, 3, 5, 7, 9]), 2 => 0..12_u32, 1 => any::<u32>()];
    let kind = prop_oneof![4 => Just(HEADERS), 3 => Just(DATA), 4 => 0..11_u8, 1 => any::<u8>()];
    let flags = prop_oneof![4 => Just(END_HEADERS | END_STREAM), 2 => Just(END_HEADERS), 2 => any::<u8>()];
    let one = (kind, flags, stream, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload));
    prop::collection::vec(one, 1..30).prop_map(opened)
}

#[test]
fn frames_in_any_order_end_their_stream_or_the_connection() {
    let host = Fuzzed::start(&[]);
    host.batches(frames(), async |host, bytes| drop(host.tcp("http", bytes).await));
}

#[test]
fn floods_of_frames_end_the_connection_or_change_nothing() {
    let host = Fuzzed::start(&[]);
    let get = || frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/headers"));
    let post = || frame(HEADERS, END_HEADERS, 1, &head("POST", "/count"));
    let begun = || frame(HEADERS, END_STREAM, 1, &head("GET", "/"));
    let many = |first: Vec<u8>, each: Vec<u8>, times: usize| opened([first, each.repeat(times)]);
    let large = field("x", &"y".repeat(100));
    let window = [0x7f, 0xff, 0xff, 0xff];
    let resets = (0..10_000).map(|n| 2 * n + 1).flat_map(|stream| {
        let head = frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &head("GET", "/headers"),
        );
        [head, frame(RESET, 0, stream, &[0, 0, 0, 8])]
    });
    // Each of these has to be ended by the host.
    let ended = [
        opened(resets),
        many(post(), frame(DATA, 0, 1, &[]), 50_000),
        many(begun(), frame(CONTINUATION, 0, 1, &large), 50_000),
        many(begun(), frame(CONTINUATION, 0, 1, &[]), 50_000),
        many(get(), frame(WINDOW_UPDATE, 0, 0, &window), 2),
        many(vec![], frame(WINDOW_UPDATE, 0, 0, &[0; 4]), 1),
        many(vec![], frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]), 1),
        many(vec![], frame(DATA, 0, 1, &[0; 20_000]), 1),
        many(vec![], frame(HEADERS, 5, 1, &[0xff; 6]), 1),
        many(vec![], frame(HEADERS, 5, 2, &head("GET", "/")), 1),
    ];
    // And these are answered one by one, or not at all.
    let borne = [
        many(get(), frame(SETTINGS, 0, 0, &[]), 10_000),
        many(get(), frame(PING, 0, 0, &[7; 8]), 10_000),
        many(vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16]), 10),
        many(get(), frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16]), 10_000),
        many(get(), frame(0xee, 0xff, 0x7fff_ffff, &[1; 1000]), 1_000),
    ];
    host.runtime.block_on(async {
        for bytes in ended {
            const GOAWAY: u8 = 7;
            let answer = host.tcp("http", &bytes).await;
            // A reset may overtake the word of farewell.
            let told = kinds(&answer).contains(&GOAWAY);
            assert!(
                told || answer.len() < 200,
                "{} bytes, {:?}",
                answer.len(),
                kinds(&answer)
            );
        }
        for bytes in borne {
            host.tcp("http", &bytes).await;
        }
        host.is_well().await;
    });
}

/// The kinds of an answer's frames.
fn kinds(mut answer: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, rest @ ..] = answer {
        kinds.push(*kind);
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        answer = rest.get(5 + len..).unwrap_or_default();
    }
    kinds
}
