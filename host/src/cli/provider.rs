//! `weft provider`: moves of providers' data, which `weft deploy --copy` begins.

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, HostArgs, escaped};
use super::{Exit, Failure, Output, print, print_json, say};

/// How often a host is asked how far a move is.
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Provider {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Give up the move of a provider's data that `weft deploy --copy` began; the provider stays where it is.
    #[command(
        after_help = "Examples:\n  weft provider cancel carts\n\n`weft get providers` shows moves and how far they are."
    )]
    Cancel(Cancel),
}

#[derive(Debug, clap::Args)]
struct Cancel {
    /// Which provider; a short name if it is unique.
    provider: String,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(provider: &Provider, output: Output) -> Result<(), Failure> {
    let Command::Cancel(cancel) = &provider.command;
    let body = json!({ "provider": cancel.provider });
    let answer = cancel.host.client()?.send(Method::DELETE, "/v1/moves", &body)?;
    match output {
        Output::Json => print_json(&answer),
        Output::Text => print(&format!(
            "{} stays where it is",
            answer["provider"].as_str().unwrap_or_default()
        )),
    }
}

/// What an operator said of a move.
pub(super) struct Moved {
    pub(super) replace: bool,
    pub(super) force: bool,
}

/// Has the host move the data of the providers that a manifest has elsewhere, and waits until it is there.
pub(super) fn take_along(
    client: &AdminClient,
    manifest: &str,
    file: &Path,
    moved: &Moved,
) -> Result<(), Failure> {
    let body = json!({
        "manifest": manifest,
        "file": file.display().to_string(),
        "replace": moved.replace,
        "force": moved.force,
    });
    let begun = client.send(Method::POST, "/v1/moves", &body)?;
    let begun = begun["moves"].as_array().map_or(&[][..], Vec::as_slice);
    begun.iter().try_for_each(|begun| follow(client, begun))
}

fn follow(client: &AdminClient, begun: &Value) -> Result<(), Failure> {
    let (name, mut told) = (begun["provider"].as_str().unwrap_or_default(), String::new());
    loop {
        let answer = client.get(&format!("/v1/providers?name={}", escaped(name)))?;
        let provider = &answer["providers"][0];
        let moving = &provider["move"];
        // A host that is asked first may hear of the move later.
        if moving.is_null() && provider["revision"].as_u64() > begun["revision"].as_u64() {
            if provider["backend"] != begun["to"] {
                let text =
                    format!("{name} has not moved, as it was changed meanwhile: `weft logs` says more");
                return Err(Failure::text(Exit::Failed, text));
            }
            say(&format!("weft: {name} has moved"));
            return Ok(());
        }
        if moving["step"] == "failed" {
            let reason = moving["reason"].as_str().unwrap_or_default();
            return Err(Failure::text(
                Exit::Input,
                format!("{name} has not moved: {reason}"),
            ));
        }
        let line = progress(name, provider);
        if !moving.is_null() && line != told {
            say(&format!("weft: {line}"));
            told = line;
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// How far the move of a provider is, in one line.
pub(super) fn progress(name: &str, provider: &Value) -> String {
    let moving = &provider["move"];
    let word = |key: &str| moving[key].as_str().unwrap_or_default().to_owned();
    let unit = match provider["capability"].as_str() {
        Some("sql") => "rows",
        Some("blob-store") => "objects",
        _ => "keys",
    };
    let keys = moving["keys"].as_u64().map(|keys| format!(", {keys} {unit}"));
    let waiting = moving["waiting"]
        .as_str()
        .map(|waiting| format!(", waits: {waiting}"));
    format!(
        "{name} moves to {}: {}{}{}",
        word("to"),
        word("step"),
        keys.unwrap_or_default(),
        waiting.unwrap_or_default()
    )
}
