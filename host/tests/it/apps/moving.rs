//! Data of providers on its way to other backends, while it is written.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::Value;
use weft_servers::{Redis, free_port};

use super::{Load, again, kv_app};
use crate::support::{AppFile, Weft, over_unix, wait_until};

const CLIENTS: usize = 6;

fn redis_at(url: &str) -> AppFile {
    kv_app(&format!("redis, config: {{ url: \"{url}\" }}"))
}

/// Many keys in some buckets, so that copying takes a while.
async fn fill(weft: &Weft, keys: usize) {
    let keys: Vec<_> = (0..keys).map(|key| format!("k{key:05}")).collect();
    for (at, some) in keys.chunks(500).enumerate() {
        let path = format!("/many?bucket=bucket-{}&keys={}", at % 4, some.join(","));
        assert_eq!(weft.send("PUT", &path, "filled").await.status, 200);
    }
}

async fn is_filled(weft: &Weft, keys: usize) {
    for at in (0..keys).step_by(97) {
        let path = format!("/bucket-{}/k{at:05}", at / 500 % 4);
        assert_eq!(weft.get(&path).await.text(), "filled", "{path}");
    }
}

/// What clients were told is written: the last value of each key, and how often a counter was counted up.
#[derive(Default)]
struct Acknowledged {
    values: RefCell<BTreeMap<String, String>>,
    counted: Cell<u64>,
}

impl Acknowledged {
    /// One client's turn: keys that are new, that are written again, that are deleted, and a counter. `false` if the host has
    /// gone.
    async fn write(&self, weft: &Weft, client: usize, turn: usize) -> bool {
        let path = format!("/bucket-{}/{client}-{}", turn % 5, turn % 40);
        let (method, value) = match turn % 7 {
            3 => ("DELETE", String::new()),
            _ => ("PUT", format!("{client}:{turn}")),
        };
        // What is not acknowledged may be there or not.
        let before = self.values.borrow_mut().remove(&path);
        let Some(reply) = weft.try_send(method, &path, value.clone()).await else {
            return false;
        };
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
        drop(before);
        self.values.borrow_mut().insert(path, value);
        match weft.try_send("POST", "/incr/count?bucket=counters", "").await {
            Some(reply) => {
                assert_eq!(reply.status, 200, "{}", reply.text());
                self.counted.set(self.counted.get() + 1);
                true
            }
            None => false,
        }
    }

    /// All of it is there; the counter may have counted up to so many more that nobody was told of.
    async fn is_there(&self, weft: &Weft, untold: u64) {
        let values = self.values.borrow().clone();
        for (path, value) in &values {
            let reply = weft.get(path).await;
            let found = if reply.status == 404 { "" } else { reply.text() };
            assert_eq!(found, value, "{path}");
        }
        let count: u64 = weft.get("/counters/count").await.text().parse().unwrap_or(0);
        let counted = self.counted.get();
        assert!(
            (counted..=counted + untold).contains(&count),
            "{count} of {counted}"
        );
    }
}

fn provider(weft: &Weft) -> Value {
    let socket = weft.data.path().join("admin.sock");
    let answer: Value = serde_json::from_str(&over_unix(&socket, "/v1/providers")).unwrap();
    answer["providers"][0].clone()
}

