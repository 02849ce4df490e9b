//! Where to connect, and as whom.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::{OpenError, Reason};

/// The longest that an operation takes, if not told otherwise: a thousand times what it does.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// The longest that one server is waited for.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// How often the server is asked whether it is there. At the third question without an answer the connection is given up.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Servers that are known at most, those included that others told of: no cluster is as large.
const SERVERS_MAX: usize = 64;

/// As whom to connect.
#[derive(Clone, Default)]
pub enum Auth {
    /// As the first address says: with `USER:PASSWORD@`, with `TOKEN@`, or as nobody.
    #[default]
    Address,
    /// With a token.
    Token(String),
    /// With the seed of an nkey of the user kind (`SU...`).
    Nkey(String),
    /// With a credentials file: a user's JWT and its seed. It is read anew for each connection.
    Credentials(PathBuf),
}

/// How NATS is reached.
#[derive(Clone)]
pub struct NatsOptions {
    /// `nats://HOST:PORT` each, or `tls://`; servers of one cluster, of which one that answers is enough.
    pub urls: Vec<String>,
    /// As whom to connect.
    pub auth: Auth,
    /// What certificates are trusted, as a file of PEM; the connection then has to be encrypted. `None` is the system's
    /// trust, and encryption where an address or the server says so.
    pub ca_file: Option<PathBuf>,
    /// The longest that an operation takes, its waiting included.
    pub timeout: Duration,
}

impl NatsOptions {
    /// The defaults, for one server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            auth: Auth::default(),
            ca_file: None,
            timeout: TIMEOUT_DEFAULT,
        }
    }
}

impl fmt::Debug for NatsOptions {
    /// Without the addresses and what else may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Where connections come from.
pub(crate) struct Source {
    servers: Vec<ServerAddr>,
    login: Login,
    ca_file: Option<PathBuf>,
    is_encrypted: bool,
}

enum Login {
    Nobody,
    Token(String),
    Password(String, String),
    Nkey(String),
    Credentials(PathBuf),
}

impl Source {
    pub(crate) fn new(options: &NatsOptions) -> Result<Self, OpenError> {
        let mut login = match &options.auth {
            Auth::Address => Login::Nobody,
            Auth::Token(token) => Login::Token(token.clone()),
            Auth::Nkey(seed) => Login::Nkey(seed.clone()),
            Auth::Credentials(path) => Login::Credentials(path.clone()),
        };
        let mut is_encrypted = options.ca_file.is_some();
        let mut servers = Vec::new();
        for (n, address) in options.urls.iter().enumerate() {
            let (server, of_address) = read(address).ok_or(OpenError::Address { n: n + 1 })?;
            is_encrypted |= server.tls_required();
            servers.push(server);
            if n == 0 && matches!(options.auth, Auth::Address) {
                login = of_address;
            }
        }
        if servers.is_empty() {
            return Err(OpenError::NoAddress);
        }
        if let Some(path) = &options.ca_file {
            std::fs::read(path).map_err(|source| OpenError::Certificates {
                path: path.clone(),
                source,
            })?;
        }
        Ok(Self {
            servers,
            login,
            ca_file: options.ca_file.clone(),
            is_encrypted,
        })
    }

    /// A connection that is not made again when it is lost: who comes next asks here for another one.
    pub(crate) async fn connect(
        &mut self,
        on_event: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Client, Reason> {
        let mut options = ConnectOptions::new()
            .name("weft provider")
            .connection_timeout(CONNECT_WAIT)
            .ping_interval(ASK_EVERY)
            // Its first round over all servers is the first connection too. A second one is left to the caller, who
            // says why there is none, waits between tries, and can be ended.
            .max_reconnects(self.servers.len())
            // Subjects are made here, or were checked.
            .skip_subject_validation(true)
            .require_tls(self.is_encrypted)
            .event_callback(move |event| {
                on_event(&event);
                std::future::ready(())
            });
        if let Some(path) = &self.ca_file {
            options = options.add_root_certificates(path.clone());
        }
        options = match &self.login {
            Login::Nobody => options,
            Login::Token(token) => options.token(token.clone()),
            Login::Password(user, password) => options.user_and_password(user.clone(), password.clone()),
            Login::Nkey(seed) => options.nkey(seed.clone()),
            Login::Credentials(path) => options.credentials_file(path).await.map_err(|error| {
                Reason::away(format!(
                    "failed to read the credentials in {}: {error}",
                    path.display()
                ))
            })?,
        };
        let client = options
            .connect(&self.servers[..])
            .await
            .map_err(|error| match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Reason::Denied,
                _ => Reason::away(error.to_string()),
            })?;
        self.learn(&client).await;
        Ok(client)
    }

    /// Remembers the servers that the first one told of, for when it is gone.
    async fn learn(&mut self, client: &Client) {
        for server in client.server_pool().await.unwrap_or_default() {
            if self.servers.len() < SERVERS_MAX && !self.servers.contains(&server.addr) {
                self.servers.push(server.addr);
            }
        }
    }
}

/// The address without what is secret in it, which the client would write to the log, and that.
fn read(address: &str) -> Option<(ServerAddr, Login)> {
    // A bare `HOST:PORT` is an address everywhere else in NATS too.
    let mut url: Url = match address.contains("://") {
        true => address.parse().ok()?,
        false => format!("nats://{address}").parse().ok()?,
    };
    if !matches!(url.scheme(), "nats" | "tls") || url.host_str().is_none_or(str::is_empty) {
        return None;
    }
    let decoded = |text| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    let login = match (url.username(), url.password()) {
        ("", None) => Login::Nobody,
        (token, None) => Login::Token(decoded(token)?),
        (user, Some(password)) => Login::Password(decoded(user)?, decoded(password)?),
    };
    url.set_password(None).ok()?;
    url.set_username("").ok()?;
    Some((ServerAddr::from_url(url).ok()?, login))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_secret_out_of_an_address() {
        let (server, login) = read("tls://ann:p%40ss@nats.example:4443").unwrap();
        assert_eq!(server.as_url_str(), "tls://nats.example:4443");
        assert!(matches!(login, Login::Password(user, password) if user == "ann" && password == "p@ss"));
        let (server, login) = read("nats://t0ken@10.0.0.1").unwrap();
        assert_eq!((server.host(), server.port()), ("10.0.0.1", 4222));
        assert!(matches!(login, Login::Token(token) if token == "t0ken"));
        let (server, login) = read("localhost:4333").unwrap();
        assert_eq!((server.host(), server.port()), ("localhost", 4333));
        assert!(matches!(login, Login::Nobody));
        for other in ["ws://x:80", "http://x", "nats://", "", "nats://x:port"] {
            assert!(read(other).is_none(), "{other}");
        }
    }
}
