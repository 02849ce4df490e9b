//! Typed forms of functions that take and give bytes and texts, which reflection is slow for: 40 bytes of host memory
//! for each byte of a `list<u8>`, and a copy one by one.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::Store;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Instance, Lift, LinkerInstance, Lower, types,
};

mod carried;

use super::{Crossing, ImportedFunction, Step, call};
use crate::component::imports::Function;
use crate::store::InstanceState;
use crate::value::ValueError;
use crate::value::wire::{CrossError, LazySignature, Signature};
use carried::Carried;

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

impl<P, R> Crossing for Typed<P, R>
where
    P: ComponentNamedList + Lower + Carried + Send + Sync + 'static,
    R: ComponentNamedList + Lift + Carried + Send + Sync + 'static,
{
    fn encode(&self, types: &Signature) -> Result<Bytes, CrossError> {
        types.encode_args(&self.params.to_values())
    }

    fn decode(self, types: &Signature, result: &[u8]) -> Result<R, CrossError> {
        let values = types.decode_result(result)?.into_iter().collect();
        R::of_values(values).ok_or_else(|| ValueError::Mismatch.into())
    }
}

fn add_as<P, R>(
    instance: &mut LinkerInstance<'_, InstanceState>,
    function: &Function,
    at: ImportedFunction,
    signature: &Arc<LazySignature>,
    types: &types::Component,
) -> wasmtime::Result<bool>
where
    P: ComponentNamedList + Lift + Lower + Carried + Send + Sync + 'static,
    R: ComponentNamedList + Lift + Lower + Carried + Send + Sync + 'static,
{
    if function.ty.typecheck::<P, R>(&types.instance_type()).is_err() {
        return Ok(false);
    }
    let signature = signature.clone();
    instance.func_wrap_async(&function.name, move |store, params: P| {
        let (caller, signature) = (store.data().call().clone(), signature.clone());
        let step = Typed::<P, R> {
            params,
            results: std::marker::PhantomData,
        };
        Box::new(async move { call(caller, at, &signature, step).await })
    })?;
    Ok(true)
}

type Blob = Vec<u8>;

/// Adds `function` in typed form if it has one of the shapes below.
///
/// # Errors
/// If the linker has it already.
pub(super) fn add(
    instance: &mut LinkerInstance<'_, InstanceState>,
    function: &Function,
    at: ImportedFunction,
    signature: &Arc<LazySignature>,
    types: &types::Component,
) -> wasmtime::Result<bool> {
    macro_rules! shapes {
        ($($params:ty => [$($result:ty),*]);* $(;)?) => {
            Ok($($(add_as::<$params, ($result,)>(instance, function, at, signature, types)?)||*)||*)
        };
    }
    shapes! {
        (String,) => [String, Blob, Result<String, String>, Result<Blob, String>, Option<Blob>];
        (Blob,) => [String, Blob, Result<String, String>, Result<Blob, String>];
        (String, Blob) => [Blob, Result<Blob, String>];
        (Blob, u32) => [Result<Blob, String>];
    }
}
