//! From what is wanted to what has to be written: a deploy, a link that is changed at run time, an app that is deleted.
//!
//! Owns the rules: what raises a revision, what becomes of drift, which routes clash. It must not know the store: a
//! [`Change`] says what to write and what must not have changed since it was read. Each change of an app writes the
//! app's own record, so that of two that were made from the same state only one goes through.

mod desired;
mod placement;
mod secret;

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::diff::{Diff, Sign};
use crate::fault::{Collector, FaultKind, Faults, Near};
use crate::key::{self, Key};
use crate::link::{LinkKey, check_target};
use crate::manifest::Manifest;
use crate::name::{ActorName, AppName};
use crate::record::{
    ActorRecord, AppRecord, Before, LinkRecord, LinkTarget, PlacementRecord, ProviderRecord, RecordError,
    RouteRecord, SubscriptionRecord, VERSION, WatchRecord, decode, encode,
};

pub use self::placement::{place, unplace};
pub use self::secret::{delete_secret, put_secret, reseal_secret};

/// A record and the revision that the store gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The store's revision of the key, for a comparison when it is written.
    pub revision: u64,
    /// The record.
    pub record: T,
}

/// Records of one kind by their keys.
pub type Records<T> = BTreeMap<String, Stored<T>>;

/// Keys of route claims, and the app that each belongs to.
pub type Claims = BTreeMap<String, AppName>;

/// What the store holds of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentApp {
    /// Which app.
    pub name: AppName,
    /// Its own record; None if it is not deployed.
    pub app: Option<Stored<AppRecord>>,
    /// Its actors.
    pub actors: Records<ActorRecord>,
    /// Its providers.
    pub providers: Records<ProviderRecord>,
    /// The links of its actors.
    pub links: Records<LinkRecord>,
    /// Its routes, once for each claim.
    pub routes: Records<RouteRecord>,
    /// Where its actors were placed by hand.
    pub placements: Records<PlacementRecord>,
    /// What its actors listen to.
    pub subscriptions: Records<SubscriptionRecord>,
    /// What its actors watch.
    pub watches: Records<WatchRecord>,
}

/// What to write, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Keys and their new values.
    pub puts: Vec<(String, Vec<u8>)>,
    /// Keys that go.
    pub deletes: Vec<String>,
    /// The store's revisions that keys must still have; None for a key that must not exist.
    pub expects: Vec<(String, Option<u64>)>,
    /// The same for people.
    pub summary: Diff,
}

impl Change {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    fn put<T: Serialize>(&mut self, key: &str, revision: Option<u64>, record: &T) {
        self.expects.push((key.to_owned(), revision));
        self.puts.push((key.to_owned(), encode(record)));
    }

    fn delete(&mut self, key: &str, revision: u64) {
        self.expects.push((key.to_owned(), Some(revision)));
        self.deletes.push(key.to_owned());
    }
}

impl CurrentApp {
    /// An app that is not deployed.
    pub fn new(name: AppName) -> Self {
        Self {
            name,
            app: None,
            actors: BTreeMap::new(),
            providers: BTreeMap::new(),
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
            placements: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            watches: BTreeMap::new(),
        }
    }

