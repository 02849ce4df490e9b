//! `weft completions`: scripts for shells.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Failure, print};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  weft completions bash > ~/.local/share/bash-completion/completions/weft")]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

pub(super) fn run<C: CommandFactory>(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut C::command(), "weft", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}
