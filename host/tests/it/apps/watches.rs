//! Actors that are told of changes of keys, by `wasi:keyvalue/watcher`.

use std::sync::Arc;

use serde_json::Value;
use weft_observability::test_collector::TestCollector;
use weft_servers::{Nats, Redis};

use super::{Load, again, component};
use crate::support::guests::{HELLO, KV, KV2, WATCHER};
use crate::support::{AppFile, PATIENCE, Weft, get, weft};

/// An app whose `kv` is served at `/`, and `reader`, with limits, which has a watch for each of `watches`:
/// `bucket: items, keys: a`. All is on one store on a backend.
fn watched(backend: &str, limits: &str, watches: &[&str]) -> String {
    let (kv, watcher) = (component(KV), component(WATCHER));
    let watches: Vec<_> = watches
        .iter()
        .map(|watch| format!("  - {{ provider: values, actor: reader, {watch} }}\n"))
        .collect();
    let watches = match watches.as_slice() {
        [] => String::new(),
        all => format!("watches:\n{}", all.concat()),
    };
    format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv: {{ component: {kv}, links: {{ wasi:keyvalue: {{ provider: values }} }} }}
  reader: {{ component: {watcher}, limits: {limits}, links: {{ wasi:keyvalue: {{ provider: values }} }} }}
providers:
  values: {{ capability: key-value, backend: {backend} }}
routes:
  - {{ actor: kv }}
{watches}"
    )
}

const ITEMS: &[&str] = &["bucket: items"];

