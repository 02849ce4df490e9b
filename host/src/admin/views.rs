//! What is deployed, and what of it this host serves.
//!
//! Owns the answers to `GET`. All of one answer is of one moment: the records that the reconciler applied last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};
use weft_compose::MoveRecord;
use weft_compose::record::{LinkRecord, LinkTarget, RouteRecord};
use weft_compose::secret::shown as shown_option;
use weft_lattice::envelope::Standing;

use super::Admin;
use super::problem::{Checked, Problem};
use super::scope::Scope;
use crate::link::{Linked, linked};
use crate::mesh::{Details, Member};
use crate::moving::Report;
use crate::provider::health::HealthState;
use crate::reconcile::{Listens, Progress, link_subject};
use crate::state::{ActorState, State as Snapshot};

#[derive(serde::Deserialize)]
pub(super) struct Filter {
    /// Only what has this name, or is of the actor with it; a short one if it is unique.
    pub(super) name: Option<String>,
}

type Answer = Result<Json<Value>, Problem>;
type Wanted = Checked<Query<Filter>>;

pub(super) async fn host(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.status.to_json())
}

pub(super) async fn hosts(State(admin): State<Admin>, Checked(Query(filter)): Wanted) -> Answer {
    let progress = admin.status.deployer.progress();
    let mut host = admin.status.to_json();
    host["applied_index"] = json!(progress.applied.0);
    host["conditions"] = json!(progress.all_conditions().len());
    host["standing"] = json!("alive");
    host["address"] = host["lattice"]["address"].clone();
    host["name"] = host["host"].clone();
    host["labels"] = host["lattice"]["labels"].clone();
    host["controller"] = host["lattice"]["controller"].clone();
    let mut hosts = vec![host];
    if let Some(mesh) = &admin.status.mesh {
        let own = mesh.address();
        let members = mesh.members();
        let others = members
            .iter()
            .filter(|member| Some(member.host.address.as_str()) != own.as_deref());
        hosts.extend(others.map(other));
        hosts.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
    hosts.retain(|host| {
        filter
            .name
            .as_ref()
            .is_none_or(|name| host["name"] == name.as_str())
    });
    Ok(Json(json!({ "hosts": hosts })))
}

/// Another host, as it says of itself and as this one sees it.
fn other(member: &Member) -> Value {
    let Details {
        name,
        labels,
        http,
        version,
        applied,
        conditions,
    } = &member.details;
    json!({
        "host": name,
        "name": name,
        "version": version,
        "state": if member.standing == Standing::Leaving { "draining" } else { "ready" },
        "standing": format!("{:?}", member.standing).to_lowercase(),
        "address": member.host.address.as_str(),
        "controller": member.host.controller,
        "labels": labels,
        "http": http,
        "applied_index": applied,
        "conditions": conditions,
    })
}

pub(super) async fn conditions(
    State(admin): State<Admin>,
    scope: Scope,
    Checked(Query(filter)): Wanted,
) -> Answer {
    let progress = admin.progress(&scope);
    let about = |subject: &str| {
        filter
            .name
            .as_ref()
            .is_none_or(|name| subject.contains(name.as_str()))
    };
    let conditions: Vec<_> = scope
        .conditions(progress.all_conditions())
        .into_iter()
        .filter(|condition| about(&condition.subject))
        .collect();
    Ok(Json(
        json!({ "index": progress.applied.0, "conditions": conditions }),
    ))
}

pub(super) async fn apps(State(admin): State<Admin>, scope: Scope, Checked(Query(filter)): Wanted) -> Answer {
    let progress = admin.progress(&scope);
    let desired = &progress.desired;
    let only = completed(&scope, "app", filter.name.as_deref(), desired.apps.keys())?;
    let apps = desired
        .apps
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name));
    // Each list is gone through once, and not once for each app.
    let actors = by_app(desired.actors.keys(), |actor| actor.app_name());
    let providers = by_app(desired.providers.keys(), |provider| provider.app_name());
    let routes = by_app(desired.routes.values(), |route| route.app.clone());
    let conditions = progress.all_conditions();
    let conditions = by_app(conditions.iter(), |condition| condition.app.clone());
    let places = admin.status.places.report();
    let places: HashMap<_, _> = places.iter().map(|places| (&*places.app, places)).collect();
    let apps = apps.map(|(name, record)| {
        let places = places.get(name.as_str());
        json!({
            "name": name,
            "revision": record.revision,
            "version": record.version,
            "description": record.description,
            "reserve": record.reserve,
            "reserved": places.map(|places| places.root_reserved),
            "used": places.map(|places| places.root_used),
            "manifest": record.manifest,
            "by": record.by,
            "at": record.at,
            "actors": actors.get(name).map_or(&[][..], Vec::as_slice),
            "providers": providers.get(name).map_or(&[][..], Vec::as_slice),
            "routes": shown(routes.get(name).map_or(&[][..], Vec::as_slice)),
            "conditions": conditions.get(&Some(name.clone())).map_or(0, Vec::len),
        })
    });
    Ok(Json(
        json!({ "index": desired.index.0, "apps": apps.collect::<Vec<_>>() }),
    ))
}

