//! What leaves the process, seen from outside: log lines, OTLP, and the errors of a bad environment.

mod environment;
mod export;
mod lines;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Dispatch;
use weft_observability::{InitError, LogFormat, Telemetry, TelemetryConfig};

/// Telemetry of a host that was started with these environment variables, and no others.
fn start(
    variables: &[(&str, &str)],
    log_format: LogFormat,
) -> Result<(Telemetry, Dispatch, Lines), InitError> {
    let lines = Lines::default();
    let config = TelemetryConfig {
        service_version: "1.2.3",
        host_id: "host-1".to_owned(),
        lattice: "test".to_owned(),
        log_format,
        extra_layer: None,
    };
    let lookup = |name: &str| {
        variables
            .iter()
            .find(|(variable, _)| *variable == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let writer = lines.clone();
    let (telemetry, dispatch) = Telemetry::build_with(config, &lookup, move || writer.clone())?;
    Ok((telemetry, dispatch, lines))
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