fn path(app: &AppFile) -> String {
    app.path().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn data_moves_with_a_deploy_under_load_no_call_fails_and_nothing_is_lost() {
    let server = Redis::start();
    let (redb, redis) = (kv_app("redb"), redis_at(&server.url()));
    let weft = Weft::app(&redb, &[]);
    fill(&weft, 3_000).await;
    let acknowledged = Acknowledged::default();
    let write = async |client: usize, turn: usize| {
        assert!(acknowledged.write(&weft, client, turn).await);
    };
    Load::during(CLIENTS, write, async |load| {
        load.more(50).await;
        weft.cli(&["deploy", &path(&redis), "--copy"]).await;
        load.more(50).await;
    })
    .await;
    assert_eq!(provider(&weft)["backend"], "redis");
    is_filled(&weft, 3_000).await;
    acknowledged.is_there(&weft, 0).await;
    let stored = server.cli(&["get", "weft:{default/store/counters}:v:count"]);
    assert_eq!(stored.trim(), acknowledged.counted.get().to_string());

    // The file of before is there still, and is not taken for new.
    let refused = weft.try_cli(&["deploy", &path(&redb), "--copy"]).await;
    let why = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{why}");
    assert!(why.contains("--replace"), "{why}");
    assert_eq!(provider(&weft)["backend"], "redis");
    let write = async |client: usize, turn: usize| {
        assert!(acknowledged.write(&weft, client, turn).await);
    };
    Load::during(CLIENTS, write, async |load| {
        load.more(50).await;
        weft.cli(&["deploy", &path(&redb), "--copy", "--replace"]).await;
        load.more(50).await;
    })
    .await;
    assert_eq!(provider(&weft)["backend"], "redb");
    drop(server);
    is_filled(&weft, 3_000).await;
    acknowledged.is_there(&weft, 0).await;
    // What is deployed is what the file says: there is nothing more to do, and it is there after a restart.
    let again_deployed = weft.cli(&["deploy", &path(&redb)]).await;
    assert!(again_deployed.contains("nothing to change"), "{again_deployed}");
    let weft = again(weft.kill());
    acknowledged.is_there(&weft, 0).await;
}

/// Kills the host when its log says that a move came to a step, while clients write.
async fn killed_at(step: &str) {
    let server = Redis::start();
    let weft = Weft::app(&kv_app("redb"), &[]);
    fill(&weft, 5_000).await;
    let acknowledged = Acknowledged::default();
    let client = async |client: usize| {
        let mut turn = 0;
        while acknowledged.write(&weft, client, turn).await {
            turn += 1;
        }
    };
    let app = redis_at(&server.url());
    let kill = async {
        let enough = || acknowledged.counted.get() >= 50;
        wait_until("enough is written", enough).await;
        // It ends with the host.
        let manifest = path(&app);
        let args = ["deploy", &manifest, "--copy"];
        let deploy = weft.try_cli(&args);
        let killed = async {
            let is_there = || {
                let log = weft.log();
                let mut lines = log.lines();
                lines.any(|line| line.contains("the move goes on") && line.contains(step))
            };
            wait_until(&format!("the move is {step}"), is_there).await;
            weft.signal("-KILL");
        };
        tokio::join!(deploy, killed);
    };
    tokio::join!(join_all((0..CLIENTS).map(client)), kill);
    let weft = again(weft.kill());
    // The next run goes on with it, whoever waits for it.
    wait_until("the move has ended", || {
        let provider = provider(&weft);
        provider["backend"] == "redis" && provider["move"].is_null()
    })
    .await;
    is_filled(&weft, 5_000).await;
    acknowledged.is_there(&weft, CLIENTS as u64).await;
    assert_ne!(server.cli(&["dbsize"]).trim(), "0");
    assert_eq!(weft.send("PUT", "/bucket-1/after", "v").await.status, 200);
    assert_eq!(
        server
            .cli(&["get", "weft:{default/store/bucket-1}:v:after"])
            .trim(),
        "v"
    );
}

#[tokio::test]
async fn a_host_that_is_killed_while_it_copies_goes_on_and_loses_nothing() {
    killed_at("copying").await;
}

#[tokio::test]
async fn a_host_that_is_killed_while_writes_are_held_goes_on_and_loses_nothing() {
    killed_at("holding").await;
    killed_at("draining").await;
}

#[tokio::test]
async fn a_host_that_is_killed_when_it_has_switched_goes_on_and_loses_nothing() {
    killed_at("switched").await;
}

#[tokio::test]
async fn a_move_to_where_nobody_answers_is_given_up_and_the_store_is_as_it_was() {
    let weft = Weft::app(&kv_app("redb"), &[]);
    fill(&weft, 500).await;
    let nowhere = redis_at(&format!("redis://127.0.0.1:{}", free_port()));
    let (file, acknowledged) = (path(&nowhere), Acknowledged::default());
    let write = async |client: usize, turn: usize| {
        assert!(acknowledged.write(&weft, client, turn).await);
    };
    Load::during(2, write, async |load| {
        let refused = weft.try_cli(&["deploy", &file, "--copy"]).await;
        let why = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(3), "{why}");
        assert!(why.contains("can't be looked into"), "{why}");
        load.more(20).await;
    })
    .await;
    assert_eq!(provider(&weft)["backend"], "redb");
    assert_eq!(provider(&weft)["move"]["step"], "failed");
    is_filled(&weft, 500).await;
    acknowledged.is_there(&weft, 0).await;
}

#[tokio::test]
async fn a_server_that_goes_away_during_a_move_holds_it_up_and_it_can_be_given_up() {
    let mut server = Redis::start();
    let weft = Weft::app(&kv_app("redb"), &[]);
    fill(&weft, 20_000).await;
    let (app, acknowledged) = (redis_at(&server.url()), Acknowledged::default());
    let file = path(&app);
    let args = ["deploy", &file, "--copy"];
    let deploy = weft.try_cli(&args);
    let gone = async {
        wait_until("it copies", || provider(&weft)["move"]["keys"].as_u64() > Some(0)).await;
        server.kill();
        wait_until("it waits", || provider(&weft)["move"]["waiting"].is_string()).await;
        // Calls go on meanwhile, and a plain deploy of the same file does not take the store away from its data.
        assert!(acknowledged.write(&weft, 0, 0).await);
        let refused = weft.try_cli(&["deploy", &file]).await;
        let why = String::from_utf8(refused.stderr).unwrap();
        assert!(why.contains("is being moved"), "{why}");
        let cancelled = weft.cli(&["provider", "cancel", "values"]).await;
        assert_eq!(cancelled, "default/store/values stays where it is\n");
    };
    let (deployed, ()) = tokio::join!(deploy, gone);
    let why = String::from_utf8(deployed.stderr).unwrap();
    assert!(why.contains("gave it up"), "{why}");
    assert_eq!(provider(&weft)["backend"], "redb");
    is_filled(&weft, 20_000).await;
    acknowledged.is_there(&weft, 0).await;
}
