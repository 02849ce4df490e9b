//! The interfaces that guests see.
//!
//! Owns the linker: what it holds is all that a component can ever reach. Each file below adapts one guest-facing
//! interface to the platform; none of them may decide who is allowed what.

pub mod http_client;
pub mod logging;
pub mod stdio;

use wasmtime::component::Linker;

use crate::engine::Engine;
use crate::store::InstanceState;

/// A linker with every interface of [`crate::component::inspect::provision`].
///
/// # Errors
/// Only if two interfaces claim the same name.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine.wasmtime());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    logging::add_to_linker(&mut linker)?;
    Ok(linker)
}
