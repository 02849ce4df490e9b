//! What is deployed: the records of the control store, read.
//!
//! Owns the step from entries to records, all of them or those that changed since. A record that can't be read is told,
//! and the rest is served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt as _;
use serde::de::DeserializeOwned;
use weft_compose::key::{self, Key};
use weft_compose::moving::MoveRecord;
use weft_compose::record::{
    ActorRecord, AppRecord, LinkRecord, LinkTarget, PlacementRecord, ProviderRecord, QuotaRecord,
    RecordError, RouteRecord, SecretRecord, SubscriptionRecord, WatchRecord, decode,
};
use weft_compose::{ActorName, AppName, HostName, ProviderName, SecretName};
use weft_lattice::control::{ControlStore, Entry, Index, RANGE_LEN_MAX, ReadError, WatchError};

/// How often a read of several pages begins anew because a change came between; each takes milliseconds.
const READ_TRIES_MAX: usize = 16;

/// All records of one moment. Two moments share the records that are the same in both.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Desired {
    /// The moment.
    pub index: Index,
    /// Apps.
    pub apps: BTreeMap<AppName, Arc<AppRecord>>,
    /// Actors.
    pub actors: BTreeMap<ActorName, Arc<ActorRecord>>,
    /// Providers.
    pub providers: BTreeMap<ProviderName, Arc<ProviderRecord>>,
    /// Links of each actor, in the order of their keys.
    pub links: BTreeMap<ActorName, Arc<Vec<LinkRecord>>>,
    /// Routes by the keys of their claims: one with three methods is there three times.
    pub routes: BTreeMap<String, Arc<RouteRecord>>,
    /// Subscriptions by their keys.
    pub subscriptions: BTreeMap<String, Arc<SubscriptionRecord>>,
    /// Watches by their keys.
    pub watches: BTreeMap<String, Arc<WatchRecord>>,
    /// The hosts that an actor is placed on; without an entry it runs on every host.
    pub placements: BTreeMap<ActorName, Arc<BTreeSet<HostName>>>,
    /// Secrets, sealed.
    pub secrets: BTreeMap<SecretName, Arc<SecretRecord>>,
    /// Providers whose data is being moved, or could not be.
    pub moves: BTreeMap<ProviderName, Arc<MoveRecord>>,
    /// What namespaces may use of each host.
    pub quotas: BTreeMap<String, Arc<QuotaRecord>>,
    /// Keys whose record can't be read, and why.
    pub unreadable: BTreeMap<String, String>,
}

