//! Calls between hosts that crash, stop, drain and lose each other.
//!
//! What must hold: no call runs twice (unless it may), none begins after its deadline, each ends by its deadline as an
//! answer or a typed error, one that is said not to have started never ran, and when all is well again calls succeed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{chances, some_faults};
use crate::envelope::{Failure, FailureKind};
use crate::rpc::{Call, Candidate, Client, Invocation, Place, Server, Service, Stamps, Targets};
use crate::subject::{Address, Subjects};
use crate::testing::sim::{Faults, Sim, SimTransport};
use crate::transport::Served;

/// How long hosts call each other under faults.
const TROUBLE: Duration = Duration::from_secs(20);

/// A call may end this much after its deadline: timers have milliseconds.
const SLACK: Duration = Duration::from_millis(3);

/// What a run saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Hosts at the beginning.
    pub hosts: usize,
    /// Calls that ended, those of hosts that crashed left out.
    pub calls: u64,
    /// Of these, those with an answer.
    pub answered: u64,
    /// Of the others, those that said that they did not start.
    pub not_started: u64,
    /// Times that a call was run.
    pub executed: u64,
    /// Messages on the network.
    pub messages: u64,
    /// What hosts took for repeats and dropped.
    pub repeats: u64,
    /// What came too late.
    pub late: u64,
}

#[derive(Default)]
struct Ledger {
    calls: BTreeMap<u64, Entry>,
    report: Report,
}

struct Entry {
    deadline: Instant,
    idempotent: bool,
    executed: u32,
    /// Its caller was told that it did not start.
    disowned: bool,
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Ledger>>);

impl Book {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Numbered {
    book: Book,
    seed: u64,
}

impl Service for Numbered {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let number = u64::from_be_bytes(invocation.body[..].try_into().expect("a number is sent"));
        {
            let mut ledger = self.book.lock();
            ledger.report.executed += 1;
            let entry = ledger
                .calls
                .get_mut(&number)
                .expect("a call is entered before it is made");
            entry.executed += 1;
            assert!(entry.executed == 1 || entry.idempotent, "call {number} ran twice");
            assert!(
                Instant::now() <= entry.deadline,
                "call {number} began after its deadline"
            );
            assert!(
                !entry.disowned || entry.idempotent,
                "call {number} ran after its caller was told that it did not"
            );
        }
        let chance = crate::rpc::mix(self.seed ^ number);
        let millis = if chance.is_multiple_of(4) {
            chance / 4 % 1_500
        } else {
            chance / 4 % 20
        };
        async move {
            sleep(Duration::from_millis(millis)).await;
            match chance / 1_000 % 10 {
                0 => Err(Failure::started(FailureKind::Trap, "it trapped")),
                1 => Err(Failure::started(FailureKind::Unavailable, "its store is away")),
                _ => Ok(invocation.body),
            }
        }
        .boxed()
    }

    fn load(&self) -> u32 {
        0
    }
}

/// A run of a host.
struct Host {
    transport: SimTransport,
    address: Address,
    server: Server,
    client: Client,
    targets: Arc<Mutex<Arc<Targets>>>,
    _served: (Served, Served),
    callers: JoinSet<()>,
}

struct World {
    seed: u64,
    sim: Sim,
    rng: StdRng,
    book: Book,
    next: Arc<Mutex<u64>>,
    until: Instant,
    starts: u64,
}

impl World {
    async fn start(&mut self, at: usize) -> Host {
        self.starts += 1;
        let subjects = Subjects::new("sim").expect("a token");
        let address = Address::new(&format!("h{at}"), self.starts).expect("a token");
        let transport = self.sim.join();
        // Each host's clock begins somewhere else.
        let stamps = Stamps::starting_at(self.rng.random());
        let service = Arc::new(Numbered {
            book: self.book.clone(),
            seed: self.seed,
        });
        let server = Server::new(address.clone(), stamps, service, None);
        let served = (
            server
                .serve(&transport, &subjects, "default")
                .await
                .expect("it is connected"),
            server
                .serve_control(&transport, &subjects)
                .await
                .expect("it is connected"),
        );
        let place = place_of(at);
        let client = Client::new(
            Arc::new(transport.clone()),
            subjects,
            address.clone(),
            place,
            stamps,
            self.rng.random(),
        );
        let none = client.targets("default", &[], vec![(1, 1)]).expect("a token");
        Host {
            transport,
            address,
            server,
            client,
            targets: Arc::new(Mutex::new(Arc::new(none))),
            _served: served,
            callers: JoinSet::new(),
        }
    }

