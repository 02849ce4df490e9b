//! How a host serves: the flags that `weft up` and `weft host` have in common.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use weft_compose::{HostName, Limits};
use weft_observability::LogFormat;

use super::Output;
use super::args::{address, bytes, duration};
use crate::config::{Config, Deployment};
use crate::engine::Profile;
use crate::ingress::IngressLimits;
use crate::ingress::tls::CertificateFiles;
use crate::mesh::LatticeSettings;

#[derive(Debug, clap::Args)]
pub(super) struct Serving {
    /// Where to serve HTTP/1.1 and HTTP/2; port 0 takes any free one.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        env = "WEFT_HTTP",
        value_parser = address
    )]
    http: SocketAddr,
    /// Where to serve HTTP over TLS.
    #[arg(long, value_name = "ADDR", env = "WEFT_HTTPS", value_parser = address)]
    https: Option<SocketAddr>,
    /// A certificate for --https, two files in PEM; repeat it for more names. New files are taken without a restart.
    #[arg(long, value_name = "CERT:KEY")]
    tls: Vec<CertificateFiles>,
    /// A network whose X-Forwarded-* headers are believed; may be repeated.
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    trusted_proxies: Vec<IpNet>,
    /// Where to serve /metrics, /live and /ready.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:0",
        env = "WEFT_MONITOR",
        value_parser = address
    )]
    monitor: SocketAddr,
    /// Also serve the admin API over TCP, with the token in the data folder's admin.token.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    admin: Option<SocketAddr>,
    /// The data folder.
    #[arg(long, value_name = "DIR", default_value = ".weft", env = "WEFT_DATA")]
    data: PathBuf,
    /// The engine's profile.
    #[arg(long, value_enum, default_value_t = Profile::Fast)]
    profile: Profile,
    /// Instances that may be live at once; by default as many as the kernel grants.
    #[arg(long, value_name = "N")]
    instances: Option<u32>,
    /// A component that was not called for so long is unloaded until its next call.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    unload_after: Duration,
    /// Components that may be loaded at once; by default 1024, or what the limit on open files leaves room for.
    #[arg(long, value_name = "N")]
    loaded_components: Option<usize>,
    /// The most that is kept of components that nothing deploys.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = bytes)]
    artifact_bytes: u64,
    /// The file of root keys, which open secrets; by default root.key in the data folder, which a host that is alone
    /// makes. All hosts of a lattice have the same.
    #[arg(long, value_name = "FILE", env = "WEFT_ROOT_KEY_FILE")]
    root_key: Option<PathBuf>,
    /// The folder whose files manifests may name as secrets, as file:NAME.
    #[arg(long, value_name = "DIR", env = "WEFT_SECRET_FILES")]
    secret_files: Option<PathBuf>,
    /// From the first byte of a request's head to the last; also how long an idle connection is kept.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    head_timeout: Duration,
    /// Open connections; the next is answered 503.
    #[arg(long, value_name = "N", default_value_t = IngressLimits::default().connections)]
    connections: u32,
    /// How long running requests may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,
    /// How log lines on stderr are written; by default as --output says.
    #[arg(long, value_enum, env = "WEFT_LOG_FORMAT")]
    log_format: Option<Output>,
}

impl Serving {
    /// How log lines are written.
    pub(super) fn log_format(&self, output: Output) -> LogFormat {
        match self.log_format.unwrap_or(output) {
            Output::Text => LogFormat::Text,
            Output::Json => LogFormat::Json,
        }
    }

    /// What a host is to do that serves so.
    pub(super) fn into_config(
        self,
        deployments: Vec<Deployment>,
        limits: Limits,
        lattice: Option<LatticeSettings>,
        name: Option<HostName>,
    ) -> Config {
        let ingress = IngressLimits {
            connections: self.connections,
            head_timeout: self.head_timeout,
            ..IngressLimits::default()
        };
        Config {
            deployments,
            limits,
            data: self.data,
            http: self.http,
            https: self.https,
            tls: self.tls,
            monitor: self.monitor,
            admin: self.admin,
            trusted_proxies: self.trusted_proxies,
            ingress,
            profile: self.profile,
            instances: self.instances,
            unload_after: self.unload_after,
            components_loaded: self.loaded_components,
            artifact_bytes: self.artifact_bytes,
            root_key: self.root_key,
            secret_files: self.secret_files,
            drain_timeout: self.drain_timeout,
            lattice,
            commands: None,
            name,
        }
    }
}
