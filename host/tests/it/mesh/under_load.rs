//! What becomes of calls while hosts, the server or the line between them fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use weft_lattice::codec::{Type, Value, encode_all};
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::{Answer, Call, Candidate, Client, Place, Stamps, Targets};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::Transport;
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};
use weft_servers::Proxy;

use super::{Lattice, calls, calls_with, hosts_of};
use crate::support::{Weft, get};

/// What calls `default/calls/callee` on some hosts as another host would, and sees what it is told of each call.
struct Caller {
    client: Client,
    targets: Targets,
}

impl Caller {
    async fn of(lattice: &Lattice, on: &[&str]) -> Self {
        let settings = NatsSettings::new(vec![lattice.nats.url()], "caller", Role::Calls);
        let transport: Arc<dyn Transport> = Arc::new(NatsTransport::connect(&settings).await.unwrap());
        let subjects = Subjects::new("default").unwrap();
        let own = Address::new("caller", 1).unwrap();
        transport
            .batch(subjects.answers(own.as_str()).unwrap())
            .await
            .unwrap();
        let client = Client::new(
            transport,
            subjects,
            own,
            Place::default(),
            Stamps::starting_at(0),
            1,
        );
        let hosts = hosts_of(&lattice.hosts[0]).await;
        let called = hosts
            .iter()
            .filter(|host| on.contains(&host["name"].as_str().unwrap()));
        let candidates: Vec<_> = called
            .map(|host| Candidate {
                address: Address::parse(host["address"].as_str().unwrap()).unwrap(),
                place: Place::default(),
                revision: 0,
            })
            .collect();
        assert_eq!(candidates.len(), on.len());
        let targets = client.targets("default", &candidates, Vec::new()).unwrap();
        Self { client, targets }
    }

    /// The callee waits, and the caller for its answer until `limit`.
    async fn wait(&self, millis: u32, limit: Duration) -> Result<Answer, Failure> {
        let call = Call {
            target: "default/calls/callee".to_owned(),
            interface: "test:call/echo".to_owned(),
            function: "wait".to_owned(),
            body: encode_all("args", &[Type::U32], &[Value::U32(millis)])
                .unwrap()
                .into(),
            deadline: Instant::now() + limit,
            hops: 0,
            trace: None,
            caller: "default/calls/caller".to_owned(),
            idempotent: false,
            patient: false,
            stream: None,
        };
        self.client.call(&self.targets, call).await
    }
}

/// A lattice of three hosts, of which `h2` and `h3` run the callee.
async fn with_two_callees() -> Lattice {
    let lattice = Lattice::of(3).await;
    lattice.deploy(&calls()).await;
    lattice.place("caller", "h1").await;
    lattice.place("callee", "h2").await;
    lattice.place("callee", "h3").await;
    lattice
}

/// Times that `host` has run the callee.
async fn runs(host: &Weft) -> u64 {
    let metrics = get(host.monitor, "/metrics").await;
    let of_callee = metrics.text().lines().filter(|line| {
        line.starts_with("weft_invocation_count_total") && line.contains("default/calls/callee")
    });
    let count = |line: &str| {
        line.rsplit(' ')
            .next()
            .and_then(|count| count.parse::<f64>().ok())
    };
    of_callee.filter_map(count).sum::<f64>() as u64
}

