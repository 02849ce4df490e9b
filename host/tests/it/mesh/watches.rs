//! Watches of actors that run on several hosts.

use weft_servers::{Nats, Redis};

use super::{Lattice, component};
use crate::support::guests::{KV, WATCHER};
use crate::support::{AppFile, PATIENCE};

/// `kv`, served at `/`, and `reader`, which watches the bucket `items` of one store on a backend.
fn watched(backend: &str) -> AppFile {
    let (kv, watcher) = (component(KV), component(WATCHER));
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv: {{ component: {kv}, links: {{ wasi:keyvalue: {{ provider: values }} }} }}
  reader: {{ component: {watcher}, links: {{ wasi:keyvalue: {{ provider: values }} }} }}
providers:
  values: {{ capability: key-value, backend: {backend} }}
routes:
  - {{ actor: kv }}
watches:
  - {{ provider: values, bucket: items, actor: reader }}
"
    ))
}

impl Lattice {
    async fn set(&self, host: usize, key: &str) {
        let path = format!("/items/{key}");
        let reply = self.hosts[host].send("PUT", &path, "v").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    async fn wait_until_told(&self, key: &str, expected: &str) {
        let path = format!("/told/{key}.sets");
        let told = async || {
            let reply = self.hosts[0].get(&path).await;
            match reply.status {
                200 => reply.text().to_owned(),
                _ => String::new(),
            }
        };
        let wait = async {
            while told().await != expected {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let logs: Vec<_> = self.hosts.iter().map(|host| host.log()).collect();
            let told = told().await;
            panic!("{path} is {told:?}, not {expected}\n{}", logs.join("\n---\n"));
        }
    }

    /// How many changes were told on each host.
    async fn handled(&self) -> Vec<u64> {
        let mut handled = Vec::new();
        for host in &self.hosts {
            let metrics = crate::support::get(host.monitor, "/metrics")
                .await
                .text()
                .to_owned();
            let series =
                "weft_change_count_total{weft_outcome=\"handled\",weft_actor=\"default/store/reader\"} ";
            let count = metrics.lines().find_map(|line| line.strip_prefix(series));
            handled.push(count.map_or(0, |count| count.parse().unwrap()));
        }
        handled
    }
}

/// Each change is handled once, by one of the hosts that run the actor, and all of them take part.
async fn is_told_once(lattice: &Lattice, backend: &str) {
    const KEYS: usize = 40;
    lattice.deploy(&watched(backend)).await;
    for n in 0..KEYS {
        lattice.set(n % lattice.hosts.len(), &format!("k{n}")).await;
    }
    for n in 0..KEYS {
        lattice.wait_until_told(&format!("k{n}"), "1").await;
    }
    let mut handled = lattice.handled().await;
    // A watcher writes down what it is told before its call has ended.
    for _ in 0..100 {
        if handled.iter().sum::<u64>() >= KEYS as u64 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        handled = lattice.handled().await;
    }
    assert_eq!(handled.iter().sum::<u64>(), KEYS as u64, "{handled:?}");
    assert!(handled.iter().all(|handled| *handled > 0), "{handled:?}");
}

#[tokio::test]
async fn a_store_of_one_host_is_watched_on_others_and_one_of_all_that_run_the_actor_is_told() {
    let mut lattice = Lattice::of(3).await;
    is_told_once(&lattice, "memory").await;

    // Where it alone runs it is told all, also on a host that does not have the store.
    lattice.place("reader", "h2").await;
    for n in 0..10 {
        lattice.set(0, &format!("two{n}")).await;
    }
    for n in 0..10 {
        lattice.wait_until_told(&format!("two{n}"), "1").await;
    }
    lattice.place("reader", "h3").await;
    let leaving = lattice.hosts.pop().unwrap();
    tokio::task::spawn_blocking(move || leaving.stop()).await.unwrap();
    for n in 0..10 {
        lattice.set(0, &format!("left{n}")).await;
    }
    for n in 0..10 {
        lattice.wait_until_told(&format!("left{n}"), "1").await;
    }
}

#[tokio::test]
async fn changes_on_nats_are_told_on_one_of_all_hosts_that_run_the_actor() {
    let server = Nats::start_with_jetstream("");
    let lattice = Lattice::of(2).await;
    is_told_once(
        &lattice,
        &format!("nats, config: {{ url: \"{}\" }}", server.url()),
    )
    .await;
}

#[tokio::test]
async fn changes_on_redis_are_told_on_one_of_all_hosts_that_run_the_actor() {
    let server = Redis::start();
    let lattice = Lattice::of(2).await;
    is_told_once(
        &lattice,
        &format!("redis, config: {{ url: \"{}\" }}", server.url()),
    )
    .await;
}

#[tokio::test]
async fn a_watch_from_another_host_ends_when_its_store_allows_it_no_more_and_says_so() {
    let lattice = Lattice::of(2).await;
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
  - {{ actor: kv }}
"
        )
    };
    let (kv, watcher) = (component(KV), component(WATCHER));
    let wants = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: wants
actors:
  kv: {{ component: {kv}, links: {{ wasi:keyvalue: {{ provider: told }} }} }}
  reader: {{ component: {watcher}, links: {{ wasi:keyvalue: {{ provider: told }} }} }}
providers:
  told: {{ capability: key-value, backend: memory }}
routes:
  - {{ actor: kv, path: /wants, stripPrefix: true }}
watches:
  - {{ provider: default/offers/values, bucket: items, shared: true, actor: reader }}
"
    ));
    let offered = AppFile::new(&offers(", allowFrom: [wants]"));
    lattice.deploy(&offered).await;
    lattice.deploy(&wants).await;
    // The store is on the first host.
    lattice.place("wants/reader", "h2").await;
    let told = async |key: &str| {
        let reply = lattice.hosts[0].get(&format!("/wants/told/{key}.sets")).await;
        reply.status == 200
    };
    let wait_until_told = async |key: &str| {
        let wait = async {
            while !told(key).await {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, wait).await;
        assert!(in_time.is_ok(), "{key} was not told: {}", lattice.hosts[1].log());
    };
    lattice.set(0, "before").await;
    wait_until_told("before").await;

    offered.write(&offers(""));
    lattice.cli(&["deploy", offered.path().to_str().unwrap()]);
    let subject = "watch of default/wants/reader on items of default/offers/values";
    let conditions = async || lattice.hosts[1].cli(&["get", "conditions"]).await;
    let denied = async {
        while !conditions().await.contains(subject) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, denied).await;
    assert!(in_time.is_ok(), "{}", lattice.hosts[1].log());
    let said = conditions().await;
    assert!(said.contains("add `default/wants` to the `allowFrom`"), "{said}");
    lattice.set(0, "while").await;

    // What is set once it is allowed again is told, and it would be told after what was set before.
    offered.write(&offers(", allowFrom: [wants]"));
    lattice.deploy(&offered).await;
    lattice.set(0, "after").await;
    wait_until_told("after").await;
    assert!(!told("while").await, "what is watched no more was told");
}
