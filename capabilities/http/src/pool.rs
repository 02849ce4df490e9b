//! Connections that are kept for the next request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::connect::Sender;

/// Idle connections to one host, at most.
const IDLE_PER_HOST_MAX: usize = 16;
/// Hosts with idle connections, at most.
const HOSTS_MAX: usize = 128;
/// How long a connection is kept without a request; many servers close after 60 s.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Whom a connection is to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) tls: bool,
    /// A name in lower case, or an address; an IPv6 one in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Key {
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// The host without the brackets of an IPv6 address.
    pub(crate) fn bare_host(&self) -> &str {
        let inner = self
            .host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(&self.host)
    }

    /// The address, if the host is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.bare_host().parse().ok()
    }

    /// What a `Host` header says.
    pub(crate) fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

/// A connection, and where it goes.
pub(crate) struct Connection {
    pub(crate) sender: Sender,
    pub(crate) peer: IpAddr,
}

#[derive(Default)]
pub(crate) struct Pool(Mutex<HashMap<Key, Vec<(Instant, Connection)>>>);

impl Pool {
    /// A connection that is open, to an address that this caller may use.
    pub(crate) fn take(&self, key: &Key, allows: impl Fn(IpAddr) -> bool) -> Option<Connection> {
        let mut hosts = self.hosts();
        let idle = hosts.get_mut(key)?;
        let now = Instant::now();
        idle.retain(|(until, connection)| *until > now && !connection.sender.is_closed());
        let fits = |(_, kept): &(Instant, Connection)| allows(kept.peer);
        let at = idle.iter().rposition(fits)?;
        match &idle[at].1.sender {
            // Shared: it stays, and lives on while it is used.
            Sender::Http2(sender) => {
                let taken = Connection {
                    sender: Sender::Http2(sender.clone()),
                    peer: idle[at].1.peer,
                };
                idle[at].0 = now + IDLE_MAX;
                Some(taken)
            }
            Sender::Http1(_) => Some(idle.swap_remove(at).1),
        }
    }

    pub(crate) fn keep(&self, key: Key, connection: Connection) {
        let mut hosts = self.hosts();
        let now = Instant::now();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&key) {
            hosts.retain(|_, idle| {
                idle.retain(|(until, connection)| *until > now && !connection.sender.is_closed());
                !idle.is_empty()
            });
            if hosts.len() >= HOSTS_MAX {
                return;
            }
        }
        let idle = hosts.entry(key).or_default();
        if idle.len() >= IDLE_PER_HOST_MAX {
            idle.remove(0);
        }
        idle.push((now + IDLE_MAX, connection));
    }

    pub(crate) fn clear(&self) {
        self.hosts().clear();
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Key, Vec<(Instant, Connection)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
