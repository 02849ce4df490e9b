//! What of a component other actors answer: the interfaces among its imports that the platform has no part in.
//!
//! Owns their list, in the component's order, and the lookup of what a component exports.

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex};

use super::inspect::{Provision, provision};
use crate::engine::Engine;

/// An interface that an actor is to be linked to.
pub struct ActorImport {
    /// With its version, for example `shop:api/catalog@0.1.0`.
    pub interface: String,
    /// Its functions that the component uses.
    pub functions: Vec<Function>,
}

/// One function of an interface.
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it takes and gives.
    pub ty: ComponentFunc,
}

/// The interfaces of nothing but functions and plain types that nothing here provides. An interface with a resource
/// can't be another actor's: each call has an instance of its own.
pub fn actor_imports(engine: &Engine, component: &Component) -> Vec<ActorImport> {
    let engine = engine.wasmtime();
    let ty = component.component_type();
    let mut found = Vec::new();
    for (name, item) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(instance) = &item.ty else {
            continue;
        };
        if provision(name) != Provision::Actor {
            continue;
        }
        let mut functions = Vec::new();
        let plain = instance.exports(engine).all(|(name, item)| match item.ty {
            ComponentItem::ComponentFunc(ty) => {
                functions.push(Function {
                    name: name.to_owned(),
                    ty,
                });
                true
            }
            ComponentItem::Type(_) => true,
            _ => false,
        });
        if plain && !functions.is_empty() {
            found.push(ActorImport {
                interface: name.to_owned(),
                functions,
            });
        }
    }
    found
}

/// An exported function.
pub struct Export {
    /// What it takes and gives.
    pub ty: ComponentFunc,
    /// Where it is.
    pub index: ComponentExportIndex,
}

/// The interfaces that a component exports, with their versions.
pub fn exported_interfaces(engine: &Engine, component: &Component) -> Vec<String> {
    let engine = engine.wasmtime();
    component
        .component_type()
        .exports(engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The functions of an exported interface, by exact name.
pub fn exported_functions(engine: &Engine, component: &Component, interface: &str) -> Vec<(String, Export)> {
    let engine = engine.wasmtime();
    let ty = component.component_type();
    let Some(ComponentItem::ComponentInstance(instance)) =
        ty.get_export(engine, interface).map(|item| item.ty)
    else {
        return Vec::new();
    };
    let Some(at) = component.get_export_index(None, interface) else {
        return Vec::new();
    };
    instance
        .exports(engine)
        .filter_map(|(name, item)| match item.ty {
            ComponentItem::ComponentFunc(ty) => {
                let index = component.get_export_index(Some(&at), name)?;
                Some((name.to_owned(), Export { ty, index }))
            }
            _ => None,
        })
        .collect()
}
