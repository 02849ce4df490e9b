//! What this host does for the others: calls of actors, HTTP requests, records, the admin API.
//!
//! Owns the step from a call as it arrives to what answers it. Nothing runs on the thread that reads from the
//! connection.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use weft_compose::{ActorName, InterfacePattern};
use weft_lattice::control::{ControlStore, replica};
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::{Door, Invocation, Service};
use weft_observability::{context_of, set_parent};

use super::Mesh;
use super::http::{Begun, Came, HTTP, HostBody, request_of, response_of, send_body};
use super::rest::REST_FUNCTION;
use crate::call;
use crate::call::remote::{failure_of, trace_of};
use crate::component::description::Description;
use crate::deploy::not_allowed;
use crate::engine::Engine;
use crate::ingress::IngressLimits;
use crate::ingress::body::RequestBody;
use crate::ingress::invoke::{GuestTasks, invoke};
use crate::invocation::{Call, FromAfar};
use crate::state::{ActorIndex, ActorState, State};
use weft_remote::{BLOB_STORE, KEY_VALUE, PARTS, SQL, WATCH};

/// The namespace of what hosts say to each other: no label, and so no namespace of actors.
pub const HOST_NAMESPACE: &str = "_host";
/// What is called of a host that is no actor.
pub const HOST_TARGET: &str = "_host/weft/host";
/// The records of the control store.
pub const RECORDS: &str = "weft:host/records@1.0.0";
/// The admin API.
pub const API: &str = "weft:host/api@1.0.0";

/// Which host it is.
pub const ADDRESS: &str = "weft:host/address@1.0.0";

/// How long a host may be behind another one with the records, as far as a call waits for it: changes take some
/// milliseconds.
const BEHIND_MAX: Duration = Duration::from_millis(500);
/// How often a call that waits looks at them.
const LOOKED_AGAIN: Duration = Duration::from_millis(20);

/// What answers requests of the admin API, and for whom.
pub type Api = Arc<dyn Fn(Request<HostBody>, &str) -> BoxFuture<'static, Response<HostBody>> + Send + Sync>;

/// The control store, on the host that has it.
#[derive(Clone)]
pub struct Records {
    /// The store.
    pub control: Arc<dyn ControlStore>,
    /// Its name.
    pub store: String,
}

/// Serves the calls of other hosts.
pub struct HostService {
    /// Actors, links and routes, as of now.
    pub state: Arc<ArcSwap<State>>,
    /// Where guests run.
    pub tasks: GuestTasks,
    /// Bounds on bodies.
    pub limits: IngressLimits,
    /// Cancelled once this host drains.
    pub drain: CancellationToken,
    /// How busy this host is.
    pub engine: Arc<Engine>,
    /// The control store, if it is here.
    pub records: Option<Records>,
    /// The mesh, for the providers of this host.
    pub mesh: Arc<Mesh>,
    /// This run's address, once there is one.
    pub address: OnceLock<String>,
    /// The admin API, once it is served.
    pub api: OnceLock<Api>,
}

/// A handle that [`Service`] is implemented for, as a call outlives the borrow.
#[derive(Clone)]
pub struct Served(pub Arc<HostService>);

impl Service for Served {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let host = self.0.clone();
        let running = host.tasks.tracker.token();
        let answer = async move {
            let _running = running;
            host.answer(invocation).await
        };
        let answer = AssertUnwindSafe(answer).catch_unwind();
        // What has panicked has been told by then.
        let broken = || Failure::started(FailureKind::Unavailable, "the host failed at this call");
        answer
            .map(move |answered| answered.unwrap_or_else(|_| Err(broken())))
            .boxed()
    }

    fn computes(&self) -> bool {
        true
    }

    fn load(&self) -> u32 {
        let engine = &self.0.engine;
        let (pool, slots) = (engine.wasmtime().pooling_allocator_metrics(), engine.slots());
        let live = pool.map_or(0, |pool| pool.component_instances());
        u32::try_from(live * 1_000 / u64::from(slots.max(1))).unwrap_or(u32::MAX)
    }
}

impl HostService {
    async fn answer(self: Arc<Self>, invocation: Invocation) -> Result<Bytes, Failure> {
        match invocation.door {
            Door::Host => {}
            Door::Front => return self.front(invocation).await,
            Door::ApiRead | Door::ApiWrite => return self.tool(invocation).await,
        }
        match invocation.interface.as_str() {
            RECORDS => self.records(&invocation).await,
            API => self.api(invocation).await,
            ADDRESS => self.address(),
            HTTP => self.http(invocation).await,
            KEY_VALUE | SQL | BLOB_STORE | PARTS => self.provider(invocation).await,
            // A drain does not wait for a change that may not come.
            WATCH => match self.drain.run_until_cancelled(self.provider(invocation)).await {
                Some(answered) => answered,
                None => Err(Failure::started(
                    FailureKind::Unavailable,
                    "this host is stopping",
                )),
            },
            _ => self.actor(invocation).await,
        }
    }

