//! What operators and probes ask a host.
//!
//! Owns two small HTTP servers. The monitor (`/metrics`, `/live`, `/ready`) is read-only and open to whoever reaches
//! its address. The admin API is a unix socket that only this user can open; over TCP it needs a token, and the
//! `Host` and `Origin` of a browser that was lured here are refused (DNS rebinding).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use weft_observability::init::{PROMETHEUS_CONTENT_TYPE, Scraper};

use crate::data::DataDir;
use crate::deploy::Deployer;
use crate::engine::Engine;
use crate::ingress::listener::Ingress;
use crate::logs::{LogBuffer, LogRecord};
use crate::shutdown::Shutdown;

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
    /// For changes, and what is wanted.
    pub deployer: Deployer,
    /// For open connections.
    pub ingress: Arc<Ingress>,
    /// Cancelled once the host drains.
    pub drain: CancellationToken,
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
        })
    }

    fn actors(&self) -> Value {
        let state = self.state.load();
        let actors = state.actors().iter().map(|state| {
            let actor = &state.actor;
            json!({
                "name": actor.info.name,
                "revision": actor.revision,
                "component": actor.component.digest,
                "component_bytes": actor.component.len,
                "waiting": actor.admission.waiting(),
                "concurrency": actor.info.limits.concurrency,
            })
        });
        json!({ "actors": actors.collect::<Vec<_>>() })
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
    spawn(shutdown, async move { axum::serve(listener, router).await });
}

/// Serves the admin API on the data folder's socket, and on `tcp` with the token in the data folder.
///
/// # Errors
/// [`AdminError`] if the socket or the token can't be made.
pub fn serve_admin(
    data: &DataDir,
    tcp: Option<TcpListener>,
    status: Arc<HostStatus>,
    logs: LogBuffer,
    shutdown: &Shutdown,
) -> Result<(), AdminError> {
    let router = Router::new()
        .route(
            "/v1/host",
            get(|State(admin): State<Admin>| async move { Json(admin.status.to_json()) }),
        )
        .route(
            "/v1/actors",
            get(|State(admin): State<Admin>| async move { Json(admin.status.actors()) }),
        )
        .route("/v1/logs", get(read_logs))
        .with_state(Admin {
            status,
            logs,
            drain: shutdown.drain.clone(),
        });

    let socket = data.admin_socket();
    let failed = |act| {
        let path = socket.clone();
        move |source| AdminError { act, path, source }
    };
    // Left by a host that was killed; this one holds the folder's lock.
    let _ = std::fs::remove_file(&socket);
    let unix = UnixListener::bind(&socket).map_err(failed("listen on"))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    let over_unix = router.clone();
    spawn(shutdown, async move { axum::serve(unix, over_unix).await });

    if let Some(tcp) = tcp {
        let path = data.path().join("admin.token");
        let token = data.admin_token().map_err(|source| AdminError {
            act: "make the token",
            path,
            source,
        })?;
        let guard = Arc::new(Guard { token });
        let over_tcp = router.layer(middleware::from_fn_with_state(guard, authorize));
        spawn(shutdown, async move { axum::serve(tcp, over_tcp).await });
    }
    Ok(())
}

/// A server's task: it goes on while the host drains, and ends when all else has.
fn spawn(shutdown: &Shutdown, server: impl Future<Output = io::Result<()>> + Send + 'static) {
    let end = shutdown.end.clone();
    shutdown.servers.spawn(async move {
        tokio::select! {
            () = end.cancelled() => {}
            ended = server => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a server of the host ended");
                }
            }
        }
    });
}

#[derive(Clone)]
struct Admin {
    status: Arc<HostStatus>,
    logs: LogBuffer,
    drain: CancellationToken,
}

#[derive(serde::Deserialize)]
struct LogQuery {
    /// Goes on with new lines until the host drains.
    #[serde(default)]
    follow: bool,
    /// Only lines of this actor.
    actor: Option<String>,
    /// At most so many lines of the past.
    tail: Option<usize>,
}

