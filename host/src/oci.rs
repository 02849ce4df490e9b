//! Components in OCI registries.
//!
//! Owns what is pulled and pushed, by the CNCF's layout for Wasm: a manifest, a configuration of the type
//! `application/vnd.wasm.config.v0+json`, and one layer of the type `application/wasm`. It must not know hosts: commands
//! use it, so that what a tag means is decided once, when an app is deployed. Read [`reference`] for names,
//! [`credentials`] for who one is, [`registry`] for the few requests of the distribution specification.

pub mod credentials;
pub mod reference;
mod registry;

use serde::{Deserialize, Serialize};
use serde_json::json;
use weft_http::HttpError;

pub use self::credentials::Credentials;
pub use self::reference::{Reference, ReferenceError};
use self::registry::Registry;
use crate::component::inspect::inspect;
use crate::component::{COMPONENT_LEN_MAX, ComponentBytes};
use crate::digest::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// What tools wrote before the layout was agreed on.
const LAYER_BEFORE: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The longest manifest: registries take no longer ones.
const MANIFEST_LEN_MAX: usize = 4 << 20;

/// Which registries are asked, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// As whom.
    pub credentials: Credentials,
    /// Registries that are spoken to without TLS, besides those on this machine.
    pub plain: Vec<String>,
}

/// Why a component was not had from a registry, or not put there. Names the reference and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("failed to {act} {reference}: {problem}")]
pub struct OciError {
    act: &'static str,
    reference: Reference,
    #[source]
    problem: Problem,
}

/// What was wrong.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("the registry can't be asked: {0}; is its address right, and does it speak {1}?")]
    Http(HttpError, &'static str),
    #[error("the registry answered {status}{said}; {remedy}")]
    Answer {
        status: http::StatusCode,
        said: String,
        remedy: &'static str,
    },
    #[error("the registry's answer is not what the distribution specification says: {0}")]
    Unexpected(String),
    #[error("what the registry gave is {found}, and not {wanted}: it is damaged, or the registry lies")]
    Digest { wanted: String, found: Digest },
    #[error("it is no component: {0}; expected one layer of the type {LAYER}, as `weft push --to` makes it")]
    Layout(String),
    #[error("it has {len} bytes, and a component may have {COMPONENT_LEN_MAX}")]
    TooLarge { len: u64 },
    #[error("a reference to push to needs a tag and no digest, which follows from what is pushed")]
    Pinned,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes).to_string(),
            size: bytes.len() as u64,
        }
    }
}

/// The component behind `reference`, its digest and that of the manifest checked.
///
/// # Errors
/// [`OciError`].
pub async fn pull(reference: &Reference, registries: &Registries) -> Result<ComponentBytes, OciError> {
    let pulled = try_pull(reference, registries).await;
    pulled.map_err(|problem| OciError {
        act: "pull",
        reference: reference.clone(),
        problem,
    })
}

async fn try_pull(reference: &Reference, registries: &Registries) -> Result<ComponentBytes, Problem> {
    let registry = Registry::new(reference, registries, "pull");
    let text = registry.manifest(MANIFEST, MANIFEST_LEN_MAX).await?;
    if let Some(wanted) = &reference.digest {
        check(wanted, &text)?;
    }
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| Problem::Unexpected(format!("its manifest can't be read ({error})")))?;
    let is_wasm = |layer: &&Descriptor| [LAYER, LAYER_BEFORE].contains(&layer.media_type.as_str());
    let wasm: Vec<_> = manifest.layers.iter().filter(is_wasm).collect();
    let [layer] = wasm[..] else {
        let types: Vec<_> = manifest
            .layers
            .iter()
            .map(|layer| layer.media_type.as_str())
            .collect();
        return Err(Problem::Layout(match (&types[..], wasm.len()) {
            ([], _) => format!("it has no layer, and the type `{}`", manifest.media_type),
            (_, 0) => format!("its layers have the types {}", types.join(", ")),
            (_, count) => format!("it has {count} layers with components"),
        }));
    };
    if layer.size > COMPONENT_LEN_MAX {
        return Err(Problem::TooLarge { len: layer.size });
    }
    // It becomes a part of a URL.
    if let Err(error) = layer.digest.parse::<Digest>() {
        return Err(Problem::Unexpected(error.to_string()));
    }
    let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
    let bytes = registry.blob(&layer.digest, size).await?;
    let digest = check(&layer.digest, &bytes)?;
    Ok(ComponentBytes {
        path: reference.to_string().into(),
        bytes,
        digest,
    })
}

fn check(wanted: &str, bytes: &[u8]) -> Result<Digest, Problem> {
    let found = Digest::of(bytes);
    if found.to_string() == wanted {
        return Ok(found);
    }
    let wanted = wanted.to_owned();
    Err(Problem::Digest { wanted, found })
}

/// Puts a component behind `reference`; the reference with the digest of the manifest, which names it for ever. The same
/// component always gives the same.
///
/// # Errors
/// [`OciError`].
pub async fn push(
    component: &ComponentBytes,
    reference: &Reference,
    registries: &Registries,
) -> Result<Reference, OciError> {
    let pushed = try_push(component, reference, registries).await;
    let digest = pushed.map_err(|problem| OciError {
        act: "push to",
        reference: reference.clone(),
        problem,
    })?;
    Ok(Reference {
        digest: Some(digest.to_string()),
        ..reference.clone()
    })
}

async fn try_push(
    component: &ComponentBytes,
    reference: &Reference,
    registries: &Registries,
) -> Result<Digest, Problem> {
    if reference.digest.is_some() {
        return Err(Problem::Pinned);
    }
    let registry = Registry::new(reference, registries, "pull,push");
    let config = config(component).to_string().into_bytes();
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST.to_owned(),
        config: Some(Descriptor::of(CONFIG, &config)),
        layers: vec![Descriptor::of(LAYER, &component.bytes)],
    };
    let manifest = serde_json::to_vec(&manifest)
        .map_err(|error| Problem::Unexpected(format!("the manifest can't be written ({error})")))?;
    registry.put_blob(component.bytes.clone().into()).await?;
    registry.put_blob(config.into()).await?;
    let digest = Digest::of(&manifest);
    registry.put_manifest(MANIFEST, manifest.into()).await?;
    Ok(digest)
}

/// What the layout says of a component beside its bytes. There is no time in it.
fn config(component: &ComponentBytes) -> serde_json::Value {
    let (imports, exports) = inspect(component).map_or_else(
        |_| (Vec::new(), Vec::new()),
        |told| {
            (
                told.imports.into_iter().map(|import| import.name).collect(),
                told.exports,
            )
        },
    );
    json!({
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [component.digest],
        "component": { "exports": exports, "imports": imports, "target": null },
    })
}

#[cfg(test)]
mod tests;
