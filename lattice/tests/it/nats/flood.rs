//! More comes than is taken: what it comes for suffers, and nothing else.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::task::JoinSet;
use weft_lattice::envelope::{FailureKind, Frame, FrameKind, Side, StreamId};
use weft_lattice::stream::{Duplex, FRAME_DATA_MAX, StreamError, WINDOW};
use weft_lattice::subject::Subjects;
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};
use weft_lattice::transport::{Handler, Serving, Transport as _};

use super::LONG;
use super::server::{Mode, Proxy, Server, number};
use crate::hosts::{Host, call};

/// Brings 2 MB to `to` and back by a stream.
async fn copies(from: &Host, to: &Host) {
    const LEN: usize = 2 << 20;
    let (duplex, binder) = from.streams.prepare().unwrap();
    let Duplex {
        mut reader,
        mut writer,
    } = duplex;
    let targets = from.targets(&[to]);
    let copied = from
        .client
        .call(&targets, call("copy", Bytes::new(), LONG, Some(binder)));
    let write = async {
        writer.write(vec![7; LEN].into()).await.unwrap();
        writer.finish().await.unwrap();
    };
    let read = async {
        let mut len = 0;
        while let Some(data) = reader.read().await.unwrap() {
            len += data.len();
        }
        len
    };
    let (answer, (), len) = future::join3(copied, write, read).await;
    assert_eq!((answer.unwrap().body, len), (Bytes::from(LEN.to_string()), LEN));
}

async fn echoes(from: &Host, to: &Host) {
    for _ in 0..50 {
        let answer = from.call(&from.targets(&[to]), "echo", "x", LONG).await;
        assert_eq!(answer.unwrap().body, "x");
    }
}

/// Stands still with the first request until it is let go.
struct StandsStill(Mutex<mpsc::Receiver<()>>);

