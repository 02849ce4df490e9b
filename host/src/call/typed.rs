//! Typed forms of functions that take and give bytes and texts, which reflection is slow for: 40 bytes of host memory
//! for each byte of a `list<u8>`, and a copy one by one.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use wasmtime::Store;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Instance, Lift, LinkerInstance, Lower, types,
};
use weft_lattice::codec::{Type, Value};

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

/// Has a macro take the shapes that there is a typed form of.
macro_rules! shapes {
    ($each:ident) => {
        $each! {
            (String,) => [String, Blob, Result<String, String>, Result<Blob, String>, Option<Blob>];
            (Blob,) => [String, Blob, Result<String, String>, Result<Blob, String>];
            (String, Blob) => [Blob, Result<Blob, String>];
            (Blob, u32) => [Result<Blob, String>];
        }
    };
}

/// Adds `function` in typed form if it has one of the shapes above.
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
    macro_rules! added {
        ($($params:ty => [$($result:ty),*]);* $(;)?) => {
            Ok($($(add_as::<$params, ($result,)>(instance, function, at, signature, types)?)||*)||*)
        };
    }
    shapes!(added)
}

/// Calls a function in typed form, with values that have its types.
pub(super) type Run = for<'a> fn(
    Vec<Value>,
    &'a mut Store<InstanceState>,
    &'a Instance,
    &'a ComponentExportIndex,
) -> BoxFuture<'a, wasmtime::Result<Vec<Value>>>;

/// A shape, and how a function of it is called.
struct Shape {
    params: Vec<Type>,
    result: Vec<Type>,
    run: Run,
}

/// The typed form of a function of these types, if it has one of the shapes above.
pub(super) fn run_of(types: &Signature) -> Option<Run> {
    static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
        macro_rules! listed {
            ($($params:ty => [$($result:ty),*]);* $(;)?) => {
                vec![$($(Shape {
                    params: <$params>::types(),
                    result: <($result,)>::types(),
                    run: run_as::<$params, ($result,)>,
                },)*)*]
            };
        }
        shapes!(listed)
    });
    let fits = |shape: &&Shape| types.params() == shape.params && types.result() == shape.result.first();
    SHAPES.iter().find(fits).map(|shape| shape.run)
}

fn run_as<'a, P, R>(
    args: Vec<Value>,
    store: &'a mut Store<InstanceState>,
    instance: &'a Instance,
    export: &'a ComponentExportIndex,
) -> BoxFuture<'a, wasmtime::Result<Vec<Value>>>
where
    P: ComponentNamedList + Lower + Carried + Send + Sync + 'static,
    R: ComponentNamedList + Lift + Carried + Send + Sync + 'static,
{
    async move {
        let params = P::of_values(args).ok_or(ValueError::Mismatch)?;
        let results = std::marker::PhantomData;
        let output: R = Typed { params, results }.run(store, instance, export).await?;
        Ok(output.to_values())
    }
    .boxed()
}
