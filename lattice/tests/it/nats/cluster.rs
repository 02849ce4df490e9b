//! Several servers that are one cluster: hosts are connected to different ones, and one of them is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};

use super::SLACK;
use super::server::{Server, free_ports};
use crate::hosts::{Host, call};

/// Servers that are connected to each other.
pub(super) struct Cluster {
    pub(super) servers: Vec<Server>,
}

impl Cluster {
    /// Servers named `name` and a number; `more` is added to the configuration of each.
    pub(super) async fn start<const N: usize>(name: &str, more: impl Fn(usize) -> String) -> Self {
        let ports: [u16; N] = free_ports();
        let routes = ports
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .join(", ");
        let config = |at: usize| {
            format!(
                "server_name: {name}{at}\ncluster {{ name: {name}, listen: \"127.0.0.1:{}\", routes: [{routes}] }}\n{}",
                ports[at],
                more(at)
            )
        };
        let servers: Vec<_> = (0..N).map(|at| Server::start(&config(at))).collect();
        for (at, server) in servers.iter().enumerate() {
            for other in (0..N).filter(|other| *other != at) {
                server
                    .until_it_says("/routez", &format!("\"remote_name\": \"{name}{other}\""))
                    .await;
            }
        }
        Self { servers }
    }

    /// Connects with the addresses of all, until it is the server at `at` that took it.
    pub(super) async fn join(&self, at: usize, host: &str) -> NatsTransport {
        let url = |server: &Server| format!("nats://127.0.0.1:{}", server.port);
        let settings = NatsSettings::new(self.servers.iter().map(url).collect(), host, Role::Calls);
        for _ in 0..200 {
            let transport = NatsTransport::connect(&settings).await.unwrap();
            if self.servers[at].says("/connz").contains(&settings.name) {
                return transport;
            }
            transport.close().await;
        }
        panic!("the client never chooses server {at}");
    }
}

/// A call that has ended.
struct Ended {
    body: Bytes,
    late: Duration,
    outcome: Result<Bytes, Failure>,
}

/// Calls both of `callees` from `host`, many at once and each call with another body, until `stop`.
fn callers(
    into: &mut JoinSet<Vec<Ended>>,
    host: &Host,
    callees: &[&Host],
    answered: &Arc<AtomicU32>,
    stop: &CancellationToken,
) {
    let targets = Arc::new(host.targets(callees));
    for caller in 0..16 {
        let (client, targets, name) = (host.client.clone(), targets.clone(), host.address.clone());
        let (answered, stop) = (answered.clone(), stop.clone());
        into.spawn(async move {
            let mut all = Vec::new();
            while !stop.is_cancelled() {
                let body = Bytes::from(format!("{name} {caller} {}", all.len()));
                let call = call("pause", body.clone(), Duration::from_secs(3), None);
                let deadline = call.deadline;
                let outcome = client.call(&targets, call).await.map(|answer| answer.body);
                let late = Instant::now().saturating_duration_since(deadline);
                match &outcome {
                    Ok(_) => {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    // While there is no connection it is refused at once.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                all.push(Ended { body, late, outcome });
            }
            all
        });
    }
}

async fn until_more(answered: &AtomicU32) {
    let before = answered.load(Ordering::Relaxed);
    while answered.load(Ordering::Relaxed) < before + 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn when_one_of_three_servers_is_killed_each_call_ends_and_calls_go_on() {
    let mut cluster = Cluster::start::<3>("c", |_| String::new()).await;
    let moved = cluster.join(1, "h2").await;
    let stays = Host::start(cluster.join(0, "h1").await, "one", "h1").await;
    let moves = Host::start(moved.clone(), "one", "h2").await;
    let (b, c) = (
        Host::start(cluster.join(1, "h3").await, "one", "h3").await,
        Host::start(cluster.join(2, "h4").await, "one", "h4").await,
    );
    for caller in [&stays, &moves] {
        caller.until_answered_by(&b).await;
        caller.until_answered_by(&c).await;
    }
    let (mut calls, stop) = (JoinSet::new(), CancellationToken::new());
    let answered = [Arc::<AtomicU32>::default(), Arc::default()];
    callers(&mut calls, &stays, &[&b, &c], &answered[0], &stop);
    callers(&mut calls, &moves, &[&b, &c], &answered[1], &stop);
    for answered in &answered {
        until_more(answered).await;
    }
    cluster.servers[1].kill();
    for caller in [&stays, &moves] {
        caller.until_answered_by(&b).await;
        caller.until_answered_by(&c).await;
    }
    for answered in &answered {
        until_more(answered).await;
    }
    stop.cancel();
    let ended: Vec<Ended> = calls.join_all().await.into_iter().flatten().collect();
    assert!(moved.stats().disconnects >= 1 && moved.stats().connects >= 2);

    let mut executed: BTreeMap<Bytes, u32> = BTreeMap::new();
    for host in [&b, &c] {
        for (body, times) in &*host.echo.bodies.lock().unwrap() {
            *executed.entry(body.clone()).or_default() += times;
        }
    }
    let (mut failed, mut started) = (0, 0);
    for Ended { body, late, outcome } in &ended {
        let times = executed.get(body).copied().unwrap_or(0);
        assert!(*late < SLACK, "{body:?} ended {late:?} after its deadline");
        match outcome {
            Ok(answer) => assert_eq!((answer, times), (body, 1)),
            Err(failure) => {
                failed += 1;
                started += u32::from(failure.may_have_started);
                let most = u32::from(failure.may_have_started);
                assert!(times <= most, "{body:?} ran {times} times: {failure}");
                let kinds = [FailureKind::Unavailable, FailureKind::Deadline];
                assert!(kinds.contains(&failure.kind), "{failure}");
            }
        }
    }
    eprintln!(
        "{} calls, {failed} failed, {started} of them may have run",
        ended.len()
    );
    assert!(started > 0, "none was on its way when the server was killed");
}
