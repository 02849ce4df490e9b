//! Measures weft against its yardsticks, each in the same run.
//!
//! Machines are noisy: each server runs alone with its load generator, servers alternate, and what counts is the
//! median of the ratios of neighbours. `docs/performance.md` says what each figure means. The table goes to stdout,
//! the same as JSON to `target/bench/result.json`.

#![expect(clippy::print_stdout, reason = "the table is this command's result")]

mod compile;
mod density;
mod hostile;
mod http;
mod in_process;
mod lattice;
mod probe;
mod process;
mod shop;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::project::Project;
use crate::setup;
use crate::{actors, sh};

/// A release build from nothing takes some twenty minutes on two cores, as all of it is optimized as one.
const BUILD_LIMIT: Duration = Duration::from_secs(90 * 60);
const ROUNDS: usize = 7;
const ROUNDS_QUICK: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One second a measurement and three rounds instead of seven: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Take the programs from this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Invocations in process
    Invocation,
    /// Calls from one actor to another, of 16 bytes to a megabyte
    Calls,
    /// Reads of redb and SQLite by an actor
    Capabilities,
    /// Reads of an object of 64 MiB by an actor, from a server of S3's protocol
    Objects,
    /// Redis and Postgres by an actor, beside bare clients
    Servers,
    /// HTTP hello at 1, 32 and 128 connections
    Http,
    /// Start, memory
    Process,
    /// The shop's memory, idle and after load
    Shop,
    /// Ten thousand deployed actors, and instances in flight
    Density,
    /// An actor's answers while another one attacks
    Hostile,
    /// An actor's answers while 200 components are compiled
    Compile,
    /// Calls, requests and bodies that go to another host
    Lattice,
}

impl Part {
    /// Measured by the program `weft-bench`, not on a server.
    fn in_process(self) -> bool {
        matches!(
            self,
            Self::Invocation | Self::Calls | Self::Capabilities | Self::Servers | Self::Objects
        )
    }

    /// Measured beside `wasmtime serve`.
    fn beside_wasmtime(self) -> bool {
        matches!(self, Self::Http | Self::Process | Self::Shop)
    }
}

/// The programs that are measured and measure.
struct Subjects {
    weft: PathBuf,
    native: PathBuf,
    in_process: PathBuf,
    /// What measures calls between two native processes.
    calls: PathBuf,
    nats: Option<PathBuf>,
    /// The yardstick, which takes long to compile: only there if a part needs it.
    wasmtime: Option<PathBuf>,
    wrk: PathBuf,
    guests: PathBuf,
    shop: PathBuf,
    scratch: PathBuf,
    quick: bool,
}

impl Subjects {
    fn rounds(&self) -> usize {
        if self.quick { ROUNDS_QUICK } else { ROUNDS }
    }

    fn guest(&self, name: &str) -> PathBuf {
        self.guests.join(format!("{name}.wasm"))
    }

    /// The manifest of an actor beside one that attacks.
    fn arena(&self) -> PathBuf {
        self.scratch.join("arena.yaml")
    }
}

/// One line of the table.
struct Row {
    what: String,
    /// The figure of weft, with its unit.
    weft: String,
    /// The yardstick's figure, with its name.
    yardstick: String,
    ratio: Option<f64>,
    /// What design asks for, in words.
    reach: &'static str,
    met: Option<bool>,
}

