//! HTTP/1.1 at the front door, and bytes that are none.

use proptest::prelude::*;

use super::conversation::{conversation, status};
use super::damage::{damaged, damages};
use super::{Fuzzed, seeds};

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"%",
    b"%zz",
    b"%00",
    b"*",
    b"/",
    b"//",
    b"?",
    b"#",
    b"@",
    b":",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET ",
    b"CONNECT ",
    b"host: b\r\n",
    b"content-length: 0\r\n",
    b"content-length: 18446744073709551615\r\n",
    b"content-length: -1\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: chunked, identity\r\n",
    b"connection: close\r\n",
    b"connection: host\r\n",
    b"expect: 100-continue\r\n",
    b"upgrade: websocket\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"+1\r\n",
    b"x-forwarded-for: \xff\r\n",
    b"traceparent: 00-0-0-0\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"http://a@b:99999/",
];

#[test]
fn damaged_requests_are_refused_or_answered() {
    let host = Fuzzed::start(&[]);
    let inputs = (prop::sample::select(seeds("ingress")), damages())
        .prop_map(|(seed, damages)| damaged(&conversation(&seed), WORDS, &damages));
    host.batches(inputs, async |host, bytes| drop(host.tcp("http", bytes).await));
}

#[test]
fn bytes_that_are_no_tls_end_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["weft.test".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pair = format!(
        "{}:{}",
        file("cert.pem", made.cert.pem()),
        file("key.pem", made.signing_key.serialize_pem())
    );
    let host = Fuzzed::start(&["--https", "127.0.0.1:0", "--tls", &pair]);
    // Records of a handshake with any length and content, and no records.
    let record = (
        20..24_u8,
        prop::collection::vec(any::<u8>(), 0..200),
        any::<bool>(),
    )
        .prop_map(|(kind, body, lies)| {
            let len = if lies { u16::MAX } else { body.len() as u16 };
            let mut record = vec![kind, 3, 1];
            record.extend(len.to_be_bytes());
            record.extend(body);
            record
        });
    let records = prop::collection::vec(record, 1..20).prop_map(|records| records.concat());
    host.batches(records, async |host, bytes| drop(host.tcp("https", bytes).await));
}

/// What a proxy in front may read in another way than the host: refused, or read in the way of RFC 9112.
#[test]
fn requests_that_can_be_read_in_two_ways_are_refused() {
    let host = Fuzzed::start(&[]);
    let with = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{body}");
    let chunked = |body: &str| with("transfer-encoding: chunked", body);
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
    let host_is = |fields: &str| format!("GET /headers HTTP/1.1\r\n{fields}\r\n\r\n");
    let refused = [
        with("content-length: 3\r\ncontent-length: 4", "abcd"),
        with("content-length: 3, 3", "abc"),
        with("content-length: +3", "abc"),
        with("content-length: -3", "abc"),
        with("content-length: 0x3", "abc"),
        with("content-length:", "abc"),
        with("content-length: 18446744073709551616", "abc"),
        with("content-length : 3", "abc"),
        with("transfer-encoding: identity", "abc"),
        with("transfer-encoding: xchunked", "abc"),
        with("transfer-encoding: chunked, identity", "0\r\n\r\n"),
        with("x: a\r\n b", ""),
        with("x: a\0b", ""),
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\rhost: a\r\r".to_owned(),
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n".to_owned(),
        "GET /\r\n".to_owned(),
        target("/a\0b"),
        target("http://a@b/"),
        target("http://b/"),
        host_is("x: no host"),
        host_is("host:"),
        host_is("host: a\r\nhost: b"),
        host_is("host: a\r\nhost: a"),
        host_is("host: a/b"),
        host_is("host: user@a"),
        host_is("host: a?b#c"),
    ];
    let broken_off = [
        "-1\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "10000000000000000\r\nabc",
        "3\r\nabcd\r\n0\r\n\r\n",
    ];
    host.runtime.block_on(async {
        for request in &refused {
            let answer = host.tcp("http", request.as_bytes()).await;
            assert_eq!(
                status(&answer),
                Some(400),
                "{request:?}: {}",
                answer.escape_ascii()
            );
        }
        // The head is answered by then, and so the answer ends without an end.
        for body in broken_off {
            let answer = host.tcp("http", chunked(body).as_bytes()).await;
            let whole = answer.ends_with(b"0\r\n\r\n") && status(&answer) == Some(200);
            assert!(!whole, "{body:?}: {}", answer.escape_ascii());
        }
        // The encoding decides, and what comes after is not read: it may have been a body to someone.
        let both = with(
            "content-length: 3\r\ntransfer-encoding: chunked",
            "3\r\nabc\r\n0\r\n\r\n",
        ) + &target("/headers");
        let answer = String::from_utf8(host.tcp("http", both.as_bytes()).await).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        // Of three in a row, the one in the middle ends the connection.
        let row = target("/headers") + "BAD\0\r\n\r\n" + &target("/headers");
        let answer = String::from_utf8(host.tcp("http", row.as_bytes()).await).unwrap();
        let statuses: Vec<_> = answer.matches("HTTP/1.1 ").collect();
        assert!(statuses.len() == 2 && answer.contains("HTTP/1.1 400"), "{answer}");
        let long = host
            .tcp("http", target(&format!("/{}", "a".repeat(70_000))).as_bytes())
            .await;
        assert!(
            matches!(status(&long), Some(431 | 414)),
            "{}",
            long.escape_ascii()
        );
        let form = host.tcp("http", target("http://a/headers").as_bytes()).await;
        assert_eq!(status(&form), Some(200));
        host.is_well().await;
    });
}
