//! Tries to reach out, to show whether the host lets it.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, OutgoingBody, OutgoingRequest, Scheme};
use weft_guest_support::Target;

/// What came of a GET of the query's `url`.
pub fn described(target: &Target) -> String {
    let Some(url) = target.text("url") else {
        return "a url is needed: /outgoing?url=http://...\n".to_owned();
    };
    match status(&url) {
        Ok(status) => format!("status: {status}\n"),
        Err(Refusal::Url) => format!("not a url: {url}\n"),
        Err(Refusal::Host(code)) => format!("denied: {code:?}\n"),
    }
}

enum Refusal {
    Url,
    Host(ErrorCode),
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Host(code)
    }
}

fn status(url: &str) -> Result<u16, Refusal> {
    let response = outgoing_handler::handle(request(url).ok_or(Refusal::Url)?, None)?;
    response.subscribe().block();
    let response = response
        .get()
        .expect("it is ready, as its pollable was waited for");
    Ok(response.expect("it is taken for the first time")?.status())
}

fn request(url: &str) -> Option<OutgoingRequest> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let path_start = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path_start);
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request
        .set_path_with_query(Some(if path.is_empty() { "/" } else { path }))
        .ok()?;
    let body = request.body().ok()?;
    OutgoingBody::finish(body, None).ok()?;
    Some(request)
}
