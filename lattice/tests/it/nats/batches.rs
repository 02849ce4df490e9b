//! Calls that go together in one message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{FutureExt as _, poll};
use weft_lattice::envelope::{Batch, Failure, Reply, Request};
use weft_lattice::rpc::{Answer, Candidate, Targets};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};
use weft_lattice::transport::{Handler, Serving, Transport, TransportError};

use super::LONG;
use super::server::{Mode, Proxy, Server};
use crate::envelope;
use crate::hosts::{Host, call};

/// So many that most of them go with others.
const AT_ONCE: usize = 256;

/// `AT_ONCE` calls at once, each with a body of its own.
async fn call_at_once(a: &Host, targets: &Targets, function: &str) -> Vec<(Bytes, Result<Answer, Failure>)> {
    let calls = (0..AT_ONCE).map(|number| {
        let body = Bytes::from(number.to_string());
        let called = a.client.call(targets, call(function, body.clone(), LONG, None));
        called.map(|outcome| (body, outcome))
    });
    future::join_all(calls).await
}

#[tokio::test]
async fn many_calls_share_messages_and_each_gets_its_own_answer_once() {
    let server = Server::start("");
    let (near, far) = (server.join("h1").await, server.join("h2").await);
    let a = Host::start(near.clone(), "one", "h1").await;
    let b = Host::start(far.clone(), "one", "h2").await;
    // What is known of a host is known for as long as there is a target on it.
    let targets = a.targets(&[&b]);
    a.call(&targets, "echo", "first", LONG).await.unwrap();
    for function in ["echo", "sleep", "pause"] {
        for (body, outcome) in call_at_once(&a, &targets, function).await {
            assert_eq!(outcome.unwrap().body, body);
        }
    }
    for (body, executed) in b.echo.bodies.lock().unwrap().iter() {
        let wanted = if body == "first" { 1 } else { 3 };
        assert_eq!(*executed, wanted, "{body:?}");
    }
    for stats in [near.stats(), far.stats()] {
        assert!(
            stats.batched > 2 * stats.batches && stats.batches > 0,
            "{stats:?}"
        );
        assert_eq!((stats.strays, stats.unanswerable), (0, 0));
    }
}

#[tokio::test]
async fn a_long_answer_comes_among_the_others() {
    let server = Server::start("max_payload: 65536");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let targets = a.targets(&[&b]);
    a.call(&targets, "echo", "first", LONG).await.unwrap();
    let lens: Vec<usize> = (0..64).map(|at| 1_000 * (at % 61)).collect();
    let calls = lens
        .iter()
        .map(|len| a.call(&targets, "large", len.to_string(), LONG));
    for (outcome, len) in std::iter::zip(future::join_all(calls).await, &lens) {
        assert_eq!(outcome.unwrap().body.len(), *len);
    }
    // Of long requests each goes alone, and a batch of short ones is not too long for the server.
    let bodies: Vec<Bytes> = lens.iter().map(|len| vec![7; *len].into()).collect();
    let calls = bodies
        .iter()
        .map(|body| a.call(&targets, "echo", body.clone(), LONG));
    for (outcome, body) in std::iter::zip(future::join_all(calls).await, &bodies) {
        assert_eq!(outcome.unwrap().body, body);
    }
}

#[tokio::test]
async fn calls_that_go_together_to_a_host_that_is_not_there_did_not_start() {
    let server = Server::start("");
    let near = server.join("h1").await;
    let a = Host::start(near.clone(), "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let targets = a.targets(&[&b]);
    for _ in 0..2 {
        for (_, outcome) in call_at_once(&a, &targets, "echo").await {
            outcome.unwrap();
        }
    }
    let executed = b.echo.executed.load(Ordering::Relaxed);
    let sent = near.stats().batches;
    assert!(sent > 0);
    b.served.0.finish().await;
    let calls = (0..AT_ONCE).map(|_| a.call(&targets, "echo", "x", LONG));
    for outcome in future::join_all(calls).await {
        let failure = outcome.unwrap_err();
        assert!(!failure.may_have_started, "{failure}");
    }
    assert!(near.stats().batches > sent);
    assert_eq!(b.echo.executed.load(Ordering::Relaxed), executed);
}

/// A host of a version that knows no batches: of each request it says whether it could be read.
struct Older;

impl Handler for Older {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let request = Request::decode(&request).unwrap();
        let reply = Reply {
            id: request.id,
            outcome: Ok(request.body),
            ..envelope::reply()
        };
        // Not at once, so that many wait.
        async move {
            tokio::task::yield_now().await;
            Some(reply.encode())
        }
        .boxed()
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        None
    }
}

