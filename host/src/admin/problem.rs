//! What the admin API answers when it does not do what was asked.
//!
//! Owns the form: problem documents (RFC 9457) with a `code` for programs. Unlike the front door it tells causes, as
//! whoever asks here is an operator.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{StatusCode, request};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use weft_compose::fault::Fault;
use weft_compose::{FaultKind, Faults};
use weft_lattice::control::{CommitError, ReadError};
use weft_secrets::SealError;

use super::body;
use crate::artifact::ArtifactError;
use crate::cli::chain;
use crate::deploy::DeployError;

/// Bytes of a reader's error that are answered: it may repeat all that it was given.
const READ_ERROR_MAX: usize = 1 << 10;

/// A refusal or a failure.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
    more: Map<String, Value>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            more: Map::new(),
        }
    }

    /// What was asked for is wrong in itself.
    pub(super) fn refused(kind: &FaultKind) -> Self {
        let status = match kind {
            FaultKind::NotDeployed(_)
            | FaultKind::UnknownLink { .. }
            | FaultKind::NotPlaced { .. }
            | FaultKind::UnknownActor { .. }
            | FaultKind::UnknownProvider { .. }
            | FaultKind::UnknownSecret(_) => StatusCode::NOT_FOUND,
            FaultKind::SecretVersion { .. } => StatusCode::CONFLICT,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, kind.code(), kind.to_string())
    }

    /// The faults of a manifest, each with its line of `text` and a caret.
    pub(super) fn faults(faults: &Faults, text: &str) -> Self {
        let listed = faults.listed.iter().map(|Fault { span, kind, .. }| {
            json!({
                "code": kind.code(), "text": kind.to_string(),
                "line": span.line, "column": span.column, "len": span.len,
            })
        });
        let listed = listed.collect::<Vec<_>>();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "manifest", faults.render(text))
            .with("faults", listed)
            .with("more", faults.more)
    }

    /// Why a change was not made. `manifest` is the text that it was to be made by, if there is one.
    pub(super) fn of_change(error: &DeployError, manifest: &str) -> Self {
        let (status, code) = match error {
            DeployError::Faults(faults) => return Self::faults(faults, manifest),
            DeployError::Refused(kind) => return Self::refused(kind),
            DeployError::Artifact(error) => return error.into(),
            DeployError::Seal(error) => return error.into(),
            DeployError::Commit(CommitError::Conflict { .. }) => (StatusCode::CONFLICT, "conflict"),
            DeployError::Commit(CommitError::TooLarge { .. } | CommitError::EmptyKey) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "too-large")
            }
            DeployError::Commit(CommitError::Unavailable(_) | CommitError::Closed)
            | DeployError::Read(ReadError::Unavailable(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "control-store-unavailable")
            }
            DeployError::Commit(CommitError::Storage(_)) | DeployError::Read(_) | DeployError::Record(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "control-store")
            }
        };
        Self::new(status, code, chain(error))
    }

    /// The same with one more member.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

impl From<&ArtifactError> for Problem {
    fn from(error: &ArtifactError) -> Self {
        let (status, code) = match error {
            ArtifactError::Component(error) if !error.is_the_machines() => {
                (StatusCode::UNPROCESSABLE_ENTITY, "component")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "artifact"),
        };
        Self::new(status, code, chain(error))
    }
}

impl From<&SealError> for Problem {
    fn from(error: &SealError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "seal", chain(error))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = self.more;
        for (name, value) in [
            ("type", json!("about:blank")),
            ("title", json!(self.status.canonical_reason())),
            ("status", json!(self.status.as_u16())),
            ("code", json!(self.code)),
            ("detail", json!(self.detail)),
        ] {
            document.insert(name.to_owned(), value);
        }
        let text = format!("{}\n", Value::Object(document));
        let content_type = (CONTENT_TYPE, "application/problem+json");
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            (self.status, [content_type, (RETRY_AFTER, "1")], text).into_response()
        } else {
            (self.status, [content_type], text).into_response()
        }
    }
}

/// Something of a request's head, whose absence or fault is a [`Problem`].
pub(super) struct Checked<E>(pub(super) E);

impl<E, S> FromRequestParts<S> for Checked<E>
where
    E: FromRequestParts<S>,
    E::Rejection: std::fmt::Display,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let extracted = E::from_request_parts(parts, state).await;
        extracted
            .map(Self)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "request", cut(error.to_string())))
    }
}

/// A request's body as JSON, within [`body::JSON_LEN_MAX`].
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body::read(request.into_body(), body::JSON_LEN_MAX).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let error = cut(error.to_string());
            let detail =
                format!("the body is not what this route takes: {error}; /v1/openapi.json describes it");
            Problem::new(StatusCode::BAD_REQUEST, "request", detail)
        })
    }
}

fn cut(mut error: String) -> String {
    error.truncate(error.floor_char_boundary(READ_ERROR_MAX));
    error
}
