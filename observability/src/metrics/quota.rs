//! What a host tells of the quotas of namespaces.
//!
//! Owns the step from what counts to a metric. It is asked at each collection.

use std::sync::Arc;

use super::description::counter;
use super::snapshot::{Description, Family, Point, PointValue, Value};
use crate::attributes::*;

/// Namespaces that have series; which of them is by name.
pub const NAMESPACES_MAX: usize = 1024;

/// The numbers of one namespace on this host. Counts are since its quota was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaReport {
    /// The namespace.
    pub namespace: Arc<str>,
    /// What was refused, by what is bounded.
    pub refused: [(&'static str, u64); 2],
}

static REFUSED: Description = counter(
    WEFT_QUOTA_REFUSED,
    "{operation}",
    "Operations that were refused as their namespace had more than its quota.",
);

/// As metrics; `point` adds the rest.
pub(super) fn family(
    quotas: &[QuotaReport],
    point: impl Fn(Vec<(&'static str, Value)>, PointValue) -> Point,
) -> Family {
    let points = quotas.iter().take(NAMESPACES_MAX).flat_map(|one| {
        one.refused.map(|(quota, refused)| {
            let attributes = vec![
                (WEFT_NAMESPACE, Value::Shared(Arc::clone(&one.namespace))),
                (WEFT_QUOTA, Value::Static(quota)),
            ];
            point(attributes, PointValue::Number(refused))
        })
    });
    Family {
        description: &REFUSED,
        points: points.collect(),
    }
}
