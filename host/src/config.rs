//! What a host is to do.
//!
//! Owns the settings after flags and environment have been read ([`crate::cli::up`]) and the checks that need more
//! than one of them. All faults are told at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use weft_compose::{HostName, Limits, Manifest};

use crate::component::ComponentBytes;
use crate::engine::Profile;
use crate::ingress::IngressLimits;
use crate::ingress::tls::CertificateFiles;
use crate::mesh::LatticeSettings;

/// An app to be deployed.
#[derive(Debug)]
pub struct Deployment {
    /// What it is.
    pub manifest: Manifest,
    /// Its components, by actor.
    pub files: BTreeMap<String, ComponentBytes>,
    /// Who deploys it.
    pub by: &'static str,
}

/// Everything that a host is told at start.
#[derive(Debug)]
pub struct Config {
    /// What to deploy at the start.
    pub deployments: Vec<Deployment>,
    /// Limits of the components that were named without a manifest.
    pub limits: Limits,
    /// The data folder.
    pub data: PathBuf,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where HTTP over TLS is served.
    pub https: Option<SocketAddr>,
    /// The certificates for it.
    pub tls: Vec<CertificateFiles>,
    /// Where `/metrics`, `/live` and `/ready` are served.
    pub monitor: SocketAddr,
    /// Where the admin API is served besides the socket in the data folder.
    pub admin: Option<SocketAddr>,
    /// Networks whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Bounds on clients.
    pub ingress: IngressLimits,
    /// The engine's profile.
    pub profile: Profile,
    /// Instances that may be live at once, if fewer than the kernel grants are wanted.
    pub instances: Option<u32>,
    /// A component that was not called for so long is let go until its next call.
    pub unload_after: Duration,
    /// Components that may be loaded at once, if fewer than the kernel leaves room for are wanted.
    pub components_loaded: Option<usize>,
    /// The most that is kept of components that nothing deploys, in bytes.
    pub artifact_bytes: u64,
    /// The file of root keys, if it is not the one in the data folder.
    pub root_key: Option<PathBuf>,
    /// The folder of files that `file:` names as secrets.
    pub secret_files: Option<PathBuf>,
    /// How long running requests may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// The lattice to join, if the host is not to be alone.
    pub lattice: Option<LatticeSettings>,
    /// The folder of programs that manifests may have this host start; none without.
    pub commands: Option<PathBuf>,
    /// The host's name there, if it is not to be the one that its data folder has.
    pub name: Option<HostName>,
}

/// All that is wrong with a configuration, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault(s):\n{}", .0.len(), .0.iter().map(|fault| format!("  - {fault}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Checks what no single flag shows.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, text: String| {
            if wrong {
                faults.push(text);
            }
        };
        fault(
            self.https.is_some() && self.tls.is_empty(),
            "--https needs a certificate: add --tls CERT:KEY".to_owned(),
        );
        fault(
            self.https.is_none() && !self.tls.is_empty(),
            "--tls does nothing without --https ADDR".to_owned(),
        );
        fault(
            self.limits.concurrency == 0,
            "--concurrency must be at least 1".to_owned(),
        );
        fault(
            self.limits.timeout.is_zero(),
            "--timeout must be more than 0".to_owned(),
        );
        fault(
            self.limits.cpu_time.is_zero(),
            "--cpu-time must be more than 0".to_owned(),
        );
        fault(
            self.ingress.connections == 0,
            "--connections must be at least 1".to_owned(),
        );
        fault(
            self.ingress.head_timeout.is_zero(),
            "--head-timeout must be more than 0".to_owned(),
        );
        let folder = self.commands.as_ref().filter(|folder| !folder.is_dir());
        let shown = folder.map(|folder| folder.display().to_string());
        fault(
            shown.is_some(),
            format!(
                "--allow-commands {}: name the folder of the programs that may be started",
                shown.unwrap_or_default()
            ),
        );
        fault(
            self.instances == Some(0),
            "--instances must be at least 1".to_owned(),
        );
        fault(
            self.components_loaded == Some(0),
            "--loaded-components must be at least 1".to_owned(),
        );
        if faults.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(faults))
        }
    }
}
