//! What namespaces may use of each host, as an operator says.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_compose::QuotaRecord;
use weft_compose::name::is_label;
use weft_compose::record::VERSION;

use super::Admin;
use super::access::Sender;
use super::changes::finish;
use super::problem::{Checked, JsonBody, Problem};
use super::scope::Scope;
use super::views::Filter;
use crate::deploy::Deployed;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQuota {
    namespace: String,
    messages_per_s: Option<u64>,
    object_bytes_per_s: Option<u64>,
    connections: Option<u64>,
    by: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuota {
    namespace: String,
    by: Option<String>,
}

type Answer = Result<Json<Deployed>, Problem>;

/// All quotas, and what this host has refused because of them.
pub(super) async fn list(
    State(admin): State<Admin>,
    Checked(Query(filter)): Checked<Query<Filter>>,
) -> Json<Value> {
    let progress = admin.status.deployer.progress();
    let wanted = |namespace: &String| filter.name.as_ref().is_none_or(|name| name == namespace);
    let quotas = progress
        .quotas
        .iter()
        .filter(|(namespace, _)| wanted(namespace))
        .map(|(namespace, quota)| {
            let record = quota.record();
            let [messages, object_bytes] = quota.report().refused.map(|(_, refused)| refused);
            json!({
                "namespace": namespace,
                "messages_per_s": record.messages_per_s,
                "object_bytes_per_s": record.object_bytes_per_s,
                "connections": record.connections,
                "refused": { "messages": messages, "object_bytes": object_bytes },
                "by": record.by,
            })
        });
    Json(json!({ "index": progress.desired.index.0, "quotas": quotas.collect::<Vec<_>>() }))
}

/// Puts the quota of a namespace.
pub(super) async fn put(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<PutQuota>,
) -> Answer {
    let by = sender.noted(request.by.as_deref());
    let put = async {
        admin.refuse_when_draining()?;
        let quota = record(request, &by)?;
        let put = admin.status.deployer.put_quota(&quota).await;
        put.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "quota", put.await)
}

/// Takes away the quota of a namespace.
pub(super) async fn delete(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<DeleteQuota>,
) -> Answer {
    let by = sender.noted(request.by.as_deref());
    let deleted = async {
        admin.refuse_when_draining()?;
        let deleted = admin.status.deployer.delete_quota(&request.namespace, &by).await;
        deleted.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(&scope, &by, "deletion of a quota", deleted.await)
}

fn record(request: PutQuota, by: &str) -> Result<QuotaRecord, Problem> {
    let wrong = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "quota", detail);
    let PutQuota {
        namespace,
        messages_per_s,
        object_bytes_per_s,
        connections,
        by: _,
    } = request;
    if !is_label(&namespace) {
        return Err(wrong(
            "a namespace is 1 to 63 lower-case letters, digits or inner hyphens",
        ));
    }
    let all = [messages_per_s, object_bytes_per_s, connections];
    if all.iter().all(Option::is_none) {
        return Err(wrong(
            "a quota says at least one of messages_per_s, object_bytes_per_s and connections",
        ));
    }
    if all.contains(&Some(0)) {
        return Err(wrong("a quota is at least 1: of nothing, delete the link"));
    }
    Ok(QuotaRecord {
        v: VERSION,
        namespace,
        messages_per_s,
        object_bytes_per_s,
        connections,
        by: by.to_owned(),
    })
}
