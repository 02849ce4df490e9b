//! The admin API over its socket: all its routes, with bodies that are nearly right.

use proptest::prelude::*;
use serde_json::Value;

use super::conversation::{admin_request, status};
use super::damage::{damaged, damages};
use super::{Fuzzed, seeds};

const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"0.5",
    b"\\ud800",
    b"\\u0000",
    b"\xff",
    b"\0",
    b"\n",
    b"\"actor\":\"callee\",",
    b"\"by\":\"\\n\",",
    b"\"timeout_ms\":18446744073709551615,",
    b"some(",
    b"ok",
    b"'\\u{110000}'",
    b"\"\"\"",
    b"//",
    b"inf",
    b"-inf",
    b"default/fuzz/",
    b"wasi:keyvalue",
    b"@0.2.0",
    b"..",
    b"%2f",
    b"%00",
    b"%ff",
    b"?",
    b"&",
    b"=",
    b"sha256:",
    b"apiVersion: weft/v1\\n",
    b"\\n  - ",
    b"&a ",
    b"*a",
];

#[test]
fn damaged_requests_are_refused_or_done() {
    let host = Fuzzed::start(&[]);
    let inputs = (prop::sample::select(seeds("admin")), damages())
        .prop_map(|(seed, damages)| admin_request(&damaged(&seed, WORDS, &damages)));
    host.batches(inputs, async |host, bytes| drop(host.socket(bytes).await));
}

#[test]
fn damaged_heads_are_refused_or_answered() {
    let host = Fuzzed::start(&["--admin", "127.0.0.1:0"]);
    let token = std::fs::read_to_string(host.weft.data.path().join("admin.token")).unwrap();
    let head = format!(
        "GET /v1/apps HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\norigin: a\r\ncontent-length: 2\r\n\r\n{{}}",
        token.trim()
    );
    let words: Vec<&[u8]> = WORDS
        .iter()
        .copied()
        .chain([
            b"\r\n".as_slice(),
            b"host: evil\r\n",
            b"transfer-encoding: chunked\r\n",
        ])
        .collect();
    let inputs = damages().prop_map(move |damages| damaged(head.as_bytes(), &words, &damages));
    host.batches(inputs, async |host, bytes| {
        host.tcp("admin_tcp", bytes).await;
        host.socket(bytes).await;
        host.tcp("monitor", bytes).await;
    });
}

/// Every route and every member of a body, with a value of each wrong kind.
#[test]
fn wrong_kinds_of_values_are_refused_everywhere() {
    let host = Fuzzed::start(&[]);
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let wrong = [
        "null".to_owned(),
        "true".to_owned(),
        "-1".to_owned(),
        "1e400".to_owned(),
        "18446744073709551616".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        deep("[", "]"),
        deep("{\"a\":", "}"),
        "\"\\ud800\"".to_owned(),
        format!("\"{}\"", "(".repeat(100_000)),
        format!("\"{}\"", "a".repeat(100_000)),
        "\"\\u0000\\u001b[31m\\u202e\"".to_owned(),
        "\"../../../etc/passwd\"".to_owned(),
    ];
    let mut requests = Vec::new();
    for seed in seeds("admin") {
        let text = String::from_utf8(seed).unwrap();
        let (line, body) = text.split_once('\n').unwrap();
        requests.extend(wrong.iter().map(|wrong| format!("{line}\n{wrong}")));
        let Ok(Value::Object(members)) = serde_json::from_str(body) else {
            continue;
        };
        for (name, value) in &members {
            // With the name twice, too.
            requests.push(format!(
                "{line}\n{{\"{name}\":{value},{}",
                body.trim_start_matches('{')
            ));
            for wrong in &wrong {
                let mut others: Vec<_> = members.iter().filter(|(other, _)| *other != name).collect();
                others.sort_by_key(|(other, _)| other.as_str());
                let others = others.iter().map(|(name, value)| format!(",\"{name}\":{value}"));
                requests.push(format!(
                    "{line}\n{{\"{name}\":{wrong}{}}}",
                    others.collect::<String>()
                ));
            }
        }
    }
    let openapi = include_str!("../../../../docs/openapi.json");
    let openapi: Value = serde_json::from_str(openapi).unwrap();
    for path in openapi["paths"].as_object().unwrap().keys() {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            for part in [
                "..%2f..%2fetc",
                "%ff",
                "%00",
                "a%20b",
                "%",
                "default",
                &"a".repeat(10_000),
            ] {
                let path = path
                    .replace("{digest}", part)
                    .replace("{namespace}", part)
                    .replace("{app}", part);
                requests.push(format!("{method} {path}?name={part}&tail={part}&follow=false\n"));
            }
        }
    }
    host.runtime.block_on(async {
        // The admin API takes 64 connections, and a busy host may still be closing those of the batch before.
        for batch in requests.chunks(30) {
            let answers = batch.iter().map(async |request| {
                let answer = host.socket(&admin_request(request.as_bytes())).await;
                let shown: String = request.chars().take(300).collect();
                let status = status(&answer).unwrap_or_else(|| panic!("no answer to {shown}"));
                assert!(status < 500, "{status} to {shown}");
                // Twice the longest that is right, the description of the API.
                assert!(answer.len() < 128 << 10, "{} bytes to {shown}", answer.len());
            });
            futures::future::join_all(answers).await;
        }
        host.is_well().await;
    });
}