impl Handler for StandsStill {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        tokio::task::block_in_place(|| {
            // Let go once, it is let go for ever.
            let _ = self.0.lock().unwrap().recv();
        });
        future::ready(Some(request)).boxed()
    }

    fn shed(&self, request: Bytes) -> Option<Bytes> {
        Some(request)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_stands_still_loses_messages_which_is_counted_and_the_connection_goes_on() {
    let server = Server::start("");
    let own = server.join("h2").await;
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(own.clone(), "one", "h2").await;
    let stranger = server.join("stranger").await;
    let (let_go, still) = mpsc::channel();
    let subject = Subjects::new("one").unwrap().call("still", "default").unwrap();
    let serving = Serving { concurrency: 1 };
    let handler = Arc::new(StandsStill(Mutex::new(still)));
    let _served = own.serve(subject.clone(), serving, handler).await.unwrap();
    let first = stranger.request(&subject, Bytes::from_static(b"first"), LONG * 2);
    let flood = async {
        // The client holds a bounded number of messages for whoever serves.
        for _ in 0..100 {
            for _ in 0..10_000 {
                stranger
                    .publish(&subject, Bytes::from_static(b"x"))
                    .await
                    .unwrap();
            }
            stranger.round_trip().await.unwrap();
            if own.stats().slow_consumers > 0 {
                break;
            }
        }
        assert!(own.stats().slow_consumers > 0, "it is not counted");
        echoes(&a, &b).await;
        copies(&a, &b).await;
        drop(let_go);
    };
    let (first, ()) = future::join(first, flood).await;
    assert_eq!(first.unwrap(), "first");
    let again = stranger
        .request(&subject, Bytes::from_static(b"again"), LONG)
        .await;
    assert_eq!(again.unwrap(), "again");
    assert_eq!((own.stats().disconnects, own.stats().connects), (0, 1));
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_loses_its_own_messages_only() {
    let server = Server::start("");
    let own = server.join("h2").await;
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(own.clone(), "one", "h2").await;
    let stranger = server.join("stranger").await;
    let subject = Subjects::new("one").unwrap().view("eu").unwrap();
    const ALL: u64 = 20_000;
    let mut unread = own.subscribe(subject.clone(), 10).await.unwrap();
    let mut read = own.subscribe(subject.clone(), ALL as usize).await.unwrap();
    let flood = async {
        for number in 0..ALL {
            stranger
                .publish(&subject, number.to_string().into())
                .await
                .unwrap();
        }
    };
    future::join3(flood, echoes(&a, &b), copies(&a, &b)).await;
    for number in 0..ALL {
        assert_eq!(read.next().await.unwrap(), number.to_string());
    }
    while unread.lost() < ALL - 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((unread.lost(), read.lost()), (ALL - 10, 0));
    // What it has is what came first.
    assert_eq!(unread.next().await.unwrap(), "0");
    assert_eq!((own.stats().disconnects, own.stats().slow_consumers), (0, 0));
}

#[tokio::test]
async fn a_stream_that_is_sent_more_than_it_allows_is_reset_and_no_other() {
    let server = Server::start("");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let stranger = server.join("stranger").await;
    let id = StreamId::random();
    let mut flooded = b.streams.accept(id, &a.address).unwrap();
    let to = Subjects::new("one").unwrap().stream(b.address.as_str()).unwrap();
    let flood = async {
        for number in 0..10 * WINDOW / FRAME_DATA_MAX as u64 {
            let frame = Frame {
                stream: id,
                side: Side::Caller,
                number,
                kind: FrameKind::Data(vec![1; FRAME_DATA_MAX].into()),
            };
            stranger.publish(&to, frame.encode()).await.unwrap();
        }
    };
    future::join3(flood, echoes(&a, &b), copies(&a, &b)).await;
    let mut held = 0;
    let reset = loop {
        match flooded.reader.read().await {
            Ok(data) => held += data.unwrap().len() as u64,
            Err(reset) => break reset,
        }
    };
    assert!(held <= WINDOW, "it held {held} bytes");
    let StreamError::Reset(why) = reset else {
        panic!("{reset}")
    };
    assert!(why.contains("credit"), "{why}");
    assert_eq!(b.streams.stats().resets, 1);
}

#[tokio::test]
async fn a_host_that_the_server_gives_up_as_slow_connects_again_and_the_others_notice_nothing() {
    let server = Server::start("max_pending: 1048576\nwrite_deadline: \"1s\"");
    let proxy = Proxy::to(server.port).await;
    let slow = NatsSettings::new(vec![format!("nats://{}", proxy.address)], "h2", Role::Calls);
    let slow = NatsTransport::connect(&slow).await.unwrap();
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(slow.clone(), "one", "h2").await;
    let c = Host::start(server.join("h3").await, "one", "h3").await;
    let stranger = server.join("stranger").await;
    let to_b = Arc::new(a.targets(&[&b]));
    a.call(&to_b, "echo", "x", LONG).await.unwrap();
    proxy.set(Mode::Hold);
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let (client, to_b) = (a.client.clone(), to_b.clone());
        let call = call("echo", vec![0; 60_000].into(), Duration::from_secs(2), None);
        calls.spawn(async move { client.call(&to_b, call).await });
    }
    let frames = Subjects::new("one").unwrap().stream(b.address.as_str()).unwrap();
    let flood = async {
        while number(&server.says("/varz"), "slow_consumers") == 0 {
            stranger.publish(&frames, vec![0; 500_000].into()).await.unwrap();
            stranger.round_trip().await.unwrap();
        }
    };
    future::join3(flood, echoes(&a, &c), copies(&a, &c)).await;
    for outcome in calls.join_all().await {
        // Those that came when the server had given it up already found nobody.
        let failure = outcome.expect_err("its callee does not read");
        let kinds = [FailureKind::Deadline, FailureKind::Unavailable];
        assert!(kinds.contains(&failure.kind), "{failure}");
    }
    assert!(a.client.is_ejected(&b.address));
    proxy.set(Mode::Pass);
    a.until_answered_by(&b).await;
    copies(&a, &b).await;
    assert!(slow.stats().disconnects >= 1 && slow.stats().connects >= 2);
    assert_eq!(stranger.stats().disconnects, 0);
}
