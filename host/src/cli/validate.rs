//! `weft validate` and `weft schema`: manifests, without a host.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::json;
use weft_compose::schema::json_schema;

use super::app_files;
use super::registry::RegistryArgs;
use super::{Exit, Failure, Output, chain, print, print_json};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft validate app.yaml\n  weft validate apps/*/app.yaml\n\nReads the manifests and the components that they name, and asks no host: whether links fit is told by\n`weft deploy --dry-run`. Exits 3 if anything is wrong, with all that is."
)]
pub(super) struct Validate {
    /// The manifests.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn run(validate: &Validate, output: Output) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let mut sound = Vec::new();
    for file in &validate.files {
        let deployment = match app_files::manifest(file, &RegistryArgs::of_env()) {
            Ok(deployment) => deployment,
            Err(failure) => {
                faults.push(failure.message);
                continue;
            }
        };
        let before = faults.len();
        // Many actors may run one component.
        let mut valid = HashSet::new();
        for (actor, component) in &deployment.files {
            if valid.contains(&component.digest) {
                continue;
            }
            match component.validate() {
                Ok(()) => drop(valid.insert(component.digest)),
                Err(error) => faults.push(format!("{}: actor `{actor}`: {}", file.display(), chain(&error))),
            }
        }
        if faults.len() == before {
            let manifest = &deployment.manifest;
            let (app, actors, providers) = (
                &manifest.app.value,
                manifest.actors.len(),
                manifest.providers.len(),
            );
            sound.push(match output {
                Output::Json => {
                    json!({ "file": file, "app": app, "actors": actors, "providers": providers }).to_string()
                }
                Output::Text => format!(
                    "{}: {app} is valid: actors {actors}, providers {providers}, routes {}",
                    file.display(),
                    manifest.routes.len()
                ),
            });
        }
    }
    if !sound.is_empty() {
        print(&sound.join("\n"))?;
    }
    match faults.as_slice() {
        [] => Ok(()),
        faults => Err(Failure::text(Exit::Input, faults.join("\n"))),
    }
}

/// `weft schema`.
pub(super) fn schema() -> Result<(), Failure> {
    print_json(&json_schema())
}
