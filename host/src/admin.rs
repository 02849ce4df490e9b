//! What operators and probes ask a host.
//!
//! Owns two small HTTP servers. The monitor (`/metrics`, `/live`, `/ready`) is read-only and open to whoever reaches
//! its address. The admin API (docs/api.md, docs/openapi.json) is a unix socket that only this user can open; over TCP
//! it needs a token. It reads what the reconciler applied last ([`views`]), writes records and nothing else
//! ([`changes`]), and calls functions ([`invoke`]). It must not know how anything is made so.

mod access;
mod artifacts;
mod body;
mod changes;
mod invoke;
pub mod lattice;
mod logs;
mod moves;
mod names;
mod placements;
mod problem;
mod quotas;
pub mod scope;
mod secrets;
mod server;
mod uploads;
mod views;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use axum::{Router, middleware};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weft_observability::init::{PROMETHEUS_CONTENT_TYPE, Scraper};

use self::access::{Guard, authorize};
use self::problem::Problem;
use self::server::Listener;
use self::uploads::Uploads;
use crate::admission::Places;
use crate::data::DataDir;
use crate::deploy::Deployer;
use crate::engine::Engine;
use crate::ingress::listener::Ingress;
use crate::logs::LogBuffer;
use crate::mesh::Mesh;
use crate::mesh::service::Api;
use crate::moving::Mover;
use crate::secret::Vault;
use crate::shutdown::Shutdown;

/// The admin API for programs; a test holds it against the routes.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// What a host tells of itself.
pub struct HostStatus {
    /// Its name in a lattice.
    pub host_id: String,
    /// When it started.
    pub started: Instant,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where HTTP over TLS is served.
    pub https: Option<SocketAddr>,
    /// Where the monitor is.
    pub monitor: SocketAddr,
    /// Where the admin API is, besides the socket.
    pub admin_tcp: Option<SocketAddr>,
    /// The admin API's socket.
    pub admin_socket: PathBuf,
    /// For what the pool got.
    pub engine: Arc<Engine>,
    /// What is served.
    pub state: Arc<ArcSwap<crate::state::State>>,
    /// For what apps have of the pool.
    pub places: Places,
    /// For changes, and what is wanted.
    pub deployer: Deployer,
    /// For moves of providers' data.
    pub mover: Mover,
    /// For open connections.
    pub ingress: Arc<Ingress>,
    /// Cancelled once the host drains.
    pub drain: CancellationToken,
    /// The other hosts, if there may be any.
    pub mesh: Option<Arc<Mesh>>,
    /// For what secrets are sealed to.
    pub vault: Arc<Vault>,
}

impl HostStatus {
    /// The host as JSON: identity, addresses, engine, load.
    pub fn to_json(&self) -> Value {
        let pool = self.engine.wasmtime().pooling_allocator_metrics();
        json!({
            "host": self.host_id,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_s": self.started.elapsed().as_secs(),
            "state": if self.drain.is_cancelled() { "draining" } else { "ready" },
            "http": format!("http://{}", self.http),
            "https": self.https.map(|address| format!("https://{address}")),
            "monitor": format!("http://{}", self.monitor),
            "admin": format!("unix:{}", self.admin_socket.display()),
            "admin_tcp": self.admin_tcp.map(|address| format!("http://{address}")),
            "engine": self.engine.report(),
            "live_instances": pool.map(|pool| pool.component_instances()),
            "connections": self.ingress.connections(),
            "lattice": self.mesh.as_ref().map(|mesh| json!({
                "name": mesh.settings.lattice,
                "address": mesh.address(),
                "labels": mesh.settings.labels,
                "controller": mesh.settings.controller,
                "fault": mesh.fault(),
            })),
        })
    }
}

/// Why the admin API can't be served. The text names the file.
#[derive(Debug, thiserror::Error)]
#[error("failed to {act} {}", path.display())]
pub struct AdminError {
    act: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Serves `/metrics`, `/live` and `/ready` until the host has drained: a drain is to be seen by those who ask.
pub fn serve_monitor(listener: TcpListener, scraper: Scraper, status: Arc<HostStatus>, shutdown: &Shutdown) {
    let ready = move || async move {
        if status.drain.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else {
            (StatusCode::OK, "ready\n")
        }
    };
    let metrics = move || async move {
        let text = tokio::task::spawn_blocking(move || scraper.render())
            .await
            .unwrap_or_default();
        ([(CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)], text)
    };
    let router = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics));
    server::serve(Listener::Tcp(listener), router, shutdown);
}

