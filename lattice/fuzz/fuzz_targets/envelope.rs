//! Any bytes as an envelope: refused, or read and then written as something that is read as the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weft_lattice::envelope::{Reply, Request};

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(request) = Request::decode(&bytes) {
        let written = request.encode().expect("what was read is within the bounds");
        assert_eq!(Request::decode(&written), Ok(request));
    }
    if let Ok(reply) = Reply::decode(&bytes) {
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }
});