impl Desired {
    /// Reads all records.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn read(control: &dyn ControlStore) -> Result<Self, ReadError> {
        let (entries, index) = read_all(control, &[""]).await?;
        let mut desired = Self {
            index,
            ..Self::default()
        };
        for Entry { key, value, .. } in &entries {
            desired.set(key, Some(value));
        }
        Ok(desired)
    }

    /// The records of now: these, with what the store says has changed since. `None` if it does not remember that far.
    pub fn follow(&self, control: &dyn ControlStore) -> Option<Self> {
        let mut watch = control.watch(self.index).ok()?;
        let mut now = self.clone();
        loop {
            // What has happened is told at once; only what is to come is waited for.
            match watch.next().now_or_never() {
                Some(Ok(event)) => {
                    for change in &event.changes {
                        now.set(&change.key, change.value.as_deref());
                    }
                    now.index = event.index;
                }
                Some(Err(WatchError::Compacted { .. })) => return None,
                Some(Err(WatchError::Closed)) | None => return Some(now),
            }
        }
    }

    /// Takes the value that a key has now; `None` if it was deleted.
    fn set(&mut self, key: &str, value: Option<&[u8]>) {
        self.unreadable.remove(key);
        // Those that it does not know are of a newer Weft, which this one has no part in.
        let Some(parsed) = key::parse(key) else { return };
        if let Err(error) = self.try_set(parsed.clone(), key, value) {
            // Without a value there is nothing to decode, and so nothing to fail.
            let _ = self.try_set(parsed, key, None);
            self.unreadable.insert(key.to_owned(), crate::cli::chain(&error));
        }
    }

    fn try_set(&mut self, parsed: Key, key: &str, value: Option<&[u8]>) -> Result<(), RecordError> {
        match parsed {
            Key::App(name) => put(&mut self.apps, name, key, value),
            Key::Actor(name) => put(&mut self.actors, name, key, value),
            Key::Provider(name) => put(&mut self.providers, name, key, value),
            Key::Secret(name) => put(&mut self.secrets, name, key, value),
            Key::Placement(actor, host) => {
                let record = value
                    .map(|value| decode::<PlacementRecord>(key, value))
                    .transpose()?;
                let hosts = self.placements.remove(&actor).unwrap_or_default();
                let mut hosts = Arc::unwrap_or_clone(hosts);
                match record {
                    Some(_) => hosts.insert(host),
                    None => hosts.remove(&host),
                };
                if !hosts.is_empty() {
                    self.placements.insert(actor, Arc::new(hosts));
                }
                Ok(())
            }
            Key::Move(name) => put(&mut self.moves, name, key, value),
            Key::Quota(namespace) => put(&mut self.quotas, namespace, key, value),
            Key::Subscription(..) => put(&mut self.subscriptions, key.to_owned(), key, value),
            Key::Watch(..) => put(&mut self.watches, key.to_owned(), key, value),
            Key::Route(_) => put(&mut self.routes, key.to_owned(), key, value),
            Key::Link(actor, interface) => {
                let record = value.map(|value| decode::<LinkRecord>(key, value)).transpose()?;
                let links = self.links.remove(&actor).unwrap_or_default();
                let mut links = Arc::unwrap_or_clone(links);
                links.retain(|link| link.interface != interface);
                if let Some(record) = record {
                    let before = |link: &LinkRecord| key::link(&actor, &link.interface).as_str() < key;
                    links.insert(links.partition_point(before), record);
                }
                if !links.is_empty() {
                    self.links.insert(actor, Arc::new(links));
                }
                Ok(())
            }
        }
    }

    /// What of it is in one namespace.
    pub fn of_namespace(&self, namespace: &str) -> Self {
        fn of<N: Ord + Clone, R: Clone>(
            records: &BTreeMap<N, R>,
            is_in: impl Fn(&N, &R) -> bool,
        ) -> BTreeMap<N, R> {
            let those = records.iter().filter(|(name, record)| is_in(name, record));
            those
                .map(|(name, record)| (name.clone(), record.clone()))
                .collect()
        }
        Self {
            index: self.index,
            apps: of(&self.apps, |name, _| name.namespace() == namespace),
            actors: of(&self.actors, |name, _| name.namespace() == namespace),
            providers: of(&self.providers, |name, _| name.namespace() == namespace),
            links: of(&self.links, |name, _| name.namespace() == namespace),
            routes: of(&self.routes, |_, route| route.app.namespace() == namespace),
            subscriptions: of(&self.subscriptions, |_, record| {
                record.actor.namespace() == namespace
            }),
            watches: of(&self.watches, |_, record| record.actor.namespace() == namespace),
            placements: of(&self.placements, |name, _| name.namespace() == namespace),
            secrets: of(&self.secrets, |name, _| name.namespace() == namespace),
            moves: of(&self.moves, |name, _| name.namespace() == namespace),
            quotas: of(&self.quotas, |name, _| name == namespace),
            // Of what can't be read it is not known whose it is.
            unreadable: BTreeMap::new(),
        }
    }

    /// Whether an actor is to run on `host`.
    pub fn is_placed(&self, actor: &ActorName, host: &HostName) -> bool {
        self.placements
            .get(actor)
            .is_none_or(|hosts| hosts.contains(host))
    }

    /// Whether an actor of `app` may be linked to `target`: of its own app, or of one that lets it. What is not there
    /// refuses nobody.
    pub fn allows(&self, app: &AppName, target: &LinkTarget) -> bool {
        match target {
            LinkTarget::Actor { name } => self.actors.get(name).is_none_or(|actor| actor.allows(app)),
            LinkTarget::Provider { name, .. } => self
                .providers
                .get(name)
                .is_none_or(|provider| provider.allows(app)),
            LinkTarget::Http { .. } | LinkTarget::Removed => true,
        }
    }

    /// The links of an actor.
    pub fn links_of(&self, actor: &ActorName) -> &[LinkRecord] {
        self.links.get(actor).map_or(&[], |links| links.as_slice())
    }
}

fn put<N: Ord, R: DeserializeOwned>(
    records: &mut BTreeMap<N, Arc<R>>,
    name: N,
    key: &str,
    value: Option<&[u8]>,
) -> Result<(), RecordError> {
    match value {
        Some(value) => records.insert(name, Arc::new(decode(key, value)?)),
        None => records.remove(&name),
    };
    Ok(())
}

