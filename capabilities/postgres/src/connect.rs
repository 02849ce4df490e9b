//! How a connection to the server is made, kept in the pool, and told to stop what it runs.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{CancelToken, Client, Config, NoTls};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use weft_capabilities::sql::SqlError;

use crate::bounded::{Bounded, Overrun};
use crate::error::{self, OpenError};
use crate::session::Session;
use crate::{PostgresOptions, TIME_MAX};

/// The longest that a connection is waited for: name, TCP, TLS and login, of which the last is a process on the server.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// The longest that a request to cancel is waited for.
const CANCEL_WAIT: Duration = Duration::from_secs(2);
/// A connection that was idle for this long is asked whether it still is one before a statement is trusted to it.
const IDLE_TRUST: Duration = Duration::from_secs(10);
/// The longest wait for that answer.
const ASK_WAIT: Duration = Duration::from_secs(1);
/// After a server was not reached, nobody tries again for this long; it doubles with each try, up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const PORT_DEFAULT: u16 = 5432;

type Driver = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// Where the server is and how to log in.
pub(crate) struct Connector {
    config: Config,
    hosts: Vec<(String, u16)>,
    tls: Option<TlsConnector>,
    runtime: Handle,
    tasks: TaskTracker,
}

impl Connector {
    pub(crate) fn new(options: &PostgresOptions, tasks: TaskTracker) -> Result<Self, OpenError> {
        let mut config: Config = options.url.parse().map_err(|_| OpenError::Address)?;
        let ports = config.get_ports().to_vec();
        let port = |n: usize| ports.get(n).or(ports.first()).copied().unwrap_or(PORT_DEFAULT);
        let hosts: Vec<_> = config
            .get_hosts()
            .iter()
            .enumerate()
            .filter_map(|(n, host)| match host {
                Host::Tcp(name) => Some((name.clone(), port(n))),
                Host::Unix(_) => None,
            })
            .collect();
        if hosts.is_empty() {
            return Err(OpenError::NoHost);
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Require => Some(trusting(options.ca_file.as_deref())?),
            _ => {
                config.ssl_mode(SslMode::Disable);
                None
            }
        };
        if config.get_application_name().is_none() {
            config.application_name("weft");
        }
        // The server's own bounds, for when this host can't stop what it began.
        let settings = format!(
            "{} -c statement_timeout={ms} -c idle_in_transaction_session_timeout={ms} -c TimeZone=UTC \
             -c DateStyle=ISO -c bytea_output=hex -c extra_float_digits=1",
            config.get_options().unwrap_or_default(),
            ms = TIME_MAX.as_millis(),
        );
        config.options(settings);
        Ok(Self {
            config,
            hosts,
            tls,
            runtime: Handle::current(),
            tasks,
        })
    }

    /// A new session, with the first of the hosts that answers.
    async fn session(self: Arc<Self>) -> Result<Session, SqlError> {
        let mut last = SqlError::Unavailable {
            message: "no host".to_owned(),
        };
        for (host, port) in &self.hosts {
            let opened = timeout(CONNECT_WAIT, self.open(host, *port)).await;
            last = match opened {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => SqlError::Unavailable {
                    message: format!("{host}:{port} did not answer within {CONNECT_WAIT:?}"),
                },
            };
        }
        Err(last)
    }

    async fn open(self: &Arc<Self>, host: &str, port: u16) -> Result<Session, SqlError> {
        let unreachable = |error: io::Error| SqlError::Unavailable {
            message: format!("failed to connect to {host}:{port}: {error}"),
        };
        let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let address = stream.peer_addr().map_err(unreachable)?;
        let overrun = Overrun::default();
        let (client, driver): (Client, Driver) = match self.tls(host, overrun.clone())? {
            None => {
                let stream = Bounded::new(stream, overrun.clone());
                let (client, driver) = self
                    .config
                    .connect_raw(stream, NoTls)
                    .await
                    .map_err(|error| error::of_connect(&error))?;
                (client, Box::pin(driver))
            }
            Some(tls) => {
                let (client, driver) = self
                    .config
                    .connect_raw(stream, tls)
                    .await
                    .map_err(|error| error::of_connect(&error))?;
                (client, Box::pin(driver))
            }
        };
        let driver = async {
            if let Err(error) = driver.await {
                tracing::debug!(
                    error = error::with_causes(&error),
                    "a connection to Postgres ended"
                );
            }
        };
        let driver = self.tasks.spawn(driver).abort_handle();
        let canceller = Canceller {
            connector: self.clone(),
            token: client.cancel_token(),
            host: host.to_owned(),
            address,
        };
        Ok(Session::new(client, driver, overrun, canceller))
    }

