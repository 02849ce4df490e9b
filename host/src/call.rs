//! Calls from one actor to another.
//!
//! Owns the functions that a component sees where another actor is linked, and the step from the caller's instance
//! into a new one of the callee, or to another host ([`remote`]). On this host values are handed over as they are: in typed form where they are bytes and texts
//! ([`typed`]), reflected for the rest. It must not know where a link comes from; see [`crate::link`].

pub mod remote;
mod typed;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tracing::Instrument as _;
use tracing::field::Empty;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance, Linker, Val, types};
use weft_observability::context_of;
use weft_observability::metrics::{CallPath, Outcome};

use crate::component::imports::ActorImport;
use crate::component::lazy::InUse;
use crate::instance::LiveInstance;
use crate::invocation::record::{Record, classify};
use crate::invocation::{Call, CallError, ErrorKind, Metered};
use crate::link::{Import, Linked};
use crate::store::InstanceState;
use crate::value::wire::{CrossError, LazySignature, Signature};
use crate::value::{ValueError, val_of, value_of};
use weft_lattice::codec::{Type, Value};

/// A function among a component's imports, by position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImportedFunction {
    import: usize,
    function: usize,
}

/// What is done with an instance of the callee.
pub trait Step: Send {
    /// What comes of it.
    type Output: Send;

    /// Calls the function `export` of `instance`.
    fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> impl Future<Output = wasmtime::Result<Self::Output>> + Send;
}

/// A step that may be taken on another host.
pub(crate) trait Crossing: Step {
    /// The arguments as bytes, for a callee on another host.
    ///
    /// # Errors
    /// They can't cross.
    fn encode(&self, types: &Signature) -> Result<Bytes, CrossError>;

    /// What comes of it, from the bytes of the result.
    ///
    /// # Errors
    /// They are something else.
    fn decode(self, types: &Signature, result: &[u8]) -> Result<Self::Output, CrossError>;
}

/// A call whose values are only known by reflection. A `list<u8>` costs 40 bytes a byte here.
struct Reflected<'a> {
    params: &'a [Val],
    results: &'a mut [Val],
}

impl Step for Reflected<'_> {
    type Output = ();

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> wasmtime::Result<()> {
        let function = instance
            .get_func(&mut *store, export)
            .ok_or_else(|| wasmtime::format_err!("the callee has no such function"))?;
        function.call_async(store, self.params, self.results).await
    }
}

impl Crossing for Reflected<'_> {
    fn encode(&self, types: &Signature) -> Result<Bytes, CrossError> {
        let args = values_of(types.params(), self.params)?;
        types.encode_args(&args)
    }

    fn decode(self, types: &Signature, result: &[u8]) -> Result<(), CrossError> {
        let value = types.decode_result(result)?;
        match (self.results, value) {
            ([result], Some(value)) => *result = val_of(value),
            ([], None) => {}
            _ => return Err(ValueError::Mismatch.into()),
        }
        Ok(())
    }
}

/// The same with values of its own, for calls that no guest makes.
pub struct ByValue {
    /// The arguments.
    pub params: Vec<Val>,
    /// Whether the function has a result.
    pub has_result: bool,
}

impl Step for ByValue {
    type Output = Option<Val>;

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> wasmtime::Result<Option<Val>> {
        let function = instance
            .get_func(&mut *store, export)
            .ok_or_else(|| wasmtime::format_err!("the component has no such function"))?;
        let mut results = vec![Val::Bool(false); usize::from(self.has_result)];
        function.call_async(store, &self.params, &mut results).await?;
        Ok(results.pop())
    }
}

/// The same with values as the lattice carries them, for a caller on another host.
pub struct FromAfar {
    /// The function's types; they can cross.
    pub types: Arc<LazySignature>,
    /// The arguments, of these types.
    pub args: Vec<Value>,
}

impl Step for FromAfar {
    /// The result, if there is one.
    type Output = Vec<Value>;

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> wasmtime::Result<Vec<Value>> {
        let types = self.types.get()?;
        if let Some(run) = typed::run_of(types) {
            return run(self.args, store, instance, export).await;
        }
        let step = ByValue {
            params: self.args.into_iter().map(val_of).collect(),
            has_result: types.result().is_some(),
        };
        let result = step.run(store, instance, export).await?;
        let of: Vec<Type> = types.result().cloned().into_iter().collect();
        let result: Vec<Val> = result.into_iter().collect();
        Ok(values_of(&of, &result)?)
    }
}

