//! Stores that several hosts write to, on their way to other backends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;
use weft_capabilities::{Sql, SqlValue};
use weft_postgres::{PostgresOptions, PostgresSql};
use weft_servers::{Postgres, Redis};

use super::{Lattice, component, hosts_of};
use crate::support::guests::{KV, SQL};
use crate::support::{AppFile, Weft, over_unix, wait_until, weft};

fn store(backend: &str) -> AppFile {
    let kv = component(KV);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: values }}
providers:
  values: {{ capability: key-value, backend: {backend} }}
routes:
  - actor: kv
"
    ))
}

fn on(server: &Redis) -> AppFile {
    store(&format!("redis, config: {{ url: \"{}\" }}", server.url()))
}

/// Clients of every host write while `change` runs; what was acknowledged, and how often a counter was counted up.
async fn written_while(
    hosts: &[Weft],
    change: impl AsyncFnOnce(&Cell<u64>),
) -> (BTreeMap<String, String>, u64) {
    let (over, counted) = (Cell::new(false), Cell::new(0));
    let values = RefCell::new(BTreeMap::new());
    let client = async |host: usize, client: usize| {
        let mut turn = 0;
        while !over.get() {
            let path = format!("/bucket-{}/{host}-{client}-{}", turn % 3, turn % 20);
            let value = turn.to_string();
            let reply = hosts[host].send("PUT", &path, value.clone()).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            values.borrow_mut().insert(path, value);
            let reply = hosts[host].send("POST", "/incr/count?bucket=counters", "").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            counted.set(counted.get() + 1);
            turn += 1;
        }
    };
    let clients = (0..hosts.len()).flat_map(|host| (0..2).map(move |one| (host, one)));
    let change = async {
        change(&counted).await;
        over.set(true);
    };
    tokio::join!(join_all(clients.map(|(host, one)| client(host, one))), change);
    (values.into_inner(), counted.get())
}

async fn is_there(hosts: &[Weft], (values, counted): &(BTreeMap<String, String>, u64)) {
    for (at, (path, value)) in values.iter().enumerate() {
        let host = &hosts[at % hosts.len()];
        assert_eq!(host.get(path).await.text(), value, "{path}");
    }
    for host in hosts {
        let count = host.get("/counters/count").await;
        assert_eq!(count.text(), counted.to_string());
    }
}

async fn more(counted: &Cell<u64>) {
    let wanted = counted.get() + 60;
    wait_until("more is written", || counted.get() >= wanted).await;
}