    /// Picks an app's records out of entries of the store (key, revision, value), and other apps' route claims.
    ///
    /// The entries have to hold those of the app's own prefixes and all of [`key::ROUTES`]; more don't matter.
    ///
    /// # Errors
    /// A record of the app, or a route of any, can't be read: nothing is to be written then.
    pub fn read<'a>(
        name: AppName,
        entries: impl IntoIterator<Item = (&'a str, u64, &'a [u8])>,
    ) -> Result<(Self, Claims), RecordError> {
        let mut current = Self::new(name);
        let mut foreign = Claims::new();
        for (key, revision, value) in entries {
            match key::parse(key) {
                Some(Key::App(app)) if app == current.name => {
                    current.app = Some(Stored {
                        revision,
                        record: decode(key, value)?,
                    });
                }
                Some(Key::Actor(actor)) if actor.app_name() == current.name => {
                    keep(&mut current.actors, key, revision, value)?;
                }
                Some(Key::Provider(provider)) if provider.app_name() == current.name => {
                    keep(&mut current.providers, key, revision, value)?;
                }
                Some(Key::Link(actor, _)) if actor.app_name() == current.name => {
                    keep(&mut current.links, key, revision, value)?;
                }
                Some(Key::Placement(actor, _)) if actor.app_name() == current.name => {
                    keep(&mut current.placements, key, revision, value)?;
                }
                Some(Key::Subscription(actor, ..)) if actor.app_name() == current.name => {
                    keep(&mut current.subscriptions, key, revision, value)?;
                }
                Some(Key::Watch(actor, ..)) if actor.app_name() == current.name => {
                    keep(&mut current.watches, key, revision, value)?;
                }
                Some(Key::Route(_)) => {
                    let record: RouteRecord = decode(key, value)?;
                    if record.app == current.name {
                        current.routes.insert(key.to_owned(), Stored { revision, record });
                    } else {
                        foreign.insert(key.to_owned(), record.app);
                    }
                }
                _ => {}
            }
        }
        Ok((current, foreign))
    }

    fn actor(&self, name: &ActorName) -> Result<&ActorRecord, FaultKind> {
        let found = self.actors.get(&key::actor(name));
        found
            .map(|stored| &stored.record)
            .ok_or_else(|| FaultKind::UnknownActor {
                app: self.name.to_string(),
                actor: name.name().to_owned(),
                near: Near::of(
                    name.name(),
                    self.actors.values().map(|actor| actor.record.name.name()),
                ),
            })
    }

    /// Checks that a target in this app is there, and that it fits the interface.
    fn check(&self, link: &LinkKey, target: &LinkTarget) -> Result<(), FaultKind> {
        let mut serves = None;
        match target {
            LinkTarget::Actor { name } if name.app_name() == self.name => {
                self.actor(name)?;
            }
            LinkTarget::Provider { name, .. } if name.app_name() == self.name => {
                let found = self.providers.get(&key::provider(name));
                let known = || {
                    self.providers
                        .values()
                        .map(|provider| provider.record.name.name())
                };
                let provider = found.ok_or_else(|| FaultKind::UnknownProvider {
                    app: self.name.to_string(),
                    provider: name.name().to_owned(),
                    near: Near::of(name.name(), known()),
                })?;
                serves = Some((provider.record.capability, provider.record.backend.as_str()));
            }
            _ => {}
        }
        check_target(&link.interface, target, serves)
    }

    fn deployed(&self) -> Result<&Stored<AppRecord>, FaultKind> {
        self.app
            .as_ref()
            .ok_or_else(|| FaultKind::NotDeployed(self.name.to_string()))
    }
}

fn keep<T: DeserializeOwned>(
    records: &mut Records<T>,
    key: &str,
    revision: u64,
    value: &[u8],
) -> Result<(), RecordError> {
    records.insert(
        key.to_owned(),
        Stored {
            revision,
            record: decode(key, value)?,
        },
    );
    Ok(())
}

