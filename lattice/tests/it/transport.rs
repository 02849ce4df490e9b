//! What every transport does, whatever it runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use weft_lattice::subject::{Subject, Subjects};
use weft_lattice::testing::sim::{Faults, Sim};
use weft_lattice::transport::memory::Hub;
use weft_lattice::transport::{Handler, Serving, Transport, TransportError};

const LONG: Duration = Duration::from_secs(20);

/// Answers with its name and the request; `wait` never, `none` not at all.
struct Echo {
    name: &'static str,
    running: Arc<AtomicUsize>,
}

impl Handler for Echo {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let (name, running) = (self.name, self.running.clone());
        match request.as_ref() {
            b"wait" => async move {
                running.fetch_add(1, Ordering::Relaxed);
                future::pending().await
            }
            .boxed(),
            b"none" => future::ready(None).boxed(),
            _ => async move {
                // Not in the first poll.
                tokio::task::yield_now().await;
                Some([name.as_bytes(), &request].concat().into())
            }
            .boxed(),
        }
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        Some(Bytes::from_static(b"shed"))
    }
}

/// Answers with the subject that the request came on.
struct Told;

impl Handler for Told {
    fn handle(&self, _: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        future::ready(None).boxed()
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        None
    }

    fn handle_on(&self, subject: &str, _: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        future::ready(Some(subject.to_owned().into())).boxed()
    }
}

fn echo(name: &'static str) -> Arc<Echo> {
    Arc::new(Echo {
        name,
        running: Arc::default(),
    })
}

async fn ask(
    transport: &dyn Transport,
    subject: &Subject,
    what: &'static str,
) -> Result<Bytes, TransportError> {
    transport
        .request(subject, Bytes::from_static(what.as_bytes()), LONG)
        .await
}

/// Asks until nobody serves any more: that takes a moment where a server is between.
async fn until_nobody_serves(transport: &dyn Transport, subject: &Subject) {
    let short = Duration::from_millis(500);
    for _ in 0..100 {
        let asked = transport.request(subject, Bytes::from_static(b"x"), short).await;
        if asked == Err(TransportError::NoResponders(subject.clone())) {
            return;
        }
    }
    panic!("somebody still serves {subject}");
}

/// Two hosts of the same lattice do what [`Transport`] says.
pub(crate) async fn conforms(a: &dyn Transport, b: &dyn Transport) {
    let subjects = Subjects::new("conformance").unwrap();
    let subject = subjects.call("h1", "default").unwrap();

    // Nobody serves: that is said, and at once.
    assert_eq!(
        ask(a, &subject, "x").await,
        Err(TransportError::NoResponders(subject.clone()))
    );

    // Who serves answers, also itself, and many at once, each to whom it belongs.
    let served = b
        .serve(subject.clone(), Serving { concurrency: 64 }, echo("b"))
        .await
        .unwrap();
    assert_eq!(ask(a, &subject, "x").await.unwrap(), "bx");
    assert_eq!(ask(b, &subject, "y").await.unwrap(), "by");
    let many = (0..50_u8).map(|number| a.request(&subject, vec![number].into(), LONG));
    for (number, answer) in (0..50_u8).zip(future::join_all(many).await) {
        assert_eq!(answer.unwrap()[..], [b'b', number]);
    }

    // Who serves many subjects is told which it was.
    let many = b.serve(subjects.fronts(), Serving { concurrency: 64 }, Arc::new(Told));
    let many = many.await.unwrap();
    let catalog = subjects.front("default", "shop", "catalog").unwrap();
    assert_eq!(ask(a, &catalog, "x").await.unwrap(), catalog.as_str());
    drop(many);
    until_nobody_serves(a, &catalog).await;

    // No answer in time may have started.
    let short = Duration::from_millis(100);
    for what in ["wait", "none"] {
        let asked = a
            .request(&subject, Bytes::from_static(what.as_bytes()), short)
            .await;
        assert!(asked.unwrap_err().may_have_started(), "{what}");
    }

    // The longest message goes both ways, and one more byte does not.
    let len = a.payload_len_max() - 1;
    let answer = a.request(&subject, vec![7; len].into(), LONG).await.unwrap();
    assert_eq!(answer.len(), len + 1);
    let long = a.request(&subject, vec![7; len + 2].into(), LONG).await;
    assert!(
        matches!(
            long,
            Err(TransportError::TooLarge {
                may_have_started: false,
                ..
            })
        ),
        "{long:?}"
    );

    // Beyond the places it is shed.
    let narrow = subjects.call("h2", "default").unwrap();
    let handler = echo("n");
    let running = handler.running.clone();
    let _narrow = b
        .serve(narrow.clone(), Serving { concurrency: 1 }, handler)
        .await
        .unwrap();
    let mut waits = ask(a, &narrow, "wait").boxed();
    while running.load(Ordering::Relaxed) == 0 {
        assert!((&mut waits).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ask(a, &narrow, "x").await.unwrap(), "shed");

    // Who stops serving is asked no more.
    drop(served);
    until_nobody_serves(a, &subject).await;

    // Two who serve share.
    let served = (
        a.serve(subject.clone(), Serving { concurrency: 64 }, echo("a"))
            .await
            .unwrap(),
        b.serve(subject.clone(), Serving { concurrency: 64 }, echo("b"))
            .await
            .unwrap(),
    );
    let answers = future::join_all((0..200).map(|_| ask(a, &subject, "x"))).await;
    let of_b = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap() == "bx")
        .count();
    assert!((1..200).contains(&of_b), "{of_b} of 200");
    drop(served);

    published(a, b, &subjects).await;
}

async fn published(a: &dyn Transport, b: &dyn Transport, subjects: &Subjects) {
    let beat = subjects.heartbeat("eu", "h1").unwrap();
    let mut own = a.subscribe(beat.clone(), 8).await.unwrap();
    let mut all = b.subscribe(subjects.heartbeats("eu").unwrap(), 8).await.unwrap();
    let mut other = b.subscribe(subjects.heartbeats("us").unwrap(), 8).await.unwrap();
    for number in 0..4_u8 {
        a.publish(&beat, vec![number].into()).await.unwrap();
    }
    for number in 0..4_u8 {
        assert_eq!(own.next().await.unwrap()[..], [number]);
        assert_eq!(all.next().await.unwrap()[..], [number]);
    }
    assert!(other.next().now_or_never().is_none());

    // Who is behind loses, and knows how much.
    for number in 0..20_u8 {
        a.publish(&beat, vec![number].into()).await.unwrap();
    }
    let last = subjects.heartbeat("us", "h1").unwrap();
    a.publish(&last, Bytes::from_static(b"last")).await.unwrap();
    assert_eq!(other.next().await.unwrap(), "last");
    while all.lost() < 12 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(all.next().await.unwrap()[..], [0]);
    assert_eq!(all.lost(), 12);
}

#[tokio::test]
async fn within_a_process_it_conforms() {
    let hub = Hub::new();
    conforms(&hub.join(), &hub.join()).await;
}

#[tokio::test(start_paused = true)]
async fn a_simulated_network_conforms() {
    let sim = Sim::new(1, Faults::default());
    conforms(&sim.join(), &sim.join()).await;
}
