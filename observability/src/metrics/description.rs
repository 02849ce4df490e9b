//! What each metric is called, counts and means, and the bounds of its buckets.
//!
//! Owns the words at `/metrics`; README.md repeats them for operators. Must not know who records. Names are in
//! [`crate::attributes`].

use super::instrument::Bounds;
use super::snapshot::{Description, Kind, Unit};
use crate::attributes::*;

/// From 50 us, about a local call, to 10 s, the length of a generous deadline.
pub(super) const CALL_NANOS: Bounds = &[
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
pub(super) const SHORT_NANOS: Bounds = &[
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
/// From 1 us, about a look-up in memory, to 10 s, the length of a generous deadline for a remote service.
pub(super) const OPERATION_NANOS: Bounds = &[
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    25_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];
/// Converging is a swap of a table at its least, and compiling components at its most.
pub(super) const RECONCILE_NANOS: Bounds = &[
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    120_000_000_000,
];
/// Compiling takes from some milliseconds to minutes.
pub(super) const COMPILE_NANOS: Bounds = &[
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
pub(super) const MEMORY_BYTES: Bounds = &[
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

pub(super) const fn counter(name: &'static str, things: &'static str, help: &'static str) -> Description {
    Description {
        name,
        kind: Kind::Counter,
        unit: Unit::Count(things),
        help,
    }
}

pub(super) const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Description {
    Description {
        name,
        kind: Kind::Gauge,
        unit,
        help,
    }
}

pub(super) static REQUEST_DURATION: Description =
    histogram(HTTP_SERVER_REQUEST_DURATION, "Duration of HTTP server requests.");
pub(super) static ACTIVE_REQUESTS: Description = Description {
    name: HTTP_SERVER_ACTIVE_REQUESTS,
    kind: Kind::UpDownCounter,
    unit: Unit::Count("{request}"),
    help: "Requests that are being served.",
};
pub(super) static QUEUE_DURATION: Description =
    histogram(WEFT_INVOCATION_QUEUE_DURATION, "Time from arrival to admission.");
pub(super) static DURATION: Description = histogram(
    WEFT_INVOCATION_DURATION,
    "Time from arrival to the end of the invocation.",
);
pub(super) static CPU_TIME: Description =
    histogram(WEFT_INVOCATION_CPU_TIME, "CPU time of the guest per invocation.");
pub(super) static FINISHED: Description =
    counter(WEFT_INVOCATION_COUNT, "{invocation}", "Invocations that ended.");
pub(super) static SHED: Description = counter(
    WEFT_INVOCATION_SHED,
    "{invocation}",
    "Invocations that admission refused.",
);
pub(super) static CALLS: Description = counter(
    WEFT_CALL_COUNT,
    "{call}",
    "Calls that an actor made of other actors.",
);
pub(super) static MESSAGES: Description = counter(
    WEFT_MESSAGE_COUNT,
    "{message}",
    "Messages that an actor subscribed to.",
);
pub(super) static CHANGES: Description = counter(
    WEFT_CHANGE_COUNT,
    "{change}",
    "Changes of keys that an actor watches.",
);
pub(super) static OPERATION_DURATION: Description = histogram(
    WEFT_CAPABILITY_OPERATION_DURATION,
    "Time that an operation of a capability took.",
);
pub(super) static START_DURATION: Description =
    histogram(WEFT_INSTANCE_START_DURATION, "Time to get an instance ready.");
pub(super) static MEMORY_PEAK: Description = Description {
    name: WEFT_INSTANCE_MEMORY_PEAK,
    kind: Kind::Histogram,
    unit: Unit::Bytes,
    help: "The most linear memory that an instance had.",
};
pub(super) static COMPILE_DURATION: Description =
    histogram(WEFT_COMPONENT_COMPILE_DURATION, "Time to compile a component.");
pub(super) static LOAD_DURATION: Description =
    histogram(WEFT_COMPONENT_LOAD_DURATION, "Time to load a compiled component.");
pub(super) static COMPONENTS_LOADED: Description = gauge(
    WEFT_COMPONENT_LOADED,
    Unit::Count("{component}"),
    "Components whose machine code is mapped.",
);
pub(super) static COMPONENT_LOADS: Description =
    counter(WEFT_COMPONENT_LOADS, "{load}", "Loads of components.");
pub(super) static COMPONENT_EVICTIONS: Description = counter(
    WEFT_COMPONENT_EVICTIONS,
    "{eviction}",
    "Components whose machine code was let go.",
);
pub(super) static ARTIFACT_CACHE: Description = counter(
    WEFT_ARTIFACT_CACHE,
    "{lookup}",
    "Look-ups of compiled components.",
);
pub(super) static ARTIFACTS_KEPT: Description = gauge(
    WEFT_ARTIFACT_KEPT,
    Unit::Count("{artifact}"),
    "Components on disk.",
);
pub(super) static ARTIFACT_SIZE: Description = gauge(
    WEFT_ARTIFACT_SIZE,
    Unit::Bytes,
    "Bytes of the components on disk.",
);
pub(super) static ARTIFACTS_DROPPED: Description = counter(
    WEFT_ARTIFACT_DROPPED,
    "{artifact}",
    "Components dropped from disk, as nothing deploys them.",
);
pub(super) static POOL_SLOTS: Description = gauge(
    WEFT_POOL_SLOTS,
    Unit::Count("{slot}"),
    "Slots of the instance pool.",
);
pub(super) static REUSED: Description = counter(
    WEFT_INSTANCE_REUSED,
    "{invocation}",
    "Invocations served by an instance that had served before.",
);
pub(super) static CAPABILITY_IO: Description = Description {
    name: WEFT_CAPABILITY_IO,
    kind: Kind::Counter,
    unit: Unit::Bytes,
    help: "Bytes that guests read from objects and wrote to them.",
};
pub(super) static MEMORIES_WARM: Description = gauge(
    WEFT_POOL_MEMORIES_WARM,
    Unit::Count("{memory}"),
    "Memories kept resident for the next instance.",
);
pub(super) static MEMORIES_WARM_SIZE: Description = gauge(
    WEFT_POOL_MEMORIES_WARM_SIZE,
    Unit::Bytes,
    "Bytes that the memories kept for the next instance hold.",
);
pub(super) static APP_PLACES: Description = gauge(
    WEFT_APP_PLACES,
    Unit::Count("{place}"),
    "Places of the pool that an app has reserved, and that it uses.",
);
pub(super) static TASKS: Description = gauge(WEFT_TASK_COUNT, Unit::Count("{task}"), "Tasks that are alive.");
pub(super) static CONNECTIONS: Description = gauge(
    WEFT_HTTP_CONNECTIONS,
    Unit::Count("{connection}"),
    "Open connections of the front door.",
);
pub(super) static CONNECTIONS_REFUSED: Description = counter(
    WEFT_HTTP_CONNECTIONS_REFUSED,
    "{connection}",
    "Connections closed at once because there are too many.",
);
pub(super) static PANICS: Description =
    counter(WEFT_PANICS, "{panic}", "Panics of this host's threads and tasks.");

pub(super) static REQUESTS_REJECTED: Description = counter(
    WEFT_HTTP_REQUESTS_REJECTED,
    "{request}",
    "Requests answered without asking a guest.",
);
pub(super) static CERTIFICATE_EXPIRY: Description = gauge(
    WEFT_TLS_CERTIFICATE_EXPIRY,
    Unit::Seconds,
    "When the certificate of a name expires, in seconds since 1970.",
);
pub(super) static TLS_RELOAD: Description = counter(WEFT_TLS_RELOAD, "{reload}", "Reloads of certificates.");
pub(super) static GUEST_LOG_LINES: Description =
    counter(WEFT_GUEST_LOG_LINES, "{line}", "Lines that guests logged.");
pub(super) static RECONCILE_DURATION: Description =
    histogram(WEFT_RECONCILE_DURATION, "Time to converge on the desired state.");
pub(super) static COMMIT_DURATION: Description = histogram(
    WEFT_CONTROL_COMMIT_DURATION,
    "Time to commit a transaction of the control store.",
);
pub(super) static CONTROL_INDEX: Description = gauge(
    WEFT_CONTROL_INDEX,
    Unit::Count("{transaction}"),
    "The last transaction of the control store that this host knows, and the last that it applied.",
);
pub(super) static ACTORS: Description = gauge(
    WEFT_ACTOR_COUNT,
    Unit::Count("{actor}"),
    "Actors that this host serves.",
);
pub(super) static PROVIDERS: Description = gauge(
    WEFT_PROVIDER_COUNT,
    Unit::Count("{provider}"),
    "Providers that this host runs.",
);
pub(super) static LINKS: Description = gauge(
    WEFT_LINK_COUNT,
    Unit::Count("{link}"),
    "Links that this host applied.",
);
pub(super) static SECRETS: Description = gauge(
    WEFT_SECRET_COUNT,
    Unit::Count("{secret}"),
    "Sealed secrets of the lattice.",
);
pub(super) static CONDITIONS: Description = gauge(
    WEFT_CONDITION_COUNT,
    Unit::Count("{condition}"),
    "What this host could not bring about.",
);
