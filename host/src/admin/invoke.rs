//! `POST /v1/call`: one call of an exported function, its values in WAVE.
//!
//! Owns the step from text to values and back. The call itself goes the way of all root calls: it is admitted,
//! measured, logged and bounded like a request from outside.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::Instrument as _;
use wasmtime::component::Val;
use wasmtime::component::types::{ComponentFunc, Type};
use wasmtime::component::wasm_wave::untyped::UntypedFuncCall;
use wasmtime::component::wasm_wave::{self, parser::ParserError};
use weft_compose::InterfacePattern;
use weft_compose::fault::Near;
use weft_observability::{TraceContext, context_of, set_parent};

use super::Admin;
use super::access::Sender;
use super::lattice;
use super::problem::{JsonBody, Problem};
use super::scope::Scope;
use crate::call::{ByValue, run};
use crate::component::description::{Description, Interface};
use crate::component::imports::exported_functions;
use crate::component::lazy::LazyComponent;
use crate::invocation::{Call, CallError, ErrorKind, Metered};
use crate::link::check::signature;
use crate::mesh::group::RemoteActor;
use crate::value::signature_of;

/// Bytes of a function's name that an error repeats.
const FUNCTION_LEN_MAX: usize = 256;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallRequest {
    /// Whom; a short name if it is unique.
    actor: String,
    /// An interface that it exports; without a version, if only one has its name.
    interface: InterfacePattern,
    /// A function of it.
    function: String,
    /// In WAVE, with commas between them; parentheses around all may be left out.
    #[serde(default)]
    args: String,
    /// The deadline, if it is to be shorter than the actor's own.
    timeout_ms: Option<u64>,
}

/// Has a host that runs the actor answer.
async fn elsewhere(
    remote: &RemoteActor,
    sender: &Sender,
    request: &CallRequest,
) -> Result<Response, Problem> {
    let unavailable = |detail: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
    let reach = remote.reach().map_err(|error| unavailable(error.detail()))?;
    let body = serde_json::to_vec(request).map_err(|error| unavailable(error.to_string()))?;
    let asked = axum::http::Request::post("/v1/call")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body))
        .map_err(|error| unavailable(error.to_string()))?;
    Ok(lattice::pass_to(&reach, remote.info.name.as_str(), sender.as_str(), asked).await)
}

