//! `weft inspect`: what a component is and needs.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::args::show_bytes;
use super::{Exit, Failure, Output, print, print_json};
use crate::component::ComponentBytes;
use crate::component::inspect::{Inspection, inspect};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weft inspect hello.wasm\n  weft inspect hello.wasm --output json")]
pub(super) struct Inspect {
    /// The component.
    file: PathBuf,
}

pub(super) fn run(args: &Inspect, output: Output) -> Result<(), Failure> {
    let component = ComponentBytes::read(&args.file)?;
    component.validate()?;
    let inspection = inspect(&component).map_err(|reason| {
        Failure::text(
            Exit::Input,
            format!("failed to read the WIT of {}: {reason}", args.file.display()),
        )
    })?;
    match output {
        Output::Json => print_json(&inspection),
        Output::Text => print(text(&inspection).trim_end()),
    }
}

fn text(inspection: &Inspection) -> String {
    let mut text = String::new();
    let width = inspection
        .imports
        .iter()
        .map(|import| import.name.len())
        .max()
        .unwrap_or(0);
    // Writing to a string can't fail.
    let _ = writeln!(text, "digest   {}", inspection.digest);
    let _ = writeln!(text, "size     {}", show_bytes(inspection.len as u64));
    let _ = writeln!(text, "exports");
    for export in &inspection.exports {
        let _ = writeln!(text, "  {export}");
    }
    let _ = writeln!(text, "imports");
    for import in &inspection.imports {
        let _ = writeln!(text, "  {:width$}  {}", import.name, import.provision.note());
    }
    let verdict = match (inspection.runs_here, inspection.serves_http) {
        (true, true) => "can be served by `weft up`",
        (true, false) => "links here, and exports nothing that answers HTTP",
        (false, _) => "can't run here: some imports are not provided",
    };
    let _ = writeln!(text, "verdict  {verdict}");
    text
}
