//! Hosts of a lattice: several processes, a real nats-server between them.

mod clients;
mod credentials;
mod faults;
mod idle;
mod messages;
mod moving;
mod objects;
mod processes;
mod secrets;
mod spread;
mod strangers;
mod under_load;
mod watches;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use serde_json::Value;
use weft_lattice::envelope::FailureKind;
use weft_lattice::rpc::{Call, Client, Place, Stamps};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};
use weft_servers::{Nats, Postgres};

use crate::support::guests::{CALLEE, CALLER, ECHO, HELLO, KV, POSTGRES, SQL};
use crate::support::{AppFile, PATIENCE, Weft, guest, weft};

/// A lattice of hosts `h1`, which has the control store, `h2` and so on.
struct Lattice {
    nats: Nats,
    hosts: Vec<Weft>,
}

impl Lattice {
    /// So many hosts, each of which sees all others.
    async fn of(hosts: usize) -> Self {
        Self::of_with(hosts, "", &[]).await
    }

    /// The same on a server with more configuration, with more arguments for each host.
    async fn of_with(hosts: usize, config: &str, more: &[&str]) -> Self {
        let nats = Nats::start(config);
        let names: Vec<String> = (1..=hosts).map(|n| format!("h{n}")).collect();
        let hosts = names.iter().enumerate().map(|(at, name)| {
            let first: &[&str] = if at == 0 { &["--controller"] } else { &[] };
            Weft::host(
                &nats.url(),
                name,
                &[first, more].concat(),
                Arc::new(tempfile::tempdir().unwrap()),
            )
        });
        let hosts: Vec<Weft> = hosts.collect();
        let lattice = Self { nats, hosts };
        lattice.wait_for_members(names.len()).await;
        lattice
    }

