//! Moves of providers' data: begun and given up.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_compose::manifest::parse;
use weft_lattice::control::CommitError;

use super::Admin;
use super::access::Sender;
use super::problem::{JsonBody, Problem};
use super::scope::Scope;
use crate::cli::chain;
use crate::moving::BeginError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begin {
    /// The manifest that says where the data of its providers is to be.
    manifest: String,
    /// What faults call it.
    #[serde(default = "default_file")]
    file: String,
    /// Overwrites what the new backends have.
    #[serde(default)]
    replace: bool,
    /// Does not wait for hosts that can't be seen.
    #[serde(default)]
    force: bool,
    by: Option<String>,
}

fn default_file() -> String {
    "manifest".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancel {
    /// Which provider; a short name if it is unique.
    provider: String,
    by: Option<String>,
}

type Answer = Result<Json<Value>, Problem>;

/// Begins to move the data of the providers that a manifest has elsewhere.
pub(super) async fn begin(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<Begin>,
) -> Answer {
    admin.refuse_when_draining()?;
    let by = sender.noted(request.by.as_deref());
    let manifest = parse(&request.file, &request.manifest)
        .map_err(|faults| Problem::faults(&faults, &request.manifest))?;
    scope.allows_app(&manifest)?;
    let begun = admin
        .status
        .mover
        .begin(&manifest, request.replace, request.force, &by)
        .await;
    let begun = begun.map_err(|error| problem(&error))?;
    for one in &begun {
        tracing::info!(
            by,
            provider = one.provider.as_str(),
            to = one.to,
            "a move of its data was begun"
        );
    }
    Ok(Json(json!({ "moves": begun })))
}

/// Gives a move up.
pub(super) async fn cancel(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<Cancel>,
) -> Answer {
    let by = sender.noted(request.by.as_deref());
    let desired = admin.progress(&scope).desired;
    let name = scope.complete("provider", &request.provider, desired.providers.keys())?;
    let cancelled = admin.status.mover.cancel(&name, &by).await;
    cancelled.map_err(|error| problem(&error))?;
    tracing::info!(by, provider = name.as_str(), "the move of its data was given up");
    Ok(Json(json!({ "provider": name })))
}

fn problem(error: &BeginError) -> Problem {
    let (status, code) = match error {
        BeginError::Capability(..) | BeginError::Outside(_) | BeginError::Together(..) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "cannot-move")
        }
        BeginError::Moving(..) | BeginError::Commit(CommitError::Conflict { .. }) => {
            (StatusCode::CONFLICT, "conflict")
        }
        BeginError::NotMoving(_) => (StatusCode::NOT_FOUND, "not-moving"),
        BeginError::Read(_) | BeginError::Commit(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "control-store-unavailable")
        }
        BeginError::Record(_) => (StatusCode::INTERNAL_SERVER_ERROR, "control-store"),
    };
    Problem::new(status, code, chain(error))
}
