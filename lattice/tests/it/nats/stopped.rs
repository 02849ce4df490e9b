//! A callee in a process of its own, which is stopped and goes on.
//!
//! The process is this test binary once more: [`a_callee_in_a_process_of_its_own`] with an address in its environment.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_lattice::envelope::Failure;
use weft_lattice::rpc::{Candidate, Invocation, Place, Server as Callee, Service, Stamps};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};

use super::server::Server;
use super::{LONG, long_or};
use crate::hosts::{Host, call};

const ADDRESS: &str = "WEFT_TEST_CALLEE";
const URL: &str = "WEFT_TEST_NATS";

/// Counts what it runs, and what of it after the moment that the body tells; the callee runs on the same machine, so
/// that its clock is the caller's.
#[derive(Default)]
struct Counts {
    executed: AtomicU32,
    expired: AtomicU32,
}

fn since_epoch() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

fn until(ttl: Duration) -> Bytes {
    (since_epoch() + ttl).as_millis().to_string().into()
}

impl Service for Counts {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let deadline: u128 = std::str::from_utf8(&invocation.body).unwrap().parse().unwrap();
        self.executed.fetch_add(1, Ordering::Relaxed);
        if since_epoch().as_millis() > deadline {
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
        let counts = [&self.executed, &self.expired].map(|count| count.load(Ordering::Relaxed).to_string());
        future::ok(counts.join(" ").into()).boxed()
    }

    fn load(&self) -> u32 {
        0
    }
}

/// The callee, if this process was started as one; as a test it does nothing.
#[tokio::test]
async fn a_callee_in_a_process_of_its_own() {
    let (Ok(address), Ok(url)) = (std::env::var(ADDRESS), std::env::var(URL)) else {
        return;
    };
    let settings = NatsSettings::new(vec![url], "callee", Role::Calls);
    let transport = NatsTransport::connect(&settings).await.unwrap();
    let subjects = Subjects::new("one").unwrap();
    let address = Address::parse(&address).unwrap();
    let callee = Callee::new(
        address,
        Stamps::starting_at(rand::random()),
        Arc::new(Counts::default()),
        None,
    );
    let _calls = callee.serve(&transport, &subjects, "default").await.unwrap();
    let _control = callee.serve_control(&transport, &subjects).await.unwrap();
    println!("ready");
    future::pending().await
}

/// A callee that ends with this.
struct Process(Child);

impl Process {
    fn start(server: &Server, address: &Address) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "nats::stopped::a_callee_in_a_process_of_its_own",
                "--nocapture",
            ])
            .env(ADDRESS, address.as_str())
            .env(URL, format!("nats://127.0.0.1:{}", server.port))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Self(child);
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().ends_with("ready")),
            "the callee did not start"
        );
        process
    }

    fn signal(&self, signal: &str) {
        let kill = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    /// Stops it, and waits until each of its threads stands still: on a busy machine they run on for a while.
    async fn stop(&self) {
        self.signal("-STOP");
        let threads = format!("/proc/{}/task", self.0.id());
        let stands_still = |thread: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("stat"));
            // One that has just ended runs nothing either.
            stat.map_or(true, |stat| stat.contains(") T "))
        };
        while !std::fs::read_dir(&threads)
            .unwrap()
            .all(|thread| stands_still(thread.unwrap()))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_process_that_is_stopped_is_passed_over_and_when_it_wakes_runs_nothing_expired() {
    let server = Server::start("");
    let address = Address::new("stopped", rand::random()).unwrap();
    let process = Process::start(&server, &address);
    let transport = server.join("h1").await;
    let a = Host::start(transport.clone(), "one", "h1").await;
    let other = Host::start(server.join("h2").await, "one", "h2").await;
    let candidate = |address: &Address| Candidate {
        address: address.clone(),
        place: Place::default(),
        revision: 1,
    };
    let targets = |of: &[&Address]| {
        let candidates: Vec<_> = of.iter().copied().map(candidate).collect();
        a.client.targets("default", &candidates, vec![(1, 1)]).unwrap()
    };
    let both = Arc::new(targets(&[&address, &other.address]));
    let only = targets(&[&address]);
    for _ in 0..20 {
        a.call(&both, "run", until(LONG), LONG).await.unwrap();
    }
    let before = a.call(&only, "run", until(LONG), LONG).await.unwrap().body;

    // Nothing runs there now, so that what it runs afterwards was taken then.
    process.stop().await;
    let (stopped, for_so_long) = (
        Instant::now(),
        long_or(Duration::from_secs(10), Duration::from_secs(5)),
    );
    let ttl = Duration::from_millis(3_500);
    let (mut calls, mut passed_over) = (JoinSet::new(), None);
    while stopped.elapsed() < for_so_long {
        let (client, both) = (a.client.clone(), both.clone());
        calls.spawn(async move { client.call(&both, call("run", until(ttl), ttl, None)).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        if passed_over.is_none() && a.client.is_ejected(&address) {
            passed_over = Some((calls.len(), stopped.elapsed()));
        }
    }
    let (before_it_was, after) = passed_over.expect("it was never passed over");
    let unanswered = calls.join_all().await.into_iter().filter(Result::is_err).count();
    eprintln!("it was passed over after {after:?}; {unanswered} calls had no answer");
    // Before the first that waits there has ended: it was asked whether it lives. And nothing goes there afterwards.
    assert!(after < ttl, "{after:?}");
    assert!(
        (1..=before_it_was).contains(&unanswered),
        "{unanswered} of {before_it_was}"
    );

    process.signal("-CONT");
    for _ in 0..600 {
        if !a.client.is_ejected(&address) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = a.call(&only, "run", until(LONG), LONG).await.unwrap().body;
    let counts = |body: &Bytes| -> (u32, u32) {
        let (executed, expired) = std::str::from_utf8(body).unwrap().split_once(' ').unwrap();
        (executed.parse().unwrap(), expired.parse().unwrap())
    };
    // Requests reach it in order, so that those that waited came before this one.
    assert_eq!(
        counts(&after),
        (counts(&before).0 + 1, 0),
        "it ran what had expired"
    );
    assert!(transport.stats().connected);
}
