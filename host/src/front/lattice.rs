//! `wasmcloud:bus/lattice`: links that a guest chooses by their names.
//!
//! Owns the shape that components of wasmCloud 1.x were built against; what is chosen, and for how long, is
//! [`crate::link::Chosen`]'s.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use weft_compose::InterfacePattern;

use crate::store::InstanceState;

/// What an actor imports to choose links.
pub const INTERFACE: &str = "wasmcloud:bus/lattice";
/// The version whose function has no place for an error.
const WITHOUT_ERROR: &str = "1.0.0";
/// The versions that are served.
pub const VERSIONS: &[&str] = &[WITHOUT_ERROR, "2.0.0", "2.0.1"];

type Context<'a> = StoreContextMut<'a, InstanceState>;

/// What a guest's `call-target-interface` stands for: an interface that it imports, without a version.
pub(crate) struct CallTarget(String);

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let mut lattice = linker.instance(&format!("{INTERFACE}@{version}"))?;
        lattice.resource(
            "call-target-interface",
            ResourceType::host::<CallTarget>(),
            |mut context: Context<'_>, rep| {
                context
                    .data_mut()
                    .table()
                    .delete(Resource::<CallTarget>::new_own(rep))?;
                Ok(())
            },
        )?;
        lattice.func_wrap("[constructor]call-target-interface", new_target)?;
        if *version == WITHOUT_ERROR {
            lattice.func_wrap("set-link-name", set_or_trap)?;
        } else {
            lattice.func_wrap("set-link-name", set)?;
        }
    }
    Ok(())
}

fn new_target(
    mut context: Context<'_>,
    (namespace, package, interface): (String, String, String),
) -> wasmtime::Result<(Resource<CallTarget>,)> {
    let target = CallTarget(format!("{namespace}:{package}/{interface}"));
    Ok((context.data_mut().table().push(target)?,))
}

type Args = (String, Vec<Resource<CallTarget>>);

fn set(mut context: Context<'_>, args: Args) -> wasmtime::Result<(Result<(), String>,)> {
    let chosen = choose(&mut context, args)?;
    if let Err(reason) = &chosen {
        let call = context.data().call();
        if call.actor.may_log_failure() {
            tracing::warn!(
                actor = call.actor.name.as_str(),
                invocation = %call.id,
                reason,
                "a link was not chosen; add one of this name to the actor's links"
            );
        }
    }
    Ok((chosen,))
}

/// A guest that went on would use another link than it asked for.
fn set_or_trap(mut context: Context<'_>, args: Args) -> wasmtime::Result<()> {
    choose(&mut context, args)?.map_err(wasmtime::Error::msg)
}

/// All handles of `interfaces` end here, whatever comes of it.
fn choose(context: &mut Context<'_>, (name, interfaces): Args) -> wasmtime::Result<Result<(), String>> {
    let mut targets = Vec::with_capacity(interfaces.len());
    for handle in interfaces {
        targets.push(context.data_mut().table().delete(handle)?.0);
    }
    let parsed = targets.iter().map(|target| target.parse::<InterfacePattern>());
    let targets = match parsed.collect::<Result<Vec<_>, _>>() {
        Ok(targets) => targets,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let call = context.data().call();
    let target = call.target();
    let component = &target.actor.component.description;
    Ok(call.chosen.set(&target.links, component, &name, &targets))
}
