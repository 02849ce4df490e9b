//! The records that a manifest stands for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::deploy::Record;
use crate::fault::{Collector, FaultKind};
use crate::key::{self, Key};
use crate::manifest::{ComponentRef, Manifest};
use crate::record::{
    ActorRecord, LinkRecord, LinkTarget, ProviderRecord, RouteRecord, SubscriptionRecord, VERSION,
    WatchRecord,
};

/// The sha256 of the manifest's canonical text, in hexadecimal digits.
pub(super) fn digest(manifest: &Manifest) -> String {
    let digest = Sha256::digest(manifest.to_yaml());
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

pub(super) fn actors(
    manifest: &Manifest,
    digests: &BTreeMap<String, String>,
    faults: &mut Collector,
) -> BTreeMap<String, ActorRecord> {
    let mut records = BTreeMap::new();
    for (short, actor) in &manifest.actors {
        let component = match (digests.get(short), &actor.component.value) {
            (Some(digest), _) | (None, ComponentRef::Digest(digest)) => digest.clone(),
            (None, ComponentRef::Path(_) | ComponentRef::Oci(_)) => {
                faults.push(actor.component.span, || FaultKind::NoComponent {
                    actor: short.clone(),
                });
                continue;
            }
        };
        let name = actor.name.value.clone();
        let record = ActorRecord {
            v: VERSION,
            name: name.clone(),
            revision: 0,
            component,
            config: actor.config.clone(),
            limits: actor.limits.clone(),
            idempotent: actor
                .idempotent
                .iter()
                .map(|function| function.value.clone())
                .collect(),
            secrets: actor
                .secrets
                .iter()
                .map(|(key, source)| (key.clone(), source.to_string()))
                .collect(),
            allow_from: actor.allow_from.clone(),
        };
        records.insert(key::actor(&name), record);
    }
    records
}

pub(super) fn providers(manifest: &Manifest) -> BTreeMap<String, ProviderRecord> {
    let records = manifest.providers.values().map(|provider| {
        let name = provider.name.value.clone();
        let record = ProviderRecord {
            v: VERSION,
            name: name.clone(),
            revision: 0,
            capability: provider.capability,
            backend: provider.backend.value.clone(),
            config: provider.config.clone(),
            allow_from: provider.allow_from.clone(),
            command: provider.command.clone(),
        };
        (key::provider(&name), record)
    });
    records.collect()
}

pub(super) fn links(manifest: &Manifest, by: &str) -> BTreeMap<String, LinkRecord> {
    let all = manifest
        .actors
        .values()
        .flat_map(|actor| actor.links.iter().map(move |link| (actor, link)));
    let records = all.map(|(actor, (interface, link))| {
        let actor = actor.name.value.clone();
        let target = link.target.value.clone();
        let record = LinkRecord {
            v: VERSION,
            actor: actor.clone(),
            interface: interface.clone(),
            revision: 0,
            declared: Some(target.clone()),
            target,
            by: by.to_owned(),
        };
        (key::link(&actor, interface), record)
    });
    records.collect()
}

pub(super) fn routes(manifest: &Manifest) -> BTreeMap<String, RouteRecord> {
    let mut records = BTreeMap::new();
    for route in &manifest.routes {
        let record = RouteRecord {
            v: VERSION,
            app: manifest.app.value.clone(),
            actor: route.actor.value.clone(),
            host: route.host.clone(),
            path: route.path.clone(),
            methods: route.methods.clone(),
            headers: route.headers.clone(),
            strip_prefix: route.strip_prefix,
        };
        records.extend(route.claims().map(|claim| (key::route(&claim), record.clone())));
    }
    records
}

pub(super) fn subscriptions(manifest: &Manifest) -> BTreeMap<String, SubscriptionRecord> {
    let records = manifest.subscriptions.iter().map(|subscription| {
        let record = SubscriptionRecord {
            v: VERSION,
            actor: subscription.actor.value.clone(),
            provider: subscription.provider.value.clone(),
            subject: subscription.subject.clone(),
            group: subscription.group.clone(),
            shared: subscription.shared,
        };
        (
            key::subscription(&record.actor, &record.provider, &record.subject),
            record,
        )
    });
    records.collect()
}

pub(super) fn watches(manifest: &Manifest) -> BTreeMap<String, WatchRecord> {
    let records = manifest.watches.iter().map(|watch| {
        let record = WatchRecord {
            v: VERSION,
            actor: watch.actor.value.clone(),
            provider: watch.provider.value.clone(),
            bucket: watch.bucket.clone(),
            keys: watch.keys.clone(),
            shared: watch.shared,
        };
        (
            key::watch(&record.actor, &record.provider, &record.bucket, &record.keys),
            record,
        )
    });
    records.collect()
}

/// The names of what differs.
fn differing<const N: usize>(parts: [(&str, bool); N]) -> Vec<String> {
    parts
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

impl Record for ActorRecord {
    fn settle(&mut self, current: &Self) {
        self.revision = current.revision;
    }

    fn raise(&mut self, least: u64, before: Option<&Self>) {
        self.revision = least.max(before.map_or(0, |before| before.revision) + 1);
    }

    fn label(&self, _key: &str) -> String {
        format!("actor {}", self.name.name())
    }

    fn changes(&self, before: &Self) -> Vec<String> {
        differing([
            ("component", self.component != before.component),
            ("config", self.config != before.config),
            ("limits", self.limits != before.limits),
            ("idempotent", self.idempotent != before.idempotent),
            ("secrets", self.secrets != before.secrets),
            ("allowFrom", self.allow_from != before.allow_from),
        ])
    }
}

impl Record for ProviderRecord {
    fn settle(&mut self, current: &Self) {
        self.revision = current.revision;
    }

    fn raise(&mut self, least: u64, before: Option<&Self>) {
        self.revision = least.max(before.map_or(0, |before| before.revision) + 1);
    }

    fn label(&self, _key: &str) -> String {
        format!("provider {}", self.name.name())
    }

    fn changes(&self, before: &Self) -> Vec<String> {
        differing([
            ("capability", self.capability != before.capability),
            ("backend", self.backend != before.backend),
            ("config", self.config != before.config),
            ("allowFrom", self.allow_from != before.allow_from),
            ("command", self.command != before.command),
        ])
    }
}

impl Record for LinkRecord {
    fn settle(&mut self, current: &Self) {
        self.revision = current.revision;
        self.by = current.by.clone();
    }

    fn raise(&mut self, least: u64, before: Option<&Self>) {
        self.revision = least.max(before.map_or(0, |before| before.revision) + 1);
    }

    fn label(&self, _key: &str) -> String {
        format!("link {} {}", self.actor.name(), self.interface)
    }

    fn changes(&self, before: &Self) -> Vec<String> {
        if self.target == before.target {
            return vec!["declared".to_owned()];
        }
        vec![format!("{} -> {}", text(&before.target), text(&self.target))]
    }
}

/// A target in a few words.
fn text(target: &LinkTarget) -> String {
    match target {
        LinkTarget::Provider {
            name, bucket: None, ..
        } => format!("provider {}", name.name()),
        LinkTarget::Provider {
            name,
            bucket: Some(bucket),
            ..
        } => format!("provider {} bucket {bucket}", name.name()),
        LinkTarget::Actor { name } => format!("actor {}", name.name()),
        LinkTarget::Http { allow } => format!("{} places of HTTP", allow.len()),
        LinkTarget::Removed => "nothing".to_owned(),
    }
}

impl Record for RouteRecord {
    fn settle(&mut self, _current: &Self) {}

    fn raise(&mut self, _least: u64, _before: Option<&Self>) {}

    fn label(&self, key: &str) -> String {
        match key::parse(key) {
            Some(Key::Route(claim)) => format!("route {claim}"),
            _ => format!("route {}", self.path),
        }
    }

    fn changes(&self, before: &Self) -> Vec<String> {
        differing([
            ("actor", self.actor != before.actor),
            ("methods", self.methods != before.methods),
            ("stripPrefix", self.strip_prefix != before.strip_prefix),
        ])
    }
}

impl Record for SubscriptionRecord {
    fn settle(&mut self, _: &Self) {}

    fn raise(&mut self, _: u64, _: Option<&Self>) {}

    fn label(&self, _: &str) -> String {
        let (actor, provider) = (self.actor.name(), self.provider.name());
        format!("subscription of {actor} to {} of {provider}", self.subject)
    }

    fn changes(&self, before: &Self) -> Vec<String> {
        differing([
            ("group", self.group != before.group),
            ("shared", self.shared != before.shared),
        ])
    }
}

impl Record for WatchRecord {
    fn settle(&mut self, _: &Self) {}

    fn raise(&mut self, _: u64, _: Option<&Self>) {}

    fn label(&self, _: &str) -> String {
        let (actor, provider) = (self.actor.name(), self.provider.name());
        format!("watch of {actor} on {} of {provider}", self.watched())
    }

    fn changes(&self, before: &Self) -> Vec<String> {
        differing([("shared", self.shared != before.shared)])
    }
}