/// Values as the lattice carries them.
///
/// # Errors
/// They are not of these types.
fn values_of(types: &[Type], vals: &[Val]) -> Result<Vec<Value>, ValueError> {
    if types.len() != vals.len() {
        return Err(ValueError::Mismatch);
    }
    std::iter::zip(types, vals)
        .map(|(ty, val)| value_of(ty, val))
        .collect()
}

/// Puts the functions of `import`, the component's import number `number`, into `linker`.
///
/// # Errors
/// If the linker has them already.
pub(crate) fn add_to_linker(
    linker: &mut Linker<InstanceState>,
    number: usize,
    import: &ActorImport,
    types: &types::Component,
) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&import.interface)?;
    for (position, function) in import.functions.iter().enumerate() {
        let at = ImportedFunction {
            import: number,
            function: position,
        };
        let signature = Arc::new(LazySignature::new(function.ty.clone()));
        if typed::add(&mut instance, function, at, &signature, types)? {
            continue;
        }
        instance.func_new_async(&function.name, move |store, _, params, results| {
            let (caller, signature) = (store.data().call().clone(), signature.clone());
            Box::new(async move { call(caller, at, &signature, Reflected { params, results }).await })
        })?;
    }
    Ok(())
}

/// One call, as the caller's guest sees it: a failure ends the guest, as its interface has no place for it.
async fn call<S: Crossing>(
    caller: Arc<Call>,
    at: ImportedFunction,
    signature: &LazySignature,
    step: S,
) -> wasmtime::Result<S::Output> {
    let mut path = CallPath::Local;
    let result = resolve_and_run(&caller, at, signature, step, &mut path).await;
    let outcome = result
        .as_ref()
        .map_or_else(|error: &CallError| error.kind.outcome(), |_| Outcome::Ok);
    caller.actor.metrics.call(path, outcome);
    result.map_err(wasmtime::Error::new)
}

async fn resolve_and_run<S: Crossing>(
    caller: &Call,
    at: ImportedFunction,
    signature: &LazySignature,
    step: S,
    path: &mut CallPath,
) -> Result<S::Output, CallError> {
    let links = caller.links(Import::actor(at.import));
    let Some(linked) = links.function(at.import, at.function) else {
        let interface = &caller.target().actor.component.description.actor_imports[at.import].interface;
        let (kind, cause) = match links.is_denied(interface) {
            true => (
                ErrorKind::Denied,
                wasmtime::format_err!(
                    "what is linked to {interface} is another app's, which does not let this one"
                ),
            ),
            false => (
                ErrorKind::NotFound,
                wasmtime::format_err!("nothing is linked to {interface}"),
            ),
        };
        return Err(CallError::refused(kind, Some(cause)));
    };
    let state = &caller.state;
    let remote = match linked {
        Linked::There(at) => Some(state.remote(at)),
        // Local is not absolute: where even the queue is full, another host may have room.
        Linked::Here(at, _) => {
            let here = state.actor(at);
            here.elsewhere
                .as_ref()
                .filter(|there| here.actor.admission.is_full() && there.hosts.reach().is_some())
        }
    };
    let callee = match (remote, linked) {
        (Some(remote), _) => Some(&remote.info),
        (None, Linked::There(_)) => None,
        (None, Linked::Here(at, _)) => Some(&state.actor(at).actor.info),
    };
    let parent = tracing::Span::current();
    let span = match callee {
        Some(callee) if !parent.is_none() => call_span(caller, at, &callee.name),
        _ => parent,
    };
    let trace = context_of(&span).or_else(|| caller.trace.clone());
    let ran = match (remote, linked) {
        (Some(remote), _) => {
            let import = &caller.target().actor.component.description.actor_imports[at.import];
            let function = &import.functions[at.function].name;
            *path = CallPath::Far;
            let called = remote::run(
                caller,
                remote,
                &import.interface,
                function,
                signature,
                trace,
                step,
            );
            let called = elsewhere(caller, called).instrument(span.clone()).await;
            called.map(|(output, ring)| {
                *path = ring;
                output
            })
        }
        (None, Linked::Here(target, function)) => {
            let call = caller.child(target, trace)?;
            span.record("faas.invocation_id", tracing::field::display(call.id));
            within_deadline(caller, call, function, step)
                .instrument(span.clone())
                .await
        }
        (None, Linked::There(_)) => Err(CallError::refused(ErrorKind::Unavailable, None)),
    };
    span.record("weft.call.path", path.as_str());
    if let Err(error) = &ran {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", error.kind.as_str());
    }
    ran
}

