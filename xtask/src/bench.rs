//! Measures weft against its yardsticks, each in the same run.
//!
//! Machines are noisy: each server runs alone with its load generator, servers alternate, and what counts is the
//! median of the ratios of neighbours. `docs/performance.md` says what each figure means. The table goes to stdout,
//! the same as JSON to `target/bench/result.json`.

#![expect(clippy::print_stdout, reason = "the table is this command's result")]

mod http;
mod invocation;
mod process;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::project::Project;
use crate::setup::bench::{self, BenchTools};
use crate::{actors, sh};

/// A release build from nothing takes some ten minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One second a measurement and three rounds instead of seven: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Invocations in process
    Invocation,
    /// HTTP hello at 1, 32 and 128 connections
    Http,
    /// Start, memory
    Process,
}

/// The programs that are measured and measure.
struct Subjects {
    weft: PathBuf,
    native: PathBuf,
    invocation: PathBuf,
    hello: PathBuf,
    reply: PathBuf,
    tools: BenchTools,
    scratch: PathBuf,
    quick: bool,
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
    let subjects = prepare(project, args.quick)?;
    let wanted = |part| args.only.is_none_or(|only| only == part);
    let mut rows = Vec::new();
    let mut raw = serde_json::Map::new();
    if wanted(Part::Invocation) {
        raw.insert(
            "invocation".to_owned(),
            invocation::measure(&subjects, &mut rows)?,
        );
    }
    if wanted(Part::Http) {
        raw.insert("http".to_owned(), http::measure(&subjects, &mut rows)?);
    }
    if wanted(Part::Process) {
        raw.insert("process".to_owned(), process::measure(&subjects, &mut rows)?);
    }
    print_table(&rows);
    let file = project.root().join("target/bench/result.json");
    let result = json!({ "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>(), "raw": raw });
    fs::write(&file, format!("{result:#}\n"))
        .with_context(|| format!("failed to write {}", file.display()))?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

fn prepare(project: &Project, quick: bool) -> anyhow::Result<Subjects> {
    let tools = bench::ensure(&Cache::open()?)?;
    actors::run(project, &["hello".to_owned(), "reply".to_owned()])?;
    let mut cargo = project.cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "weft-host",
        "--bins",
        "--examples",
    ]);
    sh::run(
        "Building weft and its yardsticks (release)",
        BUILD_LIMIT,
        &mut cargo,
    )?;
    let release = project.target_dir()?.join("release");
    let scratch = project.root().join("target/bench");
    fs::create_dir_all(&scratch)?;
    Ok(Subjects {
        weft: release.join("weft"),
        native: release.join("examples/native_hello"),
        invocation: release.join("examples/invocation"),
        hello: project.guests().join("hello.wasm"),
        reply: project.guests().join("reply.wasm"),
        tools,
        scratch,
        quick,
    })
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
