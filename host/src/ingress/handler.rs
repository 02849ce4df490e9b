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
use super::forwarded::Peer;
use super::invoke::{GuestTasks, invoke};
use super::routes::Route;
use crate::actor::Actor;
use crate::invocation::Call;
use crate::state::State;

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
        let (route, actor) = match self.route(&state, &request) {
            Ok(found) => found,
            Err(refusal) => {
                self.metrics.request_rejected(refusal.code);
                return Ok(problem(refusal.status, refusal.code, refusal.detail, None));
            }
        };
        let method = request.method().clone();
        let started = Instant::now();
        let response = self.call(&state, route, &peer, secure, started, request).await;
        actor
            .info
            .metrics
            .record_http(&method, response.status().as_u16(), started.elapsed());
        Ok(response)
    }

    /// The route of the actor that is to answer, unless the request can't be served at all.
    fn route<'a>(
        &self,
        state: &'a State,
        request: &Request<Incoming>,
    ) -> Result<(&'a Route, &'a Actor), Refusal> {
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
        let actor = &state.actor(route.target).actor;
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|len| len > actor.info.limits.request_body_bytes) {
            return Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "the request's body is larger than this actor takes",
            ));
        }
        Ok((route, actor))
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
        let actor = &state.actor(route.target).actor;
        let parent = TraceContext::extract(request.headers());
        if self.sampler.decide(parent.as_ref()) {
            let span = request_span(actor, &request, secure);
            if let Some(parent) = &parent {
                set_parent(&span, parent);
            }
            let trace = context_of(&span);
            if let Some(trace) = &trace {
                // The guest passes on the header that it is given, so the trace goes on through it.
                trace.inject(request.headers_mut());
            }
            let response = self
                .invoke(
                    Call::root(state.clone(), route.target, arrived, trace),
                    secure,
                    request,
                )
                .instrument(span.clone())
                .await;
            span.record("http.response.status_code", response.status().as_u16());
            if response.status().is_server_error() {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", response.status().as_str());
            }
            response
        } else {
            self.invoke(
                Call::root(state.clone(), route.target, arrived, parent),
                secure,
                request,
            )
            .await
        }
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

fn request_span(actor: &Actor, request: &Request<Incoming>, secure: bool) -> tracing::Span {
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
        weft.actor = actor.info.name.as_str(),
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
