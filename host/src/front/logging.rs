//! `wasi:logging`, which guests import under two names (phase 1, one function, unchanged since October 2024).

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker};

use crate::store::{InstanceState, LogLine};

/// The interface without a version.
pub const INTERFACE: &str = "wasi:logging/logging";
/// The versions that are served; the empty one is the name without `@`.
pub const VERSIONS: &[&str] = &["", "0.1.0-draft"];

#[expect(dead_code, reason = "made by lifting, which the compiler does not see")]
#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl Level {
    /// OpenTelemetry has no level above error for what a program survives.
    fn to_tracing(self) -> tracing::Level {
        match self {
            Self::Trace => tracing::Level::TRACE,
            Self::Debug => tracing::Level::DEBUG,
            Self::Info => tracing::Level::INFO,
            Self::Warn => tracing::Level::WARN,
            Self::Error | Self::Critical => tracing::Level::ERROR,
        }
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let name = if version.is_empty() {
            INTERFACE.to_owned()
        } else {
            format!("{INTERFACE}@{version}")
        };
        linker.instance(&name)?.func_wrap("log", log)?;
    }
    Ok(())
}

fn log(
    store: StoreContextMut<'_, InstanceState>,
    (level, context, message): (Level, String, String),
) -> wasmtime::Result<()> {
    store.data().call().log(LogLine {
        level: level.to_tracing(),
        source: "wasi:logging",
        context: Some(&context),
        message: message.as_bytes(),
    });
    Ok(())
}
