//! Builds weft and the actor `hello`, and becomes the host that serves it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::anyhow;

use crate::actors;
use crate::project::Project;
use crate::sh;

/// The first build takes minutes; this is what even a slow machine stays below.
const BUILD_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Returns only if the build failed.
pub(crate) fn run(project: &Project, args: &[String]) -> anyhow::Result<ExitCode> {
    actors::run(project, &["hello".to_owned()])?;
    let mut cargo = project.cargo();
    let built = sh::foreground(
        BUILD_LIMIT,
        cargo.args(["build", "--release", "--package", "weft-host"]),
    )?;
    if !built.success() {
        return Ok(sh::exit_code(built));
    }
    let weft = project.target_dir()?.join("release/weft");
    let mut up = Command::new(&weft);
    up.arg("up").arg(project.guests().join("hello.wasm")).args(args);
    // This process becomes the host, so that a signal reaches it.
    let error = up.exec();
    Err(anyhow!(error).context(format!("failed to start {}", weft.display())))
}
