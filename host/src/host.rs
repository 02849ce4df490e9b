//! One host: the assembly of all parts, and the order in which they stop.
//!
//! The only module that knows every other. Starting: data folder, listeners (so that a port in use is known at once),
//! engine, components, routes, ready. Stopping: see [`Host::drain`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use weft_observability::{HostMetrics, Telemetry, metrics::PoolState};

use crate::actor::{Actor, ActorInfo};
use crate::admin::{self, AdminError, HostStatus};
use crate::admission::RootPlaces;
use crate::component::aot::AotCache;
use crate::component::compile::Compiler;
use crate::component::{ComponentBytes, ComponentError, Loader};
use crate::config::{ActorConfig, Config};
use crate::data::DataDir;
use crate::engine::{Engine, EngineError};
use crate::front;
use crate::ingress::forwarded::TrustedProxies;
use crate::ingress::handler::Handler;
use crate::ingress::invoke::GuestTasks;
use crate::ingress::listener::Ingress;
use crate::ingress::routes::{Route, Routes};
use crate::ingress::tls::{Certificates, TlsError};
use crate::logs::LogBuffer;
use crate::shutdown::Shutdown;
use crate::system::SystemFacts;

/// How long tasks get to end by themselves once they were told to.
const ABORT_MAX: Duration = Duration::from_secs(2);

/// A host that serves.
pub struct Host {
    status: Arc<HostStatus>,
    shutdown: Shutdown,
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
    /// A component can't be run.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// A component has nothing that a request could be given to.
    #[error("{} exports no wasi:http/incoming-handler@0.2, so there is nothing to serve; `weft inspect` lists what it exports", path.display())]
    NothingToServe {
        /// The file.
        path: PathBuf,
    },
    /// A certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS library refuses its configuration.
    #[error("failed to set up TLS")]
    TlsSetup(#[source] rustls::Error),
    /// The admin API can't be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
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

        let engine = Engine::new(config.profile, config.instances, &SystemFacts::read())?;
        let loader = loader(&engine, &data, metrics)?;
        let mut routes = Vec::new();
        let root = RootPlaces::of_pool(engine.slots());
        for actor in &config.actors {
            let loaded = load(&loader, actor, &config, metrics, &root).await?;
            routes.push(Route {
                prefix: actor.route.clone(),
                actor: loaded,
            });
        }

        let active = Arc::new(AtomicU64::new(0));
        let handler = Arc::new(Handler {
            routes: Routes::default(),
            limits: config.ingress.clone(),
            tasks: GuestTasks {
                tracker: shutdown.tasks.clone(),
                abort: shutdown.abort.clone(),
            },
            sampler: telemetry.sampler(),
            metrics: metrics.clone(),
            active: active.clone(),
        });
        handler.routes.replace(routes);
        let ingress = Ingress::new(
            handler.clone(),
            TrustedProxies::new(config.trusted_proxies.clone()),
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
            handler,
            ingress: ingress.clone(),
            drain: shutdown.drain.clone(),
        });
        observe(metrics, &status, active);
        if let Some(listener) = https {
            let certificates = Certificates::load(config.tls.clone(), Some(metrics.clone()))?;
            let acceptor = certificates.acceptor().map_err(HostError::TlsSetup)?;
            observe_certificates(metrics, certificates.clone());
            shutdown.tasks.spawn(certificates.watch(shutdown.drain.clone()));
            ingress.serve(listener, Some(acceptor));
        }
        admin::serve_monitor(monitor, telemetry.scraper(), status.clone(), &shutdown);
        admin::serve_admin(&data, admin_tcp, status.clone(), logs, &shutdown)?;
        ingress.serve(http, None);

        for advice in &engine.report().advice {
            tracing::info!("{advice}");
        }
        Ok(Self {
            status,
            shutdown,
            drain_timeout: config.drain_timeout,
            data,
        })
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
            drain_timeout,
            data,
        } = self;
        shutdown.drain.cancel();
        shutdown.tasks.close();
        let finished = tokio::time::timeout(drain_timeout, shutdown.tasks.wait())
            .await
            .is_ok();
        if !finished {
            tracing::warn!(
                tasks = shutdown.tasks.len(),
                connections = status.ingress.connections(),
                "the time to drain is over: ending what still runs"
            );
            shutdown.abort.cancel();
            let _ = tokio::time::timeout(ABORT_MAX, shutdown.tasks.wait()).await;
        }
        shutdown.end.cancel();
        shutdown.servers.close();
        let _ = tokio::time::timeout(ABORT_MAX, shutdown.servers.wait()).await;
        let _ = std::fs::remove_file(data.admin_socket());
        drop(data);
        finished
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

async fn load(
    loader: &Loader,
    actor: &ActorConfig,
    config: &Config,
    metrics: &HostMetrics,
    root: &RootPlaces,
) -> Result<Arc<Actor>, HostError> {
    let component = ComponentBytes::read(&actor.file)?;
    let loaded = loader.load(component).await?;
    let metrics = metrics.actor(actor.name.as_str());
    let info = ActorInfo::new(actor.name.clone(), config.limits.clone(), metrics);
    let nothing = |path: &Path| HostError::NothingToServe {
        path: path.to_owned(),
    };
    Ok(Arc::new(
        Actor::new(info, loaded, root.clone()).map_err(|_| nothing(&actor.file))?,
    ))
}

fn observe(metrics: &HostMetrics, status: &Arc<HostStatus>, active: Arc<AtomicU64>) {
    metrics.observe_active_requests(move || active.load(Ordering::Relaxed));
    let ingress = status.ingress.clone();
    metrics.observe_connections(move || u64::from(ingress.connections()));
    let engine = status.engine.clone();
    metrics.observe_pool(move || {
        let pool = engine.wasmtime().pooling_allocator_metrics();
        PoolState {
            limit: engine.report().slots.map_or(0, u64::from),
            live: pool.as_ref().map_or(0, |pool| pool.component_instances()),
            warm_memories: pool
                .as_ref()
                .map_or(0, |pool| u64::from(pool.unused_warm_memories())),
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
