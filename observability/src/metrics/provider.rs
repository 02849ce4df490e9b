//! What a host tells of its providers.
//!
//! Owns the step from what supervises them to metrics. All are asked at each collection.

use std::sync::Arc;

use super::description::{counter, gauge};
use super::snapshot::{Description, Family, Point, PointValue, Unit, Value};
use crate::attributes::*;

/// Providers that have series; which of them is by name.
pub const PROVIDERS_MAX: usize = 1024;

/// The numbers of one provider on this host. Counts are since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReport {
    /// `namespace/app/name`.
    pub provider: Arc<str>,
    /// Whether it answers, as far as is known.
    pub up: bool,
    /// Whether calls are refused at once.
    pub circuit_open: bool,
    /// Whether writes wait, as its data is moved.
    pub held: bool,
    /// Times that it stopped to answer.
    pub downs: u64,
    /// Calls that were refused at once.
    pub refused: u64,
}

/// The process of an outside provider that this host starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessReport {
    /// `namespace/app/name`.
    pub provider: Arc<str>,
    /// Whether it runs.
    pub runs: bool,
    /// Times that it ended.
    pub ends: u64,
}

static PROCESS_UP: Description = gauge(
    WEFT_PROVIDER_PROCESS_UP,
    Unit::Count("{process}"),
    "Whether the process of a provider runs that this host starts.",
);
static PROCESS_ENDS: Description = counter(
    WEFT_PROVIDER_PROCESS_ENDS,
    "{process}",
    "Times that the process of a provider ended.",
);

static UP: Description = gauge(
    WEFT_PROVIDER_UP,
    Unit::Count("{provider}"),
    "Whether a provider answers.",
);
static CIRCUIT_OPEN: Description = gauge(
    WEFT_PROVIDER_CIRCUIT_OPEN,
    Unit::Count("{provider}"),
    "Whether calls of a provider are refused at once.",
);
static HELD: Description = gauge(
    WEFT_PROVIDER_HELD,
    Unit::Count("{provider}"),
    "Whether writes to a provider wait, as its data is moved.",
);
static DOWNS: Description = counter(
    WEFT_PROVIDER_DOWNS,
    "{event}",
    "Times that a provider stopped to answer.",
);
static REFUSED: Description = counter(
    WEFT_PROVIDER_REFUSED,
    "{call}",
    "Calls of a provider that were refused at once.",
);
static MOVE_KEYS: Description = gauge(
    WEFT_MOVE_KEYS,
    Unit::Count("{key}"),
    "Keys, rows and objects that were looked at by the moves that are on.",
);

/// Processes as metrics; `point` adds the rest.
pub(super) fn process_families(
    processes: &[ProcessReport],
    point: impl Fn(Vec<(&'static str, Value)>, PointValue) -> Point,
) -> Vec<Family> {
    let each = |value: fn(&ProcessReport) -> u64| {
        let points = processes.iter().take(PROVIDERS_MAX).map(|one| {
            let attributes = vec![(WEFT_PROVIDER, Value::Shared(Arc::clone(&one.provider)))];
            point(attributes, PointValue::Number(value(one)))
        });
        points.collect::<Vec<_>>()
    };
    let families = [
        (&PROCESS_UP, each(|one| u64::from(one.runs))),
        (&PROCESS_ENDS, each(|one| one.ends)),
    ];
    families
        .into_iter()
        .map(|(description, points)| Family { description, points })
        .collect()
}

/// As metrics; `point` adds the rest.
pub(super) fn families(
    providers: &[ProviderReport],
    moved_keys: u64,
    point: impl Fn(Vec<(&'static str, Value)>, PointValue) -> Point,
) -> Vec<Family> {
    let each = |value: fn(&ProviderReport) -> u64| {
        let points = providers.iter().take(PROVIDERS_MAX).map(|one| {
            let attributes = vec![(WEFT_PROVIDER, Value::Shared(Arc::clone(&one.provider)))];
            point(attributes, PointValue::Number(value(one)))
        });
        points.collect::<Vec<_>>()
    };
    let families = [
        (&UP, each(|one| u64::from(one.up))),
        (&CIRCUIT_OPEN, each(|one| u64::from(one.circuit_open))),
        (&DOWNS, each(|one| one.downs)),
        (&REFUSED, each(|one| one.refused)),
        (&HELD, each(|one| u64::from(one.held))),
        (&MOVE_KEYS, vec![point(vec![], PointValue::Number(moved_keys))]),
    ];
    families
        .into_iter()
        .map(|(description, points)| Family { description, points })
        .collect()
}
