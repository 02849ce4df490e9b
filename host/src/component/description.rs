//! What a component takes and gives, in words.
//!
//! Owns what is kept of a component that is not loaded: enough to check and resolve links, without its machine code.
//! It is stored beside the component ([`crate::artifact`]), and is a function of its bytes alone. What it can't answer,
//! values by reflection, needs the component itself ([`super::lazy`]).

use serde::{Deserialize, Serialize};
use wasmtime::component::Component;
use wasmtime::component::types::ComponentFunc;

use super::imports::{ActorImport, exported_functions, exported_interfaces};
use super::inspect::{Provision, provision};
use crate::engine::Engine;
use crate::front::lattice;
use crate::link::check::{signature, types};

/// The form that this version writes; another one is made anew from the component.
const VERSION: u32 = 1;

/// What a component takes and gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    v: u32,
    /// The component's size in bytes, as wasm.
    pub len: usize,
    /// Whether it can answer HTTP requests.
    pub http: bool,
    /// All of its imports, and how they were answered when this was written.
    imports: Vec<Import>,
    /// What other actors are to answer, in the component's order.
    pub actor_imports: Vec<Interface>,
    /// What it exports, in the component's order.
    pub exports: Vec<Interface>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Import {
    name: String,
    provision: Provision,
}

/// An interface and its functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// With its version, for example `shop:api/catalog@0.1.0`.
    pub interface: String,
    /// Its functions; of an import, those that the component uses.
    pub functions: Vec<Function>,
}

/// A function and its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its type as WIT writes it, for people.
    pub signature: String,
    /// A digest of what it takes and gives, by which two functions are compared; the names of parameters are no part of
    /// it. `None` if that can't cross from actor to actor.
    pub types: Option<String>,
}

impl Function {
    fn new(name: &str, ty: &ComponentFunc) -> Self {
        Self {
            name: name.to_owned(),
            signature: signature(ty),
            types: types(ty),
        }
    }
}

impl Description {
    /// Describes a component of `len` bytes; `http` is whether its handler of requests, if any, has the right types.
    pub fn of(
        engine: &Engine,
        component: &Component,
        imports: &[ActorImport],
        http: bool,
        len: usize,
    ) -> Self {
        let ty = component.component_type();
        let all = ty.imports(engine.wasmtime()).map(|(name, _)| Import {
            name: name.to_owned(),
            provision: provision(name),
        });
        let actor_imports = imports.iter().map(|import| {
            let functions = import.functions.iter();
            Interface {
                interface: import.interface.clone(),
                functions: functions.map(|f| Function::new(&f.name, &f.ty)).collect(),
            }
        });
        let exports = exported_interfaces(engine, component)
            .into_iter()
            .map(|interface| {
                let functions = exported_functions(engine, component, &interface);
                Interface {
                    functions: functions
                        .iter()
                        .map(|(name, export)| Function::new(name, &export.ty))
                        .collect(),
                    interface,
                }
            });
        Self {
            v: VERSION,
            len,
            http,
            imports: all.collect(),
            actor_imports: actor_imports.collect(),
            exports: exports.collect(),
        }
    }

    /// Whether this host would write the same: neither the form nor what the platform provides has changed since.
    pub fn is_current(&self) -> bool {
        self.v == VERSION
            && self
                .imports
                .iter()
                .all(|import| provision(&import.name) == import.provision)
    }

    /// The interfaces that it imports and providers serve.
    pub fn provider_imports(&self) -> impl Iterator<Item = &str> {
        self.imports
            .iter()
            .filter(|import| import.provision == Provision::Link && !import.name.contains("/types@"))
            .map(|import| import.name.as_str())
    }

    /// Whether it can choose links by their names.
    pub fn chooses_links(&self) -> bool {
        let choice = |name: &str| name.split('@').next() == Some(lattice::INTERFACE);
        self.imports.iter().any(|import| choice(&import.name))
    }

    /// Where an exported function is among all that are exported, in order: its place in
    /// [`LoadedComponent::functions`](super::LoadedComponent::functions).
    pub fn position(&self, interface: &str, function: &str) -> Option<usize> {
        let mut before = 0;
        for export in &self.exports {
            if export.interface == interface {
                let at = export.functions.iter().position(|own| own.name == function)?;
                return Some(before + at);
            }
            before += export.functions.len();
        }
        None
    }
}