pub(super) async fn actors(
    State(admin): State<Admin>,
    scope: Scope,
    Checked(Query(filter)): Wanted,
) -> Answer {
    let progress = admin.progress(&scope);
    let desired = &progress.desired;
    let state = admin.status.state.load();
    let only = completed(&scope, "actor", filter.name.as_deref(), desired.actors.keys())?;
    let actors = desired
        .actors
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name));
    let actors = actors.map(|(name, record)| {
        let running = running(&state, name).map(|state| &state.actor);
        let links = desired.links_of(name).iter();
        json!({
            "name": name,
            "revision": record.revision,
            "placed_on": desired.placements.get(name).map(|hosts| &**hosts),
            "applied_revision": running.map(|actor| actor.revision),
            "component": record.component,
            "component_bytes": running.map(|actor| actor.component.description.len),
            "loaded": running.map(|actor| actor.component.is_loaded()),
            "http": running.map(|actor| actor.component.description.http),
            "running": running.map(|actor| actor.admission.running()),
            "waiting": running.map(|actor| actor.admission.waiting()),
            "concurrency": record.limits.concurrency,
            "limits": record.limits,
            "idempotent": record.idempotent,
            "allow_from": record.allow_from,
            "config": record.config.keys().collect::<Vec<_>>(),
            "secrets": record.secrets,
            "links": links.map(|link| json!({ "interface": link.interface, "target": link.target })).collect::<Vec<_>>(),
        })
    });
    Ok(Json(
        json!({ "index": desired.index.0, "actors": actors.collect::<Vec<_>>() }),
    ))
}

pub(super) async fn providers(
    State(admin): State<Admin>,
    scope: Scope,
    Checked(Query(filter)): Wanted,
) -> Answer {
    let progress = admin.progress(&scope);
    let desired = &progress.desired;
    let only = completed(
        &scope,
        "provider",
        filter.name.as_deref(),
        desired.providers.keys(),
    )?;
    let providers = desired
        .providers
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name));
    let providers = providers.map(|(name, record)| {
        let subject = format!("provider {name}");
        let health = progress.guards.get(name).map(|guard| guard.health.standing());
        let (since, reason) = match &health {
            Some(HealthState::Up(since)) => (Some(since), None),
            Some(HealthState::Down { since, reason, .. }) => (Some(since), Some(reason)),
            Some(HealthState::Unknown) | None => (None, None),
        };
        let links = desired.links.values().flat_map(|links| links.iter()).filter(
            |link| matches!(&link.target, LinkTarget::Provider { name: target, .. } if target == name),
        );
        json!({
            "name": name,
            "revision": record.revision,
            "capability": record.capability,
            "backend": record.backend,
            "allow_from": record.allow_from,
            "command": record.command,
            "process": progress.commands.as_ref().and_then(|commands| commands.process(name)).map(
                |(pid, ends)| json!({ "pid": pid, "ends": ends }),
            ),
            // A password that the manifest has in clear is not told; a reference to one is.
            "config": record.config.iter().map(|(key, text)| (key, shown_option(key, text))).collect::<BTreeMap<_, _>>(),
            "open": !progress.conditions.iter().any(|condition| condition.subject == subject),
            "linked_by": links.map(|link| link.actor.as_str()).collect::<Vec<_>>(),
            "state": health.as_ref().map(HealthState::as_str),
            "since": since,
            "reason": reason,
            "move": desired.moves.get(name).map(|record| moving(record, admin.status.mover.moves.report(name))),
        })
    });
    Ok(Json(
        json!({ "index": desired.index.0, "providers": providers.collect::<Vec<_>>() }),
    ))
}

