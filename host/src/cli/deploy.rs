//! `weft deploy`: an app, by its manifest, on a host that runs.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};

use super::admin_client::HostArgs;
use super::registry::RegistryArgs;
use super::{Failure, Output, print, print_json, say};
use super::{app_files, push};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft deploy app.yaml\n  weft deploy app.yaml --dry-run        what would change\n  weft deploy app.yaml --copy           take the data along to the backends that the file names\n\nComponents that the host lacks are sent first. A manifest that is deployed already changes nothing, and leaves\nlinks that were changed at run time; any other resets them. What can't be made so is listed as conditions; the app\nis deployed all the same, and the host tries again."
)]
pub(super) struct Deploy {
    /// The manifest.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tell what would be written. Components are sent, as only they show whether links fit; nothing is deployed.
    #[arg(long)]
    dry_run: bool,
    /// First move the data of each key-value, sql and blob-store provider whose backend or address changes, while it is used.
    ///
    /// Data is copied, writes wait for a moment, what was written meanwhile is copied, and the provider is switched; no
    /// acknowledged write is lost. Interrupted, the host goes on with it: say the same again to wait for its end.
    #[arg(long, conflicts_with = "dry_run")]
    copy: bool,
    /// With --copy: also to a backend that has keys, rows or objects of the app already, which are overwritten and deleted.
    #[arg(long, requires = "copy")]
    replace: bool,
    /// With --copy: don't wait for hosts that took part and can't be seen. What they acknowledge meanwhile is lost.
    #[arg(long, requires = "copy")]
    force: bool,
    #[command(flatten)]
    registries: RegistryArgs,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(deploy: &Deploy, output: Output) -> Result<(), Failure> {
    let deployment = app_files::manifest(&deploy.file, &deploy.registries)?;
    let (_, text) = app_files::parsed(&deploy.file)?;
    let client = deploy.host.client()?;
    let mut digests = BTreeMap::new();
    let mut sent = HashSet::new();
    for (actor, component) in deployment.files {
        digests.insert(actor, component.digest);
        // Many actors may run one component.
        if sent.insert(component.digest) {
            push::send(&client, component)?;
        }
    }
    if deploy.copy {
        let moved = super::provider::Moved {
            replace: deploy.replace,
            force: deploy.force,
        };
        super::provider::take_along(&client, &text, &deploy.file, &moved)?;
    }
    let body = json!({
        "manifest": text,
        "file": deploy.file.display().to_string(),
        "digests": digests,
        "dry_run": deploy.dry_run,
    });
    let changed = client.send(Method::POST, "/v1/deploy", &body)?;
    show(&changed, output)
}

/// Prints what a change did, and what of it is not so yet.
pub(super) fn show(changed: &Value, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return print_json(changed);
    }
    let list = |key: &str| changed[key].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines: Vec<String> = list("summary")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if changed["changed"] != true {
        lines.push("nothing to change".to_owned());
    }
    print(&lines.join("\n"))?;
    for condition in list("conditions") {
        let part = |key: &str| condition[key].as_str().unwrap_or_default();
        say(&format!(
            "weft: not as wanted: {}: {}",
            part("subject"),
            part("reason")
        ));
    }
    Ok(())
}
