//! Starting telemetry, and flushing it before the process ends.
//!
//! Owns the process's log subscriber, the providers of traces and metrics, and the reading of the standard
//! `OTEL_` variables. Must not know what is recorded. Errors name the variable that is wrong.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use thiserror::Error;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tracing::{Dispatch, Level};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, filter::Targets};

use crate::attributes::{SERVICE_INSTANCE_ID, SERVICE_NAMESPACE, SERVICE_VERSION};
use crate::logs;
use crate::metrics::HostMetrics;
use crate::metrics::push::{Push, PushConfig, Sender};
use crate::metrics::snapshot::prometheus_text;
use crate::sampling::{Sampler, SamplerError};

/// How long [`Telemetry::shutdown`] waits for the receiver to take what is left.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// The name of the scope of our spans and metrics.
const SCOPE: &str = "weft";
/// Spans of our crates are exported; the libraries below have spans of their own that nobody asked for.
const SPAN_TARGET_PREFIX: &str = "weft";
/// How long a connection to the receiver may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The content type of what [`Scraper::render`] returns.
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The form of the log lines on stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    /// An object a line: `timestamp`, `level`, `target`, `fields`, and `trace_id` inside a recorded span.
    Json,
}

/// What the host knows about itself at start.
pub struct TelemetryConfig {
    /// The resource attribute `service.version`.
    pub service_version: &'static str,
    /// The resource attribute `service.instance.id`.
    pub host_id: String,
    /// The resource attribute `service.namespace`.
    pub lattice: String,
    pub log_format: LogFormat,
    /// Sees each event that is logged, under the same filter.
    pub extra_layer: Option<Box<dyn Layer<Registry> + Send + Sync>>,
}

/// Why telemetry could not be started.
#[derive(Debug, Error)]
pub enum InitError {
    #[error("failed to read the log filter in {variable} ({value:?})")]
    Filter {
        variable: &'static str,
        value: String,
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("{variable} is {value:?}, expected {expected}")]
    Variable {
        variable: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error(
        "{variable} is {value:?}, expected the address of a gRPC receiver, such as http://localhost:4317"
    )]
    Endpoint {
        variable: &'static str,
        value: String,
        source: tonic::transport::Error,
    },
    #[error("failed to make the exporter of traces")]
    Exporter(#[source] ExporterBuildError),
    #[error("telemetry is exported from a tokio runtime, and was started outside of one")]
    NoRuntime,
    #[error("a log subscriber is already installed in this process")]
    AlreadyInstalled,
}

impl From<SamplerError> for InitError {
    fn from(error: SamplerError) -> Self {
        Self::Variable {
            variable: error.variable,
            value: error.value,
            expected: error.expected,
        }
    }
}

/// The running telemetry of a process.
pub struct Telemetry {
    tracer_provider: Option<SdkTracerProvider>,
    push: Option<Push>,
    sampler: Sampler,
    scraper: Scraper,
}

impl Telemetry {
    /// Starts telemetry and makes it the process's own: logs go to stderr, filtered by `WEFT_LOG`; traces and
    /// metrics are exported where the standard `OTEL_` variables say. To be called once, inside a tokio
    /// runtime that outlives [`Self::shutdown`], before the first log line.
    pub fn init(config: TelemetryConfig) -> Result<Self, InitError> {
        let (telemetry, dispatch) = Self::build(config)?;
        tracing::dispatcher::set_global_default(dispatch).map_err(|_| InitError::AlreadyInstalled)?;
        Ok(telemetry)
    }

    /// The same without touching the process: the caller installs the returned subscriber where it wants it.
    /// For tests with several hosts in one process.
    pub fn build(config: TelemetryConfig) -> Result<(Self, Dispatch), InitError> {
        Self::build_with(config, &|name| std::env::var(name).ok(), std::io::stderr)
    }

