//! The backend against real servers.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use weft_capabilities::{Bucket, KeyValue, KeyValueError, Watch, conformance};
use weft_redis::{Deployment, OpenError, RedisKeyValue, RedisOptions};
use weft_servers::{Certificate, Proxy, Redis};

/// A bound for what has to become so.
const LONG: Duration = Duration::from_secs(60);

fn open(url: impl Into<String>) -> RedisKeyValue {
    RedisKeyValue::open(&RedisOptions::new(url)).unwrap()
}

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

/// Tries until it is done. Whatever fails meanwhile has to say that the server is away.
async fn once_it_answers<T>(mut attempt: impl AsyncFnMut() -> Result<T, KeyValueError>) -> T {
    let tries = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(KeyValueError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    tokio::time::timeout(LONG, tries)
        .await
        .expect("it never answers again")
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = Redis::start();
    let count = AtomicU32::new(0);
    conformance::key_value(|| {
        let database = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(open(format!("{}/{database}", server.url())))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgets_what_was_not_written_for_a_while() {
    let server = Redis::start();
    let count = AtomicU32::new(0);
    let open = |ttl| {
        let database = count.fetch_add(1, Ordering::Relaxed);
        let mut options = RedisOptions::new(format!("{}/{database}", server.url()));
        options.ttl = Some(ttl);
        RedisKeyValue::open(&options).unwrap()
    };
    let (long, short) = (Duration::from_secs(3_600), Duration::from_secs(1));
    conformance::key_value(|| Arc::new(open(long))).await;
    let store = open(short);
    conformance::forgets_values(&store, short).await;
    let bucket = Bucket::shared("b");
    store.set(&bucket, "number", "1".into()).await.unwrap();
    store.increment(&bucket, "number", i64::MAX).await.unwrap_err();
    tokio::time::sleep(short * 2).await;
    assert_eq!(
        store.get(&bucket, "number").await.unwrap(),
        None,
        "what failed kept it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_changes() {
    let server = Redis::start();
    let count = AtomicU32::new(0);
    conformance::tells_changes(|| {
        let database = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(open(format!("{}/{database}", server.url())))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_keeps_what_the_server_tells_already_ends_with_its_connection_and_needs_the_right_to_set_it()
{
    let mut server = Redis::start_with(&["--notify-keyspace-events", "Elx"]);
    let store = open(server.url());
    let watch = || Watch::new("", "g");
    let mut changes = store.watch(&bucket(), watch()).await.unwrap();
    let told = server.cli(&["config", "get", "notify-keyspace-events"]);
    for kind in ["E", "l", "x", "K", "$", "g", "e"] {
        assert!(told.contains(kind), "{told}");
    }
    server.kill();
    let over = tokio::time::timeout(LONG, changes.next()).await;
    assert!(over.unwrap().is_none());
    server.restart();
    let mut changes = once_it_answers(async || store.watch(&bucket(), watch()).await).await;
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    let change = tokio::time::timeout(LONG, changes.next()).await.unwrap();
    assert_eq!(change.unwrap().key, "k");

    // What the server itself takes away is told, too.
    let stored = "weft:{default/shop/items}:v:k";
    server.cli(&["pexpire", stored, "1"]);
    weft_servers::wait_for("the key expires", || {
        server.cli(&["exists", stored]).trim() == "0"
    });
    let gone = async {
        loop {
            let change = changes.next().await.unwrap();
            if change.value.is_none() {
                return change.key;
            }
        }
    };
    assert_eq!(tokio::time::timeout(LONG, gone).await.unwrap(), "k");

    server.cli(&[
        "acl", "setuser", "fenced", "on", ">secret", "~*", "&*", "+@all", "-config",
    ]);
    let fenced = open(format!("redis://fenced:secret@127.0.0.1:{}", server.port()));
    let error = fenced.watch(&bucket(), watch()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("notify-keyspace-events") && text.contains("Kg$xe"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_in_a_cluster() {
    let servers = Redis::start_cluster();
    let options = RedisOptions {
        urls: servers.iter().map(Redis::url).collect(),
        deployment: Deployment::Cluster,
        ..RedisOptions::new("")
    };
    conformance::key_value(|| {
        for server in &servers {
            server.cli(&["flushall"]);
        }
        Arc::new(RedisKeyValue::open(&options).unwrap())
    })
    .await;
    let store = RedisKeyValue::open(&options).unwrap();
    for n in 0..30 {
        let bucket = Bucket::shared(&n.to_string());
        store.set(&bucket, "k", "v".into()).await.unwrap();
    }
    for server in &servers {
        assert_ne!(server.cli(&["dbsize"]).trim(), "0", "a server has no bucket");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_the_sentinels_to_the_server_that_takes_over() {
    let mut first = Redis::start();
    let second = Redis::start_replica(first.port());
    let sentinel = Redis::start_sentinel("shop", first.port());
    let options = RedisOptions {
        urls: vec![sentinel.url()],
        deployment: Deployment::Sentinel {
            service: "shop".to_owned(),
        },
        ..RedisOptions::new("")
    };
    weft_servers::wait_for("the sentinel knows the replica", || {
        sentinel
            .cli(&["sentinel", "replicas", "shop"])
            .contains(&second.port().to_string())
    });
    let store = RedisKeyValue::open(&options).unwrap();
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    weft_servers::wait_for("the replica has it", || second.cli(&["dbsize"]).trim() == "2");
    first.kill();
    once_it_answers(async || store.set(&bucket(), "after", "w".into()).await).await;
    assert_eq!(store.get(&bucket(), "k").await.unwrap().unwrap(), "v");
    assert!(second.cli(&["role"]).starts_with("master"));
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_tls_to_whom_it_is_told_to_trust_alone() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path());
    let port = weft_servers::free_port();
    let _server = Redis::start_with_tls(port, &certificate);
    let url = format!("rediss://127.0.0.1:{port}");
    let trusting = RedisOptions {
        ca_file: Some(certificate.authority.clone()),
        ..RedisOptions::new(url.clone())
    };
    let store = RedisKeyValue::open(&trusting).unwrap();
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    assert_eq!(store.get(&bucket(), "k").await.unwrap().unwrap(), "v");

    let error = open(url).get(&bucket(), "k").await.unwrap_err();
    assert!(matches!(error, KeyValueError::Unavailable(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_is_told_at_once_and_a_renewed_one_is_taken_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::expired(folder.path());
    let port = weft_servers::free_port();
    let mut server = Redis::start_with_tls(port, &certificate);
    let options = RedisOptions {
        ca_file: Some(certificate.authority.clone()),
        ..RedisOptions::new(format!("rediss://127.0.0.1:{port}"))
    };
    let store = RedisKeyValue::open(&options).unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        let error = store.get(&bucket(), "k").await.unwrap_err();
        assert!(matches!(error, KeyValueError::Unavailable(_)), "{error:?}");
        assert!(error.to_string().contains("certificate expired"), "{error}");
        assert!(begun.elapsed() < options.timeout, "{:?}", begun.elapsed());
    }
    certificate.renew();
    server.restart();
    once_it_answers(async || store.set(&bucket(), "k", "v".into()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_no_acknowledged_write_when_the_server_is_killed_under_load() {
    // With `everysec` it may still have to write what it acknowledged while a sync of what came before lasts.
    let mut server = Redis::start_with(&["--appendfsync", "always"]);
    let store = Arc::new(open(server.url()));
    store.set(&bucket(), "n", "0".into()).await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let (mut done, mut unknown) = (0, 0);
            while done < 200 {
                match store.increment(&bucket(), "n", 1).await {
                    Ok(_) => done += 1,
                    Err(KeyValueError::Unavailable(_)) => {
                        unknown += 1;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            (done, unknown)
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.kill();
        server.restart();
        once_it_answers(async || store.get(&bucket(), "n").await).await;
    }
    let counts = tokio::time::timeout(LONG, tasks.join_all()).await.unwrap();
    let done: i64 = counts.iter().map(|(done, _)| done).sum();
    let unknown: i64 = counts.iter().map(|(_, unknown)| unknown).sum();
    let sum = store.increment(&bucket(), "n", 0).await.unwrap();
    assert!(
        (done..=done + unknown).contains(&sum),
        "{done} <= {sum} <= {}",
        done + unknown
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_denied_until_it_is_right() {
    let server = Redis::start_with(&["--requirepass", "right"]);
    for url in [
        server.url(),
        format!("redis://:wrong@127.0.0.1:{}", server.port()),
        format!("redis://nobody:right@127.0.0.1:{}", server.port()),
    ] {
        let error = open(url).get(&bucket(), "k").await.unwrap_err();
        assert!(matches!(error, KeyValueError::AccessDenied), "{error:?}");
    }
    let store = open(format!("redis://:right@127.0.0.1:{}", server.port()));
    store.set(&bucket(), "k", "v".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_costs_a_caller_its_time_limit_at_most_and_heals() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let options = RedisOptions {
        timeout: Duration::from_millis(300),
        ..RedisOptions::new(format!("redis://127.0.0.1:{}", proxy.port()))
    };
    let store = RedisKeyValue::open(&options).unwrap();
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    proxy.cut();
    for _ in 0..5 {
        let cut = tokio::time::timeout(LONG, store.get(&bucket(), "k"))
            .await
            .unwrap();
        assert!(matches!(cut, Err(KeyValueError::Unavailable(_))), "{cut:?}");
    }
    proxy.heal();
    let value = once_it_answers(async || store.get(&bucket(), "k").await).await;
    assert_eq!(value.unwrap(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_operations_than_fit_are_refused_while_the_server_is_stuck() {
    let server = Redis::start();
    let options = RedisOptions {
        timeout: Duration::from_millis(500),
        ..RedisOptions::new(server.url())
    };
    let store = Arc::new(RedisKeyValue::open(&options).unwrap());
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    server.freeze();
    let mut tasks = JoinSet::new();
    for _ in 0..3_000 {
        let store = store.clone();
        tasks.spawn(async move { store.get(&bucket(), "k").await });
    }
    let answers = tokio::time::timeout(LONG, tasks.join_all()).await.unwrap();
    let overloaded = answers
        .iter()
        .filter(|answer| matches!(answer, Err(KeyValueError::Overloaded)))
        .count();
    assert!(overloaded > 0, "all of them were on their way at once");
    assert!(answers.iter().all(|answer| matches!(
        answer,
        Err(KeyValueError::Overloaded | KeyValueError::Unavailable(_))
    )));
    server.thaw();
    once_it_answers(async || store.get(&bucket(), "k").await).await;
}

/// Connections to the server, but for the one that asks.
fn connections(server: &Redis) -> usize {
    let list = server.cli(&["client", "list"]);
    list.lines()
        .filter(|line| line.contains("id=") && !line.contains("cmd=client|list"))
        .count()
}

/// Another runtime of this process, as a host has one for each core.
struct Other(Option<Runtime>);

impl Other {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self(Some(runtime.unwrap()))
    }

    /// Reads `k` there.
    async fn reads(&self, store: &Arc<RedisKeyValue>) {
        let value = once_it_answers(async || {
            let store = store.clone();
            let read = async move { store.get(&bucket(), "k").await };
            self.0.as_ref().unwrap().spawn(read).await.unwrap()
        });
        assert_eq!(value.await.unwrap(), "v");
    }

    /// The same until the server has `count` connections.
    async fn reads_until(&self, store: &Arc<RedisKeyValue>, server: &Redis, count: usize) {
        let reads = async {
            self.reads(store).await;
            while connections(server) != count {
                self.reads(store).await;
            }
        };
        tokio::time::timeout(LONG, reads)
            .await
            .expect("not so many connections");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_runtime_that_uses_it_has_a_connection_of_its_own_as_far_as_they_go() {
    let mut server = Redis::start();
    let options = RedisOptions {
        connections: 3,
        ..RedisOptions::new(server.url())
    };
    let store = Arc::new(RedisKeyValue::open(&options).unwrap());
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    assert_eq!(connections(&server), 1);
    let [first, second, third] = [(); 3].map(|()| Other::start());
    first.reads_until(&store, &server, 2).await;
    second.reads_until(&store, &server, 3).await;
    for _ in 0..20 {
        third.reads_until(&store, &server, 3).await;
    }
    server.kill();
    server.restart();
    for other in [&first, &second, &third] {
        other.reads(&store).await;
    }
    third.reads_until(&store, &server, 3).await;
    // With a runtime its connection ends, and leaves its place to another.
    drop(first);
    weft_servers::wait_for("its connection ends", || connections(&server) == 2);
    third.reads_until(&store, &server, 3).await;
    store.close().await;
    weft_servers::wait_for("all are closed", || connections(&server) == 0);
    let error = store.get(&bucket(), "k").await.unwrap_err();
    assert!(matches!(error, KeyValueError::Closed), "{error:?}");
}

#[tokio::test]
async fn a_server_that_was_never_there_is_unavailable_at_once() {
    let store = open(format!("redis://127.0.0.1:{}", weft_servers::free_port()));
    for _ in 0..3 {
        let error = store.get(&bucket(), "k").await.unwrap_err();
        assert!(matches!(error, KeyValueError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn adds_to_every_text_that_other_backends_take_for_a_number() {
    let server = Redis::start();
    let store = open(server.url());
    for (before, sum) in [("+5", 6), ("007", 8), ("-0", 1), ("-012", -11), ("000", 1)] {
        store.set(&bucket(), "n", before.into()).await.unwrap();
        assert_eq!(store.increment(&bucket(), "n", 1).await.unwrap(), sum, "{before}");
    }
    let most = format!("+{}", i64::MAX);
    store.set(&bucket(), "n", most.clone().into()).await.unwrap();
    let error = store.increment(&bucket(), "n", 1).await.unwrap_err();
    assert!(matches!(error, KeyValueError::OutOfRange { .. }), "{error:?}");
    assert_eq!(store.get(&bucket(), "n").await.unwrap().unwrap(), most);
    assert_eq!(store.increment(&bucket(), "n", i64::MIN).await.unwrap(), -1);
}

#[tokio::test]
async fn says_what_is_wrong_with_an_address_without_showing_it() {
    let refused = |urls: &[&str]| {
        let options = RedisOptions {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..RedisOptions::new("")
        };
        let error = RedisKeyValue::open(&options).err().unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!format!("{options:?}").contains("secret"));
        error
    };
    assert!(matches!(refused(&[]), OpenError::NoAddress));
    assert!(matches!(
        refused(&["http://secret@x"]),
        OpenError::Address { n: 1 }
    ));
    assert!(matches!(
        refused(&["redis://:secret@x", "rediss://y"]),
        OpenError::MixedTls
    ));
}
