//! The reconciler: makes this host serve what the control store says.
//!
//! Owns the open providers and the running actors, and is the one place that makes a snapshot ([`crate::state`]).
//! It works by levels, not by events: each time the store has changed it looks at all that is wanted, keeps what is so
//! already, and makes the rest; of the store it reads only what has changed. What can't be made is a condition, told with
//! its reason and tried again; whatever is not touched by it is served. [`moves`] is a host's part when a provider's data
//! moves, [`conditions`] what is amiss now, [`scope`] which links lead into apps that allow them, [`connections`] how many a
//! namespace may have, [`listening`] what subscriptions and watches run here.

mod conditions;
mod connections;
mod listening;
mod moves;
mod scope;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Method};
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use weft_compose::capability::{LATTICE, OUTSIDE, PINNED};
use weft_compose::record::{ActorRecord, ProviderRecord, RouteRecord};
use weft_compose::{ActorName, AppName, ProviderName};
use weft_http::HttpClient;
use weft_lattice::control::{ControlStore, Index, ReadError};
use weft_observability::HostMetrics;

pub use self::listening::Listens;
use self::scope::allowed_links;
pub use self::scope::link_subject;
use crate::actor::{Actor, ActorInfo};
use crate::admission::Places;
use crate::artifact::Components;
use crate::cli::chain;
use crate::command::Commands;
use crate::deploy::not_allowed;
use crate::desired::Desired;
use crate::ingress::listening::Shared;
use crate::ingress::messages::Subscriptions;
use crate::ingress::routes::{Route, Routes};
use crate::ingress::watches::Watches;
use crate::instance::KeptPlaces;
use crate::link::{LinkTable, Targets};
use crate::mesh::group::RemoteActor;
use crate::mesh::{Mesh, ServedProvider};
use crate::provider::{Guard, MEMORY, Provider, ProviderError};
use crate::quota::{Quota, Quotas};
use crate::secret::Vault;
use crate::secret::opened::{Expanded, Opened, Used, redacted};
use crate::state::{ActorState, Callee, State, indices, remote_indices};

/// The first wait before something that failed is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest wait: an operator who has mended something sees it taken within half a minute.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Something that is wanted and is not so.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Condition {
    /// Whose it is, if it is one app's.
    pub app: Option<AppName>,
    /// What it is about, for example `actor default/shop/catalog`.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

/// Something that a round could not make so.
struct Found {
    app: Option<AppName>,
    subject: String,
    reason: String,
}

impl Found {
    fn of(app: AppName, subject: String, reason: String) -> Self {
        Self {
            app: Some(app),
            subject,
            reason,
        }
    }
}

/// How far this host has come.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// How often this host has looked at what is wanted.
    pub rounds: u64,
    /// The moment of the control store that is served, but for the conditions.
    pub applied: Index,
    /// What is not served as wanted.
    pub conditions: Vec<Condition>,
    /// Records that were read.
    pub desired: Arc<Desired>,
    /// What stands before each provider that is open here.
    pub guards: Arc<BTreeMap<ProviderName, Guard>>,
    /// Where the data of providers goes that move.
    pub targets: Arc<BTreeMap<ProviderName, Guard>>,
    /// What namespaces may use, and have used.
    pub quotas: Arc<Quotas>,
    /// What starts processes of outside providers here.
    pub commands: Option<Arc<Commands>>,
    /// This host's part in a lattice, whose faults are conditions.
    pub mesh: Option<Weak<Mesh>>,
}

/// The reconciler of a host.
pub struct Reconciler {
    control: Arc<dyn ControlStore>,
    components: Arc<Components>,
    metrics: HostMetrics,
    places: Places,
    kept: KeptPlaces,
    provider_folder: PathBuf,
    http: HttpClient,
    state: Arc<ArcSwap<State>>,
    progress: watch::Sender<Progress>,
    providers: HashMap<ProviderName, (ProviderRecord, Arc<Provider>)>,
    /// Those that are wanted no more, until their last invocation has ended: a file can't be opened twice.
    retiring: Vec<(ProviderRecord, Arc<Provider>)>,
    /// Where data goes that moves.
    targets: BTreeMap<ProviderName, (ProviderRecord, Arc<Provider>)>,
    /// The pass of each move for which keys are noted.
    passes: BTreeMap<ProviderName, u64>,
    actors: BTreeMap<ActorName, (Arc<ActorRecord>, Arc<Actor>)>,
    listening: Arc<Shared>,
    subscriptions: Subscriptions,
    watches: Watches,
    quotas: Arc<Quotas>,
    commands: Option<Arc<Commands>>,
    mesh: Option<Arc<Mesh>>,
    secrets: Opened,
}