    /// The same with other environment variables and log lines that go elsewhere. What concerns only the
    /// sending of spans (headers, compression, time limits, queue lengths) is read from the process's own
    /// variables all the same.
    pub fn build_with<W>(
        config: TelemetryConfig,
        lookup: &dyn Fn(&str) -> Option<String>,
        log_writer: W,
    ) -> Result<(Self, Dispatch), InitError>
    where
        W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
    {
        let environment = Environment::read(lookup)?;
        let exports = environment.traces.is_some() || environment.metrics.is_some();
        if exports && tokio::runtime::Handle::try_current().is_err() {
            return Err(InitError::NoRuntime);
        }
        let resource = resource(&config, lookup);
        let attributes: Arc<[_]> = resource
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();

        let tracer_provider = match environment.traces {
            None => None,
            Some(endpoint) => Some(
                SdkTracerProvider::builder()
                    .with_resource(resource)
                    // Whether to trace was decided before the span was made.
                    .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOn)
                    .with_batch_exporter(
                        SpanExporter::builder()
                            .with_tonic()
                            .with_channel(endpoint.connect_lazy())
                            .build()
                            .map_err(InitError::Exporter)?,
                    )
                    .build(),
            ),
        };

        let metrics = HostMetrics::default();
        let push = environment.metrics.map(|(endpoint, push)| {
            let sender = Sender {
                resource: Arc::clone(&attributes),
                scope: SCOPE,
                version: config.service_version,
            };
            Push::start(push, endpoint.connect_lazy(), metrics.clone(), sender)
        });

        let mut lines = vec![logs::layer(config.log_format, log_writer)];
        lines.extend(config.extra_layer);
        let spans = tracer_provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer(SCOPE))
                // What these add costs a third of a span and nobody asks for it.
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false)
                .with_filter(Targets::new().with_target(SPAN_TARGET_PREFIX, Level::INFO))
        });
        let subscriber = Registry::default()
            .with(lines.with_filter(environment.filter))
            .with(spans);

        let telemetry = Self {
            sampler: if tracer_provider.is_some() {
                environment.sampler
            } else {
                Sampler::OFF
            },
            scraper: Scraper {
                metrics,
                resource: attributes,
            },
            push,
            tracer_provider,
        };
        Ok((telemetry, Dispatch::new(subscriber)))
    }

    /// Decides which requests are traced. Never says yes when no traces are exported.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// The instruments of the host.
    pub fn metrics(&self) -> &HostMetrics {
        &self.scraper.metrics
    }

    /// What renders `/metrics`, to be given to whoever serves it.
    pub fn scraper(&self) -> Scraper {
        self.scraper.clone()
    }

    /// All metrics in the Prometheus text format 0.0.4. See [`Scraper::render`].
    pub fn prometheus_text(&self) -> String {
        self.scraper.render()
    }

    /// Sends what is left and ends the exporters. Waits at most 5 s; what is not sent then is lost, and a log
    /// line says so. Blocks no thread of the runtime. Log lines go on being written.
    pub async fn shutdown(self) {
        let traces = async {
            let Some(provider) = self.tracer_provider else {
                return;
            };
            // The SDK waits on this thread for its own.
            let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_MAX));
            match flush.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "failed to send the last spans"),
                Err(error) => tracing::warn!(%error, "failed to send the last spans"),
            }
        };
        let metrics = async {
            if let Some(push) = self.push {
                push.stop().await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_MAX, async { tokio::join!(traces, metrics) })
            .await
            .is_err()
        {
            tracing::warn!(waited = ?SHUTDOWN_MAX, "gave up on sending the last spans and metrics");
        }
    }
}

/// Renders the metrics for a Prometheus server. Cheap to clone.
#[derive(Clone)]
pub struct Scraper {
    metrics: HostMetrics,
    resource: Arc<[(String, String)]>,
}

impl Scraper {
    /// All metrics in the Prometheus text format 0.0.4, to be sent as [`PROMETHEUS_CONTENT_TYPE`].
    ///
    /// Costs CPU in proportion to the number of series, some 45 ms and 12 MB of text for a thousand actors:
    /// with many of them, not for a thread that serves requests.
    pub fn render(&self) -> String {
        prometheus_text(&self.metrics.snapshot(), &self.resource)
    }
}

