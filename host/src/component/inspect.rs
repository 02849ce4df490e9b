//! What a component imports, exports and needs, and whether this host provides it.
//!
//! Owns the list of interfaces that the platform provides. `weft inspect` reads the component's WIT without
//! compiling it; the loader asks [`unlinked`] once it is compiled, so both tell the same.

use std::fmt;

use wasmparser::WasmFeatures;
use wasmtime::component::{Component, types::ComponentItem};
use weft_compose::Capability;
use weft_compose::capability::{Need, need};
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{Resolve, WorldItem, WorldKey};

use super::ComponentBytes;
use super::imports::ActorImport;
use crate::digest::Digest;
use crate::engine::Engine;
use crate::front;

/// The proposals that the engine takes: all that wasmtime turns on by default in this build.
pub const FEATURES: WasmFeatures = WasmFeatures::WASM3.union(WasmFeatures::COMPONENT_MODEL);

/// The interface that makes a component serve HTTP.
pub const INCOMING_HANDLER: &str = "wasi:http/incoming-handler";

/// How this host answers an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provision {
    /// The platform serves it.
    Platform,
    /// It links, and answers as if there were nothing: no variables, no files, no addresses.
    Empty,
    /// It links, and every use is answered by a denial.
    Denied,
    /// A link serves it: to a provider, or to where requests may go.
    Link,
    /// A link to another actor serves it.
    Actor,
    /// Nothing here serves it: the component can't be run.
    Missing,
}

impl Provision {
    /// What the operator should know about it.
    pub fn note(self) -> &'static str {
        match self {
            Self::Platform => "served by the platform",
            Self::Empty => "empty: an actor has no environment and no files",
            Self::Denied => "denied: an actor has no network of its own",
            Self::Link => "by a link to a provider",
            Self::Actor => "by a link to an actor",
            Self::Missing => "not provided: it will not start here",
        }
    }
}

/// Interfaces of WASI 0.2 that link, by name without version. Any 0.2 version is taken.
const WASI_0_2: &[(&str, Provision)] = &[
    ("wasi:cli/environment", Provision::Empty),
    ("wasi:cli/exit", Provision::Platform),
    ("wasi:cli/stderr", Provision::Platform),
    ("wasi:cli/stdin", Provision::Empty),
    ("wasi:cli/stdout", Provision::Platform),
    ("wasi:cli/terminal-input", Provision::Empty),
    ("wasi:cli/terminal-output", Provision::Empty),
    ("wasi:cli/terminal-stderr", Provision::Empty),
    ("wasi:cli/terminal-stdin", Provision::Empty),
    ("wasi:cli/terminal-stdout", Provision::Empty),
    ("wasi:clocks/monotonic-clock", Provision::Platform),
    ("wasi:clocks/wall-clock", Provision::Platform),
    ("wasi:filesystem/preopens", Provision::Empty),
    ("wasi:filesystem/types", Provision::Empty),
    ("wasi:http/outgoing-handler", Provision::Platform),
    ("wasi:http/types", Provision::Platform),
    ("wasi:io/error", Provision::Platform),
    ("wasi:io/poll", Provision::Platform),
    ("wasi:io/streams", Provision::Platform),
    ("wasi:random/insecure", Provision::Platform),
    ("wasi:random/insecure-seed", Provision::Platform),
    ("wasi:random/random", Provision::Platform),
    ("wasi:sockets/instance-network", Provision::Denied),
    ("wasi:sockets/ip-name-lookup", Provision::Denied),
    ("wasi:sockets/network", Provision::Denied),
    ("wasi:sockets/tcp", Provision::Denied),
    ("wasi:sockets/tcp-create-socket", Provision::Denied),
    ("wasi:sockets/udp", Provision::Denied),
    ("wasi:sockets/udp-create-socket", Provision::Denied),
];

/// Packages that no actor can serve to another.
const PLATFORM: &[&str] = &["wasi:", "weft:sql/"];

