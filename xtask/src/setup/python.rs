//! componentize-py, which makes components of Python. Which one, `actors/hello-python/requirements.txt` says.

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
const REMEDY: &str = "Install Python 3.10 or later with its venv module (Debian: apt-get install python3 \
                      python3-venv), or leave out the guests in Python by naming those that you want";

pub(crate) struct PythonTools {
    python: PathBuf,
}

impl PythonTools {
    pub(crate) fn componentize_py(&self) -> Command {
        let mut command = Command::new(&self.python);
        // The script that pip made names the folder that it was made in, and that was renamed since.
        command.args(["-c", "from componentize_py import script; script()"]);
        command
    }
}

/// The name of the installation that the requirements ask for.
pub(crate) fn version(project: &Project) -> anyhow::Result<String> {
    let mut stamp = Stamp::new();
    stamp.file(&requirements(project))?;
    Ok(format!("python-{stamp}"))
}

pub(crate) fn ensure(project: &Project, cache: &Cache) -> anyhow::Result<PythonTools> {
    let name = version(project)?;
    // The machine's Python may have been replaced since: then the environment that was made of it is useless.
    let tools = PythonTools {
        python: cache.path(&name).join("bin/python"),
    };
    if !works(&tools) {
        cache::remove(&cache.path(&name))?;
        cache.entry(&name, |folder| install(folder, &requirements(project)))?;
    }
    Ok(tools)
}

fn requirements(project: &Project) -> PathBuf {
    project.actors().join("hello-python/requirements.txt")
}

fn works(tools: &PythonTools) -> bool {
    tools.python.exists() && sh::read(START_LIMIT, tools.componentize_py().arg("--version")).is_ok()
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
    sh::run("Installing componentize-py from PyPI", INSTALL_LIMIT, &mut pip)
}
