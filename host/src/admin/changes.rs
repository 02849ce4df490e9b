//! Changes of what is deployed.
//!
//! Owns the step from a request to a change: names completed, who sent it, what became of it in the log. The rules are
//! [`crate::deploy`]'s.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_compose::capability::{Need, need};
use weft_compose::manifest::parse;
use weft_compose::{
    ActorName, AllowPattern, AppName, InterfacePattern, LinkKey, LinkTarget, ProviderName, check_provider,
};

use super::access::Sender;
use super::problem::{Checked, JsonBody, Problem};
use super::scope::Scope;
use super::uploads::Piece;
use super::{Admin, body};
use crate::component::{COMPONENT_LEN_MAX, ComponentBytes};
use crate::deploy::Deployed;
use crate::desired::Desired;
use crate::digest::Digest;

/// Components that are taken at once: each is held in memory, and compiled by a process of its own.
pub(super) const PUSHES_MAX: usize = 2;
/// How long a push waits for its turn; a large component takes a minute to compile.
const PUSH_WAIT_MAX: Duration = Duration::from_secs(120);
/// Bytes of a piece of a component: those that fit into a message.
const PIECE_LEN_MAX: u64 = 1 << 20;
/// Bytes of a manifest's file name, which faults repeat.
const FILE_LEN_MAX: usize = 255;
/// Bytes of a bucket's name, as in a manifest.
const BUCKET_LEN_MAX: usize = 255;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployRequest {
    /// The manifest's text.
    manifest: String,
    /// What faults call it.
    #[serde(default = "default_file")]
    file: String,
    /// The digest of each actor's component that the manifest names by its path.
    #[serde(default)]
    digests: BTreeMap<String, String>,
    /// What the sender says of itself, beside who it is.
    by: Option<String>,
    /// Tells what would be written, and writes nothing.
    #[serde(default)]
    dry_run: bool,
}

fn default_file() -> String {
    "manifest".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutLink {
    actor: String,
    interface: LinkKey,
    to: Target,
    by: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteLink {
    actor: String,
    interface: LinkKey,
    by: Option<String>,
}

/// Exactly one of the first four.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    provider: Option<String>,
    actor: Option<String>,
    allow: Option<Vec<AllowPattern>>,
    /// A provider or an actor, whichever the interface needs.
    name: Option<String>,
    bucket: Option<String>,
    #[serde(default)]
    shared: bool,
}

/// Whether a component is kept here.
pub(super) async fn has_artifact(
    State(admin): State<Admin>,
    Checked(Path(digest)): Checked<Path<String>>,
) -> Result<StatusCode, Problem> {
    let here = admin.status.deployer.components().has(parse_digest(&digest)?);
    Ok(if here {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    })
}

/// Takes a component, compiles it, and keeps it if it can be run here.
pub(super) async fn put_artifact(
    State(admin): State<Admin>,
    sender: Sender,
    Checked(Path(digest)): Checked<Path<String>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let by = sender.noted(None);
    let pushed = match push(&admin, &digest, &headers, body).await {
        Ok(None) => return Ok(Json(json!({ "component": digest, "more": true }))),
        Ok(Some(pushed)) => Ok(pushed),
        Err(problem) => Err(problem),
    };
    match &pushed {
        Ok(Pushed {
            len,
            also_on,
            warning,
        }) => {
            tracing::info!(
                by,
                component = digest,
                len,
                also_on,
                warning,
                "a component was pushed"
            );
        }
        Err(problem) => log_refusal(&by, "push of a component", problem),
    }
    pushed.map(
        |Pushed {
             len,
             also_on,
             warning,
         }| {
            Json(json!({
                "component": digest, "component_bytes": len, "also_on": also_on, "warning": warning,
            }))
        },
    )
}

/// A component that is kept.
struct Pushed {
    len: usize,
    /// The second host that has it.
    also_on: Option<String>,
    /// Why there is none.
    warning: Option<String>,
}

/// Takes a component, or a piece of one: nothing, if others have to follow.
async fn push(
    admin: &Admin,
    digest: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Option<Pushed>, Problem> {
    admin.refuse_when_draining()?;
    let digest = parse_digest(digest)?;
    let (body, come) = match Piece::of(headers)? {
        None => (Some(body), Vec::new()),
        Some(piece) => {
            let bytes = body::read(body, PIECE_LEN_MAX).await?;
            match admin.uploads.take(digest, piece, &bytes)? {
                Some(all) => (None, all),
                None => return Ok(None),
            }
        }
    };
    let turn = tokio::time::timeout(PUSH_WAIT_MAX, admin.pushes.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        let detail = format!("{PUSHES_MAX} other components are being pushed: try again later");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail));
    };
    let bytes = match body {
        Some(body) => body::read(body, COMPONENT_LEN_MAX).await?,
        None => come,
    };
    let found = Digest::of(&bytes);
    if found != digest {
        let detail = format!("the body is {found}, not {digest}: was it cut short or changed on its way?");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "digest", detail));
    }
    let component = ComponentBytes {
        // What errors call it.
        path: PathBuf::from(digest.to_string()),
        digest,
        bytes,
    };
    let loaded = admin.status.deployer.components().add(component).await;
    let len = loaded
        .map(|loaded| loaded.description.len)
        .map_err(|error| Problem::from(&error))?;
    let (also_on, warning) = match &admin.status.mesh {
        None => (None, None),
        Some(mesh) => match mesh.replicate(digest).await {
            Ok(Some(host)) => (Some(host), None),
            Ok(None) => (
                None,
                Some("this host is alone: no other one has the component".to_owned()),
            ),
            Err(reason) => (None, Some(format!("no second host has the component: {reason}"))),
        },
    };
    Ok(Some(Pushed {
        len,
        also_on,
        warning,
    }))
}

