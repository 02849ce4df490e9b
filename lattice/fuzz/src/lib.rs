//! What holds of any bytes and names that this crate is given by strangers.
//!
//! Owns the properties and no inputs: the fuzz targets bring those of the fuzzer, `tests/it/fuzz.rs`, which has this
//! file as a module, those of proptest.

use bytes::Bytes;
use weft_lattice::codec::{Limits, Type, decode, encode};
use weft_lattice::envelope::{
    ArtifactReply, ArtifactRequest, Batch, Control, ControlReply, Digest, Frame, Heartbeat, Message, Reply,
    Request,
};
use weft_lattice::subject::{Subjects, TOKEN_LEN_MAX};

/// Any bytes as a value of a type: refused, or read and then written as something that reads as the same.
pub fn value(ty: &Type, bytes: &[u8]) {
    let limits = Limits {
        depth: 32,
        memory: 1 << 20,
    };
    let Ok(value) = decode(ty, bytes, &limits) else {
        return;
    };
    let written = encode(ty, &value).expect("what was read is of the type");
    let again = decode(ty, &written, &limits).expect("what was written can be read");
    assert_eq!(encode(ty, &again).expect("what was read is of the type"), written);
}

/// Any bytes as a request and as a reply: the same.
pub fn envelope(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(request) = Request::decode(&bytes) {
        let written = request.encode().expect("what was read is within the bounds");
        assert_eq!(Request::decode(&written), Ok(request));
    }
    if let Ok(reply) = Reply::decode(&bytes) {
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }
}

/// Any bytes as a message between hosts: the same.
pub fn message(bytes: &[u8]) {
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
    if let Ok(request) = ArtifactRequest::decode(&bytes) {
        assert_eq!(ArtifactRequest::decode(&request.encode()), Ok(request));
    }
    if let Ok(reply) = ArtifactReply::decode(&bytes) {
        assert_eq!(ArtifactReply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(message) = Message::decode(&bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    if let Ok(batch) = Batch::decode(&bytes) {
        assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
    }
    if let Ok(heartbeat) = Heartbeat::decode(&bytes) {
        assert_eq!(Heartbeat::decode(&heartbeat.encode()), Ok(heartbeat));
    }
    if let Ok(digest) = Digest::decode(&bytes) {
        assert_eq!(Digest::decode(&digest.encode()), Ok(digest));
    }
}

/// Any names as parts of a subject: refused, or one token each.
pub fn subject(lattice: &str, host: &str, namespace: &str) {
    let made = Subjects::new(lattice)
        .and_then(|of| Ok([of.call(host, namespace)?, of.front(namespace, host, host)?]));
    let Ok([call, front]) = made else {
        return;
    };
    assert_eq!(
        call.as_str().split('.').collect::<Vec<_>>(),
        ["weft", lattice, "h", host, "call", namespace]
    );
    assert_eq!(front.as_str().split('.').count(), 6);
    assert!(call.as_str().len() <= "weft..h..call.".len() + 3 * TOKEN_LEN_MAX);
}
