//! Every instrument of a host, and the one call per finished request and invocation that feeds them.
//!
//! Owns what is recorded and how cheaply: the hot path is `ActorMetrics`, whose instruments are bound to
//! their attributes when the actor is deployed. Must not know who asks: the host tells numbers, words and
//! closures. Names are in [`crate::attributes`].

mod instrument;
mod outcome;
pub(crate) mod push;
pub(crate) mod snapshot;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use instrument::{Bounds, Counter, Histogram};
use snapshot::{Attributes, Description, Family, Kind, Point, PointValue, Unit, Value};

pub use outcome::{CacheResult, CompileOutcome, Outcome, ShedReason};

use crate::attributes::*;

/// Actors that have series of their own; further ones share the overflow series.
pub const ACTORS_MAX: usize = 4096;
/// Pairs of method and status that one actor has series for. A guest picks its status codes, so it is
/// bounded.
const HTTP_SERIES_PER_ACTOR_MAX: usize = 64;

/// From 50 us, about a local call, to 10 s, the length of a generous deadline.
const CALL_NANOS: Bounds = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Starting an instance takes microseconds, and a slice of CPU time may be as short. Up to 1 s.
const SHORT_NANOS: Bounds = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
];
/// Compiling takes from some milliseconds to minutes.
const COMPILE_NANOS: Bounds = &[
    5_000_000,
    25_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    120_000_000_000,
];
/// From one page of Wasm memory to all of a 32-bit one.
const MEMORY_BYTES: Bounds = &[
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 23,
    1 << 24,
    1 << 25,
    1 << 26,
    1 << 27,
    1 << 28,
    1 << 30,
    1 << 32,
];

const fn histogram(name: &'static str, help: &'static str) -> Description {
    Description {
        name,
        kind: Kind::Histogram,
        unit: Unit::SecondsOfNanos,
        help,
    }
}

const fn counter(name: &'static str, things: &'static str, help: &'static str) -> Description {
    Description {
        name,
        kind: Kind::Counter,
        unit: Unit::Count(things),
        help,
    }
}

const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Description {
    Description {
        name,
        kind: Kind::Gauge,
        unit,
        help,
    }
}

static REQUEST_DURATION: Description =
    histogram(HTTP_SERVER_REQUEST_DURATION, "Duration of HTTP server requests.");
static ACTIVE_REQUESTS: Description = Description {
    name: HTTP_SERVER_ACTIVE_REQUESTS,
    kind: Kind::UpDownCounter,
    unit: Unit::Count("{request}"),
    help: "Requests that are being served.",
};
static QUEUE_DURATION: Description =
    histogram(WEFT_INVOCATION_QUEUE_DURATION, "Time from arrival to admission.");
static DURATION: Description = histogram(
    WEFT_INVOCATION_DURATION,
    "Time from arrival to the end of the invocation.",
);
static CPU_TIME: Description = histogram(WEFT_INVOCATION_CPU_TIME, "CPU time of the guest per invocation.");
static SHED: Description = counter(
    WEFT_INVOCATION_SHED,
    "{invocation}",
    "Invocations that admission refused.",
);
static START_DURATION: Description =
    histogram(WEFT_INSTANCE_START_DURATION, "Time to get an instance ready.");
static MEMORY_PEAK: Description = Description {
    name: WEFT_INSTANCE_MEMORY_PEAK,
    kind: Kind::Histogram,
    unit: Unit::Bytes,
    help: "The most linear memory that an instance had.",
};
static COMPILE_DURATION: Description =
    histogram(WEFT_COMPONENT_COMPILE_DURATION, "Time to compile a component.");
static LOAD_DURATION: Description =
    histogram(WEFT_COMPONENT_LOAD_DURATION, "Time to load a compiled component.");
