//! What one actor records: the hot path of all metrics.
//!
//! Owns the instruments of an actor, which are bound to their attributes when it is deployed, so that a record
//! is some relaxed additions. Must not know other actors, or how long this one lives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::description::*;
use super::http_series::HttpSeries;
use super::instrument::{Counter, Histogram};
use super::nanos;
use super::operation::{CallPath, ObjectBytes, Operation, OperationOutcome};
use super::outcome::{MessageOutcome, Outcome, ShedReason};
use super::snapshot::{Attributes, Family, Point, PointValue, Value};
use crate::attributes::*;

/// Actors that have durations and sizes of their own: those that were called first, for as long as they are deployed.
/// The others' are one series, and their counters are their own. Together some 4 MB of text at most.
pub(super) const MEASURED_ACTORS_MAX: usize = 256;

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

/// What one actor records. Shared by all that serve it; recording takes no lock, and allocates only for the
/// first value of a series.
pub struct ActorMetrics {
    /// `None` in the object that stands for all actors beyond the bound.
    name: Option<Arc<str>>,
    since: SystemTime,
    finished: [Counter; Outcome::ALL.len()],
    shed: [Counter; ShedReason::ALL.len()],
    calls: [[Counter; Outcome::ALL.len()]; CallPath::ALL.len()],
    log_lines: [Counter; 2],
    reused: Counter,
    object_bytes: [Counter; ObjectBytes::ALL.len()],
    messages: [Counter; MessageOutcome::ALL.len()],
    changes: [Counter; MessageOutcome::ALL.len()],
    /// Taken at the first call; `None` if no place was left.
    own: OnceLock<Option<Box<Measures>>>,
    shared: Arc<SharedMeasures>,
}

/// Durations and sizes: an actor's are some 120 lines of text, twenty times its counters.
struct Measures {
    request_duration: HttpSeries,
    queue_duration: Histogram,
    duration: [Histogram; Outcome::ALL.len()],
    cpu_time: Histogram,
    start_duration: Histogram,
    memory_peak: Histogram,
    /// Most actors use few of the operations, and many use none.
    operation_duration: [OnceLock<Box<OperationSeries>>; Operation::ALL.len()],
}

/// How many actors have measures of their own, and those of all others.
#[derive(Default)]
pub(super) struct SharedMeasures {
    owners: AtomicUsize,
    rest: Measures,
}

/// One operation's durations, by outcome.
type OperationSeries = [Histogram; OperationOutcome::ALL.len()];

impl ActorMetrics {
    /// Without a name it stands for all actors beyond the bound.
    pub(super) fn new(name: Option<&str>, shared: Arc<SharedMeasures>) -> Self {
        Self {
            name: name.map(Arc::from),
            since: SystemTime::now(),
            finished: Default::default(),
            shed: Default::default(),
            calls: Default::default(),
            log_lines: Default::default(),
            reused: Default::default(),
            object_bytes: Default::default(),
            messages: Default::default(),
            changes: Default::default(),
            own: name.map_or_else(|| OnceLock::from(None), |_| OnceLock::new()),
            shared,
        }
    }

    /// Where its durations and sizes go.
    fn measures(&self) -> &Measures {
        let own = self
            .own
            .get_or_init(|| self.shared.take_place().then(Box::default));
        own.as_deref().unwrap_or(&self.shared.rest)
    }

    /// Those that are told under its name.
    fn own(&self) -> Option<&Measures> {
        match self.name {
            Some(_) => self.own.get()?.as_deref(),
            None => Some(&self.shared.rest),
        }
    }

    /// Records a finished invocation, whatever its end. Once per invocation.
    pub fn record(&self, record: &InvocationRecord) {
        self.finished[record.outcome as usize].add(1);
        let measures = self.measures();
        measures.queue_duration.record(nanos(record.queue));
        measures.duration[record.outcome as usize].record(nanos(record.total));
        if let Some(start) = record.start {
            measures.start_duration.record(nanos(start));
            measures.cpu_time.record(nanos(record.cpu));
        }
        if let Some(peak) = record.peak_memory {
            measures.memory_peak.record(peak);
        }
    }

    /// Records an HTTP request that this actor answered, or that failed on the way to it. `duration` is from
    /// the head of the request to the head of the response.
    pub fn record_http(&self, method: &http::Method, status: u16, duration: Duration) {
        let series = self.measures().request_duration.of(method, status);
        series.record(nanos(duration));
    }

    /// Counts an invocation that admission refused, beside its [`Self::record`].
    pub fn shed(&self, reason: ShedReason) {
        self.shed[reason as usize].add(1);
    }

    /// Counts an invocation that is served by an instance which has served others.
    pub fn instance_reused(&self) {
        self.reused.add(1);
    }

