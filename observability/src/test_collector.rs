//! An OTLP receiver inside a test process, for tests that assert on what was really sent.
//!
//! Owns a gRPC server on a free port of the loopback interface, and what it was sent, decoded and bounded.
//! Must not know how it was made: the tests point the standard `OTEL_` variables at
//! [`TestCollector::endpoint`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// The spans that are kept; the oldest go first.
const SPANS_MAX: usize = 10_000;

/// A receiver of traces and metrics. Ends when it is dropped.
pub struct TestCollector {
    endpoint: String,
    received: Received,
    changed: watch::Receiver<()>,
    _server: JoinSet<()>,
}

/// A span as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedSpan {
    pub name: String,
    pub kind: SpanKind,
    pub trace_id: u128,
    pub span_id: u64,
    /// `None` for the root of a trace.
    pub parent_span_id: Option<u64>,
    /// Each value as text.
    pub attributes: BTreeMap<String, String>,
    /// The status is an error.
    pub is_error: bool,
    /// The names of the span's events.
    pub events: Vec<String>,
    /// All of it as text, for who looks for what must not be in it.
    pub raw: String,
}

#[derive(Clone)]
struct Received {
    kept: Arc<Mutex<Kept>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Kept {
    spans: VecDeque<CollectedSpan>,
    /// The newest of each name: they are cumulative.
    metrics: BTreeMap<String, Metric>,
    resource: BTreeMap<String, String>,
}

impl TestCollector {
    /// Starts to listen. Needs a tokio runtime, which ends it too.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (sender, changed) = watch::channel(());
        let received = Received {
            kept: Arc::default(),
            changed: sender,
        };
        let traces = TraceServiceServer::new(received.clone()).accept_compressed(CompressionEncoding::Gzip);
        let metrics =
            MetricsServiceServer::new(received.clone()).accept_compressed(CompressionEncoding::Gzip);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let services = tonic::transport::Server::builder()
                .add_service(traces)
                .add_service(metrics);
            if let Err(error) = services.serve_with_incoming(TcpIncoming::from(listener)).await {
                tracing::error!(%error, "the test collector ended");
            }
        });
        Ok(Self {
            endpoint,
            received,
            changed,
            _server: server,
        })
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The spans received, oldest first.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.received.kept().spans.iter().cloned().collect()
    }

    /// The first span of that name, as soon as there is one; `None` when there is none within `timeout`.
    pub async fn wait_for_span(&self, name: &str, timeout: Duration) -> Option<CollectedSpan> {
        self.wait(timeout, |kept| {
            kept.spans.iter().find(|span| span.name == name).cloned()
        })
        .await
    }

    /// The names of all metrics received.
    pub fn metric_names(&self) -> BTreeSet<String> {
        self.received.kept().metrics.keys().cloned().collect()
    }

    /// The newest numbers of one metric, as they were sent.
    pub fn metric(&self, name: &str) -> Option<Metric> {
        self.received.kept().metrics.get(name).cloned()
    }

    /// Whether a metric of that name came within `timeout`.
    pub async fn wait_for_metric(&self, name: &str, timeout: Duration) -> bool {
        self.wait(timeout, |kept| kept.metrics.contains_key(name).then_some(()))
            .await
            .is_some()
    }

    /// The resource attributes of what came last, as text.
    pub fn resource(&self) -> BTreeMap<String, String> {
        self.received.kept().resource.clone()
    }

    async fn wait<T>(&self, timeout: Duration, look: impl Fn(&Kept) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.clone();
        let seen = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = look(&self.received.kept()) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(timeout, seen).await.ok().flatten()
    }
}

impl Received {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let mut kept = self.kept();
            kept.resource = texts(of_resource.resource.unwrap_or_default());
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if kept.spans.len() >= SPANS_MAX {
                    kept.spans.pop_front();
                }
                kept.spans.push_back(CollectedSpan::try_from(span)?);
            }
        }
        self.changed.send_replace(());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_metrics {
            let mut kept = self.kept();
            kept.resource = texts(of_resource.resource.unwrap_or_default());
            for metric in of_resource
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics)
            {
                kept.metrics.insert(metric.name.clone(), metric);
            }
        }
        self.changed.send_replace(());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl TryFrom<Span> for CollectedSpan {
    type Error = Status;

    fn try_from(span: Span) -> Result<Self, Status> {
        let id = |bytes: &[u8]| {
            <[u8; 8]>::try_from(bytes)
                .map(u64::from_be_bytes)
                .map_err(|_| Status::invalid_argument("length of an id"))
        };
        Ok(Self {
            raw: format!("{span:?}"),
            kind: span.kind(),
            trace_id: <[u8; 16]>::try_from(&*span.trace_id)
                .map(u128::from_be_bytes)
                .map_err(|_| Status::invalid_argument("length of a trace id"))?,
            span_id: id(&span.span_id)?,
            parent_span_id: if span.parent_span_id.is_empty() {
                None
            } else {
                Some(id(&span.parent_span_id)?)
            },
            is_error: span
                .status
                .is_some_and(|status| status.code() == StatusCode::Error),
            events: span.events.into_iter().map(|event| event.name).collect(),
            attributes: attribute_texts(span.attributes),
            name: span.name,
        })
    }
}

fn texts(resource: Resource) -> BTreeMap<String, String> {
    attribute_texts(resource.attributes)
}

fn attribute_texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes
        .into_iter()
        .map(|attribute| (attribute.key, text(attribute.value)))
        .collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}
