//! Envelopes: golden files, other versions, and bytes from strangers.

use bytes::Bytes;
use proptest::prelude::*;
use weft_lattice::codec::{Type, Value, encode_all};
use weft_lattice::envelope::{
    EnvelopeError, Failure, FailureKind, FieldError, HttpRequest, InvocationId, Reply, Request, StreamId,
    TEXT_LEN_MAX, Trace,
};
use weft_lattice::subject::Address;

use crate::{from_hex, golden, to_hex};

const ID: InvocationId = InvocationId([
    0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255,
]);

/// The example of docs/wire.md.
pub(crate) fn request() -> Request {
    let arguments = encode_all(
        "args",
        &[Type::String, Type::U32],
        &[Value::String("a-1".to_owned()), Value::U32(2)],
    );
    Request {
        id: ID,
        target: "default/shop/catalog".to_owned(),
        interface: "shop:catalog/items@1.0.0".to_owned(),
        function: "reserve".to_owned(),
        remaining_ms: 1_500,
        sent_ms: 86_400_000,
        from: None,
        echo_ms: None,
        stream: None,
        hops: 1,
        trace: Some(Trace {
            parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
            state: "vendor=1".to_owned(),
        }),
        caller: "default/shop/storefront".to_owned(),
        revision: Some(3),
        body: arguments.expect("arguments of their types").into(),
    }
}

/// A call by a client that is no host.
pub(crate) fn front_call() -> Request {
    Request {
        sent_ms: 0,
        hops: 0,
        trace: None,
        caller: "checkout".to_owned(),
        revision: None,
        ..request()
    }
}

/// What a tool asks.
pub(crate) fn tool_request() -> Request {
    let asked = HttpRequest {
        method: "GET".to_owned(),
        uri: "/v1/apps".to_owned(),
        secure: false,
        headers: Vec::new(),
        body: Some(Bytes::new()),
    };
    Request {
        target: "team/weft/api".to_owned(),
        interface: "weft:host/api@1.0.0".to_owned(),
        function: "handle".to_owned(),
        body: asked.encode().unwrap(),
        ..front_call()
    }
}

/// The same without what may be left out.
pub(crate) fn smallest_request() -> Request {
    Request {
        trace: None,
        revision: None,
        ..request()
    }
}

pub(crate) fn reply() -> Reply {
    let results = encode_all("result", &[Type::Bool], &[Value::Bool(true)]);
    Reply {
        id: ID,
        outcome: Ok(results.expect("results of their types").into()),
        load: 250,
        clock_ms: None,
        batches: false,
        leaving: false,
    }
}

pub(crate) fn failed_reply() -> Reply {
    Reply {
        id: ID,
        outcome: Err(Failure {
            kind: FailureKind::Overloaded,
            may_have_started: false,
            detail: "the queue of `default/shop/catalog` is full".to_owned(),
        }),
        load: 1_000,
        clock_ms: None,
        batches: false,
        leaving: false,
    }
}

/// `envelope` as a later version may write it: with fields that are not known here, before and after the known ones.
fn with_unknown_fields(envelope: &[u8]) -> Bytes {
    let fields = envelope[0] - 0xa0;
    let mut newer = vec![0xa0 + fields + 2];
    // "!": [{1: null}] of indefinite length, and "zzzzzzzzzz": 1.5 with a tag.
    newer.extend(from_hex("61 21 9f a1 01 f6 ff"));
    newer.extend(&envelope[1..]);
    newer.extend(from_hex(
        "6a 7a 7a 7a 7a 7a 7a 7a 7a 7a 7a c1 fb 3f f8 00 00 00 00 00 00",
    ));
    newer.into()
}

#[test]
fn what_version_1_wrote_is_read_and_written_for_ever() {
    for (file, request) in [
        ("request.hex", request()),
        ("request-smallest.hex", smallest_request()),
    ] {
        let bytes = Bytes::from(golden(file));
        assert_eq!(Request::decode(&bytes).unwrap(), request, "{file}");
        assert_eq!(to_hex(&request.encode().unwrap()), to_hex(&bytes), "{file}");
    }
    for (file, reply) in [("reply.hex", reply()), ("reply-failed.hex", failed_reply())] {
        let bytes = Bytes::from(golden(file));
        assert_eq!(Reply::decode(&bytes).unwrap(), reply, "{file}");
        assert_eq!(to_hex(&reply.encode()), to_hex(&bytes), "{file}");
    }
}

#[test]
fn fields_of_a_later_version_are_ignored() {
    assert_eq!(
        Request::decode(&Bytes::from(golden("request-newer.hex"))).unwrap(),
        request()
    );
    assert_eq!(
        Reply::decode(&Bytes::from(golden("reply-newer.hex"))).unwrap(),
        reply()
    );
    assert_eq!(
        golden("request-newer.hex"),
        with_unknown_fields(&request().encode().unwrap())
    );
    assert_eq!(golden("reply-newer.hex"), with_unknown_fields(&reply().encode()));
}

/// An envelope of these fields, in this order.
fn map(fields: &[(&str, &[u8])]) -> Bytes {
    let mut bytes = vec![0xa0 + u8::try_from(fields.len()).expect("few fields")];
    for (key, value) in fields {
        bytes.push(0x60 + u8::try_from(key.len()).expect("short keys"));
        bytes.extend(key.as_bytes());
        bytes.extend(*value);
    }
    bytes.into()
}

