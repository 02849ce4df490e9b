//! With this crate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use weft_capabilities::{Bucket, KeyValueError, MemoryKeyValue};
use weft_lattice::transport::{Handler, Serving, Transport};
use weft_provider::{Auth, Backend, Running, ServeError, Settings, serve};

use crate::{Host, STORES, name, password, server};

const LONG: Duration = Duration::from_secs(60);

fn memory() -> Backend {
    Backend::KeyValue(Arc::new(MemoryKeyValue::default()))
}

fn settings(nats: &weft_servers::Nats, provider: &str) -> Settings {
    Settings {
        auth: password("provider"),
        ..Settings::new(vec![nats.url()], "one", provider)
    }
}

async fn start(nats: &weft_servers::Nats, n: usize, backend: Backend) -> Running {
    serve(&settings(nats, &name(n)), backend).await.unwrap()
}

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract() {
    let nats = weft_servers::Nats::start("");
    let mut all = Vec::new();
    for n in 0..STORES {
        let settings = Settings::new(vec![nats.url()], "one", &name(n));
        all.push(serve(&settings, memory()).await.unwrap());
    }
    Host::join_as(&nats, Auth::None).await.conforms().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_rights_for_its_own_subject_it_serves_values_of_any_size() {
    let nats = server();
    let running = start(&nats, 0, memory()).await;
    let store = Host::join(&nats).await.store(0);
    for len in [0, 1, 1 << 20, 8 << 20] {
        let value = Bytes::from(vec![7; len]);
        store.set(&bucket(), "k", value.clone()).await.unwrap();
        assert_eq!(store.get(&bucket(), "k").await.unwrap(), Some(value));
    }
    assert_eq!(running.stats().0.server_errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_let_it_serve_nothing_else_and_say_nothing_elsewhere() {
    let nats = server();
    let refused = serve(&settings(&nats, "default/test/orders"), memory()).await;
    let error = refused.err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("weft.one.p.default.test.orders weft"), "{error}");

    let host = Host::join(&nats).await;
    let control = host.subjects.control("h1").unwrap();
    let serving = Serving { concurrency: 1 };
    let _served = host
        .transport
        .serve(control.clone(), serving, Arc::new(Fixed))
        .await
        .unwrap();
    let mut beats = host
        .transport
        .subscribe(host.subjects.heartbeats("eu").unwrap(), 8)
        .await
        .unwrap();
    let settings = weft_lattice::transport::nats::NatsSettings {
        auth: password("provider"),
        ..weft_lattice::transport::nats::NatsSettings::new(
            vec![nats.url()],
            "p0",
            weft_lattice::transport::nats::Role::Calls,
        )
    };
    let provider = weft_lattice::transport::nats::NatsTransport::connect(&settings)
        .await
        .unwrap();
    let asked = provider
        .request(&control, Bytes::new(), Duration::from_secs(2))
        .await;
    assert!(asked.is_err(), "{asked:?}");
    let beat = host.subjects.heartbeat("eu", "h1").unwrap();
    provider.publish(&beat, Bytes::new()).await.unwrap();
    let mut heard = provider.subscribe(host.subjects.views(), 8).await.unwrap();
    host.transport
        .publish(&host.subjects.view("eu").unwrap(), Bytes::new())
        .await
        .unwrap();
    host.transport.round_trip().await.unwrap();
    provider.round_trip().await.unwrap();
    host.transport.round_trip().await.unwrap();
    assert!(beats.next().now_or_never().is_none());
    assert!(heard.next().now_or_never().is_none());
}

struct Fixed;

impl Handler for Fixed {
    fn handle(&self, _: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        async { Some(Bytes::from_static(b"x")) }.boxed()
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        None
    }
}

#[tokio::test]
async fn what_it_lacks_is_told() {
    let nats = server();
    let none = Settings::new(vec![nats.url()], "one", "default/test/p0");
    assert!(matches!(
        serve(&none, memory()).await,
        Err(ServeError::Connect(_))
    ));
    let short = Settings::new(vec![nats.url()], "one", "carts");
    assert!(matches!(serve(&short, memory()).await, Err(ServeError::Name(_))));
    let wild = Settings::new(vec![nats.url()], "one", "default/*/carts");
    assert!(matches!(
        serve(&wild, memory()).await,
        Err(ServeError::Subject(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_one_that_stops_go_to_another_and_then_to_nobody() {
    let nats = server();
    let backend = memory();
    let (first, second) = (
        start(&nats, 0, backend.clone()).await,
        start(&nats, 0, backend).await,
    );
    let store = Host::join(&nats).await.store(0);
    for _ in 0..20 {
        store.increment(&bucket(), "n", 1).await.unwrap();
    }
    assert!(first.stats().1.started > 0 && second.stats().1.started > 0);
    assert!(first.stop(LONG).await);
    for _ in 0..20 {
        store.increment(&bucket(), "n", 1).await.unwrap();
    }
    assert!(second.stop(LONG).await);
    let error = store.increment(&bucket(), "n", 1).await.unwrap_err();
    assert!(
        matches!(&error, KeyValueError::Unavailable(why) if why.contains("nobody serves")),
        "{error}"
    );
}