    /// Waits until every host sees so many.
    async fn wait_for_members(&self, count: usize) {
        for host in &self.hosts {
            let mut seen = 0;
            for _ in 0..600 {
                seen = hosts_of(host).await.len();
                if seen == count {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            assert_eq!(seen, count, "{}", host.log());
        }
    }

    /// A command from a machine that only reaches the NATS server.
    fn cli(&self, args: &[&str]) -> String {
        let url = self.nats.url();
        let args: Vec<&str> = args.iter().copied().chain(["--nats", &url]).collect();
        let output = weft(&args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`weft {}`: {error}", args.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Deploys from afar and waits until every host serves it.
    async fn deploy(&self, app: &AppFile) {
        let path = app.path();
        self.cli(&["deploy", path.to_str().unwrap()]);
        self.settle().await;
    }

    async fn place(&self, actor: &str, host: &str) {
        self.cli(&["actor", "place", actor, "--host", host]);
        self.settle().await;
    }

    /// Waits until every host has applied what the first one has, and nothing is amiss.
    async fn settle(&self) {
        let mut states = Vec::new();
        for _ in 0..600 {
            states.clear();
            for host in &self.hosts {
                let own = host.ready["host"].as_str().unwrap().to_owned();
                let all = hosts_of(host).await;
                let own = all.into_iter().find(|seen| seen["host"] == own.as_str()).unwrap();
                states.push((
                    own["applied_index"].as_u64().unwrap(),
                    own["conditions"].as_u64().unwrap(),
                ));
            }
            if states.iter().all(|state| *state == (states[0].0, 0)) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let logs: Vec<_> = self.hosts.iter().map(Weft::log).collect();
        panic!("the hosts did not settle: {states:?}\n{}", logs.join("\n---\n"));
    }
}

/// A port for the monitoring of a NATS server, and its configuration.
fn monitored() -> (u16, String) {
    let port = weft_servers::free_port();
    (port, format!("http: \"127.0.0.1:{port}\""))
}

/// What the monitoring says at `path`.
fn monitor(port: u16, path: &str) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn hosts_of(host: &Weft) -> Vec<Value> {
    let answer = host.cli(&["get", "hosts", "--output", "json"]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["hosts"].as_array().unwrap().clone()
}

fn component(name: &str) -> String {
    guest(name).display().to_string()
}

fn calls() -> AppFile {
    calls_with("timeout: 10s")
}

/// The same with these limits of the callee.
fn calls_with(limits: &str) -> AppFile {
    let (caller, callee) = (component(CALLER), component(CALLEE));
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: calls
actors:
  caller:
    component: {caller}
    links:
      test:call: {{ actor: callee }}
  callee:
    component: {callee}
    limits: {{ {limits} }}
    links:
      test:call/echo: {{ actor: callee }}
routes:
  - actor: caller
"
    ))
}

fn one(name: &str, guest: &str) -> AppFile {
    let component = component(guest);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: {name}
actors:
  {name}: {{ component: {component} }}
routes:
  - actor: {name}
"
    ))
}

#[tokio::test]
async fn what_is_deployed_from_afar_is_served_by_every_host() {
    let lattice = Lattice::of(3).await;
    lattice.deploy(&one("hello", HELLO)).await;
    for host in &lattice.hosts {
        assert_eq!(host.get("/").await.status, 200);
    }
    let actors = lattice.cli(&["get", "actors"]);
    assert!(actors.contains("default/hello/hello"), "{actors}");
    let hosts = lattice.cli(&["get", "hosts"]);
    for name in ["h1", "h2", "h3"] {
        assert!(hosts.contains(name), "{hosts}");
    }
    // Any host may be asked for a change; the controller makes it.
    lattice.hosts[2].cli(&["delete", "app", "hello"]).await;
    lattice.settle().await;
    for host in &lattice.hosts {
        assert_eq!(host.get("/").await.status, 404);
    }
}

#[tokio::test]
async fn an_actor_that_is_placed_elsewhere_is_called_over_the_lattice_with_values_of_every_type() {
    let lattice = Lattice::of(3).await;
    lattice.deploy(&calls()).await;
    lattice.place("caller", "h2").await;
    lattice.place("callee", "h3").await;
    for host in &lattice.hosts {
        assert_eq!(host.get("/mix").await.text(), "same\n");
        assert_eq!(host.get("/sum?first=10").await.text(), "12\n");
        assert_eq!(host.get("/nothing").await.text(), "nothing\n");
        assert_eq!(host.get("/refuse").await.text(), "refused: no reason\n");
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
        let reply = host.send("POST", "/bytes", sent.clone()).await;
        assert!(reply.body == sent, "{} bytes came back", reply.body.len());
    }
    // How a callee ends is told as on one host.
    let reply = lattice.hosts[0].get("/trap").await;
    assert_eq!(reply.problem(), (500, "trap".to_owned()));
    lattice.hosts[2]
        .wait_for_log("the callee was asked to trap")
        .await;
    assert_eq!(lattice.hosts[2].live_instances(), 0);
    // A command calls it wherever it is.
    let called = lattice.cli(&["call", "callee", "test:call/echo.sum", "1, [2, 3], none"]);
    assert!(called.contains('6'), "{called}");

    lattice.cli(&["actor", "unplace", "callee", "--host", "h3"]);
    lattice.settle().await;
    assert_eq!(lattice.hosts[0].get("/mix").await.text(), "same\n");
}

#[tokio::test]
async fn a_call_that_comes_from_an_app_that_is_not_allowed_is_denied_where_it_arrives() {
    let lattice = Lattice::of(1).await;
    lattice.deploy(&calls()).await;
    let hosts = hosts_of(&lattice.hosts[0]).await;
    let address = hosts[0]["lattice"]["address"].as_str().unwrap();
    // As a host would say it that does not look at what is allowed.
    let settings = NatsSettings::new(vec![lattice.nats.url()], "stranger", Role::Calls);
    let transport = NatsTransport::connect(&settings).await.unwrap();
    let subjects = Subjects::new("default").unwrap();
    let client = Client::new(
        Arc::new(transport),
        subjects.clone(),
        Address::new("stranger", 1).unwrap(),
        Place::default(),
        Stamps::starting_at(0),
        1,
    );
    let call = async |caller: &str| {
        let call = Call {
            target: "default/calls/callee".to_owned(),
            interface: "test:call/echo".to_owned(),
            function: "sum".to_owned(),
            body: bytes::Bytes::new(),
            deadline: tokio::time::Instant::now() + PATIENCE,
            hops: 0,
            trace: None,
            caller: caller.to_owned(),
            idempotent: false,
            patient: false,
            stream: None,
        };
        let at = client.at_subject(subjects.call(address, "default").unwrap());
        client.call(&at, call).await.unwrap_err()
    };
    let denied = call("default/other/caller").await;
    assert_eq!(denied.kind, FailureKind::Denied);
    assert!(denied.to_string().contains("add `default/other`"), "{denied}");
    // One of its own app is let in, and gets as far as the arguments, of which there are none.
    let let_in = call("default/calls/caller").await;
    assert!(!let_in.to_string().contains("allowFrom"), "{let_in}");
}

#[tokio::test]
async fn a_read_of_a_store_by_an_app_that_is_not_allowed_is_denied_by_the_host_that_has_it() {
    let lattice = Lattice::of(2).await;
    let app = |allowed: &str| {
        AppFile::new(&format!(
            "
apiVersion: weft/v1
name: store
actors:
  kv:
    component: {}
    links:
      wasi:keyvalue: {{ provider: values }}
providers:
  values: {{ capability: key-value, backend: memory, allowFrom: [{allowed}] }}
routes:
  - {{ actor: kv, path: / }}
",
            component(KV)
        ))
    };
    lattice.deploy(&app("default/friend")).await;
    // An actor's own calls from the other host name it, and are let in.
    assert_eq!(
        lattice.hosts[1].send("PUT", "/one/key", "value").await.status,
        200
    );
    let hosts = hosts_of(&lattice.hosts[0]).await;
    let first = hosts.iter().find(|host| host["name"] == "h1").unwrap();
    let address = first["lattice"]["address"].as_str().unwrap();
    let settings = NatsSettings::new(vec![lattice.nats.url()], "stranger", Role::Calls);
    let transport = NatsTransport::connect(&settings).await.unwrap();
    let subjects = Subjects::new("default").unwrap();
    let client = Client::new(
        Arc::new(transport),
        subjects.clone(),
        Address::new("stranger", 1).unwrap(),
        Place::default(),
        Stamps::starting_at(0),
        1,
    );
    // `exists` of `k` in the bucket of no name of `default/store`.
    let args = b"\x82\x6fdefault\0store\0\0\x61k";
    let exists = async |caller: &str| {
        let call = Call {
            target: "default/store/values".to_owned(),
            interface: "weft:provider/key-value@1.0.0".to_owned(),
            function: "exists".to_owned(),
            body: bytes::Bytes::from_static(args),
            deadline: tokio::time::Instant::now() + PATIENCE,
            hops: 0,
            trace: None,
            caller: caller.to_owned(),
            idempotent: false,
            patient: false,
            stream: None,
        };
        let at = client.at_subject(subjects.call(address, "default").unwrap());
        client.call(&at, call).await.map(|answer| answer.body)
    };
    let denied = exists("default/other/kv").await.unwrap_err();
    assert_eq!(denied.kind, FailureKind::Denied);
    assert!(!denied.may_have_started);
    assert!(denied.to_string().contains("add `default/other`"), "{denied}");
    // A host of the version before names itself, and has looked before it called.
    for caller in ["default/store/kv", "default/friend/kv", "h9"] {
        assert_eq!(
            exists(caller).await.unwrap(),
            b"\x81\x82\x62ok\xf4"[..],
            "{caller}"
        );
    }
    // One that comes before the host has heard that it is allowed waits for that.
    let changed = app("default/friend, default/other");
    let change = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        lattice.hosts[0]
            .cli(&["deploy", changed.path().to_str().unwrap()])
            .await;
    };
    let early = async {
        // The command takes some time to start.
        for _ in 0..20 {
            if exists("default/other/kv").await.is_ok() {
                return;
            }
        }
        panic!("it was denied to the end");
    };
    tokio::join!(change, early);
}

#[tokio::test]
async fn bodies_of_any_length_go_both_ways_to_another_host() {
    let lattice = Lattice::of(2).await;
    lattice.deploy(&one("echo", ECHO)).await;
    lattice.place("echo", "h2").await;
    for len in [0, 1, 1 << 10, 64 << 10, (64 << 10) + 1, 5 << 20] {
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
        let reply = lattice.hosts[0].send("POST", "/", sent.clone()).await;
        assert_eq!(reply.status, 200, "{len} bytes: {:?}", reply.text());
        assert!(
            reply.body == sent,
            "{len} bytes came back as {}",
            reply.body.len()
        );
    }
    for host in &lattice.hosts {
        host.wait_until_idle().await;
    }
}

#[tokio::test]
async fn a_store_in_a_file_is_one_for_the_actors_of_all_hosts() {
    let lattice = Lattice::of(3).await;
    let (kv, sql) = (component(KV), component(SQL));
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: values }}
  sql:
    component: {sql}
    links:
      weft:sql: {{ provider: tables }}
