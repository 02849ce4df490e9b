//! Streams between hosts, both ways at once, under faults.
//!
//! What must hold: a reader gets exactly the bytes that were written, in order, then the end; or a part of them, and a
//! reset. Nothing hangs, no window is exceeded, and when all is over nothing is left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{chances, some_faults};
use crate::stream::{BUFFERED_MAX, Duplex, Streams};
use crate::subject::{Address, Subjects};
use crate::testing::sim::{Faults, Sim, SimTransport};

/// After this a stream has ended, or been reset for silence: without faults they take seconds.
const END_WITHIN: Duration = Duration::from_secs(180);

/// What a run saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Directions that came to their end.
    pub whole: u64,
    /// Directions that were reset.
    pub reset: u64,
    /// Bytes that were read.
    pub read: u64,
}

/// The bytes of a direction from `at` on.
fn part(seed: u64, at: u64, len: u64) -> Bytes {
    let words = at / 8..=(at + len) / 8;
    let bytes: Vec<u8> = words
        .flat_map(|word| crate::rpc::mix(seed ^ word).to_le_bytes())
        .collect();
    let index = |at: u64| usize::try_from(at).expect("a part is short");
    Bytes::from(bytes).slice(index(at % 8)..index(at % 8 + len))
}

/// Whether all of it went, and the bytes that were read.
async fn one_end(
    duplex: Duplex,
    writes: u64,
    reads: u64,
    len: u64,
    read_len: u64,
    mut rng: StdRng,
) -> (bool, bool, u64) {
    let Duplex {
        mut reader,
        mut writer,
    } = duplex;
    let mut pauses: StdRng = SeedableRng::seed_from_u64(rng.random());
    let write = async {
        let mut at = 0;
        while at < len {
            let next = rng.random_range(1..60_000).min(len - at);
            if writer.write(part(writes, at, next)).await.is_err() {
                return false;
            }
            at += next;
        }
        writer.finish().await.is_ok()
    };
    let read = async {
        let mut at = 0;
        loop {
            if pauses.random_bool(0.05) {
                sleep(Duration::from_millis(pauses.random_range(0..500))).await;
            }
            match reader.read().await {
                Ok(Some(data)) => {
                    let len = data.len() as u64;
                    assert!(
                        data == part(reads, at, len),
                        "other bytes than were written, at {at}"
                    );
                    at += len;
                }
                Ok(None) => {
                    assert_eq!(at, read_len, "an end before the end");
                    return (true, at);
                }
                Err(_) => return (false, at),
            }
        }
    };
    let (written, (whole, read)) = futures::future::join(write, read).await;
    (written, whole, read)
}

/// Runs the scenario.
///
/// # Panics
/// Something that must hold does not.
pub async fn run(seed: u64) -> Report {
    let mut rng = chances(seed);
    // Streams need order; without it all are reset, which a few runs show.
    let mut faults = some_faults(&mut rng);
    faults.ordered = rng.random_bool(0.9);
    if rng.random_bool(0.5) {
        (faults.loss, faults.delay) = (0.0, Faults::default().delay);
    } else {
        faults.loss /= 50.0;
    }
    let lossless = faults.loss == 0.0 && faults.ordered;
    let sim = Sim::new(seed, faults);
    let subjects = Subjects::new("sim").expect("a token");
    let mut hosts = Vec::new();
    for at in 0..rng.random_range(2..5_u64) {
        let transport = sim.join();
        let address = Address::new(&format!("h{at}"), 1).expect("a token");
        let streams = Streams::start(Arc::new(transport.clone()), subjects.clone(), &address).await;
        hosts.push((transport, address, streams.expect("it is connected")));
    }
    let mut ends = JoinSet::new();
    for number in 0..rng.random_range(1..12_u64) {
        let (from, to) = (rng.random_range(0..hosts.len()), rng.random_range(0..hosts.len()));
        let (duplex, binder) = hosts[from].2.prepare().expect("there is room");
        let id = binder.bind(&hosts[to].1);
        let accepted = hosts[to].2.accept(id, &hosts[from].1).expect("there is room");
        let (there, back) = (seed ^ (number << 32), seed ^ (number << 32) ^ 1);
        let lens = (rng.random_range(0..800_000), rng.random_range(0..100_000));
        let mut chances = || -> StdRng { SeedableRng::seed_from_u64(rng.random()) };
        let (one, other) = (chances(), chances());
        // The call that it goes with is answered.
        drop(binder);
        ends.spawn(one_end(duplex, there, back, lens.0, lens.1, one));
        ends.spawn(one_end(accepted, back, there, lens.1, lens.0, other));
    }
    let calm = lossless && rng.random_bool(0.5);
    if !calm {
        trouble(&mut rng, &sim, &hosts).await;
    }
    let begin = Instant::now();
    let mut report = Report::default();
    while let Some(ended) = ends.join_next().await {
        let (written, whole, read) = ended.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("{error}"),
        });
        assert!(!calm || (written && whole), "a stream was reset without a reason");
        assert!(begin.elapsed() < END_WITHIN, "a stream hung");
        if whole {
            report.whole += 1;
        } else {
            report.reset += 1;
        }
        report.read += read;
    }
    sleep(Duration::from_secs(1)).await;
    for (_, address, streams) in &hosts {
        let stats = streams.stats();
        assert_eq!(
            (stats.open, stats.reserved),
            (0, 0),
            "{address} still holds streams"
        );
        assert!(stats.reserved <= BUFFERED_MAX);
    }
    report
}

async fn trouble(rng: &mut StdRng, sim: &Sim, hosts: &[(SimTransport, Address, Streams)]) {
    for _ in 0..rng.random_range(0..5) {
        sleep(Duration::from_millis(rng.random_range(1..400))).await;
        let at = rng.random_range(0..hosts.len());
        match rng.random_range(0..4) {
            0 => sim.cut(&hosts[at].0),
            1 => hosts[at].0.stop(),
            2 => hosts[at].0.set_connected(false),
            _ => {
                let (_, gone, _) = &hosts[at];
                hosts.iter().for_each(|(_, _, streams)| streams.peer_gone(gone));
            }
        }
        sleep(Duration::from_millis(rng.random_range(1..30_000))).await;
        sim.heal();
        hosts[at].0.resume();
        hosts[at].0.set_connected(true);
    }
}
