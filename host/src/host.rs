//! One host: the assembly of all parts, and the order in which they stop.
//!
//! The only module that knows every other. Starting: data folder, listeners (so that a port in use is known at once),
//! engine, control store, reconciler, apps, ready. Stopping: see [`Host::drain`].

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_lattice::control::{ControlStore, Embedded, Replica};
use weft_observability::metrics::{PoolState, StateReport};
use weft_observability::{HostMetrics, Telemetry};

use crate::admin::{self, AdminError, HostStatus};
use crate::admission::Places;
use crate::artifact::{Components, Residency};
use crate::command::Commands;
use crate::component::Loader;
use crate::component::aot::AotCache;
use crate::component::compile::Compiler;
use crate::config::{Config, Deployment};
use crate::data::DataDir;
use crate::deploy::{DeployError, Deployer};
use crate::engine::{Engine, EngineError};
use crate::front;
use crate::ingress::busy::BusyThreads;
use crate::ingress::forwarded::TrustedProxies;
use crate::ingress::handler::Handler;
use crate::ingress::invoke::GuestTasks;
use crate::ingress::listener::Ingress;
use crate::ingress::listening;
use crate::ingress::tls::{Certificates, TlsError};
use crate::ingress::workers::Workers;
use crate::instance::{self, KeptPlaces};
use crate::logs::LogBuffer;
use crate::memory::Upkeep;
use crate::mesh::service::{HostService, Records};
use crate::mesh::{self, FromOthers, JoinError, Links, Mesh};
use crate::moving::{Mover, Moves};
use crate::panics;
use crate::reconcile::{Parts, Progress, Reconciler};
use crate::secret::Vault;
use crate::shutdown::Shutdown;
use crate::state::State;
use crate::system::SystemFacts;

/// How long tasks get to end by themselves once they were told to.
const ABORT_MAX: Duration = Duration::from_secs(2);

/// A host that serves.
pub struct Host {
    status: Arc<HostStatus>,
    shutdown: Shutdown,
    /// Cancelled to end the reconciler.
    reconciling: CancellationToken,
    commands: Option<Arc<Commands>>,
    /// None on a host that has a copy.
    control: Option<Arc<Embedded>>,
    mesh: Option<Arc<Mesh>>,
    drain_timeout: Duration,
    // Last, so that the lock is held until all else is gone.
    data: DataDir,
}