/// `weft deploy --copy` from afar, without keeping the clients from running.
pub(super) async fn moved(lattice: &Lattice, app: &AppFile, more: &[&str]) -> std::process::Output {
    let (path, url) = (app.path().to_str().unwrap().to_owned(), lattice.nats.url());
    let mut args = vec![
        "deploy".to_owned(),
        path,
        "--copy".to_owned(),
        "--nats".to_owned(),
        url,
    ];
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    let run = move || weft(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

pub(super) fn succeeded(output: &std::process::Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn moving(host: &Weft) -> Value {
    let socket = host.data.path().join("admin.sock");
    let answer: Value = serde_json::from_str(&over_unix(&socket, "/v1/providers")).unwrap();
    answer["providers"][0].clone()
}

async fn fill(host: &Weft, bucket: &str, batches: usize) {
    for some in 0..batches {
        let keys: Vec<_> = (0..500).map(|key| format!("k{some}-{key}")).collect();
        let path = format!("/many?bucket={bucket}&keys={}", keys.join(","));
        assert_eq!(host.send("PUT", &path, "v").await.status, 200);
    }
}

#[tokio::test]
async fn a_store_that_every_host_writes_to_by_itself_moves_under_load_and_nothing_is_lost() {
    let (one, two) = (Redis::start(), Redis::start());
    let lattice = Lattice::of(3).await;
    lattice.deploy(&on(&one)).await;
    let written = written_while(&lattice.hosts, async |counted| {
        more(counted).await;
        succeeded(&moved(&lattice, &on(&two), &[]).await);
        more(counted).await;
    })
    .await;
    lattice.settle().await;
    is_there(&lattice.hosts, &written).await;
    let stored = two.cli(&["get", "weft:{default/store/counters}:v:count"]);
    assert_eq!(stored.trim(), written.1.to_string());
}

#[tokio::test]
async fn a_store_in_a_file_of_one_host_moves_to_a_server_that_all_reach_under_load() {
    let server = Redis::start();
    let lattice = Lattice::of(3).await;
    lattice.deploy(&store("redb")).await;
    let written = written_while(&lattice.hosts, async |counted| {
        more(counted).await;
        succeeded(&moved(&lattice, &on(&server), &[]).await);
        more(counted).await;
    })
    .await;
    lattice.settle().await;
    is_there(&lattice.hosts, &written).await;
    let stored = server.cli(&["get", "weft:{default/store/counters}:v:count"]);
    assert_eq!(stored.trim(), written.1.to_string());
}

#[tokio::test]
async fn a_host_that_is_gone_without_a_word_blocks_the_switch_until_force_is_said() {
    let (one, two) = (Redis::start(), Redis::start());
    let mut lattice = Lattice::of(3).await;
    lattice.deploy(&on(&one)).await;
    fill(&lattice.hosts[0], "filled", 20).await;
    let app = on(&two);
    let gone = lattice.hosts.pop().unwrap();
    let begun = moved(&lattice, &app, &[]);
    let first = &lattice.hosts[0];
    let blocked = async {
        wait_until("it copies", || moving(first)["move"]["step"] == "copying").await;
        // The copy does not end before the host is missed.
        two.freeze();
        drop(gone.kill());
        lattice.wait_for_members(2).await;
        two.thaw();
        let waits = || {
            moving(first)["move"]["waiting"]
                .to_string()
                .contains("h3 took part")
        };
        wait_until("it waits for h3", waits).await;
        for host in &lattice.hosts {
            assert_eq!(host.send("PUT", "/one/blocked", "v").await.status, 200);
        }
        assert_eq!(
            one.cli(&["get", "weft:{default/store/one}:v:blocked"]).trim(),
            "v"
        );
        succeeded(&moved(&lattice, &app, &["--force"]).await);
    };
    let (begun, ()) = tokio::join!(begun, blocked);
    succeeded(&begun);
    assert_eq!(first.get("/one/blocked").await.text(), "v");
    assert_eq!(first.get("/filled/k19-499").await.text(), "v");
    assert_eq!(
        two.cli(&["get", "weft:{default/store/one}:v:blocked"]).trim(),
        "v"
    );
}

/// A host was stopped between the end of its draining and the switch, and looked again when the record of the move had been
/// deleted: it closed the gate of the old store, so that what had waited in it was written there and lost. Now it goes to
/// where the data is.
#[tokio::test]
async fn a_host_that_looks_again_when_the_move_is_over_sends_what_waited_to_the_new_store() {
    let (one, two) = (Redis::start(), Redis::start());
    let lattice = Lattice::of(2).await;
    lattice.deploy(&on(&one)).await;
    let (first, late) = (&lattice.hosts[0], &lattice.hosts[1]);
    fill(first, "filled", 4).await;
    let app = on(&two);
    let begun = moved(&lattice, &app, &[]);
    let said = |text: &str| {
        let log = first.log();
        let mut lines = log.lines();
        lines.any(|line| line.contains("the move goes on") && line.contains(text))
    };
    let change = async {
        wait_until("it copies", || said("copying")).await;
        // The first host has much to drain, the late one nothing.
        two.freeze();
        fill(first, "noted", 40).await;
        two.thaw();
        wait_until("writes are held", || said("holding")).await;
        wait_until("it drains", || said("draining")).await;
        two.freeze();
        let mut is_ahead = false;
        for _ in 0..40 {
            let hosts = hosts_of(first).await;
            let applied: Vec<_> = hosts
                .iter()
                .map(|host| (host["host"].clone(), host["applied_index"].as_u64()))
                .collect();
            let of = |name: &str| {
                applied
                    .iter()
                    .find(|(host, _)| host == name)
                    .and_then(|(_, at)| *at)
            };
            is_ahead = of("h2") > of("h1");
            if is_ahead {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(is_ahead, "the late host has not drained before the first one");
        let write = late.send("PUT", "/one/late", "v");
        tokio::pin!(write);
        let waits = timeout(Duration::from_millis(300), &mut write).await;
        assert!(waits.is_err(), "it was not held: {}", waits.unwrap().text());
        late.signal("-STOP");
        two.thaw();
        wait_until("the move is over", || first.log().contains("the move is over")).await;
        late.signal("-CONT");
        let written = write.await;
        assert_eq!(written.status, 200, "{}", written.text());
    };
    let (begun, ()) = tokio::join!(begun, change);
    succeeded(&begun);
    let key = ["get", "weft:{default/store/one}:v:late"];
    assert_eq!(two.cli(&key).trim(), "v");
    assert_eq!(one.cli(&key).trim(), "");
    assert_eq!(late.get("/one/late").await.text(), "v");
}

fn tables(backend: &str) -> AppFile {
    let sql = component(SQL);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: tables
actors:
  sql:
    component: {sql}
    links:
      weft:sql: {{ provider: tables }}
providers:
  tables: {{ capability: sql, backend: {backend} }}
routes:
  - actor: sql
"
    ))
}

#[tokio::test]
async fn tables_in_a_file_of_one_host_move_to_a_server_while_all_hosts_have_transactions_in_them() {
    let server = Postgres::start();
    let lattice = Lattice::of(3).await;
    lattice.deploy(&tables("sqlite")).await;
    let post = async |host: usize, path: &str, body: Value| {
        let reply = lattice.hosts[host].send("POST", path, body.to_string()).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    };
    for table in ["one", "two"] {
        let create = format!("CREATE TABLE {table} (id TEXT PRIMARY KEY, host BIGINT NOT NULL)");
        post(0, "/execute", json!({ "sql": create })).await;
    }
    let (over, done) = (Cell::new(false), Cell::new(0_i64));
    let client = async |host: usize, client: usize| {
        let mut turn = 0;
        while !over.get() {
            // Into both tables or none, with a pause in between.
            let id = format!("{host}-{client}-{turn}");
            let into = |table: &str| json!({ "sql": format!("INSERT INTO {table} VALUES ($1, $2)"), "params": [id, host] });
            post(
                host,
                "/transaction?commit=1&ms=2",
                json!([into("one"), into("two")]),
            )
            .await;
            done.set(done.get() + 1);
            turn += 1;
        }
    };
    let app = tables(&format!(
        "postgres, config: {{ url: \"{}\", isolation: read-committed }}",
        server.url()
    ));
    let more = async || {
        let wanted = done.get() + 60;
        wait_until("more is written", || done.get() >= wanted).await;
    };
    let change = async {
        more().await;
        succeeded(&moved(&lattice, &app, &[]).await);
        more().await;
        over.set(true);
    };
    let clients = (0..3).flat_map(|host| (0..2).map(move |one| (host, one)));
    tokio::join!(join_all(clients.map(|(host, one)| client(host, one))), change);
    lattice.settle().await;
    let database = PostgresSql::open(&PostgresOptions::new(server.url())).unwrap();
    for table in ["one", "two"] {
        let count = format!("SELECT count(*) FROM {table}");
        let rows = database.query(&count, Vec::new(), None).await.unwrap();
        assert_eq!(rows.rows, [[SqlValue::Integer(done.get())]], "{table}");
    }
}