/// What to write so that the store holds the app as the manifest has it.
///
/// `current` is what the store holds of the same app; `digests` holds `sha256:…` for each actor by its name in the app; an actor whose manifest names a digest needs none.
/// `foreign` are other apps' claims, `by` is who deploys and `at` the time as in RFC 3339. A manifest that is deployed
/// already gives an empty change, which leaves links that were changed at run time; any other resets them.
///
/// # Errors
/// A claim is another app's, or an actor has no component.
pub fn plan(
    manifest: &Manifest,
    digests: &BTreeMap<String, String>,
    current: &CurrentApp,
    foreign: &Claims,
    by: &str,
    at: &str,
) -> Result<Change, Faults> {
    let mut faults = Collector::new(manifest.file.clone());
    for route in &manifest.routes {
        let taken = route
            .claims()
            .find_map(|claim| foreign.get(&key::route(&claim)).map(|app| (claim, app)));
        if let Some((claim, app)) = taken {
            let (claim, app) = (claim.to_string(), app.to_string());
            faults.push(route.actor.span, || FaultKind::RouteTaken { claim, app });
        }
    }
    let actors = desired::actors(manifest, digests, &mut faults);
    faults.finish(Some(()))?;

    let mut change = Change::default();
    let before = current.app.as_ref();
    let revision = before.map_or(0, |app| app.record.revision) + 1;
    let replaced = replaced(current, &actors);
    merge(&current.actors, actors, revision, &mut change);
    merge(
        &current.providers,
        desired::providers(manifest),
        revision,
        &mut change,
    );
    merge(&current.routes, desired::routes(manifest), revision, &mut change);
    let subscriptions = desired::subscriptions(manifest);
    merge(&current.subscriptions, subscriptions, revision, &mut change);
    merge(
        &current.watches,
        desired::watches(manifest),
        revision,
        &mut change,
    );
    // An operator's, which stay for as long as the actor does.
    let mut placements = current.placements.clone();
    let has_actor = |record: &PlacementRecord| manifest.actors.contains_key(record.actor.name());
    placements.retain(|_, placement| has_actor(&placement.record));
    let placements = placements.into_iter().map(|(key, stored)| (key, stored.record));
    merge(&current.placements, placements.collect(), revision, &mut change);
    let links = desired::links(manifest, by);
    let digest = desired::digest(manifest);
    let same_links = || {
        let declared = current
            .links
            .iter()
            .filter(|(_, link)| link.record.declared.is_some());
        let declared = declared.map(|(key, link)| (key, &link.record.declared));
        declared.eq(links.iter().map(|(key, link)| (key, &link.declared)))
    };
    if change.is_empty() && before.is_some_and(|app| app.record.manifest == digest) && same_links() {
        return Ok(Change::default());
    }
    merge(&current.links, links, revision, &mut change);
    let app = AppRecord {
        v: VERSION,
        namespace: current.name.namespace().to_owned(),
        name: current.name.app().to_owned(),
        revision,
        version: manifest.version.clone(),
        description: manifest.description.clone(),
        reserve: manifest.reserve,
        manifest: digest,
        by: by.to_owned(),
        at: at.to_owned(),
        before: replaced,
    };
    change.put(&key::app(&current.name), before.map(|app| app.revision), &app);
    let sign = if before.is_some() {
        Sign::Changed
    } else {
        Sign::Added
    };
    let line = (
        sign,
        format!("app {}", current.name),
        vec![format!("revision {revision}")],
    );
    change.summary.push(line.0, line.1, line.2);
    Ok(change)
}

/// The last revision that ran other components than `actors` do.
fn replaced(current: &CurrentApp, actors: &BTreeMap<String, ActorRecord>) -> Option<Before> {
    fn components<'r>(actors: impl Iterator<Item = &'r ActorRecord>) -> BTreeMap<String, String> {
        let named = actors.map(|actor| (actor.name.name().to_owned(), actor.component.clone()));
        named.collect()
    }
    let app = &current.app.as_ref()?.record;
    let was = components(current.actors.values().map(|stored| &stored.record));
    match was == components(actors.values()) {
        true => app.before.clone(),
        false => Some(Before {
            revision: app.revision,
            components: was,
        }),
    }
}

/// Links an import of an actor to another target, until the app's next changed deploy. One that moves to another provider
/// keeps its bucket, if none is named.
///
/// Who calls it checks targets of other apps, and that an actor exports what is imported.
///
/// # Errors
/// The app or the actor is not deployed, the target is not there, or it is not what the interface needs.
pub fn put_link(
    current: &CurrentApp,
    actor: &ActorName,
    interface: &LinkKey,
    target: LinkTarget,
    by: &str,
) -> Result<Change, FaultKind> {
    current.deployed()?;
    current.actor(actor)?;
    current.check(interface, &target)?;
    let link = current.links.get(&key::link(actor, interface));
    let target = keep_bucket(target, link.map(|link| &link.record));
    if link.is_some_and(|link| link.record.target == target) {
        return Ok(Change::default());
    }
    let link = link
        .map(|link| link.record.clone())
        .unwrap_or_else(|| LinkRecord {
            v: VERSION,
            actor: actor.clone(),
            interface: interface.clone(),
            revision: 0,
            target: target.clone(),
            declared: None,
            by: String::new(),
        });
    write_link(
        current,
        LinkRecord {
            target,
            by: by.to_owned(),
            ..link
        },
    )
}

/// A link that moves to another provider keeps the bucket that it had or is declared with, if none is named: it is the
/// store that is swapped, not what the actor sees of it.
fn keep_bucket(target: LinkTarget, link: Option<&LinkRecord>) -> LinkTarget {
    let LinkTarget::Provider {
        name,
        bucket: None,
        shared,
    } = target
    else {
        return target;
    };
    let known = link
        .into_iter()
        .flat_map(|link| [Some(&link.target), link.declared.as_ref()]);
    let bucket = known.flatten().find_map(|target| match target {
        LinkTarget::Provider { bucket, .. } => Some(bucket.clone()),
        _ => None,
    });
    LinkTarget::Provider {
        name,
        bucket: bucket.flatten(),
        shared,
    }
}