static ARTIFACT_CACHE: Description = counter(
    WEFT_ARTIFACT_CACHE,
    "{lookup}",
    "Look-ups of compiled components.",
);
static POOL_SLOTS: Description = gauge(
    WEFT_POOL_SLOTS,
    Unit::Count("{slot}"),
    "Slots of the instance pool.",
);
static MEMORIES_WARM: Description = gauge(
    WEFT_POOL_MEMORIES_WARM,
    Unit::Count("{memory}"),
    "Memories kept resident for the next instance.",
);
static CONNECTIONS: Description = gauge(
    WEFT_HTTP_CONNECTIONS,
    Unit::Count("{connection}"),
    "Open connections of the front door.",
);
static CONNECTIONS_REFUSED: Description = counter(
    WEFT_HTTP_CONNECTIONS_REFUSED,
    "{connection}",
    "Connections closed at once because there are too many.",
);
static REQUESTS_REJECTED: Description = counter(
    WEFT_HTTP_REQUESTS_REJECTED,
    "{request}",
    "Requests answered without asking a guest.",
);
static CERTIFICATE_EXPIRY: Description = gauge(
    WEFT_TLS_CERTIFICATE_EXPIRY,
    Unit::Seconds,
    "When the certificate of a name expires, in seconds since 1970.",
);
static TLS_RELOAD: Description = counter(WEFT_TLS_RELOAD, "{reload}", "Reloads of certificates.");
static GUEST_LOG_LINES: Description = counter(WEFT_GUEST_LOG_LINES, "{line}", "Lines that guests logged.");

/// What one finished invocation has to report.
#[derive(Debug, Clone, Copy)]
pub struct InvocationRecord {
    pub outcome: Outcome,
    /// From arrival to admission, or to being shed.
    pub queue: Duration,
    /// To get the instance ready; `None` when there was none.
    pub start: Option<Duration>,
    /// CPU time of the guest. Not recorded when there was no instance.
    pub cpu: Duration,
    /// From arrival to end.
    pub total: Duration,
    /// The most linear memory that the instance had, in bytes, over all its memories; `None` when there was
    /// none.
    pub peak_memory: Option<u64>,
}

/// The state of the instance pool at the moment of asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Slots there are.
    pub limit: u64,
    /// Slots in use.
    pub live: u64,
    /// Memories kept resident for the next instance.
    pub warm_memories: u64,
}

/// All that a host records. Cheap to clone; made by [`crate::Telemetry`].
#[derive(Clone)]
pub struct HostMetrics(Arc<Host>);

struct Host {
    since: SystemTime,
    /// Those that somebody still serves. Series of an actor that is gone are dropped with it.
    actors: Mutex<BTreeMap<String, Weak<ActorMetrics>>>,
    overflow: Arc<ActorMetrics>,
    compile_duration: [Histogram; CompileOutcome::ALL.len()],
    load_duration: Histogram,
    artifact_cache: [Counter; CacheResult::ALL.len()],
    connections_refused: Counter,
    requests_rejected: Mutex<BTreeMap<&'static str, u64>>,
    tls_reload: [Counter; TLS_RELOAD_OUTCOMES.len()],
    active_requests: Observer<dyn Fn() -> u64 + Send>,
    pool: Observer<dyn Fn() -> PoolState + Send>,
    connections: Observer<dyn Fn() -> u64 + Send>,
    certificates: Observer<CertificatesFn>,
}

