//! What tests run against: Redis, Postgres and an OCI registry, from Debian's packages where the machine has none, a
//! server of S3's protocol, which Cargo compiles, and one of Azure's, from npm.
//!
//! `capabilities/servers` finds them again: there the places are listed in which it looks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::{self, Cache};
use crate::sh;

use super::debian::{self, Packages};
use super::js;

/// Where Debian keeps the programs of each version of Postgres.
const POSTGRES_VERSIONS: &str = "usr/lib/postgresql";
/// The server of S3's protocol. It is no dependency of the project, as it would ask other features of what wasmtime is
/// compiled with.
const S3: &str = "0.14.1";
/// The server of Azure's protocol. Its lock file has old versions of what it loads but does not use here, telemetry and
/// SQL Server: as it asks for them, they take 280 MB.
const AZURITE: &str = "3.37.0";
/// What an installation is made of, beside the packages that these name.
const AZURITE_FILES: [(&str, &str); 3] = [
    (
        "package.json",
        include_str!("../../../capabilities/servers/azurite/package.json"),
    ),
    (
        "package-lock.json",
        include_str!("../../../capabilities/servers/azurite/package-lock.json"),
    ),
    (
        ".npmrc",
        include_str!("../../../capabilities/servers/azurite/.npmrc"),
    ),
];
/// A slow machine compiles it in a quarter of an hour.
const COMPILE_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The two programs that a test needs: one makes a data folder, the other serves it.
const POSTGRES_PROGRAMS: [&str; 2] = ["initdb", "postgres"];

pub(crate) struct Servers {
    pub(crate) redis: PathBuf,
    pub(crate) postgres: PathBuf,
    pub(crate) registry: PathBuf,
    pub(crate) s3: PathBuf,
}

pub(crate) fn ensure(cache: &Cache) -> anyhow::Result<Servers> {
    Ok(Servers {
        redis: redis(cache).context("Redis is missing. Install it (Debian: apt-get install redis-server)")?,
        postgres: postgres(cache)
            .context("Postgres is missing. Install it (Debian: apt-get install postgresql)")?,
        registry: registry(cache)
            .context("docker-registry is missing. Install it (Debian: apt-get install docker-registry)")?,
        s3: s3(cache).context("s3s-fs is missing. Install it (cargo install s3s-fs --features binary)")?,
    })
}

/// The server of Azure's protocol. By itself, as it needs Node.js and benchmarks don't need it.
pub(crate) fn azure(cache: &Cache) -> anyhow::Result<PathBuf> {
    js::check_node()?;
    cache.entry(&format!("tools/azurite-{AZURITE}"), |folder| {
        for (file, text) in AZURITE_FILES {
            fs::write(folder.join(file), text).with_context(|| format!("failed to write {file}"))?;
        }
        js::install("Azurite", folder, &["--omit=optional", "--omit=peer"])
    })
}

fn s3(cache: &Cache) -> anyhow::Result<PathBuf> {
    if let Some(program) = sh::which("s3s-fs") {
        return Ok(program);
    }
    let root = cache.path(format!("tools/s3s-fs-{S3}"));
    let program = root.join("bin/s3s-fs");
    // Cargo moves the program there when it is complete, so this needs no entry of the cache.
    if program.exists() {
        return Ok(program);
    }
    // A build that was interrupted goes on from here. Not optimized, it takes a third of the time.
    let build = cache.path("tools/s3s-fs-build");
    let mut cargo = Command::new("cargo");
    crate::actors::clear_cargo_env(&mut cargo);
    cargo.args([
        "install",
        "s3s-fs",
        "--version",
        S3,
        "--features",
        "binary",
        "--locked",
        "--debug",
    ]);
    cargo.arg("--root").arg(&root);
    // The project's own configuration of cargo is not for this.
    cargo.env("CARGO_TARGET_DIR", &build).current_dir(cache.path(""));
    sh::run(&format!("Compiling s3s-fs {S3}, once"), COMPILE_LIMIT, &mut cargo)?;
    cache::remove(&build)?;
    Ok(program)
}

fn redis(cache: &Cache) -> anyhow::Result<PathBuf> {
    if let Some(program) = sh::which("redis-server") {
        return Ok(program);
    }
    let packages = Packages {
        with_dependencies: &["redis-server"],
        alone: &[],
    };
    let folder = cache.entry("redis", |folder| {
        debian::unpack("Redis", &packages, &cache.path("apt"), &folder.join("root"))?;
        for program in ["redis-server", "redis-cli"] {
            let inside = format!("usr/bin/{program}");
            debian::write_starter(&folder.join(program), "root", &inside)?;
        }
        Ok(())
    })?;
    Ok(folder.join("redis-server"))
}

fn registry(cache: &Cache) -> anyhow::Result<PathBuf> {
    if let Some(program) = sh::which("docker-registry") {
        return Ok(program);
    }
    let packages = Packages {
        with_dependencies: &["libc6"],
        // It needs no more than that; the rest is for a service of the machine.
        alone: &["docker-registry"],
    };
    let folder = cache.entry("docker-registry", |folder| {
        debian::unpack(
            "docker-registry",
            &packages,
            &cache.path("apt"),
            &folder.join("root"),
        )?;
        debian::write_starter(&folder.join("docker-registry"), "root", "usr/bin/docker-registry")
    })?;
    Ok(folder.join("docker-registry"))
}

fn postgres(cache: &Cache) -> anyhow::Result<PathBuf> {
    if let Some(program) = sh::which("initdb").or_else(|| newest_initdb(Path::new("/"))) {
        return Ok(program);
    }
    let packages = Packages {
        with_dependencies: &["postgresql"],
        alone: &[],
    };
    let folder = cache.entry("postgres", |folder| {
        let root = folder.join("root");
        debian::unpack("Postgres", &packages, &cache.path("apt"), &root)?;
        let initdb = newest_initdb(&root).context("the packages have no initdb")?;
        let bin = initdb.parent().context("a program is in a folder")?;
        let relative = bin.strip_prefix(folder).context("it was unpacked there")?;
        // They start each other by their place, so a starter takes the place of each.
        for program in POSTGRES_PROGRAMS {
            let moved = format!("{program}.program");
            fs::rename(bin.join(program), bin.join(&moved)).context("failed to rename a program")?;
            let above = "../".repeat(relative.components().count() - 1);
            let inside = relative.strip_prefix("root").context("it is below the root")?;
            let target = inside.join(&moved);
            let root = above.trim_end_matches('/');
            debian::write_starter(&bin.join(program), root, &target.display().to_string())?;
        }
        std::os::unix::fs::symlink(relative, folder.join("bin")).context("failed to link the programs")
    })?;
    Ok(folder.join("bin/initdb"))
}

/// `initdb` of the newest version that Debian's packages put below `root`.
fn newest_initdb(root: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(root.join(POSTGRES_VERSIONS)).ok()?;
    let version = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let newest = versions
        .filter_map(|entry| version(entry.ok()?))
        .filter(|version| bin(root, *version).join("initdb").is_file())
        .max()?;
    Some(bin(root, newest).join("initdb"))
}

fn bin(root: &Path, version: u32) -> PathBuf {
    root.join(POSTGRES_VERSIONS).join(version.to_string()).join("bin")
}
