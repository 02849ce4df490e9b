//! Whatever is read from strangers, given anything.
//!
//! The pure readers are run by libFuzzer, which keeps the inputs that reach new code: `target/fuzz/corpus`, seeded with
//! files of the repository. The compiler counts what is reached on the stable toolchain too; only the sanitizers would
//! need nightly, and code without `unsafe` has little for them. The servers of a host are given damaged requests by the
//! host's own tests, for longer than a test may. `docs/fuzzing.md` says how to repeat a crash.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::project::Project;
use crate::{actors, sh};

/// From nothing, optimized.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// What a target may take longer than it was told to: its last input, and reading the corpus.
const SLACK: Duration = Duration::from_secs(5 * 60);
/// One input may take so long: a hang is a finding.
const INPUT_SECONDS_MAX: u32 = 10;
/// One input may take so much memory: so is a bomb.
const INPUT_MIB_MAX: u32 = 1_024;
/// Batches of requests that the host's tests get through in a second, about.
const BATCHES_PER_SECOND: u64 = 2;

/// What `cargo fuzz` gives the compiler, but for the sanitizer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

struct Target {
    /// The crate's folder, of which `fuzz/` is a workspace of its own.
    krate: &'static str,
    name: &'static str,
    /// Files, or folders of files, that its corpus starts with.
    seeds: &'static [&'static str],
}

const TARGETS: &[Target] = &[
    Target {
        krate: "compose",
        name: "manifest",
        seeds: &[
            "compose/tests/bad",
            "compose/tests/shop.yaml",
            "compose/apps/shop/app.yaml",
        ],
    },
    Target {
        krate: "compose",
        name: "texts",
        seeds: &["compose/fuzz/seeds/texts.lines"],
    },
    Target {
        krate: "lattice",
        name: "codec",
        // A type and a value are one input, which no file is.
        seeds: &[],
    },
    Target {
        krate: "lattice",
        name: "envelope",
        seeds: &["lattice/tests/golden"],
    },
    Target {
        krate: "lattice",
        name: "messages",
        seeds: &["lattice/tests/golden"],
    },
    Target {
        krate: "lattice",
        name: "subject",
        seeds: &[],
    },
];

/// Runs each target for its share of `budget`, and then the host's tests for as long.
///
/// # Errors
/// The first input that makes a target panic, hang or take too much, and the command that repeats it.
pub(crate) fn run(project: &Project, budget: Duration) -> anyhow::Result<()> {
    let folder = project.root().join("target/fuzz");
    let machine = machine()?;
    let programs = folder.join(&machine).join("release");
    for krate in ["compose", "lattice"] {
        build(project, krate, &folder, &machine)?;
    }
    let share = budget / (TARGETS.len() as u32 + 1);
    for target in TARGETS {
        let Target { krate, name, seeds } = target;
        let corpus = folder.join("corpus").join(name);
        fs::create_dir_all(&corpus)?;
        for seed in *seeds {
            plant(&project.root().join(seed), &corpus)?;
        }
        let crashes = folder.join("crashes");
        fs::create_dir_all(&crashes)?;
        let program = programs.join(name);
        let mut fuzzer = Command::new(&program);
        fuzzer
            .arg(&corpus)
            .arg(format!("-max_total_time={}", share.as_secs().max(1)));
        fuzzer
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-rss_limit_mb={INPUT_MIB_MAX}"));
        fuzzer.arg(format!("-artifact_prefix={}/{name}-", crashes.display()));
        let what = format!("Fuzzing {krate}: {name}, for {} s", share.as_secs());
        sh::run(
            &what,
            share + SLACK,
            fuzzer.args(["-print_final_stats=1", "-verbosity=0"]),
        )
        .with_context(|| {
            format!(
                "to repeat it: {} {}/{name}-...",
                program.display(),
                crashes.display()
            )
        })?;
        let kept = fs::read_dir(&corpus)?.count();
        eprintln!("  nothing found; {kept} inputs in {}", corpus.display());
    }
    requests(project, share)
}

/// The host's tests that send damaged requests, with as many as fit into `share`.
fn requests(project: &Project, share: Duration) -> anyhow::Result<()> {
    actors::run(project, &["callee", "caller", "echo"])?;
    let tests = ["test", "--package", "weft-host", "--test", "it"];
    let mut build = project.cargo();
    build.args(tests).arg("--no-run");
    sh::run("Building the host's tests", BUILD_LIMIT, &mut build)?;
    let batches = (share.as_secs() * BATCHES_PER_SECOND).max(1);
    let mut test = project.cargo();
    test.args(tests).args(["fuzz::", "--", "--test-threads=2"]);
    test.env("PROPTEST_CASES", batches.to_string());
    let what = format!("Sending {batches} batches of damaged requests of each kind to a host");
    // How fast they go depends on the machine.
    sh::run(&what, share * 4 + SLACK, &mut test)
}

fn build(project: &Project, krate: &str, target: &Path, machine: &str) -> anyhow::Result<()> {
    let workspace = project.root().join(krate).join("fuzz");
    let lock = workspace.join("Cargo.lock");
    if !lock.exists() {
        // What is fuzzed is what is shipped.
        fs::copy(project.root().join("Cargo.lock"), &lock)?;
    }
    let mut cargo = project.cargo();
    cargo
        .current_dir(&workspace)
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTFLAGS", FLAGS);
    // With a target named, what runs at build time is built without the flags.
    cargo.args(["build", "--release", "--bins", "--target", machine]);
    sh::run(
        &format!("Building the fuzz targets of {krate}"),
        BUILD_LIMIT,
        &mut cargo,
    )
}

fn machine() -> anyhow::Result<String> {
    let about = sh::read(SLACK, Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc tells no host")?.to_owned())
}

/// Puts a file, or those of a folder, into the corpus: `.hex` as the bytes that it spells, `.lines` as a file a line.
fn plant(seed: &Path, corpus: &Path) -> anyhow::Result<()> {
    if seed.is_dir() {
        let files: Vec<PathBuf> = fs::read_dir(seed)?
            .map(|file| Ok(file?.path()))
            .collect::<anyhow::Result<_>>()?;
        return files.iter().try_for_each(|file| plant(file, corpus));
    }
    let name = seed
        .file_name()
        .context("a seed is a file")?
        .to_string_lossy()
        .into_owned();
    let bytes = fs::read(seed).with_context(|| format!("failed to read the seed {}", seed.display()))?;
    match seed.extension().and_then(|extension| extension.to_str()) {
        Some("hex") => fs::write(corpus.join(name), from_hex(&String::from_utf8(bytes)?)?)?,
        Some("lines") => {
            for (at, line) in String::from_utf8(bytes)?.lines().enumerate() {
                fs::write(corpus.join(format!("{name}-{at}")), line)?;
            }
        }
        _ => fs::write(corpus.join(name), bytes)?,
    }
    Ok(())
}

fn from_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().chars());
    let digits: String = digits.filter(|c| !c.is_whitespace()).collect();
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        bail!("`{digits}` is not a row of bytes in hex");
    }
    let byte = |at: usize| Ok(u8::from_str_radix(&digits[at..at + 2], 16)?);
    (0..digits.len()).step_by(2).map(byte).collect()
}
