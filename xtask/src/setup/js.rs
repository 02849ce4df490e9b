//! componentize-js, which makes components of JavaScript. Which one, the lock file of `actors/hello-js` says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::actors::stamp::Stamp;
use crate::cache::Cache;
use crate::project::Project;
use crate::sh;

const INSTALL_LIMIT: Duration = Duration::from_secs(10 * 60);
const VERSION_LIMIT: Duration = Duration::from_secs(20);
const NODE_MAJOR_MIN: u32 = 20;
const NODE: &str = "Install Node.js 20 or later with npm (Debian: apt-get install nodejs npm)";
const LEAVE_OUT: &str = "or leave out the guests in JavaScript by naming those that you want";
/// What an installation is made of, beside the packages that these name.
const FILES: [&str; 4] = ["package.json", "package-lock.json", ".npmrc", "build.mjs"];

pub(crate) struct JsTools {
    /// Takes the source, the folder with the WIT, the world, and the component's file.
    pub(crate) build_script: PathBuf,
}

/// The name of the installation that the lock file asks for.
pub(crate) fn version(project: &Project) -> anyhow::Result<String> {
    let mut stamp = Stamp::new();
    for file in FILES {
        stamp.file(&project.actors().join("hello-js").join(file))?;
    }
    Ok(format!("js-{stamp}"))
}

pub(crate) fn ensure(project: &Project, cache: &Cache) -> anyhow::Result<JsTools> {
    // Also when the packages are there, as a build needs it too.
    check_node().context(LEAVE_OUT)?;
    let source = project.actors().join("hello-js");
    let folder = cache.entry(&version(project)?, |folder| {
        for file in FILES {
            fs::copy(source.join(file), folder.join(file))
                .with_context(|| format!("failed to copy {file}"))?;
        }
        install("componentize-js", folder, &[])
    })?;
    Ok(JsTools {
        build_script: folder.join("build.mjs"),
    })
}

/// Installs what the lock file in `folder` names.
pub(super) fn install(what: &str, folder: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut npm = Command::new("npm");
    // No package here needs its scripts, and some would download programs of their own.
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .args(args)
        .current_dir(folder);
    sh::run(&format!("Installing {what} from npm"), INSTALL_LIMIT, &mut npm)
}

pub(super) fn check_node() -> anyhow::Result<()> {
    for program in ["node", "npm"] {
        ensure!(sh::which(program).is_some(), "{program} is not there. {NODE}");
    }
    let version = sh::read(VERSION_LIMIT, Command::new("node").arg("--version"))?;
    match major(&version) {
        Some(major) if major >= NODE_MAJOR_MIN => Ok(()),
        _ => bail!("node is {}, which is too old. {NODE}", version.trim()),
    }
}

/// 20, of `v20.1.0`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version_of_node() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("nonsense"), None);
    }
}