/// Takes an import's link away, until the app's next changed deploy.
///
/// # Errors
/// The app or the actor is not deployed, or there is no such link.
pub fn delete_link(
    current: &CurrentApp,
    actor: &ActorName,
    interface: &LinkKey,
    by: &str,
) -> Result<Change, FaultKind> {
    let app = current.deployed()?;
    current.actor(actor)?;
    let link_key = key::link(actor, interface);
    let link = current
        .links
        .get(&link_key)
        .filter(|link| link.record.target != LinkTarget::Removed);
    let link = link.ok_or_else(|| FaultKind::UnknownLink {
        actor: actor.to_string(),
        interface: interface.to_string(),
    })?;
    if link.record.declared.is_some() {
        // What the manifest declares is kept, so that the next deploy sees that it has to be made again.
        return write_link(
            current,
            LinkRecord {
                target: LinkTarget::Removed,
                by: by.to_owned(),
                ..link.record.clone()
            },
        );
    }
    let mut change = Change::default();
    change.delete(&link_key, link.revision);
    change
        .summary
        .push(Sign::Removed, link.record.label(&link_key), Vec::new());
    change.put(&key::app(&current.name), Some(app.revision), &app.record);
    Ok(change)
}

/// Deletes an app's own records, and none of what it links to. An app that is not there gives an empty change.
pub fn delete_app(current: &CurrentApp) -> Change {
    let mut change = Change::default();
    merge(&current.links, BTreeMap::new(), 0, &mut change);
    merge(&current.routes, BTreeMap::new(), 0, &mut change);
    merge(&current.actors, BTreeMap::new(), 0, &mut change);
    merge(&current.providers, BTreeMap::new(), 0, &mut change);
    merge(&current.placements, BTreeMap::new(), 0, &mut change);
    merge(&current.subscriptions, BTreeMap::new(), 0, &mut change);
    merge(&current.watches, BTreeMap::new(), 0, &mut change);
    if let Some(app) = &current.app {
        change.delete(&key::app(&current.name), app.revision);
        change
            .summary
            .push(Sign::Removed, format!("app {}", current.name), Vec::new());
    }
    change
}

fn write_link(current: &CurrentApp, mut link: LinkRecord) -> Result<Change, FaultKind> {
    let app = current.deployed()?;
    let link_key = key::link(&link.actor, &link.interface);
    let before = current.links.get(&link_key);
    link.revision = app.record.revision.max(link.revision + 1);
    let mut change = Change::default();
    change.put(&link_key, before.map(|link| link.revision), &link);
    change.put(&key::app(&current.name), Some(app.revision), &app.record);
    let sign = if before.is_some() {
        Sign::Changed
    } else {
        Sign::Added
    };
    let details = before.map_or_else(Vec::new, |before| link.changes(&before.record));
    change.summary.push(sign, link.label(&link_key), details);
    Ok(change)
}

/// A record that a deploy writes if it differs from the one that is there.
trait Record: Serialize + Clone + PartialEq {
    /// Takes over what is no change by itself: the revision, who made it.
    fn settle(&mut self, current: &Self);

    /// Sets the revision: at least `least`, and more than before.
    fn raise(&mut self, least: u64, before: Option<&Self>);

    /// What it is, for people.
    fn label(&self, key: &str) -> String;

    /// What differs from `before`, for people.
    fn changes(&self, before: &Self) -> Vec<String>;
}

/// Adds to `change` what makes the records at hand those that are desired.
fn merge<T: Record>(
    current: &Records<T>,
    desired: BTreeMap<String, T>,
    app_revision: u64,
    change: &mut Change,
) {
    for (key, stored) in current.iter().filter(|(key, _)| !desired.contains_key(*key)) {
        change.delete(key, stored.revision);
        change
            .summary
            .push(Sign::Removed, stored.record.label(key), Vec::new());
    }
    for (key, mut record) in desired {
        let Some(before) = current.get(&key) else {
            record.raise(app_revision, None);
            change.put(&key, None, &record);
            change.summary.push(Sign::Added, record.label(&key), Vec::new());
            continue;
        };
        let mut settled = record.clone();
        settled.settle(&before.record);
        if settled != before.record {
            record.raise(app_revision, Some(&before.record));
            change.put(&key, Some(before.revision), &record);
            change
                .summary
                .push(Sign::Changed, record.label(&key), record.changes(&before.record));
        }
    }
}