pub(super) async fn links(
    State(admin): State<Admin>,
    scope: Scope,
    Checked(Query(filter)): Wanted,
) -> Answer {
    let progress = admin.progress(&scope);
    let desired = &progress.desired;
    let state = admin.status.state.load();
    let only = completed(&scope, "actor", filter.name.as_deref(), desired.actors.keys())?;
    let links = desired
        .links
        .iter()
        .filter(|(actor, _)| only.as_ref().is_none_or(|only| only == *actor));
    let links = links.flat_map(|(_, links)| links.iter().map(move |link| (link, links)));
    let links = links.map(|(link, all)| {
        json!({
            "actor": link.actor,
            "interface": link.interface,
            "revision": link.revision,
            "target": link.target,
            "declared": link.declared,
            "drift": link.is_drift(),
            "served": served(&state, link, all),
            "condition": down(&progress, link),
            "by": link.by,
        })
    });
    Ok(Json(
        json!({ "index": desired.index.0, "links": links.collect::<Vec<_>>() }),
    ))
}

/// A move, without what is set on the new backend: that may hold a password.
fn moving(record: &MoveRecord, report: Option<Report>) -> Value {
    let copied = report.as_ref().map(|report| &report.copied);
    json!({
        "step": record.step,
        "to": record.to.backend,
        "pass": record.pass,
        "reason": record.reason,
        "waiting": report.as_ref().and_then(|report| report.waiting.as_deref()),
        "keys": copied.map(|copied| copied.keys.load(Relaxed)),
        "changed": copied.map(|copied| copied.changed.load(Relaxed)),
        "bytes": copied.map(|copied| copied.bytes.load(Relaxed)),
        "by": record.by,
        "at": record.at,
    })
}

/// Why calls through a link fail now: it is not allowed any more, or its provider does not answer.
fn down(progress: &Progress, link: &LinkRecord) -> Option<String> {
    let subject = link_subject(link);
    let denied = progress
        .conditions
        .iter()
        .find(|condition| condition.subject == subject);
    if let Some(denied) = denied {
        return Some(denied.reason.clone());
    }
    let LinkTarget::Provider { name, .. } = &link.target else {
        return None;
    };
    match progress.guards.get(name)?.health.standing() {
        HealthState::Down { reason, .. } => Some(format!("{name} does not answer: {reason}")),
        _ => None,
    }
}

pub(super) async fn subscriptions(
    State(admin): State<Admin>,
    scope: Scope,
    Checked(Query(filter)): Wanted,
) -> Answer {
    let progress = admin.progress(&scope);
    let records = &progress.desired.subscriptions;
    listening(
        &admin,
        &scope,
        &filter,
        &progress,
        ("subscriptions", records),
        |record| {
            json!({
                "actor": record.actor,
                "provider": record.provider,
                "subject": record.subject,
                "group": record.group,
                "shared": record.shared,
            })
        },
    )
}

pub(super) async fn watches(
    State(admin): State<Admin>,
    scope: Scope,
    Checked(Query(filter)): Wanted,
) -> Answer {
    let progress = admin.progress(&scope);
    let records = &progress.desired.watches;
    listening(
        &admin,
        &scope,
        &filter,
        &progress,
        ("watches", records),
        |record| {
            json!({
                "actor": record.actor,
                "provider": record.provider,
                "bucket": record.bucket,
                "keys": record.keys,
                "shared": record.shared,
            })
        },
    )
}

