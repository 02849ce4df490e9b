//! Links: what the imports of an actor resolve to.
//!
//! Owns the link table of an actor within one snapshot ([`crate::state`]), and how it is made of records. A table never
//! changes: a link that is changed is another table in another snapshot. Read [`check`] for what fits what, `chosen` for
//! what becomes of links by name.

pub mod check;
mod chosen;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_capabilities::{BlobStore, KeyValue, Messaging, Scope, Sql};
use weft_compose::capability::{Need, need};
use weft_compose::record::{LinkRecord, LinkTarget};
use weft_compose::{ActorName, Capability, DEFAULT_LINK, InterfacePattern, ProviderName, check_beside};
use weft_http::HttpClient;
use weft_secrets::Secret;

pub use self::chosen::{Chosen, Import, NameIndex};
use crate::component::description::Description;
use crate::component::lazy::LazyComponent;
use crate::front::http_client::HttpLink;
use crate::provider::{Backend, Provider};
use crate::quota::{Quota, Quotas};
use crate::state::{ActorIndex, Callee, RemoteIndex};

/// What the config keys start with by which an actor reads its own links.
const LINK_KEYS: &str = "weft.link.";

/// Characters that are repeated of a link's name that is not there: as many as one may have.
const NAME_SHOWN_LEN_MAX: usize = 63;

/// What the imports of one actor resolve to.
#[derive(Default)]
pub struct LinkTable {
    /// By the links that an invocation begins with.
    default: Links,
    /// By those of other names.
    named: Vec<Named>,
    /// Secrets by the actor's own names, or why there is none.
    pub secrets: BTreeMap<String, Result<Secret, String>>,
    /// Configuration, in the order of its keys: the actor's own, and one for each link of where it goes.
    pub config: Arc<[(String, String)]>,
}

/// What imports resolve to by the links of one name.
#[derive(Default)]
pub struct Links {
    /// By the component's own numbering of what actors answer.
    actors: Vec<Option<ActorLink>>,
    /// `wasi:keyvalue`.
    pub key_value: Option<KeyValueLink>,
    /// `weft:sql`.
    pub sql: Option<SqlLink>,
    /// `wasi:blobstore`.
    pub blob_store: Option<BlobStoreLink>,
    /// `wasmcloud:messaging`.
    pub messaging: Option<MessagingLink>,
    /// Outgoing HTTP; denied without.
    pub http: Option<HttpLink>,
    /// Links that lead nowhere, as they go to another app, which does not let this one.
    denied: Vec<InterfacePattern>,
}

/// The links of a name that is not the default one.
struct Named {
    name: String,
    /// What they are for.
    interfaces: Vec<InterfacePattern>,
    links: Links,
}

/// An interface that an actor answers.
enum ActorLink {
    /// On this host.
    Here {
        target: ActorIndex,
        /// By the importing component's numbering: their places among all that the target exports.
        functions: Vec<usize>,
    },
    /// On others, which look the function up by its name.
    There(RemoteIndex),
}

/// Where a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// To an actor on this host, and the function's place among all that it exports.
    Here(ActorIndex, usize),
    /// To an actor on others.
    There(RemoteIndex),
}

impl Linked {
    /// Who answers.
    pub fn callee(self) -> Callee {
        match self {
            Self::Here(at, _) => Callee::Here(at),
            Self::There(at) => Callee::There(at),
        }
    }
}

/// A key-value store, as far as one actor reaches into it.
pub struct KeyValueLink {
    /// Keeps the backend open.
    pub provider: Arc<Provider>,
    /// The store.
    pub store: Arc<dyn KeyValue>,
    /// The namespace and app whose keys it sees; `None` for those that all apps share.
    pub scope: Option<(String, String)>,
    /// The bucket that it gets whatever it asks for.
    pub bucket: Option<String>,
}

/// A blob store, as far as one actor reaches into it.
pub struct BlobStoreLink {
    /// Keeps the backend open.
    pub provider: Arc<Provider>,
    /// The store.
    pub store: Arc<dyn BlobStore>,
    /// The namespace and app whose containers it sees; `None` for those that all apps share.
    pub scope: Option<(String, String)>,
    /// The container that it gets whatever it asks for.
    pub container: Option<String>,
}

/// A database.
pub struct SqlLink {
    /// Keeps the backend open.
    pub provider: Arc<Provider>,
    /// The database.
    pub database: Arc<dyn Sql>,
}

/// Messages, as far as one actor reaches.
pub struct MessagingLink {
    /// Keeps the backend open.
    pub provider: Arc<Provider>,
    /// The backend.
    pub broker: Arc<dyn Messaging>,
    /// Whose subjects it sees.
    pub scope: Scope,
    /// How much its namespace may say.
    pub quota: Option<Arc<Quota>>,
}

