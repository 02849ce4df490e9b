//! The HTTP client that actors' requests go through.
//!
//! Owns connections: whom they may go to, how they are made and kept. Each address is checked after its name was
//! resolved, on the very address that is connected to, and again when a kept connection is used by another caller. It
//! must not know actors or manifests: the host brings a [`Policy`] with each request. Redirects are the caller's to
//! follow, and then are requests like any other.
//!
//! Resolving, TLS and connections run on tasks of the client, never on the caller's stack, which may be a guest's.

pub mod address;
mod body;
mod connect;
mod error;
mod policy;
mod pool;
mod resolve;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use crate::body::ResponseBody;
use crate::connect::{Connector, Sender};
pub use crate::error::HttpError;
pub use crate::policy::{AllowList, Allowed, HostPattern, Policy, Verdict};
use crate::pool::{Key, Pool};
use crate::resolve::Cache;
pub use crate::resolve::{Resolve, SystemResolver};

/// What a request's body may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// Headers that belong to one connection, which is ours and not the caller's.
const CONNECTION_HEADERS: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];
/// Bytes of a request's headers, at most; servers commonly refuse more.
const REQUEST_HEADERS_LEN_MAX: usize = 64 << 10;
/// Kept connections that are tried before a new one is made: a server that restarted has closed all of them.
const REUSE_TRIES_MAX: usize = 3;
/// Bytes of a request's target, at most.
const TARGET_LEN_MAX: usize = 16 << 10;

/// How long a request may take, as its caller wants it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// To resolve, connect and agree on TLS.
    pub connect_timeout: Duration,
    /// From the connection to the response's head.
    pub first_byte_timeout: Duration,
    /// Between two pieces of the response's body.
    pub between_bytes_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(60),
            between_bytes_timeout: Duration::from_secs(60),
        }
    }
}

/// The client of a host. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    connector: Connector,
    names: Arc<Cache>,
    pool: Arc<Pool>,
    tasks: TaskTracker,
}

impl HttpClient {
    /// A client that resolves as the system does and trusts whom the system trusts, and `extra_roots`.
    ///
    /// Nothing is read before the first request that needs it.
    pub fn new(extra_roots: Vec<CertificateDer<'static>>) -> Self {
        Self::with_resolver(Arc::new(SystemResolver), extra_roots)
    }

    /// A client that resolves by `resolver`.
    pub fn with_resolver(resolver: Arc<dyn Resolve>, extra_roots: Vec<CertificateDer<'static>>) -> Self {
        let tasks = TaskTracker::new();
        Self(Arc::new(Inner {
            connector: Connector::new(extra_roots, tasks.clone()),
            names: Arc::new(Cache::new(resolver)),
            pool: Arc::default(),
            tasks,
        }))
    }

    /// Sends a request with an absolute `http` or `https` URI, if `policy` allows it.
    ///
    /// Ends with the response's head. Dropping the future or the response's body ends the exchange.
    ///
    /// # Errors
    /// [`HttpError`], whose variants are those of `wasi:http`.
    pub async fn send<B>(
        &self,
        policy: &dyn Policy,
        request: Request<B>,
        options: Options,
    ) -> Result<Response<ResponseBody>, HttpError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let key = target(&request)?;
        let verdict = policy.allows(key.scheme(), key.bare_host(), key.port);
        let named = match verdict {
            Verdict::Denied => return Err(HttpError::HttpRequestDenied),
            Verdict::Public => false,
            Verdict::Private => true,
        };
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        for name in CONNECTION_HEADERS {
            request.headers_mut().remove(name);
        }
        let allows = |address: IpAddr| policy.allows_address(address, key.port, named);
        // A kept connection may have been closed by the server: then the request has not begun, and goes on a new one.
        let mut first_byte_by = Instant::now() + options.first_byte_timeout;
        for _ in 0..REUSE_TRIES_MAX {
            let Some(mut connection) = self.0.pool.take(&key, allows) else {
                break;
            };
            if !connection.sender.ready().await {
                continue;
            }
            match exchange(connection, request, &key, first_byte_by).await {
                Ok((sender, response)) => return Ok(self.respond(sender, response, key, options)),
                Err((_, Some(back))) => request = back,
                Err((error, None)) => return Err(error),
            }
        }
        let connecting = self.connect(&key, &allows);
        let connection = tokio::time::timeout(options.connect_timeout, connecting)
            .await
            .map_err(|_| HttpError::ConnectionTimeout)??;
        if let Sender::Http2(sender) = &connection.sender {
            let shared = pool::Connection {
                sender: Sender::Http2(sender.clone()),
                peer: connection.peer,
            };
            self.0.pool.keep(key.clone(), shared);
        }
        first_byte_by = Instant::now() + options.first_byte_timeout;
        match exchange(connection, request, &key, first_byte_by).await {
            Ok((sender, response)) => Ok(self.respond(sender, response, key, options)),
            Err((error, _)) => Err(error),
        }
    }

    /// Closes kept connections and ends when every exchange has ended. What is sent after this is still sent.
    pub async fn close(&self) {
        self.0.pool.clear();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    async fn connect(
        &self,
        key: &Key,
        allows: &(dyn Fn(IpAddr) -> bool + Sync),
    ) -> Result<pool::Connection, HttpError> {
        let found = match key.address() {
            Some(address) => vec![address],
            None => {
                let (names, host) = (self.0.names.clone(), key.host.clone());
                self.on_task(async move { names.resolve(&host).await }).await?
            }
        };
        let addresses: Vec<_> = found
            .into_iter()
            .filter(|&address| allows(address))
            .map(|address| SocketAddr::new(address, key.port))
            .collect();
        if addresses.is_empty() {
            return Err(HttpError::DestinationIpProhibited);
        }
        let (connector, key) = (self.0.connector.clone(), key.clone());
        self.on_task(async move { connector.connect(&addresses, &key).await })
            .await
    }

    async fn on_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, HttpError>> + Send + 'static,
    ) -> Result<T, HttpError> {
        let ended = AbortOnDropHandle::new(self.0.tasks.spawn(work)).await;
        ended.unwrap_or_else(|_| Err(HttpError::Internal("a task of the client ended early".to_owned())))
    }

    fn respond(
        &self,
        sender: pool::Connection,
        response: Response<hyper::body::Incoming>,
        key: Key,
        options: Options,
    ) -> Response<ResponseBody> {
        let kept = match sender.sender {
            // Others use it already.
            Sender::Http2(_) => None,
            Sender::Http1(_) => Some((self.0.pool.clone(), key, sender)),
        };
        response.map(|incoming| ResponseBody::new(incoming, options.between_bytes_timeout, kept))
    }
}

