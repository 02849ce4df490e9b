//! What the benchmarks need: wasmtime's own command, which they compare with, and wrk, which makes the load.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::{self, Cache};
use crate::sh;

use super::debian::{self, Packages};

/// The version that weft embeds, so that the comparison is of hosts and not of engines.
const WASMTIME: &str = "48.0.8";
/// A slow machine compiles it in half an hour.
const COMPILE_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Wasmtime's own command.
pub(crate) fn wasmtime(cache: &Cache) -> anyhow::Result<PathBuf> {
    let root = cache.path(format!("tools/wasmtime-{WASMTIME}"));
    let program = root.join("bin/wasmtime");
    // Cargo moves the program there when it is complete, so this needs no entry of the cache.
    if program.exists() {
        return Ok(program);
    }
    // A build that was interrupted goes on from here.
    let build = cache.path("tools/wasmtime-build");
    let mut cargo = Command::new("cargo");
    crate::actors::clear_cargo_env(&mut cargo);
    cargo
        .args([
            "install",
            "wasmtime-cli",
            "--version",
            WASMTIME,
            "--locked",
            "--root",
        ])
        .arg(&root);
    // The project's own configuration of cargo is not for this.
    cargo.env("CARGO_TARGET_DIR", &build).current_dir(cache.path(""));
    sh::run(
        &format!("Compiling wasmtime {WASMTIME}, once"),
        COMPILE_LIMIT,
        &mut cargo,
    )?;
    cache::remove(&build)?;
    Ok(program)
}

pub(crate) fn wrk(cache: &Cache) -> anyhow::Result<PathBuf> {
    if let Some(program) = sh::which("wrk") {
        return Ok(program);
    }
    let packages = Packages {
        with_dependencies: &["wrk"],
        alone: &[],
    };
    let folder = cache.entry("wrk", |folder| {
        debian::unpack("wrk", &packages, &cache.path("apt"), &folder.join("root"))?;
        debian::write_starter(&folder.join("wrk"), "root", "usr/bin/wrk")
    });
    let folder = folder.context("wrk is missing. Install it (Debian: apt-get install wrk)")?;
    Ok(folder.join("wrk"))
}
