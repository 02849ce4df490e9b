//! `weft artifacts`: the components that a host keeps.

use http::Method;
use serde_json::{Value, json};

use super::admin_client::HostArgs;
use super::args::show_bytes;
use super::get::{aligned, pins};
use super::{Failure, Output, print, print_json, say};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft artifacts\n  weft artifacts gc --dry-run         what nothing deploys\n  weft artifacts gc                   drop it\n\nWhat an app names, or named in the revision before, is pinned and stays. Of the rest a host keeps those that were used last, up to --artifact-bytes of\n`weft up`.",
    args_conflicts_with_subcommands = true
)]
pub(super) struct ArtifactsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Drop all components that nothing deploys.
    Gc {
        /// Tell what would be dropped, and drop nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        host: HostArgs,
    },
}

pub(super) fn run(args: &ArtifactsArgs, output: Output) -> Result<(), Failure> {
    let (answer, key) = match &args.command {
        None => (args.host.client()?.get("/v1/artifacts")?, "artifacts"),
        Some(Command::Gc { dry_run, host }) => {
            let body = json!({ "dry_run": dry_run });
            (
                host.client()?.send(Method::POST, "/v1/artifacts/gc", &body)?,
                "dropped",
            )
        }
    };
    if output == Output::Json {
        return print_json(&answer);
    }
    let artifacts = answer[key].as_array().map_or(&[][..], Vec::as_slice);
    if !artifacts.is_empty() {
        print(&table(artifacts))?;
    }
    let bytes = show_bytes(answer["bytes"].as_u64().unwrap_or_default());
    let count = artifacts.len();
    // Not on stdout, where a script counts lines.
    match (&args.command, answer["unpinned_bytes_max"].as_u64()) {
        (None, max) => say(&format!(
            "{count} components, {bytes}; of those that nothing deploys at most {} stay",
            show_bytes(max.unwrap_or_default())
        )),
        (Some(Command::Gc { dry_run: true, .. }), _) => {
            say(&format!("{count} components would be dropped, {bytes}"))
        }
        (Some(_), _) => say(&format!("{count} components were dropped, {bytes}")),
    }
    Ok(())
}

fn table(artifacts: &[Value]) -> String {
    let mut rows = vec![
        ["DIGEST", "SIZE", "LAST USED", "PINNED BY"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(artifacts.iter().map(|artifact| {
        let used = artifact["last_used"].as_i64().map(jiff::Timestamp::from_second);
        vec![
            artifact["digest"].as_str().unwrap_or("-").to_owned(),
            show_bytes(artifact["bytes"].as_u64().unwrap_or_default()),
            used.and_then(Result::ok)
                .map_or("-".to_owned(), |used| used.to_string()),
            pins(artifact),
        ]
    }));
    aligned(&rows)
}
