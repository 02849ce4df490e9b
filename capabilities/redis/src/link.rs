//! One connection to Redis: made, watched, and made again.
//!
//! Owns a task, the keeper, which is all that connects. Everyone else uses what it made, or is told at once why there is
//! nothing: a server that is away costs a caller no time. Which of several a caller uses is [`super::lanes`]'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    RedisResult, TlsCertificates, TlsMode, Value,
};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use weft_capabilities::KeyValueError;

use crate::error::{self, OpenError, Verdict};
use crate::{Deployment, RedisOptions};

/// The longest that a connection is waited for.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// How often a connection is asked whether it still is one, if nobody notices before.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The longest wait for that answer.
const ASK_WAIT: Duration = Duration::from_secs(1);
/// The pause after a server was not reached, which doubles with each try, up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Tries of the cluster's client to follow a slot that moves, or to find the server that took over.
const CLUSTER_TRIES: u32 = 3;

/// A connection. Cheap to clone; what clones send goes over the same socket.
#[derive(Clone)]
pub(crate) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(crate) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Server(connection) => connection.req_packed_command(command).await?,
            Self::Cluster(connection) => connection.req_packed_command(command).await?,
        };
        answer.extract_error()
    }
}

/// How things stand.
#[derive(Clone)]
enum State {
    Connecting,
    Up(Connection),
    Down(Reason),
    Closed,
}

#[derive(Clone, PartialEq, Eq)]
enum Reason {
    Denied,
    Away(Arc<str>),
}

impl Reason {
    fn of(error: RedisError) -> Self {
        match error::of_command(error) {
            KeyValueError::AccessDenied => Self::Denied,
            KeyValueError::Unavailable(message) => Self::Away(message.into()),
            other => Self::Away(with_cause(&other).into()),
        }
    }

    fn error(&self) -> KeyValueError {
        match self {
            Self::Denied => KeyValueError::AccessDenied,
            Self::Away(message) => KeyValueError::Unavailable(message.to_string()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Denied => "the server refuses the user or the password",
            Self::Away(message) => message,
        }
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(cause) => format!("{error}: {cause}"),
    }
}

/// The way to the connection.
pub(crate) struct Link {
    state: watch::Sender<State>,
    alarm: Arc<Alarm>,
    keeper: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Closes the connection with the keeper, also if that ends with its runtime.
struct Kept(watch::Sender<State>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.send_replace(State::Closed);
    }
}

/// How callers tell the keeper what they saw.
#[derive(Default)]
struct Alarm {
    wake: Notify,
    replace: AtomicBool,
}

impl Link {
    /// Starts to connect. The keeper, and the connection, live on the runtime that this is called on. `tells` is whether
    /// the log hears how it stands.
    pub(crate) fn start(settings: &Settings, tells: bool) -> Result<Self, OpenError> {
        let mut source = settings.source()?;
        let (state, _) = watch::channel(State::Connecting);
        let alarm = Arc::new(Alarm::default());
        let keeper = {
            let (kept, alarm) = (Kept(state.clone()), alarm.clone());
            async move { keep(&mut source, kept, &alarm, tells).await }
        };
        let keeper = tokio::runtime::Handle::current().spawn(keeper);
        Ok(Self {
            state,
            alarm,
            keeper: Mutex::new(Some(AbortOnDropHandle::new(keeper))),
        })
    }

    /// The connection, or why there is none; `None` before the first try to make one has ended.
    pub(crate) fn known(&self) -> Option<Result<Connection, KeyValueError>> {
        match &*self.state.borrow() {
            State::Connecting => None,
            State::Up(connection) => Some(Ok(connection.clone())),
            State::Down(reason) => Some(Err(reason.error())),
            State::Closed => Some(Err(KeyValueError::Closed)),
        }
    }

    /// The connection. Waits only for the first try to make one.
    pub(crate) async fn connection(&self) -> Result<Connection, KeyValueError> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match known.as_deref() {
            Ok(State::Up(connection)) => Ok(connection.clone()),
            Ok(State::Down(reason)) => Err(reason.error()),
            _ => Err(KeyValueError::Closed),
        }
    }

