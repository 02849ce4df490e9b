//! What the other crates of Weft say about themselves: logs, traces and metrics.
//!
//! Owns the start and the flush of telemetry, the W3C trace context, the sampling decision, and the name of
//! every metric and attribute. It must not know Wasm, an HTTP server or the lattice: it is told numbers and
//! words.
//!
//! Read [`init`] first, then [`metrics`] for what a host records and [`attributes`] for what it is called.
//! What an operator sees is in `observability/README.md`.

pub mod attributes;
pub mod init;
mod logs;
pub mod metrics;
pub mod propagation;
pub mod sampling;
#[cfg(feature = "test-util")]
pub mod test_collector;

pub use init::{InitError, LogFormat, Telemetry, TelemetryConfig};
pub use metrics::{ActorMetrics, HostMetrics, InvocationRecord, Outcome};
pub use propagation::{TraceContext, context_of, set_parent};
pub use sampling::Sampler;