async fn set(weft: &Weft, key: &str, value: &str) {
    let reply = weft.send("PUT", &format!("/items/{key}"), value.to_owned()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

async fn delete(weft: &Weft, key: &str) {
    let reply = weft.send("DELETE", &format!("/items/{key}"), "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// What the reader was told, as it wrote it down; empty for nothing.
async fn told(weft: &Weft, what: &str) -> String {
    let reply = weft.get(&format!("/told/{what}")).await;
    match reply.status {
        200 => reply.text().to_owned(),
        _ => String::new(),
    }
}

async fn wait_until_told(weft: &Weft, what: &str, expected: &str) {
    let wait = async {
        while told(weft, what).await != expected {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        let now = told(weft, what).await;
        panic!("{what} is {now:?}, not {expected:?}: {}", weft.log());
    }
}

async fn counted(weft: &Weft, outcome: &str) -> u64 {
    let metrics = get(weft.monitor, "/metrics").await.text().to_owned();
    let series =
        format!("weft_change_count_total{{weft_outcome=\"{outcome}\",weft_actor=\"default/store/reader\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
    count.map_or(0, |count| count.parse().unwrap())
}

/// A watcher writes down what it is told before its call has ended.
async fn wait_until_counted(weft: &Weft, outcome: &str, expected: u64) {
    let wait = async {
        while counted(weft, outcome).await < expected {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    drop(tokio::time::timeout(PATIENCE, wait).await);
    assert_eq!(
        counted(weft, outcome).await,
        expected,
        "{outcome}: {}",
        weft.log()
    );
}

/// The rules of all backends.
async fn tells_an_actor(backend: &str) {
    let app = AppFile::new(&watched(backend, "{}", ITEMS));
    let weft = Weft::app(&app, &[]);
    set(&weft, "a", "1").await;
    wait_until_told(&weft, "a.sets", "1").await;
    set(&weft, "a", "2").await;
    wait_until_told(&weft, "a.sets", "2").await;
    assert_eq!(told(&weft, "a.values").await, "1,2");
    assert_eq!(told(&weft, "a.seen").await, "2", "the bucket is another one");
    delete(&weft, "a").await;
    wait_until_told(&weft, "a.deletes", "1").await;
    assert_eq!(told(&weft, "a.values").await, "1,2,-");
    assert_eq!(told(&weft, "a.seen").await, "-");
    let other = weft.send("PUT", "/others/b", "1").await;
    assert_eq!(other.status, 200);
    for n in 0..20 {
        set(&weft, &format!("n{n}"), "v").await;
    }
    for n in 0..20 {
        wait_until_told(&weft, &format!("n{n}.sets"), "1").await;
    }
    assert_eq!(told(&weft, "b.sets").await, "", "another bucket's key was told");
    wait_until_counted(&weft, "handled", 23).await;
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn a_watcher_is_told_what_is_set_and_deleted_in_memory() {
    tells_an_actor("memory").await;
}

#[tokio::test]
async fn a_watcher_is_told_what_is_set_and_deleted_in_redb() {
    tells_an_actor("redb").await;
}

#[tokio::test]
async fn a_watcher_is_told_what_is_set_and_deleted_on_nats() {
    let server = Nats::start_with_jetstream("");
    tells_an_actor(&format!("nats, config: {{ url: \"{}\" }}", server.url())).await;
}

#[tokio::test]
async fn a_watcher_is_told_what_is_set_and_deleted_on_redis() {
    let server = Redis::start();
    tells_an_actor(&format!("redis, config: {{ url: \"{}\" }}", server.url())).await;
}

#[tokio::test]
async fn a_watch_is_of_the_keys_that_begin_so_and_is_listed_and_ends_with_a_redeploy() {
    let watches = ["bucket: items, keys: user/", "bucket: items, keys: b"];
    let app = AppFile::new(&watched("memory", "{}", &watches));
    let weft = Weft::app(&app, &[]);
    set(&weft, "a", "1").await;
    set(&weft, "b", "1").await;
    wait_until_told(&weft, "b.sets", "1").await;
    assert_eq!(told(&weft, "a.sets").await, "");
    let listed = weft.cli(&["get", "watches"]).await;
    assert!(
        listed.contains("default/store/reader  default/store/values  items   user/*  false   true"),
        "{listed}"
    );
    let listed = weft.cli(&["get", "watches", "reader", "--output", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["watches"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["watches"][0]["keys"], "b");

    app.write(&watched("memory", "{}", &watches[..1]));
    weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
    set(&weft, "b", "2").await;
    let user = weft.send("PUT", "/items/user%2F1", "v").await;
    assert_eq!(user.status, 200);
    assert_eq!(
        told(&weft, "b.sets").await,
        "1",
        "what is watched no more was told"
    );
    assert!(!weft.cli(&["get", "watches"]).await.contains("b*"));
}

#[tokio::test]
async fn changes_of_one_key_are_told_in_their_order_and_wait_for_a_place() {
    let app = AppFile::new(&watched("redb", "{ concurrency: 2, queue: 0 }", ITEMS));
    let weft = Weft::app(&app, &[]);
    let mut values = Vec::new();
    for n in 0..10 {
        let value = format!("slow:{}", 10 + n);
        for key in ["a", "b", "c"] {
            set(&weft, key, &value).await;
        }
        values.push(value);
    }
    for key in ["a", "b", "c"] {
        wait_until_told(&weft, &format!("{key}.sets"), "10").await;
        assert_eq!(told(&weft, &format!("{key}.values")).await, values.join(","));
    }
}

#[tokio::test]
async fn a_watcher_that_traps_harms_nothing_and_is_counted() {
    let app = AppFile::new(&watched("memory", "{}", ITEMS));
    let weft = Weft::app(&app, &[]);
    set(&weft, "a", "trap").await;
    set(&weft, "a", "fine").await;
    wait_until_told(&weft, "a.values", "fine").await;
    weft.wait_for_log("a change that traps").await;
    wait_until_counted(&weft, "lost", 1).await;
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn a_change_on_nats_comes_again_until_its_watcher_has_handled_it_or_a_later_one() {
    let server = Nats::start_with_jetstream("");
    let backend = format!("nats, config: {{ url: \"{}\" }}", server.url());
    let app = AppFile::new(&watched(&backend, "{}", ITEMS));
    let weft = Weft::app(&app, &[]);
    set(&weft, "a", "trap").await;
    let returned = async {
        while counted(&weft, "returned").await < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, returned)
        .await
        .expect("it does not come again");
    set(&weft, "a", "fine").await;
    wait_until_told(&weft, "a.values", "fine").await;
    // What was set while the host was away is told when it is back.
    let data = weft.stop();
    let client = Weft::app(&AppFile::new(&watched(&backend, "{}", &[])), &[]);
    set(&client, "b", "1").await;
    delete(&client, "a").await;
    let weft = again(data);
    wait_until_told(&weft, "b.values", "1").await;
    wait_until_told(&weft, "a.deletes", "1").await;
}

#[tokio::test]
async fn a_watch_that_changes_under_load_loses_no_change_and_repeats_none() {
    let app = AppFile::new(&watched("memory", "{}", ITEMS));
    let weft = Weft::app(&app, &[]);
    let texts = [
        watched("memory", "{ timeout: 9s }", ITEMS),
        watched("memory", "{}", ITEMS),
        watched("memory", "{}", &["bucket: items, shared: false"]),
        watched("memory", "{ timeout: 8s }", ITEMS),
    ];
    let asked = std::cell::RefCell::new(Vec::new());
    let ask = |client: usize, turn: usize| {
        let (weft, asked) = (&weft, &asked);
        async move {
            let key = format!("k{client}-{turn}");
            set(weft, &key, "v").await;
            asked.borrow_mut().push(key);
        }
    };
    Load::during(4, ask, async |load| {
        for text in &texts {
            app.write(text);
            weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
            load.more(20).await;
        }
    })
    .await;
    for key in asked.take() {
        wait_until_told(&weft, &format!("{key}.values"), "v").await;
    }
}

#[tokio::test]
async fn a_host_that_stops_first_tells_what_it_has_accepted() {
    let app = AppFile::new(&watched("redb", "{ concurrency: 2 }", ITEMS));
    let weft = Weft::app(&app, &[]);
    for n in 0..6 {
        set(&weft, &format!("k{n}"), &format!("slow:{}", 200 + n)).await;
    }
    let weft = again(weft.stop());
    for n in 0..6 {
        wait_until_told(&weft, &format!("k{n}.sets"), "1").await;
    }
}

#[tokio::test]
async fn by_the_later_draft_an_actor_is_told_what_it_changes_itself() {
    let kv2 = component(KV2);
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv2: {{ component: {kv2}, limits: {{ reuse: 8 }}, links: {{ wasi:keyvalue: {{ provider: values }} }} }}
providers:
  values: {{ capability: key-value, backend: memory }}
routes:
  - {{ actor: kv2 }}
watches:
  - {{ provider: values, bucket: items, actor: kv2 }}
"
    ));
    let weft = Weft::app(&app, &[]);
    set(&weft, "a", "1").await;
    wait_until_told(&weft, "a", "1").await;
    delete(&weft, "a").await;
    wait_until_told(&weft, "a", "deleted").await;
}

#[tokio::test]
async fn a_watch_goes_on_at_the_backend_that_its_data_moves_to() {
    let app = AppFile::new(&watched("memory", "{}", ITEMS));
    let weft = Weft::app(&app, &[]);
    set(&weft, "a", "1").await;
    wait_until_told(&weft, "a.sets", "1").await;
    app.write(&watched("redb", "{}", ITEMS));
    weft.cli(&["deploy", app.path().to_str().unwrap(), "--copy"])
        .await;
    set(&weft, "a", "2").await;
    wait_until_told(&weft, "a.values", "1,2").await;
    let watches = weft.cli(&["get", "watches"]).await;
    let served_and_reason: Vec<_> = watches.split_whitespace().rev().take(2).collect();
    assert_eq!(served_and_reason, ["-", "true"], "{watches}");
}

#[tokio::test]
async fn a_change_is_a_trace_of_its_own_with_what_its_watcher_does() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let data = Arc::new(tempfile::tempdir().unwrap());
    let app = AppFile::new(&watched("memory", "{}", ITEMS));
    let weft = Weft::up(&[app.path()], &[], &env, data);
    set(&weft, "a", "1").await;
    let root = collector.wait_for_span("watch items", PATIENCE).await.unwrap();
    assert_eq!(root.parent_span_id, None);
    for (name, value) in [
        ("faas.trigger", "datasource"),
        ("faas.document.collection", "items"),
        ("faas.document.operation", "edit"),
        ("weft.actor", "default/store/reader"),
        ("weft.provider", "default/store/values"),
    ] {
        assert_eq!(root.attributes[name], value, "{name}");
    }
    let spans = collector.spans();
    let inner = spans
        .iter()
        .filter(|span| span.parent_span_id == Some(root.span_id) && span.name == "key-value increment");
    assert_eq!(inner.count(), 1, "{spans:?}");
}

#[tokio::test]
async fn another_apps_store_is_watched_only_where_it_allows_it() {
    let offers = |allow: &str| {
        let kv = component(KV);
        format!(
            "
apiVersion: weft/v1
name: offers
actors:
  kv: {{ component: {kv}, links: {{ wasi:keyvalue: {{ provider: values, shared: true }} }} }}
providers:
  values: {{ capability: key-value, backend: memory{allow} }}
routes:
  - {{ actor: kv, path: /offers, stripPrefix: true }}
"
        )
    };
    let wants = watched("memory", "{}", &["bucket: items, shared: true"]);
    let wants = AppFile::new(&wants.replace(
        "{ provider: values, actor: reader, ",
        "{ provider: default/offers/values, actor: reader, ",
    ));
    let offered = AppFile::new(&offers(""));
    let weft = Weft::app(&offered, &[]);
    let path = wants.path();
    let deploy = ["deploy", path.to_str().unwrap()];
    let refused = weft.try_cli(&deploy).await;
    let error = String::from_utf8(refused.stderr).unwrap();
    let denied = "add `default/store` to the `allowFrom` of default/offers/values";
    assert!(!refused.status.success() && error.contains(denied), "{error}");

    offered.write(&offers(", allowFrom: [store]"));
    let offer = offered.path();
    let offer = ["deploy", offer.to_str().unwrap()];
    weft.cli(&offer).await;
    weft.cli(&deploy).await;
    let put = async |key: &str| {
        let reply = weft.send("PUT", &format!("/offers/items/{key}"), "1").await;
        assert_eq!(reply.status, 200);
    };
    put("a").await;
    wait_until_told(&weft, "a.sets", "1").await;

    // One that is allowed no more ends, and says so.
    offered.write(&offers(""));
    weft.cli(&offer).await;
    put("b").await;
    let conditions = weft.cli(&["get", "conditions"]).await;
    let subject = "watch of default/store/reader on items of default/offers/values";
    assert!(
        conditions.contains(subject) && conditions.contains(denied),
        "{conditions}"
    );
    assert_eq!(told(&weft, "b.sets").await, "");
}

#[tokio::test]
async fn a_watch_of_an_actor_that_is_told_nothing_is_refused_where_it_is_written() {
    let hello = component(HELLO);
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1
name: store
actors:
  hello: {{ component: {hello} }}
providers:
  values: {{ capability: key-value, backend: memory }}
watches:
  - {{ provider: values, bucket: items, actor: hello }}
"
    ));
    let data = tempfile::tempdir().unwrap();
    let path = app.path();
    let output = weft(&[
        "up",
        "--http",
        "127.0.0.1:0",
        "--data",
        data.path().to_str().unwrap(),
        path.to_str().unwrap(),
    ]);
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "app.yaml:8:47: default/store/hello exports neither wasi:keyvalue/watcher@0.2.0-draft nor \
         wasi:keyvalue/watcher@0.2.0-draft2";
    assert!(error.contains(expected), "{error}");
}

#[tokio::test]
async fn a_watch_on_redis_begins_again_when_its_server_is_back() {
    let mut server = Redis::start();
    let app = AppFile::new(&watched(
        &format!("redis, config: {{ url: \"{}\" }}", server.url()),
        "{}",
        ITEMS,
    ));
    let weft = Weft::app(&app, &[]);
    set(&weft, "a", "1").await;
    wait_until_told(&weft, "a.sets", "1").await;
    server.kill();
    let subject = "watch of default/store/reader on items of default/store/values";
    let is_told = async || {
        let conditions = weft.try_cli(&["get", "conditions"]).await;
        String::from_utf8(conditions.stdout).unwrap().contains(subject)
    };
    let wait = async {
        while !is_told().await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        server.restart();
        while is_told().await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it does not begin again");
    // Connections of other threads may still have to be made again, and what is told meanwhile is lost.
    let again = async {
        while told(&weft, "b.seen").await != "1" {
            weft.send("PUT", "/items/b", "1").await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("nothing is told any more");
}
