//! An outside provider: key-value in memory.
//!
//! `cargo run -p weft-provider --example memory -- NATS_URL LATTICE NAMESPACE/APP/NAME [CREDENTIALS_FILE]`

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
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing"));
    let (url, lattice, name) = (
        next("the URL of NATS")?,
        next("the lattice")?,
        next("NAMESPACE/APP/NAME")?,
    );
    let mut settings = Settings::new(vec![url], &lattice, &name);
    if let Some(credentials) = args.next() {
        settings.auth = Auth::Credentials(credentials.into());
    }
    let store = Backend::KeyValue(Arc::new(MemoryKeyValue::default()));
    let running = weft_provider::serve(&settings, store).await?;
    tokio::signal::ctrl_c().await?;
    running.stop(STOP_LIMIT).await;
    Ok(())
}
