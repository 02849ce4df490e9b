//! Stores that several hosts write to, on their way to other backends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures::future::join_all;
use weft_servers::Redis;

use super::{Lattice, component};
use crate::support::guests::KV;
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
async fn moved(lattice: &Lattice, app: &AppFile, more: &[&str]) -> std::process::Output {
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

fn succeeded(output: &std::process::Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
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
    for some in 0..20 {
        let keys: Vec<_> = (0..500).map(|key| format!("k{some}-{key}")).collect();
        let path = format!("/many?bucket=filled&keys={}", keys.join(","));
        assert_eq!(lattice.hosts[0].send("PUT", &path, "v").await.status, 200);
    }
    let app = on(&two);
    let gone = lattice.hosts.pop().unwrap();
    let begun = moved(&lattice, &app, &[]);
    let moving = |host: &Weft| {
        let socket = host.data.path().join("admin.sock");
        let answer: serde_json::Value = serde_json::from_str(&over_unix(&socket, "/v1/providers")).unwrap();
        answer["providers"][0].clone()
    };
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
