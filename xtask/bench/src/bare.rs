//! The yardstick: a component in bare wasmtime, in Weft's own engine, with a WASI context and limits as anyone's.

use std::path::Path;

use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower, ResourceTable,
};
use wasmtime::{Engine, Result, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

/// What Weft gives an instance by default.
const MEMORY_LEN_MAX: usize = 256 << 20;

/// A function of a component whose imports are all resolved.
pub(crate) struct Bare {
    pre: InstancePre<BareState>,
    function: ComponentExportIndex,
}

pub(crate) struct BareState {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: StoreLimits,
}

impl WasiView for BareState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// Maps machine code.
pub(crate) fn component(engine: &Engine, machine_code: &Path) -> Result<Component> {
    // SAFETY: the file was compiled by this run's own compile child.
    unsafe { Component::deserialize_file(engine, machine_code) }
}

impl Bare {
    /// `import` adds what WASI doesn't answer.
    pub(crate) fn new(
        component: &Component,
        (interface, function): (&str, &str),
        import: impl FnOnce(&mut Linker<BareState>) -> Result<()>,
    ) -> Result<Self> {
        let mut linker = Linker::new(component.engine());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        import(&mut linker)?;
        Ok(Self {
            pre: linker.instantiate_pre(component)?,
            function: crate::weft::function(component, interface, function)?,
        })
    }

    /// One call in a new instance, which is dropped after it.
    pub(crate) async fn call<P, R>(&self, params: P) -> Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: Lift + Send + Sync + 'static,
        (R,): ComponentNamedList,
    {
        let limits = StoreLimitsBuilder::new().memory_size(MEMORY_LEN_MAX).build();
        let state = BareState {
            wasi: WasiCtx::builder().build(),
            table: ResourceTable::new(),
            limits,
        };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.epoch_deadline_async_yield_and_update(1);
        let instance = self.pre.instantiate_async(&mut store).await?;
        let function = instance.get_typed_func::<P, (R,)>(&mut store, &self.function)?;
        let (result,) = function.call_async(&mut store, params).await?;
        Ok(result)
    }
}