providers:
  values: {{ capability: key-value, backend: redb }}
  tables: {{ capability: sql, backend: sqlite }}
routes:
  - {{ actor: kv, path: / }}
  - {{ actor: sql, path: /sql, stripPrefix: true }}
"
    ));
    lattice.deploy(&app).await;
    for (at, host) in lattice.hosts.iter().enumerate() {
        let path = format!("/one/key-{at}");
        assert_eq!(host.send("PUT", &path, format!("{at}")).await.status, 200);
        let counted = host.send("POST", "/incr/n?by=1&bucket=one", "").await;
        assert_eq!(counted.text().trim(), format!("{}", at + 1));
    }
    for host in &lattice.hosts {
        for at in 0..lattice.hosts.len() {
            assert_eq!(host.get(&format!("/one/key-{at}")).await.text(), format!("{at}"));
        }
    }
}

#[tokio::test]
async fn a_host_that_drains_under_load_loses_no_request() {
    let mut lattice = Lattice::of(3).await;
    lattice.deploy(&calls()).await;
    lattice.place("callee", "h2").await;
    lattice.place("callee", "h3").await;
    lattice.place("caller", "h1").await;
    let leaving = lattice.hosts.remove(1);
    let first = &lattice.hosts[0];
    let over = std::cell::Cell::new(false);
    let client = async |_: usize| {
        let mut answers = 0;
        while !over.get() {
            let reply = first.get("/mix").await;
            assert_eq!((reply.status, reply.text()), (200, "same\n"));
            answers += 1;
        }
        answers
    };
    let stop = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let stopped = tokio::task::spawn_blocking(move || leaving.stop());
        stopped.await.unwrap();
        over.set(true);
    };
    let (answers, ()) = tokio::join!(futures::future::join_all((0..4).map(client)), stop);
    assert!(answers.iter().all(|count| *count > 0), "{answers:?}");
    lattice.wait_for_members(2).await;
}

