//! `wasi:config` in its three drafts, whose functions are the same: the actor's configuration, and where its links go.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use crate::store::InstanceState;

/// The interfaces that are served.
pub const INTERFACES: &[&str] = &[
    "wasi:config/store@0.2.0-draft",
    "wasi:config/runtime@0.2.0-draft",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/store@0.2.0-rc.1",
];

/// The interface has errors; a table in memory has none.
#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for interface in INTERFACES {
        let mut instance = linker.instance(interface)?;
        instance.func_wrap("get", get)?;
        instance.func_wrap("get-all", get_all)?;
    }
    Ok(())
}

type Context<'a> = StoreContextMut<'a, InstanceState>;

fn get(context: Context<'_>, (key,): (String,)) -> wasmtime::Result<(Result<Option<String>, Error>,)> {
    let config = &context.data().call().target().links.config;
    let found = config.binary_search_by(|(known, _)| known.as_str().cmp(&key));
    Ok((Ok(found.ok().map(|at| config[at].1.clone())),))
}

type Pairs = Vec<(String, String)>;

fn get_all(context: Context<'_>, (): ()) -> wasmtime::Result<(Result<Pairs, Error>,)> {
    Ok((Ok(context.data().call().target().links.config.to_vec()),))
}
