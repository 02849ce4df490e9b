//! This host among the others of its lattice.
//!
//! Owns the connections, who the others are as this host sees them, and how they are called. A host without a
//! connection goes on with what it has: local HTTP, local calls, the records that it took last. It must not know what
//! actors do; [`service`] is what this host does for the others, [`http`] how requests cross, [`group`] who runs what, `doors` what
//! clients get that are no hosts, and [`rest`] what of that is longer than a message.

mod artifacts;
mod copies;
mod details;
mod doors;
pub mod group;
pub mod http;
mod join;
mod providers;
mod records;
pub mod rest;
pub mod service;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use weft_compose::{ActorName, HostName, ProviderName};
use weft_lattice::envelope::Standing;
use weft_lattice::rpc::Place;
use weft_lattice::transport::PAYLOAD_LEN_MAX;
use weft_remote::LatticeMessaging;

pub use self::artifacts::FromOthers;
pub use self::details::Details;
use self::group::{Group, Groups, Neighbour};
pub use self::join::{JoinError, Links};
use self::join::{Joined, Keeper};
use self::providers::Providers;
pub use self::providers::{Held, ServedProvider};
pub use self::records::{follow, kept};
use self::rest::Rests;
use self::service::HOST_NAMESPACE;
pub use self::settings::LatticeSettings;

/// When a host that has joined knows who is there: by then it has heard of all, and its own run before is gone.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// A host that others see.
#[derive(Debug, Clone)]
pub struct Member {
    /// The host, as calls see it.
    pub host: Neighbour,
    /// How it stands.
    pub standing: Standing,
    /// What it says of itself.
    pub details: Details,
}

/// The mesh as this host has it.
pub struct Mesh {
    /// What it was told.
    pub settings: LatticeSettings,
    /// This host's name.
    pub name: HostName,
    groups: Groups,
    providers: Providers,
    joined: ArcSwapOption<Joined>,
    members: ArcSwap<Vec<Member>>,
    /// The host that has the control store.
    controller: Mutex<Option<Arc<Group>>>,
    /// Components that are deployed and on no second host, as far as this one knows.
    single_copies: AtomicU64,
    /// Calls of clients that this host took.
    fronts: Answered,
    /// Requests of tools that it took.
    tools: Answered,
    /// What is left of answers to them.
    rests: Rests,
    /// Why there is no connection.
    fault: Mutex<Option<String>>,
    /// What was amiss when it was looked at last, and since when, in seconds since 1970.
    amiss: Mutex<Option<(String, u64)>>,
    /// Actors none of whose hosts was there when that was looked at last, and since when, in seconds since 1970.
    unplaced: Mutex<BTreeMap<ActorName, u64>>,
    /// What takes part, between joining and running.
    keeper: Mutex<Option<Keeper>>,
}

impl Mesh {
    /// A mesh that this host has not joined yet.
    pub fn new(settings: LatticeSettings, name: HostName) -> Arc<Self> {
        Arc::new(Self {
            settings,
            name,
            groups: Groups::default(),
            providers: Providers::default(),
            joined: ArcSwapOption::empty(),
            members: ArcSwap::default(),
            controller: Mutex::default(),
            single_copies: AtomicU64::new(0),
            fronts: Answered::default(),
            tools: Answered::default(),
            rests: Rests::default(),
            fault: Mutex::default(),
            amiss: Mutex::default(),
            unplaced: Mutex::default(),
            keeper: Mutex::default(),
        })
    }

    /// Where this host is.
    pub fn place(&self) -> Place {
        place_of(&self.settings.labels)
    }

    /// The hosts that run what is placed on `hosts`, or on all without.
    pub fn group(&self, namespace: &str, hosts: Option<Arc<BTreeSet<HostName>>>) -> Arc<Group> {
        self.groups.of(namespace, hosts)
    }

    /// The hosts that have the control store, if they are known: there is one, until it is replicated.
    pub fn controller(&self) -> Option<Arc<Group>> {
        self.controller
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A host by its name, for what is asked of hosts and not of actors.
    pub fn host(&self, name: &HostName) -> Arc<Group> {
        let only = Arc::new(BTreeSet::from([name.clone()]));
        self.groups.of(HOST_NAMESPACE, Some(only))
    }

    /// All hosts that are not gone, this one among them once it has joined.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.load_full()
    }

