//! What a host records, and the snapshot of everything that both readers get.
//!
//! Owns the list of actors with its bound, and the closures that are asked at each collection. Must not know
//! who reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use super::actor::{self, ActorMetrics, SharedMeasures};
use super::description::*;
use super::instrument::{Counter, Histogram};
use super::mesh::MeshReport;
use super::nanos;
use super::outcome::{CacheResult, CompileOutcome, Eviction};
use super::provider::{self, ProcessReport, ProviderReport};
use super::quota::{self, QuotaReport};
use super::snapshot::{Attributes, Family, Point, PointValue, Value};
use crate::attributes::*;

/// Actors that have series of their own; further ones share the overflow series.
pub const ACTORS_MAX: usize = 4096;

/// Apps that have series of their places; which of them is by name.
pub const APPS_MAX: usize = 1024;

/// The state of the instance pool at the moment of asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Slots there are.
    pub limit: u64,
    /// Slots in use.
    pub live: u64,
    /// Memories kept resident for the next instance.
    pub warm_memories: u64,
    /// Bytes that those hold.
    pub warm_bytes: u64,
    /// Instances that are kept from one invocation to the next, running ones included.
    pub kept: u64,
}

/// What an app has of the pool's places at the moment of asking: for calls from outside, and for the calls that those
/// make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPlacesReport {
    /// `namespace/app`.
    pub app: Arc<str>,
    /// Kept for root calls.
    pub root_reserved: u64,
    /// Taken by root calls.
    pub root_used: u64,
    /// Kept for nested calls.
    pub nested_reserved: u64,
    /// Taken by nested calls.
    pub nested_used: u64,
}

/// How far a host has converged on the desired state, at the moment of asking.
#[derive(Debug, Clone, Default)]
pub struct StateReport {
    /// The last transaction of the control store that this host knows of.
    pub desired_index: u64,
    /// The last transaction that it applied; behind `desired_index` while it converges.
    pub applied_index: u64,
    /// Actors that it serves.
    pub actors: u64,
    /// Providers that it runs.
    pub providers: u64,
    /// Links that it applied.
    pub links: u64,
    /// Sealed secrets that there are.
    pub secrets: u64,
    /// What it could not bring about, and tries again.
    pub conditions: u64,
}

/// All that a host records. Cheap to clone; made by [`crate::Telemetry`].
#[derive(Clone)]
pub struct HostMetrics(Arc<Host>);

struct Host {
    since: SystemTime,
    /// Those that somebody still serves. Series of an actor that is gone are dropped with it.
    actors: Mutex<BTreeMap<String, Weak<ActorMetrics>>>,
    overflow: Arc<ActorMetrics>,
    measures: Arc<SharedMeasures>,
    compile_duration: [Histogram; CompileOutcome::ALL.len()],
    load_duration: Histogram,
    loads: [Counter; FAILED_OR_OK.len()],
    evictions: [Counter; Eviction::ALL.len()],
    artifact_cache: [Counter; CacheResult::ALL.len()],
    artifacts_dropped: Counter,
    connections_refused: Counter,
    requests_rejected: Mutex<BTreeMap<&'static str, u64>>,
    panics: Counter,
    tls_reload: [Counter; FAILED_OR_OK.len()],
    reconcile_duration: [Histogram; FAILED_OR_OK.len()],
    commit_duration: [Histogram; FAILED_OR_OK.len()],
    active_requests: Observer<dyn Fn() -> u64 + Send>,
    pool: Observer<dyn Fn() -> PoolState + Send>,
    components_loaded: Observer<dyn Fn() -> u64 + Send>,
    artifacts: Observer<dyn Fn() -> (u64, u64) + Send>,
    places: Observer<dyn Fn() -> Vec<AppPlacesReport> + Send>,
    providers: Observer<dyn Fn() -> (Vec<ProviderReport>, u64) + Send>,
    processes: Observer<dyn Fn() -> Vec<ProcessReport> + Send>,
    quotas: Observer<dyn Fn() -> Vec<QuotaReport> + Send>,
    tasks: Observer<dyn Fn() -> u64 + Send>,
    connections: Observer<dyn Fn() -> u64 + Send>,
    certificates: Observer<CertificatesFn>,
    state: Observer<dyn Fn() -> StateReport + Send>,
    mesh: Observer<dyn Fn() -> Option<MeshReport> + Send>,
}

/// The values of `weft.outcome` for what works or does not, by `usize::from(ok)`.
const FAILED_OR_OK: [&str; 2] = ["failed", "ok"];