#[tokio::test]
async fn a_host_that_does_not_say_that_it_takes_batches_gets_none() {
    let server = Server::start("");
    let (near, far) = (server.join("h1").await, server.join("h2").await);
    let a = Host::start(near.clone(), "one", "h1").await;
    let older = Address::new("h2", 1).unwrap();
    let calls = Subjects::new("one")
        .unwrap()
        .call(older.as_str(), "default")
        .unwrap();
    let concurrency = AT_ONCE;
    let _served = far
        .serve(calls, Serving { concurrency }, Arc::new(Older))
        .await
        .unwrap();
    let candidate = Candidate {
        address: older,
        place: a.place.clone(),
        revision: 1,
    };
    let targets = a.client.targets("default", &[candidate], vec![(1, 1)]).unwrap();
    let calls = (0..AT_ONCE).map(|_| a.call(&targets, "echo", "x", LONG));
    for outcome in future::join_all(calls).await {
        assert_eq!(outcome.unwrap().body, "x");
    }
    assert_eq!(near.stats().batches, 0);
}

#[tokio::test]
async fn on_a_full_connection_too_much_is_refused_and_who_gives_up_takes_nobody_along() {
    let server = Server::start("");
    let proxy = Proxy::to(server.port).await;
    let held = NatsSettings::new(vec![format!("nats://{}", proxy.address)], "h1", Role::Calls);
    let near = NatsTransport::connect(&held).await.unwrap();
    let a = Host::start(near.clone(), "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let targets = a.targets(&[&b]);
    a.call(&targets, "echo", "first", LONG).await.unwrap();
    proxy.set(Mode::Hold);
    // For nobody, so that it costs nothing later.
    let nobody = Subjects::new("one").unwrap().call("nobody", "default").unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        let mut request = near.request_in_batch(&nobody, vec![0; 15_000].into(), LONG);
        match poll!(&mut request) {
            Poll::Ready(outcome) => break outcome.unwrap_err(),
            Poll::Pending => waiting.push(request),
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(refused, TransportError::Full), "{refused}");
    drop(waiting);
    // They find room when what waited has been looked at.
    let mut calls = Vec::new();
    while calls.len() < AT_ONCE {
        let mut called = Box::pin(a.call(&targets, "echo", "x", LONG));
        match poll!(&mut called) {
            Poll::Ready(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Poll::Pending => calls.push(called),
        }
    }
    let stay = calls.split_off(AT_ONCE / 2);
    drop(calls);
    proxy.set(Mode::Pass);
    for outcome in future::join_all(stay).await {
        assert_eq!(outcome.unwrap().body, "x");
    }
}

#[tokio::test]
async fn a_batch_that_can_t_be_read_or_is_to_be_answered_elsewhere_runs_nothing() {
    let server = Server::start("");
    let transport = server.join("h2").await;
    let b = Host::start(transport.clone(), "one", "h2").await;
    let calls = Subjects::new("one")
        .unwrap()
        .call(b.address.as_str(), "default")
        .unwrap();
    let stranger = async_nats::connect(format!("nats://127.0.0.1:{}", server.port))
        .await
        .unwrap();
    let whole = Batch {
        parts: vec![(1, envelope::request().encode().unwrap())],
    };
    let messages = [
        // An inbox is no place for a batch's answers, nor is another lattice, nor what is no host's.
        ("weft.two.h.stranger.answers.7", whole.encode()),
        ("weft.one.h.stranger.call.7", whole.encode()),
        ("weft.one.raft.answers.7", whole.encode()),
        ("weft.one.h.stranger.answers.7", Bytes::from_static(b"\xff")),
        ("weft.one.h.stranger.answers.7", whole.encode().slice(..40)),
    ];
    let sent = messages.len() as u64;
    for (reply, message) in messages {
        stranger
            .publish_with_reply(calls.as_str().to_owned(), reply, message)
            .await
            .unwrap();
    }
    while transport.stats().unanswerable < sent {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(b.echo.executed.load(Ordering::Relaxed), 0);
    assert_eq!((b.server.stats().malformed, transport.stats().batches), (0, 0));
}