/// Serves the admin API on the data folder's socket, and on `tcp` with the token in the data folder.
///
/// What is returned answers the same requests when they come from other hosts.
///
/// # Errors
/// [`AdminError`] if the socket or the token can't be made.
pub fn serve_admin(
    data: &DataDir,
    tcp: Option<TcpListener>,
    status: Arc<HostStatus>,
    logs: LogBuffer,
    shutdown: &Shutdown,
) -> Result<Api, AdminError> {
    let mesh = status.mesh.clone();
    let uploads = Uploads::default();
    shutdown
        .servers
        .spawn(uploads.clone().sweep(shutdown.end.clone()));
    let router = router().with_state(Admin {
        status,
        uploads,
        logs,
        shutdown: shutdown.clone(),
        pushes: Arc::new(Semaphore::new(changes::PUSHES_MAX)),
    });
    let router = router.layer(middleware::from_fn_with_state(mesh, lattice::pass_on));
    let router = router.layer(middleware::from_fn(scope::check));

    let socket = data.admin_socket();
    let failed = |act| {
        let path = socket.clone();
        move |source| AdminError { act, path, source }
    };
    // Left by a host that was killed; this one holds the folder's lock.
    let _ = std::fs::remove_file(&socket);
    let unix = UnixListener::bind(&socket).map_err(failed("listen on"))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    server::serve(Listener::Unix(unix), router.clone(), shutdown);

    if let Some(tcp) = tcp {
        let path = data.path().join("admin.token");
        let token = data.admin_token().map_err(|source| AdminError {
            act: "make the token",
            path,
            source,
        })?;
        let guard = Arc::new(Guard { token });
        let over_tcp = router
            .clone()
            .layer(middleware::from_fn_with_state(guard, authorize));
        server::serve(Listener::Tcp(tcp), over_tcp, shutdown);
    }
    Ok(lattice::served(router))
}

/// What the handlers of the admin API share.
#[derive(Clone)]
struct Admin {
    status: Arc<HostStatus>,
    logs: LogBuffer,
    shutdown: Shutdown,
    pushes: Arc<Semaphore>,
    uploads: Uploads,
}

impl Admin {
    /// What a host that drains would not finish is not begun.
    fn refuse_when_draining(&self) -> Result<(), Problem> {
        if self.shutdown.drain.is_cancelled() {
            let detail = "this host drains: ask another one, or start it again";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail));
        }
        Ok(())
    }
}

/// A route that is served.
#[derive(Debug)]
pub struct ServedRoute {
    /// Its method.
    pub method: Method,
    /// Its path, in the document's notation.
    pub path: &'static str,
    /// Whether a sender with rights for one namespace may ask it.
    pub is_of_namespace: bool,
}

/// All routes, for who checks them.
pub fn served_routes() -> impl Iterator<Item = ServedRoute> {
    routes().into_iter().map(|(method, path, _)| ServedRoute {
        is_of_namespace: scope::is_open(&method, path),
        method,
        path,
    })
}

/// All routes of the admin API.
fn routes() -> Vec<(Method, &'static str, MethodRouter<Admin>)> {
    vec![
        route(Method::GET, "/v1/host", views::host),
        route(Method::GET, "/v1/hosts", views::hosts),
        route(Method::GET, "/v1/apps", views::apps),
        route(Method::GET, "/v1/actors", views::actors),
        route(Method::GET, "/v1/providers", views::providers),
        route(Method::GET, "/v1/links", views::links),
        route(Method::GET, "/v1/subscriptions", views::subscriptions),
        route(Method::GET, "/v1/watches", views::watches),
        route(Method::GET, "/v1/conditions", views::conditions),
        route(Method::GET, "/v1/logs", logs::read),
        route(Method::GET, "/v1/openapi.json", async || {
            ([(CONTENT_TYPE, "application/json")], OPENAPI)
        }),
        route(Method::GET, "/v1/artifacts", artifacts::list),
        route(Method::POST, "/v1/artifacts/gc", artifacts::collect),
        route(Method::HEAD, "/v1/artifacts/{digest}", changes::has_artifact),
        route(Method::PUT, "/v1/artifacts/{digest}", changes::put_artifact),
        route(Method::POST, "/v1/deploy", changes::deploy),
        route(Method::DELETE, "/v1/apps/{namespace}/{app}", changes::delete_app),
        route(Method::PUT, "/v1/links", changes::put_link),
        route(Method::DELETE, "/v1/links", changes::delete_link),
        route(Method::PUT, "/v1/placements", placements::put),
        route(Method::DELETE, "/v1/placements", placements::delete),
        route(Method::GET, "/v1/secrets", secrets::list),
        route(Method::PUT, "/v1/secrets", secrets::put),
        route(Method::DELETE, "/v1/secrets", secrets::delete),
        route(Method::POST, "/v1/secrets/reseal", secrets::reseal),
        route(Method::GET, "/v1/quotas", quotas::list),
        route(Method::PUT, "/v1/quotas", quotas::put),
        route(Method::DELETE, "/v1/quotas", quotas::delete),
        route(Method::POST, "/v1/moves", moves::begin),
        route(Method::DELETE, "/v1/moves", moves::cancel),
        route(Method::POST, "/v1/call", invoke::call),
    ]
}

fn route<H, T>(method: Method, path: &'static str, handler: H) -> (Method, &'static str, MethodRouter<Admin>)
where
    H: Handler<T, Admin>,
    T: 'static,
{
    let filter = MethodFilter::try_from(method.clone()).expect("it is a method of HTTP itself");
    (method, path, on(filter, handler))
}

fn router() -> Router<Admin> {
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, route)| {
            router.route(path, route)
        });
    router
        .fallback(async || {
            let detail = "there is nothing here: /v1/openapi.json lists all routes";
            Problem::new(StatusCode::NOT_FOUND, "no-route", detail)
        })
        .method_not_allowed_fallback(async || {
            let detail = "this path does not take this method: /v1/openapi.json lists all routes";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
        })
        // Each route has its own bound; see `body`.
        .layer(DefaultBodyLimit::disable())
}
