//! Membership under faults.
//!
//! What must hold: within a bound after everything healed, all hosts see the same, which is who is there; and a host
//! that is cut off for itself judges nobody. What it costs when nothing happens is counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::time::sleep;

use super::{chances, some_faults};
use crate::membership::{GONE_AFTER, Membership, Standing};
use crate::subject::{Address, Subjects};
use crate::testing::sim::{Faults, Sim, SimTransport};

/// After healing, all see the same within this time: the last digesters have gone, the next takes over (8 s at most),
/// and its first sight of a host that is gone takes [`GONE_AFTER`].
pub const CONVERGES_WITHIN: Duration = Duration::from_secs(8 + 6 + 4);

struct Host {
    name: String,
    region: String,
    address: Address,
    transport: SimTransport,
    membership: Option<Membership>,
}

async fn start(sim: &Sim, name: &str, region: &str, start: u64) -> Host {
    let transport = sim.join();
    let address = Address::new(name, start).expect("a token");
    let subjects = Subjects::new("sim").expect("a token");
    let (over, details) = (Arc::new(transport.clone()), Bytes::from_static(b"zone=a"));
    let membership = Membership::start(over, subjects, address.clone(), region, false, details).await;
    Host {
        name: name.to_owned(),
        region: region.to_owned(),
        address,
        transport,
        membership: Some(membership.expect("it is connected")),
    }
}

/// Runs the scenario with some hosts in one or two regions; how many messages there were.
///
/// # Panics
/// Something that must hold does not.
pub async fn run(seed: u64) -> u64 {
    let mut rng = chances(seed);
    let mut faults = some_faults(&mut rng);
    faults.loss /= 2.0;
    faults.delay = faults.delay.start..faults.delay.end.min(Duration::from_millis(500));
    let sim = Sim::new(seed, faults);
    let (size, regions) = (rng.random_range(3..12_u64), rng.random_range(1..3_u64));
    let mut hosts = Vec::new();
    for at in 0..size {
        hosts.push(start(&sim, &format!("h{at}"), &format!("r{}", at % regions), 1).await);
    }
    let mut starts = 1;
    for _ in 0..rng.random_range(1..12) {
        sleep(Duration::from_millis(rng.random_range(100..9_000))).await;
        let at = rng.random_range(0..hosts.len());
        match rng.random_range(0..7) {
            0 => {
                let mut parts = vec![Vec::new(), Vec::new()];
                for host in &hosts {
                    parts[usize::from(rng.random_bool(0.5))].push(&host.transport);
                }
                sim.partition(&parts);
            }
            1 => sim.heal(),
            2 => hosts[at].transport.stop(),
            3 => hosts[at].transport.resume(),
            4 => hosts[at].transport.set_connected(false),
            5 => hosts[at].transport.set_connected(true),
            _ => {
                hosts[at].transport.crash();
                hosts[at].membership = None;
                if rng.random_bool(0.6) {
                    starts += 1;
                    let (name, region) = (hosts[at].name.clone(), hosts[at].region.clone());
                    hosts[at] = start(&sim, &name, &region, starts).await;
                }
            }
        }
    }
    sim.heal();
    sim.set_faults(Faults::default());
    for host in &hosts {
        host.transport.set_connected(true);
        host.transport.resume();
    }
    sleep(CONVERGES_WITHIN).await;
    let there: BTreeSet<_> = hosts
        .iter()
        .filter(|host| host.membership.is_some())
        .map(|host| host.address.clone())
        .collect();
    // A region without a host has nobody who says that its hosts are gone: they stay suspect.
    let inhabited: BTreeSet<_> = hosts
        .iter()
        .filter(|host| host.membership.is_some())
        .map(|host| host.region.clone())
        .collect();
    for host in &hosts {
        let Some(membership) = &host.membership else {
            continue;
        };
        let members = membership.members();
        let seen: BTreeSet<_> = members
            .iter()
            .filter(|member| inhabited.contains(&member.region))
            .map(|member| {
                assert_eq!(
                    member.standing,
                    Standing::Alive,
                    "{} sees {member:?}",
                    host.address
                );
                assert_eq!(member.details, "zone=a");
                member.address.clone()
            })
            .collect();
        assert_eq!(seen, there, "{} sees others than there are", host.address);
    }
    alone(&sim, &hosts, &mut rng).await;
    sim.sent().0
}

/// A host that is cut off judges nobody, however long it takes.
async fn alone(sim: &Sim, hosts: &[Host], rng: &mut rand::rngs::StdRng) {
    let at = rng.random_range(0..hosts.len());
    let Some(membership) = &hosts[at].membership else {
        return;
    };
    let before = membership.members();
    if rng.random_bool(0.5) {
        hosts[at].transport.set_connected(false);
    } else {
        sim.cut(&hosts[at].transport);
    }
    sleep(GONE_AFTER * 3).await;
    // Only of other regions it says that it hears nothing: that is what it knows.
    let own = |members: Vec<crate::membership::Member>| -> Vec<_> {
        members
            .into_iter()
            .filter(|member| member.region == hosts[at].region)
            .collect()
    };
    let after = membership.members();
    assert_eq!(
        own(after),
        own(before),
        "{} judged others while it was cut off",
        hosts[at].address
    );
}

/// What an idle lattice of `size` hosts costs each of them, in the mean: messages that it sends and hears a second, and
/// bytes.
pub async fn idle(size: u64) -> (f64, f64) {
    let sim = Sim::new(1, Faults::default());
    let mut hosts = Vec::new();
    for at in 0..size {
        hosts.push(start(&sim, &format!("h{at:03}"), "eu", 1).await);
    }
    sleep(Duration::from_secs(20)).await;
    let traffic = || {
        let of = |host: &Host| sim.traffic_of(&host.transport);
        let add = |sum: (u64, u64), more: (u64, u64)| (sum.0 + more.0, sum.1 + more.1);
        hosts.iter().map(of).fold((0, 0), add)
    };
    let before = traffic();
    let seconds = 60;
    sleep(Duration::from_secs(seconds)).await;
    let after = traffic();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let each = |after: u64, before: u64| (after - before) as f64 / (seconds * size) as f64;
    (each(after.0, before.0), each(after.1, before.1))
}