/// How this host answers the import `name`, for example `wasi:cli/stdout@0.2.3`.
pub fn provision(name: &str) -> Provision {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    let served = |known: bool, provision| if known { provision } else { Provision::Missing };
    match interface {
        front::logging::INTERFACE => {
            return served(front::logging::VERSIONS.contains(&version), Provision::Platform);
        }
        "wasi:config/store" | "wasi:config/runtime" => {
            return served(front::config::INTERFACES.contains(&name), Provision::Platform);
        }
        "wasi:keyvalue/store" | "wasi:keyvalue/atomics" | "wasi:keyvalue/batch" => {
            return served(front::key_value::VERSIONS.contains(&version), Provision::Link);
        }
        "wasi:blobstore/blobstore" | "wasi:blobstore/container" | "wasi:blobstore/types" => {
            return served(front::blob_store::VERSIONS.contains(&version), Provision::Link);
        }
        "weft:sql/database" | "weft:sql/types" => {
            return served(front::sql::VERSIONS.contains(&version), Provision::Link);
        }
        front::messaging::CONSUMER => {
            return served(front::messaging::VERSIONS.contains(&version), Provision::Link);
        }
        front::messaging::TYPES => {
            return served(front::messaging::VERSIONS.contains(&version), Provision::Platform);
        }
        front::lattice::INTERFACE => {
            return served(front::lattice::VERSIONS.contains(&version), Provision::Platform);
        }
        "wasmcloud:postgres/query" | "wasmcloud:postgres/prepared" => {
            return served(front::postgres::VERSIONS.contains(&version), Provision::Link);
        }
        "wasmcloud:postgres/types" => {
            return served(front::postgres::VERSIONS.contains(&version), Provision::Platform);
        }
        "wasmcloud:secrets/store" | "wasmcloud:secrets/reveal" => {
            return served(front::secrets::VERSIONS.contains(&version), Provision::Platform);
        }
        _ => {}
    }
    let known = WASI_0_2.iter().find(|(known, _)| *known == interface);
    match known {
        // A release candidate of 0.2.0 has other types under the same names.
        Some((_, provision)) if version.starts_with("0.2.") && !version.contains('-') => *provision,
        None if !PLATFORM.iter().any(|package| interface.starts_with(package)) => Provision::Actor,
        _ => Provision::Missing,
    }
}

/// The only backend whose providers can answer the import `name`, if it is one's own.
pub fn only_backend(name: &str) -> Option<&'static str> {
    let interface = name.split('@').next()?.parse().ok()?;
    weft_compose::capability::only_backend(&interface)
}

/// What a provider has to serve that answers the import `name`; `None` for one that is no provider's.
fn capability(name: &str) -> Option<Capability> {
    let interface = name.split('@').next()?.parse().ok()?;
    match (provision(name), need(&interface)) {
        (Provision::Link, Need::Provider(capability)) => Some(capability),
        _ => None,
    }
}

/// An import that nothing here provides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlinked {
    name: String,
}

impl fmt::Display for Unlinked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name)?;
        let interface = self.name.split('@').next().unwrap_or_default();
        if self.name.starts_with("wasi:") && self.name.contains("@0.3.") {
            f.write_str(" (WASI 0.3 is not served yet: build for WASI 0.2)")?;
        } else if WASI_0_2.iter().any(|(known, _)| *known == interface) {
            f.write_str(" (known here in the versions 0.2.x)")?;
        } else if provision(&self.name) == Provision::Actor {
            f.write_str(" (its resources can't cross from actor to actor)")?;
        }
        Ok(())
    }
}

/// The imports of `component` that would stay open. An import of nothing but types needs no one to serve it, and one of
/// functions and plain types can be another actor's.
pub fn unlinked(engine: &Engine, component: &Component, actors: &[ActorImport]) -> Vec<Unlinked> {
    let engine = engine.wasmtime();
    component
        .component_type()
        .imports(engine)
        .filter(|(name, item)| match &item.ty {
            ComponentItem::ComponentInstance(instance) => {
                let only_types = instance
                    .exports(engine)
                    .all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)));
                let missing = match provision(name) {
                    Provision::Missing => true,
                    Provision::Actor => !actors.iter().any(|import| import.interface == *name),
                    _ => false,
                };
                !only_types && missing
            }
            ComponentItem::Type(_) => false,
            _ => true,
        })
        .map(|(name, _)| Unlinked {
            name: name.to_owned(),
        })
        .collect()
}

/// One import, and how it would be answered.
#[derive(Debug, serde::Serialize)]
pub struct Import {
    /// The interface with its version, or a function's name.
    pub name: String,
    /// How it would be answered.
    pub provision: Provision,
    /// The capability that a provider has to serve for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<Capability>,
    /// The providers that do, if a host was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<Candidate>>,
}

/// A provider that could answer an import.
#[derive(Debug, serde::Serialize)]
pub struct Candidate {
    /// Its full name.
    pub name: String,
    /// What serves it.
    pub backend: String,
    /// `down` if it does not answer the host that was asked.
    pub state: Option<String>,
}