    /// Lets a host make calls until the trouble ends.
    fn begin_calls(&mut self, host: &mut Host) {
        let (book, next, until) = (self.book.clone(), self.next.clone(), self.until);
        let (client, targets) = (host.client.clone(), host.targets.clone());
        let mut rng: StdRng = rand::SeedableRng::seed_from_u64(self.rng.random());
        let mut running = JoinSet::new();
        host.callers.spawn(async move {
            while Instant::now() < until {
                sleep(Duration::from_millis(rng.random_range(1..200))).await;
                let ttl = Duration::from_millis(rng.random_range(20..3_000));
                let idempotent = rng.random_bool(0.2);
                let gives_up = rng
                    .random_bool(0.1)
                    .then(|| ttl.mul_f64(rng.random_range(0.0..1.0)));
                let (client, targets, book) = (client.clone(), targets.clone(), book.clone());
                let number = take(&next);
                running.spawn(async move {
                    let targets = targets.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let call = one_call(&client, &targets, &book, number, ttl, idempotent);
                    match gives_up {
                        // Dropped in the middle.
                        Some(after) => drop(tokio::time::timeout(after, call).await),
                        None => drop(call.await),
                    }
                });
                while running.try_join_next().is_some() {}
            }
            running.join_all().await;
        });
    }
}

fn place_of(at: usize) -> Place {
    Place {
        region: format!("r{}", at % 2),
        zone: format!("z{}", at % 3),
    }
}

fn take(next: &Mutex<u64>) -> u64 {
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    *next += 1;
    *next
}

async fn one_call(
    client: &Client,
    targets: &Targets,
    book: &Book,
    number: u64,
    ttl: Duration,
    idempotent: bool,
) -> bool {
    let deadline = Instant::now() + ttl;
    let entry = Entry {
        deadline,
        idempotent,
        executed: 0,
        disowned: false,
    };
    book.lock().calls.insert(number, entry);
    let body = Bytes::copy_from_slice(&number.to_be_bytes());
    let call = Call {
        target: "default/sim/numbered".to_owned(),
        interface: "sim:numbered/it".to_owned(),
        function: "run".to_owned(),
        body: body.clone(),
        deadline,
        hops: 0,
        trace: None,
        caller: "default/sim/caller".to_owned(),
        idempotent,
        patient: false,
        stream: None,
    };
    let outcome = client.call(targets, call).await;
    assert!(
        Instant::now() <= deadline + SLACK,
        "call {number} ended {:?} after its deadline: {outcome:?}",
        Instant::now() - deadline
    );
    let mut ledger = book.lock();
    let ledger = &mut *ledger;
    ledger.report.calls += 1;
    let entry = ledger.calls.get_mut(&number).expect("it was entered");
    match &outcome {
        Ok(answer) => {
            assert_eq!(answer.body, body, "call {number} has another's answer");
            assert!(entry.executed > 0, "call {number} was answered and never ran");
            ledger.report.answered += 1;
        }
        Err(failure) if !failure.may_have_started => {
            assert_eq!(
                entry.executed, 0,
                "call {number} ran and was told not to have: {failure}"
            );
            entry.disowned = true;
            ledger.report.not_started += 1;
        }
        Err(_) => {}
    }
    outcome.is_ok()
}

/// Runs the scenario; `hosts` is chosen by the seed if it is not given.
///
/// # Panics
/// Something that must hold does not.
pub async fn run(seed: u64, hosts: Option<usize>) -> Report {
    let mut rng = chances(seed);
    let faults = some_faults(&mut rng);
    let size = hosts.unwrap_or_else(|| {
        if rng.random_bool(0.02) {
            50
        } else {
            rng.random_range(3..9)
        }
    });
    let mut world = World {
        seed,
        sim: Sim::new(seed, faults),
        rng,
        book: Book::default(),
        next: Arc::default(),
        until: Instant::now() + TROUBLE,
        starts: 0,
    };
    world.book.lock().report.hosts = size;
    let mut all = Vec::new();
    for at in 0..size {
        all.push(world.start(at).await);
    }
    tell_all(&all, None);
    for host in &mut all {
        world.begin_calls(host);
    }
    let mut repeats = (0, 0);
    while Instant::now() < world.until {
        sleep(Duration::from_millis(world.rng.random_range(10..2_000))).await;
        trouble(&mut world, &mut all, &mut repeats).await;
    }
    finish(&mut world, all, repeats).await
}

