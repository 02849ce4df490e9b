//! Connections to servers that the providers of a namespace may have together.
//!
//! Owns the sum. Who is open already stays open: a quota that is lowered keeps new ones out, and is told.

use weft_compose::ProviderName;
use weft_compose::record::ProviderRecord;

use super::{Found, Reconciler};
use crate::provider::connections;

impl Reconciler {
    /// Why a provider can't be opened beside those of its namespace that are, if it can't.
    pub(super) fn too_many_connections(&self, record: &ProviderRecord) -> Option<String> {
        let namespace = record.name.namespace();
        let max = self.quotas.get(namespace)?.record().connections?;
        let own = connections(record);
        let others = self.connections_of(namespace, Some(&record.name));
        (own > 0 && others + own > max).then(|| {
            format!(
                "it needs {own} connections, and of the {max} that the quota of {namespace} gives each host {others} are \
                 taken: lower its `connections`, or give more by `weft quota put`"
            )
        })
    }

    /// Connections that the open providers of a namespace may have, without those of one.
    fn connections_of(&self, namespace: &str, without: Option<&ProviderName>) -> u64 {
        let others = self
            .providers
            .iter()
            .filter(|(name, _)| name.namespace() == namespace && Some(*name) != without);
        others.map(|(_, (record, _))| connections(record)).sum()
    }

    /// Tells of namespaces that have more connections than they may: those that are open stay open.
    pub(super) fn look_at_connections(&self, found: &mut Vec<Found>) {
        for (namespace, quota) in &*self.quotas {
            let Some(max) = quota.record().connections else {
                continue;
            };
            let open = self.connections_of(namespace, None);
            if open > max {
                found.push(Found {
                    app: None,
                    subject: format!("quota {namespace}"),
                    reason: format!(
                        "its providers may have {open} connections on this host, and their quota is {max}: lower their \
                         `connections`, or give more by `weft quota put`"
                    ),
                });
            }
        }
    }
}