type CertificatesFn = dyn Fn(&mut dyn FnMut(&str, SystemTime)) + Send;

/// A closure that the host registered, asked at each collection on the thread that collects.
struct Observer<F: ?Sized>(Mutex<Option<Box<F>>>);

impl<F: ?Sized> Default for Observer<F> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<F: ?Sized> Observer<F> {
    fn set(&self, f: Box<F>) {
        *lock(&self.0) = Some(f);
    }

    fn ask<T>(&self, ask: impl FnOnce(&F) -> T) -> Option<T> {
        lock(&self.0).as_deref().map(ask)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for HostMetrics {
    fn default() -> Self {
        let measures = Arc::<SharedMeasures>::default();
        Self(Arc::new(Host {
            since: SystemTime::now(),
            actors: Mutex::default(),
            overflow: Arc::new(ActorMetrics::new(None, measures.clone())),
            measures,
            compile_duration: [const { Histogram::new(COMPILE_NANOS) }; CompileOutcome::ALL.len()],
            load_duration: Histogram::new(COMPILE_NANOS),
            loads: Default::default(),
            evictions: Default::default(),
            artifact_cache: Default::default(),
            artifacts_dropped: Counter::default(),
            connections_refused: Counter::default(),
            requests_rejected: Mutex::default(),
            panics: Counter::default(),
            tls_reload: Default::default(),
            reconcile_duration: [const { Histogram::new(RECONCILE_NANOS) }; FAILED_OR_OK.len()],
            commit_duration: [const { Histogram::new(CALL_NANOS) }; FAILED_OR_OK.len()],
            active_requests: Observer::default(),
            pool: Observer::default(),
            components_loaded: Observer::default(),
            artifacts: Observer::default(),
            places: Observer::default(),
            providers: Observer::default(),
            processes: Observer::default(),
            quotas: Observer::default(),
            tasks: Observer::default(),
            connections: Observer::default(),
            certificates: Observer::default(),
            state: Observer::default(),
            mesh: Observer::default(),
        }))
    }
}

impl HostMetrics {
    /// Metrics that nobody reads, for tests of code that needs some.
    pub fn noop() -> Self {
        Self::default()
    }

    /// The metrics of one actor, `namespace/app/name`. To be called when the actor is deployed, not per
    /// invocation.
    ///
    /// The same name gives the same object for as long as somebody holds it; then its series end. Past
    /// [`ACTORS_MAX`] names at once, all further ones share one object.
    pub fn actor(&self, name: &str) -> Arc<ActorMetrics> {
        let mut actors = lock(&self.0.actors);
        if let Some(actor) = actors.get(name).and_then(Weak::upgrade) {
            return actor;
        }
        if actors.len() >= ACTORS_MAX {
            actors.retain(|_, actor| actor.strong_count() > 0);
        }
        if actors.len() >= ACTORS_MAX {
            return Arc::clone(&self.0.overflow);
        }
        let actor = Arc::new(ActorMetrics::new(Some(name), self.0.measures.clone()));
        actors.insert(name.to_owned(), Arc::downgrade(&actor));
        actor
    }

    /// A component was compiled, or was not.
    pub fn component_compiled(&self, outcome: CompileOutcome, duration: Duration) {
        self.0.compile_duration[outcome as usize].record(nanos(duration));
    }

    /// A component was made ready to be instantiated, from compiled bytes.
    pub fn component_loaded(&self, duration: Duration) {
        self.0.load_duration.record(nanos(duration));
    }

    /// A component was to be loaded, and was or was not.
    pub fn component_load(&self, ok: bool) {
        self.0.loads[usize::from(ok)].add(1);
    }

    /// A component's machine code was let go.
    pub fn component_evicted(&self, why: Eviction) {
        self.0.evictions[why as usize].add(1);
    }

    /// A compiled component was looked up in the cache.
    pub fn artifact_cache(&self, result: CacheResult) {
        self.0.artifact_cache[result as usize].add(1);
    }

    /// A component was dropped from disk, as nothing deploys it.
    pub fn artifact_dropped(&self) {
        self.0.artifacts_dropped.add(1);
    }

    /// A connection was closed at once because there are too many.
    pub fn connection_refused(&self) {
        self.0.connections_refused.add(1);
    }

    /// A request was answered without asking a guest, for a reason such as `no-route` or `head-too-large`.
    pub fn request_rejected(&self, reason: &'static str) {
        *lock(&self.0.requests_rejected).entry(reason).or_default() += 1;
    }

    /// A thread or task of this host panicked: a defect of the host, whatever it was given.
    pub fn panicked(&self) {
        self.0.panics.add(1);
    }

    /// The certificates were read again, successfully or not.
    pub fn tls_reloaded(&self, ok: bool) {
        self.0.tls_reload[usize::from(ok)].add(1);
    }

    /// This host tried to converge on the desired state. Once per attempt, also when there was little to do.
    pub fn reconciled(&self, ok: bool, duration: Duration) {
        self.0.reconcile_duration[usize::from(ok)].record(nanos(duration));
    }

    /// A transaction of the control store was committed, or was not; `duration` is from the request until it is
    /// known which.
    pub fn committed(&self, ok: bool, duration: Duration) {
        self.0.commit_duration[usize::from(ok)].record(nanos(duration));
    }

    /// Tells how to count the requests that are being served. Each `observe_` call replaces the closure of
    /// the last one; a closure must neither block nor panic, and holds what it asks by `Weak`, since it lives
    /// as long as these metrics.
    pub fn observe_active_requests(&self, f: impl Fn() -> u64 + Send + 'static) {
        self.0.active_requests.set(Box::new(f));
    }

    /// Tells how to ask the instance pool.
    pub fn observe_pool(&self, f: impl Fn() -> PoolState + Send + 'static) {
        self.0.pool.set(Box::new(f));
    }

    /// Tells how to count the components that are loaded.
    pub fn observe_components_loaded(&self, f: impl Fn() -> u64 + Send + 'static) {
        self.0.components_loaded.set(Box::new(f));
    }

    /// Tells how to ask how many components are on disk, and how many bytes they have.
    pub fn observe_artifacts(&self, f: impl Fn() -> (u64, u64) + Send + 'static) {
        self.0.artifacts.set(Box::new(f));
    }

    /// Tells how to ask what each app has of the pool's places.
    pub fn observe_places(&self, f: impl Fn() -> Vec<AppPlacesReport> + Send + 'static) {
        self.0.places.set(Box::new(f));
    }

    /// Tells how to ask how each provider does, and how many keys the moves of providers have looked at.
    pub fn observe_providers(
        &self,
        providers: impl Fn() -> Vec<ProviderReport> + Send + 'static,
        moved_keys: impl Fn() -> u64 + Send + 'static,
    ) {
        let ask = move || (providers(), moved_keys());
        self.0.providers.set(Box::new(ask));
    }

    /// Tells how to ask for the processes of providers.
    pub fn observe_processes(&self, f: impl Fn() -> Vec<ProcessReport> + Send + 'static) {
        self.0.processes.set(Box::new(f));
    }

    /// Tells how to ask what was refused because of quotas.
    pub fn observe_quotas(&self, f: impl Fn() -> Vec<QuotaReport> + Send + 'static) {
        self.0.quotas.set(Box::new(f));
    }

    /// Tells how to count the tasks that are alive.
    pub fn observe_tasks(&self, f: impl Fn() -> u64 + Send + 'static) {
        self.0.tasks.set(Box::new(f));
    }

    /// Tells how to count the open connections of the front door.
    pub fn observe_connections(&self, f: impl Fn() -> u64 + Send + 'static) {
        self.0.connections.set(Box::new(f));
    }

    /// Tells how to list the certificates: the closure calls its argument with each server name and its
    /// expiry.
    pub fn observe_certificates(&self, f: impl Fn(&mut dyn FnMut(&str, SystemTime)) + Send + 'static) {
        self.0.certificates.set(Box::new(f));
    }

    /// Tells how to ask how far this host has converged.
    pub fn observe_state(&self, f: impl Fn() -> StateReport + Send + 'static) {
        self.0.state.set(Box::new(f));
    }

    /// Tells how to ask for this host's part in a lattice, if it has one now.
    pub fn observe_mesh(&self, f: impl Fn() -> Option<MeshReport> + Send + 'static) {
        self.0.mesh.set(Box::new(f));
    }

    /// All metrics now.
    pub(crate) fn snapshot(&self) -> Vec<Family> {
        let host = &*self.0;
        let point = |attributes: Attributes, value| Point {
            attributes,
            since: host.since,
            value,
        };
        let number = |attributes, value| point(attributes, PointValue::Number(value));
        let measured = |attributes, histogram: &Histogram| {
            histogram
                .value()
                .map(|value| point(attributes, PointValue::Histogram(value)))
        };
        let labelled = |key, value| vec![(key, Value::Static(value))];

        let mut families = self.actor_families();
        let mut family = |description, points| families.push(Family { description, points });
        family(
            &ACTIVE_REQUESTS,
            host.active_requests
                .ask(|ask| number(vec![], ask()))
                .into_iter()
                .collect(),
        );
        family(
            &COMPILE_DURATION,
            CompileOutcome::ALL
                .into_iter()
                .zip(&host.compile_duration)
                .filter_map(|(outcome, histogram)| {
                    measured(labelled(WEFT_OUTCOME, outcome.as_str()), histogram)
                })
                .collect(),
        );
        family(
            &LOAD_DURATION,
            measured(vec![], &host.load_duration).into_iter().collect(),
        );
        family(
            &COMPONENTS_LOADED,
            host.components_loaded
                .ask(|ask| number(vec![], ask()))
                .into_iter()
                .collect(),
        );
        family(
            &COMPONENT_LOADS,
            FAILED_OR_OK
                .into_iter()
                .zip(&host.loads)
                .map(|(outcome, count)| number(labelled(WEFT_OUTCOME, outcome), count.value()))
                .collect(),
        );
        family(
            &COMPONENT_EVICTIONS,
            Eviction::ALL
                .into_iter()
                .zip(&host.evictions)
                .map(|(why, count)| number(labelled(WEFT_REASON, why.as_str()), count.value()))
                .collect(),
        );
        family(
            &ARTIFACT_CACHE,
            CacheResult::ALL
                .into_iter()
                .zip(&host.artifact_cache)
                .map(|(result, count)| number(labelled(WEFT_CACHE_RESULT, result.as_str()), count.value()))
                .collect(),
        );
        let kept = host.artifacts.ask(|ask| ask());
        let of_kept = |value: fn((u64, u64)) -> u64| kept.map(|kept| number(vec![], value(kept)));
        family(&ARTIFACTS_KEPT, of_kept(|kept| kept.0).into_iter().collect());
        family(&ARTIFACT_SIZE, of_kept(|kept| kept.1).into_iter().collect());
        let dropped = number(vec![], host.artifacts_dropped.value());
        family(&ARTIFACTS_DROPPED, vec![dropped]);
        let pool = host.pool.ask(|ask| ask());
        family(
            &POOL_SLOTS,
            pool.iter()
                .flat_map(|pool| [("limit", pool.limit), ("live", pool.live), ("kept", pool.kept)])
                .map(|(state, slots)| number(labelled(WEFT_POOL_STATE, state), slots))
                .collect(),
        );
        family(
            &MEMORIES_WARM,
            pool.iter()
                .map(|pool| number(vec![], pool.warm_memories))
                .collect(),
        );
        family(
            &MEMORIES_WARM_SIZE,
            pool.iter().map(|pool| number(vec![], pool.warm_bytes)).collect(),
        );
        let places = host.places.ask(|ask| ask()).unwrap_or_default();
        let each = |of: &AppPlacesReport| {
            let app = Arc::clone(&of.app);
            [
                ("root", "reserved", of.root_reserved),
                ("root", "used", of.root_used),
                ("nested", "reserved", of.nested_reserved),
                ("nested", "used", of.nested_used),
            ]
            .map(|(kind, state, places)| {
                let attributes = vec![
                    (WEFT_APP, Value::Shared(Arc::clone(&app))),
                    (WEFT_CALL_KIND, Value::Static(kind)),
                    (WEFT_PLACE_STATE, Value::Static(state)),
                ];
                number(attributes, places)
            })
        };
        family(&APP_PLACES, places.iter().take(APPS_MAX).flat_map(each).collect());
        family(
            &TASKS,
            host.tasks.ask(|ask| number(vec![], ask())).into_iter().collect(),
        );
        family(
            &CONNECTIONS,
            host.connections
                .ask(|ask| number(vec![], ask()))
                .into_iter()
                .collect(),
        );
        family(
            &CONNECTIONS_REFUSED,
            vec![number(vec![], host.connections_refused.value())],
        );
        family(
            &REQUESTS_REJECTED,
            lock(&host.requests_rejected)
                .iter()
                .map(|(reason, count)| number(labelled(WEFT_REASON, reason), *count))
                .collect(),
        );
        family(&PANICS, vec![number(vec![], host.panics.value())]);
        let mut certificates = vec![];
        host.certificates.ask(|ask| {
            ask(&mut |name, expiry| {
                let seconds = expiry
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs();
                certificates.push(number(
                    vec![(WEFT_TLS_SERVER_NAME, Value::Shared(name.into()))],
                    seconds,
                ));
            });
        });
        family(&CERTIFICATE_EXPIRY, certificates);
        family(
            &TLS_RELOAD,
            FAILED_OR_OK
                .into_iter()
                .zip(&host.tls_reload)
                .map(|(outcome, count)| number(labelled(WEFT_OUTCOME, outcome), count.value()))
                .collect(),
        );
        let by_ok = |histograms: &[Histogram]| {
            FAILED_OR_OK
                .into_iter()
                .zip(histograms)
                .filter_map(|(outcome, histogram)| measured(labelled(WEFT_OUTCOME, outcome), histogram))
                .collect()
        };
        family(&RECONCILE_DURATION, by_ok(&host.reconcile_duration));
        family(&COMMIT_DURATION, by_ok(&host.commit_duration));
        let state = host.state.ask(|ask| ask());
        family(
            &CONTROL_INDEX,
            state
                .iter()
                .flat_map(|state| [("desired", state.desired_index), ("applied", state.applied_index)])
                .map(|(state, index)| number(labelled(WEFT_STATE, state), index))
                .collect(),
        );
        let of_state =
            |count: fn(&StateReport) -> u64| state.iter().map(|state| number(vec![], count(state))).collect();
        family(&ACTORS, of_state(|state| state.actors));
        family(&PROVIDERS, of_state(|state| state.providers));
        family(&LINKS, of_state(|state| state.links));
        family(&SECRETS, of_state(|state| state.secrets));
        family(&CONDITIONS, of_state(|state| state.conditions));
        if let Some((providers, moved_keys)) = host.providers.ask(|ask| ask()) {
            families.extend(provider::families(&providers, moved_keys, point));
        }
        if let Some(processes) = host.processes.ask(|ask| ask()) {
            families.extend(provider::process_families(&processes, point));
        }
        if let Some(quotas) = host.quotas.ask(|ask| ask()) {
            families.push(quota::family(&quotas, point));
        }
        if let Some(mesh) = host.mesh.ask(|ask| ask()).flatten() {
            families.extend(mesh.families(point));
        }
        families
    }

    fn actor_families(&self) -> Vec<Family> {
        let mut actors: Vec<_> = lock(&self.0.actors).values().filter_map(Weak::upgrade).collect();
        actors.push(Arc::clone(&self.0.overflow));
        actor::families(&actors)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::actor::tests::invocation;
    use super::super::snapshot::prometheus_text;
    use super::super::{Outcome, ShedReason};
    use super::*;

    #[test]
    fn the_series_of_an_actor_end_with_it() {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/hello/hello");
        assert!(Arc::ptr_eq(&actor, &metrics.actor("default/hello/hello")));
        actor.record(&invocation(Outcome::Ok));
        let has_series = || {
            metrics.snapshot().iter().any(|family| {
                family.description.name == WEFT_INVOCATION_DURATION && !family.points.is_empty()
            })
        };
        assert!(has_series());
        drop(actor);
        assert!(!has_series());
    }

    #[test]
    fn actors_beyond_the_bound_share_one_object_until_others_go() {
        let metrics = HostMetrics::default();
        let mut held: Vec<_> = (0..ACTORS_MAX)
            .map(|n| metrics.actor(&format!("default/many/{n}")))
            .collect();
        let beyond = metrics.actor("default/many/beyond");
        assert!(Arc::ptr_eq(&beyond, &metrics.actor("default/many/another")));
        beyond.shed(ShedReason::QueueFull);
        let text = prometheus_text(&metrics.snapshot(), &[]);
        assert!(text.contains(
            "weft_invocation_shed_total{weft_reason=\"queue-full\",otel_metric_overflow=\"true\"} 1\n"
        ));
        held.pop();
        assert!(!Arc::ptr_eq(&beyond, &metrics.actor("default/many/another")));
    }

    #[test]
    fn the_state_is_asked_at_each_collection() {
        let metrics = HostMetrics::default();
        let text = || prometheus_text(&metrics.snapshot(), &[]);
        assert!(
            !text().contains("weft_control_index"),
            "nobody said how to ask the state"
        );
        let applied = Arc::new(AtomicU64::new(1));
        let asked = Arc::clone(&applied);
        metrics.observe_state(move || StateReport {
            desired_index: 2,
            applied_index: asked.load(Ordering::Relaxed),
            ..StateReport::default()
        });
        let line = |applied| {
            format!(
                "weft_control_index{{weft_state=\"desired\"}} 2\n\
                 weft_control_index{{weft_state=\"applied\"}} {applied}\n"
            )
        };
        assert!(text().contains(&line(1)));
        applied.store(2, Ordering::Relaxed);
        assert!(text().contains(&line(2)));
        assert!(text().contains("\nweft_condition_count 0\n"));
    }
}
