//! Sending the metrics to an OTLP receiver, each minute.
//!
//! Owns the connection, the timer and the last send before the end. Must not know what is sent. A send that
//! fails is not repeated: the numbers are cumulative, and the next one carries them.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::Channel;

use super::HostMetrics;
use super::snapshot::otlp_requests;
use crate::init::InitError;

const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// How to send, from the standard variables.
#[derive(Debug)]
pub(crate) struct PushConfig {
    interval: Duration,
    timeout: Duration,
    headers: MetadataMap,
    gzip: bool,
}

/// The task that sends. Dropping it ends it without a last send.
pub(crate) struct Push {
    task: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// What the requests say of their sender.
pub(crate) struct Sender {
    pub(crate) resource: Arc<[(String, String)]>,
    pub(crate) scope: &'static str,
    pub(crate) version: &'static str,
}

#[derive(Debug, Error)]
enum SendError {
    #[error("failed to read the metrics")]
    Read(#[from] tokio::task::JoinError),
    #[error("the receiver did not take the metrics: {} ({})", .0.code(), .0.message())]
    Refused(#[from] tonic::Status),
    #[error("the receiver did not answer in {0:?}")]
    Timeout(Duration),
}

impl PushConfig {
    pub(crate) fn read(set: &dyn Fn(&str) -> Option<String>) -> Result<Self, InitError> {
        let either = |own: &'static str, common: &'static str| {
            [own, common]
                .into_iter()
                .find_map(|variable| set(variable).map(|value| (variable, value)))
        };
        let millis = |found: Option<(&'static str, String)>, default| match found {
            None => Ok(default),
            Some((variable, value)) => match value.parse() {
                Ok(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
                _ => Err(InitError::Variable {
                    variable,
                    value,
                    expected: "a positive number of milliseconds",
                }),
            },
        };
        let compression = either(
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
            "OTEL_EXPORTER_OTLP_COMPRESSION",
        );
        let gzip = match compression {
            None => false,
            Some((_, value)) if value == "gzip" => true,
            Some((_, value)) if value == "none" => false,
            Some((variable, value)) => {
                return Err(InitError::Variable {
                    variable,
                    value,
                    expected: "gzip or none",
                });
            }
        };
        const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        match set(TEMPORALITY) {
            Some(value) if !value.eq_ignore_ascii_case("cumulative") => {
                return Err(InitError::Variable {
                    variable: TEMPORALITY,
                    value,
                    expected: "cumulative",
                });
            }
            _ => {}
        }
        let interval = set("OTEL_METRIC_EXPORT_INTERVAL").map(|value| ("OTEL_METRIC_EXPORT_INTERVAL", value));
        let timeout = either("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
        let headers = either("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS");
        Ok(Self {
            interval: millis(interval, INTERVAL_DEFAULT)?,
            timeout: millis(timeout, TIMEOUT_DEFAULT)?,
            headers: match headers {
                None => MetadataMap::new(),
                Some((variable, value)) => parse_headers(&value).ok_or(InitError::Variable {
                    variable,
                    // Headers are where the receiver's password is.
                    value: "(not shown)".to_owned(),
                    expected: "key=value pairs with commas between, percent-encoded",
                })?,
            },
            gzip,
        })
    }
}

impl Push {
    /// Starts sending what `metrics` hold. Needs a tokio runtime.
    pub(crate) fn start(config: PushConfig, channel: Channel, metrics: HostMetrics, sender: Sender) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(run(config, channel, metrics, Arc::new(sender), stopped));
        Self { task, stop }
    }

    /// Sends once more and ends. Waits as long as the receiver's timeout; cancelling it ends without that
    /// send.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.task.join_next().await.is_some() {}
    }
}

async fn run(
    config: PushConfig,
    channel: Channel,
    metrics: HostMetrics,
    sender: Arc<Sender>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut client = MetricsServiceClient::new(channel);
    if config.gzip {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + config.interval, config.interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let last = tokio::select! {
            _ = timer.tick() => false,
            // An error means that the other end is gone, which is a stop too.
            _ = stopped.changed() => true,
        };
        let result = send(&mut client, &config, &metrics, &sender).await;
        match &result {
            // One line per outage, not per minute.
            Err(error) if !failing => tracing::warn!(%error, "failed to export metrics"),
            Ok(()) if failing => tracing::info!("metrics are exported again"),
            _ => {}
        }
        failing = result.is_err();
        if last {
            break;
        }
    }
}

async fn send(
    client: &mut MetricsServiceClient<Channel>,
    config: &PushConfig,
    metrics: &HostMetrics,
    sender: &Arc<Sender>,
) -> Result<(), SendError> {
    let (metrics, from) = (metrics.clone(), Arc::clone(sender));
    // Reading thousands of series takes milliseconds, which the requests on this thread would wait.
    let requests = tokio::task::spawn_blocking(move || {
        otlp_requests(
            metrics.snapshot(),
            &from.resource,
            (from.scope, from.version),
            SystemTime::now(),
        )
    })
    .await?;
    let all = async {
        for request in requests {
            let mut request = tonic::Request::new(request);
            *request.metadata_mut() = config.headers.clone();
            client.export(request).await?;
        }
        Ok(())
    };
    tokio::time::timeout(config.timeout, all)
        .await
        .unwrap_or(Err(SendError::Timeout(config.timeout)))
}

/// `key=value,key=value`, the values percent-encoded as in W3C Baggage.
fn parse_headers(text: &str) -> Option<MetadataMap> {
    let mut headers = MetadataMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=')?;
        let key = MetadataKey::from_str(&key.trim().to_ascii_lowercase()).ok()?;
        let value = MetadataValue::try_from(percent_decoded(value.trim())?).ok()?;
        headers.append(key, value);
    }
    Some(headers)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_headers_with_percent_encoded_values() {
        let headers = parse_headers("Authorization=Basic%20abc=, x-tenant = one ,").unwrap();
        assert_eq!(headers.get("authorization").unwrap(), "Basic abc=");
        assert_eq!(headers.get("x-tenant").unwrap(), "one");
        for bad in ["no-equals", "a=%2", "a=%zz", "a b=c", "a=%0a"] {
            assert!(parse_headers(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_bad_variable_is_an_error_that_names_it_and_never_shows_a_header() {
        for (variable, value) in [
            ("OTEL_METRIC_EXPORT_INTERVAL", "often"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
        ] {
            let error = PushConfig::read(&|name| (name == variable).then(|| value.to_owned())).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(variable), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
