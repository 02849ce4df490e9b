//! What a host is told of its lattice.

use std::collections::BTreeMap;

use weft_lattice::subject::Subjects;
use weft_lattice::transport::nats::{Auth, NatsSettings, Role, Tls};

/// Where the lattice is, and as whom to join it.
#[derive(Clone)]
pub struct LatticeSettings {
    /// URLs of NATS servers.
    pub servers: Vec<String>,
    /// The lattice's name.
    pub lattice: String,
    /// Its subjects.
    pub subjects: Subjects,
    /// As whom.
    pub auth: Auth,
    /// Encrypted how.
    pub tls: Tls,
    /// What this host says of itself: `region` and `zone` say where it is.
    pub labels: BTreeMap<String, String>,
    /// Whether this host has the control store.
    pub controller: bool,
}

impl LatticeSettings {
    /// The connection of `host` for `role`.
    pub fn nats(&self, host: &str, role: Role) -> NatsSettings {
        NatsSettings {
            auth: self.auth.clone(),
            tls: self.tls.clone(),
            ..NatsSettings::new(self.servers.clone(), host, role)
        }
    }
}

impl std::fmt::Debug for LatticeSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the credentials.
        f.debug_struct("LatticeSettings")
            // How many: their URLs may have passwords.
            .field("servers", &self.servers.len())
            .field("lattice", &self.lattice)
            .field("labels", &self.labels)
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}
