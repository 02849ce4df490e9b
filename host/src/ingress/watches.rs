//! Changes of keys in: what actors watch, as calls of their watchers.
//!
//! Owns what a watch asks of its backend, and which host tells a change where the backend tells all of them; that it runs
//! while it is wanted is [`super::listening`]'s, and [`handle`] is what becomes of one change.

mod handle;

use std::sync::{Arc, Weak};

use tokio::sync::watch;
use weft_capabilities::key_value::watch::Takes;
use weft_capabilities::{Bucket, Change, Changes, KeyValue, Watch};
use weft_compose::{ActorName, WatchRecord};
use weft_observability::metrics::MessageOutcome;
use weft_remote::called_by;

use super::listening::{Ended, Listeners, Shared, Source};
use crate::actor::ActorInfo;
use crate::component::description::Description;
use crate::provider::{Gate, Guard};

/// What an actor exports to be told of changes: one of these.
pub const WATCHERS: [&str; 2] = [
    "wasi:keyvalue/watcher@0.2.0-draft",
    "wasi:keyvalue/watcher@0.2.0-draft2",
];
/// The functions of them.
const ON_SET: &str = "on-set";
const ON_DELETE: &str = "on-delete";

/// Whether a component is to be told of changes.
pub fn watches(component: &Description) -> bool {
    position(component, ON_SET).is_some() && position(component, ON_DELETE).is_some()
}

fn position(component: &Description, function: &str) -> Option<usize> {
    WATCHERS
        .iter()
        .find_map(|interface| component.position(interface, function))
}

/// The watches of a host.
pub type Watches = Listeners<Wanted>;

/// A watch that is to be, and the store that is to be asked.
#[derive(Clone)]
pub struct Wanted {
    /// Who is told of what.
    pub record: Arc<WatchRecord>,
    store: Arc<dyn KeyValue>,
    /// The backend that the store is now: another one after a move.
    behind: Option<Weak<dyn KeyValue>>,
}

impl Wanted {
    /// A watch of `store`, which has `guard` before it.
    pub fn new(record: Arc<WatchRecord>, store: Arc<dyn KeyValue>, guard: &Guard) -> Self {
        let behind = match &guard.gate {
            Some(Gate::KeyValue(gate)) => Some(Arc::downgrade(&gate.store())),
            _ => None,
        };
        Self {
            record,
            store,
            behind,
        }
    }

    fn bucket(&self) -> Bucket {
        let WatchRecord {
            actor,
            bucket,
            shared,
            ..
        } = &*self.record;
        match shared {
            true => Bucket::shared(bucket),
            false => Bucket::scoped(actor.namespace(), actor.app(), bucket),
        }
    }

    /// Which keys this host tells, where each host that runs the actor is told all.
    fn takes(&self, shared: &Arc<Shared>) -> Takes {
        let (shared, actor) = (shared.clone(), self.record.actor.clone());
        Arc::new(move |key| {
            let state = shared.state.load();
            let elsewhere = state.find(&actor).map(|at| &state.actor(at).elsewhere);
            match (elsewhere, &shared.host) {
                (Some(Some(elsewhere)), Some(host)) => elsewhere.hosts.falls_to(host, key),
                _ => true,
            }
        })
    }
}

impl Source for Wanted {
    type Piece = Change;

    fn actor(&self) -> &ActorName {
        &self.record.actor
    }

    fn is(&self, other: &Self) -> bool {
        let is_behind = match (&self.behind, &other.behind) {
            (Some(own), Some(other)) => own.ptr_eq(other),
            (own, other) => own.is_none() && other.is_none(),
        };
        self.record == other.record && Arc::ptr_eq(&self.store, &other.store) && is_behind
    }

    async fn begin(&self, shared: &Arc<Shared>) -> Result<Changes, String> {
        let actor = self.record.actor.as_str();
        let watch = Watch {
            takes: self.takes(shared),
            ..Watch::new(&self.record.keys, actor)
        };
        let bucket = self.bucket();
        let begun = called_by(actor.into(), self.store.watch(&bucket, watch)).await;
        begun.map_err(|error| crate::cli::chain(&error))
    }

    /// Changes of one key are told in their order.
    fn line(change: &Change) -> Option<&str> {
        Some(&change.key)
    }

    async fn handle(self, shared: Arc<Shared>, change: Change, ended: watch::Receiver<Ended>) {
        handle::handle(shared, self, change, ended).await;
    }

    fn tell_dropped(&self, info: &ActorInfo, lost: u64) {
        info.metrics.changes(lost, MessageOutcome::Dropped);
        if info.may_log_failure() {
            tracing::warn!(
                actor = info.name.as_str(),
                provider = self.record.provider.as_str(),
                bucket = self.record.bucket,
                lost,
                "changes of keys were dropped, as more came than the actor handles"
            );
        }
    }
}
