//! The manifest that a bare component stands for: `weft up x.wasm`.
//!
//! Owns the defaults: one app and one actor by the file's name, a route, and an embedded provider for each capability
//! that the component imports. Outgoing HTTP is denied unless it is allowed by name.

use weft_compose::capability::LATTICE;
use weft_compose::manifest::{Actor, ComponentRef, Link, Manifest, Provider, Route};
use weft_compose::name::{DEFAULT_NAMESPACE, label_from};
use weft_compose::record::LinkTarget;
use weft_compose::{ActorName, AllowPattern, Capability, InterfacePattern, Limits, NameError, ProviderName};

use crate::component::ComponentBytes;
use crate::component::inspect::inspect;

/// An interface that a component may import, and what it gets by default.
struct Default {
    package: &'static str,
    capability: Capability,
    backend: &'static str,
    provider: &'static str,
}

const DEFAULTS: &[Default] = &[
    Default {
        package: "wasi:keyvalue",
        capability: Capability::KeyValue,
        backend: "redb",
        provider: "key-value",
    },
    Default {
        package: "wasi:blobstore",
        capability: Capability::BlobStore,
        backend: "fs",
        provider: "blobs",
    },
    Default {
        package: "weft:sql",
        capability: Capability::Sql,
        backend: "sqlite",
        provider: "sql",
    },
    Default {
        package: "wasmcloud:messaging",
        capability: Capability::Messaging,
        backend: LATTICE,
        provider: "messaging",
    },
];

/// The manifest of `component`, served at `route`.
///
/// # Errors
/// If the file's name gives no name; [`label_from`] makes one of any text.
pub fn manifest(
    component: &ComponentBytes,
    route: &str,
    limits: &Limits,
    allow_http: &[AllowPattern],
) -> Result<Manifest, NameError> {
    let label = label_from(&component.path.file_stem().unwrap_or_default().to_string_lossy());
    let file = component.path.display().to_string();
    let mut manifest = Manifest::new(&file, None, &label)?;
    let mut actor = Actor::new(
        ActorName::new(DEFAULT_NAMESPACE, &label, &label)?,
        ComponentRef::Path(file),
    );
    actor.limits = limits.clone();
    // One that carries no readable WIT is told when it is loaded.
    let imports = inspect(component)
        .map(|inspection| inspection.imports)
        .unwrap_or_default();
    for default in DEFAULTS {
        let imported = |name: &str| {
            name.strip_prefix(default.package)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        let Ok(interface) = default.package.parse::<InterfacePattern>() else {
            continue;
        };
        if imports.iter().any(|import| imported(&import.name)) {
            let name = ProviderName::new(DEFAULT_NAMESPACE, &label, default.provider)?;
            let target = LinkTarget::Provider {
                name: name.clone(),
                bucket: None,
                shared: false,
            };
            actor.links.insert(interface.into(), Link::new(target));
            manifest.providers.insert(
                default.provider.to_owned(),
                Provider {
                    name: name.into(),
                    capability: default.capability,
                    backend: default.backend.to_owned().into(),
                    config: std::collections::BTreeMap::new(),
                    allow_from: Vec::new(),
                    command: None,
                },
            );
        }
    }
    if let (false, Ok(interface)) = (
        allow_http.is_empty(),
        "wasi:http/outgoing-handler".parse::<InterfacePattern>(),
    ) {
        let target = LinkTarget::Http {
            allow: allow_http.to_vec(),
        };
        actor.links.insert(interface.into(), Link::new(target));
    }
    manifest.routes.push(Route {
        path: route.to_owned(),
        strip_prefix: route != "/",
        ..Route::new(actor.name.value.clone())
    });
    manifest.actors.insert(label, actor);
    Ok(manifest)
}
