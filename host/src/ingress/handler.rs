//! One request, from its head to the head of its answer.
//!
//! Owns what is settled before an actor is called: refusals, the route, the forwarded headers, the trace. In the
//! order in which a request meets them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use http::header::{CONTENT_LENGTH, HOST, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use tracing::Instrument as _;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use weft_observability::{HostMetrics, Sampler, TraceContext, context_of, set_parent};

use super::IngressLimits;
use super::answer::{failed, problem};
use super::body::{RequestBody, ResponseBody};
use super::forward::forward;
use super::forwarded::Peer;
use super::invoke::{GuestTasks, invoke};
use super::routes::Route;
use crate::actor::ActorInfo;
use crate::invocation::{Call, CallError, InvocationId};
use crate::mesh::group::RemoteActor;
use crate::state::{ActorIndex, Callee, State};

/// What all requests of a host share.
pub struct Handler {
    /// Actors, links and routes, as of now.
    pub state: Arc<ArcSwap<State>>,
    /// Bounds on clients.
    pub limits: IngressLimits,
    /// Where guests go on after their response's head.
    pub tasks: GuestTasks,
    /// Decides which requests are traced.
    pub sampler: Sampler,
    /// Where the host's numbers go.
    pub metrics: HostMetrics,
    /// Requests whose answer's head is not there yet.
    pub active: Arc<AtomicU64>,
}

/// A refusal before any actor is called.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
}

const fn refuse(status: StatusCode, code: &'static str, detail: &'static str) -> Refusal {
    Refusal { status, code, detail }
}

impl Handler {
    /// Answers one request.
    pub async fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        secure: bool,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let _active = Active::enter(&self.active);
        let state = self.state.load_full();
        let (route, info) = match self.route(&state, &request) {
            Ok(found) => found,
            Err(refusal) => {
                self.metrics.request_rejected(refusal.code);
                return Ok(problem(refusal.status, refusal.code, refusal.detail, None));
            }
        };
        let method = request.method().clone();
        let started = Instant::now();
        let response = self.call(&state, route, &peer, secure, started, request).await;
        info.metrics
            .record_http(&method, response.status().as_u16(), started.elapsed());
        Ok(response)
    }

    /// The route of the actor that is to answer, unless the request can't be served at all.
    fn route<'a>(
        &self,
        state: &'a State,
        request: &Request<Incoming>,
    ) -> Result<(&'a Route, &'a ActorInfo), Refusal> {
        let headers = request.headers();
        if request.method() == Method::CONNECT {
            return Err(refuse(
                StatusCode::NOT_IMPLEMENTED,
                "connect",
                "CONNECT and tunnels are not served",
            ));
        }
        if headers
            .get(UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        {
            return Err(refuse(
                StatusCode::NOT_IMPLEMENTED,
                "websocket",
                "WebSocket is not served: an actor serves one request at a time. Server-sent events are",
            ));
        }
        if !names_one_host(request.uri(), headers) {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "host",
                "the request does not name one valid host",
            ));
        }
        let route = state.routes.find(request).ok_or(refuse(
            StatusCode::NOT_FOUND,
            "no-route",
            "no actor is routed here",
        ))?;
        let info = match route.target {
            Callee::Here(at) => &state.actor(at).actor.info,
            Callee::There(at) => &state.remote(at).info,
        };
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|len| len > info.limits.request_body_bytes) {
            return Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "the request's body is larger than this actor takes",
            ));
        }
        Ok((route, info))
    }

    async fn call(
        &self,
        state: &Arc<State>,
        route: &Route,
        peer: &Peer,
        secure: bool,
        arrived: Instant,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let (mut head, body) = request.into_parts();
        peer.apply(&mut head.headers);
        route.rewrite(&mut head);
        let mut request = Request::from_parts(head, body);
        let answerer = Answerer::of(state, route.target);
        let parent = TraceContext::extract(request.headers());
        if self.sampler.decide(parent.as_ref()) {
            let span = request_span(answerer.info(state), &request, secure);
            if let Some(parent) = &parent {
                set_parent(&span, parent);
            }
            let trace = context_of(&span);
            if let Some(trace) = &trace {
                // The guest passes on the header that it is given, so the trace goes on through it.
                trace.inject(request.headers_mut());
            }
            let response = self
                .answer(state, &answerer, arrived, trace, secure, request)
                .instrument(span.clone())
                .await;
            span.record("http.response.status_code", response.status().as_u16());
            if response.status().is_server_error() {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", response.status().as_str());
            }
            response
        } else {
            self.answer(state, &answerer, arrived, parent, secure, request)
                .await
        }
    }

    async fn answer(
        &self,
        state: &Arc<State>,
        answerer: &Answerer<'_>,
        arrived: Instant,
        trace: Option<TraceContext>,
        secure: bool,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        match answerer {
            Answerer::Here(at) => {
                let call = Call::root(state.clone(), *at, arrived, trace);
                self.invoke(call, secure, request).await
            }
            // Boxed, as it is large, and few requests go this way.
            Answerer::There(remote) => Box::pin(self.forward(remote, arrived, trace, secure, request)).await,
        }
    }

    async fn forward(
        &self,
        remote: &RemoteActor,
        arrived: Instant,
        trace: Option<TraceContext>,
        secure: bool,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let (limits, max) = (&self.limits, remote.limits().request_body_bytes);
        let request =
            request.map(|body| RequestBody::new(body, max, limits.body_rate_min, limits.body_grace));
        let forwarded = forward(remote, arrived, trace.as_ref(), secure, request).await;
        forwarded.unwrap_or_else(|error: CallError| {
            let id = InvocationId::next();
            tracing::debug!(actor = remote.info.name.as_str(), %id, error = error.detail(), "a request could not be forwarded");
            failed(&error, id)
        })
    }

    async fn invoke(
        &self,
        call: Arc<Call>,
        secure: bool,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let limits = &self.limits;
        let body_max = call.actor.limits.request_body_bytes;
        let request =
            request.map(|body| RequestBody::new(body, body_max, limits.body_rate_min, limits.body_grace));
        tracing::Span::current().record("faas.invocation_id", tracing::field::display(call.id));
        let scheme = if secure { Scheme::Https } else { Scheme::Http };
        match invoke(&self.tasks, &call, scheme, request).await {
            Ok(response) => response,
            Err(error) => failed(&error, call.id),
        }
    }
}