const ID_16: &[u8] = &[0x50, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

#[test]
fn a_version_that_is_not_known_is_refused_whatever_else_is_there() {
    assert_eq!(
        Request::decode(&map(&[("to", &[7]), ("v", &[2])])),
        Err(EnvelopeError::Version(2))
    );
    assert_eq!(
        Reply::decode(&map(&[("v", &[0])])),
        Err(EnvelopeError::Version(0))
    );
}

#[test]
fn fields_come_in_any_order_and_a_kind_of_failure_that_is_not_known_is_unavailable() {
    let reply = map(&[("load", &[1]), ("err", b"\x63new"), ("id", ID_16), ("v", &[1])]);
    let failure = Reply::decode(&reply).unwrap().outcome.unwrap_err();
    assert_eq!(
        (failure.kind, failure.may_have_started),
        (FailureKind::Unavailable, true)
    );
}

#[test]
fn what_is_wrong_with_a_field_is_told_by_its_name() {
    let text = |fields: &[(&str, &[u8])]| Reply::decode(&map(fields)).unwrap_err().to_string();
    assert_eq!(text(&[("id", ID_16)]), "the envelope's field `v` is missing");
    assert_eq!(text(&[("v", &[1])]), "the envelope's field `ok` is missing");
    assert_eq!(
        text(&[("v", &[1]), ("ok", &[0x40]), ("err", &[0x60])]),
        "the envelope's field `err` can't stand beside `ok`"
    );
    assert_eq!(
        text(&[("v", &[1]), ("ok", &[0x40]), ("ok", &[0x40])]),
        "the envelope's field `ok` is there twice"
    );
    assert_eq!(
        text(&[("v", &[1]), ("ok", &[0x40]), ("id", &[0x40])]),
        "the envelope's field `id` should be 16 bytes"
    );
    assert_eq!(
        text(&[("v", &[1]), ("ok", &[0x40]), ("id", ID_16), ("load", &[0x20])]),
        "the envelope's field `load` should be a whole number in its range"
    );
    let long = Request {
        caller: "c".repeat(TEXT_LEN_MAX + 1),
        ..request()
    };
    let problem = FieldError::TooLong(TEXT_LEN_MAX + 1);
    assert_eq!(long.encode(), Err(EnvelopeError::Field { field: "by", problem }));
}

#[test]
fn a_detail_that_is_too_long_is_cut_between_characters() {
    let mut reply = failed_reply();
    if let Err(failure) = &mut reply.outcome {
        failure.detail = format!("x{}", "ü".repeat(TEXT_LEN_MAX));
    }
    let read = Reply::decode(&reply.encode()).unwrap().outcome.unwrap_err();
    assert_eq!(read.detail.len(), TEXT_LEN_MAX - 1);
}

#[test]
fn the_body_is_a_part_of_the_message_and_not_a_copy() {
    let bytes = request().encode().unwrap();
    let body = Request::decode(&bytes).unwrap().body;
    assert!(bytes.as_ptr_range().contains(&body.as_ptr()));
}

fn requests() -> impl Strategy<Value = Request> {
    let texts = [(); 6].map(|()| any::<String>());
    let numbers = (
        any::<u64>(),
        any::<u64>(),
        any::<u8>(),
        any::<Option<u64>>(),
        any::<bool>(),
    );
    (any::<[u8; 16]>(), texts, numbers, any::<Vec<u8>>()).prop_map(|(id, texts, numbers, body)| {
        let [target, interface, function, caller, parent, state] = texts;
        let (remaining_ms, sent_ms, hops, revision, traced) = numbers;
        Request {
            id: InvocationId(id),
            target,
            interface,
            function,
            remaining_ms,
            sent_ms,
            from: traced.then(|| Address::new("h1", sent_ms).unwrap()),
            echo_ms: revision,
            stream: traced.then_some(StreamId(id)),
            hops,
            trace: traced.then_some(Trace { parent, state }),
            caller,
            revision,
            body: body.into(),
        }
    })
}

fn replies() -> impl Strategy<Value = Reply> {
    let failure =
        (0..7_usize, any::<bool>(), any::<String>()).prop_map(|(kind, may_have_started, detail)| Failure {
            kind: FailureKind::ALL[kind],
            may_have_started,
            detail,
        });
    let body = any::<Vec<u8>>().prop_map(Bytes::from);
    let outcome = prop_oneof![body.prop_map(Ok), failure.prop_map(Err)];
    (any::<[u8; 16]>(), outcome, any::<u32>()).prop_map(|(id, outcome, load)| Reply {
        id: InvocationId(id),
        outcome,
        load,
        clock_ms: (load % 2 == 0).then_some(load.into()),
        batches: load % 5 == 0,
        leaving: load % 3 == 0,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(request in requests(), reply in replies()) {
        let bytes = request.encode().unwrap();
        prop_assert_eq!(Request::decode(&bytes).unwrap(), request.clone());
        prop_assert_eq!(Request::decode(&with_unknown_fields(&bytes)).unwrap(), request);
        prop_assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
    }

    #[test]
    fn what_a_stranger_wrote_is_read_or_refused(bytes in any::<Vec<u8>>()) {
        let bytes = Bytes::from(bytes);
        let _ = (Request::decode(&bytes), Reply::decode(&bytes));
    }

    #[test]
    fn a_spoilt_envelope_is_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        for bytes in [request().encode().unwrap(), failed_reply().encode()] {
            let mut spoilt = bytes.to_vec();
            spoilt[at.index(bytes.len())] = byte;
            let spoilt = Bytes::from(spoilt);
            let _ = (Request::decode(&spoilt), Reply::decode(&spoilt));
            let cut = bytes.slice(..cut.index(bytes.len()));
            prop_assert!(Request::decode(&cut).is_err() && Reply::decode(&cut).is_err());
        }
    }
}
