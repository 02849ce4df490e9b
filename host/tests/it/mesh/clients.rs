//! Clients and tools that are no hosts: what their rights let them do, and nothing else.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use weft_lattice::envelope::{Failure, FailureKind, HttpRequest, HttpResponse, InvocationId, Reply, Request};
use weft_lattice::subject::Address;
use weft_servers::Nats;

use super::{Lattice, calls, component, hosts_of, one};
use crate::support::guests::{FAULT, HELLO};
use crate::support::{AppFile, PATIENCE, Weft, guest, weft};

/// What a client may do for which the table in docs/wire.md gives rights.
struct User {
    name: &'static str,
    subscribe: Vec<String>,
    publish: Vec<String>,
    answers: bool,
}

fn texts(subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|subject| (*subject).to_owned()).collect()
}

impl User {
    fn host(name: &'static str, inbox: &str) -> Self {
        let own = vec!["weft.default.>".to_owned(), format!("_INBOX_{inbox}.>")];
        Self {
            name,
            subscribe: own.clone(),
            publish: own,
            answers: true,
        }
    }

    fn asks(name: &'static str, inbox: &str, publish: &[&str]) -> Self {
        let inbox = format!("_INBOX_{inbox}.>");
        let mut publish = texts(publish);
        publish.push(inbox.clone());
        Self {
            name,
            subscribe: vec![inbox],
            publish,
            answers: false,
        }
    }

    /// Its part of the server's configuration; its seed is written into `folder`.
    fn configured(&self, folder: &Path) -> String {
        let keys = nkeys::KeyPair::new_user();
        std::fs::write(folder.join(self.name), keys.seed().unwrap()).unwrap();
        let Self {
            subscribe, publish, ..
        } = self;
        let answers = if self.answers {
            ", allow_responses: true"
        } else {
            ""
        };
        format!(
            "{{ nkey: {}, permissions: {{ subscribe: {subscribe:?}, publish: {publish:?}{answers} }} }}\n",
            keys.public_key()
        )
    }
}

/// A lattice whose server knows who may do what.
struct Fenced {
    lattice: Lattice,
    keys: TempDir,
}

impl Fenced {
    async fn of(hosts: usize) -> Self {
        Self::of_with(hosts, "").await
    }

