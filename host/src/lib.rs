//! The Weft host, one process of the mesh.
//!
//! Owns what runs components: engine, instances, ingress, admin. In reading order:
//!
//! - [`host`]: the assembly and its stop order; the only module that knows all others.
//! - [`engine`], [`system`]: wasmtime, its pool, and what the kernel grants it.
//! - [`component`]: from bytes to something that can be instantiated.
//! - [`store`], [`front`]: what an instance holds, and the interfaces it sees.
//! - [`state`], [`link`], [`call`]: what is served as one snapshot, what imports resolve to, calls between actors.
//! - [`value`]: values of components as the lattice carries them.
//! - [`actor`], [`admission`], [`invocation`]: who is called, who may run, and one call's life.
//! - [`memory`]: what a peak has left behind, given back.
//! - [`deploy`], [`desired`], [`reconcile`], [`artifact`], [`provider`]: what is wanted, and how it is made so.
//! - [`secret`]: root keys and the values that they open.
//! - [`moving`]: data of providers on its way to other backends.
//! - [`mesh`]: this host among the others of its lattice.
//! - [`oci`]: components in registries.
//! - [`ingress`]: HTTP in. [`admin`]: what operators ask. [`logs`]: the last lines of the log.
//! - [`config`], [`data`], [`shutdown`], [`panics`], [`cli`]: the process around it.

pub mod actor;
pub mod admin;
pub mod admission;
pub mod artifact;
pub mod call;
pub mod cli;
pub mod command;
pub mod component;
pub mod config;
pub mod data;
pub mod deploy;
pub mod desired;
pub mod digest;
pub mod engine;
pub mod front;
pub mod generate;
pub mod host;
pub mod ingress;
pub mod instance;
pub mod invocation;
pub mod link;
pub mod logs;
pub mod memory;
pub mod mesh;
pub mod moving;
pub mod oci;
pub mod panics;
pub mod provider;
pub mod quota;
pub mod reconcile;
pub mod secret;
pub mod shutdown;
pub mod state;
pub mod store;
pub mod system;
pub mod value;
