//! The wire, as others see it: golden files, docs/wire.md, and properties of what is read and written; and hosts that
//! talk over it, under faults and on a real server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod artifact;
mod codec;
mod envelope;
mod fuzz;
mod hosts;
mod messages;
mod nats;
mod simulation;
mod transport;
mod vectors;
mod wire_doc;

use std::path::{Path, PathBuf};

fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// Bytes from hex digits, with or without spaces.
fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    digits
        .chunks(2)
        .map(|pair| byte(pair).expect("hex digits"))
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

/// The bytes of a golden file; `#` begins a comment. They are of version 1 and do not change: what breaks one of them
/// is a new version of the wire.
fn golden(name: &str) -> Vec<u8> {
    let file = path("tests/golden").join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect();
    from_hex(&lines.concat())
}