/// What links may point at.
pub struct Targets<'a> {
    /// What makes outgoing requests.
    pub http: &'a HttpClient,
    /// Open providers.
    pub providers: &'a HashMap<ProviderName, Arc<Provider>>,
    /// Actors that are there, with their place in the snapshot.
    pub actors: &'a HashMap<ActorName, (ActorIndex, Arc<LazyComponent>)>,
    /// Those that run on other hosts only.
    pub remotes: &'a HashMap<ActorName, RemoteIndex>,
    /// What namespaces may use.
    pub quotas: &'a Quotas,
}

impl LinkTable {
    /// The links of a name that was [chosen](Chosen).
    pub fn by(&self, name: NameIndex) -> &Links {
        match name
            .0
            .checked_sub(1)
            .and_then(|at| self.named.get(usize::from(at)))
        {
            Some(named) => &named.links,
            None => &self.default,
        }
    }

    /// The links of a name.
    pub fn named(&self, name: &str) -> Option<&Links> {
        if name == DEFAULT_LINK {
            return Some(&self.default);
        }
        let named = self.named.iter().find(|named| named.name == name);
        named.map(|named| &named.links)
    }

    /// Takes note of links that lead nowhere, as they go to another app, which does not let this one. They can be chosen all
    /// the same: a call says then that it is denied.
    pub fn deny(&mut self, denied: &[&LinkRecord]) {
        for link in denied {
            let (name, interface) = (link.interface.name(), &link.interface.interface);
            let links = if link.interface.is_default() {
                &mut self.default
            } else {
                let at = self.named.iter().position(|named| named.name == name);
                let at = at.unwrap_or_else(|| {
                    self.named.push(Named {
                        name: name.to_owned(),
                        interfaces: Vec::new(),
                        links: Links::default(),
                    });
                    self.named.len() - 1
                });
                let named = &mut self.named[at];
                named.interfaces.push(interface.clone());
                &mut named.links
            };
            links.denied.push(interface.clone());
        }
    }

    /// The name by which `interface` is to be linked from now on.
    ///
    /// # Errors
    /// No link of that name takes it; in one sentence for the guest.
    fn choose(&self, name: &str, interface: &InterfacePattern) -> Result<NameIndex, String> {
        // What an invocation begins with can be gone back to.
        if name == DEFAULT_LINK {
            return Ok(NameIndex::DEFAULT);
        }
        let takes = |named: &&Named| named.interfaces.iter().any(|own| own.covers(interface));
        let at = self
            .named
            .iter()
            .position(|named| named.name == name && takes(&named));
        let index = at.and_then(|at| u16::try_from(at + 1).ok());
        index.map(NameIndex).ok_or_else(|| {
            let known = self.named.iter().filter(takes).map(|named| named.name.as_str());
            let known: Vec<_> = [DEFAULT_LINK].into_iter().chain(known).collect();
            // A guest may give any text for a name.
            let name: String = name
                .chars()
                .take(NAME_SHOWN_LEN_MAX)
                .flat_map(char::escape_debug)
                .collect();
            format!(
                "this actor has no link `{name}` for {interface}; it has {}",
                known.join(", ")
            )
        })
    }

    /// Resolves the imports of `component` by `links`, which are all those of the actor. A link that can't be resolved
    /// stays open, and calls through it fail; what is wrong with it is told in one sentence each.
    pub fn resolve(
        actor: &ActorName,
        component: &Description,
        config: impl IntoIterator<Item = (String, String)>,
        links: &[LinkRecord],
        targets: &Targets<'_>,
    ) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        let mut names: Vec<&str> = links
            .iter()
            .filter(|link| !link.interface.is_default() && link.target != LinkTarget::Removed)
            .map(|link| link.interface.name())
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut resolve = |name| Links::resolve(actor, component, name, links, targets, &mut faults);
        let default = resolve(DEFAULT_LINK);
        let named = names.into_iter().map(|name| Named {
            name: name.to_owned(),
            interfaces: of_name(links, name)
                .filter(|link| link.target != LinkTarget::Removed)
                .map(|link| link.interface.interface.clone())
                .collect(),
            links: resolve(name),
        });
        let named = named.collect();
        // What is told of the links can't be said otherwise.
        let mut config: Vec<_> = config
            .into_iter()
            .filter(|(key, _)| !key.starts_with(LINK_KEYS))
            .collect();
        for link in links {
            if let LinkTarget::Provider { name, .. } = &link.target
                && let Some(provider) = targets.providers.get(name)
            {
                config.push((
                    format!("{LINK_KEYS}{}", link.interface),
                    format!("{}@{}", name.name(), provider.revision),
                ));
            }
        }
        config.sort();
        let table = Self {
            default,
            named,
            secrets: BTreeMap::new(),
            config: config.into(),
        };
        (table, faults)
    }
}

impl Links {
    /// Whether the link of an import goes to another app that does not let this one.
    pub fn is_denied(&self, import: &str) -> bool {
        self.denied.iter().any(|link| link.matches(import))
    }

    /// Whether that of a capability does.
    pub fn denies(&self, capability: Capability) -> bool {
        self.denied
            .iter()
            .any(|link| need(link) == Need::Provider(capability))
    }