const TLS_RELOAD_OUTCOMES: [&str; 2] = ["failed", "ok"];

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
        Self(Arc::new(Host {
            since: SystemTime::now(),
            actors: Mutex::default(),
            overflow: Arc::new(ActorMetrics::new(None)),
            compile_duration: [const { Histogram::new(COMPILE_NANOS) }; CompileOutcome::ALL.len()],
            load_duration: Histogram::new(COMPILE_NANOS),
            artifact_cache: Default::default(),
            connections_refused: Counter::default(),
            requests_rejected: Mutex::default(),
            tls_reload: Default::default(),
            active_requests: Observer::default(),
            pool: Observer::default(),
            connections: Observer::default(),
            certificates: Observer::default(),
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
        let actor = Arc::new(ActorMetrics::new(Some(name)));
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

    /// A compiled component was looked up in the cache.
    pub fn artifact_cache(&self, result: CacheResult) {
        self.0.artifact_cache[result as usize].add(1);
    }

    /// A connection was closed at once because there are too many.
    pub fn connection_refused(&self) {
        self.0.connections_refused.add(1);
    }

    /// A request was answered without asking a guest, for a reason such as `no-route` or `head-too-large`.
    pub fn request_rejected(&self, reason: &'static str) {
        *lock(&self.0.requests_rejected).entry(reason).or_default() += 1;
    }

    /// The certificates were read again, successfully or not.
    pub fn tls_reloaded(&self, ok: bool) {
        self.0.tls_reload[usize::from(ok)].add(1);
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

    /// Tells how to count the open connections of the front door.
    pub fn observe_connections(&self, f: impl Fn() -> u64 + Send + 'static) {
        self.0.connections.set(Box::new(f));
    }

    /// Tells how to list the certificates: the closure calls its argument with each server name and its
    /// expiry.
    pub fn observe_certificates(&self, f: impl Fn(&mut dyn FnMut(&str, SystemTime)) + Send + 'static) {
        self.0.certificates.set(Box::new(f));
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
            &ARTIFACT_CACHE,
            CacheResult::ALL
                .into_iter()
                .zip(&host.artifact_cache)
                .map(|(result, count)| number(labelled(WEFT_CACHE_RESULT, result.as_str()), count.value()))
                .collect(),
        );
        let pool = host.pool.ask(|ask| ask());
        family(
            &POOL_SLOTS,
            pool.iter()
                .flat_map(|pool| [("limit", pool.limit), ("live", pool.live)])
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
            TLS_RELOAD_OUTCOMES
                .into_iter()
                .zip(&host.tls_reload)
                .map(|(outcome, count)| number(labelled(WEFT_OUTCOME, outcome), count.value()))
                .collect(),
        );
        families
    }

    fn actor_families(&self) -> Vec<Family> {
        let mut actors: Vec<_> = lock(&self.0.actors).values().filter_map(Weak::upgrade).collect();
        actors.push(Arc::clone(&self.0.overflow));
        let family = |description, points: &dyn Fn(&ActorMetrics) -> Vec<Point>| Family {
            description,
            points: actors.iter().flat_map(|actor| points(actor)).collect(),
        };
        vec![
            family(&REQUEST_DURATION, &ActorMetrics::http_points),
            family(&QUEUE_DURATION, &|actor| {
                actor.measured(&actor.queue_duration, vec![])
            }),
            family(&DURATION, &|actor| {
                let of = |(outcome, histogram): (Outcome, &Histogram)| {
                    actor.measured(histogram, vec![(WEFT_OUTCOME, Value::Static(outcome.as_str()))])
                };
                Outcome::ALL
                    .into_iter()
                    .zip(&actor.duration)
                    .flat_map(of)
                    .collect()
            }),
            family(&CPU_TIME, &|actor| actor.measured(&actor.cpu_time, vec![])),
            family(&START_DURATION, &|actor| {
                actor.measured(&actor.start_duration, vec![])
            }),
            family(&MEMORY_PEAK, &|actor| actor.measured(&actor.memory_peak, vec![])),
            family(&SHED, &|actor| {
                let reasons = ShedReason::ALL.map(|reason| Value::Static(reason.as_str()));
                actor.counted(WEFT_REASON, reasons, &actor.shed)
            }),
            family(&GUEST_LOG_LINES, &|actor| {
                actor.counted(WEFT_LOG_DROPPED, [false, true].map(Value::Bool), &actor.log_lines)
            }),
        ]
    }
}

/// What one actor records. Shared by all that serve it; recording takes no lock, and allocates only for the
/// first value of a series.
pub struct ActorMetrics {
    /// `None` in the object that stands for all actors beyond the bound.
    name: Option<Arc<str>>,
    since: SystemTime,
    request_duration: HttpSeries,
    queue_duration: Histogram,
    duration: [Histogram; Outcome::ALL.len()],
    cpu_time: Histogram,
    start_duration: Histogram,
    memory_peak: Histogram,
    shed: [Counter; ShedReason::ALL.len()],
    log_lines: [Counter; 2],
}

impl ActorMetrics {
    fn new(name: Option<&str>) -> Self {
        Self {
            name: name.map(Arc::from),
            since: SystemTime::now(),
            request_duration: HttpSeries::default(),
            queue_duration: Histogram::new(CALL_NANOS),
            duration: [const { Histogram::new(CALL_NANOS) }; Outcome::ALL.len()],
            cpu_time: Histogram::new(SHORT_NANOS),
            start_duration: Histogram::new(SHORT_NANOS),
            memory_peak: Histogram::new(MEMORY_BYTES),
            shed: Default::default(),
            log_lines: Default::default(),
        }
    }

    /// Records a finished invocation, whatever its end. Once per invocation.
    pub fn record(&self, record: &InvocationRecord) {
        self.queue_duration.record(nanos(record.queue));
        self.duration[record.outcome as usize].record(nanos(record.total));
        if let Some(start) = record.start {
            self.start_duration.record(nanos(start));
            self.cpu_time.record(nanos(record.cpu));
        }
        if let Some(peak) = record.peak_memory {
            self.memory_peak.record(peak);
        }
    }

    /// Records an HTTP request that this actor answered, or that failed on the way to it. `duration` is from
    /// the head of the request to the head of the response.
    pub fn record_http(&self, method: &http::Method, status: u16, duration: Duration) {
        self.request_duration
            .of(known_method(method), status)
            .record(nanos(duration));
    }

    /// Counts an invocation that admission refused, beside its [`Self::record`].
    pub fn shed(&self, reason: ShedReason) {
        self.shed[reason as usize].add(1);
    }

    /// Counts lines that the actor's guests logged; `dropped` are those that the rate limit kept back.
    pub fn log_lines(&self, lines: u64, dropped: bool) {
        self.log_lines[usize::from(dropped)].add(lines);
    }

    fn point(&self, mut attributes: Attributes, value: PointValue) -> Point {
        attributes.push(match &self.name {
            Some(name) => (WEFT_ACTOR, Value::Shared(Arc::clone(name))),
            None => (OTEL_METRIC_OVERFLOW, Value::Bool(true)),
        });
        Point {
            attributes,
            since: self.since,
            value,
        }
    }

    fn measured(&self, histogram: &Histogram, attributes: Attributes) -> Vec<Point> {
        histogram
            .value()
            .map(|value| self.point(attributes, PointValue::Histogram(value)))
            .into_iter()
            .collect()
    }

    fn counted<const N: usize>(
        &self,
        key: &'static str,
        values: [Value; N],
        counters: &[Counter; N],
    ) -> Vec<Point> {
        // Zeros tell a new actor's series from no actor; the overflow object has nothing to tell before it is
        // used.
        let untold = self.name.is_none() && counters.iter().all(|counter| counter.value() == 0);
        let told = values.into_iter().zip(counters).filter(|_| !untold);
        told.map(|(value, count)| self.point(vec![(key, value)], PointValue::Number(count.value())))
            .collect()
    }

    fn http_points(&self) -> Vec<Point> {
        let mut points = vec![];
        for (key, histogram) in self.request_duration.series() {
            let attributes = match key {
                Some((method, status)) => vec![
                    (HTTP_REQUEST_METHOD, Value::Static(method)),
                    (HTTP_RESPONSE_STATUS_CODE, Value::Int(i64::from(status))),
                ],
                None if self.name.is_some() => vec![(OTEL_METRIC_OVERFLOW, Value::Bool(true))],
                None => vec![],
            };
            points.extend(self.measured(histogram, attributes));
        }
        points
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const METHODS: [&str; 10] = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    HTTP_METHOD_OTHER,
];

/// The index in [`METHODS`].
fn known_method(method: &http::Method) -> u32 {
    let known = METHODS.iter().position(|known| *known == method.as_str());
    known.unwrap_or(METHODS.len() - 1) as u32
}

/// The series of one actor by method and status: places are taken from the front, and never given back.
struct HttpSeries {
    /// `method << 16 | status | KEY_SET`; zero from the first free place on.
    keys: [AtomicU32; HTTP_SERIES_PER_ACTOR_MAX],
    series: [Histogram; HTTP_SERIES_PER_ACTOR_MAX],
    overflow: Histogram,
}

const KEY_SET: u32 = 1 << 31;

impl Default for HttpSeries {
    fn default() -> Self {
        Self {
            keys: [const { AtomicU32::new(0) }; HTTP_SERIES_PER_ACTOR_MAX],
            series: [const { Histogram::new(CALL_NANOS) }; HTTP_SERIES_PER_ACTOR_MAX],
            overflow: Histogram::new(CALL_NANOS),
        }
    }
}

impl HttpSeries {
    /// Relaxed throughout: a key says only whose place it is, and the histogram there looks after itself.
    fn of(&self, method: u32, status: u16) -> &Histogram {
        let key = KEY_SET | method << 16 | u32::from(status);
        for (place, histogram) in self.keys.iter().zip(&self.series) {
            let owner = match place.load(Ordering::Relaxed) {
                0 => match place.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => key,
                    Err(faster) => faster,
                },
                owner => owner,
            };
            if owner == key {
                return histogram;
            }
        }
        &self.overflow
    }

    /// Each pair with its histogram; `None` for what no place was left for.
    fn series(&self) -> impl Iterator<Item = (Option<(&'static str, u16)>, &Histogram)> {
        let keys = self
            .keys
            .iter()
            .map(|key| key.load(Ordering::Relaxed))
            .take_while(|key| *key != 0);
        let pairs = keys.map(|key| Some((METHODS[((key & !KEY_SET) >> 16) as usize], key as u16)));
        pairs.zip(&self.series).chain([(None, &self.overflow)])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::snapshot::{prometheus_name, prometheus_text};
    use super::*;

    const README: &str = include_str!("../README.md");

    fn invocation(outcome: Outcome) -> InvocationRecord {
        InvocationRecord {
            outcome,
            queue: Duration::from_micros(3),
            start: Some(Duration::from_micros(20)),
            cpu: Duration::from_micros(40),
            total: Duration::from_micros(100),
            peak_memory: Some(1 << 20),
        }
    }

    /// Metrics in which everything has happened once; the caller holds the actor, as its series end with it.
    fn everything() -> (HostMetrics, Arc<ActorMetrics>) {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/hello/hello");
        Outcome::ALL
            .into_iter()
            .for_each(|outcome| actor.record(&invocation(outcome)));
        actor.record_http(&http::Method::GET, 200, Duration::from_micros(110));
        ShedReason::ALL.into_iter().for_each(|reason| actor.shed(reason));
        [false, true]
            .into_iter()
            .for_each(|dropped| actor.log_lines(1, dropped));
        CompileOutcome::ALL
            .into_iter()
            .for_each(|outcome| metrics.component_compiled(outcome, Duration::from_secs(1)));
        metrics.component_loaded(Duration::from_millis(2));
        CacheResult::ALL
            .into_iter()
            .for_each(|result| metrics.artifact_cache(result));
        metrics.connection_refused();
        metrics.request_rejected("no-route");
        [false, true].into_iter().for_each(|ok| metrics.tls_reloaded(ok));
        metrics.observe_active_requests(|| 7);
        metrics.observe_pool(|| PoolState {
            limit: 1000,
            live: 3,
            warm_memories: 50,
        });
        metrics.observe_connections(|| 12);
        metrics.observe_certificates(|each| {
            each("example.com", SystemTime::UNIX_EPOCH + Duration::from_secs(99))
        });
        (metrics, actor)
    }

    #[test]
    fn every_metric_that_has_a_name_is_emitted() {
        let (metrics, _actor) = everything();
        let families = metrics.snapshot();
        let emitted: BTreeSet<_> = families
            .iter()
            .filter(|family| !family.points.is_empty())
            .map(|family| family.description.name)
            .collect();
        assert_eq!(emitted, METRICS.iter().copied().collect());
        assert_eq!(families.len(), METRICS.len(), "a metric is emitted twice");
        let text = prometheus_text(&families, &[]);
        for family in &families {
            let line = format!("\n# TYPE {} ", prometheus_name(family.description));
            assert!(text.contains(&line), "{line:?} is not in\n{text}");
        }
    }

    /// README.md is what operators read: a row of its table for each metric, with the right unit and
    /// attributes.
    #[test]
    fn the_readme_lists_every_metric_as_it_is_emitted() {
        let rows: BTreeMap<_, _> = README
            .lines()
            .filter_map(|line| {
                let cells: Vec<_> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
                let name = cells[0].trim_end_matches('`');
                METRICS
                    .contains(&name)
                    .then(|| (name.to_owned(), cells[1..].join(" | ")))
            })
            .collect();
        let (metrics, _actor) = everything();
        for family in metrics.snapshot() {
            let description = family.description;
            let row = rows
                .get(description.name)
                .unwrap_or_else(|| panic!("no row for {}", description.name));
            let kind = match description.kind {
                Kind::Counter => "counter",
                Kind::UpDownCounter => "up-down counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let start = format!(
                "`{}` | {kind} | {} | ",
                prometheus_name(description),
                description.unit.as_str()
            );
            let rest = row
                .strip_prefix(&start)
                .unwrap_or_else(|| panic!("{row:?} does not begin with {start:?}"));
            let keys: BTreeSet<_> = family
                .points
                .iter()
                .flat_map(|point| point.attributes.iter().map(|(key, _)| *key))
                .collect();
            let documented: BTreeSet<_> = rest
                .split('|')
                .next()
                .unwrap()
                .split('`')
                .filter(|word| word.contains('.'))
                .collect();
            assert_eq!(documented, keys, "attributes of {}", description.name);
        }
        assert_eq!(rows.len(), METRICS.len());
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/he\"llo\\/\n");
        actor.record_http(&http::Method::GET, 404, Duration::from_micros(50));
        actor.record_http(&http::Method::GET, 404, Duration::from_millis(300));
        metrics.artifact_cache(CacheResult::Hit);
        let text = prometheus_text(
            &metrics.snapshot(),
            &[("service.name".to_owned(), "weft".to_owned())],
        );
        for lines in [
            "# HELP target_info Target metadata\n\
             # TYPE target_info gauge\n\
             target_info{service_name=\"weft\"} 1\n",
            "# HELP http_server_request_duration_seconds Duration of HTTP server requests.\n\
             # TYPE http_server_request_duration_seconds histogram\n",
            "http_server_request_duration_seconds_bucket{http_request_method=\"GET\",\
             http_response_status_code=\"404\",weft_actor=\"default/he\\\"llo\\\\/\\n\",le=\"0.00005\"} 1\n",
            "le=\"0.25\"} 1\n",
            "le=\"0.5\"} 2\n",
            "le=\"+Inf\"} 2\n",
            "\"} 0.30005\n",
            "# TYPE weft_artifact_cache_total counter\n\
             weft_artifact_cache_total{weft_cache_result=\"hit\"} 1\n",
            "\nweft_http_connections_refused_total 0\n",
        ] {
            assert!(text.contains(lines), "{lines:?} is not in\n{text}");
        }
        assert!(
            !text.contains("weft_pool_slots"),
            "nobody said how to ask the pool"
        );
    }

    #[test]
    fn a_guest_can_not_make_series_without_end() {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/wild/wild");
        for status in 100..=999 {
            actor.record_http(&http::Method::POST, status, Duration::from_millis(1));
        }
        let points = actor.http_points();
        assert_eq!(points.len(), HTTP_SERIES_PER_ACTOR_MAX + 1);
        let total: u64 = points
            .iter()
            .map(|point| match &point.value {
                PointValue::Histogram(histogram) => histogram.count(),
                PointValue::Number(_) => panic!("a number"),
            })
            .sum();
        assert_eq!(total, 900, "what has no series of its own is in the overflow");
        let overflow = points.last().unwrap();
        assert!(
            overflow
                .attributes
                .contains(&(OTEL_METRIC_OVERFLOW, Value::Bool(true)))
        );
    }

    #[test]
    fn methods_that_nobody_registered_are_one_series() {
        let actor = ActorMetrics::new(Some("default/hello/hello"));
        for method in ["BREW", "PROPFIND", "get"] {
            actor.record_http(
                &http::Method::from_bytes(method.as_bytes()).unwrap(),
                200,
                Duration::ZERO,
            );
        }
        let points = actor.http_points();
        assert_eq!(points.len(), 1);
        assert!(
            points[0]
                .attributes
                .contains(&(HTTP_REQUEST_METHOD, Value::Static(HTTP_METHOD_OTHER)))
        );
    }

    #[test]
    fn threads_that_take_places_at_once_agree_whose_is_whose() {
        let actor = ActorMetrics::new(Some("default/hello/hello"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..1_000 {
                        actor.record_http(&http::Method::GET, 200 + round % 50, Duration::ZERO);
                    }
                });
            }
        });
        let points = actor.http_points();
        assert_eq!(points.len(), 50);
        for point in points {
            let PointValue::Histogram(histogram) = point.value else {
                panic!("a number")
            };
            assert_eq!(histogram.count(), 80);
        }
    }

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
    fn what_never_had_an_instance_records_none() {
        let actor = ActorMetrics::new(Some("default/hello/hello"));
        actor.record(&InvocationRecord {
            start: None,
            peak_memory: None,
            ..invocation(Outcome::Overloaded)
        });
        assert_eq!(actor.queue_duration.value().unwrap().count(), 1);
        assert_eq!(
            actor.duration[Outcome::Overloaded as usize]
                .value()
                .unwrap()
                .count(),
            1
        );
        for histogram in [&actor.start_duration, &actor.cpu_time, &actor.memory_peak] {
            assert_eq!(histogram.value(), None);
        }
    }
}