/// What a reconciler is made of.
pub struct Parts {
    /// What is wanted.
    pub control: Arc<dyn ControlStore>,
    /// What actors run.
    pub components: Arc<Components>,
    /// Where numbers go.
    pub metrics: HostMetrics,
    /// The pool's places.
    pub places: Places,
    /// Places for instances that are reused.
    pub kept: KeptPlaces,
    /// Where embedded backends keep their files.
    pub provider_folder: PathBuf,
    /// Where the snapshot is put.
    pub state: Arc<ArcSwap<State>>,
    /// What all share that listen for messages and changes; nothing does yet.
    pub listening: Arc<Shared>,
    /// What starts processes of outside providers, in a lattice.
    pub commands: Option<Arc<Commands>>,
    /// The other hosts, if there may be any.
    pub mesh: Option<Arc<Mesh>>,
    /// What opens secrets.
    pub vault: Arc<Vault>,
}

impl Reconciler {
    /// A reconciler that has done nothing yet, and where to follow it.
    pub fn new(parts: Parts) -> (Self, watch::Receiver<Progress>) {
        let (progress, follow) = watch::channel(Progress::default());
        let Parts {
            control,
            components,
            metrics,
            places,
            kept,
            provider_folder,
            state,
            listening,
            commands,
            mesh,
            vault,
        } = parts;
        let reconciler = Self {
            control,
            components,
            metrics,
            places,
            kept,
            provider_folder,
            http: HttpClient::new(Vec::new()),
            state,
            progress,
            providers: HashMap::new(),
            retiring: Vec::new(),
            targets: BTreeMap::new(),
            passes: BTreeMap::new(),
            actors: BTreeMap::new(),
            subscriptions: Subscriptions::new(listening.clone()),
            watches: Watches::new(listening.clone()),
            listening,
            quotas: Arc::default(),
            commands,
            mesh,
            secrets: Opened::new(vault),
        };
        (reconciler, follow)
    }

