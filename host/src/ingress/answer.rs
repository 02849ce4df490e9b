//! Answers that the host gives in an actor's place.
//!
//! Problem documents (RFC 9457), which say what a caller may know: the kind of failure and the invocation's id, by
//! which an operator finds the rest in the log. No cause, path, address or backtrace.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::body::ResponseBody;
use crate::invocation::{CallError, ErrorKind, InvocationId};

/// Seconds after which a shed caller may come back. A queue drains within its wait of one second.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// A problem document for `status`; `code` is the machine-readable kind, `detail` a sentence.
pub fn problem(
    status: StatusCode,
    code: &str,
    detail: &str,
    invocation: Option<InvocationId>,
) -> Response<ResponseBody> {
    let mut document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    if let Some(id) = invocation {
        document["invocation"] = id.to_string().into();
    }
    let mut response = Response::new(ResponseBody::full(Bytes::from(format!("{document}\n"))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
    }
    response
}

/// The answer to a call that failed.
pub fn failed(error: &CallError, invocation: InvocationId) -> Response<ResponseBody> {
    let status = match error.kind {
        ErrorKind::Overloaded(_) | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Trap | ErrorKind::CpuExhausted | ErrorKind::MemoryExhausted => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        // Of what an actor calls: its own client has asked for nothing wrong.
        ErrorKind::NotFound | ErrorKind::Denied => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::RefusedByGuest => StatusCode::BAD_GATEWAY,
    };
    problem(
        status,
        error.kind.as_str(),
        &error.kind.to_string(),
        Some(invocation),
    )
}
