//! What a host serves: actors, their links and the routes to them, as one snapshot.
//!
//! Owns the snapshot. It is made by [`crate::reconcile`] and swapped as a whole; an invocation, and all the calls that
//! it makes, run on the one that was there when it came. So no call ever sees half of a change, and what a change
//! replaced is closed when its last user has gone.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_compose::{ActorName, AppName, AppPattern};

use crate::actor::Actor;
use crate::ingress::routes::Routes;
use crate::link::LinkTable;
use crate::mesh::group::RemoteActor;

/// An actor within one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActorIndex(u32);

/// An actor on another host, within one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteIndex(u32);

/// Who answers: an actor on this host, or on others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callee {
    /// Here.
    Here(ActorIndex),
    /// Elsewhere.
    There(RemoteIndex),
}

/// An actor and what its imports resolve to.
pub struct ActorState {
    /// The actor.
    pub actor: Arc<Actor>,
    /// Its links.
    pub links: LinkTable,
    /// Where else it runs, for calls that find no room here.
    pub elsewhere: Option<Arc<RemoteActor>>,
    /// Which other apps may call it.
    pub allow_from: Vec<AppPattern>,
}

impl ActorState {
    /// Whether an actor of `app` may call it.
    pub fn allows(&self, app: &AppName) -> bool {
        let own = self.actor.info.name.app_name();
        own == *app || self.allow_from.iter().any(|pattern| pattern.matches(app))
    }
}

/// One snapshot.
#[derive(Default)]
pub struct State {
    id: u64,
    actors: Vec<ActorState>,
    names: HashMap<ActorName, ActorIndex>,
    remotes: Vec<Arc<RemoteActor>>,
    remote_names: HashMap<ActorName, RemoteIndex>,
    /// Who answers which request.
    pub routes: Routes,
}

impl State {
    /// A snapshot of `actors`, and of `remotes` on other hosts, whose orders the indices in links and routes refer to;
    /// see [`indices`].
    pub fn new(actors: Vec<ActorState>, remotes: Vec<Arc<RemoteActor>>, routes: Routes) -> Self {
        let names = indices(actors.iter().map(|state| &state.actor.info.name));
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            actors,
            names,
            remote_names: remote_indices(remotes.iter().map(|remote| &remote.info.name)),
            remotes,
            routes,
        }
    }

    /// Tells it from all others of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The actor at an index of this snapshot.
    pub fn actor(&self, index: ActorIndex) -> &ActorState {
        &self.actors[index.0 as usize]
    }

    /// The actor at an index of this snapshot that runs on other hosts.
    pub fn remote(&self, index: RemoteIndex) -> &Arc<RemoteActor> {
        &self.remotes[index.0 as usize]
    }

    /// Who answers for this name.
    pub fn callee(&self, name: &ActorName) -> Option<Callee> {
        let there = || self.remote_names.get(name).copied().map(Callee::There);
        self.find(name).map(Callee::Here).or_else(there)
    }

    /// The actor of this name that runs on other hosts only.
    pub fn find_remote(&self, name: &ActorName) -> Option<&Arc<RemoteActor>> {
        self.remote_names.get(name).map(|index| self.remote(*index))
    }

    /// Where the actor of this name is, which may be a text that is none.
    pub fn find(&self, name: &(impl Borrow<str> + ?Sized)) -> Option<ActorIndex> {
        self.names.get(name.borrow()).copied()
    }

    /// All actors that run on other hosts only.
    pub fn remotes(&self) -> &[Arc<RemoteActor>] {
        &self.remotes
    }

    /// All actors.
    pub fn actors(&self) -> &[ActorState] {
        &self.actors
    }
}

/// The indices that actors in this order will have.
pub fn indices<'a>(names: impl Iterator<Item = &'a ActorName>) -> HashMap<ActorName, ActorIndex> {
    std::iter::zip(names, 0..)
        .map(|(name, index)| (name.clone(), ActorIndex(index)))
        .collect()
}

/// The same for those on other hosts.
pub fn remote_indices<'a>(names: impl Iterator<Item = &'a ActorName>) -> HashMap<ActorName, RemoteIndex> {
    std::iter::zip(names, 0..)
        .map(|(name, index)| (name.clone(), RemoteIndex(index)))
        .collect()
}