/// What listens: each record, whether it is served here, and why not.
fn listening<R: Listens>(
    admin: &Admin,
    scope: &Scope,
    filter: &Filter,
    progress: &Progress,
    (name, records): (&str, &BTreeMap<String, Arc<R>>),
    to_json: impl Fn(&R) -> Value,
) -> Answer {
    let desired = &progress.desired;
    let state = admin.status.state.load();
    let only = completed(scope, "actor", filter.name.as_deref(), desired.actors.keys())?;
    let wanted = records
        .values()
        .filter(|record| only.as_ref().is_none_or(|only| only == record.actor()));
    let listed = wanted.map(|record| {
        let subject = record.subject();
        let mut of_subject = progress.conditions.iter().filter(|one| one.subject == subject);
        let reason = of_subject.next().map(|condition| &condition.reason);
        let mut listed = to_json(record);
        listed["served"] = json!(reason.is_none() && running(&state, record.actor()).is_some());
        listed["reason"] = json!(reason);
        listed
    });
    Ok(Json(
        json!({ "index": desired.index.0, name: listed.collect::<Vec<_>>() }),
    ))
}

fn completed<'a, N: Clone + std::fmt::Display + 'a>(
    scope: &Scope,
    kind: &str,
    name: Option<&str>,
    known: impl Iterator<Item = &'a N> + Clone,
) -> Result<Option<N>, Problem> {
    name.map(|name| scope.complete(kind, name, known)).transpose()
}

fn by_app<'a, T: 'a, A: Eq + std::hash::Hash>(
    all: impl Iterator<Item = &'a T>,
    app_of: impl Fn(&T) -> A,
) -> HashMap<A, Vec<&'a T>> {
    let mut by_app = HashMap::<A, Vec<&T>>::new();
    for one in all {
        by_app.entry(app_of(one)).or_default().push(one);
    }
    by_app
}

/// Those of an app, each once.
fn shown(all: &[&Arc<RouteRecord>]) -> Vec<Value> {
    let mut seen = HashSet::new();
    let routes = all.iter().filter(|route| {
        seen.insert((
            &route.host,
            &route.path,
            &route.methods,
            &route.headers,
            &route.actor,
        ))
    });
    let shown = routes.map(|route| {
        json!({
            "actor": route.actor, "host": route.host, "path": route.path,
            "methods": route.methods, "headers": route.headers, "strip_prefix": route.strip_prefix,
        })
    });
    shown.collect()
}

fn running<'a>(state: &'a Snapshot, name: &weft_compose::ActorName) -> Option<&'a ActorState> {
    state.find(name).map(|index| state.actor(index))
}

/// Whether calls through the link get where it says.
fn served(state: &Snapshot, link: &LinkRecord, all: &[LinkRecord]) -> bool {
    let Some(ActorState { actor, links, .. }) = running(state, &link.actor) else {
        return false;
    };
    let Some(links) = links.named(link.interface.name()) else {
        return false;
    };
    match &link.target {
        LinkTarget::Provider { name, .. } => {
            let key_value = links.key_value.as_ref().map(|link| &link.provider.name);
            let blob_store = links.blob_store.as_ref().map(|link| &link.provider.name);
            let sql = links.sql.as_ref().map(|link| &link.provider.name);
            let messaging = links.messaging.as_ref().map(|link| &link.provider.name);
            [key_value, blob_store, sql, messaging].contains(&Some(name))
        }
        LinkTarget::Actor { name } => {
            let target = state.callee(name);
            // An import for which another link says more is that one's.
            let mut imports = actor
                .component
                .description
                .actor_imports
                .iter()
                .enumerate()
                .filter(|(_, import)| {
                    link.interface.interface.matches(&import.interface)
                        && linked(all, link.interface.name(), &import.interface) == Some(&link.target)
                });
            target.is_some()
                && imports.all(|(import, _)| links.function(import, 0).map(Linked::callee) == target)
        }
        LinkTarget::Http { .. } => links.http.is_some(),
        LinkTarget::Removed => false,
    }
}
