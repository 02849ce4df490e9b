//! A request for an actor that runs on other hosts.
//!
//! Owns the step from a request as it came here to the call that carries it, and back. The actor's own limits hold
//! where it runs; here only its deadline is watched, by the call itself.

use std::time::Instant;

use http::{Request, Response};
use weft_lattice::rpc;
use weft_observability::TraceContext;

use super::body::{RequestBody, ResponseBody};
use crate::call::remote::{failed, path, wire_trace};
use crate::invocation::CallError;
use crate::mesh::group::RemoteActor;
use crate::mesh::http::{HTTP, send};

/// Has `remote` answer `request`. Dropping the future, which hyper does when the client goes, ends the guest there.
///
/// # Errors
/// [`CallError`]
pub async fn forward(
    remote: &RemoteActor,
    arrived: Instant,
    trace: Option<&TraceContext>,
    secure: bool,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, CallError> {
    let reach = remote.reach()?;
    let call = rpc::Call {
        target: remote.info.name.as_str().to_owned(),
        interface: HTTP.to_owned(),
        function: "handle".to_owned(),
        body: bytes::Bytes::new(),
        deadline: (arrived + remote.limits().timeout).into(),
        hops: 0,
        trace: trace.map(wire_trace),
        caller: "http".to_owned(),
        // What a method promises (RFC 9110, section 9.2.2) an actor may not keep.
        idempotent: false,
        patient: false,
        stream: None,
    };
    let (response, answer) = send(&reach, call, secure, request).await.map_err(failed)?;
    tracing::Span::current().record("weft.call.path", path(answer.ring).as_str());
    Ok(response.map(ResponseBody::finished))
}