    fn tls(&self, host: &str, overrun: Overrun) -> Result<Option<Tls>, SqlError> {
        let Some(connector) = self.tls.clone() else {
            return Ok(None);
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| SqlError::Unavailable {
            message: format!("`{host}` is no name that a certificate could be for"),
        })?;
        Ok(Some(Tls {
            connector,
            name,
            overrun,
        }))
    }

    /// Runs what is not its caller's, who may leave, and outlasts the caller's runtime.
    pub(crate) fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tasks.spawn_on(work, &self.runtime)
    }
}

fn trusting(ca_file: Option<&Path>) -> Result<TlsConnector, OpenError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Certificates {
                path: path.to_owned(),
                source,
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
                let certificate = certificate.map_err(|error| failed(error.into()))?;
                roots.add(certificate).map_err(|error| failed(error.into()))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Certificates {
            path: ca_file.unwrap_or(Path::new("")).to_owned(),
            source: error.into(),
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// TLS to one host. What comes out of it is bounded.
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    overrun: Overrun,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Tls {
    type Stream = Bounded<TlsStream<S>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let stream = self.connector.connect(self.name, stream).await?;
            Ok(Bounded::new(stream, self.overrun))
        })
    }
}

/// Tells the server to stop what one session runs, over a connection of its own.
pub(crate) struct Canceller {
    connector: Arc<Connector>,
    token: CancelToken,
    host: String,
    address: SocketAddr,
}

impl Canceller {
    /// Ends when the server has told the session's process, or can't be reached.
    pub(crate) async fn cancel(&self) {
        match timeout(CANCEL_WAIT, self.try_cancel()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a statement on Postgres could not be cancelled"),
            Err(_) => tracing::debug!("a statement on Postgres could not be cancelled in time"),
        }
    }

    async fn try_cancel(&self) -> io::Result<()> {
        let stream = TcpStream::connect(self.address).await?.into_std()?;
        // The client closes its half; the server closes the other when the signal was sent.
        let mut answers = TcpStream::from_std(stream.try_clone()?)?;
        let stream = TcpStream::from_std(stream)?;
        let tls = self
            .connector
            .tls(&self.host, Overrun::default())
            .map_err(io::Error::other)?;
        match tls {
            None => self.token.cancel_query_raw(stream, NoTls).await,
            Some(tls) => self.token.cancel_query_raw(stream, tls).await,
        }
        .map_err(io::Error::other)?;
        let mut rest = Vec::new();
        (&mut answers).take(1 << 10).read_to_end(&mut rest).await?;
        Ok(())
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.connector.spawn(work);
    }
}

/// Makes the pool's connections, and takes a rest after a failure.
pub(crate) struct Connections {
    connector: Arc<Connector>,
    failure: Mutex<Option<Failure>>,
}

#[derive(Clone)]
struct Failure {
    message: String,
    pause: Duration,
    until: Instant,
}

impl Connections {
    pub(crate) fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            failure: Mutex::new(None),
        }
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, result: &Result<Session, SqlError>) {
        let mut failure = self.failure();
        match result {
            Ok(_) => {
                if failure.take().is_some() {
                    tracing::info!("Postgres answers again");
                }
            }
            Err(error) => {
                let message = match error {
                    SqlError::Unavailable { message } => message.clone(),
                    other => other.to_string(),
                };
                let pause = match failure.take() {
                    None => {
                        tracing::warn!(reason = message, "Postgres can't be reached");
                        BACKOFF_MIN
                    }
                    Some(before) => (before.pause * 2).min(BACKOFF_MAX),
                };
                // A half more or less, so that hosts don't come together.
                let until = Instant::now() + pause.mul_f64(rand::random_range(0.5..1.5));
                *failure = Some(Failure {
                    message,
                    pause,
                    until,
                });
            }
        }
    }

    /// A new session, whose task runs on the caller's runtime.
    pub(crate) async fn create(&self) -> Result<Session, SqlError> {
        let resting = self.failure().clone();
        if let Some(failure) = resting.filter(|failure| Instant::now() < failure.until) {
            return Err(SqlError::Unavailable {
                message: failure.message,
            });
        }
        // On a task of its own: the caller may be a guest's fiber, whose stack TLS and name lookups are too large for.
        let task = AbortOnDropHandle::new(self.connector.tasks.spawn(self.connector.clone().session()));
        let result = task.await.unwrap_or_else(|error| {
            Err(SqlError::Backend {
                source: Box::new(error),
            })
        });
        self.note(&result);
        result
    }

    /// Whether a session that nobody used for a while is still one.
    pub(crate) async fn is_alive(&self, session: &Session) -> bool {
        if session.is_closed() {
            return false;
        }
        session.idle() <= IDLE_TRUST || matches!(timeout(ASK_WAIT, session.ask()).await, Ok(true))
    }
}