/// Why a host did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// An address can't be listened on.
    #[error("failed to listen for {what} on {address}: {}", listen_remedy(.source, .flag))]
    Listen {
        /// What was to be served there.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The flag that names another.
        flag: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The engine can't be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The platform's own interfaces don't link.
    #[error("failed to link the platform's interfaces")]
    Link(#[source] wasmtime::Error),
    /// What it was started with can't be deployed.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// What is deployed can't be served. One sentence each.
    #[error("what is deployed can't be served:\n{}", .0.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
    NotServed(Vec<String>),
    /// The folder of components can't be made.
    #[error("failed to make the folder of components in the data folder; check its owner and rights")]
    Artifacts(#[source] io::Error),
    /// The control store can't be opened.
    #[error(transparent)]
    Control(#[from] weft_lattice::control::OpenError),
    /// The root keys can't be used.
    #[error(transparent)]
    RootKey(#[from] weft_secrets::KeyFileError),
    /// A certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS library refuses its configuration.
    #[error("failed to set up TLS")]
    TlsSetup(#[source] rustls::Error),
    /// The lattice can't be joined, and this host has nothing to serve without.
    #[error("failed to join the lattice")]
    Join(#[from] JoinError),
    /// The host's name can't be used in a lattice.
    #[error(transparent)]
    Name(#[from] weft_compose::NameError),
    /// The admin API can't be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The threads that serve connections can't be had.
    #[error(
        "failed to start the threads that serve connections; is this user's number of processes limited?"
    )]
    Threads(#[source] io::Error),
    /// This program's own file can't be found, which the compile process is started from.
    #[error("failed to find this program's own file")]
    Executable(#[source] io::Error),
}

fn listen_remedy(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another process holds this port; stop it, name another with {flag}, or take any free one with port 0"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("this user may not use this port; name one above 1023 with {flag}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; name one of its own with {flag}")
        }
        _ => format!("{error}; name another with {flag}"),
    }
}

impl Host {
    /// Starts everything that `config` names and returns once requests are answered.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn start(
        config: Config,
        data: DataDir,
        telemetry: &Telemetry,
        logs: LogBuffer,
    ) -> Result<Self, HostError> {
        let started = Instant::now();
        let metrics = telemetry.metrics();
        let shutdown = Shutdown::default();

        let http = listen("HTTP", config.http, "--http").await?;
        let https = match config.https {
            Some(address) => Some(listen("HTTP over TLS", address, "--https").await?),
            None => None,
        };
        let monitor = listen("monitoring", config.monitor, "--monitor").await?;
        let admin_tcp = match config.admin {
            Some(address) => Some(listen("the admin API", address, "--admin").await?),
            None => None,
        };

        let facts = SystemFacts::read();
        let engine = Engine::new(config.profile, config.instances, &facts)?;
        let loader = loader(&engine, &data, metrics)?;
        let mut residency = Residency::of(&facts, config.unload_after);
        if let Some(wanted) = config.components_loaded {
            residency.loaded_max = wanted.min(residency.loaded_max);
        }
        let components = Components::open(
            loader,
            data.artifacts(),
            *data.host_key(),
            residency,
            metrics.clone(),
        )
        .map_err(HostError::Artifacts)?;
        components.set_bytes_max(config.artifact_bytes);
        shutdown
            .servers
            .spawn(components.clone().run(shutdown.end.clone()));
        let mesh = config
            .lattice
            .map(|settings| Ok::<_, HostError>(Mesh::new(settings, data.host_name()?)))
            .transpose()?;
        let records = data.path().join("records");
        let copy = mesh
            .as_ref()
            .filter(|mesh| !mesh.settings.controller)
            .map(|_| mesh::kept(&records));
        let embedded = match &copy {
            Some(_) => None,
            None => Some(Arc::new(Embedded::open(&data.control())?)),
        };
        let control: Arc<dyn ControlStore> = match (&copy, &embedded) {
            (Some(copy), _) => Arc::new(copy.clone()),
            (None, Some(embedded)) => embedded.clone(),
            (None, None) => unreachable!("one of the two was made above"),
        };
        if let Some(mesh) = &mesh {
            components.fetch_by(Arc::new(FromOthers(mesh.clone())));
        }
        let (root_key, files) = (config.root_key, config.secret_files);
        let vault = Arc::new(Vault::open(root_key, files, &data, mesh.is_none())?);
        let state = Arc::new(ArcSwap::<State>::default());
        let kept = KeptPlaces::of_pool(engine.slots());
        let places = Places::of_pool(engine.slots());
        let busy = BusyThreads::start(cores(), shutdown.end.clone()).map_err(HostError::Threads)?;
        let tasks = GuestTasks {
            tracker: shutdown.tasks.clone(),
            shared: tokio::runtime::Handle::current(),
            busy: busy.clone(),
            abort: shutdown.abort.clone(),
        };
        let listening = Arc::new(listening::Shared {
            state: state.clone(),
            tasks: tasks.clone(),
            sampler: telemetry.sampler(),
            drain: shutdown.drain.clone(),
            host: mesh.as_ref().map(|mesh| mesh.name.clone()),
            lost: Notify::new(),
        });
        let commands = match &mesh {
            Some(mesh) => Some(Commands::new(
                mesh.name.clone(),
                mesh.settings.clone(),
                std::env::current_exe().map_err(HostError::Executable)?,
                config.commands,
                vault.clone(),
            )),
            None => None,
        };
        let (reconciler, progress) = Reconciler::new(Parts {
            control: control.clone(),
            components: components.clone(),
            metrics: metrics.clone(),
            places: places.clone(),
            kept: kept.clone(),
            provider_folder: data.providers(),
            state: state.clone(),
            listening,
            commands: commands.clone(),
            mesh: mesh.clone(),
            vault: vault.clone(),
        });
        let reconciling = CancellationToken::new();
        let reconciler = reconciler.run(reconciling.clone());
        shutdown
            .servers
            .spawn(panics::essential("the reconciler", reconciler));
        shutdown
            .servers
            .spawn(instance::sweep(state.clone(), shutdown.end.clone()));
        let deployer = Deployer::new(control.clone(), components, metrics.clone(), progress.clone());
        let mover = Mover {
            control: control.clone(),
            progress: progress.clone(),
            mesh: mesh.clone(),
            moves: Arc::<Moves>::default(),
        };
        if embedded.is_some() {
            let moving = mover.clone().run(shutdown.end.clone());
            shutdown.servers.spawn(panics::essential("the mover", moving));
        }

        let workers = Workers::start(cores(), &shutdown.end).map_err(HostError::Threads)?;
        let upkeep = Upkeep {
            components: deployer.components().clone(),
            workers: workers.clone(),
            busy: busy.runtime.clone(),
        };
        shutdown
            .servers
            .spawn(upkeep.run(shutdown.servers.clone(), shutdown.end.clone()));
        let active = Arc::new(AtomicU64::new(0));
        let handler = Arc::new(Handler {
            state: state.clone(),
            limits: config.ingress.clone(),
            tasks,
            sampler: telemetry.sampler(),
            metrics: metrics.clone(),
            active: active.clone(),
        });
        let ingress = Ingress::new(
            handler.clone(),
            TrustedProxies::new(config.trusted_proxies.clone()),
            workers.clone(),
            shutdown.tasks.clone(),
            shutdown.drain.clone(),
            shutdown.abort.clone(),
        );

        let status = Arc::new(HostStatus {
            host_id: data.host_id().to_owned(),
            started,
            http: address_of(&http),
            https: https.as_ref().map(address_of),
            monitor: address_of(&monitor),
            admin_tcp: admin_tcp.as_ref().map(address_of),
            admin_socket: data.admin_socket(),
            engine: engine.clone(),
            state,
            places: places.clone(),
            deployer: deployer.clone(),
            mover,
            ingress: ingress.clone(),
            drain: shutdown.drain.clone(),
            mesh: mesh.clone(),
            vault,
        });
        observe(metrics, &status, active, kept, progress.clone());
        metrics.observe_places(move || places.report());
        let shared = tokio::runtime::Handle::current();
        metrics.observe_tasks(move || (workers.alive_tasks() + shared.metrics().num_alive_tasks()) as u64);
        if let Some(listener) = https {
            let certificates = Certificates::load(config.tls.clone(), Some(metrics.clone()))?;
            let acceptor = certificates.acceptor().map_err(HostError::TlsSetup)?;
            observe_certificates(metrics, certificates.clone());
            shutdown.tasks.spawn(certificates.watch(shutdown.drain.clone()));
            ingress.serve(listener, Some(acceptor));
        }
        admin::serve_monitor(monitor, telemetry.scraper(), status.clone(), &shutdown);
        let api = admin::serve_admin(&data, admin_tcp, status.clone(), logs, &shutdown)?;
        if let Some(mesh) = &mesh {
            let links = Links {
                service: Arc::new(HostService {
                    state: status.state.clone(),
                    tasks: handler.tasks.clone(),
                    limits: config.ingress.clone(),
                    drain: shutdown.drain.clone(),
                    engine: engine.clone(),
                    records: embedded.as_ref().map(|_| Records {
                        control: control.clone(),
                        store: status.host_id.clone(),
                    }),
                    mesh: mesh.clone(),
                    address: OnceLock::new(),
                    api: OnceLock::from(api),
                }),
                progress: progress.clone(),
                components: status.deployer.components().clone(),
                http: format!("http://{}", status.http),
                metrics: metrics.clone(),
            };
            join(mesh, &links, copy.as_ref(), &*control).await?;
            let (part, end) = (mesh.clone(), shutdown.end.clone());
            let part = part.run(links, end.clone());
            shutdown.servers.spawn(panics::essential("the mesh", part));
            if let Some(copy) = copy {
                let follow = mesh::follow(mesh.clone(), copy, records, end);
                shutdown
                    .servers
                    .spawn(panics::essential("the copy of the records", follow));
            }
        }
        if let Some(commands) = commands.clone() {
            metrics.observe_processes(move || commands.reports());
        }
        let this = Self {
            status,
            shutdown,
            reconciling,
            commands,
            control: embedded,
            mesh,
            drain_timeout: config.drain_timeout,
            data,
        };
        if let Err(error) = this.deploy_all(config.deployments, progress).await {
            this.drain().await;
            return Err(error);
        }
        ingress.serve(http, None);

        for advice in &engine.report().advice {
            tracing::info!("{advice}");
        }
        Ok(this)
    }

    /// Deploys what the host was started with, and waits until all that is deployed is served.
    async fn deploy_all(
        &self,
        deployments: Vec<Deployment>,
        mut progress: watch::Receiver<Progress>,
    ) -> Result<(), HostError> {
        let deployer = &self.status.deployer;
        if self.control.is_none() {
            // What is deployed is the controller's to say.
            return Ok(());
        }
        deployer.retire(&deployments).await?;
        for Deployment { manifest, files, by } in deployments {
            let app = &manifest.app.value;
            let deployed = deployer.deploy(&manifest, files, by).await?;
            for line in &deployed.summary {
                tracing::info!(app = app.as_str(), "{line}");
            }
            // Those of other apps have been told, and keep no one from serving this one.
            let own = deployed
                .conditions
                .iter()
                .filter(|condition| condition.app.as_ref() == Some(app));
            let own: Vec<_> = own.map(ToString::to_string).collect();
            if !own.is_empty() {
                return Err(HostError::NotServed(own));
            }
        }
        // The sender lives as long as the reconciler, which outlasts this.
        if let Ok(progress) = progress.wait_for(|progress| progress.rounds > 0).await
            && progress.desired.apps.is_empty()
        {
            tracing::warn!("nothing is deployed: name a manifest or a component, or `weft deploy` one");
        }
        Ok(())
    }

    /// What the host is and where it listens.
    pub fn status(&self) -> &HostStatus {
        &self.status
    }

    /// Stops in stages: take no new connection and say "not ready"; let running requests finish, within the time to
    /// drain; end what is left; give the data folder back. `true` if nothing had to be ended.
    ///
    /// Dropping the future skips the waiting.
    pub async fn drain(self) -> bool {
        let Self {
            status,
            shutdown,
            reconciling,
            commands,
            control,
            mesh,
            drain_timeout,
            data,
        } = self;
        shutdown.drain.cancel();
        shutdown.tasks.close();
        let others = async {
            match &mesh {
                Some(mesh) => mesh.drain(drain_timeout).await,
                None => true,
            }
        };
        // First the others call elsewhere, or what they called here last would not be waited for.
        let finished = others.await;
        let finished = tokio::time::timeout(drain_timeout, shutdown.tasks.wait())
            .await
            .is_ok()
            && finished;
        if !finished {
            tracing::warn!(
                tasks = shutdown.tasks.len(),
                connections = status.ingress.connections(),
                "the time to drain is over: ending what still runs"
            );
            shutdown.abort.cancel();
            let _ = tokio::time::timeout(ABORT_MAX, shutdown.tasks.wait()).await;
        }
        // No invocation runs any more: the reconciler closes the providers, then nothing writes to the control store.
        reconciling.cancel();
        if let Some(commands) = commands {
            commands.stop().await;
        }
        shutdown.end.cancel();
        shutdown.servers.close();
        let _ = tokio::time::timeout(ABORT_MAX, shutdown.servers.wait()).await;
        if let Some(control) = control {
            control.close().await;
        }
        let _ = std::fs::remove_file(data.admin_socket());
        drop(data);
        finished
    }
}

/// Joins the lattice. A host that has something to serve already goes on without, and joins later; for a new one it is a
/// mistake to be told now.
async fn join(
    mesh: &Arc<Mesh>,
    links: &Links,
    copy: Option<&Replica>,
    control: &dyn ControlStore,
) -> Result<(), HostError> {
    let is_new = match copy {
        Some(copy) => copy.store().is_none(),
        None => !control
            .range("", None, 1)
            .await
            .is_ok_and(|(entries, _)| !entries.is_empty()),
    };
    match mesh.join(links).await {
        Err(error) if is_new => Err(error.into()),
        Err(error) => {
            tracing::error!(
                error = crate::cli::chain(&error),
                "failed to join the lattice: it is tried again"
            );
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn listen(
    what: &'static str,
    address: SocketAddr,
    flag: &'static str,
) -> Result<TcpListener, HostError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| HostError::Listen {
            what,
            address,
            flag,
            source,
        })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn address_of(listener: &TcpListener) -> SocketAddr {
    listener
        .local_addr()
        .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}

fn loader(engine: &Arc<Engine>, data: &DataDir, metrics: &HostMetrics) -> Result<Loader, HostError> {
    let executable = std::env::current_exe().map_err(HostError::Executable)?;
    let compiler = Compiler::new(executable, metrics.clone());
    let cache = AotCache::new(data.aot(), *data.host_key(), compiler, metrics.clone());
    let linker = front::linker(engine).map_err(HostError::Link)?;
    Ok(Loader::new(engine.clone(), linker, cache, metrics.clone()))
}

fn observe(
    metrics: &HostMetrics,
    status: &Arc<HostStatus>,
    active: Arc<AtomicU64>,
    kept: KeptPlaces,
    progress: watch::Receiver<Progress>,
) {
    metrics.observe_state(move || {
        let progress = progress.borrow();
        let count = |len: usize| len as u64;
        StateReport {
            desired_index: progress.desired.index.0,
            applied_index: progress.applied.0,
            actors: count(progress.desired.actors.len()),
            providers: count(progress.desired.providers.len()),
            links: count(progress.desired.links.values().map(|links| links.len()).sum()),
            secrets: count(progress.desired.secrets.len()),
            conditions: count(progress.all_conditions().len()),
        }
    });
    let (guards, moves) = (status.deployer.clone(), status.mover.moves.clone());
    metrics.observe_providers(move || guards.progress().provider_reports(), move || moves.keys());
    let quotas = status.deployer.clone();
    metrics.observe_quotas(move || {
        quotas
            .progress()
            .quotas
            .values()
            .map(|quota| quota.report())
            .collect()
    });
    metrics.observe_active_requests(move || active.load(Ordering::Relaxed));
    let ingress = status.ingress.clone();
    metrics.observe_connections(move || u64::from(ingress.connections()));
    let components = status.deployer.components().clone();
    metrics.observe_components_loaded(move || components.loaded_len() as u64);
    let engine = status.engine.clone();
    metrics.observe_pool(move || {
        let pool = engine.wasmtime().pooling_allocator_metrics();
        PoolState {
            limit: engine.report().slots.map_or(0, u64::from),
            live: pool.as_ref().map_or(0, |pool| pool.component_instances()),
            warm_memories: pool
                .as_ref()
                .map_or(0, |pool| u64::from(pool.unused_warm_memories())),
            warm_bytes: pool
                .as_ref()
                .map_or(0, |pool| pool.unused_memory_bytes_resident() as u64),
            kept: u64::from(kept.used()),
        }
    });
}

fn observe_certificates(metrics: &HostMetrics, certificates: Arc<Certificates>) {
    metrics.observe_certificates(move |tell| {
        for (name, expires) in certificates.expiries() {
            tell(&name, expires);
        }
    });
}