    /// Reconciles until `stop`, then closes all providers. To be stopped when no invocation runs any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        loop {
            let started = Instant::now();
            let reconciled = tokio::select! {
                () = stop.cancelled() => break,
                reconciled = self.reconcile() => reconciled,
            };
            let whole = matches!(&reconciled, Ok((_, true)));
            self.metrics.reconciled(whole, started.elapsed());
            let settled = whole && self.retiring.is_empty();
            retry = if settled {
                RETRY_MIN
            } else {
                (retry * 2).min(RETRY_MAX)
            };
            let changed = match reconciled {
                Ok((index, _)) => self.changed(index),
                Err(error) => {
                    tracing::error!(error = chain(&error), "failed to read the control store");
                    None
                }
            };
            let wait = async {
                match changed {
                    Some(mut watch) if settled => tokio::select! {
                        _ = watch.next() => {}
                        () = self.secrets.moved() => {}
                    },
                    Some(mut watch) => drop(tokio::time::timeout(retry, watch.next()).await),
                    None => tokio::time::sleep(retry).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = wait => {}
                () = self.listening.lost.notified() => {}
            }
        }
        self.state.store(Arc::default());
        self.actors.clear();
        let open = self.providers.values().chain(&self.retiring);
        for (_, provider) in open.chain(self.targets.values()) {
            provider.close().await;
        }
        self.http.close().await;
    }

    fn changed(&self, since: Index) -> Option<weft_lattice::control::Watch> {
        self.control.watch(since).ok()
    }

    /// One round. `true` if all is as wanted.
    async fn reconcile(&mut self) -> Result<(Index, bool), ReadError> {
        let desired = Arc::new(self.desired().await?);
        let mut found = Vec::new();
        for (key, reason) in &desired.unreadable {
            found.push(Found {
                app: None,
                subject: format!("record {key}"),
                reason: reason.clone(),
            });
        }
        self.secrets.follow(&desired).await;
        self.quotas = Arc::new(Quota::follow(&self.quotas, &desired.quotas));
        self.open_providers(&desired, &mut found).await;
        self.look_at_connections(&mut found);
        if let Some(commands) = &self.commands {
            commands.follow(&desired);
        }
        let moved_on = self.follow_moves(&desired, &mut found).await;
        self.serve_providers(&desired);
        let asked = desired.apps.iter().map(|(name, app)| (name.clone(), app.reserve));
        self.places.reserve(&asked.collect());
        self.load_actors(&desired, &mut found).await;
        let state = self.snapshot(&desired, &mut found);
        let before = self.state.swap(Arc::new(state));
        self.listen(&desired, &before, &mut found).await;
        let gone = self
            .providers
            .extract_if(|name, _| !desired.providers.contains_key(name));
        for (_, provider) in gone.collect::<Vec<_>>() {
            self.retire(provider);
        }
        self.close_unused().await;

        let whole = found.is_empty();
        let index = desired.index;
        let conditions = self.conditions(found);
        let (rounds, before) = {
            let progress = self.progress.borrow();
            (progress.rounds + 1, progress.applied)
        };
        let guard = |(name, (_, open)): (&ProviderName, &(ProviderRecord, Arc<Provider>))| {
            (name.clone(), open.guard.clone())
        };
        self.progress.send_replace(Progress {
            rounds,
            // Who moves data counts on what a host says that it has applied.
            applied: if moved_on { index } else { before },
            conditions,
            desired,
            guards: Arc::new(self.providers.iter().map(guard).collect()),
            targets: Arc::new(self.targets.iter().map(guard).collect()),
            quotas: self.quotas.clone(),
            commands: self.commands.clone(),
            mesh: self.mesh.as_ref().map(Arc::downgrade),
        });
        Ok((index, whole))
    }

    /// What is wanted now.
    async fn desired(&self) -> Result<Desired, ReadError> {
        let known = {
            let progress = self.progress.borrow();
            (progress.rounds > 0).then(|| progress.desired.clone())
        };
        match known.and_then(|known| known.follow(&*self.control)) {
            Some(desired) => Ok(desired),
            None => Desired::read(&*self.control).await,
        }
    }

    async fn open_providers(&mut self, desired: &Desired, found: &mut Vec<Found>) {
        for (name, record) in &desired.providers {
            let record = &**record;
            let is_file = PINNED.contains(&record.backend.as_str());
            let same = |open: &ProviderRecord| {
                (&open.name, open.capability, &open.backend) == (name, record.capability, &record.backend)
            };
            let failed = |reason| Found::of(name.app_name(), format!("provider {name}"), reason);
            let used = match self.secrets.of_provider(record) {
                Ok(used) => used,
                // What is open goes on with the values that it has.
                Err(reason) => {
                    found.push(failed(reason));
                    continue;
                }
            };
            if let Some((open, provider)) = self.providers.get_mut(name) {
                // New values wait for the end of a move: its notes are with what is open.
                let unchanged = provider.secrets == used || moves::keeps(desired, name);
                let target = self.targets.get(name).map(|(target, _)| target);
                if open == record && unchanged || moves::takes_over(desired, open, record, provider, target) {
                    continue;
                }
                if same(open) && (is_file || open.config == record.config && unchanged) {
                    // A file is open and can't be opened twice: what changed is taken at the next start.
                    *provider = Arc::new(provider.with_revision(record.revision));
                    *open = record.clone();
                    continue;
                }
            }
            if let Some(reason) = self.too_many_connections(record) {
                found.push(failed(reason));
                continue;
            }
            let retiring = self
                .retiring
                .iter()
                .position(|(open, _)| same(open) && is_file && open.backend != MEMORY);
            let opened = if let Some(at) = retiring {
                let (_, provider) = self.retiring.swap_remove(at);
                Ok(Ok(provider.again(record)))
            } else {
                self.open_provider(record, &used).await
            };
            match opened {
                Ok(Ok(mut provider)) => {
                    provider.secrets = used;
                    let open = (record.clone(), Arc::new(provider));
                    if let Some(before) = self.providers.insert(name.clone(), open) {
                        // What runs ends on the one before, which is closed then.
                        tracing::info!(provider = %name, revision = record.revision, "opened anew");
                        self.retire(before);
                    }
                }
                Ok(Err(error)) => found.push(failed(redacted(chain(&error), &used))),
                Err(error) => found.push(failed(redacted(chain(&error), &used))),
            }
        }
    }

    /// Keeps a provider that is wanted no more until its last invocation has ended.
    fn retire(&mut self, (record, provider): (ProviderRecord, Arc<Provider>)) {
        if let Some(gate) = &provider.guard.gate {
            // What was moving it has been overtaken.
            gate.end();
        }
        self.retiring.push((record, provider));
    }

    /// Opens a provider: its backend here, or the way to where that is.
    async fn open_provider(
        &self,
        record: &ProviderRecord,
        used: &Used,
    ) -> Result<Result<Provider, ProviderError>, JoinError> {
        let pinned = PINNED.contains(&record.backend.as_str());
        match &self.mesh {
            None if record.backend == OUTSIDE => Ok(Err(ProviderError::no_lattice(record))),
            Some(mesh) if record.backend == LATTICE => Ok(Ok(Provider::in_lattice(record, mesh))),
            Some(mesh) if record.backend == OUTSIDE || pinned && !mesh.settings.controller => {
                Ok(Provider::elsewhere(record, mesh))
            }
            mesh => {
                let wanted = match Expanded::new(record, used) {
                    Ok(wanted) => wanted,
                    Err(reason) => return Ok(Err(ProviderError::refused(record, reason))),
                };
                let folder = self.provider_folder.clone();
                let opened = tokio::task::spawn_blocking(move || Provider::open(wanted.record(), &folder));
                let opened = opened.await?;
                Ok(opened.map(|provider| match mesh {
                    Some(mesh) if pinned => provider.served_to(mesh),
                    _ => provider,
                }))
            }
        }
    }

    /// Lets the other hosts reach what is open here.
    fn serve_providers(&self, desired: &Desired) {
        let Some(mesh) = &self.mesh else { return };
        let served = |(name, (open, provider)): (&ProviderName, &(ProviderRecord, Arc<Provider>))| {
            let provided = provider.provided.clone()?;
            // Who may use it is what is wanted now, also if what is open is still what was wanted before.
            let record = desired.providers.get(name).cloned();
            let record = record.unwrap_or_else(|| Arc::new(open.clone()));
            Some((name.as_str().to_owned(), ServedProvider { provided, record }))
        };
        let open = self.providers.iter().filter_map(served);
        let targets = self.targets.iter().filter_map(served);
        // While data moves to this host, the others reach its new place by the provider's name.
        mesh.serve_providers(targets.chain(open).collect());
    }

    /// Closes the retiring providers whose last invocation has ended.
    async fn close_unused(&mut self) {
        let retiring = std::mem::take(&mut self.retiring).into_iter();
        let (used, unused): (Vec<_>, Vec<_>) = retiring.partition(|(_, provider)| provider.is_used());
        self.retiring = used;
        for (_, provider) in unused {
            provider.close().await;
        }
    }

    async fn load_actors(&mut self, desired: &Desired, found: &mut Vec<Found>) {
        for (name, record) in &desired.actors {
            if !self.is_placed(desired, name) {
                continue;
            }
            if self
                .actors
                .get(name)
                .is_some_and(|(running, _)| Arc::ptr_eq(running, record) || running == record)
            {
                continue;
            }
            match self.load(record).await {
                Ok(actor) => {
                    self.actors
                        .insert(name.clone(), (record.clone(), Arc::new(actor)));
                }
                // The revision that runs goes on.
                Err(reason) => found.push(Found::of(name.app_name(), format!("actor {name}"), reason)),
            }
        }
        let is_here = |name: &ActorName| desired.actors.contains_key(name) && self.is_placed(desired, name);
        let gone: Vec<_> = self
            .actors
            .keys()
            .filter(|name| !is_here(name))
            .cloned()
            .collect();
        for name in &gone {
            self.actors.remove(name);
        }
    }

    /// Whether an actor is to run on this host.
    fn is_placed(&self, desired: &Desired, actor: &ActorName) -> bool {
        let mesh = self.mesh.as_ref();
        mesh.is_none_or(|mesh| desired.is_placed(actor, &mesh.name))
    }

    /// The actors as they are reached on other hosts: those that this one does not run, placed here or not.
    fn remotes(&self, desired: &Desired) -> BTreeMap<ActorName, Arc<RemoteActor>> {
        let Some(mesh) = &self.mesh else {
            return BTreeMap::new();
        };
        let elsewhere = desired
            .actors
            .iter()
            .filter(|(name, _)| !self.actors.contains_key(*name));
        let remotes = elsewhere.map(|(name, record)| {
            let metrics = self.metrics.actor(name.as_str());
            let info = ActorInfo::new(name.clone(), record.limits.clone(), metrics);
            (name.clone(), remote(mesh, desired, record, info))
        });
        remotes.collect()
    }

    async fn load(&self, record: &ActorRecord) -> Result<Actor, String> {
        let digest = record.component.parse().map_err(|error| chain(&error))?;
        let component = self.components.get(digest).await.map_err(|error| chain(&error))?;
        let metrics = self.metrics.actor(record.name.as_str());
        let info = ActorInfo::new(record.name.clone(), record.limits.clone(), metrics);
        Ok(Actor::new(
            info,
            record.revision,
            component,
            self.places.clone(),
            self.kept.clone(),
        ))
    }

    fn snapshot(&self, desired: &Desired, found: &mut Vec<Found>) -> State {
        let index = indices(self.actors.keys());
        let remotes = self.remotes(desired);
        let remote_index = remote_indices(remotes.keys());
        let actors = self
            .actors
            .iter()
            .map(|(name, (_, actor))| (name.clone(), (index[name], actor.component.clone())))
            .collect();
        let providers = self
            .providers
            .iter()
            .map(|(name, (_, provider))| (name.clone(), provider.clone()))
            .collect();
        let targets = Targets {
            http: &self.http,
            providers: &providers,
            actors: &actors,
            remotes: &remote_index,
            quotas: &self.quotas,
        };
        let states = self.actors.iter().map(|(name, (record, actor))| {
            let (open, denied) = allowed_links(desired, name);
            for link in &denied {
                let target = link.target.name().unwrap_or_default();
                let reason = not_allowed(name, target).to_string();
                found.push(Found::of(name.app_name(), link_subject(link), reason));
            }
            let (mut links, faults) = LinkTable::resolve(
                name,
                &actor.component.description,
                record.config.clone(),
                &open,
                &targets,
            );
            links.deny(&denied);
            let failed = |fault| Found::of(name.app_name(), format!("links of {name}"), fault);
            found.extend(faults.into_iter().map(failed));
            links.secrets = self.secrets.of_actor(record);
            let missing = links.secrets.values().filter_map(|value| value.as_ref().err());
            let failed =
                |fault: &String| Found::of(name.app_name(), format!("secrets of {name}"), fault.clone());
            found.extend(missing.map(failed));
            ActorState {
                actor: actor.clone(),
                links,
                elsewhere: self
                    .mesh
                    .as_ref()
                    .map(|mesh| remote(mesh, desired, record, actor.info.clone())),
                allow_from: record.allow_from.clone(),
            }
        });
        let states = states.collect();
        let here = index.into_iter().map(|(name, at)| (name, Callee::Here(at)));
        let there = remote_index
            .into_iter()
            .map(|(name, at)| (name, Callee::There(at)));
        let callees = here.chain(there).collect();
        State::new(
            states,
            remotes.into_values().collect(),
            routes(&desired.routes, &callees, found),
        )
    }

    /// The conditions of this round; one that was there before keeps its time.
    fn conditions(&self, found: Vec<Found>) -> Vec<Condition> {
        let before = self.progress.borrow();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let conditions = found.into_iter().map(|Found { app, subject, reason }| {
            let known = before
                .conditions
                .iter()
                .find(|old| old.subject == subject && old.reason == reason);
            if known.is_none() {
                tracing::error!(subject, reason, "not as wanted");
            }
            Condition {
                since: known.map_or(now, |known| known.since),
                app,
                subject,
                reason,
            }
        });
        conditions.collect()
    }
}

