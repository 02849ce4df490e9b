//! Any bytes as a message between hosts: refused, or read and then written as something that is read as the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weft_lattice::envelope::{Control, ControlReply, Digest, Frame, Heartbeat};

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(frame) = Frame::decode(&bytes) {
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
    if let Ok(control) = Control::decode(&bytes) {
        assert_eq!(Control::decode(&control.encode()), Ok(control));
    }
    if let Ok(reply) = ControlReply::decode(&bytes) {
        assert_eq!(ControlReply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(heartbeat) = Heartbeat::decode(&bytes) {
        assert_eq!(Heartbeat::decode(&heartbeat.encode()), Ok(heartbeat));
    }
    if let Ok(digest) = Digest::decode(&bytes) {
        assert_eq!(Digest::decode(&digest.encode()), Ok(digest));
    }
});
