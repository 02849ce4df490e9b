//! Providers that are elsewhere, and those of this host that others use.
//!
//! Owns where a provider is: one that keeps files is on the host that has the control store, an outside one is with
//! whoever serves its subject. It must not know what a backend does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use tracing::Span;
use weft_compose::record::ProviderRecord;
use weft_compose::{ActorName, ProviderName};
use weft_lattice::envelope::{Failure, FailureKind, Trace};
use weft_lattice::subject::Address;
use weft_observability::context_of;
use weft_remote::{Provided, Remote};

use super::Mesh;
use crate::call::remote::wire_trace;
use crate::deploy::not_allowed;

/// What a message has at most where nothing else is known: what a NATS server takes unless it is told otherwise.
const MESSAGE_LEN_MAX: usize = 1 << 20;

/// Where a provider of another host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Controller,
    Outside,
}

/// Providers as the mesh knows them.
#[derive(Default)]
pub(super) struct Providers {
    /// Those that this host uses on others, for as long as it holds them.
    used: Mutex<Vec<(Weak<Held>, Remote, Where)>>,
    /// Those of this host, by their full names.
    served: ArcSwap<HashMap<String, ServedProvider>>,
}

/// A provider of this host, as others get it.
#[derive(Clone)]
pub struct ServedProvider {
    /// What answers their calls.
    pub provided: Provided,
    /// Who may use it.
    pub record: Arc<ProviderRecord>,
}

impl ServedProvider {
    /// Whether `caller` may use it: an actor of another app has to be let. Who is no actor is a host, for itself, or of a
    /// version that looks at that before it calls and names itself.
    ///
    /// # Errors
    /// What would let it.
    pub fn may_be_used_by(&self, caller: &str) -> Result<(), Failure> {
        match caller.parse::<ActorName>() {
            Ok(actor) if !self.record.allows(&actor.app_name()) => {
                let refused = not_allowed(&actor, self.record.name.as_str());
                Err(Failure::not_started(FailureKind::Denied, refused.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// Held by whoever uses a provider of another host.
#[derive(Debug)]
pub struct Held;

impl Mesh {
    /// A provider that another host has, or with `outside` a process that is no host.
    ///
    /// # Errors
    /// This host has not joined yet, as text for people.
    pub fn use_provider(&self, name: &ProviderName, outside: bool) -> Result<(Remote, Arc<Held>), String> {
        let joined = self
            .joined
            .load_full()
            .ok_or("it is on another host, and this one has not joined the lattice yet")?;
        let parts = [name.namespace(), name.app(), name.name()];
        let remote = Remote::new(joined.client().clone(), parts, self.name.as_str(), trace);
        let at = if outside {
            Where::Outside
        } else {
            Where::Controller
        };
        let held = Arc::new(Held);
        let entry = (Arc::downgrade(&held), remote.clone(), at);
        self.place_provider(&entry.1, at);
        self.providers
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(entry);
        Ok((remote, held))
    }

    /// Takes over where the providers are that this host uses.
    pub(super) fn place_providers(&self) {
        let mut used = self.providers.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|(held, ..)| held.strong_count() > 0);
        for (_, remote, at) in &*used {
            self.place_provider(remote, *at);
        }
    }

    fn place_provider(&self, remote: &Remote, at: Where) {
        let placed = match at {
            Where::Outside => remote.set_outside(&self.settings.subjects),
            Where::Controller => match self.controller_address() {
                Some(address) => remote.set_host(&address),
                None => {
                    remote.set_nowhere("the host that has it, the controller, can't be reached");
                    Ok(())
                }
            },
        };
        if let Err(error) = placed {
            remote.set_nowhere(error.to_string());
        }
    }

    fn controller_address(&self) -> Option<Address> {
        let members = self.members();
        let controller = members.iter().find(|member| member.host.controller)?;
        Some(controller.host.address.clone())
    }

    /// Serves a backend of this host to the others, from when [`serve_providers`](Self::serve_providers) takes it.
    pub fn provided(&self, backend: weft_remote::Backend) -> Provided {
        Provided::new(backend, self.name.as_str(), MESSAGE_LEN_MAX)
    }

    /// Serves these, and no others any more.
    pub fn serve_providers(&self, providers: HashMap<String, ServedProvider>) {
        self.providers.served.store(Arc::new(providers));
    }

    /// A provider of this host.
    pub fn served_provider(&self, name: &str) -> Option<ServedProvider> {
        self.providers.served.load().get(name).cloned()
    }

    /// Ends what providers keep for a host that has gone.
    pub(super) fn provider_user_gone(&self, peer: &Address) {
        for served in self.providers.served.load().values() {
            served.provided.peer_gone(peer);
        }
    }
}

/// The trace that a call of a provider belongs to.
fn trace() -> Option<Trace> {
    context_of(&Span::current()).map(|trace| wire_trace(&trace))
}
