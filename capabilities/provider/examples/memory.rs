//! An outside provider: key-value in memory.
//!
//! `cargo run -p weft-provider --example memory -- NATS_URL LATTICE NAMESPACE/APP/NAME [CREDENTIALS_FILE]`
//!
//! Without arguments it takes them from the environment, as a host tells a process that it starts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use weft_capabilities::MemoryKeyValue;
use weft_provider::{Auth, Backend, Settings};

/// How long calls and transactions may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str, variable| {
        let told = args.next().or_else(|| std::env::var(variable).ok());
        told.with_context(|| format!("{what} is missing, and so is {variable}"))
    };
    let (urls, lattice, name) = (
        next("the URL of NATS", "WEFT_NATS")?,
        next("the lattice", "WEFT_LATTICE")?,
        next("NAMESPACE/APP/NAME", "WEFT_PROVIDER")?,
    );
    let servers = urls.split(',').map(str::to_owned).collect();
    let mut settings = Settings::new(servers, &lattice, &name);
    if let Ok(credentials) = next("a credentials file", "WEFT_NATS_CREDS") {
        settings.auth = Auth::Credentials(credentials.into());
    }
    let store = Backend::KeyValue(Arc::new(MemoryKeyValue::default()));
    let running = weft_provider::serve(&settings, store).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        told = tokio::signal::ctrl_c() => told?,
        _ = terminate.recv() => {}
    }
    running.stop(STOP_LIMIT).await;
    Ok(())
}
