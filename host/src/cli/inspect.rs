//! `weft inspect`: what a component is and needs.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;
use weft_compose::Capability;

use super::admin_client::HostArgs;
use super::args::show_bytes;
use super::lattice_args::LatticeArgs;
use super::{Exit, Failure, Output, print, print_json};
use crate::component::ComponentBytes;
use crate::component::inspect::{Candidate, Import, Inspection, inspect, only_backend};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft inspect hello.wasm\n  weft inspect hello.wasm --output json\n  weft inspect carts.wasm --data .weft                      which providers there are for its imports\n  weft inspect carts.wasm --nats nats://10.0.0.1:4222       the same, from afar"
)]
pub(super) struct Inspect {
    /// The component.
    file: PathBuf,
    /// Ask the host with this data folder for its providers.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    lattice: LatticeArgs,
}

pub(super) fn run(args: &Inspect, output: Output) -> Result<(), Failure> {
    let component = ComponentBytes::read(&args.file)?;
    component.validate()?;
    let mut inspection = inspect(&component).map_err(|reason| {
        Failure::text(
            Exit::Input,
            format!("failed to read the WIT of {}: {reason}", args.file.display()),
        )
    })?;
    if let Some(host) = HostArgs::named(args.data.as_ref(), &args.lattice) {
        let known = host.client()?.get("/v1/providers")?;
        for import in &mut inspection.imports {
            let only = only_backend(&import.name);
            import.providers = import
                .capability
                .map(|capability| candidates(&known, capability, only));
        }
    }
    match output {
        Output::Json => print_json(&inspection),
        Output::Text => print(text(&inspection).trim_end()),
    }
}

/// The providers among those that are `known` which serve a capability; if it takes `only` one backend, those on it.
fn candidates(known: &Value, capability: Capability, only: Option<&str>) -> Vec<Candidate> {
    let known = known["providers"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let candidates = known.iter().filter_map(|provider| {
        let serves = provider["capability"].as_str()? == capability.to_string();
        let fits = only.is_none_or(|only| provider["backend"] == only);
        (serves && fits).then_some(Candidate {
            name: text(&provider["name"])?,
            backend: text(&provider["backend"])?,
            state: text(&provider["state"]),
        })
    });
    candidates.collect()
}

/// What answers an import, in a line.
fn answer(import: &Import) -> String {
    let mut answer = import.provision.note().to_owned();
    if let Some(capability) = import.capability {
        // Writing to a string can't fail.
        let _ = write!(answer, " of {capability}");
        if let Some(only) = only_backend(&import.name) {
            let _ = write!(answer, " on {only}");
        }
    }
    let Some(providers) = &import.providers else {
        return answer;
    };
    let named: Vec<_> = providers
        .iter()
        .map(|Candidate { name, backend, state }| match state.as_deref() {
            Some("down") => format!("{name} ({backend}, down)"),
            _ => format!("{name} ({backend})"),
        })
        .collect();
    answer += ": ";
    answer += &match named.is_empty() {
        true => "there is none".to_owned(),
        false => named.join(", "),
    };
    answer
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
        let _ = writeln!(text, "  {:width$}  {}", import.name, answer(import));
    }
    let verdict = match (inspection.runs_here, inspection.serves_http) {
        (true, true) => "can be served by `weft up`",
        (true, false) => "links here, and exports nothing that answers HTTP",
        (false, _) => "can't run here: some imports are not provided",
    };
    let _ = writeln!(text, "verdict  {verdict}");
    text
}