pub(crate) fn run(project: &Project, args: &Args) -> anyhow::Result<()> {
    let wanted = |part: &Part| args.only.is_none_or(|only| only == *part);
    let parts: Vec<_> = Part::value_variants().iter().copied().filter(wanted).collect();
    let subjects = prepare(project, &parts, args)?;
    let mut rows = Vec::new();
    let mut raw = serde_json::Map::new();
    for part in parts {
        let result = match part {
            Part::Invocation => in_process::invocation(&subjects, &mut rows),
            Part::Calls => in_process::calls(&subjects, &mut rows),
            Part::Capabilities => in_process::capabilities(&subjects, &mut rows),
            Part::Servers => in_process::servers(&subjects, &mut rows),
            Part::Objects => in_process::objects(&subjects, &mut rows),
            Part::Http => http::measure(&subjects, &mut rows),
            Part::Process => process::measure(&subjects, &mut rows),
            Part::Shop => shop::measure(&subjects, &mut rows),
            Part::Density => density::measure(&subjects, &mut rows),
            Part::Hostile => hostile::measure(&subjects, &mut rows),
            Part::Compile => compile::measure(&subjects, &mut rows),
            Part::Lattice => lattice::measure(&subjects, &mut rows),
        };
        let name = part.to_possible_value().map(|value| value.get_name().to_owned());
        raw.insert(name.unwrap_or_default(), result?);
    }
    print_table(&rows);
    let file = project.root().join("target/bench/result.json");
    let result = json!({ "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>(), "raw": raw });
    fs::write(&file, format!("{result:#}\n"))
        .with_context(|| format!("failed to write {}", file.display()))?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

fn prepare(project: &Project, parts: &[Part], args: &Args) -> anyhow::Result<Subjects> {
    let (nats, wasmtime, wrk) = {
        let cache = Cache::open()?;
        let far = parts.contains(&Part::Lattice);
        let nats = far.then(|| setup::nats::ensure(&cache)).transpose()?;
        let beside_wasmtime = parts.iter().any(|part| part.beside_wasmtime());
        let wasmtime = beside_wasmtime
            .then(|| setup::bench::wasmtime(&cache))
            .transpose()?;
        if parts.contains(&Part::Objects) || parts.contains(&Part::Servers) {
            setup::servers(&cache)?;
        }
        (nats, wasmtime, setup::bench::wrk(&cache)?)
    };
    let mut guests = vec![
        "hello",
        "hostile",
        "reply",
        "bench",
        "bench-objects",
        "callee",
        "caller",
        "echo",
        "fault",
        "logger",
    ];
    guests.extend(actors::SHOP);
    actors::run(project, &guests)?;
    let programs = match &args.programs {
        Some(folder) => std::path::absolute(folder)?,
        None => build(project, parts)?,
    };
    let scratch = project.root().join("target/bench");
    fs::create_dir_all(&scratch)?;
    Ok(Subjects {
        weft: programs.join("weft"),
        native: programs.join("native-hello"),
        in_process: programs.join("weft-bench"),
        calls: programs.join("lattice-calls"),
        nats,
        wasmtime,
        wrk,
        guests: project.guests(),
        shop: project.shop(),
        scratch,
        quick: args.quick,
    })
}

/// Builds what these parts need, as linking a program takes minutes; the folder that it is in.
fn build(project: &Project, parts: &[Part]) -> anyhow::Result<PathBuf> {
    let mut cargo = project.cargo();
    // The whole workspace, so that `cargo xtask up` builds the same: linking takes ten minutes.
    cargo.args(["build", "--release", "--workspace", "--bin", "weft"]);
    if parts
        .iter()
        .any(|part| matches!(part, Part::Http | Part::Process))
    {
        cargo.args(["--bin", "native-hello"]);
    }
    if parts
        .iter()
        .any(|part| part.in_process() || *part == Part::Density)
    {
        cargo.args(["--bin", "weft-bench"]);
    }
    if parts.contains(&Part::Lattice) {
        cargo.args(["--bin", "lattice-calls"]);
    }
    sh::run(
        "Building weft and its yardsticks (release)",
        BUILD_LIMIT,
        &mut cargo,
    )?;
    Ok(project.target_dir()?.join("release"))
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "weft": self.weft,
            "yardstick": self.yardstick,
            "ratio": self.ratio,
            "reach": self.reach,
            "met": self.met,
        })
    }
}

fn print_table(rows: &[Row]) {
    println!(
        "\n{:<44} {:>24} {:>34} {:>7}  reach",
        "what", "weft", "yardstick", "ratio"
    );
    for row in rows {
        let ratio = row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let met = match row.met {
            Some(true) => "met: ",
            Some(false) => "MISSED: ",
            None => "",
        };
        println!(
            "{:<44} {:>24} {:>34} {ratio:>7}  {met}{}",
            row.what, row.weft, row.yardstick, row.reach
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
