//! Where to connect, and as whom.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};

use super::super::TransportError;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Membership and the control store: little, and in time.
    Control,
    /// Calls.
    Calls,
    /// Streams and artifacts.
    Bulk,
}

/// As whom to connect.
#[derive(Clone, Default)]
pub enum Auth {
    /// As nobody.
    #[default]
    None,
    /// With a token.
    Token(String),
    /// With a name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// With the seed of an nkey of the user kind (`SU...`).
    Nkey(String),
    /// With a credentials file: a user's JWT and its seed.
    Credentials(PathBuf),
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Whether it has to be. A URL that begins with `tls://` says so too.
    pub required: bool,
    /// Whether TLS begins before the server says anything, as some proxies need.
    pub first: bool,
    /// Who signs the server's certificate, in PEM; the system's if there is none.
    pub authorities: Vec<PathBuf>,
    /// This side's certificate and its key, in PEM, for servers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Where and how to connect.
#[derive(Clone)]
pub struct NatsSettings {
    /// URLs of servers of one cluster; one that answers is enough.
    pub servers: Vec<String>,
    /// What the server shows for this connection.
    pub name: String,
    /// What the subjects of replies begin with: `_INBOX` and, so that rights can be given for it, the host.
    pub inbox: String,
    /// What it is for.
    pub role: Role,
    /// As whom.
    pub auth: Auth,
    /// Encrypted how.
    pub tls: Tls,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// No server took it.
    #[error(
        "failed to connect to NATS at {servers}: does a server run there, and are the credentials right?"
    )]
    Connect {
        /// Where.
        servers: String,
        /// Why.
        source: async_nats::ConnectError,
    },
    /// A file is not there, or no credentials.
    #[error("failed to read the NATS credentials in {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It was lost again at once.
    #[error("failed to set up the connection to NATS")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The server does not let this user listen on its inbox.
    #[error("the NATS server does not answer on this host's inbox: may the user subscribe to it?")]
    Inbox(#[from] TransportError),
    /// The prefix of an inbox is of another form.
    #[error(
        "`{0}` can't be the inbox: it begins with `_INBOX` and has letters, digits, `-`, `_` and `.` only"
    )]
    InboxName(String),
}

/// How long a server has to answer.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Messages that a subscription holds before the client drops them: all frames that the windows of streams allow for.
const SUBSCRIPTION_LEN: usize = 150_000;

impl Role {
    /// All.
    pub const ALL: [Self; 3] = [Self::Control, Self::Calls, Self::Bulk];

    /// The word for it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Calls => "calls",
            Self::Bulk => "bulk",
        }
    }

    /// How often the server is asked whether it is there; after three questions without an answer the client connects
    /// anew.
    fn ping_interval(self) -> Duration {
        match self {
            Self::Control => Duration::from_secs(1),
            Self::Calls | Self::Bulk => Duration::from_secs(2),
        }
    }
}

/// Checks the URL of a server.
///
/// # Errors
/// What is wrong with it, and what was expected.
pub fn check_server(url: &str) -> Result<(), String> {
    match url.parse::<ServerAddr>() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error}: expected nats://HOST:PORT")),
    }
}

impl NatsSettings {
    /// Settings for `servers`, without credentials.
    pub fn new(servers: Vec<String>, host: &str, role: Role) -> Self {
        Self {
            servers,
            name: format!("weft {host} {}", role.as_str()),
            inbox: format!("_INBOX_{host}"),
            role,
            auth: Auth::None,
            tls: Tls::default(),
        }
    }

    /// Where the servers are, without the user and the password that a URL may have.
    pub(super) fn shown_servers(&self) -> String {
        let shown = self.servers.iter().map(|url| match url.parse::<ServerAddr>() {
            Ok(server) => format!("{}:{}", server.host(), server.port()),
            Err(_) => "a URL that is none".to_owned(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    pub(super) async fn options(&self) -> Result<ConnectOptions, NatsError> {
        let of_subject = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let well_formed = self.inbox.chars().all(of_subject) && !self.inbox.contains("..");
        if !(self.inbox.starts_with("_INBOX") && well_formed && !self.inbox.ends_with('.')) {
            return Err(NatsError::InboxName(self.inbox.clone()));
        }
        let mut options = ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(CONNECT_WAIT)
            .ping_interval(self.role.ping_interval())
            .subscription_capacity(SUBSCRIPTION_LEN)
            // All subjects are made by one module, which checks them.
            .skip_subject_validation(true)
            .require_tls(self.tls.required);
        if self.tls.first {
            options = options.tls_first();
        }
        for authority in &self.tls.authorities {
            options = options.add_root_certificates(authority.clone());
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(match &self.auth {
            Auth::None => options,
            Auth::Token(token) => options.token(token.clone()),
            Auth::Password { user, password } => options.user_and_password(user.clone(), password.clone()),
            Auth::Nkey(seed) => options.nkey(seed.clone()),
            Auth::Credentials(path) => {
                let read = options.credentials_file(path).await;
                read.map_err(|source| NatsError::Credentials {
                    path: path.clone(),
                    source,
                })?
            }
        })
    }
}
