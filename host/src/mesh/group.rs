//! Hosts that run the same actors, and how they are reached.
//!
//! Owns the list of hosts behind an actor that is elsewhere. It is shared by all actors that are placed alike, and
//! brought up to date as hosts come and go, so that neither costs more with more actors.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use sha2::{Digest as _, Sha256};
use weft_compose::{HostName, Limits};
use weft_lattice::rpc::{Candidate, Client, Place, Targets};
use weft_lattice::stream::Streams;
use weft_lattice::subject::Address;

use crate::actor::ActorInfo;
use crate::invocation::{CallError, ErrorKind};

/// An actor as it is reached on other hosts.
pub struct RemoteActor {
    /// Its name, limits and numbers.
    pub info: Arc<ActorInfo>,
    /// Functions that may be called again, as `INTERFACE.FUNCTION`.
    pub idempotent: Arc<[String]>,
    /// Where it runs.
    pub hosts: Arc<Group>,
}

impl RemoteActor {
    /// Whether a function may be called again when it is not known what became of a call.
    pub fn is_idempotent(&self, interface: &str, function: &str) -> bool {
        let is_it = |known: &String| {
            known
                .rsplit_once('.')
                .is_some_and(|(of, name)| name == function && interface.starts_with(of))
        };
        self.idempotent.iter().any(is_it)
    }

    /// How it is reached.
    ///
    /// # Errors
    /// No host that runs it is known now.
    pub fn reach(&self) -> Result<Arc<Reach>, CallError> {
        self.hosts.reach().ok_or_else(|| {
            let cause = wasmtime::format_err!("no host that runs {} can be reached", self.info.name);
            CallError::refused(ErrorKind::Unavailable, Some(cause))
        })
    }

    /// What it may use: only for what is bounded before it is called.
    pub fn limits(&self) -> &Limits {
        &self.info.limits
    }
}

/// How hosts are reached.
pub struct Reach {
    /// What calls them.
    pub client: Client,
    /// For bodies that don't fit into a call.
    pub streams: Streams,
    /// The hosts; at least one.
    pub targets: Targets,
}

/// Hosts that are called alike.
pub struct Group {
    namespace: String,
    /// By name; all hosts of the lattice without.
    hosts: Option<Arc<BTreeSet<HostName>>>,
    reach: ArcSwapOption<Reach>,
    /// The names of the other hosts.
    names: ArcSwap<Vec<String>>,
}

/// A host of the lattice as calls see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name, which stays.
    pub name: String,
    /// This run of it.
    pub address: Address,
    /// Where it is.
    pub place: Place,
    /// Whether it has the control store.
    pub controller: bool,
}

impl Group {
    /// How the hosts are reached, if there is one.
    pub fn reach(&self) -> Option<Arc<Reach>> {
        self.reach.load_full()
    }

    /// Whether of `own` and the others of the group, `own` is the one that is to do what is to be done once with `key`. All
    /// that see the same hosts find the same one, and a host that comes or goes moves its own share of keys alone.
    pub fn falls_to(&self, own: &HostName, key: &str) -> bool {
        let weight = |host: &str| Sha256::digest(format!("{host} {key}"));
        let mine = weight(own.as_str());
        self.names.load().iter().all(|other| weight(other) <= mine)
    }

    fn refresh(&self, view: &Option<View>) {
        let names = view.iter().flat_map(|view| self.in_view(view));
        let names = names.map(|neighbour| neighbour.name.clone()).collect();
        self.names.store(Arc::new(names));
        self.reach
            .store(view.as_ref().and_then(|view| self.reach_in(view)));
    }

    /// The other hosts that are its own.
    fn in_view<'v>(&'v self, view: &'v View) -> impl Iterator<Item = &'v Neighbour> {
        view.neighbours.iter().filter(|neighbour| match &self.hosts {
            Some(hosts) => hosts.iter().any(|host| host.as_str() == neighbour.name),
            None => true,
        })
    }

    fn reach_in(&self, view: &View) -> Option<Arc<Reach>> {
        let candidates = self.in_view(view).map(|neighbour| Candidate {
            address: neighbour.address.clone(),
            place: neighbour.place.clone(),
            // Whatever revision runs there: those of one moment are the same everywhere, but for the time it takes.
            revision: 0,
        });
        let candidates: Vec<_> = candidates.collect();
        let targets = view.client.targets(&self.namespace, &candidates, Vec::new());
        // Names are labels, and so are parts of subjects.
        let targets = targets.ok().filter(|targets| !targets.is_empty())?;
        Some(Arc::new(Reach {
            client: view.client.clone(),
            streams: view.streams.clone(),
            targets,
        }))
    }
}

/// What is known of the other hosts.
pub struct View {
    /// What calls them.
    pub client: Client,
    /// For bodies that don't fit into a call.
    pub streams: Streams,
    /// Those that are not gone, without this one.
    pub neighbours: Vec<Neighbour>,
}

/// All groups.
#[derive(Default)]
pub struct Groups(Mutex<Known>);

#[derive(Default)]
struct Known {
    view: Option<View>,
    groups: Vec<Weak<Group>>,
}

impl Groups {
    /// The group of these hosts; of all if none is named.
    pub fn of(&self, namespace: &str, hosts: Option<Arc<BTreeSet<HostName>>>) -> Arc<Group> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.groups.retain(|group| group.strong_count() > 0);
        let same = |group: &Arc<Group>| group.namespace == namespace && group.hosts == hosts;
        if let Some(group) = known.groups.iter().filter_map(Weak::upgrade).find(same) {
            return group;
        }
        let group = Arc::new(Group {
            namespace: namespace.to_owned(),
            hosts,
            reach: ArcSwapOption::empty(),
            names: ArcSwap::default(),
        });
        group.refresh(&known.view);
        known.groups.push(Arc::downgrade(&group));
        group
    }

    /// Takes over who is there.
    pub fn update(&self, view: Option<View>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.view = view;
        for group in known.groups.iter().filter_map(Weak::upgrade) {
            group.refresh(&known.view);
        }
    }
}
