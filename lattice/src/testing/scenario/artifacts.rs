//! Artifacts that are fetched from hosts some of which lie, die or are damaged, under faults.
//!
//! What must hold: what a fetch brought has the digest that was asked for, or it is an error; nothing is kept of what
//! failed; and if nothing goes wrong between a host and an honest holder, it gets the artifact, whatever the others are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{chances, some_faults};
use crate::artifact::Artifacts;
use crate::subject::{Address, Subjects};
use crate::testing::artifacts::{MemoryStore, digest_of};
use crate::testing::sim::{Faults, Sim, SimTransport};
use crate::transport::Served;

/// After this a fetch has ended, and one that waited for it too.
const END_WITHIN: Duration = Duration::from_secs(2 * 600 + 60);

/// What a run saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Fetches, and hosts that were made to fetch, that brought the artifact.
    pub brought: u64,
    /// Those that failed.
    pub failed: u64,
    /// Copies that were refused.
    pub refused: u64,
}

struct Host {
    transport: SimTransport,
    address: Address,
    store: MemoryStore,
    artifacts: Artifacts,
    _served: Served,
}

async fn start(sim: &Sim, at: u64) -> Host {
    let (transport, store) = (sim.join(), MemoryStore::default());
    let address = Address::new(&format!("h{at}"), 1).expect("a token");
    let subjects = Subjects::new("sim").expect("a token");
    let (over, kept) = (Arc::new(transport.clone()), Arc::new(store.clone()));
    let artifacts = Artifacts::new(over, subjects, address.clone(), kept);
    Host {
        _served: artifacts.serve().await.expect("it is connected"),
        transport,
        address,
        store,
        artifacts,
    }
}

/// Gives a host the artifact, in one of many ways; whether it is an honest one.
fn give(rng: &mut StdRng, host: &Host, bytes: &Bytes) -> bool {
    let digest = digest_of(bytes);
    let mut wrong = bytes.to_vec();
    match rng.random_range(0..6) {
        0 if !wrong.is_empty() => {
            let at = rng.random_range(0..wrong.len());
            wrong[at] ^= 1 << rng.random_range(0..8);
        }
        1 => wrong.truncate(rng.random_range(0..=bytes.len())),
        2 => wrong.push(0),
        3 => {
            let longer = rng.random_range(-2_000_000..2_000_000);
            host.store.lie(longer, rng.random_range(0..4));
        }
        _ => {
            host.store.put(bytes.clone());
            return true;
        }
    }
    host.store.put_as(digest, wrong);
    false
}

/// Runs the scenario.
///
/// # Panics
/// Something that must hold does not.
pub async fn run(seed: u64) -> Report {
    let mut rng = chances(seed);
    let calm = rng.random_bool(0.4);
    let faults = if calm {
        Faults::default()
    } else {
        some_faults(&mut rng)
    };
    let sim = Sim::new(seed, faults);
    let mut bytes = vec![0; rng.random_range(0.0..1_300.0_f64).powi(2) as usize];
    rng.fill_bytes(&mut bytes);
    let bytes = Bytes::from(bytes);
    let digest = digest_of(&bytes);
    let (mut holders, mut others) = (Vec::new(), Vec::new());
    let mut honest = false;
    for at in 0..rng.random_range(1..5_u64) {
        let holder = start(&sim, at).await;
        honest |= give(&mut rng, &holder, &bytes);
        holders.push(holder);
    }
    for at in 0..rng.random_range(1..4_u64) {
        others.push(start(&sim, 100 + at).await);
    }
    let mut tasks = JoinSet::new();
    for other in &others {
        // Some ask twice at once; one place may know other holders than another.
        for _ in 0..rng.random_range(1..3) {
            let mut sources: Vec<_> = holders.iter().map(|holder| holder.address.clone()).collect();
            let by = rng.random_range(0..sources.len());
            sources.rotate_left(by);
            let artifacts = other.artifacts.clone();
            tasks.spawn(async move { artifacts.fetch(digest, &sources).await.is_ok() });
        }
        if rng.random_bool(0.3) {
            let holder = &holders[rng.random_range(0..holders.len())];
            let (artifacts, to) = (holder.artifacts.clone(), other.address.clone());
            tasks.spawn(async move {
                let _ = artifacts.replicate(digest, &to).await;
                true
            });
        }
    }
    if !calm {
        trouble(&mut rng, &sim, &holders).await;
    }
    let begin = Instant::now();
    let mut report = Report::default();
    while let Some(ended) = tasks.join_next().await {
        let brought = ended.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("{error}"),
        });
        assert!(brought || !calm || !honest, "an honest holder was not enough");
        *if brought {
            &mut report.brought
        } else {
            &mut report.failed
        } += 1;
    }
    assert!(begin.elapsed() < END_WITHIN, "a fetch hung");
    for other in &others {
        let kept = other.store.get(digest);
        assert!(kept.is_none_or(|kept| kept == bytes), "other bytes were kept");
        // What another host asked for may still run.
        if other.artifacts.stats().running == 0 {
            assert_eq!(other.store.parts(), 0, "a part was left");
        }
        report.refused += other.artifacts.stats().refused_copies;
    }
    report
}

async fn trouble(rng: &mut StdRng, sim: &Sim, holders: &[Host]) {
    for _ in 0..rng.random_range(0..4) {
        sleep(Duration::from_millis(rng.random_range(0..60))).await;
        let holder = &holders[rng.random_range(0..holders.len())].transport;
        match rng.random_range(0..4) {
            0 => sim.cut(holder),
            1 => holder.stop(),
            2 => holder.set_connected(false),
            _ => {
                holder.crash();
                continue;
            }
        }
        sleep(Duration::from_millis(rng.random_range(1..40_000))).await;
        sim.heal();
        holder.resume();
        holder.set_connected(true);
    }
}
