//! Making a connection: TCP, TLS, HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::RequestBody;
use crate::error::{HttpError, of_connect, of_tls};
use crate::pool::{Connection, Key};

/// Connections that are open at once, at most: a share of the descriptors that a process has.
const CONNECTIONS_MAX: usize = 1_024;
/// Bytes of a response's headers, at most.
const HEADERS_LEN_MAX: u32 = 64 << 10;
/// Headers of a response, at most.
const HEADERS_MAX: usize = 128;

/// How long a kept connection may take to be ready: much less than a new one would.
const REUSE_WAIT: Duration = Duration::from_millis(5);

#[derive(Clone)]
pub(crate) struct Connector {
    extra_roots: Arc<Vec<CertificateDer<'static>>>,
    tls: Arc<Mutex<Option<Arc<ClientConfig>>>>,
    open: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// The way into a connection.
pub(crate) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl Sender {
    /// Whether it takes a request now, or in the moment that its task needs to see the end of the last one.
    pub(crate) async fn ready(&mut self) -> bool {
        let ready = async {
            match self {
                Self::Http1(sender) => sender.ready().await,
                Self::Http2(sender) => sender.ready().await,
            }
        };
        matches!(tokio::time::timeout(REUSE_WAIT, ready).await, Ok(Ok(())))
    }

    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request. An error comes with the request if nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<RequestBody>>)> {
        let sent = match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let back = error.take_message();
            (error.into_error(), back)
        })
    }
}

/// hyper's tasks, owned by the client.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Connector {
    pub(crate) fn new(extra_roots: Vec<CertificateDer<'static>>, tasks: TaskTracker) -> Self {
        Self {
            extra_roots: Arc::new(extra_roots),
            tls: Arc::default(),
            open: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tasks,
        }
    }

    /// A connection to the first of `addresses` that takes one. They have been checked.
    pub(crate) async fn connect(&self, addresses: &[SocketAddr], key: &Key) -> Result<Connection, HttpError> {
        let place = self
            .open
            .clone()
            .try_acquire_owned()
            .map_err(|_| HttpError::ConnectionLimitReached)?;
        let mut failed = HttpError::DestinationIpProhibited;
        for &address in addresses {
            let stream = match TcpStream::connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    failed = of_connect(&error);
                    continue;
                }
            };
            // A request's last piece must not wait for the answer to the one before.
            stream.set_nodelay(true).map_err(|error| of_connect(&error))?;
            let sender = if key.tls {
                self.secure(stream, key, place).await?
            } else {
                self.http1(stream, place).await?
            };
            return Ok(Connection {
                sender,
                peer: address.ip(),
            });
        }
        Err(failed)
    }

    async fn secure(
        &self,
        stream: TcpStream,
        key: &Key,
        place: OwnedSemaphorePermit,
    ) -> Result<Sender, HttpError> {
        let name = match key.address() {
            Some(address) => ServerName::from(address),
            None => ServerName::try_from(key.host.clone()).map_err(|_| HttpError::HttpRequestUriInvalid)?,
        };
        let connector = TlsConnector::from(self.tls().await?);
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| of_tls(&error))?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream, place).await
        } else {
            self.http1(stream, place).await
        }
    }

    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        place: OwnedSemaphorePermit,
    ) -> Result<Sender, HttpError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEADERS_LEN_MAX as usize)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks.spawn(async move {
            // What went wrong is told to the request that it went wrong for.
            drop(connection.await);
            drop(place);
        });
        Ok(Sender::Http1(sender))
    }

    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        place: OwnedSemaphorePermit,
    ) -> Result<Sender, HttpError> {
        let (sender, connection) = http2::Builder::new(Tasks(self.tasks.clone()))
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS_LEN_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks.spawn(async move {
            drop(connection.await);
            drop(place);
        });
        Ok(Sender::Http2(sender))
    }

    /// The set-up of TLS, made at the first use.
    async fn tls(&self) -> Result<Arc<ClientConfig>, HttpError> {
        if let Some(config) = self.tls_lock().clone() {
            return Ok(config);
        }
        let extra_roots = self.extra_roots.clone();
        let made = tokio::task::spawn_blocking(move || config(&extra_roots)).await;
        let made = made.map_err(|error| HttpError::Internal(error.to_string()))??;
        *self.tls_lock() = Some(made.clone());
        Ok(made)
    }

    fn tls_lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<ClientConfig>>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn config(extra_roots: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, HttpError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots.add_parsable_certificates(extra_roots.iter().cloned());
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or("no trusted root was found".to_owned(), ToString::to_string);
        return Err(HttpError::ConfigurationError(why));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::ConfigurationError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