/// Lines of the log as JSON objects, one a line.
async fn read_logs(State(admin): State<Admin>, Query(query): Query<LogQuery>) -> Response {
    let wanted =
        move |record: &LogRecord| query.actor.is_none() || query.actor.as_deref() == record.actor.as_deref();
    let (kept, next) = admin.logs.follow();
    let kept: Vec<_> = kept.into_iter().filter(&wanted).collect();
    let skipped = query.tail.map_or(0, |tail| kept.len().saturating_sub(tail));
    let past = stream::iter(kept.into_iter().skip(skipped).map(|record| line(&record)));
    let body = if query.follow {
        let drain = admin.drain.cancelled_owned();
        let coming = stream::unfold(next, |mut next| async move {
            let record = match next.recv().await {
                Ok(record) => record,
                Err(RecvError::Lagged(missed)) => missed_lines(missed),
                Err(RecvError::Closed) => return None,
            };
            Some((record, next))
        });
        let coming =
            coming.filter(move |record| std::future::ready(wanted(record) || record.actor.is_none()));
        Body::from_stream(past.chain(coming.map(|record| line(&record))).take_until(drain))
    } else {
        Body::from_stream(past)
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn line(record: &LogRecord) -> Result<Bytes, Infallible> {
    Ok(Bytes::from(format!("{}\n", record.json)))
}

fn missed_lines(missed: u64) -> LogRecord {
    let json = json!({ "level": "WARN", "target": "weft", "message": format!("{missed} lines were missed: this reader is too slow") });
    LogRecord {
        actor: None,
        json: json.to_string().into(),
    }
}

/// What a caller over TCP must show.
struct Guard {
    token: String,
}

async fn authorize(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, detail)) => (
            status,
            Json(json!({ "status": status.as_u16(), "detail": detail })),
        )
            .into_response(),
    }
}

impl Guard {
    fn check(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        // A page that resolves its own name to this address still sends that name. Addresses can't be rebound.
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        let bare = host.parse::<SocketAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok();
        if !bare && host.split(':').next() != Some("localhost") {
            return Err((
                StatusCode::FORBIDDEN,
                "the Host header must be an address or localhost",
            ));
        }
        if headers.contains_key(ORIGIN) {
            return Err((StatusCode::FORBIDDEN, "requests of web pages are not taken"));
        }
        let given = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if given.is_some_and(|given| equal_in_constant_time(given.as_bytes(), self.token.as_bytes())) {
            Ok(())
        } else {
            Err((
                StatusCode::UNAUTHORIZED,
                "expected `Authorization: Bearer` with the token in the data folder's admin.token",
            ))
        }
    }
}

fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::iter::zip(a, b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)]) -> Option<StatusCode> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        Guard {
            token: "secret".to_owned(),
        }
        .check(&headers)
        .err()
        .map(|(status, _)| status)
    }

    #[test]
    fn over_tcp_takes_the_token_and_nothing_less() {
        let bearer = ("authorization", "Bearer secret");
        assert_eq!(check(&[("host", "127.0.0.1:9000"), bearer]), None);
        assert_eq!(check(&[("host", "[::1]:9000"), bearer]), None);
        assert_eq!(check(&[("host", "localhost:9000"), bearer]), None);
        let unauthorized = Some(StatusCode::UNAUTHORIZED);
        assert_eq!(check(&[("host", "127.0.0.1:9000")]), unauthorized);
        assert_eq!(
            check(&[("host", "127.0.0.1:9000"), ("authorization", "Bearer secres")]),
            unauthorized
        );
        assert_eq!(
            check(&[("host", "127.0.0.1:9000"), ("authorization", "Bearer ")]),
            unauthorized
        );
    }

    #[test]
    fn refuses_a_page_that_was_rebound_to_this_address() {
        let bearer = ("authorization", "Bearer secret");
        let forbidden = Some(StatusCode::FORBIDDEN);
        assert_eq!(check(&[("host", "evil.example:9000"), bearer]), forbidden);
        assert_eq!(
            check(&[
                ("host", "127.0.0.1:9000"),
                ("origin", "http://127.0.0.1:9000"),
                bearer
            ]),
            forbidden
        );
        assert_eq!(check(&[bearer]), forbidden);
    }
}
