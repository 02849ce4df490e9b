//! What is kept of components, and what may go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Sender;
use super::problem::{Checked, JsonBody, Problem};
use super::{Admin, lattice};
use crate::artifact::{Artifact, ArtifactError, Components};
use crate::digest::Digest;
use crate::mesh::Mesh;
use crate::mesh::service::HOST_TARGET;

/// How long another host may take to tell what it has: it looks at one folder.
const HOST_ANSWERS: Duration = Duration::from_secs(5);
/// Hosts that are asked at once, each with an answer in memory.
const HOSTS_AT_ONCE: usize = 16;
/// Bytes of one host's list: some hundred for each of 40,000 components.
const LIST_LEN_MAX: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Collect {
    /// Tells what would go, and drops nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// Of all hosts, and not of this one alone.
    #[serde(default)]
    hosts: bool,
    /// Only those whose digest begins like that, or that an actor needs whose name ends like that.
    name: Option<String>,
}

/// All components on this host's disk, or on that of any.
pub(super) async fn list(
    State(admin): State<Admin>,
    sender: Sender,
    Checked(Query(wanted)): Checked<Query<Wanted>>,
) -> Result<Json<Value>, Problem> {
    let artifacts = on_disk(&admin, Components::artifacts).await?;
    let own: Vec<Held> = artifacts.into_iter().map(Held::from).collect();
    let mut unanswered = Vec::new();
    let mut held = match &admin.status.mesh {
        Some(mesh) if wanted.hosts => {
            let others = of_others(mesh, sender.as_str()).await;
            let mut all = vec![(mesh.name.to_string(), own)];
            for (host, answer) in others {
                match answer {
                    Some(artifacts) => all.push((host, artifacts)),
                    None => unanswered.push(host),
                }
            }
            merged(all)
        }
        _ => merged(vec![(admin.status.host_id.clone(), own)]),
    };
    if let Some(name) = &wanted.name {
        held.retain(|held| held.is_named(name));
    }
    let bytes_max = admin.status.deployer.components().bytes_max();
    Ok(Json(json!({
        "bytes": held.iter().map(|held| held.bytes).sum::<u64>(),
        "unpinned_bytes_max": bytes_max,
        "artifacts": held,
        "unanswered": unanswered,
    })))
}

/// A component, as a host tells it; others may tell more of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    digest: Digest,
    bytes: u64,
    pinned_by: Vec<String>,
    in_use: bool,
    last_used: u64,
    /// Who has it.
    #[serde(default)]
    hosts: Vec<String>,
}

impl From<Artifact> for Held {
    fn from(artifact: Artifact) -> Self {
        let Artifact {
            digest,
            bytes,
            pinned_by,
            in_use,
            last_used,
        } = artifact;
        Self {
            digest,
            bytes,
            pinned_by,
            in_use,
            last_used,
            hosts: Vec::new(),
        }
    }
}

impl Held {
    fn is_named(&self, name: &str) -> bool {
        let digest = self.digest.to_string();
        let hex = digest.trim_start_matches("sha256:");
        let is_it = |actor: &String| {
            let actor = actor.split(' ').next().unwrap_or_default();
            actor
                .strip_suffix(name)
                .is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        digest.starts_with(name) || hex.starts_with(name) || self.pinned_by.iter().any(is_it)
    }
}

/// Each component once, with all who have it; those first that were used last.
fn merged(of_hosts: Vec<(String, Vec<Held>)>) -> Vec<Held> {
    let mut all = HashMap::<Digest, Held>::new();
    for (host, artifacts) in of_hosts {
        for artifact in artifacts {
            let held = all.entry(artifact.digest).or_insert_with(|| Held {
                hosts: Vec::new(),
                ..artifact.clone()
            });
            held.hosts.push(host.clone());
            held.in_use |= artifact.in_use;
            held.last_used = held.last_used.max(artifact.last_used);
            // One that is behind with its records may not know all yet.
            held.pinned_by.extend(artifact.pinned_by);
            held.pinned_by.sort();
            held.pinned_by.dedup();
        }
    }
    let mut all: Vec<Held> = all.into_values().collect();
    all.iter_mut().for_each(|held| held.hosts.sort());
    all.sort_by_key(|held| (std::cmp::Reverse(held.last_used), held.digest.to_hex()));
    all
}

/// What each other host has; nothing of one that does not answer.
async fn of_others(mesh: &Arc<Mesh>, sender: &str) -> Vec<(String, Option<Vec<Held>>)> {
    let (members, own) = (mesh.members(), mesh.address());
    let others = members
        .iter()
        .filter(|member| Some(member.host.address.as_str()) != own.as_deref())
        .map(|member| member.host.name.clone());
    let others: Vec<String> = others.collect();
    let asked = others.into_iter().map(|host| async move {
        let answer = tokio::time::timeout(HOST_ANSWERS, of_host(mesh, &host, sender));
        let answer = answer.await.ok().flatten();
        (host, answer)
    });
    futures::stream::iter(asked)
        .buffer_unordered(HOSTS_AT_ONCE)
        .collect()
        .await
}

async fn of_host(mesh: &Arc<Mesh>, host: &str, sender: &str) -> Option<Vec<Held>> {
    let group = mesh.host(&host.parse().ok()?);
    let reach = group.reach()?;
    let asked = axum::http::Request::get("/v1/artifacts")
        .header("host", "localhost")
        .body(Body::empty())
        .ok()?;
    let answer = lattice::pass_to(&reach, HOST_TARGET, sender, asked).await;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let body = to_bytes(answer.into_body(), LIST_LEN_MAX).await.ok()?;
    let mut list: Value = serde_json::from_slice(&body).ok()?;
    serde_json::from_value(list["artifacts"].take()).ok()
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
