//! Links that an invocation chose by their names.
//!
//! An invocation begins with the default links and may choose others, interface by interface. What it chose is its own,
//! and ends with it. Names are looked up when they are chosen: a call finds its link by two indexes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use weft_compose::InterfacePattern;
use weft_compose::capability::{Need, need};

use super::LinkTable;
use crate::component::description::Description;

/// What links are for, beside other actors. In the order of the constants of [`Import`].
const PLATFORM: [&str; 10] = [
    "wasi:keyvalue/store",
    "wasi:keyvalue/atomics",
    "wasi:keyvalue/batch",
    "wasi:blobstore/blobstore",
    "wasi:blobstore/container",
    "weft:sql/database",
    "wasmcloud:messaging/consumer",
    "wasi:http/outgoing-handler",
    "wasmcloud:postgres/query",
    "wasmcloud:postgres/prepared",
];

/// An interface that an actor imports and is linked to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import(usize);

impl Import {
    /// `wasi:keyvalue/store`.
    pub const KEY_VALUE: Self = Self(0);
    /// `wasi:keyvalue/atomics`.
    pub const KEY_VALUE_ATOMICS: Self = Self(1);
    /// `wasi:keyvalue/batch`.
    pub const KEY_VALUE_BATCH: Self = Self(2);
    /// `wasi:blobstore/blobstore`.
    pub const BLOB_STORE: Self = Self(3);
    /// `wasi:blobstore/container`.
    pub const BLOB_CONTAINER: Self = Self(4);
    /// `weft:sql/database`.
    pub const SQL: Self = Self(5);
    /// `wasmcloud:messaging/consumer`.
    pub const MESSAGING: Self = Self(6);
    /// `wasi:http/outgoing-handler`.
    pub const HTTP: Self = Self(7);

    /// `wasmcloud:postgres/query`.
    pub const POSTGRES: Self = Self(8);
    /// `wasmcloud:postgres/prepared`.
    pub const POSTGRES_PREPARED: Self = Self(9);

    /// By the component's own numbering of what actors answer.
    pub fn actor(number: usize) -> Self {
        Self(PLATFORM.len() + number)
    }

    /// All imports of a component that `interface` names.
    fn of<'a>(
        component: &'a Description,
        interface: &'a InterfacePattern,
    ) -> impl Iterator<Item = Self> + 'a {
        let names = |name: &str| {
            name.parse::<InterfacePattern>()
                .is_ok_and(|own| interface.covers(&own))
        };
        let actors = component
            .actor_imports
            .iter()
            .map(|import| import.interface.as_str());
        let all = PLATFORM.into_iter().chain(actors).enumerate();
        all.filter(move |(_, name)| names(name)).map(|(at, _)| Self(at))
    }
}

/// The name of a link, within one link table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameIndex(pub(super) u16);

impl NameIndex {
    /// That which an invocation begins with.
    pub const DEFAULT: Self = Self(0);
}

/// The names that an invocation chose, by [`Import`]. Empty in those that choose none, which most do.
#[derive(Debug, Default)]
pub struct Chosen(OnceLock<Box<[AtomicU16]>>);

impl Chosen {
    /// The name of the link by which calls of `import` go now.
    pub fn of(&self, import: Import) -> NameIndex {
        let chosen = self.0.get().and_then(|all| all.get(import.0));
        // A guest runs on one thread at a time, and what hands it on orders this too.
        chosen.map_or(NameIndex::DEFAULT, |name| NameIndex(name.load(Ordering::Relaxed)))
    }

    /// Lets calls of `interfaces` go by the links of this name from now on: all of them, or none if one has no such link.
    ///
    /// # Errors
    /// Which has none, in one sentence for the guest.
    pub fn set(
        &self,
        links: &LinkTable,
        component: &Description,
        name: &str,
        interfaces: &[InterfacePattern],
    ) -> Result<(), String> {
        let mut changes = Vec::new();
        for interface in interfaces {
            let imports: Vec<_> = Import::of(component, interface).collect();
            match need(interface) {
                // Served without a link, or with those of the interfaces whose types it has.
                Need::Nothing | Need::Provider(_) | Need::Http if imports.is_empty() => {}
                Need::Unknown | Need::Actor if imports.is_empty() => {
                    return Err(format!(
                        "this actor imports no {interface} that a link could be for"
                    ));
                }
                _ => {
                    let name = links.choose(name, interface)?;
                    changes.extend(imports.into_iter().map(|import| (import, name)));
                }
            }
        }
        let len = PLATFORM.len() + component.actor_imports.len();
        let all = self
            .0
            .get_or_init(|| (0..len).map(|_| AtomicU16::new(0)).collect());
        for (import, NameIndex(name)) in changes {
            if let Some(chosen) = all.get(import.0) {
                chosen.store(name, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_constant_is_the_place_of_its_interface() {
        for (import, interface) in [
            (Import::KEY_VALUE, "wasi:keyvalue/store"),
            (Import::KEY_VALUE_ATOMICS, "wasi:keyvalue/atomics"),
            (Import::KEY_VALUE_BATCH, "wasi:keyvalue/batch"),
            (Import::BLOB_STORE, "wasi:blobstore/blobstore"),
            (Import::BLOB_CONTAINER, "wasi:blobstore/container"),
            (Import::SQL, "weft:sql/database"),
            (Import::MESSAGING, "wasmcloud:messaging/consumer"),
            (Import::HTTP, "wasi:http/outgoing-handler"),
            (Import::POSTGRES, "wasmcloud:postgres/query"),
            (Import::POSTGRES_PREPARED, "wasmcloud:postgres/prepared"),
        ] {
            assert_eq!(PLATFORM[import.0], interface);
        }
        assert_eq!(Import::actor(0).0, PLATFORM.len());
    }
}