    async fn records(&self, invocation: &Invocation) -> Result<Bytes, Failure> {
        let Some(Records { control, store }) = &self.records else {
            let detail = "this host does not have the control store";
            return Err(Failure::not_started(FailureKind::NotFound, detail));
        };
        let now = tokio::time::Instant::now();
        let answer = |until| replica::answer(&**control, store, &invocation.body, until);
        let waited = answer((now + replica::FOLLOW_WAIT).min(invocation.deadline));
        // A drain does not wait for a change that may not come.
        let answered = match self.drain.run_until_cancelled(waited).await {
            Some(answered) => answered,
            None => answer(now).await,
        };
        answered.map_err(|error| Failure::not_started(FailureKind::Unavailable, error.to_string()))
    }

    async fn provider(&self, invocation: Invocation) -> Result<Bytes, Failure> {
        let served = once_allowed(invocation.deadline, || {
            let served = self.mesh.served_provider(&invocation.target);
            let served = served.ok_or_else(|| {
                let detail = format!("the provider {} is not open on this host", invocation.target);
                Failure::not_started(FailureKind::Unavailable, detail)
            })?;
            served.may_be_used_by(&invocation.caller)?;
            Ok(served)
        });
        served.await?.provided.call(invocation).await
    }

    /// For who asks on a subject that it did not get from this host.
    fn address(&self) -> Result<Bytes, Failure> {
        let unknown = || Failure::not_started(FailureKind::Unavailable, "this host is still joining");
        let address = self.address.get().ok_or_else(unknown)?;
        Ok(Bytes::copy_from_slice(address.as_bytes()))
    }

    async fn api(&self, invocation: Invocation) -> Result<Bytes, Failure> {
        let Some(api) = self.api.get() else {
            let detail = "this host is still starting";
            return Err(Failure::not_started(FailureKind::Unavailable, detail));
        };
        if invocation.function == REST_FUNCTION {
            return self.rest_for_host(&invocation).await;
        }
        let came = request_of(&invocation.body, invocation.stream)?;
        let response = api(came.request, &invocation.caller).await;
        self.respond(response, came.writer, came.stream).await
    }

    /// Who is called; it has to run here.
    fn find(&self, state: &State, target: &str) -> Result<ActorIndex, Failure> {
        let not_here = || {
            let detail = format!("`{target}` does not run on this host");
            Failure::not_started(FailureKind::NotFound, detail)
        };
        state.find(target).ok_or_else(not_here)
    }

    async fn http(self: Arc<Self>, invocation: Invocation) -> Result<Bytes, Failure> {
        let state = self.state.load_full();
        let at = self.find(&state, &invocation.target)?;
        let Came {
            request,
            secure,
            writer,
            stream,
        } = request_of(&invocation.body, invocation.stream)?;
        let from = FromAfar {
            caller: invocation.caller,
            hops: invocation.hops,
            arrived: Instant::now(),
            deadline: invocation.deadline.into_std(),
            trace: invocation.trace.as_ref().and_then(trace_of),
        };
        let (from, span) = traced(from, "http.request", &invocation.target, "http");
        let call = Call::from_afar(state, at, from);
        span.record("faas.invocation_id", tracing::field::display(call.id));
        let limits = &self.limits;
        let request = request.map(|body| {
            let max = call.actor.limits.request_body_bytes;
            RequestBody::of_host(body, max, limits.body_rate_min, limits.body_grace)
        });
        let scheme = if secure { Scheme::Https } else { Scheme::Http };
        let invoked = invoke(&self.tasks, &call, scheme, request).instrument(span).await;
        let response = invoked.map_err(|error| failure_of(&error))?;
        self.respond(response, writer, stream).await
    }

    /// Sends a response: its body with its head, if that is short and comes soon, else over the stream.
    async fn respond<B>(
        &self,
        response: Response<B>,
        writer: Option<weft_lattice::stream::Writer>,
        stream: Option<weft_lattice::stream::Offer>,
    ) -> Result<Bytes, Failure>
    where
        B: http_body::Body<Data = Bytes, Error = wasmtime_wasi_http::Error> + Send + Unpin + 'static,
    {
        let (head, body) = response.into_parts();
        let broken = |detail: String| Failure::started(FailureKind::Unavailable, detail);
        let mut begun = Begun::of(body).await.map_err(|error| broken(error.to_string()))?;
        if let Some(body) = begun.take_whole() {
            return Ok(response_of(&head, Some(body)));
        }
        let (reader, writer) = match (writer, stream) {
            (Some(writer), _) => (None, writer),
            (None, Some(stream)) => {
                let accepted = stream.accept().map_err(|error| broken(error.to_string()))?;
                (Some(accepted.reader), accepted.writer)
            }
            (None, None) => {
                return Err(broken(
                    "no stream came with the call, for a body that is not short".to_owned(),
                ));
            }
        };
        let abort = self.tasks.abort.clone();
        let sent = async move {
            send_body(writer, begun).await;
            if let Some(mut reader) = reader {
                // The other side ends its direction when it has read this one.
                while let Ok(Some(_)) = reader.read().await {}
            }
        };
        let sent = async move {
            let _ = abort.run_until_cancelled(sent).await;
        };
        self.tasks.tracker.spawn_on(sent, &self.tasks.shared);
        Ok(response_of(&head, None))
    }