    /// The same on a server with more configuration.
    async fn of_with(hosts: usize, config: &str) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let users = [
            User::host("h1", "h1"),
            User::host("h2", "h2"),
            User::host("h3", "h3"),
            User::host("operator", "cli"),
            User::asks("client", "client", &["weft.default.front.default.>"]),
            User::asks("reader", "tool_team", &["weft.default.api.read.team"]),
            User::asks("stranger", "tool_other", &["weft.default.api.read.other"]),
            User::asks(
                "writer",
                "tool_team",
                &["weft.default.api.read.team", "weft.default.api.write.team"],
            ),
        ];
        let users: Vec<_> = users.iter().map(|user| user.configured(keys.path())).collect();
        let users = users.concat();
        let nats = Nats::start(&format!("authorization {{ users: [\n{users}] }}\n{config}"));
        let hosts = ["h1", "h2", "h3"].into_iter().take(hosts).enumerate();
        let hosts = hosts.map(|(at, name)| {
            let key = keys.path().join(name).display().to_string();
            let mut args = vec!["--nats-nkey", key.as_str()];
            args.extend((at == 0).then_some("--controller"));
            Weft::host(&nats.url(), name, &args, Arc::new(tempfile::tempdir().unwrap()))
        });
        let hosts: Vec<Weft> = hosts.collect();
        let lattice = Lattice { nats, hosts };
        lattice.wait_for_members(lattice.hosts.len()).await;
        Self { lattice, keys }
    }

    fn key(&self, user: &str) -> PathBuf {
        self.keys.path().join(user)
    }

    /// A command as `user`, from a machine that only reaches the NATS server.
    fn run(&self, user: &str, args: &[&str]) -> Output {
        let (url, key) = (self.lattice.nats.url(), self.key(user).display().to_string());
        weft(&[args, &["--nats", &url, "--nats-nkey", &key]].concat())
    }

    fn done(&self, user: &str, args: &[&str]) -> String {
        let output = self.run(user, args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{}` as {user}: {error}", args.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same in the namespace `team`, or what it was refused with.
    fn in_team(&self, user: &str, args: &[&str]) -> Result<String, String> {
        let output = self.run(user, &[args, &["--namespace", "team"]].concat());
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// A command as `user` that goes on, with its lines as they come.
    fn follow(&self, user: &str, args: &[&str]) -> Follower {
        let (url, key) = (self.lattice.nats.url(), self.key(user).display().to_string());
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(args)
            .args(["--nats", &url, "--nats-nkey", &key])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let read = lines.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                read.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Follower { child, lines }
    }

    /// A tool of a namespace that is nothing but a NATS client.
    async fn tool(&self, user: &str, namespace: &str) -> async_nats::Client {
        let seed = std::fs::read_to_string(self.key(user)).unwrap();
        let options = ConnectOptions::with_nkey(seed).custom_inbox_prefix(format!("_INBOX_tool_{namespace}"));
        options.connect(self.lattice.nats.url()).await.unwrap()
    }

    async fn deploy(&self, app: &AppFile) {
        self.done("operator", &["deploy", app.path().to_str().unwrap()]);
        self.lattice.settle().await;
    }

    /// A client that is nothing but a NATS client, and how often the server refused it something.
    async fn client(&self) -> (async_nats::Client, Arc<AtomicUsize>) {
        let seed = std::fs::read_to_string(self.key("client")).unwrap();
        let refused = Arc::<AtomicUsize>::default();
        let counted = refused.clone();
        let options = ConnectOptions::with_nkey(seed)
            .custom_inbox_prefix("_INBOX_client")
            .event_callback(move |event| {
                if let Event::ServerError(_) = event {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                std::future::ready(())
            });
        (options.connect(self.lattice.nats.url()).await.unwrap(), refused)
    }
}

/// A command that goes on.
struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Follower {
    fn has(&self, is_it: impl Fn(&Value) -> bool) -> bool {
        self.lines.lock().unwrap().iter().any(is_it)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `sum(1, [2, 3], none)` of the callee, as docs/wire.md has it.
fn sum() -> Request {
    Request {
        id: InvocationId::random(),
        target: "default/calls/callee".to_owned(),
        interface: "test:call/echo".to_owned(),
        function: "sum".to_owned(),
        remaining_ms: 10_000,
        sent_ms: 0,
        from: None,
        echo_ms: None,
        stream: None,
        hops: 0,
        trace: None,
        caller: "a test".to_owned(),
        revision: None,
        body: Bytes::from_static(&[0x83, 0x01, 0x82, 0x02, 0x03, 0x80]),
    }
}

const CALLEE: &str = "weft.default.front.default.calls.callee";

async fn call(client: &async_nats::Client, request: &Request) -> Result<Bytes, Failure> {
    call_at(client, CALLEE, request).await
}

async fn call_at(client: &async_nats::Client, subject: &str, request: &Request) -> Result<Bytes, Failure> {
    let answer = client
        .request(subject.to_owned(), request.encode().unwrap())
        .await;
    let reply = Reply::decode(&answer.unwrap().payload).unwrap();
    assert_eq!(reply.id, request.id);
    reply.outcome
}

/// The sum of a counter's series that have `label`, over all hosts.
async fn counted(lattice: &Lattice, name: &str, label: &str) -> u64 {
    let mut sum = 0;
    for host in &lattice.hosts {
        let text = crate::support::get(host.monitor, "/metrics").await;
        let lines = text.text().lines().map(str::to_owned).collect::<Vec<_>>();
        let lines = lines
            .iter()
            .filter(|line| line.starts_with(name) && line.contains(label));
        sum += lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum::<u64>();
    }
    sum
}

#[tokio::test]
async fn a_plain_client_calls_actors_by_their_subjects_and_reaches_nothing_else() {
    let fenced = Fenced::of(2).await;
    fenced.deploy(&calls()).await;
    fenced.done("operator", &["actor", "place", "callee", "--host", "h2"]);
    fenced.lattice.settle().await;
    let (client, refused) = fenced.client().await;
    // Whichever host takes it, the one that runs the actor answers.
    for _ in 0..20 {
        assert_eq!(call(&client, &sum()).await, Ok(Bytes::from_static(&[0x81, 0x06])));
    }
    let passed = counted(&fenced.lattice, "weft_front_calls_total", "\"ok\"").await;
    assert_eq!(passed, 20);

    let kind =
        |outcome: Result<Bytes, Failure>| outcome.map_err(|failure| (failure.kind, failure.may_have_started));
    let trap = Request {
        function: "trap".to_owned(),
        body: Bytes::from_static(&[0x80]),
        ..sum()
    };
    assert_eq!(kind(call(&client, &trap).await), Err((FailureKind::Trap, true)));
    let no_function = Request {
        function: "nothing-like-it".to_owned(),
        ..sum()
    };
    assert_eq!(
        kind(call(&client, &no_function).await),
        Err((FailureKind::NotFound, false))
    );
    let wrong_arguments = Request {
        body: Bytes::from_static(&[0x81, 0x01]),
        ..sum()
    };
    assert_eq!(
        kind(call(&client, &wrong_arguments).await),
        Err((FailureKind::Denied, false))
    );
    let nobody = Request {
        target: "default/calls/nobody".to_owned(),
        ..sum()
    };
    let at_nobody = call_at(&client, "weft.default.front.default.calls.nobody", &nobody).await;
    assert_eq!(kind(at_nobody), Err((FailureKind::NotFound, false)));
    // The subject says whom it may call, and not the request.
    let other = Request {
        target: "default/calls/caller".to_owned(),
        ..sum()
    };
    assert_eq!(
        kind(call(&client, &other).await),
        Err((FailureKind::Denied, false))
    );
    let too_far = Request { hops: 33, ..sum() };
    assert_eq!(
        kind(call(&client, &too_far).await),
        Err((FailureKind::Denied, false))
    );
    let late = Request {
        remaining_ms: 0,
        ..sum()
    };
    assert_eq!(
        kind(call(&client, &late).await),
        Err((FailureKind::Deadline, false))
    );
    // A client that says it is a host is none: nothing is believed of its clock.
    let members = hosts_of(&fenced.lattice.hosts[0]).await;
    let address = members[1]["address"]
        .as_str()
        .or(members[0]["address"].as_str())
        .unwrap();
    let pretends = Request {
        from: Some(Address::parse(address).unwrap()),
        sent_ms: u64::MAX / 2,
        ..sum()
    };
    assert_eq!(
        call(&client, &pretends).await,
        Ok(Bytes::from_static(&[0x81, 0x06]))
    );
    // A call that comes again while its caller waits does not run again, by whichever host it comes.
    let once = sum();
    assert!(call(&client, &once).await.is_ok());
    let again = (0..4).map(|_| {
        let again = client.request(CALLEE, once.encode().unwrap());
        tokio::time::timeout(Duration::from_secs(1), again)
    });
    let again = futures::future::join_all(again).await;
    assert!(again.iter().all(Result::is_err), "{again:?}");

    assert_eq!(refused.load(Ordering::Relaxed), 0);
    let own = |rest: &str| format!("weft.default.{rest}");
    let subjects = [
        own(&format!("h.{address}.call.default")),
        own(&format!("h.{address}.ctl")),
        own("front.other.calls.callee"),
        own("api.read.default"),
        own("api.write.default"),
        own("api.controller"),
        own("p.default.calls.store"),
    ];
    for subject in &subjects {
        let asked = client.request(subject.clone(), sum().encode().unwrap());
        let asked = tokio::time::timeout(Duration::from_millis(200), asked).await;
        assert!(!matches!(asked, Ok(Ok(_))), "{subject} was answered");
    }
    let _listens = client.subscribe("weft.default.>").await.unwrap();
    client.flush().await.unwrap();
    let all = subjects.len() + 1;
    crate::support::wait_until("the server has refused all", || {
        refused.load(Ordering::Relaxed) >= all
    })
    .await;
}

#[tokio::test]
async fn a_host_that_drains_loses_no_call_of_a_client() {
    let mut fenced = Fenced::of(3).await;
    fenced.deploy(&calls()).await;
    let (client, _) = fenced.client().await;
    let leaving = fenced.lattice.hosts.remove(1);
    let over = std::cell::Cell::new(false);
    let calling = async |_: usize| {
        let mut answers = 0;
        while !over.get() {
            assert_eq!(call(&client, &sum()).await, Ok(Bytes::from_static(&[0x81, 0x06])));
            answers += 1;
        }
        answers
    };
    let stop = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::spawn_blocking(move || leaving.stop()).await.unwrap();
        over.set(true);
    };
    let (answers, ()) = tokio::join!(futures::future::join_all((0..4).map(calling)), stop);
    assert!(answers.iter().all(|count| *count > 0), "{answers:?}");
}

/// The component `hello` with so many bytes more that nothing reads.
fn padded(len: usize) -> Vec<u8> {
    let mut bytes = std::fs::read(guest(HELLO)).unwrap();
    let content = [&[3][..], b"pad", &vec![7; len]].concat();
    bytes.push(0);
    let mut rest = content.len();
    while rest >= 0x80 {
        bytes.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes.extend(content);
    bytes
}

fn team_app(namespace: &str) -> AppFile {
    let app = AppFile::new("");
    let component = app.beside("padded.wasm", padded(2 << 20));
    app.write(&format!(
        "
apiVersion: weft/v1
namespace: {namespace}
name: greeter
actors:
  hello: {{ component: {} }}
routes:
  - {{ actor: hello, path: /team, stripPrefix: true }}
",
        component.display()
    ));
    app
}

#[tokio::test]
async fn a_tool_of_one_namespace_reads_and_changes_that_and_nothing_else() {
    let fenced = Fenced::of(2).await;
    fenced.deploy(&one("hello", HELLO)).await;
    // A component that is longer than a message, by way of whichever host takes each piece.
    let app = team_app("team");
    let file = app.path();
    let file = file.to_str().unwrap();
    let deployed = fenced.in_team("writer", &["deploy", file]).unwrap();
    assert!(deployed.contains("app team/greeter"), "{deployed}");
    fenced.lattice.settle().await;
    for host in &fenced.lattice.hosts {
        assert_eq!(host.get("/team/plain").await.status, 200);
    }

    // Asked several times, as any host may answer.
    for _ in 0..6 {
        let apps = fenced
            .in_team("reader", &["get", "apps", "--output", "json"])
            .unwrap();
        let apps: serde_json::Value = serde_json::from_str(&apps).unwrap();
        let apps = apps["apps"].as_array().unwrap();
        assert_eq!(apps.len(), 1, "{apps:?}");
        assert_eq!(apps[0]["name"], "team/greeter");
        let by = apps[0]["by"].as_str().unwrap();
        assert!(by.starts_with("lattice:tool:team as uid:"), "{by}");
    }
    for kind in [
        "actors",
        "providers",
        "links",
        "subscriptions",
        "conditions",
        "secrets",
    ] {
        let shown = fenced.in_team("reader", &["get", kind]).unwrap();
        assert!(!shown.contains("default/"), "{kind}: {shown}");
    }

    // Of the whole lattice, or in another namespace.
    let elsewhere = team_app("default");
    let elsewhere = elsewhere.path();
    let linked = AppFile::new(&format!(
        "
apiVersion: weft/v1
namespace: team
name: thief
actors:
  kv:
    component: {}
    links: {{ wasi:keyvalue: {{ provider: default/store/values }} }}
",
        component(crate::support::guests::KV)
    ));
    let linked = linked.path();
    for (args, told) in [
        (&["get", "hosts"][..], "whole lattice"),
        (&["artifacts"], "whole lattice"),
        (&["artifacts", "gc"], "whole lattice"),
        (&["secret", "reseal"], "whole lattice"),
        (&["get", "actors", "default/hello/hello"], "in `default`"),
        (&["delete", "app", "default/hello"], "in `default`"),
        (
            &["actor", "place", "default/hello/hello", "--host", "h1"],
            "in `default`",
        ),
        (
            &["link", "put", "default/hello/hello", "wasi:keyvalue", "--to", "x"],
            "in `default`",
        ),
        (&["call", "default/hello/hello", "a:b/c.d"], "in `default`"),
        (&["deploy", elsewhere.to_str().unwrap()], "in `default`"),
        (&["deploy", linked.to_str().unwrap()], "in `default`"),
    ] {
        let refused = fenced.in_team("writer", args).unwrap_err();
        assert!(refused.contains(told), "{args:?}: {refused}");
    }
    // A short name is one of its own.
    let unknown = fenced.in_team("writer", &["actor", "place", "nobody", "--host", "h1"]);
    let unknown = unknown.unwrap_err();
    assert!(unknown.contains("no actor `nobody`"), "{unknown}");

    // Who may only read does not get far enough to be refused by a host.
    let refused = fenced
        .in_team("reader", &["delete", "app", "team/greeter"])
        .unwrap_err();
    assert!(
        refused.contains("publish to `weft.default.api.write.team`"),
        "{refused}"
    );
    // And nobody gets into a namespace by naming it.
    let other = fenced.run("writer", &["get", "apps", "--namespace", "default"]);
    assert!(!other.status.success());
    let other = String::from_utf8(other.stderr).unwrap();
    assert!(other.contains("NATS"), "{other}");

    // Any host takes a change: the controller makes it.
    for _ in 0..4 {
        fenced
            .in_team("writer", &["actor", "place", "hello", "--host", "h2"])
            .unwrap();
        fenced
            .in_team("writer", &["actor", "unplace", "hello", "--host", "h2"])
            .unwrap();
    }
    fenced
        .in_team("writer", &["delete", "app", "team/greeter"])
        .unwrap();
    fenced.lattice.settle().await;
    assert_eq!(fenced.lattice.hosts[1].get("/team/plain").await.status, 404);
    assert_eq!(fenced.lattice.hosts[1].get("/").await.status, 200);
    assert!(counted(&fenced.lattice, "weft_front_requests_total", "\"ok\"").await > 20);
}

#[tokio::test]
async fn a_read_is_no_write_whatever_subject_it_comes_on() {
    let fenced = Fenced::of(1).await;
    let seed = std::fs::read_to_string(fenced.key("writer")).unwrap();
    let options = ConnectOptions::with_nkey(seed).custom_inbox_prefix("_INBOX_tool_team");
    let tool = options.connect(fenced.lattice.nats.url()).await.unwrap();
    let ask = async |subject: &str, method: &str, uri: &str, target: &str| {
        let asked = weft_lattice::envelope::HttpRequest {
            method: method.to_owned(),
            uri: uri.to_owned(),
            secure: false,
            // It is overwritten by who takes it.
            headers: vec![("weft-namespace".to_owned(), Bytes::from_static(b"default"))],
            body: Some(Bytes::new()),
        };
        let request = Request {
            target: target.to_owned(),
            interface: "weft:host/api@1.0.0".to_owned(),
            function: "handle".to_owned(),
            body: asked.encode().unwrap(),
            ..sum()
        };
        call_at(&tool, &format!("weft.default.api.{subject}.team"), &request).await
    };
    let denied = |outcome: Result<Bytes, Failure>| outcome.unwrap_err().kind == FailureKind::Denied;
    assert!(ask("read", "GET", "/v1/apps", "team/weft/api").await.is_ok());
    assert!(denied(
        ask("read", "DELETE", "/v1/apps/team/greeter", "team/weft/api").await
    ));
    assert!(denied(ask("write", "GET", "/v1/apps", "team/weft/api").await));
    assert!(denied(ask("read", "GET", "/v1/apps", "default/weft/api").await));
    let apps = ask("write", "DELETE", "/v1/apps/default/hello", "team/weft/api")
        .await
        .unwrap();
    let apps = weft_lattice::envelope::HttpResponse::decode(&apps).unwrap();
    assert_eq!(apps.status, 403);
}

/// A request of a tool of `team`, with or without the header by which it takes the answer in parts.
fn request_of_tool(uri: &str, in_parts: bool) -> Request {
    let parts = ("weft-parts".to_owned(), Bytes::from_static(b"1"));
    let asked = HttpRequest {
        method: "GET".to_owned(),
        uri: uri.to_owned(),
        secure: false,
        headers: in_parts.then_some(parts).into_iter().collect(),
        body: Some(Bytes::new()),
    };
    Request {
        target: "team/weft/api".to_owned(),
        interface: "weft:host/api@1.0.0".to_owned(),
        function: "handle".to_owned(),
        body: asked.encode().unwrap(),
        remaining_ms: 30_000,
        ..sum()
    }
}

/// The request for the part after `part`.
fn request_of_rest(namespace: &str, part: &HttpResponse) -> Request {
    let rest = part.headers.iter().find(|(name, _)| name == "weft-rest");
    Request {
        target: format!("{namespace}/weft/api"),
        function: "rest".to_owned(),
        body: rest.unwrap().1.clone(),
        ..request_of_tool("/", true)
    }
}

#[tokio::test]
async fn an_answer_that_is_longer_than_a_message_reaches_a_tool_in_parts_and_nobody_else() {
    const APPS: usize = 12;
    const ACTORS: usize = 50;
    // The shortest that a plain body between hosts fits into.
    let fenced = Fenced::of_with(2, "max_payload: 131072").await;
    for app in 0..APPS {
        let actors = (0..ACTORS).map(|at| format!("  actor-{at}: {{ component: {} }}\n", component(HELLO)));
        let actors: String = actors.collect();
        let head = "apiVersion: weft/v1\nnamespace: team";
        fenced
            .deploy(&AppFile::new(&format!(
                "{head}\nname: app-{app}\nactors:\n{actors}"
            )))
            .await;
    }
    // Asked several times, as any host may answer, and any other be asked for the rest.
    for _ in 0..6 {
        let shown = fenced.in_team("reader", &["get", "actors", "--output", "json"]);
        let shown = shown.unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["actors"].as_array().unwrap().len(), APPS * ACTORS);
    }

    let reader = fenced.tool("reader", "team").await;
    let stranger = fenced.tool("stranger", "other").await;
    let own = async |request: &Request| call_at(&reader, "weft.default.api.read.team", request).await;
    let refused = own(&request_of_tool("/v1/actors", false)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unavailable);
    assert!(refused.detail.contains("ask for it in parts"), "{refused}");
    let mut part = own(&request_of_tool("/v1/actors", true)).await.unwrap();
    let mut whole = Vec::new();
    let mut parts = 0;
    loop {
        parts += 1;
        let answer = HttpResponse::decode(&part).unwrap();
        whole.extend_from_slice(answer.body.as_ref().unwrap());
        if !answer.headers.iter().any(|(name, _)| name == "weft-rest") {
            break;
        }
        // It is of no use to who has rights for another namespace, and of no more use to its owner a second time.
        let stolen = request_of_rest("other", &answer);
        let stolen = call_at(&stranger, "weft.default.api.read.other", &stolen).await;
        assert_eq!(stolen.unwrap_err().kind, FailureKind::NotFound);
        part = own(&request_of_rest("team", &answer)).await.unwrap();
        let again = own(&request_of_rest("team", &answer)).await.unwrap_err();
        assert_eq!(again.kind, FailureKind::NotFound);
        assert!(again.detail.contains("ask again from the beginning"), "{again}");
    }
    assert!(parts >= 3, "{parts} parts");
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(whole["actors"].as_array().unwrap().len(), APPS * ACTORS);
    assert_eq!(counted(&fenced.lattice, "weft_front_answers_kept", "").await, 0);
}

/// An actor of the namespace `team` that logs what it is asked to.
fn talk() -> AppFile {
    AppFile::new(&format!(
        "
apiVersion: weft/v1
namespace: team
name: talk
actors:
  fault: {{ component: {} }}
routes:
  - {{ actor: fault, path: /team, stripPrefix: true }}
",
        component(FAULT)
    ))
}

fn lines(text: &str) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap();
    text.lines().map(line).collect()
}

#[tokio::test]
async fn logs_of_all_hosts_are_read_and_followed_from_afar_as_far_as_rights_go() {
    let fenced = Fenced::of(2).await;
    fenced.deploy(&one("fault", FAULT)).await;
    fenced.deploy(&talk()).await;
    for host in &fenced.lattice.hosts {
        assert_eq!(host.get("/log?n=1&len=10").await.status, 200);
        assert_eq!(host.get("/team/log?n=2&len=20").await.status, 200);
    }
    let json = ["--output", "json"];
    let of = |lines: &[Value], host: &str, actor: Option<&str>| {
        let is_it = |line: &&Value| line["logged_by"] == host && line["actor"].as_str() == actor;
        lines.iter().filter(is_it).count()
    };
    let (other, own) = (Some("default/fault/fault"), Some("team/talk/fault"));

    let all = lines(&fenced.done("operator", &[&["logs"], &json[..]].concat()));
    for host in ["h1", "h2"] {
        assert!(of(&all, host, None) > 0 && of(&all, host, other) > 0 && of(&all, host, own) > 1);
    }
    let of_second = fenced.done("operator", &[&["logs", "--host", "h2"], &json[..]].concat());
    let of_second = lines(&of_second);
    assert!(of(&of_second, "h2", None) > 0);
    assert!(of_second.iter().all(|line| line["logged_by"] == "h2"));
    let nobody = fenced.run("operator", &["logs", "--host", "h9"]);
    let nobody = String::from_utf8(nobody.stderr).unwrap();
    assert!(nobody.contains("no host `h9`"), "{nobody}");

    for _ in 0..4 {
        let seen = fenced
            .in_team("reader", &[&["logs"], &json[..]].concat())
            .unwrap();
        let seen = lines(&seen);
        assert!(of(&seen, "h1", own) > 1 && of(&seen, "h2", own) > 1);
        assert!(seen.iter().all(|line| line["actor"].as_str() == own), "{seen:?}");
    }
    let last = ["logs", "--tail", "1", "--actor", "fault"];
    let last = fenced.in_team("reader", &[&last, &json[..]].concat()).unwrap();
    assert_eq!(last.lines().count(), 2, "{last}");
    let refused = fenced.in_team("reader", &["logs", "--actor", "default/fault/fault"]);
    let refused = refused.unwrap_err();
    assert!(refused.contains("in `default`"), "{refused}");

    let follow = ["logs", "-f", "--tail", "0", "--namespace", "team"];
    let follower = fenced.follow("reader", &[&follow, &json[..]].concat());
    let begin = std::time::Instant::now();
    let came = |host: &str| follower.has(|line| line["logged_by"] == host && line["actor"].as_str() == own);
    while !(came("h1") && came("h2")) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", follower.lines.lock());
        for host in &fenced.lattice.hosts {
            host.get("/team/log?n=1&len=10").await;
            host.get("/log?n=1&len=10").await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!follower.has(|line| line["actor"].as_str() != own));
    // The host that follows for it reads the other one over a stream, and both let go of it once it does not ask.
    assert!(counted(&fenced.lattice, "weft_stream_open", "").await > 0);
    drop(follower);
    let begin = std::time::Instant::now();
    loop {
        let kept = counted(&fenced.lattice, "weft_front_answers_kept", "").await;
        let streams = counted(&fenced.lattice, "weft_stream_open", "").await;
        if (kept, streams) == (0, 0) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{kept} answers, {streams} streams");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_tool_that_asks_too_slowly_for_what_is_logged_is_told_how_much_it_missed() {
    let fenced = Fenced::of(1).await;
    fenced.deploy(&talk()).await;
    let (host, tool) = (&fenced.lattice.hosts[0], fenced.tool("reader", "team").await);
    let own = async |request: &Request| {
        let part = call_at(&tool, "weft.default.api.read.team", request)
            .await
            .unwrap();
        HttpResponse::decode(&part).unwrap()
    };
    let follow = request_of_tool("/v1/logs?follow=true&tail=0", true);
    let talk = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.get("/team/log?n=1&len=10").await;
    };
    let (mut part, ()) = tokio::join!(own(&follow), talk);
    let mut came = 0;
    let begin = std::time::Instant::now();
    loop {
        let body = part.body.clone().unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        if text.contains("lines were missed: this reader is too slow") {
            break;
        }
        came += text.lines().count();
        assert!(begin.elapsed() < PATIENCE, "{came} lines came");
        for _ in 0..20 {
            host.get("/team/log?n=100&len=1").await;
        }
        part = own(&request_of_rest("team", &part)).await;
    }
}