    /// The connection, if there is one.
    pub(crate) fn up(&self) -> Option<Connection> {
        match &*self.state.borrow() {
            State::Up(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    /// Whether nobody will connect any more.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(*self.state.borrow(), State::Closed)
    }

    /// Has the keeper look at the connection.
    pub(crate) fn doubt(&self, verdict: Verdict) {
        if verdict == Verdict::Fine {
            return;
        }
        if verdict == Verdict::Replace {
            self.alarm.replace.store(true, Ordering::Release);
        }
        self.alarm.wake.notify_one();
    }

    pub(crate) fn refuse(&self) {
        self.state.send_replace(State::Closed);
    }

    pub(crate) async fn end(&self) {
        self.keeper.lock().await.take();
    }
}

async fn keep(source: &mut Source, kept: Kept, alarm: &Alarm, tells: bool) {
    let Kept(state) = &kept;
    let set = |new: State| {
        state.send_if_modified(|state| {
            let is_open = !matches!(state, State::Closed);
            if is_open {
                *state = new;
            }
            is_open
        })
    };
    let mut pause = BACKOFF_MIN;
    let mut told = None;
    loop {
        let reason = match timeout(CONNECT_WAIT, source.connect()).await {
            Ok(Ok(connection)) => {
                if told.take().is_some() {
                    tracing::info!("Redis answers again");
                }
                alarm.replace.store(false, Ordering::Release);
                if !set(State::Up(connection.clone())) {
                    return;
                }
                pause = BACKOFF_MIN;
                watch_over(connection, alarm).await
            }
            Ok(Err(error)) => Reason::of(error),
            Err(_) => Reason::Away(format!("it did not answer within {CONNECT_WAIT:?}").into()),
        };
        if tells && told.as_ref() != Some(&reason) {
            tracing::warn!(reason = reason.text(), "Redis can't be reached");
            told = Some(reason.clone());
        }
        if !set(State::Down(reason)) {
            return;
        }
        // A half more or less, so that hosts don't come together.
        sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Ends when the connection is of no use any more, with the reason.
async fn watch_over(mut connection: Connection, alarm: &Alarm) -> Reason {
    let ping = redis::cmd("PING");
    loop {
        tokio::select! {
            () = alarm.wake.notified() => {}
            () = sleep(ASK_EVERY) => {}
        }
        if alarm.replace.load(Ordering::Acquire) {
            return Reason::Away("the server is not the one that takes writes any more".into());
        }
        match timeout(ASK_WAIT, connection.send(&ping)).await {
            Ok(Err(error)) if error::judge(&error) != Verdict::Fine => return Reason::of(error),
            Ok(_) => {}
            Err(_) => return Reason::Away(format!("it did not answer within {ASK_WAIT:?}").into()),
        }
    }
}

/// How connections are made, all of it read and checked.
pub(crate) struct Settings {
    infos: Vec<ConnectionInfo>,
    first: ConnectionInfo,
    tls: bool,
    certificates: TlsCertificates,
    deployment: Deployment,
    timeout: Duration,
}

impl Settings {
    pub(crate) fn read(options: &RedisOptions) -> Result<Self, OpenError> {
        let infos = options
            .urls
            .iter()
            .enumerate()
            .map(|(n, url)| {
                let info = url.as_str().into_connection_info();
                info.map_err(|_| OpenError::Address { n: n + 1 })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let first = infos.first().cloned().ok_or(OpenError::NoAddress)?;
        let is_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let tls = is_tls(&first);
        if infos.iter().any(|info| is_tls(info) != tls) {
            return Err(OpenError::MixedTls);
        }
        let root_cert = match &options.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|source| OpenError::Certificates {
                path: path.clone(),
                source,
            })?),
        };
        if tls {
            // The client takes the process's choice. If one was made before, it stays.
            rustls::crypto::ring::default_provider().install_default().ok();
        }
        Ok(Self {
            infos,
            first,
            tls,
            certificates: TlsCertificates {
                client_tls: None,
                root_cert,
            },
            deployment: options.deployment.clone(),
            timeout: options.timeout,
        })
    }

    pub(crate) fn database(&self) -> i64 {
        self.first.redis_settings().db()
    }

    /// A connection of its own to the server that takes writes, for what that tells by itself. There is none to a cluster.
    pub(crate) async fn listen(&self) -> RedisResult<PubSub> {
        let source = self.source().map_err(|error| match error {
            OpenError::Client(error) => error,
            other => std::io::Error::other(other).into(),
        })?;
        match source {
            Source::Server(client) => client.get_async_pubsub().await,
            Source::Sentinel(mut client) => client.async_get_client().await?.get_async_pubsub().await,
            Source::Cluster(_) => Err(std::io::Error::other("a cluster has no one server that tells").into()),
        }
    }

    fn source(&self) -> Result<Source, OpenError> {
        let Self {
            infos, first, tls, ..
        } = self;
        let certificates = self.certificates.clone();
        let settings = first.redis_settings().clone();
        match &self.deployment {
            Deployment::Server if *tls => Client::build_with_tls(first.clone(), certificates)
                .map(|client| Source::Server(Box::new(client))),
            Deployment::Server => Client::open(first.clone()).map(|client| Source::Server(Box::new(client))),
            Deployment::Sentinel { service } => {
                let addresses = infos.iter().map(|info| info.addr().clone());
                let mut builder =
                    SentinelClientBuilder::new(addresses, service.as_str(), SentinelServerType::Master)
                        .map_err(OpenError::Client)?
                        .set_client_to_redis_db(settings.db());
                if let Some(username) = settings.username() {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = settings.password() {
                    builder = builder.set_client_to_redis_password(password);
                }
                if *tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(certificates);
                }
                builder.build().map(|client| Source::Sentinel(Box::new(client)))
            }
            Deployment::Cluster => {
                let mut builder = ClusterClientBuilder::new(infos.clone())
                    .retries(CLUSTER_TRIES)
                    .connection_timeout(CONNECT_WAIT)
                    .response_timeout(self.timeout);
                if *tls {
                    builder = builder.certs(certificates);
                }
                builder.build().map(|client| Source::Cluster(Box::new(client)))
            }
        }
        .map_err(OpenError::Client)
    }
}

/// Where connections come from.
enum Source {
    Server(Box<Client>),
    Sentinel(Box<SentinelClient>),
    Cluster(Box<ClusterClient>),
}

impl Source {
    async fn connect(&mut self) -> RedisResult<Connection> {
        // Each caller has a bound of its own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WAIT))
            .set_response_timeout(None);
        match self {
            Self::Server(client) => {
                let connection = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                Ok(Connection::Server(connection))
            }
            Self::Sentinel(client) => {
                let connection = client.get_async_connection_with_config(&config).await?;
                Ok(Connection::Server(connection))
            }
            Self::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
        }
    }
}
