//! The messages between hosts beside plain requests and replies: golden files, docs/wire.md, other versions, strangers.

use bytes::Bytes;
use proptest::prelude::*;
use weft_lattice::artifact::ArtifactDigest;
use weft_lattice::envelope::{
    ArtifactAsk, ArtifactReply, ArtifactRequest, Batch, Control, ControlReply, Digest, EnvelopeError,
    Failure, FailureKind, Frame, FrameKind, Heartbeat, InvocationId, Message, Record, Reply, Request, Side,
    Standing, StreamId,
};
use weft_lattice::subject::Address;

use crate::{envelope, golden, to_hex};

fn address(start: u64) -> Address {
    Address::new("eu-1", start).unwrap()
}

fn stream() -> StreamId {
    StreamId([7; 16])
}

fn host_request() -> Request {
    Request {
        from: Some(address(0xc0ffee)),
        echo_ms: Some(90_000),
        stream: Some(stream()),
        ..envelope::smallest_request()
    }
}

fn asking_reply() -> Reply {
    Reply {
        outcome: Err(Failure {
            kind: FailureKind::Unavailable,
            may_have_started: false,
            detail: "the caller's clock is not known here".to_owned(),
        }),
        clock_ms: Some(90_000),
        batches: true,
        leaving: true,
        ..envelope::reply()
    }
}

fn frame(side: Side, number: u64, kind: FrameKind) -> Frame {
    Frame {
        stream: stream(),
        side,
        number,
        kind,
    }
}

fn frames() -> [(&'static str, Frame); 4] {
    let data = FrameKind::Data(Bytes::from_static(&[1, 2, 3]));
    [
        ("data frame", frame(Side::Caller, 0, data)),
        ("end frame", frame(Side::Caller, 1, FrameKind::End)),
        ("credit frame", frame(Side::Callee, 0, FrameKind::Credit(262_144))),
        (
            "reset frame",
            frame(
                Side::Callee,
                0,
                FrameKind::Reset("its reader has gone".to_owned()),
            ),
        ),
    ]
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        address: address(0xc0ffee),
        number: 42,
        edition: 1,
        details: Bytes::from_static(b"zone=a"),
        controller: true,
        region: "eu".to_owned(),
        standing: Standing::Leaving,
        wants_all: true,
    }
}

fn digest() -> Digest {
    let record = |start, standing| Record {
        address: address(start),
        standing,
        edition: 1,
        details: Bytes::from_static(b"zone=a"),
        controller: false,
    };
    Digest {
        by: address(1),
        region: "eu".to_owned(),
        number: 7,
        all: true,
        hosts: vec![record(1, Standing::Alive), record(2, Standing::Suspect)],
    }
}

fn message() -> Message {
    Message {
        body: Bytes::from_static(&[1, 2, 3]),
        headers: vec![("color".to_owned(), "blue".to_owned())],
    }
}

fn batch() -> Batch {
    let reply = envelope::reply().encode();
    Batch {
        parts: vec![(7, reply), (300, envelope::failed_reply().encode())],
    }
}

