//! What a change has to pass: checks that run nothing, and the tests.

use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::actors;
use crate::cache::Cache;
use crate::project::Project;
use crate::setup;
use crate::sh;

/// They compile first. What hangs, the test runner ends much sooner.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Builds the guests and runs all tests. The code is the runner's own. With `args`, which choose among the project's
/// tests, those of the guests themselves are left out.
pub(crate) fn run(project: &Project, args: &[String]) -> anyhow::Result<ExitCode> {
    // In a block of its own, as the lock on the cache must be let go: the tests may run xtask.
    {
        let cache = Cache::open()?;
        setup::guests(project, &cache)?;
        setup::nats::ensure(&cache)?;
        setup::provider::ensure(project, &cache)?;
        setup::servers(&cache)?;
        setup::azure(&cache)?;
    }
    actors::run(project, &[] as &[&str])?;
    let guests = match args {
        [] => Some(sh::foreground(LIMIT, &mut guest_tests(project))?),
        _ => None,
    };
    let mut cargo = project.cargo();
    match sh::which("cargo-nextest") {
        Some(_) => cargo.args(["nextest", "run", "--workspace"]),
        None => cargo.args(["test", "--workspace"]),
    };
    let tests = sh::foreground(LIMIT, cargo.args(args))?;
    let failed = guests.filter(|guests| tests.success() && !guests.success());
    Ok(sh::exit_code(failed.unwrap_or(tests)))
}

/// Runs the lattice's tests with `seeds` of each simulation, and their long forms. The code is the runner's own.
pub(crate) fn faults(project: &Project, seeds: u64, args: &[String]) -> anyhow::Result<ExitCode> {
    setup::nats::ensure(&Cache::open()?)?;
    lattice_tests(project, seeds, "", args)
}

/// Runs its simulations alone, which need no server.
pub(crate) fn simulations(project: &Project, seeds: u64) -> anyhow::Result<ExitCode> {
    lattice_tests(project, seeds, "simulation::", &[])
}

/// The tests whose name has `part` in it.
fn lattice_tests(project: &Project, seeds: u64, part: &str, args: &[String]) -> anyhow::Result<ExitCode> {
    let mut cargo = project.cargo();
    // The whole workspace, as then third parties have the features that they were compiled with before.
    match sh::which("cargo-nextest") {
        Some(_) => {
            cargo.args(["nextest", "run", "--workspace", "--profile", "faults"]);
            cargo.args(["-E", "package(weft-lattice)", "--success-output", "final"]);
        }
        None => {
            cargo.args(["test", "-p", "weft-lattice"]);
        }
    }
    if !part.is_empty() {
        cargo.arg(part);
    }
    cargo.args(args);
    cargo.env("WEFT_SIM_SEEDS", seeds.to_string());
    cargo.env("WEFT_FAULTS_LONG", "1");
    Ok(sh::exit_code(sh::foreground(LIMIT, &mut cargo)?))
}

/// The tests within the shop's actors, which call nothing of the host and so run on this machine as they are.
fn guest_tests(project: &Project) -> Command {
    let mut cargo = guest_cargo(project);
    cargo.env("CARGO_TARGET_DIR", project.guest_tests());
    cargo.args(["test", "--locked", "--quiet", "--lib"]);
    for name in actors::SHOP {
        cargo.args(["--package", name]);
    }
    cargo
}

/// Runs each check, also after one that failed, and fails if any did.
pub(crate) fn check(project: &Project) -> anyhow::Result<ExitCode> {
    let guests = ["--manifest-path", "actors/Cargo.toml"];
    let mut checks = vec![
        check_of(project, &["fmt", "--all", "--check"], &[]),
        check_of(project, &["fmt", "--all", "--check"], &guests),
        check_of(
            project,
            &["clippy", "--workspace", "--all-targets"],
            &["--", "-D", "warnings"],
        ),
        // For the machine and not for Wasm: clippy can't read the library of another compiler, which the guests'
        // may be (setup/wasm.rs), and their bindings compile here too.
        guest_clippy(project),
    ];
    match sh::which("cargo-deny") {
        // Not the advisories: they come from a server, and a new one would fail a commit that changed nothing.
        Some(_) => checks.push(check_of(
            project,
            &[
                "deny",
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ],
            &[],
        )),
        None => eprintln!(
            "skipped: cargo deny check, as cargo-deny is missing (cargo install --locked cargo-deny)"
        ),
    }
    let mut failed = Vec::new();
    for mut check in checks {
        let name = described(&check);
        eprintln!("{name}");
        if !sh::foreground(LIMIT, &mut check)?.success() {
            failed.push(name);
        }
    }
    // Again at the end, as a check that passed may have printed much since.
    for name in &failed {
        eprintln!("failed: {name}");
    }
    Ok(match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn check_of(project: &Project, first: &[&str], last: &[&str]) -> Command {
    let mut cargo = project.cargo();
    cargo.args(first).args(last);
    cargo
}

fn guest_clippy(project: &Project) -> Command {
    let mut cargo = guest_cargo(project);
    cargo.env("CARGO_TARGET_DIR", project.guest_build());
    cargo.args(["clippy", "--workspace", "--locked", "--", "-D", "warnings"]);
    cargo
}

/// Cargo for the guests' workspace.
fn guest_cargo(project: &Project) -> Command {
    let mut cargo = Command::new("cargo");
    actors::clear_cargo_env(&mut cargo);
    cargo.current_dir(project.actors());
    cargo
}

fn described(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    format!("cargo {}", args.join(" "))
}
