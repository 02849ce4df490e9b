//! `weft up`: a host in this process.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use weft_compose::{AllowPattern, Limits};
use weft_observability::{LogFormat, Telemetry, TelemetryConfig};

use super::app_files;
use super::args::{allow, bytes, duration};
use super::serving::Serving;
use super::{Exit, Failure, Output, print};
use crate::admin::HostStatus;
use crate::config::{Config, Deployment};
use crate::data::DataDir;
use crate::host::Host;
use crate::logs::LogBuffer;
use crate::memory;
use crate::panics;
use crate::shutdown::Signals;
use crate::system::raise_open_files;

/// Threads for what blocks: reading files, flushing telemetry.
const BLOCKING_THREADS_MAX: usize = 32;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft up hello.wasm\n  weft up app.yaml\n  weft up hello.wasm --print-manifest > app.yaml\n  weft up hello.wasm --http 0.0.0.0:80 --https 0.0.0.0:443 --tls cert.pem:key.pem\n  weft up a.wasm b.wasm --http 127.0.0.1:0 --output json\n\nWith one component it is served at /, with several each below /NAME; the limits here are theirs, manifests have their\nown. A component's key-value and SQL are kept in the data folder. Once it serves, one line on stdout says where.\nSIGTERM or Ctrl-C drains and exits 0; a second one quits at once.\nEnvironment: WEFT_LOG filters the log; OTEL_EXPORTER_OTLP_ENDPOINT and the other standard variables export\ntraces and metrics."
)]
pub(super) struct Up {
    /// Manifests of apps (.yaml) and components (WASI 0.2) to serve; without any, what is deployed already.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where components that are named here may send HTTP requests, for example api.example.com or
    /// http://127.0.0.1:9000; may be repeated. Manifests say so themselves.
    #[arg(long, value_name = "HOST", value_parser = allow)]
    allow_http: Vec<AllowPattern>,
    /// Print the manifests that the components stand for, and end.
    #[arg(long)]
    print_manifest: bool,
    /// Invocations of one actor that run at once.
    #[arg(long, value_name = "N", default_value_t = Limits::default().concurrency)]
    concurrency: u32,
    /// Invocations of one actor that may wait; the next is answered 503.
    #[arg(long, value_name = "N", default_value_t = Limits::default().queue_len)]
    queue: u32,
    /// How long an invocation may wait.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    queue_wait: Duration,
    /// From a request's arrival to its response's head.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// How long a response may stream after its head.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    stream_timeout: Duration,
    /// Processor time of one invocation.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    cpu_time: Duration,
    /// Memory of one invocation.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    memory: u64,
    /// Invocations that one instance may serve, one after the other; the next sees what it keeps in memory.
    #[arg(long, value_name = "N", default_value_t = Limits::default().reuse, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    reuse: u32,
    /// How long an instance without work is kept for the next invocation.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    reuse_idle: Duration,
    /// The longest body of a request.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = bytes)]
    max_body: u64,
    #[command(flatten)]
    serving: Serving,
}

impl Up {
    fn component_limits(&self) -> Limits {
        Limits {
            concurrency: self.concurrency,
            queue_len: self.queue,
            queue_wait: self.queue_wait,
            timeout: self.timeout,
            stream_timeout: self.stream_timeout,
            cpu_time: self.cpu_time,
            memory_bytes: self.memory,
            request_body_bytes: self.max_body,
            reuse: self.reuse,
            reuse_idle: self.reuse_idle,
            ..Limits::default()
        }
    }
}

pub(super) fn run(up: Up, output: Output) -> Result<(), Failure> {
    let limits = up.component_limits();
    let deployments = app_files::read(&up.files, &limits, &up.allow_http)?;
    if up.print_manifest {
        return print_manifests(&deployments);
    }
    let log_format = up.serving.log_format(output);
    let config = up.serving.into_config(deployments, limits, None, None);
    run_host(config, output, log_format)
}

/// Runs a host until it is told to stop.
pub(super) fn run_host(config: Config, output: Output, log_format: LogFormat) -> Result<(), Failure> {
    config
        .check()
        .map_err(|error| Failure::new(Exit::Usage, &error))?;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("weft")
        // The first call into a guest on a thread would else pay for it.
        .on_thread_start(wasmtime::Engine::tls_eager_initialize)
        .on_thread_park(memory::on_thread_park)
        .build()
        .map_err(|error| Failure::new(Exit::Environment, &error))?;
    runtime.block_on(serve(config, output, log_format))
}

async fn serve(config: Config, output: Output, log_format: LogFormat) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::new(Exit::Failed, &error))?;
    let data = DataDir::open_as(&config.data, config.name.as_ref())?;
    let lattice = config.lattice.as_ref();
    let lattice = lattice.map_or_else(|| "default".to_owned(), |settings| settings.lattice.clone());
    let logs = LogBuffer::default();
    let telemetry = Telemetry::init(TelemetryConfig {
        service_version: env!("CARGO_PKG_VERSION"),
        host_id: data.host_id().to_owned(),
        lattice,
        log_format,
        extra_layer: Some(Box::new(logs.layer())),
    })
    .map_err(|error| Failure::new(Exit::Usage, &error))?;
    panics::watch(telemetry.metrics().clone());

    let host = tokio::select! {
        host = Host::start(config, data, &telemetry, logs) => host?,
        signal = signals.next() => {
            telemetry.shutdown().await;
            return Err(Failure::text(Exit::Failed, format!("stopped by {signal} before it served")));
        }
    };
    print(&ready_line(host.status(), output))?;

    let signal = tokio::select! {
        signal = signals.next() => Some(signal),
        () = panics::fatal() => None,
    };
    tracing::info!(signal, "draining");
    let finished = tokio::select! {
        finished = host.drain() => finished,
        signal = signals.next() => {
            return Err(Failure::text(Exit::Failed, format!("quit by a second signal ({signal}) while draining")));
        }
    };
    tracing::info!(finished, "stopped");
    telemetry.shutdown().await;
    match signal {
        Some(_) => Ok(()),
        None => Err(Failure::text(
            Exit::Failed,
            "stopped, as a part of the host panicked that it can't do without; the log has which and where",
        )),
    }
}

fn print_manifests(deployments: &[Deployment]) -> Result<(), Failure> {
    let texts: Vec<_> = deployments
        .iter()
        .map(|deployment| deployment.manifest.to_yaml().trim_end().to_owned())
        .collect();
    print(&texts.join("\n---\n"))
}

fn ready_line(status: &HostStatus, output: Output) -> String {
    match output {
        Output::Json => {
            let mut line = status.to_json();
            line["ready"] = json!(true);
            line["profile"] = json!(status.engine.report().profile);
            line.to_string()
        }
        Output::Text => {
            let https = status
                .https
                .map(|address| format!(" https://{address}"))
                .unwrap_or_default();
            let report = status.engine.report();
            let slots = report
                .slots
                .map_or("no pool".to_owned(), |slots| format!("{slots} instances"));
            let reset = if report.pagemap_scan {
                ""
            } else {
                ", slow resets: see `weft doctor`"
            };
            format!(
                "ready http://{}{https} monitor http://{} profile {} ({slots}{reset})",
                status.http,
                status.monitor,
                report.profile.as_str()
            )
        }
    }
}
