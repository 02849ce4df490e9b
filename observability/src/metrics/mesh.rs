//! What a host tells of its part in a lattice.
//!
//! Owns the step from the numbers that the mesh counts for itself to metrics. All are asked at each collection.

use std::time::Duration;

use super::description::{counter, gauge};
use super::snapshot::{Description, Family, Kind, Point, PointValue, Unit, Value};
use crate::attributes::*;

/// The numbers of one connection to NATS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionReport {
    /// What it is for: `control`, `calls` or `bulk`.
    pub name: &'static str,
    /// Whether it is there.
    pub connected: bool,
    /// Times that it was lost.
    pub lost: u64,
    /// Messages that were refused as it was not there, or could not be sent in time.
    pub refused: u64,
    /// Times that messages were dropped as they came faster than they were read.
    pub slow: u64,
    /// Things that the server refused, as rights that are missing.
    pub denied: u64,
    /// Replies that nobody waits for any more, and requests that can't be answered.
    pub strays: u64,
    /// How long a message took to the server and back, last; none before it was looked at.
    pub round_trip: Option<Duration>,
    /// Messages that were sent with several calls or answers in them.
    pub batches: u64,
    /// Calls and answers in them.
    pub batched: u64,
}

/// The numbers of a host's part in a lattice. Counts are since it joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshReport {
    /// Of each connection.
    pub connections: Vec<ConnectionReport>,
    /// Hosts by how they stand: `alive`, `suspect`, `leaving`.
    pub members: [(&'static str, u64); 3],
    /// Whether this host hears neither itself nor a digest, and so judges nobody.
    pub blind: bool,
    /// Calls that this host made of others.
    pub calls: u64,
    /// Calls that it tried again, at another host or with an echo.
    pub retries: u64,
    /// Hosts that it passed over, as they did not answer.
    pub ejections: u64,
    /// Calls that others made of this host, by what became of them: `started`, `repeated`, `late`, `shed`, `cancelled`,
    /// `malformed`, `draining`.
    pub served: [(&'static str, u64); 7],
    /// Calls of others that run.
    pub running: u64,
    /// Streams that are open.
    pub streams: u64,
    /// Bytes that came over streams.
    pub stream_bytes: u64,
    /// Streams that were reset.
    pub stream_resets: u64,
    /// Components that came from other hosts, by `ok` and `failed`.
    pub fetched: [(&'static str, u64); 2],
    /// Bytes of components that were sent to others.
    pub artifact_bytes: u64,
    /// Components that are deployed and that no second host has; on the controller.
    pub single_copies: u64,
    /// Calls of clients that see no hosts, by `ok` and `failed`.
    pub fronts: [(&'static str, u64); 2],
    /// Requests of tools that are fenced to a namespace, by `ok` and `failed`.
    pub tools: [(&'static str, u64); 2],
    /// Answers to them of which a rest is kept until it is asked for.
    pub answers_kept: u64,
}

static CONNECTED: Description = gauge(
    WEFT_LATTICE_CONNECTED,
    Unit::Count("{connection}"),
    "Connections to NATS that are there.",
);
static LOST: Description = counter(
    WEFT_LATTICE_DISCONNECTS,
    "{connection}",
    "Times that a connection to NATS was lost.",
);
static REFUSED: Description = counter(
    WEFT_LATTICE_REFUSED,
    "{message}",
    "Messages that were refused as there was no connection.",
);
static SLOW: Description = counter(
    WEFT_LATTICE_SLOW_CONSUMERS,
    "{event}",
    "Times that messages came faster than they were read.",
);
static DENIED: Description = counter(
    WEFT_LATTICE_DENIED,
    "{refusal}",
    "Things that the server refused, as rights that are missing.",
);
static STRAYS: Description = counter(
    WEFT_LATTICE_STRAYS,
    "{message}",
    "Replies that nobody waited for any more, and requests that can't be answered.",
);
static ROUND_TRIP: Description = gauge(
    WEFT_LATTICE_ROUND_TRIP,
    Unit::SecondsOfNanos,
    "How long a message took to the server and back.",
);
static BATCHES: Description = counter(
    WEFT_LATTICE_BATCHES,
    "{message}",
    "Messages with several calls or answers that were sent.",
);
static BATCHED: Description = counter(
    WEFT_LATTICE_BATCHED,
    "{message}",
    "Calls and answers that were sent together with others.",
);
static MEMBERS: Description = gauge(
    WEFT_LATTICE_HOSTS,
    Unit::Count("{host}"),
    "Hosts of the lattice as this one sees them.",
);
static BLIND: Description = gauge(
    WEFT_LATTICE_BLIND,
    Unit::Count("{host}"),
    "Whether this host hears neither itself nor a digest.",
);
static CALLS: Description = counter(WEFT_RPC_CALLS, "{call}", "Calls of other hosts.");
static RETRIES: Description = counter(
    WEFT_RPC_RETRIES,
    "{call}",
    "Calls of other hosts that were tried again.",
);
static EJECTIONS: Description = counter(
    WEFT_RPC_EJECTIONS,
    "{host}",
    "Times that a host was passed over as it did not answer.",
);
static SERVED: Description = counter(WEFT_RPC_SERVED, "{call}", "Calls that other hosts made.");
static RUNNING: Description = gauge(
    WEFT_RPC_RUNNING,
    Unit::Count("{call}"),
    "Calls of other hosts that run.",
);
static STREAMS: Description = gauge(
    WEFT_STREAM_OPEN,
    Unit::Count("{stream}"),
    "Streams that are open.",
);
static STREAM_BYTES: Description = Description {
    name: WEFT_STREAM_RECEIVED,
    kind: Kind::Counter,
    unit: Unit::Bytes,
    help: "Bytes that came over streams.",
};
static STREAM_RESETS: Description = counter(WEFT_STREAM_RESETS, "{stream}", "Streams that were broken off.");
static FETCHED: Description = counter(
    WEFT_ARTIFACT_FETCHES,
    "{artifact}",
    "Components that were fetched from other hosts.",
);
static ARTIFACT_BYTES: Description = Description {
    name: WEFT_ARTIFACT_SENT,
    kind: Kind::Counter,
    unit: Unit::Bytes,
    help: "Bytes of components that were sent to other hosts.",
};
static SINGLE_COPIES: Description = gauge(
    WEFT_ARTIFACT_SINGLE,
    Unit::Count("{artifact}"),
    "Components that are deployed and that no second host has.",
);
static FRONTS: Description = counter(
    WEFT_FRONT_CALLS,
    "{call}",
    "Calls of clients that see no hosts, which this host took.",
);
static TOOLS: Description = counter(
    WEFT_FRONT_REQUESTS,
    "{request}",
    "Requests of tools that are fenced to a namespace, which this host took.",
);
static ANSWERS_KEPT: Description = gauge(
    WEFT_FRONT_ANSWERS_KEPT,
    Unit::Count("{answer}"),
    "Answers to tools of which a rest is kept until it is asked for.",
);

impl MeshReport {
    /// As metrics; `point` adds the rest.
    pub(super) fn families(
        &self,
        point: impl Fn(Vec<(&'static str, Value)>, PointValue) -> Point,
    ) -> Vec<Family> {
        let number = |attributes, value| point(attributes, PointValue::Number(value));
        let plain = |value| vec![number(vec![], value)];
        let by = |key, values: &[(&'static str, u64)]| {
            let points = values
                .iter()
                .map(|(name, value)| number(vec![(key, Value::Static(name))], *value));
            points.collect::<Vec<_>>()
        };
        let each = |value: fn(&ConnectionReport) -> u64| {
            let values = self.connections.iter().map(|one| (one.name, value(one)));
            by(WEFT_LATTICE_CONNECTION, &values.collect::<Vec<_>>())
        };
        let round_trips: Vec<_> = self
            .connections
            .iter()
            .filter_map(|one| {
                let nanos = u64::try_from(one.round_trip?.as_nanos()).unwrap_or(u64::MAX);
                Some((one.name, nanos))
            })
            .collect();
        let families = [
            (&CONNECTED, each(|one| u64::from(one.connected))),
            (&LOST, each(|one| one.lost)),
            (&REFUSED, each(|one| one.refused)),
            (&SLOW, each(|one| one.slow)),
            (&DENIED, each(|one| one.denied)),
            (&STRAYS, each(|one| one.strays)),
            (&ROUND_TRIP, by(WEFT_LATTICE_CONNECTION, &round_trips)),
            (&BATCHES, each(|one| one.batches)),
            (&BATCHED, each(|one| one.batched)),
            (&MEMBERS, by(WEFT_HOST_STANDING, &self.members)),
            (&BLIND, plain(u64::from(self.blind))),
            (&CALLS, plain(self.calls)),
            (&RETRIES, plain(self.retries)),
            (&EJECTIONS, plain(self.ejections)),
            (&SERVED, by(WEFT_OUTCOME, &self.served)),
            (&RUNNING, plain(self.running)),
            (&STREAMS, plain(self.streams)),
            (&STREAM_BYTES, plain(self.stream_bytes)),
            (&STREAM_RESETS, plain(self.stream_resets)),
            (&FETCHED, by(WEFT_OUTCOME, &self.fetched)),
            (&ARTIFACT_BYTES, plain(self.artifact_bytes)),
            (&SINGLE_COPIES, plain(self.single_copies)),
            (&FRONTS, by(WEFT_OUTCOME, &self.fronts)),
            (&TOOLS, by(WEFT_OUTCOME, &self.tools)),
            (&ANSWERS_KEPT, plain(self.answers_kept)),
        ];
        families
            .into_iter()
            .map(|(description, points)| Family { description, points })
            .collect()
    }
}