fn artifact_requests() -> [(&'static str, ArtifactRequest); 3] {
    let digest = ArtifactDigest([0xab; 32]);
    let read = ArtifactAsk::Read {
        offset: 262_144,
        len: 262_144,
    };
    [
        ("artifact read", read),
        ("artifact fetch", ArtifactAsk::Fetch(address(0xc0ffee))),
        ("artifact damaged", ArtifactAsk::Damaged),
    ]
    .map(|(name, ask)| (name, ArtifactRequest { digest, ask }))
}

fn artifact_replies() -> [(&'static str, ArtifactReply); 3] {
    let data = Bytes::from_static(&[1, 2, 3]);
    let failed = ArtifactReply::failed(FailureKind::NotFound, "it is not here");
    [
        ("artifact part", ArtifactReply::Part { size: 262_147, data }),
        ("artifact have", ArtifactReply::Have(true)),
        ("artifact failed", failed),
    ]
}

/// Each message by its name in docs/wire.md, and what is read of it and written again.
pub(crate) fn messages() -> Vec<(&'static str, Bytes)> {
    let cancel = Control {
        cancel: Some(InvocationId([0x11; 16])),
    };
    let control_reply = ControlReply {
        load: 250,
        leaving: true,
    };
    let mut all = vec![
        ("host request", host_request().encode().unwrap()),
        ("asking reply", asking_reply().encode()),
        ("cancel", cancel.encode()),
        ("control reply", control_reply.encode()),
        ("heartbeat", heartbeat().encode()),
        ("digest", digest().encode()),
        ("message", message().encode()),
        ("batch", batch().encode()),
    ];
    all.extend(frames().map(|(name, frame)| (name, frame.encode())));
    all.extend(artifact_requests().map(|(name, request)| (name, request.encode())));
    all.extend(artifact_replies().map(|(name, reply)| (name, reply.encode())));
    assert_eq!(Request::decode(&all[0].1).unwrap(), host_request());
    assert_eq!(Reply::decode(&all[1].1).unwrap(), asking_reply());
    assert_eq!(Control::decode(&all[2].1).unwrap(), cancel);
    assert_eq!(ControlReply::decode(&all[3].1).unwrap(), control_reply);
    assert_eq!(Heartbeat::decode(&all[4].1).unwrap(), heartbeat());
    assert_eq!(Digest::decode(&all[5].1).unwrap(), digest());
    assert_eq!(Message::decode(&all[6].1).unwrap(), message());
    assert_eq!(Batch::decode(&all[7].1).unwrap(), batch());
    for (_, frame) in frames() {
        assert_eq!(Frame::decode(&frame.encode()).unwrap(), frame);
    }
    for (_, request) in artifact_requests() {
        assert_eq!(ArtifactRequest::decode(&request.encode()).unwrap(), request);
    }
    for (_, reply) in artifact_replies() {
        assert_eq!(ArtifactReply::decode(&reply.encode()).unwrap(), reply);
    }
    all
}

#[test]
fn what_version_1_wrote_is_read_and_written_for_ever() {
    for (name, bytes) in messages() {
        let file = format!("{}.hex", name.replace(' ', "-"));
        assert_eq!(to_hex(&bytes), to_hex(&golden(&file)), "{file}");
    }
}

/// The first byte of a map with one field more, and the field `"z": 7`.
fn newer(bytes: &Bytes) -> Bytes {
    let mut newer = bytes.to_vec();
    newer[0] += 1;
    newer.extend([0x61, b'z', 7]);
    newer.into()
}

#[test]
fn fields_of_a_later_version_are_ignored() {
    assert_eq!(Heartbeat::decode(&newer(&heartbeat().encode())), Ok(heartbeat()));
    assert_eq!(Digest::decode(&newer(&digest().encode())), Ok(digest()));
    assert_eq!(Message::decode(&newer(&message().encode())), Ok(message()));
    for (_, frame) in frames() {
        assert_eq!(Frame::decode(&newer(&frame.encode())), Ok(frame));
    }
    for (_, request) in artifact_requests() {
        assert_eq!(ArtifactRequest::decode(&newer(&request.encode())), Ok(request));
    }
    for (_, reply) in artifact_replies() {
        assert_eq!(ArtifactReply::decode(&newer(&reply.encode())), Ok(reply));
    }
    let unknown = Frame::decode(&newer(&frame(Side::Caller, 3, FrameKind::Other).encode())).unwrap();
    assert_eq!(unknown.kind, FrameKind::Other);
}

#[test]
fn a_host_of_a_digest_may_say_more_in_a_later_version() {
    let mut record = digest().encode().to_vec();
    // The last host is the last array of five before the region.
    let at = record
        .windows(2)
        .rposition(|pair| pair == [0x85, 0x75])
        .expect("a host");
    let end = record
        .windows(7)
        .position(|part| part == b"\x66region")
        .expect("a region");
    record[at] = 0x86;
    record.insert(end, 0xf6);
    assert_eq!(Digest::decode(&Bytes::from(record)), Ok(digest()));
}

#[test]
fn a_frame_is_one_thing() {
    let mut two = frame(Side::Caller, 0, FrameKind::End).encode().to_vec();
    two[0] += 1;
    two.extend(b"\x66credit\x01");
    assert!(matches!(
        Frame::decode(&Bytes::from(two)),
        Err(EnvelopeError::Field { .. })
    ));
}

proptest! {
    #[test]
    fn what_a_stranger_wrote_is_read_or_refused(bytes in any::<Vec<u8>>()) {
        let bytes = Bytes::from(bytes);
        let _ = (Frame::decode(&bytes), Heartbeat::decode(&bytes), Digest::decode(&bytes));
        let _ = (Control::decode(&bytes), ControlReply::decode(&bytes));
        let _ = (ArtifactRequest::decode(&bytes), ArtifactReply::decode(&bytes), Message::decode(&bytes));
    }

    #[test]
    fn a_spoilt_message_is_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        for (_, bytes) in messages() {
            let mut spoilt = bytes.to_vec();
            spoilt[at.index(bytes.len())] = byte;
            for bytes in [Bytes::from(spoilt), bytes.slice(..cut.index(bytes.len()))] {
                let _ = (Frame::decode(&bytes), Heartbeat::decode(&bytes), Digest::decode(&bytes));
                let _ = (Control::decode(&bytes), ControlReply::decode(&bytes));
                let _ = (ArtifactRequest::decode(&bytes), ArtifactReply::decode(&bytes), Message::decode(&bytes));
            }
        }
    }
}
