//! The admin API between hosts.
//!
//! Owns which host answers a request: reads are answered by whoever is asked, as every host has all records; changes
//! by the controller. A host that is not it passes them on, so that an operator may ask any.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use wasmtime_wasi_http::Error;
use weft_lattice::envelope::Failure;
use weft_lattice::rpc::Call;

use super::access::Sender;
use super::problem::Problem;
use crate::mesh::Mesh;
use crate::mesh::group::Reach;
use crate::mesh::http::{HostBody, send};
use crate::mesh::service::{API, Api, HOST_TARGET};

/// How long a request to another host may take: a component that is pushed is compiled there first.
const ANSWER_MAX: Duration = Duration::from_secs(180);

/// Answers requests that other hosts, or commands on other machines, send to this host.
pub(super) fn served(router: Router) -> Api {
    Arc::new(move |request: http::Request<HostBody>, caller: &str| {
        let sender = Some(Sender::of_lattice(caller));
        let (router, request) = (TowerToHyperService::new(router.clone()), request.map(Body::new));
        async move {
            let mut request: Request = request;
            request.extensions_mut().insert(sender);
            let answered = router.call(request).await;
            let response = answered.unwrap_or_else(|never| match never {});
            response.map(|body| body.map_err(|_| Error::HttpResponseIncomplete).boxed_unsync())
        }
        .boxed()
    })
}

/// Passes on what only the controller may do.
pub(super) async fn pass_on(State(mesh): State<Option<Arc<Mesh>>>, request: Request, next: Next) -> Response {
    let Some(mesh) = mesh.filter(|mesh| !mesh.settings.controller) else {
        return next.run(request).await;
    };
    let path = request.uri().path();
    // A component is pushed to where it is deployed; what is on this host's disk is this host's.
    let of_controller = match path.strip_prefix("/v1/artifacts/") {
        Some(rest) => rest != "gc",
        None => !matches!(*request.method(), Method::GET | Method::HEAD) && path != "/v1/call",
    };
    if !of_controller {
        return next.run(request).await;
    }
    let Some(reach) = mesh.controller().and_then(|group| group.reach()) else {
        let detail = "no controller can be reached: changes are made there; try again once it is back";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-controller", detail).into_response();
    };
    let sender = request.extensions().get::<Option<Sender>>().cloned().flatten();
    let caller = format!("{} at {}", sender.as_ref().map_or("?", Sender::as_str), mesh.name);
    pass_to(&reach, HOST_TARGET, &caller, request).await
}

/// Has another host answer.
pub(super) async fn pass_to(reach: &Reach, target: &str, caller: &str, request: Request) -> Response {
    let call = call(target, caller);
    let request = request.map(|body| Box::pin(body.map_err(|_| Error::HttpRequestDenied)));
    match send(reach, call, false, request).await {
        Ok((response, _)) => response.map(Body::new),
        Err(failure) => unanswered(&failure).into_response(),
    }
}

/// A request of the admin API, but for the request itself.
pub fn call(target: &str, caller: &str) -> Call {
    Call {
        target: target.to_owned(),
        interface: API.to_owned(),
        function: "handle".to_owned(),
        body: Bytes::new(),
        deadline: tokio::time::Instant::now() + ANSWER_MAX,
        hops: 0,
        trace: None,
        caller: caller.to_owned(),
        idempotent: false,
        patient: false,
        stream: None,
    }
}

fn unanswered(failure: &Failure) -> Problem {
    let detail = format!("the host that was to answer did not: {failure}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
        .with("may_have_started", failure.may_have_started)
}
