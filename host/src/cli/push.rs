//! `weft push`: a component on a host that runs, to be deployed by its digest; or in a registry.

use std::path::Path;

use serde_json::json;

use super::admin_client::{AdminClient, HostArgs};
use super::registry::{RegistryArgs, is_reference};
use super::{Failure, Output, print, print_json};
use crate::component::ComponentBytes;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft push hello.wasm             prints sha256:..., which a manifest may name as `component`\n  weft push hello.wasm --to oci://ghcr.io/me/hello:1.0\n  weft push oci://ghcr.io/me/hello:1.0\n\nThe host checks and compiles it before it answers, so that what it keeps can be run. What no app names goes when there\nis too much of it; see `weft artifacts`."
)]
pub(super) struct Push {
    /// The component: a file, or oci://REGISTRY/REPOSITORY:TAG.
    #[arg(value_name = "FILE")]
    source: String,
    /// Put it into a registry, and not on a host; prints the reference that names it for ever.
    #[arg(long, value_name = "oci://REGISTRY/REPOSITORY:TAG")]
    to: Option<String>,
    #[command(flatten)]
    registries: RegistryArgs,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(push: &Push, output: Output) -> Result<(), Failure> {
    let component = if is_reference(&push.source) {
        push.registries.pull(&push.source)?
    } else {
        ComponentBytes::read(Path::new(&push.source))?
    };
    if let Some(to) = &push.to {
        component.validate()?;
        let reference = push.registries.push(&component, to)?;
        return match output {
            Output::Text => print(&reference.to_string()),
            Output::Json => {
                print_json(&json!({ "reference": reference.to_string(), "component": component.digest }))
            }
        };
    }
    let client = push.host.client()?;
    let (digest, len) = (component.digest, component.bytes.len());
    send(&client, component)?;
    match output {
        Output::Text => print(&digest.to_string()),
        Output::Json => print_json(&json!({ "component": digest, "component_bytes": len })),
    }
}

/// Sends a component to the host, unless it has it.
pub(super) fn send(client: &AdminClient, component: ComponentBytes) -> Result<(), Failure> {
    let path = format!("/v1/artifacts/{}", component.digest);
    if client.has(&path)? {
        return Ok(());
    }
    let pushed = client.put(&path, component.bytes.into());
    pushed.map(drop).map_err(|failure| {
        let text = format!("failed to push {}: {}", component.path.display(), failure.message);
        Failure::text(failure.exit, text)
    })
}