    /// The function that an imported one resolves to.
    pub fn function(&self, import: usize, function: usize) -> Option<Linked> {
        Some(match self.actors.get(import)?.as_ref()? {
            ActorLink::Here { target, functions } => Linked::Here(*target, *functions.get(function)?),
            ActorLink::There(target) => Linked::There(*target),
        })
    }

    /// Resolves by the links of one name.
    fn resolve(
        actor: &ActorName,
        component: &Description,
        name: &str,
        links: &[LinkRecord],
        targets: &Targets<'_>,
        faults: &mut Vec<String>,
    ) -> Self {
        let mut resolved = Self::default();
        for import in &component.actor_imports {
            let link = match linked(links, name, &import.interface) {
                Some(LinkTarget::Actor { name }) => match targets.actors.get(name) {
                    Some((index, target)) => check::exports(import, &target.description)
                        .map(|functions| {
                            Some(ActorLink::Here {
                                target: *index,
                                functions,
                            })
                        })
                        .map_err(|fault| format!("{actor} can't be linked to {name}: {fault}")),
                    // Its types were compared when the link was made, and are again where it runs.
                    None => match targets.remotes.get(name) {
                        Some(index) => Ok(Some(ActorLink::There(*index))),
                        None => Err(format!("{} goes to {name}, which is not there", import.interface)),
                    },
                },
                Some(LinkTarget::Removed) | None => Ok(None),
                Some(_) => Err(format!("{} has to go to an actor", import.interface)),
            };
            resolved.actors.push(link.unwrap_or_else(|fault| {
                faults.push(fault);
                None
            }));
        }
        // A manifest with such is refused; links that are changed one by one are so for a while.
        let mut before: Vec<&LinkRecord> = Vec::new();
        for link in of_name(links, name) {
            let differing = before.iter().find_map(|other| {
                check_beside((&link.interface, &link.target), (&other.interface, &other.target)).err()
            });
            faults.extend(differing.map(|fault| fault.to_string()));
            before.push(link);
            match &link.target {
                LinkTarget::Provider { name, bucket, shared } => match targets.providers.get(name) {
                    Some(provider) => {
                        let quota = targets.quotas.get(actor.namespace());
                        resolved.use_provider(actor, provider, bucket.clone(), *shared, quota);
                    }
                    None => faults.push(format!("{} goes to {name}, which is not open", link.interface)),
                },
                LinkTarget::Http { allow } => {
                    resolved.http = Some(HttpLink {
                        client: targets.http.clone(),
                        allow: allow.clone().into(),
                    });
                }
                LinkTarget::Actor { .. } | LinkTarget::Removed => {}
            }
        }
        resolved
    }

    fn use_provider(
        &mut self,
        actor: &ActorName,
        provider: &Arc<Provider>,
        bucket: Option<String>,
        shared: bool,
        quota: Option<&Arc<Quota>>,
    ) {
        let scope = (!shared).then(|| (actor.namespace().to_owned(), actor.app().to_owned()));
        match &provider.backend {
            Backend::KeyValue(store) => {
                self.key_value = Some(KeyValueLink {
                    provider: provider.clone(),
                    store: store.clone(),
                    scope,
                    bucket,
                });
            }
            Backend::BlobStore(store) => {
                self.blob_store = Some(BlobStoreLink {
                    provider: provider.clone(),
                    store: match quota {
                        Some(quota) => quota.limit(store.clone()),
                        None => store.clone(),
                    },
                    scope,
                    container: bucket,
                });
            }
            Backend::Sql(database) => {
                self.sql = Some(SqlLink {
                    provider: provider.clone(),
                    database: database.clone(),
                });
            }
            Backend::Messaging(broker) => {
                self.messaging = Some(MessagingLink {
                    provider: provider.clone(),
                    broker: broker.clone(),
                    scope: scope_of(actor, shared),
                    quota: quota.cloned(),
                });
            }
        }
    }
}

/// Whose subjects an actor means.
pub fn scope_of(actor: &ActorName, shared: bool) -> Scope {
    match shared {
        true => Scope::shared(),
        false => Scope::scoped(actor.namespace(), actor.app()),
    }
}

/// Where an import goes by the links of a name: of those that take it, the one that says most.
pub fn linked<'a>(links: &'a [LinkRecord], name: &str, import: &str) -> Option<&'a LinkTarget> {
    let links = of_name(links, name);
    best(
        links.map(|link| (&link.interface.interface, &link.target)),
        import,
    )
}

fn of_name<'a>(links: &'a [LinkRecord], name: &str) -> impl Iterator<Item = &'a LinkRecord> {
    links.iter().filter(move |link| link.interface.name() == name)
}

/// Of the patterns that take `import`, the target of the one that says most.
pub fn best<'a, T>(links: impl Iterator<Item = (&'a InterfacePattern, T)>, import: &str) -> Option<T> {
    links
        .filter(|(pattern, _)| pattern.matches(import))
        .max_by_key(|(pattern, _)| pattern.specificity())
        .map(|(_, target)| target)
}
