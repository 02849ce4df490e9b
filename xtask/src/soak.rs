//! What takes longer than a test may: overload for a minute, mixed load for ten, fuzzing, simulations by thousands of seeds.
//!
//! A part starts a host, puts load on it (`xtask/load`, a process of its own) and returns what it found, each figure
//! with what it has to reach. To add one: a variant of [`Part`], a module with `run`, a line in [`run`].
//! `docs/performance.md` says what each figure means.

#![expect(clippy::print_stdout, reason = "the table is this command's result")]

mod fuzz;
mod host;
mod mixed;
mod overload;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde_json::{Value, json};

use crate::project::Project;
use crate::{actors, sh, test};

/// A release build from nothing takes some twenty minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_secs(90 * 60);
/// What a load generator may take longer than it was told to.
const LOAD_SLACK: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Minutes of mixed load, and of fuzzing; the figures of docs/performance.md are of ten
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Seconds of overload
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seeds of each simulation
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Take `weft` and `weft-load` from this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Ten times the requests that an actor can serve
    Overload,
    /// All kinds of load at once, attackers among it
    Mixed,
    /// Whatever is read from strangers, given anything
    Fuzz,
    /// Simulated lattices under faults, by thousands of seeds
    Simulation,
}

/// The programs, and where things go.
struct Subjects {
    weft: PathBuf,
    load: PathBuf,
    guests: PathBuf,
    shop: PathBuf,
    scratch: PathBuf,
}

/// One figure, and whether it is as it has to be.
struct Finding {
    what: String,
    figure: String,
    reach: String,
    met: bool,
}

impl Finding {
    fn new(what: &str, figure: impl Into<String>, reach: impl Into<String>, met: bool) -> Self {
        Self {
            what: what.to_owned(),
            figure: figure.into(),
            reach: reach.into(),
            met,
        }
    }
}

/// Fails if a figure is not as it has to be.
pub(crate) fn run(project: &Project, args: &Args) -> anyhow::Result<ExitCode> {
    let budget = Duration::from_secs(args.minutes.saturating_mul(60));
    match args.only {
        Some(Part::Fuzz) => {
            fuzz::run(project, budget)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Part::Simulation) => return test::simulations(project, args.seeds),
        Some(Part::Overload | Part::Mixed) | None => {}
    }
    let subjects = prepare(project, args)?;
    let mut findings = Vec::new();
    for part in Part::value_variants() {
        if args.only.is_some_and(|only| only != *part) {
            continue;
        }
        findings.extend(match part {
            Part::Overload => overload::run(&subjects, args.seconds)?,
            Part::Mixed => mixed::run(&subjects, args.minutes)?,
            Part::Fuzz => {
                fuzz::run(project, budget)?;
                vec![Finding::new("fuzz targets", "no crash", "no crash", true)]
            }
            Part::Simulation => {
                let held = test::simulations(project, args.seeds)? == ExitCode::SUCCESS;
                let figure = format!("{} seeds each", args.seeds);
                vec![Finding::new("simulated lattices", figure, "all hold", held)]
            }
        });
    }
    println!("\n{:<52} {:>34}  reach", "what", "figure");
    for Finding {
        what,
        figure,
        reach,
        met,
    } in &findings
    {
        let met = if *met { "met" } else { "MISSED" };
        println!("{what:<52} {figure:>34}  {met}: {reach}");
    }
    let file = subjects.scratch.join("result.json");
    let result: Vec<_> = findings
        .iter()
        .map(
            |Finding {
                 what,
                 figure,
                 reach,
                 met,
             }| json!({ "what": what, "figure": figure, "reach": reach, "met": met }),
        )
        .collect();
    fs::write(&file, format!("{:#}\n", Value::from(result)))
        .with_context(|| format!("failed to write {}", file.display()))?;
    println!("\nwritten to {}", file.display());
    let missed: Vec<_> = findings.iter().filter(|finding| !finding.met).collect();
    for Finding {
        what, figure, reach, ..
    } in &missed
    {
        eprintln!("missed: {what}: {figure}, wanted {reach}");
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn prepare(project: &Project, args: &Args) -> anyhow::Result<Subjects> {
    let programs = match &args.programs {
        Some(folder) => std::path::absolute(folder)?,
        None => {
            let mut guests = vec![
                "hello",
                "echo",
                "kv",
                "sql",
                "caller",
                "callee",
                "fault",
                "hostile",
                "pricing-sale",
            ];
            guests.extend(actors::SHOP);
            actors::run(project, &guests)?;
            let mut cargo = project.cargo();
            cargo.args([
                "build",
                "--release",
                "--workspace",
                "--bin",
                "weft",
                "--bin",
                "weft-load",
            ]);
            sh::run("Building weft and its load (release)", BUILD_LIMIT, &mut cargo)?;
            project.target_dir()?.join("release")
        }
    };
    let scratch = project.root().join("target/soak");
    fs::create_dir_all(&scratch)?;
    Ok(Subjects {
        weft: programs.join("weft"),
        load: programs.join("weft-load"),
        guests: project.guests(),
        shop: project.shop(),
        scratch,
    })
}

impl Subjects {
    /// A manifest of this module's folder, with its guests named.
    fn manifest(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let file = self.scratch.join(name);
        fs::write(&file, text.replace("GUESTS", &self.guests.display().to_string()))?;
        Ok(file)
    }

    /// What a load generator found.
    fn load(&self, duration: Duration, args: &[&str]) -> anyhow::Result<Value> {
        let mut load = Command::new(&self.load);
        let text = sh::read(duration + LOAD_SLACK, load.args(args))?;
        serde_json::from_str(&text).context("failed to read what weft-load found")
    }
}
