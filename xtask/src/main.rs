//! The project's own commands, run as `cargo xtask COMMAND`.
//!
//! `setup` gets what the project needs and the machine lacks, into a cache folder; nothing is installed into the
//! system. The other commands call the parts of it that they need, so that each works on a fresh machine.
//! Start reading at `setup.rs` for tools, at `actors.rs` for the guests.

mod actors;
mod bench;
mod cache;
mod project;
mod setup;
mod sh;
mod soak;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Weft's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get the tools that are missing, into the cache folder
    ///
    /// The folder is $WEFT_CACHE_DIR, else $XDG_CACHE_HOME/weft, else ~/.cache/weft. What is there already is not
    /// fetched again, and a run that was interrupted can be repeated.
    Setup {
        #[arg(value_enum, default_value = "guests")]
        what: Vec<setup::What>,
    },
    /// Build the guests, into target/guests/NAME.wasm
    ///
    /// A guest is built again only if its sources or its tools changed. Tools that are missing are set up first.
    Actors {
        /// The guests to build; all if none is named
        names: Vec<String>,
    },
    /// Build weft and the shop, an app of five actors, and start a host that serves it
    ///
    /// Needs no server. Its data is in the folder `.weft`, so what was ordered is there after a restart too.
    Up {
        /// Build as for production, which takes half an hour the first time. Goes before all others
        #[arg(long)]
        release: bool,
        /// Passed on to `weft up`; manifests (.yaml) and components (.wasm) among them take the place of the shop.
        /// `--hosts N` alone starts a nats-server and N hosts, and spreads the shop over them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check format, lints and dependencies, as continuous integration does
    Check,
    /// Build the guests and run all tests
    Test {
        /// Passed on to the test runner: cargo-nextest if it is there, else `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the tests of the lattice with more seeds, longer stops and longer silence
    Faults {
        /// How many seeds each simulation runs
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// Passed on to the test runner, such as a part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure weft against its yardsticks
    Bench(bench::Args),
    /// Put load on a host for minutes, and check what it leaves behind
    Soak(soak::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let project = project::Project::find()?;
    match command {
        Command::Setup { what } => setup::run(&project, &what)?,
        Command::Actors { names } => actors::run(&project, &names)?,
        Command::Up { release, args } => return up::run(&project, release, &args),
        Command::Check => return test::check(&project),
        Command::Test { args } => return test::run(&project, &args),
        Command::Faults { seeds, args } => return test::faults(&project, seeds, &args),
        Command::Bench(args) => bench::run(&project, &args)?,
        Command::Soak(args) => return soak::run(&project, &args),
    }
    Ok(ExitCode::SUCCESS)
}
