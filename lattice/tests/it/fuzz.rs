//! What the fuzz targets look for, with inputs of proptest: messages that are right, damaged at random.

#[expect(unreachable_pub, reason = "a crate of its own when it is fuzzed")]
#[path = "../../fuzz/src/lib.rs"]
mod checks;
#[path = "../../../compose/fuzz/src/damage.rs"]
mod damage;

use proptest::prelude::*;
use weft_lattice::codec::encode;

use self::damage::{damaged, damages};
use crate::codec::typed_values;
use crate::golden;

/// Heads of CBOR items: lengths that lie, lengths that are not told, tags, ends.
const WORDS: &[&[u8]] = &[
    b"\x00",
    b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x5f",
    b"\x7f",
    b"\x9f",
    b"\xbf",
    b"\xff",
    b"\x80",
    b"\x81",
    b"\xa0",
    b"\xa1",
    b"\xc0",
    b"\xd9\xd9\xf7",
    b"\xe0",
    b"\xf4",
    b"\xf6",
    b"\xf8\x20",
    b"\xf9\x7e\x00",
    b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\x62\xc3\x28",
    b"\x61v",
    b"\x62id",
    b"\x64args",
    b"\x1c",
];

const ENVELOPES: &[&str] = &[
    "request.hex",
    "request-smallest.hex",
    "request-newer.hex",
    "reply.hex",
    "reply-failed.hex",
    "reply-newer.hex",
];

const MESSAGES: &[&str] = &[
    "artifact-damaged.hex",
    "artifact-failed.hex",
    "artifact-fetch.hex",
    "artifact-have.hex",
    "artifact-part.hex",
    "artifact-read.hex",
    "asking-reply.hex",
    "batch.hex",
    "cancel.hex",
    "control-reply.hex",
    "credit-frame.hex",
    "data-frame.hex",
    "digest.hex",
    "end-frame.hex",
    "heartbeat.hex",
    "host-request.hex",
    "reset-frame.hex",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_damaged_value_is_refused_or_written_as_it_is_read((ty, value) in typed_values(), damages in damages()) {
        checks::value(&ty, &damaged(&encode(&ty, &value).unwrap(), WORDS, &damages));
    }

    #[test]
    fn a_damaged_envelope_is_refused_or_written_as_it_is_read(
        file in prop::sample::select(ENVELOPES), damages in damages(),
    ) {
        checks::envelope(&damaged(&golden(file), WORDS, &damages));
    }

    #[test]
    fn a_damaged_message_is_refused_or_written_as_it_is_read(
        file in prop::sample::select(MESSAGES), damages in damages(),
    ) {
        checks::message(&damaged(&golden(file), WORDS, &damages));
    }

    #[test]
    fn a_name_is_one_token_of_a_subject_or_refused(names in prop::array::uniform3("[a-zA-Z0-9_-]{1,66}|\\PC{0,6}|[.*> ]")) {
        let [lattice, host, namespace] = names;
        checks::subject(&lattice, &host, &namespace);
    }
}