/// One thing goes wrong, or right again.
async fn trouble(world: &mut World, all: &mut [Host], seen: &mut (u64, u64)) {
    let at = world.rng.random_range(0..all.len());
    match world.rng.random_range(0..10) {
        0 => {
            let mut parts = vec![Vec::new(), Vec::new()];
            for host in all.iter() {
                parts[usize::from(world.rng.random_bool(0.5))].push(&host.transport);
            }
            world.sim.partition(&parts);
        }
        1 => world.sim.cut(&all[at].transport),
        2 => world.sim.heal(),
        3 => all[at].transport.stop(),
        4 => all[at].transport.resume(),
        5 => all[at].transport.set_connected(false),
        6 => all[at].transport.set_connected(true),
        7 => {
            note(&all[at], seen);
            all[at].callers.abort_all();
            all[at].transport.crash();
            let new = world.start(at).await;
            let old = std::mem::replace(&mut all[at], new);
            // The others hear of it only now, after some calls to nobody.
            tell_all(all, Some(&old.address));
            let host = &mut all[at];
            world.begin_calls(host);
        }
        8 => {
            let faults = some_faults(&mut world.rng);
            world.sim.set_faults(faults);
        }
        _ => {
            let server = all[at].server.clone();
            // Nobody waits for the end of it: it stays as it is until it crashes.
            all[at].callers.spawn(async move {
                server.drain(Duration::from_secs(5)).await;
            });
        }
    }
}

fn note(host: &Host, seen: &mut (u64, u64)) {
    let stats = host.server.stats();
    seen.0 += stats.repeated;
    seen.1 += stats.late;
}

/// Gives everybody the hosts that there are now.
fn tell_all(all: &[Host], gone: Option<&Address>) {
    let candidates: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(at, host)| Candidate {
            address: host.address.clone(),
            place: place_of(at),
            revision: 1 + (at as u64) % 2,
        })
        .collect();
    for host in all {
        let weights = vec![(1, 90), (2, 10)];
        let targets = host
            .client
            .targets("default", &candidates, weights)
            .expect("a token");
        *host.targets.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(targets);
        if let Some(gone) = gone {
            host.server.peer_gone(gone);
        }
    }
}

/// All is well again: calls end, and then they succeed.
async fn finish(world: &mut World, mut all: Vec<Host>, mut seen: (u64, u64)) -> Report {
    world.sim.heal();
    world.sim.set_faults(Faults::default());
    for host in &all {
        host.transport.set_connected(true);
        host.transport.resume();
    }
    for host in &mut all {
        while let Some(ended) = host.callers.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
    // The longest call, and what was held up for it.
    sleep_until(Instant::now() + Duration::from_secs(15)).await;
    for host in &all {
        assert_eq!(
            host.transport.waiting(),
            0,
            "{} still waits for replies",
            host.address
        );
        assert_eq!(
            host.server.stats().running,
            0,
            "{} still runs calls",
            host.address
        );
    }
    for (at, host) in all.iter_mut().enumerate() {
        note(host, &mut seen);
        if host.server.is_draining() {
            host.transport.crash();
            *host = world.start(at).await;
        }
    }
    tell_all(&all, None);
    // Who was passed over is asked whether it is back.
    sleep(Duration::from_secs(3)).await;
    for host in &all {
        for _ in 0..3 {
            let targets = host
                .targets
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let number = take(&world.next) * 1_000_000;
            let before = world.book.lock().report.clone();
            let second = Duration::from_secs(3);
            let _ = one_call(&host.client, &targets, &world.book, number, second, false).await;
            let executed = world.book.lock().calls[&number].executed;
            assert_eq!(executed, 1, "{} can't be served again: {before:?}", host.address);
        }
    }
    let mut report = world.book.lock().report.clone();
    report.messages = world.sim.sent().0;
    (report.repeats, report.late) = seen;
    report
}
