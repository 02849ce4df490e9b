//! Checks of one part of a manifest against another.

use std::collections::{BTreeMap, HashMap};

use crate::capability::Capability;
use crate::fault::{FaultKind, Near, Span, Spanned};
use crate::link::check_target;
use crate::manifest::read::Reader;
use crate::manifest::{Actor, Link, Provider, Route, Subscription, Watch};
use crate::name::{AppName, ProviderName};
use crate::record::LinkTarget;
use crate::route::Claim;

impl Reader {
    /// Each link's target is there, and of the kind that its interface needs.
    pub(super) fn check_links(
        &mut self,
        actors: &BTreeMap<String, Actor>,
        providers: &BTreeMap<String, Provider>,
    ) {
        let (namespace, app) = (self.namespace.clone(), self.app.clone());
        let own = |name: AppName| name.namespace() == namespace && name.app() == app;
        for (
            key,
            Link {
                interface: at,
                target,
            },
        ) in actors.values().flat_map(|actor| &actor.links)
        {
            let mut serves = None;
            match &target.value {
                LinkTarget::Actor { name } if own(name.app_name()) => {
                    self.known_actor(name.name(), target.span)
                }
                LinkTarget::Provider { name, .. } if own(name.app_name()) => {
                    self.known_provider(name.name(), target.span);
                    serves = providers
                        .get(name.name())
                        .map(|provider| (provider.capability, provider.backend.value.as_str()));
                }
                _ => {}
            }
            if let Err(kind) = check_target(&key.interface, &target.value, serves) {
                self.faults.push(at.span, || kind);
            }
        }
    }

    /// No claim is there twice.
    pub(super) fn check_routes(&mut self, routes: &[(Route, Span)]) {
        let mut taken: HashMap<Claim, u32> = HashMap::new();
        for (route, span) in routes {
            for claim in route.claims() {
                if let Some(first) = taken.get(&claim).copied() {
                    self.faults.push(*span, || FaultKind::RouteTwice {
                        first,
                        claim: claim.to_string(),
                    });
                    break;
                }
                taken.insert(claim, span.line);
            }
        }
    }

    /// Each subscription's provider is there and serves messages, and none is there twice.
    pub(super) fn check_subscriptions(
        &mut self,
        subscriptions: &[(Subscription, Span)],
        providers: &BTreeMap<String, Provider>,
    ) {
        let mut seen: HashMap<(&str, &str, &str), u32> = HashMap::new();
        for (subscription, span) in subscriptions {
            let provider = &subscription.provider;
            if let Some(serves) = self.serves_other(provider, Capability::Messaging, providers) {
                self.faults
                    .push(provider.span, || FaultKind::SubscriptionProvider {
                        subject: subscription.subject.clone(),
                        provider: provider.value.name().to_owned(),
                        serves: serves.to_string(),
                    });
            }
            let which = (
                subscription.actor.value.name(),
                provider.value.as_str(),
                subscription.subject.as_str(),
            );
            if let Some(first) = seen.get(&which).copied() {
                self.faults.push(*span, || FaultKind::SubscriptionTwice { first });
            } else {
                seen.insert(which, span.line);
            }
        }
    }

    /// Each watch's provider is there and serves key-value, and none is there twice.
    pub(super) fn check_watches(
        &mut self,
        watches: &[(Watch, Span)],
        providers: &BTreeMap<String, Provider>,
    ) {
        let mut seen: HashMap<(&str, &str, &str, &str), u32> = HashMap::new();
        for (watch, span) in watches {
            let provider = &watch.provider;
            if let Some(serves) = self.serves_other(provider, Capability::KeyValue, providers) {
                self.faults.push(provider.span, || FaultKind::WatchProvider {
                    bucket: watch.bucket.clone(),
                    provider: provider.value.name().to_owned(),
                    serves: serves.to_string(),
                });
            }
            let which = (
                watch.actor.value.name(),
                provider.value.as_str(),
                watch.bucket.as_str(),
                watch.keys.as_str(),
            );
            if let Some(first) = seen.get(&which).copied() {
                self.faults.push(*span, || FaultKind::WatchTwice { first });
            } else {
                seen.insert(which, span.line);
            }
        }
    }

    /// What a provider of this app serves, if it is not `needed`; one that is not there is told.
    fn serves_other(
        &mut self,
        provider: &Spanned<ProviderName>,
        needed: Capability,
        providers: &BTreeMap<String, Provider>,
    ) -> Option<Capability> {
        let name = &provider.value;
        if name.namespace() != self.namespace || name.app() != self.app {
            return None;
        }
        self.known_provider(name.name(), provider.span);
        let serves = providers.get(name.name())?.capability;
        (serves != needed).then_some(serves)
    }

    pub(super) fn known_actor(&mut self, name: &str, span: Span) {
        if !self.actors.contains(name) {
            self.faults.push(span, || FaultKind::UnknownActor {
                app: "this app".to_owned(),
                actor: name.to_owned(),
                near: Near::of(name, self.actors.iter().map(String::as_str)),
            });
        }
    }

    pub(super) fn known_provider(&mut self, name: &str, span: Span) {
        if !self.providers.contains(name) {
            self.faults.push(span, || FaultKind::UnknownProvider {
                app: "this app".to_owned(),
                provider: name.to_owned(),
                near: Near::of(name, self.providers.iter().map(String::as_str)),
            });
        }
    }
}
