//! What a host is to do.
//!
//! Owns the settings after flags and environment have been read ([`crate::cli::up`]) and the checks that need more
//! than one of them. All faults are told at once.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use weft_compose::name::{DEFAULT_NAMESPACE, label_from};
use weft_compose::{ActorName, Limits};

use crate::engine::Profile;
use crate::ingress::IngressLimits;
use crate::ingress::tls::CertificateFiles;

/// A component to be served as an actor.
#[derive(Debug, Clone)]
pub struct ActorConfig {
    /// The actor's name.
    pub name: ActorName,
    /// Where the component is.
    pub file: PathBuf,
    /// The path below which it answers.
    pub route: String,
}

/// Everything that a host is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// What to serve.
    pub actors: Vec<ActorConfig>,
    /// Limits of each of them.
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
    /// How long running requests may go on after SIGTERM.
    pub drain_timeout: Duration,
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
            self.actors.is_empty(),
            "there is nothing to serve: name a component, for example `weft up hello.wasm`".to_owned(),
        );
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
            self.instances == Some(0),
            "--instances must be at least 1".to_owned(),
        );
        let mut routes = HashSet::new();
        for actor in &self.actors {
            let text = format!(
                "two components would be served at {}: rename one of the files",
                actor.route
            );
            fault(!routes.insert(&actor.route), text);
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(faults))
        }
    }
}

/// What component files on the command line stand for: one is served at `/`, several each below their own name.
pub fn actors_from_files(files: &[PathBuf]) -> Vec<ActorConfig> {
    let one = files.len() == 1;
    files
        .iter()
        .filter_map(|file| {
            let label = label_from(&file.file_stem().unwrap_or_default().to_string_lossy());
            let name = ActorName::new(DEFAULT_NAMESPACE, &label, &label).ok()?;
            let route = if one { "/".to_owned() } else { format!("/{label}") };
            Some(ActorConfig {
                name,
                file: file.clone(),
                route,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_is_served_at_the_root_and_several_below_their_names() {
        let one = actors_from_files(&["dir/My_App.wasm".into()]);
        assert_eq!(
            (one[0].name.as_str(), one[0].route.as_str()),
            ("default/my-app/my-app", "/")
        );
        let two = actors_from_files(&["a.wasm".into(), "b.wasm".into()]);
        assert_eq!([two[0].route.as_str(), two[1].route.as_str()], ["/a", "/b"]);
    }
}
