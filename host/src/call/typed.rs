//! Typed forms of functions that take and give bytes and texts, which reflection is slow for: 40 bytes of host memory
//! for each byte of a `list<u8>`, and a copy one by one.

use wasmtime::Store;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Instance, Lift, LinkerInstance, Lower, types,
};

use super::{ImportedFunction, Step, call};
use crate::component::imports::Function;
use crate::store::InstanceState;

/// A call whose values have a type that is known here.
struct Typed<P, R> {
    params: P,
    results: std::marker::PhantomData<fn() -> R>,
}

impl<P, R> Step for Typed<P, R>
where
    P: ComponentNamedList + Lower + Send + Sync + 'static,
    R: ComponentNamedList + Lift + Send + Sync + 'static,
{
    type Output = R;

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> wasmtime::Result<R> {
        let function = instance.get_typed_func::<P, R>(&mut *store, export)?;
        function.call_async(store, self.params).await
    }
}

fn add_as<P, R>(
    instance: &mut LinkerInstance<'_, InstanceState>,
    function: &Function,
    at: ImportedFunction,
    types: &types::Component,
) -> wasmtime::Result<bool>
where
    P: ComponentNamedList + Lift + Lower + Send + Sync + 'static,
    R: ComponentNamedList + Lift + Lower + Send + Sync + 'static,
{
    if function.ty.typecheck::<P, R>(&types.instance_type()).is_err() {
        return Ok(false);
    }
    instance.func_wrap_async(&function.name, move |store, params: P| {
        let caller = store.data().call().clone();
        let step = Typed::<P, R> {
            params,
            results: std::marker::PhantomData,
        };
        Box::new(call(caller, at, step))
    })?;
    Ok(true)
}

type Bytes = Vec<u8>;

/// Adds `function` in typed form if it has one of the shapes below.
///
/// # Errors
/// If the linker has it already.
pub(super) fn add(
    instance: &mut LinkerInstance<'_, InstanceState>,
    function: &Function,
    at: ImportedFunction,
    types: &types::Component,
) -> wasmtime::Result<bool> {
    macro_rules! shapes {
        ($($params:ty => [$($result:ty),*]);* $(;)?) => {
            Ok($($(add_as::<$params, ($result,)>(instance, function, at, types)?)||*)||*)
        };
    }
    shapes! {
        (String,) => [String, Bytes, Result<String, String>, Result<Bytes, String>, Option<Bytes>];
        (Bytes,) => [String, Bytes, Result<String, String>, Result<Bytes, String>];
        (String, Bytes) => [Bytes, Result<Bytes, String>];
        (Bytes, u32) => [Result<Bytes, String>];
    }
}