/// Deploys a manifest.
pub(super) async fn deploy(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<DeployRequest>,
) -> Result<Json<Deployed>, Problem> {
    let by = sender.noted(request.by.as_deref());
    let deployed = deploy_manifest(&admin, &scope, request, &by).await;
    finish(&scope, &by, "deploy", deployed)
}

async fn deploy_manifest(
    admin: &Admin,
    scope: &Scope,
    request: DeployRequest,
    by: &str,
) -> Result<Deployed, Problem> {
    admin.refuse_when_draining()?;
    let DeployRequest {
        manifest: text,
        mut file,
        digests,
        dry_run,
        ..
    } = request;
    file.truncate(file.floor_char_boundary(FILE_LEN_MAX));
    // A large manifest takes a while.
    let parsed = tokio::task::spawn_blocking(move || {
        let parsed = parse(&file, &text);
        (text, parsed)
    });
    let (text, parsed) = parsed.await.map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "manifest",
            format!("failed to read the manifest: {error}"),
        )
    })?;
    let manifest = parsed.map_err(|faults| Problem::faults(&faults, &text))?;
    scope.allows_app(&manifest)?;
    let digests = digests
        .into_iter()
        .map(|(actor, digest)| Ok((actor, parse_digest(&digest)?)));
    let digests = digests.collect::<Result<_, Problem>>()?;
    let deployed = admin
        .status
        .deployer
        .deploy_kept(&manifest, &digests, by, dry_run)
        .await;
    deployed.map_err(|error| Problem::of_change(&error, &text))
}

/// Deletes an app.
pub(super) async fn delete_app(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    Checked(Path((namespace, app))): Checked<Path<(String, String)>>,
) -> Result<Json<Deployed>, Problem> {
    let by = sender.noted(None);
    let deleted = async {
        admin.refuse_when_draining()?;
        let name = AppName::new(&namespace, &app)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "name", error.to_string()))?;
        scope.allows(name.namespace())?;
        let deleted = admin.status.deployer.delete_app(&name, &by).await;
        deleted.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "deletion of an app", deleted.await)
}

/// Links an import of an actor.
pub(super) async fn put_link(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<PutLink>,
) -> Result<Json<Deployed>, Problem> {
    let by = sender.noted(request.by.as_deref());
    let linked = async {
        admin.refuse_when_draining()?;
        let deployer = &admin.status.deployer;
        let desired = admin.progress(&scope).desired;
        let actor = scope.complete("actor", &request.actor, desired.actors.keys())?;
        let target = target(&desired, &scope, &actor, &request.interface.interface, request.to)?;
        scope.allows_target(&target)?;
        let linked = deployer.put_link(&actor, &request.interface, target, &by).await;
        linked.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "link", linked.await)
}

