//! Where actors run, as an operator says.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use weft_compose::HostName;

use super::Admin;
use super::access::Sender;
use super::changes::finish;
use super::problem::{JsonBody, Problem};
use super::scope::Scope;
use crate::deploy::Deployed;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Placement {
    /// Which actor; a short name if it is unique.
    actor: String,
    /// Where. It need not be there now.
    host: HostName,
    by: Option<String>,
}

type Answer = Result<Json<Deployed>, Problem>;

/// Places an actor on a host.
pub(super) async fn put(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<Placement>,
) -> Answer {
    change(&admin, &scope, &sender, request, true).await
}

/// Takes an actor off a host.
pub(super) async fn delete(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    JsonBody(request): JsonBody<Placement>,
) -> Answer {
    change(&admin, &scope, &sender, request, false).await
}

async fn change(admin: &Admin, scope: &Scope, sender: &Sender, request: Placement, placed: bool) -> Answer {
    let by = sender.noted(request.by.as_deref());
    let changed = async {
        admin.refuse_when_draining()?;
        let deployer = &admin.status.deployer;
        let actor = scope.complete(
            "actor",
            &request.actor,
            admin.progress(scope).desired.actors.keys(),
        )?;
        let changed = deployer.place(&actor, &request.host, placed, &by).await;
        changed.map_err(|error| Problem::of_change(&error, ""))
    };
    finish(scope, &by, "placement", changed.await)
}
