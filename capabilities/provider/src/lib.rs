//! For those who write an outside provider in Rust: [`serve`] a backend to a lattice, with credentials for its own subject
//! and nothing else.
//!
//! Owns the life of such a process's connection: it connects, serves, and drains. What goes over the wire is
//! `weft-remote`'s, and `docs/providers.md` says what a provider promises. Must know no host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tracing::info;
use weft_lattice::envelope::Failure;
use weft_lattice::rpc::{Invocation, Server, ServerStats, Service, Stamps};
use weft_lattice::subject::{Address, SubjectError, Subjects};
pub use weft_lattice::transport::nats::{Auth, Tls};
use weft_lattice::transport::nats::{NatsError, NatsSettings, NatsStats, NatsTransport, Role};
use weft_lattice::transport::{Served, TransportError};
use weft_remote::Provided;
pub use weft_remote::{Backend, ProvidedStats};

/// Where to serve, as what, and as whom.
#[derive(Clone)]
pub struct Settings {
    /// URLs of NATS servers of one cluster; one that answers is enough.
    pub servers: Vec<String>,
    /// The name of the lattice.
    pub lattice: String,
    /// What the provider is called there: `namespace/app/name`.
    pub provider: String,
    /// As whom to connect.
    pub auth: Auth,
    /// Encrypted how.
    pub tls: Tls,
}

/// A provider that can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The name has not three parts.
    #[error("`{0}` is no name of a provider: expected `namespace/app/name`")]
    Name(String),
    /// A name can't be part of a subject.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] NatsError),
    /// The connection went at once.
    #[error("failed to serve `{subject}`")]
    Lost {
        /// On which subject.
        subject: String,
        /// Why.
        source: TransportError,
    },
    /// The server does not let this user serve.
    #[error(
        "the NATS server refuses to let this user serve `{subject}`: allow it to subscribe to `{subject} weft` and \
         `{subject}.* weft`"
    )]
    Refused {
        /// On which subject.
        subject: String,
    },
}

/// A provider that serves, until it is stopped. Dropped, it ends in the middle of whatever runs.
pub struct Running {
    transport: NatsTransport,
    provided: Provided,
    server: Server,
    /// The subject that runs of this provider share, and the one of this run alone.
    shared: Served,
    own: Served,
}

struct Calls(Provided);

impl Service for Calls {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        self.0.call(invocation)
    }

    fn load(&self) -> u32 {
        // Nobody chooses by it: runs of one provider take turns.
        0
    }
}

impl Settings {
    /// Settings without credentials.
    pub fn new(servers: Vec<String>, lattice: &str, provider: &str) -> Self {
        Self {
            servers,
            lattice: lattice.to_owned(),
            provider: provider.to_owned(),
            auth: Auth::None,
            tls: Tls::default(),
        }
    }
}

/// Connects, and serves `backend` until [`Running::stop`]. If the connection is lost later, it is made again by itself.
///
/// # Errors
/// [`ServeError`]: a name that can't be one, no connection, or no right to serve.
pub async fn serve(settings: &Settings, backend: Backend) -> Result<Running, ServeError> {
    let parts: Vec<&str> = settings.provider.split('/').collect();
    let &[namespace, app, name] = &parts[..] else {
        return Err(ServeError::Name(settings.provider.clone()));
    };
    let subjects = Subjects::new(&settings.lattice)?;
    // Tells this run from others, as the address of a host does.
    let run = Address::new("run", rand::random())?;
    let shared = subjects.provider(namespace, app, name)?;
    let own = subjects.provider_run(namespace, app, name, run.as_str())?;
    let transport = NatsTransport::connect(&NatsSettings {
        auth: settings.auth.clone(),
        tls: settings.tls.clone(),
        ..NatsSettings::new(settings.servers.clone(), name, Role::Calls)
    })
    .await?;
    let subject = shared.as_str().to_owned();
    let lost = |source| ServeError::Lost {
        subject: subject.clone(),
        source,
    };
    let provided = Provided::new(
        backend,
        run.as_str(),
        weft_lattice::transport::Transport::payload_len_max(&transport),
    );
    let calls = Arc::new(Calls(provided.clone()));
    let server = Server::new(run, Stamps::starting_at(rand::random()), calls, None);
    // Its own first: who is told of it by the other has to reach it.
    let own = server.serve_at(&transport, own).await.map_err(lost)?;
    let shared = server.serve_at(&transport, shared).await.map_err(lost)?;
    // The server's complaints come before its answer to this.
    transport.round_trip().await.map_err(lost)?;
    if transport.stats().server_errors > 0 {
        transport.close().await;
        return Err(ServeError::Refused { subject });
    }
    info!(subject, "serves");
    Ok(Running {
        transport,
        provided,
        server,
        shared,
        own,
    })
}

impl Running {
    /// Takes no new call, answers what came, lets transactions end, and closes the connection: after at most `limit`, when
    /// those that are open are rolled back. Whether all had ended. The backend is closed by whoever opened it.
    pub async fn stop(self, limit: Duration) -> bool {
        let (shared, own) = (self.shared, self.own);
        let ended = async {
            shared.finish().await;
            self.provided.released().await;
            own.finish().await;
        };
        let all = tokio::time::timeout(limit, ended).await.is_ok();
        self.provided.release();
        self.transport.close().await;
        all
    }

    /// Numbers of the connection, of its calls, and of the backend's functions, since the start.
    pub fn stats(&self) -> (NatsStats, ServerStats, ProvidedStats) {
        (self.transport.stats(), self.server.stats(), self.provided.stats())
    }
}
