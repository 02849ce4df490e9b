//! Secrets: names and versions out, sealed values in, and no value ever out.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_compose::record::VERSION;
use weft_compose::{SecretName, SecretRecord, SecretSource};

use super::Admin;
use super::access::Sender;
use super::changes::finish;
use super::problem::{Checked, JsonBody, Problem};
use super::scope::Scope;
use super::views::Filter;
use crate::deploy::Deployed;
use crate::desired::Desired;
use crate::secret::opened::{sources_of, sources_of_command};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutSecret {
    /// The full name.
    name: SecretName,
    /// The version that it was sealed as.
    version: u64,
    /// The id of the root key that it was sealed to.
    key: String,
    /// The sealed value, in base64.
    sealed: String,
    by: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteSecret {
    /// A short name if it is unique.
    name: String,
    by: Option<String>,
}

type Answer = Result<Json<Deployed>, Problem>;

/// All secrets, and what new ones are to be sealed to.
pub(super) async fn list(
    State(admin): State<Admin>,
    scope: Scope,
    Checked(Query(filter)): Checked<Query<Filter>>,
) -> Result<Json<Value>, Problem> {
    let desired = admin.progress(&scope).desired;
    let name = filter.name.as_deref();
    let only = name
        .map(|name| scope.complete("secret", name, desired.secrets.keys()))
        .transpose()?;
    let used_by = users(&desired);
    let secrets = desired
        .secrets
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name));
    let secrets = secrets.map(|(name, record)| {
        json!({
            "name": name,
            "version": record.version,
            "key": record.key,
            "used_by": used_by.get(name).map_or(&[][..], Vec::as_slice),
            "by": record.by,
            "at": record.at,
        })
    });
    let recipient = admin.status.vault.recipient();
    Ok(Json(json!({
        "index": desired.index.0,
        "key": recipient.map(|recipient| json!({ "id": recipient.id(), "public": recipient.to_string() })),
        "secrets": secrets.collect::<Vec<_>>(),
    })))
}

/// Who uses which secret: full names of actors and providers.
fn users(desired: &Desired) -> BTreeMap<SecretName, Vec<&str>> {
    let mut users = BTreeMap::<SecretName, Vec<&str>>::new();
    let mut add = |namespace: &str, app: &str, source: &SecretSource, user| {
        if let SecretSource::Sealed(name) = source
            && let Ok(name) = SecretName::new(namespace, app, name)
        {
            users.entry(name).or_default().push(user);
        }
    };
    for (name, record) in &desired.providers {
        let of_process = record.command.iter().flat_map(sources_of_command);
        let sources = sources_of(record).chain(of_process);
        sources.for_each(|source| add(name.namespace(), name.app(), &source, name.as_str()));
    }
    for (name, record) in &desired.actors {
        let sources = record.secrets.values().filter_map(|text| text.parse().ok());
        sources.for_each(|source| add(name.namespace(), name.app(), &source, name.as_str()));
    }
    users.values_mut().for_each(Vec::dedup);
    users
}

/// Takes the next version of a secret, if this host can open it.
pub(super) async fn put(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<PutSecret>,
) -> Answer {
    let PutSecret {
        name,
        version,
        key,
        sealed,
        by,
    } = request;
    let by = sender.noted(by.as_deref());
    let record = SecretRecord {
        v: VERSION,
        name,
        version,
        key,
        sealed,
        by: by.clone(),
        at: Timestamp::now().to_string(),
    };
    let put = async {
        admin.refuse_when_draining()?;
        scope.allows(record.name.namespace())?;
        // A value that was sealed to another lattice's key would only be noticed when it is needed.
        let (vault, opening) = (admin.status.vault.clone(), record.clone());
        let opened =
            tokio::task::spawn_blocking(move || vault.open_record(&opening.name, &opening).map(drop));
        opened
            .await
            .map_err(failed)?
            .map_err(|error| Problem::from(&error))?;
        let put = admin.status.deployer.put_secret(&record).await;
        put.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "secret", put.await)
}

/// Takes a secret away.
pub(super) async fn delete(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<DeleteSecret>,
) -> Answer {
    let by = sender.noted(request.by.as_deref());
    let deleted = async {
        admin.refuse_when_draining()?;
        let deployer = &admin.status.deployer;
        let known = admin.progress(&scope).desired;
        let name = scope.complete("secret", &request.name, known.secrets.keys())?;
        let deleted = deployer.delete_secret(&name, &by).await;
        deleted.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "deletion of a secret", deleted.await)
}

/// Seals all secrets to the newest root key, whose file is read again first.
pub(super) async fn reseal(State(admin): State<Admin>, scope: Scope, sender: Sender) -> Answer {
    let by = sender.noted(None);
    let resealed = async {
        admin.refuse_when_draining()?;
        let vault = admin.status.vault.clone();
        let reload = tokio::task::spawn_blocking(move || vault.reload());
        reload.await.map_err(failed)?;
        let resealed = admin
            .status
            .deployer
            .reseal_secrets(&admin.status.vault, &by)
            .await;
        resealed.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "sealing anew", resealed.await)
}

fn failed(error: tokio::task::JoinError) -> Problem {
    let detail = format!("failed to open the secret: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "seal", detail)
}