    /// What is wrong with who has the control store: exactly one host should.
    fn control_fault(&self) -> Option<String> {
        let members = self.members.load();
        let mut others = members.iter().filter(|member| {
            let host = &member.host;
            host.controller && host.name != self.name.as_str() && member.standing != Standing::Leaving
        });
        match (self.settings.controller, others.next()) {
            (true, Some(other)) => Some(format!(
                "{} has a control store as this host does: of two, each takes some changes; stop one of them",
                other.host.name
            )),
            (false, None) => Some(
                "no host with the control store is seen: what this host has a copy of is served, and nothing can be \
                 changed; start the controller again"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// That another host that lives has this one's name.
    fn namesake(&self, joined: &Joined) -> Option<String> {
        if joined.since.elapsed() < SETTLED_AFTER {
            return None;
        }
        let members = self.members.load();
        let other = members.iter().find(|member| {
            member.host.name == self.name.as_str()
                && member.host.address != joined.address
                && member.standing == Standing::Alive
        })?;
        Some(format!(
            "another host is called {} too, {} which serves {}: what is placed on that name runs on both; stop one of them, \
             and start it with a data folder and a --name of its own",
            self.name, other.host.address, other.details.http
        ))
    }

    /// The actors that run nowhere, as none of the hosts is there that they are placed on: since when, in seconds since 1970.
    /// None while this host can't know.
    pub fn unplaced(
        &self,
        placements: &BTreeMap<ActorName, Arc<BTreeSet<HostName>>>,
    ) -> BTreeMap<ActorName, u64> {
        let joined = self.joined.load_full();
        let knows =
            joined.is_some_and(|joined| joined.is_connected() && joined.since.elapsed() >= SETTLED_AFTER);
        let members = self.members.load();
        let there = members
            .iter()
            .filter(|member| member.standing != Standing::Leaving);
        let there: BTreeSet<&str> = there.map(|member| member.host.name.as_str()).collect();
        let mut unplaced = self.unplaced.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *unplaced);
        if knows {
            let nowhere = placements
                .iter()
                .filter(|(_, hosts)| !hosts.iter().any(|host| there.contains(host.as_str())));
            *unplaced = nowhere
                .map(|(actor, _)| {
                    (
                        actor.clone(),
                        before.get(actor).copied().unwrap_or_else(seconds_now),
                    )
                })
                .collect();
        }
        unplaced.clone()
    }

    /// Why this host takes no part as it should, if it does not.
    pub fn fault(&self) -> Option<String> {
        match self.joined.load_full() {
            Some(joined) if joined.is_connected() => self.namesake(&joined).or_else(|| self.control_fault()),
            Some(_) => Some("the connection to NATS is lost: it is tried again".to_owned()),
            None => Some(
                self.fault
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()
                    .unwrap_or_else(|| "not connected yet".to_owned()),
            ),
        }
    }

    /// Why this host takes no part as it should, and since when, in seconds since 1970.
    pub fn amiss(&self) -> Option<(String, u64)> {
        let fault = self.fault();
        let mut amiss = self.amiss.lock().unwrap_or_else(PoisonError::into_inner);
        *amiss = fault.map(|fault| match amiss.take() {
            Some((before, since)) if before == fault => (before, since),
            _ => (fault, seconds_now()),
        });
        amiss.clone()
    }

    /// Messages between the hosts, of the provider `name`.
    pub fn messaging(self: &Arc<Self>, name: &ProviderName) -> LatticeMessaging {
        let mesh = Arc::downgrade(self);
        let connection = move || Some(mesh.upgrade()?.joined.load_full()?.for_messages());
        let parts = [name.namespace(), name.app(), name.name()];
        LatticeMessaging::new(connection, self.settings.subjects.clone(), parts)
    }

    /// The longest message that goes, in bytes.
    fn message_len_max(&self) -> usize {
        let joined = self.joined.load_full();
        joined.map_or(PAYLOAD_LEN_MAX, |joined| joined.client().payload_len_max())
    }

    /// This run's address, once it has joined.
    pub fn address(&self) -> Option<String> {
        let joined = self.joined.load_full()?;
        Some(joined.address.to_string())
    }
}

/// How many were answered, and how many not.
#[derive(Default)]
struct Answered([AtomicU64; 2]);

impl Answered {
    fn count(&self, ok: bool) {
        self.0[usize::from(!ok)].fetch_add(1, Relaxed);
    }

    fn report(&self) -> [(&'static str, u64); 2] {
        let [ok, failed] = &self.0;
        [("ok", ok.load(Relaxed)), ("failed", failed.load(Relaxed))]
    }
}

fn seconds_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A host's place, by its labels.
fn place_of(labels: &BTreeMap<String, String>) -> Place {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_else(|| "default".to_owned());
    Place {
        region: label("region"),
        zone: label("zone"),
    }
}