    /// Counts bytes of objects that this actor's guests read or wrote.
    pub fn object_bytes(&self, way: ObjectBytes, bytes: usize) {
        self.object_bytes[way as usize].add(bytes as u64);
    }

    /// Counts messages that this actor subscribed to.
    pub fn messages(&self, messages: u64, outcome: MessageOutcome) {
        self.messages[outcome as usize].add(messages);
    }

    /// Counts changes of keys that this actor watches.
    pub fn changes(&self, changes: u64, outcome: MessageOutcome) {
        self.changes[outcome as usize].add(changes);
    }

    /// Counts a call that this actor made of another, by the way it went and its outcome.
    pub fn call(&self, path: CallPath, outcome: Outcome) {
        self.calls[path as usize][outcome as usize].add(1);
    }

    /// Records an operation that this actor asked of a capability. `duration` is what its guest waited.
    pub fn operation(&self, operation: Operation, outcome: OperationOutcome, duration: Duration) {
        let series = self.measures().operation_duration[operation as usize]
            .get_or_init(|| Box::new([const { Histogram::new(OPERATION_NANOS) }; _]));
        series[outcome as usize].record(nanos(duration));
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

    fn measured<'a>(
        &'a self,
        histogram: impl FnOnce(&'a Measures) -> &'a Histogram,
        attributes: Attributes,
    ) -> Vec<Point> {
        self.own()
            .and_then(|own| histogram(own).value())
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
        // Zeros tell a new actor's series from no actor; of actors that are many, and of the overflow object, only what
        // happened is told.
        let is_one_of_many = self.name.is_none() || self.own().is_none();
        let untold = is_one_of_many && counters.iter().all(|counter| counter.value() == 0);
        let told = values.into_iter().zip(counters).filter(|_| !untold);
        told.map(|(value, count)| self.point(vec![(key, value)], PointValue::Number(count.value())))
            .collect()
    }

    /// Without zeros: most outcomes never happen.
    fn finished_points(&self) -> Vec<Point> {
        let counts = Outcome::ALL
            .into_iter()
            .zip(self.finished.iter().map(Counter::value));
        let happened = counts.filter(|(_, count)| *count > 0);
        happened
            .map(|(outcome, count)| {
                let attributes = vec![(WEFT_OUTCOME, Value::Static(outcome.as_str()))];
                self.point(attributes, PointValue::Number(count))
            })
            .collect()
    }

    /// Without zeros: most actors subscribe to nothing, and watch nothing.
    fn heard_points(&self, counters: &[Counter]) -> Vec<Point> {
        let counts = MessageOutcome::ALL
            .into_iter()
            .zip(counters.iter().map(Counter::value));
        let happened = counts.filter(|(_, count)| *count > 0);
        happened
            .map(|(outcome, count)| {
                let attributes = vec![(WEFT_OUTCOME, Value::Static(outcome.as_str()))];
                self.point(attributes, PointValue::Number(count))
            })
            .collect()
    }

    /// Without zeros: most of the pairs never happen.
    fn call_points(&self) -> Vec<Point> {
        let mut points = vec![];
        for (path, by_outcome) in CallPath::ALL.into_iter().zip(&self.calls) {
            for (outcome, count) in Outcome::ALL.into_iter().zip(by_outcome) {
                let attributes = vec![
                    (WEFT_CALL_PATH, Value::Static(path.as_str())),
                    (WEFT_OUTCOME, Value::Static(outcome.as_str())),
                ];
                match count.value() {
                    0 => {}
                    count => points.push(self.point(attributes, PointValue::Number(count))),
                }
            }
        }
        points
    }

    fn operation_points(&self) -> Vec<Point> {
        let mut points = vec![];
        let by_operation = self.own().map_or(&[][..], |own| &own.operation_duration[..]);
        for (operation, series) in Operation::ALL.into_iter().zip(by_operation) {
            let by_outcome = series.get().map_or(&[][..], |series| &series[..]);
            for (outcome, histogram) in OperationOutcome::ALL.into_iter().zip(by_outcome) {
                let attributes = vec![
                    (WEFT_CAPABILITY, Value::Static(operation.capability())),
                    (WEFT_OPERATION, Value::Static(operation.as_str())),
                    (WEFT_OUTCOME, Value::Static(outcome.as_str())),
                ];
                points.extend(self.measured(|_| histogram, attributes));
            }
        }
        points
    }

    fn duration_points(&self) -> Vec<Point> {
        let of = |outcome: Outcome| {
            let attributes = vec![(WEFT_OUTCOME, Value::Static(outcome.as_str()))];
            self.measured(|own| &own.duration[outcome as usize], attributes)
        };
        Outcome::ALL.into_iter().flat_map(of).collect()
    }

    fn http_points(&self) -> Vec<Point> {
        let mut points = vec![];
        let series = self.own().map(|own| own.request_duration.series());
        for (key, histogram) in series.into_iter().flatten() {
            let attributes = match key {
                Some((method, status)) => vec![
                    (HTTP_REQUEST_METHOD, Value::Static(method)),
                    (HTTP_RESPONSE_STATUS_CODE, Value::Int(i64::from(status))),
                ],
                None if self.name.is_some() => vec![(OTEL_METRIC_OVERFLOW, Value::Bool(true))],
                None => vec![],
            };
            points.extend(self.measured(|_| histogram, attributes));
        }
        points
    }
}

impl Drop for ActorMetrics {
    fn drop(&mut self) {
        if let Some(Some(_)) = self.own.get() {
            self.shared.owners.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl SharedMeasures {
    fn take_place(&self) -> bool {
        let more = |owners: usize| (owners < MEASURED_ACTORS_MAX).then_some(owners + 1);
        self.owners
            .try_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            request_duration: HttpSeries::default(),
            queue_duration: Histogram::new(CALL_NANOS),
            duration: [const { Histogram::new(CALL_NANOS) }; Outcome::ALL.len()],
            cpu_time: Histogram::new(SHORT_NANOS),
            start_duration: Histogram::new(SHORT_NANOS),
            memory_peak: Histogram::new(MEMORY_BYTES),
            operation_duration: Default::default(),
        }
    }
}

/// All that `actors` recorded until now.
pub(super) fn families(actors: &[Arc<ActorMetrics>]) -> Vec<Family> {
    let family = |description, points: &dyn Fn(&ActorMetrics) -> Vec<Point>| Family {
        description,
        points: actors.iter().flat_map(|actor| points(actor)).collect(),
    };
    vec![
        family(&REQUEST_DURATION, &ActorMetrics::http_points),
        family(&QUEUE_DURATION, &|actor| {
            actor.measured(|own| &own.queue_duration, vec![])
        }),
        family(&DURATION, &ActorMetrics::duration_points),
        family(&FINISHED, &ActorMetrics::finished_points),
        family(&CPU_TIME, &|actor| actor.measured(|own| &own.cpu_time, vec![])),
        family(&CALLS, &ActorMetrics::call_points),
        family(&MESSAGES, &|actor| actor.heard_points(&actor.messages)),
        family(&CHANGES, &|actor| actor.heard_points(&actor.changes)),
        family(&OPERATION_DURATION, &ActorMetrics::operation_points),
        family(&START_DURATION, &|actor| {
            actor.measured(|own| &own.start_duration, vec![])
        }),
        family(&MEMORY_PEAK, &|actor| {
            actor.measured(|own| &own.memory_peak, vec![])
        }),
        family(&SHED, &|actor| {
            let reasons = ShedReason::ALL.map(|reason| Value::Static(reason.as_str()));
            actor.counted(WEFT_REASON, reasons, &actor.shed)
        }),
        family(&REUSED, &|actor| match actor.reused.value() {
            0 => vec![],
            reused => vec![actor.point(vec![], PointValue::Number(reused))],
        }),
        family(&CAPABILITY_IO, &|actor| {
            let moved = ObjectBytes::ALL.into_iter().zip(&actor.object_bytes);
            let moved = moved.filter(|(_, bytes)| bytes.value() > 0);
            let point = |(way, bytes): (ObjectBytes, &Counter)| {
                let operation = way.operation();
                let attributes = vec![
                    (WEFT_CAPABILITY, Value::Static(operation.capability())),
                    (WEFT_OPERATION, Value::Static(operation.as_str())),
                ];
                actor.point(attributes, PointValue::Number(bytes.value()))
            };
            moved.map(point).collect()
        }),
        family(&GUEST_LOG_LINES, &|actor| {
            actor.counted(WEFT_LOG_DROPPED, [false, true].map(Value::Bool), &actor.log_lines)
        }),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::HostMetrics;
    use super::super::http_series::HTTP_SERIES_PER_ACTOR_MAX;
    use super::super::snapshot::prometheus_text;
    use super::*;

    fn alone(name: &str) -> ActorMetrics {
        ActorMetrics::new(Some(name), Arc::default())
    }

    /// One that had an instance.
    pub(in crate::metrics) fn invocation(outcome: Outcome) -> InvocationRecord {
        InvocationRecord {
            outcome,
            queue: Duration::from_micros(3),
            start: Some(Duration::from_micros(20)),
            cpu: Duration::from_micros(40),
            total: Duration::from_micros(100),
            peak_memory: Some(1 << 20),
        }
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
        let actor = alone("default/hello/hello");
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
        let actor = alone("default/hello/hello");
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
    fn what_never_had_an_instance_records_none() {
        let actor = alone("default/hello/hello");
        actor.record(&InvocationRecord {
            start: None,
            peak_memory: None,
            ..invocation(Outcome::Overloaded)
        });
        let own = actor.own().unwrap();
        assert_eq!(own.queue_duration.value().unwrap().count(), 1);
        assert_eq!(
            own.duration[Outcome::Overloaded as usize]
                .value()
                .unwrap()
                .count(),
            1
        );
        for histogram in [&own.start_duration, &own.cpu_time, &own.memory_peak] {
            assert_eq!(histogram.value(), None);
        }
    }

    /// 4,096 actors that were called once were 50 MB of text, which took seconds to make.
    #[test]
    fn actors_beyond_the_bound_are_counted_under_their_names_and_measured_together() {
        let metrics = HostMetrics::default();
        let name = |n| format!("default/many/{n}");
        let mut actors: Vec<_> = (0..=MEASURED_ACTORS_MAX)
            .map(|n| metrics.actor(&name(n)))
            .collect();
        for actor in &actors {
            actor.record(&invocation(Outcome::Ok));
            actor.record_http(&http::Method::GET, 200, Duration::ZERO);
        }
        let counts = |actor: &str| {
            format!("weft_invocation_count_total{{weft_outcome=\"ok\",weft_actor=\"{actor}\"}} 1\n")
        };
        let measures = |of: &str| format!("weft_invocation_cpu_time_seconds_count{{{of}}} 1\n");
        let text = prometheus_text(&metrics.snapshot(), &[]);
        let (last, beyond) = (name(MEASURED_ACTORS_MAX - 1), name(MEASURED_ACTORS_MAX));
        assert!(text.contains(&counts(&last)) && text.contains(&counts(&beyond)));
        assert!(text.contains(&measures(&format!("weft_actor=\"{last}\""))));
        assert!(
            text.contains(&measures("otel_metric_overflow=\"true\"")),
            "{text}"
        );
        assert_eq!(
            text.lines()
                .filter(|line| line.contains(&format!("\"{beyond}\"")))
                .count(),
            1
        );

        // One that goes leaves its place to the next that is called for the first time.
        actors.remove(0);
        let next = metrics.actor(&name(MEASURED_ACTORS_MAX + 1));
        next.record(&invocation(Outcome::Ok));
        assert!(next.own().is_some());
    }

    #[test]
    fn calls_are_told_by_the_way_they_went_and_none_that_did_not_happen() {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/shop/storefront");
        assert!(actor.call_points().is_empty());
        actor.call(CallPath::Local, Outcome::Ok);
        actor.call(CallPath::Local, Outcome::Ok);
        actor.call(CallPath::Local, Outcome::Denied);
        let text = prometheus_text(&metrics.snapshot(), &[]);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("weft_call_count_total{"))
            .collect();
        assert_eq!(
            lines,
            [
                "weft_call_count_total{weft_call_path=\"local\",weft_outcome=\"ok\",\
                 weft_actor=\"default/shop/storefront\"} 2",
                "weft_call_count_total{weft_call_path=\"local\",weft_outcome=\"denied\",\
                 weft_actor=\"default/shop/storefront\"} 1",
            ]
        );
    }

    #[test]
    fn an_operation_is_told_by_its_capability_its_name_and_its_outcome() {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/shop/catalog");
        assert!(actor.operation_points().is_empty());
        actor.operation(
            Operation::KeyValueGet,
            OperationOutcome::Ok,
            Duration::from_micros(3),
        );
        actor.operation(
            Operation::SqlCommit,
            OperationOutcome::Error,
            Duration::from_secs(1),
        );
        let text = prometheus_text(&metrics.snapshot(), &[]);
        for line in [
            "weft_capability_operation_duration_seconds_bucket{weft_capability=\"key-value\",\
             weft_operation=\"get\",weft_outcome=\"ok\",weft_actor=\"default/shop/catalog\",\
             le=\"0.000005\"} 1\n",
            "weft_capability_operation_duration_seconds_sum{weft_capability=\"sql\",\
             weft_operation=\"commit\",weft_outcome=\"error\",weft_actor=\"default/shop/catalog\"} 1\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert_eq!(actor.operation_points().len(), 2);
    }

    #[test]
    fn an_actor_pays_for_the_operations_that_it_uses() {
        let actor = alone("default/shop/pricing");
        let held = || {
            let own = actor.own().unwrap();
            own.operation_duration
                .iter()
                .filter(|series| series.get().is_some())
                .count()
        };
        actor.record(&invocation(Outcome::Ok));
        assert_eq!(held(), 0);
        actor.operation(Operation::HttpRequest, OperationOutcome::Ok, Duration::ZERO);
        assert_eq!(held(), 1);
    }
}