/// Calls a function and answers its result.
pub(super) async fn call(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    headers: HeaderMap,
    JsonBody(mut request): JsonBody<CallRequest>,
) -> Result<Response, Problem> {
    admin.refuse_when_draining()?;
    let arrived = Instant::now();
    let state = admin.status.state.load_full();
    let here = state.actors().iter().map(|state| &state.actor.info.name);
    let there = state.remotes().iter().map(|remote| &remote.info.name);
    let names: Vec<_> = here
        .chain(there)
        .filter(|name| scope.has(name.namespace()))
        .collect();
    let name = scope.complete("actor", &request.actor, names.into_iter())?;
    // Another host might take a short one for another's.
    request.actor = name.to_string();
    if let Some(remote) = state.find_remote(&name) {
        return elsewhere(remote, &sender, &request).await;
    }
    let at = state.find(&name).ok_or_else(|| {
        let detail = format!("{name} does not run here: GET /v1/conditions may say why");
        Problem::new(StatusCode::NOT_FOUND, "unknown-name", detail)
    })?;
    let actor = &state.actor(at).actor;
    let revision = actor.revision;
    let component = &actor.component.description;
    let (interface, position) = find(component, &request.interface, &request.function)?;
    let timeout = request
        .timeout_ms
        .map_or(actor.info.limits.timeout, Duration::from_millis);
    let due = arrived + timeout.min(actor.info.limits.timeout);
    let export = export(&admin, &actor.component, interface, &request.function, due).await?;
    let step = ByValue {
        params: arguments(&export, &request.function, &request.args)?,
        has_result: export.results().next().is_some(),
    };
    let parent = TraceContext::extract(&headers);
    let span = span(parent.as_ref(), interface, &request.function, name.as_str());
    let trace = context_of(&span).or(parent);
    let mut call = Call::root(state.clone(), at, arrived, trace);
    if let Some(call) = Arc::get_mut(&mut call) {
        call.deadline = due;
    }
    tracing::debug!(by = sender.noted(None), actor = name.as_str(), invocation = %call.id, function = request.function, "called by an operator");
    let result = within_deadline(&admin, &call, position, step)
        .instrument(span)
        .await;
    match result {
        Ok(result) => {
            let answer = json!({
                "result": result.as_ref().map(written).transpose()?,
                "actor": name,
                "revision": revision,
                "invocation": call.id.to_string(),
                "elapsed_ms": u64::try_from(arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            Ok(Json(answer).into_response())
        }
        Err(error) => Err(failed(&error, &call)),
    }
}

/// Runs the call until it ends, its time is up or the host can't wait any more. A client that goes ends it, too.
async fn within_deadline(
    admin: &Admin,
    call: &Arc<Call>,
    function: usize,
    step: ByValue,
) -> Result<Option<Val>, CallError> {
    // A drain waits for it.
    let _running = admin.shutdown.tasks.token();
    let mut guest = pin!(Metered::new(call.clone(), run(call.clone(), function, step)));
    tokio::select! {
        ended = guest.as_mut() => ended,
        () = tokio::time::sleep_until(call.deadline.into()) => {
            call.expire();
            Err(CallError::started(ErrorKind::Deadline))
        }
        () = admin.shutdown.abort.cancelled() => {
            call.fail();
            Err(CallError::started(ErrorKind::Unavailable))
        }
    }
}

fn span(parent: Option<&TraceContext>, interface: &str, function: &str, actor: &str) -> tracing::Span {
    let Some(parent) = parent.filter(|parent| parent.sampled) else {
        return tracing::Span::none();
    };
    let span = tracing::info_span!(
        target: "weft",
        "actor.call",
        otel.name = format!("{interface}/{function}"),
        otel.kind = "server",
        rpc.system.name = "weft",
        rpc.service = interface,
        rpc.method = function,
        weft.actor = actor,
    );
    set_parent(&span, parent);
    span
}

/// The full name of the interface, and the [position](Description::position) of the function.
fn find<'a>(
    component: &'a Description,
    interface: &InterfacePattern,
    function: &str,
) -> Result<(&'a str, usize), Problem> {
    let unknown = |detail| Problem::new(StatusCode::NOT_FOUND, "unknown-function", detail);
    let mut functions = Vec::new();
    let named = |export: &&Interface| interface.matches(&export.interface);
    for export in component.exports.iter().filter(named) {
        if let Some(position) = component.position(&export.interface, function) {
            return Ok((&export.interface, position));
        }
        functions.extend(export.functions.iter().map(|function| function.name.as_str()));
    }
    if functions.is_empty() {
        let offered: Vec<_> = component
            .exports
            .iter()
            .map(|export| export.interface.as_str())
            .collect();
        let offered = if offered.is_empty() {
            "no interface".to_owned()
        } else {
            offered.join(", ")
        };
        return Err(unknown(format!(
            "it exports no {interface}; it exports {offered}"
        )));
    }
    let near = Near::of(function, functions.iter().copied());
    let function = &function[..function.floor_char_boundary(FUNCTION_LEN_MAX)];
    Err(unknown(format!(
        "{interface} has no `{function}`{near}; it has {}",
        functions.join(", ")
    )))
}

/// The function's type, which only the component itself has.
async fn export(
    admin: &Admin,
    component: &Arc<LazyComponent>,
    interface: &str,
    function: &str,
    due: Instant,
) -> Result<ComponentFunc, Problem> {
    let unavailable = |detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
    let loaded = match tokio::time::timeout_at(due.into(), component.get()).await {
        Ok(loaded) => loaded.map_err(|error| unavailable(error.to_string()))?,
        Err(_) => {
            return Err(unavailable(
                "its component is still being loaded: try again".to_owned(),
            ));
        }
    };
    exported_functions(&admin.status.engine, loaded.pre.component(), interface)
        .into_iter()
        .find(|(name, _)| name == function)
        .map(|(_, export)| export.ty)
        .ok_or_else(|| unavailable(format!("{} is not what is written of it", component.digest)))
}

/// The arguments that a text stands for. Trailing options may be left out.
fn arguments(export: &ComponentFunc, function: &str, text: &str) -> Result<Vec<Val>, Problem> {
    let refused = |code, detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail);
    signature_of(export)
        .map_err(|error| refused("type", format!("`{function}` can't be called: {error}")))?;
    let types: Vec<Type> = export.params().map(|(_, ty)| ty).collect();
    let text = text.trim();
    let bare = format!("f({text})");
    let parsed = if text.starts_with('(') && text.ends_with(')') {
        // Either all arguments, or one that is a tuple.
        parse(&format!("f{text}"), &types).or_else(|error| parse(&bare, &types).map_err(|_| error))
    } else {
        parse(&bare, &types)
    };
    parsed.map_err(|error| {
        let expected = signature(export);
        refused(
            "arguments",
            format!("the arguments don't fit `{function}`: {error}; it is {expected}"),
        )
    })
}

fn parse(call: &str, types: &[Type]) -> Result<Vec<Val>, String> {
    let told = |error: ParserError| {
        let detail = error
            .detail()
            .map(|detail| format!(" ({detail})"))
            .unwrap_or_default();
        let place = match call.get(error.span()) {
            Some(place) if !place.trim().is_empty() => {
                format!(" at `{}`", place.chars().take(80).collect::<String>())
            }
            _ => String::new(),
        };
        format!("{}{detail}{place}", error.kind())
    };
    let call = UntypedFuncCall::parse(call).map_err(told)?;
    call.to_wasm_params(types).map_err(told)
}

fn written(result: &Val) -> Result<String, Problem> {
    wasm_wave::to_string(result).map_err(|error| {
        let detail = format!("the function ran, and its result can't be written: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "result", detail).with("may_have_started", true)
    })
}

fn failed(error: &CallError, call: &Call) -> Problem {
    let status = match error.kind {
        ErrorKind::Overloaded(_) | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::RefusedByGuest => StatusCode::BAD_GATEWAY,
        // `not-found` is of what the actor calls: the request has asked for nothing wrong.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let detail = match error.detail() {
        cause if cause.is_empty() => error.kind.to_string(),
        cause => format!("{}: {cause}", error.kind),
    };
    Problem::new(status, error.kind.as_str(), detail)
        .with("may_have_started", error.may_have_started)
        .with("invocation", call.id.to_string())
}