/// The entries of the store whose keys start with one of `prefixes`, all of one moment.
///
/// # Errors
/// If the store can't be read.
pub async fn read_all(
    control: &dyn ControlStore,
    prefixes: &[&str],
) -> Result<(Vec<Entry>, Index), ReadError> {
    'anew: for _ in 0..READ_TRIES_MAX {
        let (mut entries, mut moment) = (Vec::new(), None);
        for prefix in prefixes {
            let mut after: Option<String> = None;
            loop {
                let (page, index) = control.range(prefix, after.as_deref(), RANGE_LEN_MAX).await?;
                if *moment.get_or_insert(index) != index {
                    continue 'anew;
                }
                let is_last = page.len() < RANGE_LEN_MAX;
                after = page.last().map(|entry| entry.key.clone());
                entries.extend(page);
                if is_last {
                    break;
                }
            }
        }
        return Ok((entries, moment.unwrap_or_default()));
    }
    Err(ReadError::Unavailable(format!(
        "it changed {READ_TRIES_MAX} times while it was read"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A change of one of few keys: to one of few values, to one that can't be read, or to none.
    fn change() -> impl Strategy<Value = (String, Option<Vec<u8>>)> {
        let key = prop_oneof![
            Just("app/a/b".to_owned()),
            "link/a/b/[cd]/x:[yz]/[vw]",
            "placement/a/b/[cd]/h[12]",
            "provider/a/b/[cd]",
            "secret/a/b/[cd]",
            "quota/[ab]",
            "watch/a/b/[cd]/a/b/[cd]/bucket/k?",
            Just("of-a-later-version/a".to_owned()),
        ];
        (key, 0_u8..5).prop_map(|(key, value)| {
            let text = match value {
                0 => return (key, None),
                1 => "{".to_owned(),
                value => record(&key, value).to_string(),
            };
            (key, Some(text.into_bytes()))
        })
    }

    fn record(key: &str, revision: u8) -> serde_json::Value {
        match key::parse(key) {
            Some(Key::App(name)) => json!({
                "v": 1, "namespace": "a", "name": name, "revision": revision, "manifest": "", "by": "a", "at": "",
            }),
            Some(Key::Link(actor, interface)) => json!({
                "v": 1, "actor": actor, "interface": interface, "revision": revision,
                "target": { "kind": "removed" }, "by": "a",
            }),
            Some(Key::Placement(actor, host)) => json!({ "v": 1, "actor": actor, "host": host, "by": "a" }),
            Some(Key::Provider(name)) => json!({
                "v": 1, "name": name, "revision": revision, "capability": "key-value", "backend": "memory",
                "config": {},
            }),
            Some(Key::Quota(namespace)) => json!({
                "v": 1, "namespace": namespace, "messages_per_s": revision, "by": "a",
            }),
            Some(Key::Watch(actor, provider, bucket, keys)) => json!({
                "v": 1, "actor": actor, "provider": provider, "bucket": bucket, "keys": keys,
                "shared": revision > 2,
            }),
            Some(Key::Secret(name)) => json!({
                "v": 1, "name": name, "version": revision, "key": "", "sealed": "", "by": "a", "at": "",
            }),
            _ => json!({}),
        }
    }

    proptest! {
        #[test]
        fn following_changes_comes_to_the_same_as_reading_all_at_their_end(
            changes in proptest::collection::vec(change(), 0..40),
        ) {
            let mut followed = Desired::default();
            let mut store = BTreeMap::new();
            for (key, value) in changes {
                followed.set(&key, value.as_deref());
                match value {
                    Some(value) => store.insert(key, value),
                    None => store.remove(&key),
                };
            }
            let mut read = Desired::default();
            for (key, value) in &store {
                read.set(key, Some(value));
            }
            prop_assert_eq!(followed, read);
        }
    }

    #[test]
    fn the_records_of_the_test_above_can_be_read() {
        for key in [
            "app/a/b",
            "link/a/b/c/x:y/v",
            "placement/a/b/c/h1",
            "provider/a/b/c",
            "secret/a/b/c",
            "quota/a",
            "watch/a/b/c/a/b/d/bucket/",
        ] {
            let mut desired = Desired::default();
            desired.set(key, Some(record(key, 2).to_string().as_bytes()));
            assert_eq!(desired.unreadable, BTreeMap::new(), "{key}");
        }
    }
}
