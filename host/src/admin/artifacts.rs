//! What is kept of components, and what may go.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::access::Sender;
use super::problem::{JsonBody, Problem};
use crate::artifact::{Artifact, ArtifactError, Components};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Collect {
    /// Tells what would go, and drops nothing.
    #[serde(default)]
    dry_run: bool,
}

/// All components on this host's disk.
pub(super) async fn list(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let artifacts = on_disk(&admin, Components::artifacts).await?;
    let bytes_max = admin.status.deployer.components().bytes_max();
    Ok(Json(json!({
        "bytes": bytes(&artifacts),
        "unpinned_bytes_max": bytes_max,
        "artifacts": artifacts,
    })))
}

/// Drops those that nothing deploys.
pub(super) async fn collect(
    State(admin): State<Admin>,
    sender: Sender,
    JsonBody(Collect { dry_run }): JsonBody<Collect>,
) -> Result<Json<Value>, Problem> {
    let by = sender.noted(None);
    if !dry_run {
        admin.refuse_when_draining()?;
    }
    let dropped = on_disk(&admin, move |components| components.collect(dry_run)).await?;
    tracing::info!(
        by,
        dry_run,
        dropped = dropped.len(),
        bytes = bytes(&dropped),
        "looked for components that nothing deploys"
    );
    Ok(Json(
        json!({ "dry_run": dry_run, "bytes": bytes(&dropped), "dropped": dropped }),
    ))
}

fn bytes(artifacts: &[Artifact]) -> u64 {
    artifacts.iter().map(|artifact| artifact.bytes).sum()
}

async fn on_disk(
    admin: &Admin,
    work: impl FnOnce(&Components) -> Result<Vec<Artifact>, ArtifactError> + Send + 'static,
) -> Result<Vec<Artifact>, Problem> {
    let components: Arc<Components> = admin.status.deployer.components().clone();
    match tokio::task::spawn_blocking(move || work(&components)).await {
        Ok(done) => done.map_err(|error| Problem::from(&error)),
        Err(error) => {
            let detail = format!("failed to look at the folder of components: {error}");
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "artifact",
                detail,
            ))
        }
    }
}