    pub(super) async fn actor(self: Arc<Self>, invocation: Invocation) -> Result<Bytes, Failure> {
        let allowed = once_allowed(invocation.deadline, || {
            let state = self.state.load_full();
            let at = self.find(&state, &invocation.target)?;
            may_call(state.actor(at), &invocation.caller)?;
            Ok((state, at))
        });
        let (state, at) = allowed.await?;
        let component = state.actor(at).actor.component.clone();
        let position = position(
            &component.description,
            &invocation.interface,
            &invocation.function,
        );
        let position = position.ok_or_else(|| {
            let detail = format!(
                "{} has no `{}` of {}",
                invocation.target, invocation.function, invocation.interface
            );
            Failure::not_started(FailureKind::NotFound, detail)
        })?;
        let from = FromAfar {
            caller: invocation.caller,
            hops: invocation.hops,
            arrived: Instant::now(),
            deadline: invocation.deadline.into_std(),
            trace: invocation.trace.as_ref().and_then(trace_of),
        };
        let (from, span) = traced(from, "actor.call", &invocation.target, "pubsub");
        let call = Call::from_afar(state, at, from);
        span.record("faas.invocation_id", tracing::field::display(call.id));
        let loaded = component.get().await.map_err(|error| failure_of(&error.into()))?;
        let signature = loaded.signature(position);
        drop(loaded);
        let denied =
            |error: &dyn std::error::Error| Failure::not_started(FailureKind::Denied, error.to_string());
        let signature = signature.ok_or_else(|| denied(&std::fmt::Error))?;
        let types = signature.get().map_err(|error| denied(&error))?;
        let args = types
            .decode_args(&invocation.body)
            .map_err(|error| denied(&error))?;
        let step = call::FromAfar {
            types: signature.clone(),
            args,
        };
        let result = self
            .tasks
            .run(&call, call::run(call.clone(), position, step))
            .instrument(span)
            .await
            .map_err(|error| failure_of(&error))?;
        let encoded = types.encode_result(&result);
        encoded.map_err(|error| Failure::started(FailureKind::Unavailable, error.to_string()))
    }
}

/// Whether `caller` may call an actor: one of another app has to be let, and by what this host knows. Who is no actor is an
/// operator or a trigger, whose rights are looked at where they come in.
fn may_call(target: &ActorState, caller: &str) -> Result<(), Failure> {
    if caller.starts_with(target.actor.info.name.app_prefix()) {
        return Ok(());
    }
    match caller.parse::<ActorName>() {
        Ok(caller) if !target.allows(&caller.app_name()) => {
            let refused = not_allowed(&caller, target.actor.info.name.as_str());
            Err(Failure::not_started(FailureKind::Denied, refused.to_string()))
        }
        _ => Ok(()),
    }
}

/// Looks again while `look` denies, for a moment: whoever calls has looked too, and may be ahead with the records.
async fn once_allowed<T>(
    deadline: tokio::time::Instant,
    look: impl Fn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let until = deadline.min(tokio::time::Instant::now() + BEHIND_MAX);
    loop {
        match look() {
            Err(failure) if failure.kind == FailureKind::Denied && tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOOKED_AGAIN).await;
            }
            looked => return looked,
        }
    }
}

/// Where a function is among all that a component exports; an interface fits as where a link is made.
fn position(description: &Description, interface: &str, function: &str) -> Option<usize> {
    description.position(interface, function).or_else(|| {
        let wanted: InterfacePattern = interface.parse().ok()?;
        let export = description
            .exports
            .iter()
            .find(|export| wanted.matches(&export.interface))?;
        description.position(&export.interface, function)
    })
}

/// The span of a call from afar, if it is traced, and the call in it.
pub(super) fn traced(
    mut from: FromAfar,
    name: &'static str,
    target: &str,
    trigger: &'static str,
) -> (FromAfar, tracing::Span) {
    let Some(parent) = from.trace.as_ref().filter(|trace| trace.sampled) else {
        return (from, tracing::Span::none());
    };
    let span = tracing::info_span!(
        target: "weft",
        "mesh.serve",
        otel.name = name,
        otel.kind = "server",
        faas.trigger = trigger,
        faas.invocation_id = Empty,
        weft.actor = target,
        weft.caller = from.caller.as_str(),
        weft.call.hops = from.hops,
        weft.call.path = Empty,
    );
    set_parent(&span, parent);
    if let Some(own) = context_of(&span) {
        from.trace = Some(own);
    }
    (from, span)
}
