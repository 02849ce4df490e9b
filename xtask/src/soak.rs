//! What takes longer than a test may. To add a part: a variant of [`Part`], a module with `run`, a line in [`run`].

mod fuzz;

use std::time::Duration;

use crate::project::Project;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Minutes that a part takes, once it is built
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Whatever is read from strangers, given anything
    Fuzz,
}

pub(crate) fn run(project: &Project, args: &Args) -> anyhow::Result<()> {
    let budget = Duration::from_secs(args.minutes.saturating_mul(60));
    match args.only.unwrap_or(Part::Fuzz) {
        Part::Fuzz => fuzz::run(project, budget),
    }
}
