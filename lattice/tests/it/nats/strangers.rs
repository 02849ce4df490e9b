//! Messages that no host wrote, on every subject that a host reads; and hosts of other versions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_lattice::envelope::{
    ArtifactReply, ArtifactRequest, Control, Digest, EnvelopeError, FailureKind, Frame, Heartbeat, Reply,
    Request,
};
use weft_lattice::membership::Membership;
use weft_lattice::subject::{Subject, Subjects};
use weft_lattice::transport::nats::NatsTransport;
use weft_lattice::transport::{Handler, Serving, Transport, TransportError};

use super::LONG;
use super::server::Server;
use crate::artifact::{bytes, holder};
use crate::hosts::Host;
use crate::{envelope, messages};

/// What is as long as a message may be.
const FULL: usize = 1 << 20;

/// How long a request waits that nobody answers.
const UNANSWERED: Duration = Duration::from_millis(500);

/// Bytes that are nothing, and each kind of message spoilt in many ways.
fn garbage() -> Vec<Bytes> {
    let mut all = vec![
        Bytes::new(),
        Bytes::from_static(&[0xff; 64]),
        Bytes::from_static(&[0xbf, 0x61, b'v']),
        // Arrays in arrays, and texts that say that they are longer than anything is.
        vec![0x9b; FULL].into(),
        vec![0x81; FULL].into(),
        Bytes::from_static(&[0xa1, 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ];
    let mut rng = StdRng::seed_from_u64(5);
    let mut whole: Vec<Bytes> = messages::messages().into_iter().map(|(_, bytes)| bytes).collect();
    whole.push(envelope::request().encode().unwrap());
    for bytes in whole {
        // Of other versions.
        for version in [0, 2, 23] {
            all.push(of_version(&bytes, version));
        }
        for _ in 0..10 {
            let mut spoilt = bytes.to_vec();
            let at = rng.random_range(0..spoilt.len());
            spoilt[at] = rng.random();
            all.push(spoilt.into());
            all.push(bytes.slice(..rng.random_range(0..bytes.len())));
        }
        // Twice as long as it says, and longer than any.
        all.push([&bytes[..], &bytes].concat().into());
        let mut long = bytes.to_vec();
        long.resize(FULL, 0);
        all.push(long.into());
    }
    all
}

/// `message` as another version might have written it: `v` is the first field of each.
fn of_version(message: &Bytes, version: u8) -> Bytes {
    let mut other = message.to_vec();
    let at = other.windows(2).position(|pair| pair == [0x61, b'v']).unwrap();
    other[at + 2] = version;
    other.into()
}

/// Those of `all` that `read` refuses: the others are what a host might say.
fn refused<T>(all: &[Bytes], read: impl Fn(&Bytes) -> Result<T, EnvelopeError>) -> Vec<Bytes> {
    all.iter().filter(|bytes| read(bytes).is_err()).cloned().collect()
}

async fn ask_all(
    from: &NatsTransport,
    subject: &Subject,
    all: &[Bytes],
    wait: Duration,
) -> Vec<Result<Bytes, TransportError>> {
    future::join_all(
        all.iter()
            .map(|message| from.request(subject, message.clone(), wait)),
    )
    .await
}

#[tokio::test]
async fn strangers_messages_on_every_subject_do_no_harm() {
    let server = Server::start("");
    let (transport, stranger) = (server.join("h2").await, server.join("stranger").await);
    let subjects = Subjects::new("one").unwrap();
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(transport.clone(), "one", "h2").await;
    let open = [
        subjects.api_read("default").unwrap(),
        subjects.api_write("default").unwrap(),
        subjects.front("default", "shop", "catalog").unwrap(),
    ];
    let served = b.server.serve_clients(&transport, &subjects).await.unwrap();
    let artifacts = holder(transport.clone(), "h2").await;
    let (shared, address): (Arc<dyn Transport>, _) = (Arc::new(transport.clone()), b.address.clone());
    let membership = Membership::start(shared, subjects.clone(), address, "eu", true, Bytes::new());
    let membership = membership.await.unwrap();
    while !membership.stats().digester {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let members = membership.members();
    let (garbage, name) = (garbage(), b.address.as_str());

    let requests = refused(&garbage, Request::decode);
    let calls = subjects.call(name, "default").unwrap();
    for subject in open.iter().chain([&calls]) {
        for reply in ask_all(&stranger, subject, &requests, LONG).await {
            let failure = Reply::decode(&reply.unwrap()).unwrap().outcome.unwrap_err();
            assert!(!failure.may_have_started, "{failure}");
            assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
        }
    }
    let controls = refused(&garbage, Control::decode);
    let control = subjects.control(name).unwrap();
    for reply in ask_all(&stranger, &control, &controls, UNANSWERED).await {
        assert!(matches!(reply, Err(TransportError::Timeout { .. })), "{reply:?}");
    }
    let of_artifacts = refused(&garbage, ArtifactRequest::decode);
    let artifact = subjects.artifact(artifacts.address.as_str()).unwrap();
    for reply in ask_all(&stranger, &artifact, &of_artifacts, LONG).await {
        let reply = ArtifactReply::decode(&reply.unwrap()).unwrap();
        assert!(matches!(reply, ArtifactReply::Failed(_)), "{reply:?}");
    }
    let frames = refused(&garbage, Frame::decode);
    let published = [
        (subjects.stream(name).unwrap(), &frames),
        (
            subjects.heartbeat("eu", name).unwrap(),
            &refused(&garbage, Heartbeat::decode),
        ),
        (
            subjects.heartbeat("eu", "stranger").unwrap(),
            &refused(&garbage, Heartbeat::decode),
        ),
        (subjects.view("eu").unwrap(), &refused(&garbage, Digest::decode)),
    ];
    for (subject, messages) in &published {
        for message in *messages {
            stranger.publish(subject, message.clone()).await.unwrap();
        }
    }
    // What is longer is not sent at all.
    let longer = Bytes::from(vec![0; FULL + 1]);
    let sent = stranger.request(&calls, longer.clone(), LONG).await;
    assert!(
        matches!(
            sent,
            Err(TransportError::TooLarge {
                may_have_started: false,
                ..
            })
        ),
        "{sent:?}"
    );
    let sent = stranger.publish(&published[0].0, longer).await;
    assert!(matches!(sent, Err(TransportError::TooLarge { .. })), "{sent:?}");

    let answer = a.call(&a.targets(&[&b]), "echo", "x", LONG).await.unwrap();
    assert_eq!(answer.body, "x");
    assert_eq!(b.echo.executed.load(std::sync::atomic::Ordering::Relaxed), 1);
    let malformed = 4 * requests.len() + controls.len();
    assert_eq!(b.server.stats().malformed, malformed as u64);
    while b.streams.stats().strays < frames.len() as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(b.streams.stats().strays, frames.len() as u64);
    let digest = artifacts.store.put(bytes(1_000_000));
    let other = holder(server.join("h3").await, "h3").await;
    other
        .artifacts
        .fetch(digest, std::slice::from_ref(&artifacts.address))
        .await
        .unwrap();
    assert_eq!(membership.members(), members);
    assert!(!membership.stats().blind && membership.stats().digester);
    let stats = transport.stats();
    assert_eq!(
        (stats.disconnects, stats.slow_consumers, stats.server_errors),
        (0, 0, 0)
    );
    drop(served);
}

#[tokio::test]
async fn a_request_of_another_version_is_refused_and_its_sender_told_which_is_known() {
    let server = Server::start("");
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let other = server.join("other").await;
    let calls = Subjects::new("one")
        .unwrap()
        .call(b.address.as_str(), "default")
        .unwrap();
    let request = envelope::request().encode().unwrap();
    for version in [0, 2] {
        let reply = other
            .request(&calls, of_version(&request, version), LONG)
            .await
            .unwrap();
        let failure = Reply::decode(&reply).unwrap().outcome.unwrap_err();
        assert_eq!(
            (failure.kind, failure.may_have_started),
            (FailureKind::Unavailable, false)
        );
        assert!(
            failure.detail.contains(&format!("version {version}")) && failure.detail.contains("version 1"),
            "{failure}"
        );
    }
    assert_eq!((b.server.stats().started, b.server.stats().malformed), (0, 2));
}

/// Answers as a host of another version might.
struct OfVersion(u8);

impl Handler for OfVersion {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let id = Request::decode(&request).unwrap().id;
        let reply = Reply {
            id,
            ..envelope::reply()
        };
        future::ready(Some(of_version(&reply.encode(), self.0))).boxed()
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        None
    }
}

#[tokio::test]
async fn a_reply_of_another_version_is_a_failure_of_a_call_that_may_have_run() {
    let server = Server::start("");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = server.join("h2").await;
    let subjects = Subjects::new("one").unwrap();
    let subject = subjects.provider("default", "test", "echo").unwrap();
    for version in [0, 2] {
        let serving = Serving { concurrency: 1 };
        let served = b
            .serve(subject.clone(), serving, Arc::new(OfVersion(version)))
            .await
            .unwrap();
        let failure = a
            .call(&a.client.at_subject(subject.clone()), "echo", "x", LONG)
            .await
            .unwrap_err();
        assert_eq!(
            (failure.kind, failure.may_have_started),
            (FailureKind::Unavailable, true)
        );
        assert!(
            failure.detail.contains(&format!("version {version}")),
            "{failure}"
        );
        served.finish().await;
    }
}
