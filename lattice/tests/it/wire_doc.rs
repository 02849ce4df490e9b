//! docs/wire.md tells the truth: every vector in it is what the code writes and reads.

use std::fs;

use bytes::Bytes;
use weft_lattice::codec::{Limits, decode, encode};
use weft_lattice::envelope::{FailureKind, Reply, Request};

use crate::messages::messages;
use crate::vectors::vectors;
use crate::{envelope, from_hex, path, to_hex};

fn doc() -> String {
    fs::read_to_string(path("../docs/wire.md")).expect("docs/wire.md is there")
}

/// The bytes of the block that begins with "```hex" and `name`.
fn block(doc: &str, name: &str) -> Bytes {
    let start = format!("```hex {name}\n");
    let after = doc
        .split_once(&start)
        .unwrap_or_else(|| panic!("docs/wire.md has no block {start:?}"))
        .1;
    from_hex(after.split_once("```").expect("a block has an end").0).into()
}

#[test]
fn the_table_of_values_has_each_vector_and_no_other() {
    let doc = doc();
    let rows: Vec<Vec<&str>> = doc
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |"))
        .map(|row| row.split("` | `").collect())
        .filter(|row: &Vec<&str>| row.len() == 3)
        .collect();
    let expected: Vec<String> = vectors()
        .iter()
        .map(|vector| {
            let bytes = encode(&vector.ty, &vector.value).unwrap();
            // Not compared as values, as NaN is not itself.
            let read = decode(&vector.ty, &bytes, &Limits::default()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{:?}", vector.value));
            format!(
                "| `{}` | `{}` | `{}` |",
                vector.type_text,
                vector.value_text,
                to_hex(&bytes)
            )
        })
        .collect();
    let written: Vec<String> = rows
        .iter()
        .map(|row| format!("| `{}` |", row.join("` | `")))
        .collect();
    assert_eq!(
        written,
        expected,
        "the table should be:\n{}\n",
        expected.join("\n")
    );
}

#[test]
fn the_envelopes_are_what_is_written_and_read() {
    let doc = doc();
    for (name, request) in [
        ("request", envelope::request()),
        ("smallest request", envelope::smallest_request()),
        ("front call", envelope::front_call()),
        ("tool request", envelope::tool_request()),
    ] {
        let bytes = request.encode().unwrap();
        assert_eq!(to_hex(&block(&doc, name)), to_hex(&bytes), "{name}");
        assert_eq!(Request::decode(&bytes).unwrap(), request);
    }
    for (name, reply) in [
        ("reply", envelope::reply()),
        ("failed reply", envelope::failed_reply()),
    ] {
        let bytes = reply.encode();
        assert_eq!(to_hex(&block(&doc, name)), to_hex(&bytes), "{name}");
        assert_eq!(Reply::decode(&bytes).unwrap(), reply);
    }
}

#[test]
fn the_other_messages_are_what_is_written_and_read() {
    let doc = doc();
    for (name, bytes) in messages() {
        assert_eq!(to_hex(&block(&doc, name)), to_hex(&bytes), "{name}");
    }
}

#[test]
fn every_kind_of_failure_is_told() {
    let doc = doc();
    for kind in FailureKind::ALL {
        assert!(
            doc.contains(&format!("| `{}` |", kind.as_str())),
            "docs/wire.md lacks {kind:?}"
        );
    }
}
