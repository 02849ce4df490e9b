//! The Python of the example of an outside provider, with nats-py and cbor2. Which ones,
//! `capabilities/provider/examples/requirements.txt` says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::actors::stamp::Stamp;
use crate::cache::{self, Cache};
use crate::project::Project;
use crate::sh;

const INSTALL_LIMIT: Duration = Duration::from_secs(10 * 60);
const START_LIMIT: Duration = Duration::from_secs(60);
const REMEDY: &str =
    "Install Python 3.10 or later with its venv module (Debian: apt-get install python3 python3-venv)";

/// The environment's Python.
pub(crate) fn ensure(project: &Project, cache: &Cache) -> anyhow::Result<PathBuf> {
    let requirements = project
        .root()
        .join("capabilities/provider/examples/requirements.txt");
    let mut stamp = Stamp::new();
    stamp.file(&requirements)?;
    let name = format!("provider-python-{stamp}");
    let python = cache.path(&name).join("bin/python");
    // The machine's Python may have been replaced since.
    if !works(&python) {
        cache::remove(&cache.path(&name))?;
        cache.entry(&name, |folder| install(folder, &requirements))?;
    }
    Ok(python)
}

fn works(python: &Path) -> bool {
    python.exists()
        && sh::read(
            START_LIMIT,
            Command::new(python).args(["-c", "import cbor2, nats"]),
        )
        .is_ok()
}

fn install(folder: &Path, requirements: &Path) -> anyhow::Result<()> {
    ensure!(sh::which("python3").is_some(), "python3 is not there. {REMEDY}");
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(folder);
    sh::run("Making a Python environment", INSTALL_LIMIT, &mut venv).context(REMEDY)?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ])
    .arg(requirements);
    sh::run("Installing nats-py and cbor2 from PyPI", INSTALL_LIMIT, &mut pip)
}