/// Whether target and header name the same host, and nothing else. Two hosts, or one with a user or a path in it, are
/// how a request is routed to one actor and read by it as meant for another (RFC 9112, section 3.2).
fn names_one_host(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(HOST).iter();
    match (uri.authority().map(Authority::as_str), named.next(), named.next()) {
        (None, Some(host), None) => is_host(host.as_bytes()),
        (Some(target), None, None) => is_host(target.as_bytes()),
        (Some(target), Some(host), None) => {
            is_host(target.as_bytes()) && host.as_bytes().eq_ignore_ascii_case(target.as_bytes())
        }
        (None, None, _) | (_, _, Some(_)) => false,
    }
}

/// Whether a text has only what a name or address with a port can have.
fn is_host(text: &[u8]) -> bool {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b);
    !text.is_empty() && text.iter().all(fits)
}

/// Who answers a request.
enum Answerer<'a> {
    /// An actor on this host.
    Here(ActorIndex),
    /// One on others.
    There(&'a RemoteActor),
}

impl<'a> Answerer<'a> {
    /// Local is not absolute: where even the queue is full, another host may have room.
    fn of(state: &'a State, callee: Callee) -> Self {
        match callee {
            Callee::There(at) => Self::There(state.remote(at)),
            Callee::Here(at) => {
                let here = state.actor(at);
                match &here.elsewhere {
                    Some(there) if here.actor.admission.is_full() && there.hosts.reach().is_some() => {
                        Self::There(there)
                    }
                    _ => Self::Here(at),
                }
            }
        }
    }

    fn info<'s>(&self, state: &'s State) -> &'s ActorInfo
    where
        'a: 's,
    {
        match self {
            Self::Here(at) => &state.actor(*at).actor.info,
            Self::There(remote) => &remote.info,
        }
    }
}

fn request_span(info: &ActorInfo, request: &Request<Incoming>, secure: bool) -> tracing::Span {
    tracing::info_span!(
        target: "weft",
        "http.request",
        otel.name = request.method().as_str(),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        http.request.method = request.method().as_str(),
        url.path = request.uri().path(),
        url.scheme = if secure { "https" } else { "http" },
        http.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        faas.trigger = "http",
        faas.invocation_id = tracing::field::Empty,
        weft.actor = info.name.as_str(),
        weft.call.path = tracing::field::Empty,
    )
}

/// One request among the active ones.
struct Active<'a>(&'a AtomicU64);

impl<'a> Active<'a> {
    fn enter(active: &'a AtomicU64) -> Self {
        active.fetch_add(1, Ordering::Relaxed);
        Self(active)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