/// What `weft inspect` tells of a component.
#[derive(Debug, serde::Serialize)]
pub struct Inspection {
    /// The name of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub len: usize,
    /// In the component's order.
    pub imports: Vec<Import>,
    /// Interfaces and functions, in the component's order.
    pub exports: Vec<String>,
    /// Whether it can answer HTTP here.
    pub serves_http: bool,
    /// Whether every import would be linked.
    pub runs_here: bool,
}

/// Reads the component's own account of itself.
///
/// # Errors
/// A sentence, if the component carries no readable WIT.
pub fn inspect(component: &ComponentBytes) -> Result<Inspection, String> {
    let decoded = decode(&component.bytes).map_err(|error| format!("{error:#}"))?;
    let DecodedWasm::Component(resolve, world) = &decoded else {
        return Err("it is a WIT package in binary form, which holds types and no code".to_owned());
    };
    let world = &resolve.worlds[*world];
    let imports: Vec<Import> = world
        .imports
        .iter()
        .filter(|(_, item)| needs_someone(resolve, item))
        .map(|(key, _)| resolve_name(resolve, key))
        .map(|name| Import {
            provision: provision(&name),
            capability: capability(&name),
            providers: None,
            name,
        })
        .collect();
    let exports: Vec<String> = world
        .exports
        .keys()
        .map(|key| resolve_name(resolve, key))
        .collect();
    Ok(Inspection {
        digest: component.digest,
        len: component.bytes.len(),
        serves_http: exports.iter().any(|name| serves_http(name)),
        runs_here: imports
            .iter()
            .all(|import| import.provision != Provision::Missing),
        imports,
        exports,
    })
}

/// Whether an export of this name answers HTTP requests here.
pub fn serves_http(export: &str) -> bool {
    matches!(export.split_once('@'), Some((INCOMING_HANDLER, version)) if version.starts_with("0.2.") && !version.contains('-'))
}

fn resolve_name(resolve: &Resolve, key: &WorldKey) -> String {
    resolve.name_world_key(key)
}

/// An import of nothing but types needs no one to serve it.
fn needs_someone(resolve: &Resolve, item: &WorldItem) -> bool {
    match item {
        WorldItem::Interface { id, .. } => {
            let interface = &resolve.interfaces[*id];
            let has_resource = || {
                interface
                    .types
                    .values()
                    .any(|id| matches!(resolve.types[*id].kind, wit_parser::TypeDefKind::Resource))
            };
            !interface.functions.is_empty() || has_resource()
        }
        WorldItem::Function(_) => true,
        WorldItem::Type { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_every_released_wasi_0_2_and_no_candidate() {
        assert_eq!(provision("wasi:cli/stdout@0.2.0"), Provision::Platform);
        assert_eq!(provision("wasi:cli/stdout@0.2.12"), Provision::Platform);
        assert_eq!(
            provision("wasi:cli/stdout@0.2.0-rc-2023-11-10"),
            Provision::Missing
        );
        assert_eq!(provision("wasi:cli/stdout@0.3.0"), Provision::Missing);
        assert_eq!(provision("wasi:cli/stdout"), Provision::Missing);
    }

    #[test]
    fn knows_logging_by_both_of_its_names() {
        assert_eq!(provision("wasi:logging/logging"), Provision::Platform);
        assert_eq!(provision("wasi:logging/logging@0.1.0-draft"), Provision::Platform);
        assert_eq!(provision("wasi:logging/logging@9.9.9"), Provision::Missing);
    }

    #[test]
    fn tells_which_capability_serves_what_a_provider_answers() {
        for (name, expected) in [
            ("wasi:keyvalue/store@0.2.0-draft", Some(Capability::KeyValue)),
            ("weft:sql/database@0.1.0", Some(Capability::Sql)),
            (
                "wasi:blobstore/blobstore@0.2.0-draft",
                Some(Capability::BlobStore),
            ),
            ("wasmcloud:messaging/consumer@0.2.0", Some(Capability::Messaging)),
            ("wasi:keyvalue/store@9.9.9", None),
            ("wasi:http/outgoing-handler@0.2.0", None),
            ("wasi:cli/stdout@0.2.0", None),
            ("shop:api/pricing@1.0.0", None),
        ] {
            assert_eq!(capability(name), expected, "{name}");
        }
    }

    #[test]
    fn says_that_wasi_0_3_is_to_come() {
        let unlinked = Unlinked {
            name: "wasi:http/handler@0.3.0".to_owned(),
        };
        assert!(unlinked.to_string().contains("build for WASI 0.2"));
    }
}