#[test]
fn a_host_says_all_that_is_wrong_with_its_lattice_at_once() {
    let output = weft(&["host", "--lattice", "a.b", "--label", "x", "--label", "=y"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    for part in ["--nats", "a.b", "`x`", "`=y`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let data = tempfile::tempdir().unwrap();
    let output = weft(&[
        "host",
        "--nats",
        "nats://user:password@127.0.0.1:1",
        "--data",
        data.path().to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(4));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert!(!error.contains("password"), "{error}");
}

#[test]
fn a_url_of_nats_that_is_none_is_wrong_usage_and_not_repeated() {
    for command in [&["host"][..], &["get", "hosts"]] {
        let output = weft(&[command, &["--nats", "nats://a:1,nats://user:pass/word@b"]].concat());
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("--nats, URL 2: "), "{error}");
        assert!(error.contains("expected nats://HOST:PORT"), "{error}");
        assert!(!error.contains("word"), "{error}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_by_the_data_folder_is_kept() {
    let lattice = Lattice::of(1).await;
    let data = lattice.hosts[0].data.clone();
    let url = lattice.nats.url();
    drop(lattice.hosts);
    let output = weft(&[
        "host",
        "--nats",
        &url,
        "--name",
        "other",
        "--data",
        data.path().to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(4));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("`h1`"), "{error}");
}

#[tokio::test]
async fn a_host_without_a_name_makes_one_up_and_keeps_it() {
    let nats = Nats::start("");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("nats: {}\ncontroller: true\n", nats.url())).unwrap();
    let data = Arc::new(tempfile::tempdir().unwrap());
    let name = async |host: &Weft| hosts_of(host).await[0]["host"].as_str().unwrap().to_owned();
    let host = Weft::host_by(file.path(), &[], data);
    let first = name(&host).await;
    assert!(first.parse::<weft_compose::HostName>().is_ok(), "{first}");
    let again = Weft::host_by(file.path(), &[], host.stop());
    assert_eq!(name(&again).await, first);
}

#[tokio::test]
async fn a_second_controller_is_refused_and_told_which_is_the_first() {
    let lattice = Lattice::of(1).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let (url, port) = (lattice.nats.url(), "127.0.0.1:0");
    // One that was started like the first, on another machine, is none of its runs.
    for (name, folder) in [("h2", "a"), ("h1", "b")] {
        let data = format!("{data}/{folder}");
        let output = weft(&[
            "host",
            "--nats",
            &url,
            "--name",
            name,
            "--controller",
            "--data",
            &data,
            "--http",
            port,
        ]);
        assert_eq!(output.status.code(), Some(4));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("has a controller already, h1"), "{error}");
        assert!(error.contains("without --controller"), "{error}");
    }
}

/// Waits until `weft get conditions` on a host has all of `texts`, or where `is_told` is false none of them.
async fn conditions(host: &Weft, texts: &[&str], is_told: bool) {
    let mut told = String::new();
    for _ in 0..300 {
        told = host.cli(&["get", "conditions"]).await;
        if texts.iter().all(|text| told.contains(text) == is_told) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{texts:?}: {told}\n{}", host.log());
}

/// A host that was started with the name of the controller was asked for the records in its place, and answered that it had
/// none; nobody was told.
#[tokio::test]
async fn two_hosts_of_one_name_are_a_condition_of_both_and_the_records_come_from_the_controller() {
    let lattice = Lattice::of(2).await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let other = Weft::host(&lattice.nats.url(), "h1", &[], folder);
    for host in [&lattice.hosts[0], &other] {
        conditions(
            host,
            &["another host is called h1 too", "--name of its own"],
            true,
        )
        .await;
    }
    let app = one("hello", HELLO);
    lattice.cli(&["deploy", app.path().to_str().unwrap()]);
    let served = async {
        while lattice.hosts[1].get("/").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let served = tokio::time::timeout(PATIENCE, served).await;
    assert!(served.is_ok(), "{}", lattice.hosts[1].log());
    other.stop();
    conditions(&lattice.hosts[0], &["another host"], false).await;
}

#[tokio::test]
async fn an_actor_that_is_placed_on_hosts_that_are_not_there_is_a_condition() {
    let lattice = Lattice::of(2).await;
    lattice.deploy(&one("hello", HELLO)).await;
    lattice.cli(&["actor", "place", "hello", "--host", "h3"]);
    for host in &lattice.hosts {
        let told = ["hello/hello", "no host is there that it is placed on (h3)"];
        conditions(host, &told, true).await;
    }
    assert_eq!(lattice.hosts[1].get("/").await.status, 503);
    lattice.cli(&["actor", "place", "hello", "--host", "h2"]);
    lattice.settle().await;
    assert_eq!(lattice.hosts[0].get("/").await.status, 200);
}

#[tokio::test]
async fn a_host_is_told_its_settings_by_a_file_and_a_flag_wins_over_it() {
    let nats = Nats::start("");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.yaml");
    let text = "nats: URL\nname: h1\ncontroller: true\nlabel: { region: eu, zone: a }\nunload-after: 5m\n";
    std::fs::write(&file, text.replace("URL", &nats.url())).unwrap();
    let data = Arc::new(tempfile::tempdir().unwrap());
    let host = Weft::host_by(&file, &["--label", "region=us"], data);
    let told = &hosts_of(&host).await[0];
    assert_eq!((&told["host"], &told["controller"]), (&"h1".into(), &true.into()));
    assert_eq!(told["labels"], serde_json::json!({ "region": "us" }));

    std::fs::write(
        &file,
        "nats: [nats://127.0.0.1:1]\nhttp: nowhere\nlabels: { region: eu }\n",
    )
    .unwrap();
    let output = weft(&["host", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    for part in [
        "host.yaml:2:7",
        "'nowhere'",
        "host.yaml:3:1",
        "did you mean `label`?",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn inspect_tells_from_afar_which_providers_of_the_lattice_there_are_for_each_import() {
    let kv = component(KV);
    let lattice = Lattice::of(2).await;
    let inspect = || lattice.cli(&["inspect", &kv]);
    let none = inspect();
    assert!(
        none.contains("by a link to a provider of key-value: there is none\n"),
        "{none}"
    );
    let server = Postgres::start();
    lattice
        .deploy(&AppFile::new(&format!(
            "
apiVersion: weft/v1
name: stores
providers:
  values: {{ capability: key-value, backend: redb }}
  carts: {{ capability: key-value, backend: memory }}
  tables: {{ capability: sql, backend: sqlite }}
  ledger: {{ capability: sql, backend: postgres, config: {{ url: \"{}\" }} }}
",
            server.url()
        )))
        .await;
    // One that is made for a single backend is offered no other.
    let asked = lattice.cli(&["inspect", &component(POSTGRES)]);
    let ledger = "a provider of sql on postgres: default/stores/ledger (postgres)";
    assert!(asked.contains(ledger) && !asked.contains("tables"), "{asked}");
    let asked = inspect();
    let named = "a provider of key-value: default/stores/carts (memory), default/stores/values (redb)\n";
    assert!(asked.contains(named) && !asked.contains("tables"), "{asked}");
    let asked: Value = serde_json::from_str(&lattice.cli(&["inspect", &kv, "--output", "json"])).unwrap();
    let imports = asked["imports"].as_array().unwrap();
    let of = |name: &str| imports.iter().find(|import| import["name"] == name).unwrap();
    let store = of("wasi:keyvalue/store@0.2.0-draft");
    assert_eq!(
        (&store["capability"], store["providers"].as_array().unwrap().len()),
        (&"key-value".into(), 2)
    );
    let other = imports
        .iter()
        .find(|import| import["capability"].is_null())
        .unwrap();
    assert!(other["providers"].is_null(), "{other}");
}