/// Whom the request is for, its form checked.
fn target<B>(request: &Request<B>) -> Result<Key, HttpError> {
    if request.method() == Method::CONNECT {
        return Err(HttpError::HttpRequestMethodInvalid);
    }
    let uri = request.uri();
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        _ => return Err(HttpError::HttpRequestUriInvalid),
    };
    let authority = uri.authority().ok_or(HttpError::HttpRequestUriInvalid)?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(HttpError::HttpRequestUriInvalid);
    }
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if path.len() > TARGET_LEN_MAX {
        return Err(HttpError::HttpRequestUriTooLong);
    }
    // A caller who puts a URI together may have put another one into its path (`http://169.254.169.254/`). Sent as it is,
    // that would be a request for whoever it names, and a server that is a proxy too would go there: nobody checked it.
    let is_star = path == "*" && request.method() == Method::OPTIONS;
    if !path.starts_with(['/', '?']) && !is_star {
        return Err(HttpError::HttpRequestUriInvalid);
    }
    let headers = request.headers().iter();
    if headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum::<usize>()
        > REQUEST_HEADERS_LEN_MAX
    {
        return Err(HttpError::HttpRequestHeaderSectionSize);
    }
    // One name for `example.com`, `Example.COM` and `example.com.`.
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Ok(Key { tls, host, port })
}

type Exchanged = (pool::Connection, Response<hyper::body::Incoming>);

/// One request and its response's head. An error comes with the request if it was not sent.
async fn exchange(
    mut connection: pool::Connection,
    request: Request<RequestBody>,
    key: &Key,
    first_byte_by: Instant,
) -> Result<Exchanged, (HttpError, Option<Request<RequestBody>>)> {
    let shaped = shape(request, &connection.sender, key).map_err(|error| (error, None))?;
    let sent = connection.sender.send(shaped.0);
    match tokio::time::timeout_at(first_byte_by, sent).await {
        Ok(Ok(response)) => Ok((connection, response)),
        Ok(Err((error, back))) => {
            let back = back.map(|mut request| {
                *request.uri_mut() = shaped.1;
                request
            });
            Err((HttpError::from(error), back))
        }
        Err(_) => Err((HttpError::ConnectionReadTimeout, None)),
    }
}

/// The request as the connection's version wants it, and the URI that it had.
fn shape(
    mut request: Request<RequestBody>,
    sender: &Sender,
    key: &Key,
) -> Result<(Request<RequestBody>, Uri), HttpError> {
    let uri = request.uri().clone();
    match sender {
        Sender::Http1(_) => {
            *request.version_mut() = Version::HTTP_11;
            let host =
                HeaderValue::from_str(&key.authority()).map_err(|_| HttpError::HttpRequestUriInvalid)?;
            request.headers_mut().insert(HOST, host);
            let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
            let path = match path.strip_prefix('?') {
                Some(query) => format!("/?{query}").parse(),
                None => path.parse(),
            };
            // Of this part alone: read as a URI, it might name an authority.
            let path: PathAndQuery = path.map_err(|_| HttpError::HttpRequestUriInvalid)?;
            *request.uri_mut() = path.into();
        }
        Sender::Http2(_) => {
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(HOST);
        }
    }
    Ok((request, uri))
}
