//! What listens on this host: subscriptions to messages and watches of keys, of the actors that run here.
//!
//! Owns which of the wanted ones can listen, and to what; how they do is [`crate::ingress::listening`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_compose::record::{SubscriptionRecord, WatchRecord};
use weft_compose::{ActorName, ProviderName};

use super::{Found, Reconciler};
use crate::actor::Actor;
use crate::deploy::not_allowed;
use crate::desired::Desired;
use crate::ingress::{messages, watches};
use crate::provider::{Backend, Provider};
use crate::state::State;

/// A record of something that listens.
pub trait Listens {
    /// Who is told.
    fn actor(&self) -> &ActorName;

    /// By which provider.
    fn provider(&self) -> &ProviderName;

    /// What conditions call it.
    fn subject(&self) -> String;
}

impl Listens for SubscriptionRecord {
    fn actor(&self) -> &ActorName {
        &self.actor
    }

    fn provider(&self) -> &ProviderName {
        &self.provider
    }

    fn subject(&self) -> String {
        let Self {
            actor,
            subject,
            provider,
            ..
        } = self;
        format!("subscription of {actor} to {subject} of {provider}")
    }
}

impl Listens for WatchRecord {
    fn actor(&self) -> &ActorName {
        &self.actor
    }

    fn provider(&self) -> &ProviderName {
        &self.provider
    }

    fn subject(&self) -> String {
        let (actor, watched, provider) = (&self.actor, self.watched(), &self.provider);
        format!("watch of {actor} on {watched} of {provider}")
    }
}

impl Reconciler {
    /// Makes the subscriptions and watches of the actors that run here those that are wanted: all at once, as a backend
    /// that does not answer is waited for.
    pub(super) async fn listen(&mut self, desired: &Desired, before: &Arc<State>, found: &mut Vec<Found>) {
        let subscriptions = self.heard(desired, &desired.subscriptions, found, subscription);
        let watches = self.heard(desired, &desired.watches, found, watch);
        let (subscriptions, watches) = tokio::join!(
            self.subscriptions.apply(subscriptions, before),
            self.watches.apply(watches, before),
        );
        let unheard = |(wanted, reason): (messages::Wanted, _)| failed(&*wanted.record, reason);
        found.extend(subscriptions.into_iter().map(unheard));
        let unheard = |(wanted, reason): (watches::Wanted, _)| failed(&*wanted.record, reason);
        found.extend(watches.into_iter().map(unheard));
    }

    /// What `begin` makes of the records whose actors run here.
    fn heard<R: Listens, S>(
        &self,
        desired: &Desired,
        records: &BTreeMap<String, Arc<R>>,
        found: &mut Vec<Found>,
        begin: impl Fn(&Arc<R>, &Actor, &Provider) -> Result<S, String>,
    ) -> BTreeMap<String, S> {
        let mut wanted = BTreeMap::new();
        for (key, record) in records {
            let Some((_, actor)) = self.actors.get(record.actor()) else {
                if !desired.actors.contains_key(record.actor()) {
                    found.push(failed(&**record, format!("{} is not there", record.actor())));
                }
                continue;
            };
            let begun = self
                .told_by(desired, &**record)
                .and_then(|provider| begin(record, actor, provider));
            match begun {
                Ok(source) => drop(wanted.insert(key.clone(), source)),
                Err(reason) => found.push(failed(&**record, reason)),
            }
        }
        wanted
    }

    /// The provider that tells, if it is open here and allows it.
    fn told_by(&self, desired: &Desired, record: &impl Listens) -> Result<&Provider, String> {
        let (actor, provider) = (record.actor(), record.provider());
        let known = desired.providers.get(provider);
        if known.is_some_and(|known| !known.allows(&actor.app_name())) {
            return Err(not_allowed(actor, provider.as_str()).to_string());
        }
        let open = self.providers.get(provider).map(|(_, open)| &**open);
        open.ok_or_else(|| format!("{provider} is not open"))
    }
}

fn failed(record: &impl Listens, reason: String) -> Found {
    Found::of(record.actor().app_name(), record.subject(), reason)
}

fn subscription(
    record: &Arc<SubscriptionRecord>,
    actor: &Actor,
    provider: &Provider,
) -> Result<messages::Wanted, String> {
    let Backend::Messaging(broker) = &provider.backend else {
        return Err(format!("{} serves no messages", record.provider));
    };
    if !messages::handles(&actor.component.description) {
        return Err(format!("{} exports no {}", record.actor, messages::HANDLER));
    }
    let (record, broker) = (record.clone(), broker.clone());
    Ok(messages::Wanted { record, broker })
}

fn watch(record: &Arc<WatchRecord>, actor: &Actor, provider: &Provider) -> Result<watches::Wanted, String> {
    let Backend::KeyValue(store) = &provider.backend else {
        return Err(format!("{} serves no keys", record.provider));
    };
    if !watches::watches(&actor.component.description) {
        let [one, other] = watches::WATCHERS;
        return Err(format!("{} exports neither {one} nor {other}", record.actor));
    }
    Ok(watches::Wanted::new(
        record.clone(),
        store.clone(),
        &provider.guard,
    ))
}