/// An actor as it is reached on other hosts.
fn remote(mesh: &Mesh, desired: &Desired, record: &ActorRecord, info: Arc<ActorInfo>) -> Arc<RemoteActor> {
    let hosts = desired.placements.get(&record.name).cloned();
    Arc::new(RemoteActor {
        hosts: mesh.group(record.name.namespace(), hosts),
        idempotent: record.idempotent.clone().into(),
        info,
    })
}

fn routes(
    records: &BTreeMap<String, Arc<RouteRecord>>,
    actors: &HashMap<ActorName, Callee>,
    found: &mut Vec<Found>,
) -> Routes {
    let mut routes: Vec<&RouteRecord> = records.values().map(|record| &**record).collect();
    // One record for each claim: a route with three methods is there three times.
    routes.sort_by(|a, b| {
        (&a.host, &a.path, &a.headers, &a.methods).cmp(&(&b.host, &b.path, &b.headers, &b.methods))
    });
    routes.dedup();
    let mut built = Vec::with_capacity(routes.len());
    for record in routes {
        let failed = |reason| Found::of(record.app.clone(), format!("route {}", record.path), reason);
        match actors.get(&record.actor) {
            Some(target) => match route(record, *target) {
                Ok(route) => built.push(route),
                Err(reason) => found.push(failed(reason)),
            },
            None => found.push(failed(format!("{} is not there", record.actor))),
        }
    }
    Routes::new(built)
}

fn route(record: &RouteRecord, target: Callee) -> Result<Route, String> {
    let methods = record.methods.iter().map(|method| method.parse::<Method>());
    let headers = record.headers.iter().map(|(name, value)| {
        let name = name.parse::<HeaderName>().map_err(|error| error.to_string())?;
        let value = value.parse::<HeaderValue>().map_err(|error| error.to_string())?;
        Ok((name, value))
    });
    Ok(Route {
        host: record.host.clone(),
        path: record.path.clone(),
        methods: methods
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?,
        headers: headers.collect::<Result<_, String>>()?,
        strip_prefix: record.strip_prefix,
        target,
    })
}