fn call_span(caller: &Call, at: ImportedFunction, target: &weft_compose::ActorName) -> tracing::Span {
    let import = &caller.target().actor.component.description.actor_imports[at.import];
    let function = import.functions[at.function].name.as_str();
    tracing::info_span!(
        target: "weft",
        "actor.call",
        otel.name = format!("{}/{function}", import.interface),
        otel.kind = "internal",
        otel.status_code = Empty,
        error.type = Empty,
        rpc.system.name = "weft",
        rpc.service = import.interface.as_str(),
        rpc.method = function,
        faas.invocation_id = Empty,
        weft.actor = target.as_str(),
        weft.call.path = Empty,
        weft.call.hops = caller.hops + 1,
    )
}

/// Waits for what runs on another host, which is not on the caller's account.
async fn elsewhere<T>(caller: &Call, called: impl Future<Output = T>) -> T {
    let mut called = pin!(called);
    poll_fn(|cx| {
        caller.cpu.end_poll();
        let polled = called.as_mut().poll(cx);
        caller.cpu.start_poll();
        polled
    })
    .await
}

/// Runs a call until it ends or its own time is up. The caller's time is watched by whoever runs the caller.
async fn within_deadline<S: Step>(
    caller: &Call,
    call: Arc<Call>,
    function: usize,
    step: S,
) -> Result<S::Output, CallError> {
    let mut guest = pin!(Metered::new(call.clone(), run(call.clone(), function, step)));
    let mut timer = None;
    let ended = poll_fn(|cx| {
        // What the callee uses is on its own account.
        caller.cpu.end_poll();
        let polled = guest.as_mut().poll(cx);
        caller.cpu.start_poll();
        if let Poll::Ready(ended) = polled {
            return Poll::Ready(Some(ended));
        }
        if call.deadline >= caller.deadline {
            return Poll::Pending;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(call.deadline.into())));
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await;
    ended.unwrap_or_else(|| {
        call.expire();
        Err(CallError::started(ErrorKind::Deadline))
    })
}

/// The whole life of an instance that serves `call`, which is of the function at this
/// [position](crate::component::description::Description::position) among all that the target exports.
///
/// # Errors
/// [`CallError`]; it has been logged and counted.
pub async fn run<S: Step>(call: Arc<Call>, function: usize, step: S) -> Result<S::Output, CallError> {
    let mut record = Record::new(call.clone());
    let admission = &call.target().actor.admission;
    let _place = match admission.admit(call.hops == 0).await {
        Ok(place) => place,
        Err(reason) => return Err(record.shed(reason)),
    };
    record.admitted = Some(call.arrived.elapsed());
    let component = match call.target().actor.component.get().await {
        Ok(component) => component,
        Err(error) => return record.finish(Err(error.into())),
    };
    let mut live = LiveInstance::of(&call, &component);
    let ended = instantiate_and_step(&mut live, component, function, step, &mut record).await;
    record.peak_memory = Some(live.store.data().memory.peak());
    let result = record.finish(ended.map_err(|error| classify(error, &live.store)));
    if result.is_ok() {
        live.keep();
    }
    result
}

async fn instantiate_and_step<S: Step>(
    live: &mut LiveInstance,
    component: InUse,
    function: usize,
    step: S,
    record: &mut Record,
) -> wasmtime::Result<S::Output> {
    let export = *component
        .functions
        .get(function)
        .ok_or_else(|| wasmtime::format_err!("the callee has no such function"))?;
    let instance = live.instantiate(&component).await?;
    drop(component);
    record.started = Some(record.call.arrived.elapsed());
    step.run(&mut live.store, &instance, &export).await
}
