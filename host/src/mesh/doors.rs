//! What clients without a view of the lattice get: calls of actors, and for tools the admin API of one namespace.
//!
//! Owns the step from such a request to what answers it: any host takes it, and routes it as an actor's call. What a
//! client says of itself is noted as such and believed of nothing: the right to publish on a subject is all that it has.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method};
use tokio::time::Instant;
use tracing::Instrument as _;
use weft_compose::ActorName;
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::{Call, Door, Invocation};

use super::group::RemoteActor;
use super::http::{request_of, response_of};
use super::rest::{PARTS, REST, REST_FUNCTION, Rest};
use super::service::{API, HostService, traced};
use crate::admin::scope::NAMESPACE;
use crate::call::remote::{failure_of, path, trace_of, wire_trace};
use crate::invocation::FromAfar;
use crate::state::State;

/// Characters of what a client says of itself that are kept.
const DECLARED_LEN_MAX: usize = 64;

impl HostService {
    /// A call by a client of the actor that its subject names.
    pub(super) async fn front(self: Arc<Self>, mut invocation: Invocation) -> Result<Bytes, Failure> {
        invocation.caller = format!("front:{}", declared(&invocation.caller));
        // A call of a call has a share of the pool that no client gets by saying that it is one.
        invocation.hops = 0;
        let state = self.state.load_full();
        let mesh = self.mesh.clone();
        let answered = match route(&state, &invocation.target) {
            Ok(Some(remote)) => pass(remote.clone(), invocation).await,
            Ok(None) => self.actor(invocation).await,
            Err(failure) => Err(failure),
        };
        mesh.fronts.count(answered.is_ok());
        answered
    }

    /// A request of a tool, which reaches one namespace.
    pub(super) async fn tool(&self, invocation: Invocation) -> Result<Bytes, Failure> {
        let answered = self.ask(invocation).await;
        self.mesh.tools.count(answered.is_ok());
        answered
    }

    async fn ask(&self, invocation: Invocation) -> Result<Bytes, Failure> {
        let refused = |kind, detail: String| Failure::not_started(kind, detail);
        if invocation.interface != API {
            let detail = format!("`{}` is not asked for here: {API} is", cut(&invocation.interface));
            return Err(refused(FailureKind::NotFound, detail));
        }
        let starting = || refused(FailureKind::Unavailable, "this host is still starting".to_owned());
        let api = self.api.get().ok_or_else(starting)?;
        // The lattice has compared it with the subject.
        let namespace = invocation.target.split('/').next().unwrap_or_default();
        if invocation.function == REST_FUNCTION {
            return self.rest(namespace, &invocation).await;
        }
        let mut request = request_of(&invocation.body, None)?.request;
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if reads != (invocation.door == Door::ApiRead) {
            let detail = format!(
                "{} {} is not a {}: it goes to the subject api.{}.{namespace}",
                request.method(),
                cut(request.uri().path()),
                if reads { "write" } else { "read" },
                if reads { "read" } else { "write" },
            );
            return Err(refused(FailureKind::Denied, detail));
        }
        let scope = HeaderValue::from_str(namespace)
            .map_err(|_| refused(FailureKind::Denied, "the namespace is none".to_owned()))?;
        request.headers_mut().insert(NAMESPACE, scope);
        let takes_parts = request.headers_mut().remove(PARTS).is_some();
        // What is certain comes first: the rest may be cut.
        let caller = format!("tool:{namespace} as {}", declared(&invocation.caller));
        let (mut head, body) = api(request, &caller).await.into_parts();
        let failed = |kind, detail| Failure {
            kind,
            may_have_started: !reads,
            detail,
        };
        let mut rest = Rest::of(body);
        let len_max = self.mesh.part_len_max();
        let part = rest.part(len_max).await;
        let part = part.map_err(|error| {
            let detail = format!("the answer broke off: {error}");
            failed(FailureKind::Unavailable, detail)
        })?;
        if !rest.is_over() && !takes_parts {
            let detail = format!(
                "the answer does not fit into a message of {len_max} bytes, or goes on: ask for it in parts, as a `weft` of \
                 this version does, for one thing by its name, or with the rights of a host"
            );
            return Err(failed(FailureKind::Unavailable, detail));
        }
        if !rest.is_over() {
            let kept = self.mesh.rests.keep(namespace, rest).ok_or_else(|| {
                let detail = "no room for the rest of this answer beside those of others: try again";
                failed(FailureKind::Overloaded, detail.to_owned())
            })?;
            head.headers.insert(REST, self.mesh.place_of_rest(&kept));
        }
        Ok(response_of(&head, Some(part)))
    }
}

/// The hosts that a call is passed on to; `None` if it runs here.
fn route<'s>(state: &'s State, target: &str) -> Result<Option<&'s Arc<RemoteActor>>, Failure> {
    let unknown = || {
        let detail = format!("no actor `{target}` is deployed, as far as the host knows that was asked");
        Failure::not_started(FailureKind::NotFound, detail)
    };
    let name: ActorName = target.parse().map_err(|_| unknown())?;
    let Some(at) = state.find(&name) else {
        return state.find_remote(&name).map(Some).ok_or_else(unknown);
    };
    let here = state.actor(at);
    // Local is not absolute: where even the queue is full, another host may have room.
    let elsewhere = here.elsewhere.as_ref();
    Ok(elsewhere.filter(|there| here.actor.admission.is_full() && there.hosts.reach().is_some()))
}

/// Passes a call on, under the id that it has.
async fn pass(remote: Arc<RemoteActor>, invocation: Invocation) -> Result<Bytes, Failure> {
    let reach = remote.reach().map_err(|error| failure_of(&error))?;
    let from = FromAfar {
        caller: invocation.caller,
        hops: invocation.hops,
        arrived: std::time::Instant::now(),
        deadline: invocation.deadline.into_std(),
        trace: invocation.trace.as_ref().and_then(trace_of),
    };
    let (from, span) = traced(from, "actor.pass", &invocation.target, "pubsub");
    let call = Call {
        idempotent: remote.is_idempotent(&invocation.interface, &invocation.function),
        patient: false,
        target: invocation.target,
        interface: invocation.interface,
        function: invocation.function,
        body: invocation.body,
        deadline: invocation.deadline.min(Instant::now() + remote.limits().timeout),
        hops: from.hops,
        trace: from.trace.as_ref().map(wire_trace),
        caller: from.caller,
        stream: None,
    };
    let called = reach.client.call_as(&reach.targets, call, invocation.id);
    let answer = called.instrument(span.clone()).await?;
    span.record("weft.call.path", path(answer.ring).as_str());
    Ok(answer.body)
}

/// What a client says of itself, in one line.
fn declared(caller: &str) -> String {
    let printed = caller.chars().filter(|c| !c.is_control());
    printed.take(DECLARED_LEN_MAX).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(DECLARED_LEN_MAX).collect()
}
