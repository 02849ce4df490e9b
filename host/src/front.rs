//! The interfaces that guests see.
//!
//! Owns the linker: what it holds is all that a component can ever reach. Each file below adapts one guest-facing
//! interface to the platform; none of them may decide who is allowed what.

pub mod blob_store;
pub mod config;
pub mod http_client;
pub mod key_value;
pub mod lattice;
pub mod logging;
pub mod messaging;
mod operation;
pub mod postgres;
pub mod secrets;
pub mod sql;
pub mod stdio;

use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::io;

use crate::engine::Engine;
use crate::store::InstanceState;

/// A linker with every interface of [`crate::component::inspect::provision`].
///
/// # Errors
/// Only if two interfaces claim the same name.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine.wasmtime());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    io_without_context(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    logging::add_to_linker(&mut linker)?;
    config::add_to_linker(&mut linker)?;
    key_value::add_to_linker(&mut linker)?;
    sql::add_to_linker(&mut linker)?;
    blob_store::add_to_linker(&mut linker)?;
    secrets::add_to_linker(&mut linker)?;
    messaging::add_to_linker(&mut linker)?;
    lattice::add_to_linker(&mut linker)?;
    postgres::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Replaces `wasi:io` by one that goes straight to the table. The library's makes the whole WASI context to reach it,
/// random seeds included, for each request that writes a body: 3 % of the time of a plain one.
fn io_without_context(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    struct Table;
    impl HasData for Table {
        type Data<'a> = &'a mut ResourceTable;
    }
    linker.allow_shadowing(true);
    io::error::add_to_linker::<_, Table>(linker, InstanceState::table)?;
    io::poll::add_to_linker::<_, Table>(linker, InstanceState::table)?;
    io::streams::add_to_linker::<_, Table>(linker, InstanceState::table)?;
    linker.allow_shadowing(false);
    Ok(())
}
