//! Calls to an actor on another host: the same step as to one on this host, with the values as bytes in between.
//!
//! Owns the step from a failure of one host to the error that the caller on another is given. Who is called, and
//! again after a failure, is [`weft_lattice::rpc`]'s.

use weft_lattice::envelope::{Failure, FailureKind, Trace};
use weft_lattice::rpc::{self, Ring};
use weft_observability::TraceContext;
use weft_observability::metrics::{CallPath, ShedReason};

use super::Crossing;
use crate::invocation::{Call, CallError, ErrorKind};
use crate::mesh::group::RemoteActor;
use crate::value::wire::LazySignature;

/// Calls `function` of `interface` of an actor that runs elsewhere.
///
/// # Errors
/// [`CallError`]
pub(super) async fn run<S: Crossing>(
    caller: &Call,
    callee: &RemoteActor,
    interface: &str,
    function: &str,
    signature: &LazySignature,
    trace: Option<TraceContext>,
    step: S,
) -> Result<(S::Output, CallPath), CallError> {
    let types = signature
        .get()
        .map_err(|error| CallError::refused(ErrorKind::Denied, Some(error.into())))?;
    let body = step
        .encode(types)
        .map_err(|error| CallError::refused(ErrorKind::Denied, Some(error.into())))?;
    let hops = caller.next_hop()?;
    let call = rpc::Call {
        target: callee.info.name.as_str().to_owned(),
        interface: interface.to_owned(),
        function: function.to_owned(),
        body,
        deadline: caller.child_deadline(&callee.info.limits).into(),
        hops,
        trace: trace.map(|trace| wire_trace(&trace)),
        caller: caller.actor.name.as_str().to_owned(),
        idempotent: callee.is_idempotent(interface, function),
        patient: false,
        stream: None,
    };
    let reach = callee.reach()?;
    // What the callee uses is on its own account, and nothing is computed here meanwhile.
    let answer = reach.client.call(&reach.targets, call).await.map_err(failed)?;
    let output = step.decode(types, &answer.body).map_err(|error| CallError {
        source: Some(error.into()),
        ..CallError::started(ErrorKind::Unavailable)
    })?;
    Ok((output, path(answer.ring)))
}

/// Which way an answer came.
pub fn path(ring: Ring) -> CallPath {
    match ring {
        Ring::Host => CallPath::Local,
        Ring::Zone => CallPath::Zone,
        Ring::Region => CallPath::Region,
        Ring::Far => CallPath::Far,
    }
}

/// A trace as the wire has it.
pub fn wire_trace(trace: &TraceContext) -> Trace {
    let state = trace.state.as_ref().and_then(|state| state.to_str().ok());
    Trace {
        parent: String::from_utf8_lossy(&trace.to_traceparent()).into_owned(),
        state: state.unwrap_or_default().to_owned(),
    }
}

/// A trace that came over the wire; one that can't be read is none.
pub fn trace_of(trace: &Trace) -> Option<TraceContext> {
    let mut context = TraceContext::parse(trace.parent.as_bytes())?;
    context.state = http::HeaderValue::from_str(&trace.state)
        .ok()
        .filter(|state| !state.is_empty());
    Some(context)
}

/// What the caller is told of a call that failed elsewhere.
pub fn failed(failure: Failure) -> CallError {
    let kind = match failure.kind {
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::Overloaded => ErrorKind::Overloaded(ShedReason::QueueFull),
        FailureKind::Deadline => ErrorKind::Deadline,
        FailureKind::Trap => ErrorKind::Trap,
        FailureKind::Denied => ErrorKind::Denied,
        FailureKind::RefusedByGuest => ErrorKind::RefusedByGuest,
        FailureKind::Unavailable => ErrorKind::Unavailable,
    };
    CallError {
        kind,
        may_have_started: failure.may_have_started,
        source: Some(wasmtime::Error::msg(failure.to_string())),
    }
}

/// What another host is told of a call that failed here. The cause stays here, in the log.
pub fn failure_of(error: &CallError) -> Failure {
    let kind = match error.kind {
        ErrorKind::Overloaded(_) => FailureKind::Overloaded,
        ErrorKind::Deadline => FailureKind::Deadline,
        ErrorKind::Trap | ErrorKind::CpuExhausted | ErrorKind::MemoryExhausted => FailureKind::Trap,
        ErrorKind::RefusedByGuest => FailureKind::RefusedByGuest,
        ErrorKind::Unavailable => FailureKind::Unavailable,
        ErrorKind::NotFound => FailureKind::NotFound,
        ErrorKind::Denied => FailureKind::Denied,
    };
    Failure {
        kind,
        may_have_started: error.may_have_started,
        detail: error.kind.to_string(),
    }
}