#[tokio::test]
async fn of_a_thousand_calls_to_a_host_that_is_killed_each_is_answered_or_fails_in_time() {
    const LIMIT: Duration = Duration::from_secs(5);
    let mut lattice = with_two_callees().await;
    let caller = Caller::of(&lattice, &["h2", "h3"]).await;
    caller.wait(0, LIMIT).await.unwrap();
    let victim = lattice.hosts.remove(1);
    let one = async |_: usize| {
        let begin = Instant::now();
        (caller.wait(300, LIMIT).await, begin.elapsed())
    };
    let kill = async {
        sleep(Duration::from_millis(500)).await;
        drop(victim.kill());
    };
    let all = futures::stream::iter(0..1_000).map(one).buffer_unordered(100);
    let (ended, ()) = tokio::join!(all.collect::<Vec<_>>(), kill);
    let mut failed = 0;
    for (outcome, elapsed) in &ended {
        assert!(
            *elapsed < LIMIT + Duration::from_millis(500),
            "{elapsed:?}: {outcome:?}"
        );
        if let Err(failure) = outcome {
            failed += 1;
            assert!(
                matches!(failure.kind, FailureKind::Deadline | FailureKind::Unavailable),
                "{failure}"
            );
            // It was with the host that died, and nobody knows how far it came.
            assert!(failure.may_have_started, "{failure}");
        }
    }
    assert_eq!(ended.len(), 1_000);
    // Those that were there when it died: the share of a hundred that ran, and what was sent before it was passed over.
    assert!((1..=200).contains(&failed), "{failed} of 1,000 failed");
    lattice.wait_for_members(2).await;
    for _ in 0..20 {
        caller.wait(0, LIMIT).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_stands_still_is_passed_over_and_runs_nothing_that_is_over_when_it_goes_on() {
    // What is sent to the host that stands still is over before it goes on; a busy machine has time for the rest.
    const LIMIT: Duration = Duration::from_secs(6);
    let lattice = with_two_callees().await;
    let caller = Caller::of(&lattice, &["h2", "h3"]).await;
    for _ in 0..10 {
        caller.wait(0, LIMIT).await.unwrap();
    }
    let still = &lattice.hosts[1];
    let before = runs(still).await;
    still.signal("-STOP");
    let stopped = Instant::now();
    // When the calls were begun that did not succeed. One begins each 20 ms, whether or not those before have ended.
    let begun = futures::stream::unfold((), async |()| {
        sleep(Duration::from_millis(20)).await;
        let begun = stopped.elapsed();
        (begun < Duration::from_secs(10)).then_some((begun, ()))
    });
    let called = begun.map(async |begun| (begun, caller.wait(0, LIMIT).await));
    let ended: Vec<_> = called.buffer_unordered(500).collect().await;
    let failed: Vec<_> = ended
        .iter()
        .filter(|end| end.1.is_err())
        .map(|end| end.0)
        .collect();
    let last = failed
        .iter()
        .max()
        .expect("no call went to the host that stands still");
    eprintln!(
        "{} of {} calls failed, the last one {last:?} after the host stopped",
        failed.len(),
        ended.len()
    );
    // Within a second on a machine with room; here other tests run beside it.
    assert!(
        *last < Duration::from_millis(2_500),
        "a call went there {last:?} after it stopped"
    );
    still.signal("-CONT");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(runs(still).await, before, "{}", still.log());
    lattice.wait_for_members(3).await;
}

/// Waits of an actor on `h1`, one after the other: when each began, what came of it, and how long it took.
async fn visits(first: SocketAddr, until: Instant) -> Vec<(Instant, u16, Duration)> {
    let mut ended = Vec::new();
    while Instant::now() < until {
        let begin = Instant::now();
        let reply = get(first, "/wait?ms=20").await;
        ended.push((begin, reply.status, begin.elapsed()));
        sleep(Duration::from_millis(10)).await;
    }
    ended
}

#[tokio::test]
async fn calls_end_while_the_server_is_away_and_succeed_when_it_is_back() {
    const LIMIT: Duration = Duration::from_secs(2);
    let mut lattice = with_two_callees().await;
    let first = lattice.hosts[0].http;
    let until = Instant::now() + Duration::from_secs(12);
    let mut clients: JoinSet<_> = (0..8).map(|_| visits(first, until)).collect();
    sleep(Duration::from_secs(1)).await;
    lattice.nats.kill();
    sleep(Duration::from_secs(2)).await;
    lattice.nats.restart();
    let back = Instant::now();
    while let Some(ended) = clients.join_next().await {
        let ended = ended.unwrap();
        let of = |status: u16| ended.iter().filter(|end| end.1 == status).count();
        assert!(of(200) > 0, "{ended:?}");
        for (begin, status, elapsed) in &ended {
            assert!(*elapsed < LIMIT + Duration::from_secs(9), "{elapsed:?}");
            let well = *begin + Duration::from_millis(1) > back + Duration::from_secs(5);
            assert!(!well || *status == 200, "{status} long after the server was back");
        }
    }
    lattice.wait_for_members(3).await;
}

// The proxy has to go on while a host is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_was_cut_off_for_ten_seconds_is_used_again() {
    let mut lattice = Lattice::of(1).await;
    let proxy = Proxy::to(lattice.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let data = lattice.hosts.remove(0).stop();
    lattice
        .hosts
        .push(Weft::host(&url, "h1", &["--controller"], data));
    let fresh = || Arc::new(tempfile::tempdir().unwrap());
    lattice
        .hosts
        .push(Weft::host(&lattice.nats.url(), "h2", &[], fresh()));
    lattice.wait_for_members(2).await;
    lattice.deploy(&calls()).await;
    lattice.place("caller", "h2").await;
    lattice.place("callee", "h1").await;
    let second = &lattice.hosts[1];
    assert_eq!(second.get("/mix").await.text(), "same\n");
    proxy.cut();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        // Each ends within the callee's ten seconds.
        let reply = timeout(Duration::from_secs(12), second.get("/mix"))
            .await
            .unwrap();
        assert_ne!(reply.status, 200);
        sleep(Duration::from_millis(500)).await;
    }
    proxy.heal();
    let healed = Instant::now();
    while second.get("/mix").await.status != 200 {
        assert!(healed.elapsed() < Duration::from_secs(20), "{}", second.log());
        sleep(Duration::from_millis(100)).await;
    }
    lattice.wait_for_members(2).await;
    // Changes go by it again, and reach this host.
    second.cli(&["delete", "app", "calls"]).await;
    lattice.settle().await;
    assert_eq!(lattice.hosts[1].get("/mix").await.status, 404);
}

#[tokio::test]
async fn what_finds_no_room_on_its_own_host_runs_on_another() {
    let lattice = Lattice::of(2).await;
    let app = calls_with("concurrency: 1, queue: 0");
    lattice.deploy(&app).await;
    let [first, second] = &lattice.hosts[..] else {
        panic!("two hosts were started")
    };
    let visit = || first.get("/wait?ms=1500");
    let (here, there) = tokio::join!(visit(), async {
        sleep(Duration::from_millis(300)).await;
        visit().await
    });
    assert_eq!(
        (here.status, there.status),
        (200, 200),
        "{} {}",
        here.text(),
        there.text()
    );
    assert_eq!((runs(first).await, runs(second).await), (1, 1));
    // Where all hosts are full, the rest is told so.
    let all = futures::future::join_all((0..4).map(|_| visit())).await;
    let served = all.iter().filter(|reply| reply.status == 200).count();
    assert!(
        (1..4).contains(&served),
        "{served} of four calls found room in two places"
    );
}