/// Takes a link away.
pub(super) async fn delete_link(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<DeleteLink>,
) -> Result<Json<Deployed>, Problem> {
    let by = sender.noted(request.by.as_deref());
    let deleted = async {
        admin.refuse_when_draining()?;
        let deployer = &admin.status.deployer;
        let actor = scope.complete(
            "actor",
            &request.actor,
            admin.progress(&scope).desired.actors.keys(),
        )?;
        let deleted = deployer.delete_link(&actor, &request.interface, &by).await;
        deleted.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "deletion of a link", deleted.await)
}

/// What a request names as a link's target, in full. A short name is first looked for in the actor's own app.
fn target(
    desired: &Desired,
    scope: &Scope,
    actor: &ActorName,
    interface: &InterfacePattern,
    to: Target,
) -> Result<LinkTarget, Problem> {
    let wrong = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "target", detail);
    let Target {
        provider,
        actor: callee,
        allow,
        name,
        bucket,
        shared,
    } = to;
    let (provider, callee) = match (provider, callee, &allow, name) {
        (None, None, None, Some(name)) if need(interface) == Need::Actor => (None, Some(name)),
        (None, None, None, Some(name)) => (Some(name), None),
        (provider, callee, _, None) => (provider, callee),
        _ => {
            return Err(wrong(
                "a link goes to exactly one of `provider`, `actor`, `allow` and `name`",
            ));
        }
    };
    if provider.is_none() && (bucket.is_some() || shared) {
        return Err(wrong("`bucket` and `shared` are for links to a provider"));
    }
    match (provider, callee, allow) {
        (Some(name), None, None) => {
            let bucket_is_text = |bucket: &String| {
                (1..=BUCKET_LEN_MAX).contains(&bucket.len()) && !bucket.contains(char::is_control)
            };
            if !bucket.as_ref().is_none_or(bucket_is_text) {
                return Err(wrong("a bucket's name is a line of 1 to 255 bytes"));
            }
            let name = provider_named(desired, scope, actor, interface, &name)?;
            Ok(LinkTarget::Provider { name, bucket, shared })
        }
        (None, Some(name), None) => {
            let own = ActorName::new(actor.namespace(), actor.app(), &name).ok();
            let name = match own.filter(|own| desired.actors.contains_key(own)) {
                Some(own) => own,
                None => scope.complete("actor", &name, desired.actors.keys())?,
            };
            Ok(LinkTarget::Actor { name })
        }
        (None, None, Some(mut allow)) => {
            allow.sort();
            allow.dedup();
            Ok(LinkTarget::Http { allow })
        }
        _ => Err(wrong(
            "a link goes to exactly one of `provider`, `actor`, `allow` and `name`",
        )),
    }
}

fn provider_named(
    desired: &Desired,
    scope: &Scope,
    actor: &ActorName,
    interface: &InterfacePattern,
    name: &str,
) -> Result<ProviderName, Problem> {
    let own = ProviderName::new(actor.namespace(), actor.app(), name).ok();
    let name = match own.filter(|own| desired.providers.contains_key(own)) {
        Some(own) => own,
        None => scope.complete("provider", name, desired.providers.keys())?,
    };
    // The plan checks this of providers in the actor's own app, as it reads no other.
    if let Some(record) = desired.providers.get(&name) {
        check_provider(interface, name.as_str(), record.capability, &record.backend)
            .map_err(|kind| Problem::refused(&kind))?;
    }
    Ok(name)
}

fn parse_digest(text: &str) -> Result<Digest, Problem> {
    text.parse().map_err(|error: crate::digest::DigestError| {
        Problem::new(StatusCode::BAD_REQUEST, "digest", error.to_string())
    })
}

pub(super) fn finish(
    scope: &Scope,
    by: &str,
    what: &str,
    result: Result<Deployed, Problem>,
) -> Result<Json<Deployed>, Problem> {
    match &result {
        Ok(Deployed {
            index,
            changed,
            conditions,
            ..
        }) => {
            tracing::info!(by, index, changed, conditions = conditions.len(), "{what}: done");
        }
        Err(problem) => log_refusal(by, what, problem),
    }
    result.map(|deployed| Json(scope.shown(deployed)))
}

fn log_refusal(by: &str, what: &str, problem: &Problem) {
    // The faults of a manifest show its lines, which may have passwords in them. Who sent it has the answer.
    let detail = match problem.code {
        "manifest" => "the answer has the faults",
        _ => &problem.detail,
    };
    tracing::warn!(by, code = problem.code, detail, "{what}: refused");
}
