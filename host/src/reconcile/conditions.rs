//! What is amiss now: what the reconciler could not make so, and which backends do not answer.

use std::sync::Weak;

use weft_compose::HostName;
use weft_compose::record::LinkTarget;
use weft_observability::metrics::ProviderReport;

use super::{Condition, Progress, link_subject};
use crate::provider::health::HealthState;

impl Progress {
    /// All conditions of this host. A provider that does not answer is one, and so is each link to it; and that this host
    /// takes no part in its lattice as it should, that no host is there that an actor is placed on, that a namespace had more of
    /// something than its quota, and that the process of a provider does not run.
    pub fn all_conditions(&self) -> Vec<Condition> {
        let mut conditions = self.conditions.clone();
        let amiss = self.mesh.as_ref().and_then(Weak::upgrade);
        let amiss = amiss.and_then(|mesh| mesh.amiss());
        conditions.extend(amiss.map(|(reason, since)| Condition {
            app: None,
            subject: "lattice".to_owned(),
            reason,
            since,
        }));
        conditions.extend(self.unplaced());
        for (namespace, quota) in &*self.quotas {
            let refusals = quota.refusals().into_iter();
            conditions.extend(refusals.map(|(reason, since)| Condition {
                app: None,
                subject: format!("quota {namespace}"),
                reason,
                since,
            }));
        }
        let processes = self.commands.iter().flat_map(|commands| commands.conditions());
        conditions.extend(processes.map(|(name, reason, since)| Condition {
            app: Some(name.app_name()),
            subject: format!("provider {name}"),
            reason,
            since,
        }));
        for (name, guard) in &*self.guards {
            let HealthState::Down { reason, since, .. } = guard.health.standing() else {
                continue;
            };
            conditions.push(Condition {
                app: Some(name.app_name()),
                subject: format!("provider {name}"),
                reason: format!("it does not answer: {reason}"),
                since,
            });
            let links = self.desired.links.values().flat_map(|links| links.iter());
            let to_it = links.filter(
                |link| matches!(&link.target, LinkTarget::Provider { name: target, .. } if target == name),
            );
            conditions.extend(to_it.map(|link| Condition {
                app: Some(link.actor.app_name()),
                subject: link_subject(link),
                reason: format!("the provider {name} does not answer: {reason}"),
                since,
            }));
        }
        conditions
    }

    /// The actors that run nowhere, as none of the hosts is there that they are placed on.
    pub fn unplaced(&self) -> Vec<Condition> {
        let placements = &self.desired.placements;
        let Some(mesh) = self.mesh.as_ref().and_then(Weak::upgrade) else {
            return Vec::new();
        };
        let unplaced = mesh.unplaced(placements).into_iter();
        let conditions = unplaced.map(|(name, since)| {
            let hosts = placements.get(&name).into_iter().flat_map(|hosts| hosts.iter());
            let hosts: Vec<&str> = hosts.map(HostName::as_str).collect();
            Condition {
                app: Some(name.app_name()),
                subject: format!("actor {name}"),
                reason: format!(
                    "no host is there that it is placed on ({}), so it runs nowhere: start one of them, or place it on one \
                     that `weft get hosts` shows",
                    hosts.join(", ")
                ),
                since,
            }
        });
        conditions.collect()
    }

    /// The numbers of each provider that is open here.
    pub fn provider_reports(&self) -> Vec<ProviderReport> {
        let reports = self.guards.iter().map(|(name, guard)| {
            let stats = guard.health.stats();
            ProviderReport {
                provider: name.as_str().into(),
                up: guard.health.standing().as_str() != "down",
                circuit_open: guard.health.is_open(),
                held: guard.gate.as_ref().is_some_and(|gate| gate.is_held()),
                downs: stats.downs,
                refused: stats.refused,
            }
        });
        reports.collect()
    }
}
