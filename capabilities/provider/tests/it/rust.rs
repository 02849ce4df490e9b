//! With this crate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use weft_capabilities::{Bucket, KeyValueError, MemoryKeyValue, Sql, SqlValue};
use weft_lattice::transport::{Handler, Serving, Transport};
use weft_provider::{Auth, Backend, Running, ServeError, Settings, serve};

use weft_remote::RemoteSql;
use weft_sqlite::{SqliteOptions, SqliteSql};

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

const INSERT: &str = "INSERT INTO t VALUES (1)";

/// A database of its own for a run, with a table.
async fn database(folder: &tempfile::TempDir, name: &str) -> Arc<SqliteSql> {
    let database = SqliteSql::open(&folder.path().join(name), SqliteOptions::default()).unwrap();
    Sql::execute(&database, "CREATE TABLE t (i INTEGER)", Vec::new(), None)
        .await
        .unwrap();
    Arc::new(database)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_stays_with_its_run_though_several_share_the_subject() {
    let (nats, folder) = (server(), tempfile::tempdir().unwrap());
    let mut runs = Vec::new();
    for name in ["a", "b"] {
        runs.push(start(&nats, 0, Backend::Sql(database(&folder, name).await)).await);
    }
    let remote = RemoteSql::new(Host::join(&nats).await.remote("p0"));
    for _ in 0..16 {
        let mut transaction = remote.begin(None).await.unwrap();
        for n in 1..=4 {
            transaction.execute(INSERT, Vec::new()).await.unwrap();
            // Of another run's database it would see less.
            let rows = transaction
                .query("SELECT count(*) FROM t", Vec::new())
                .await
                .unwrap();
            assert_eq!(rows.rows, [[SqlValue::Integer(n)]]);
        }
        transaction.rollback().await.unwrap();
    }
    for run in &runs {
        assert!(run.stats().2.calls > 0, "both took their turns");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stops_lets_transactions_end_first() {
    let (nats, folder) = (server(), tempfile::tempdir().unwrap());
    let database = database(&folder, "a").await;
    let running = start(&nats, 0, Backend::Sql(database.clone())).await;
    let remote = RemoteSql::new(Host::join(&nats).await.remote("p0"));
    let mut transaction = remote.begin(None).await.unwrap();
    let stops = running.stop(LONG);
    let ends = async {
        // Until nothing new is taken.
        while remote.query("SELECT 1", Vec::new(), None).await.is_ok() {}
        transaction.execute(INSERT, Vec::new()).await.unwrap();
        transaction.commit().await.unwrap();
    };
    let (all, ()) = futures::future::join(stops, ends).await;
    assert!(all);
    let rows = Sql::query(&*database, "SELECT i FROM t", Vec::new(), None)
        .await
        .unwrap();
    assert_eq!(rows.rows, [[SqlValue::Integer(1)]]);
}
