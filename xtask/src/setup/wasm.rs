//! Rust's standard library for wasm32-wasip2, and the environment that cargo needs to build with it.
//!
//! Looked for in this order: in the toolchain; in the cache; then got from rustup; then from Debian's packages.
//! Of Debian it has to be the compiler too, as a standard library fits only the compiler that made it. The linker
//! and cargo stay the toolchain's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};

use crate::cache::{self, Cache};
use crate::sh;

use super::debian::{self, Packages};

const TARGET: &str = "wasm32-wasip2";
const ENTRY: &str = "rust-wasm32-wasip2";
const QUESTION_LIMIT: Duration = Duration::from_secs(30);
/// rustup retries for minutes where its server can't be reached.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);
const REMEDY: &str = "Rust's wasm32-wasip2 target is missing. Install it by `rustup target add wasm32-wasip2`, or, \
                      with Debian's own Rust, by `apt-get install libstd-rust-dev-wasm32` (Debian 14 or later)";

pub(crate) struct WasmTools {
    /// Changes when what is built must be built again.
    pub(crate) version: String,
    environment: Vec<(&'static str, OsString)>,
}

impl WasmTools {
    /// Cargo that builds for the target, and that what is set for the host's build does not reach.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        crate::actors::clear_cargo_env(&mut cargo);
        cargo.envs(self.environment.iter().map(|(name, value)| (name, value)));
        cargo
    }
}

/// The tools, if they are there already.
pub(crate) fn find(cache: &Cache) -> anyhow::Result<Option<WasmTools>> {
    let sysroot = sysroot()?;
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        let version = rustc_version(Command::new("rustc"))?;
        return Ok(Some(WasmTools {
            version,
            environment: Vec::new(),
        }));
    }
    let folder = cache.path(ENTRY);
    if folder.is_dir() {
        return Ok(Some(debian_tools(&folder, &sysroot)?));
    }
    Ok(None)
}

pub(crate) fn ensure(cache: &Cache) -> anyhow::Result<WasmTools> {
    if let Some(tools) = find(cache)? {
        return Ok(tools);
    }
    if let Err(error) = add_by_rustup() {
        eprintln!("  not available: {error:#}");
        add_from_debian(cache)
            .map_err(|error| anyhow!("{REMEDY}.\nDebian's packages did not help: {error:#}"))?;
    }
    find(cache)?.context("the target is missing though it was just installed")
}

fn sysroot() -> anyhow::Result<PathBuf> {
    let mut rustc = clean_rustc(Command::new("rustc"));
    Ok(sh::read(QUESTION_LIMIT, rustc.args(["--print", "sysroot"]))?
        .trim()
        .into())
}

/// `cargo run` passes its own settings on, which must not lead to another toolchain than the guests' build has.
fn clean_rustc(mut rustc: Command) -> Command {
    crate::actors::clear_cargo_env(&mut rustc);
    rustc
}

fn rustc_version(rustc: Command) -> anyhow::Result<String> {
    Ok(sh::read(QUESTION_LIMIT, clean_rustc(rustc).arg("-vV"))?
        .trim()
        .to_owned())
}

fn add_by_rustup() -> anyhow::Result<()> {
    ensure!(sh::which("rustup").is_some(), "rustup is not there");
    let mut rustup = Command::new("rustup");
    crate::actors::clear_cargo_env(&mut rustup);
    let what = format!("Adding Rust's {TARGET} target by rustup");
    sh::attempt(&what, RUSTUP_LIMIT, rustup.args(["target", "add", TARGET]))
}

fn add_from_debian(cache: &Cache) -> anyhow::Result<()> {
    // Without a linker 200 MB would be fetched for nothing.
    linker_folders(&sysroot()?)?;
    let packages = Packages {
        with_dependencies: &["libstd-rust-dev", "libstd-rust-dev-wasm32"],
        // Of what it depends on, only the C compiler is new, and the machine's own does.
        alone: &["rustc"],
    };
    cache.entry(ENTRY, |folder| {
        let what = format!("Rust with {TARGET}");
        debian::unpack(&what, &packages, &cache.path("apt"), &folder.join("root"))?;
        remove_other_targets(&folder.join("root/usr/lib/rustlib"))?;
        debian::write_starter(&folder.join("rustc"), "root", "usr/bin/rustc")?;
        let version = rustc_version(Command::new(folder.join("rustc")))?;
        std::fs::write(folder.join("version"), version).context("failed to note the version")
    })?;
    Ok(())
}

/// The package has the libraries of all Wasm targets, each of 100 MB.
fn remove_other_targets(rustlib: &Path) -> anyhow::Result<()> {
    for entry in
        std::fs::read_dir(rustlib).with_context(|| format!("failed to list {}", rustlib.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("wasm32-") && name != TARGET {
            cache::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn debian_tools(folder: &Path, sysroot: &Path) -> anyhow::Result<WasmTools> {
    let version = std::fs::read_to_string(folder.join("version")).with_context(|| {
        format!(
            "failed to read the version; remove {} and try again",
            folder.display()
        )
    })?;
    let [bin, gcc_ld] = linker_folders(sysroot)?;
    let linker = bin.join("wasm-component-ld");
    let old = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin, gcc_ld].into_iter().chain(std::env::split_paths(&old)))
        .context("a folder of the toolchain has a colon in its name")?;
    let environment = vec![
        ("RUSTC", folder.join("rustc").into_os_string()),
        ("CARGO_TARGET_WASM32_WASIP2_LINKER", linker.into_os_string()),
        ("PATH", path),
    ];
    Ok(WasmTools { version, environment })
}

/// Where rustup's toolchain keeps `wasm-component-ld`, and the `wasm-ld` that it calls.
fn linker_folders(sysroot: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let host = rustc_version(Command::new("rustc"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let bin = sysroot
        .join("lib/rustlib")
        .join(host.context("rustc names no host")?)
        .join("bin");
    ensure!(
        bin.join("wasm-component-ld").is_file(),
        "the Rust toolchain has no wasm-component-ld; use one that rustup installed"
    );
    let gcc_ld = bin.join("gcc-ld");
    Ok([bin, gcc_ld])
}