/// What the environment variables say.
struct Environment {
    filter: tracing_subscriber::EnvFilter,
    sampler: Sampler,
    traces: Option<Endpoint>,
    metrics: Option<(Endpoint, PushConfig)>,
}

/// The variables that say where one signal goes.
struct SignalVariables {
    exporter: &'static str,
    endpoint: &'static str,
    protocol: &'static str,
    insecure: &'static str,
}

const TRACES: SignalVariables = SignalVariables {
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    insecure: "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
};

const METRICS: SignalVariables = SignalVariables {
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    insecure: "OTEL_EXPORTER_OTLP_METRICS_INSECURE",
};

impl Environment {
    fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, InitError> {
        // The specification wants an empty variable taken for an unset one.
        let set = |name: &str| {
            lookup(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let directives = set(logs::FILTER_VAR);
        let filter = logs::filter(directives.as_deref()).map_err(|source| InitError::Filter {
            variable: logs::FILTER_VAR,
            value: directives.unwrap_or_default(),
            source,
        })?;
        let metrics = match endpoint(&METRICS, &set)? {
            Some(endpoint) => Some((endpoint, PushConfig::read(&set)?)),
            None => None,
        };
        Ok(Self {
            filter,
            sampler: Sampler::from_env(lookup)?,
            traces: endpoint(&TRACES, &set)?,
            metrics,
        })
    }
}

/// Where a signal is sent; `None` when it is not exported.
fn endpoint(
    variables: &SignalVariables,
    set: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Endpoint>, InitError> {
    let either = |own: &'static str, common: &'static str| {
        [own, common]
            .into_iter()
            .find_map(|variable| set(variable).map(|value| (variable, value)))
    };
    match set(variables.exporter).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => {
            let (variable, value) = (variables.exporter, other.to_owned());
            return Err(InitError::Variable {
                variable,
                value,
                expected: "otlp or none",
            });
        }
    }
    if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let Some((variable, value)) = either(variables.endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT") else {
        return Ok(None);
    };
    match either(variables.protocol, "OTEL_EXPORTER_OTLP_PROTOCOL") {
        Some((variable, value)) if value != "grpc" => {
            return Err(InitError::Variable {
                variable,
                value,
                expected: "grpc",
            });
        }
        _ => {}
    }
    // Without a scheme it is the variable for that which decides, and TLS when there is none.
    let insecure = either(variables.insecure, "OTEL_EXPORTER_OTLP_INSECURE");
    let insecure = insecure.is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
    let address = match (value.contains("://"), insecure) {
        (true, _) => value.clone(),
        (false, true) => format!("http://{value}"),
        (false, false) => format!("https://{value}"),
    };
    let is_tls = address.starts_with("https://");
    let connect = || -> Result<Endpoint, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(address)?.connect_timeout(CONNECT_MAX);
        // The exporter's own default trusts no root at all.
        let tls = || ClientTlsConfig::new().with_enabled_roots();
        Ok(if is_tls {
            endpoint.tls_config(tls())?
        } else {
            endpoint
        })
    };
    connect().map(Some).map_err(|source| InitError::Endpoint {
        variable,
        value,
        source,
    })
}

/// `OTEL_SERVICE_NAME`, then `service.name` of `OTEL_RESOURCE_ATTRIBUTES`, then `weft`; what the host says of
/// itself wins over the other attributes there.
fn resource(config: &TelemetryConfig, lookup: &dyn Fn(&str) -> Option<String>) -> Resource {
    let mut resource = Resource::builder();
    let named = lookup("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || lookup("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| {
            all.split(',')
                .any(|one| one.trim_start().starts_with("service.name="))
        });
    if !named {
        resource = resource.with_service_name(SCOPE);
    }
    resource
        .with_attributes([
            KeyValue::new(SERVICE_VERSION, config.service_version),
            KeyValue::new(SERVICE_INSTANCE_ID, config.host_id.clone()),
            KeyValue::new(SERVICE_NAMESPACE, config.lattice.clone()),
        ])
        .build()
}
