//! What one actor may use.
//!
//! Owns the numbers, their defaults and the ranges a manifest may choose from. It must not know how they are
//! enforced: `weft-host` does that.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds on one actor, and on each of its invocations.
///
/// Stored as JSON with the unit in each name (`timeout_ms`, `memory_bytes`); what is missing has its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Invocations that run at once on one host. The next one waits.
    pub concurrency: u32,
    /// Invocations that wait on one host. The next one is shed.
    pub queue_len: u32,
    /// How long an invocation may wait for its turn before it is shed.
    #[serde(rename = "queue_wait_ms", with = "as_ms")]
    pub queue_wait: Duration,
    /// From a call's arrival to its answer; for HTTP, to the response's head.
    #[serde(rename = "timeout_ms", with = "as_ms")]
    pub timeout: Duration,
    /// How long a streamed response may go on after its head.
    #[serde(rename = "stream_timeout_ms", with = "as_ms")]
    pub stream_timeout: Duration,
    /// Processor time of one invocation, over all of its polls.
    #[serde(rename = "cpu_time_ms", with = "as_ms")]
    pub cpu_time: Duration,
    /// Linear memory of one invocation in bytes, summed over all memories of its store.
    pub memory_bytes: u64,
    /// Bytes of one request's body.
    pub request_body_bytes: u64,
    /// Bytes of log lines of one invocation. What is over is dropped, and one line says so.
    pub log_bytes: u64,
    /// Invocations that one instance may serve, one after the other. With 1 each has an instance of its own, and sees
    /// nothing of another.
    #[serde(skip_serializing_if = "is_fresh")]
    pub reuse: u32,
    /// How long an instance without work is kept for the next invocation.
    #[serde(
        rename = "reuse_idle_ms",
        with = "as_ms",
        skip_serializing_if = "is_default_reuse_idle"
    )]
    pub reuse_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // An actor that waits 20 ms on a backend serves 50,000/s at this limit: past it, something hangs.
            concurrency: 1_000,
            // As many again may wait: a burst is taken, and a stall is seen within a second.
            queue_len: 1_000,
            queue_wait: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            // Long enough for a large download over a slow line and for server-sent events that reconnect.
            stream_timeout: Duration::from_secs(3_600),
            // Ten thousand times a plain request; a thumbnail of a large picture takes about one second.
            cpu_time: Duration::from_secs(10),
            // A Python component starts at about 40 MiB; the rest is room for its data.
            memory_bytes: 256 << 20,
            request_body_bytes: 1 << 30,
            log_bytes: 256 << 10,
            reuse: 1,
            reuse_idle: REUSE_IDLE_DEFAULT,
        }
    }
}

/// No more than the largest pool of instances has.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=1_000_000;
/// Of a host's places, of which none has more than the largest pool of instances.
pub const RESERVE: RangeInclusive<u64> = 0..=1_000_000;
/// A waiting call costs some kilobytes: a million are a host's memory.
pub const QUEUE_LEN: RangeInclusive<u64> = 0..=1_000_000;
/// Who waits longer than ten minutes for a turn has gone.
pub const QUEUE_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
/// A day: an invocation is a call and no job.
pub const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3_600);
/// A week, for streams that are followed.
pub const STREAM_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3_600);
/// As the epoch ticks every few milliseconds, less than one says nothing.
pub const CPU_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3_600);
/// From one page of Wasm to four full memories of 32 bits.
pub const MEMORY_BYTES: RangeInclusive<u64> = (64 << 10)..=(16 << 30);
/// Bodies stream, so that one may be larger than any memory.
pub const REQUEST_BODY_BYTES: RangeInclusive<u64> = 0..=(1 << 40);
/// Lines of one invocation are held in memory until they are written.
pub const LOG_BYTES: RangeInclusive<u64> = 0..=(64 << 20);

/// After a million invocations a new instance costs nothing any more, and ends what has leaked.
pub const REUSE: RangeInclusive<u64> = 1..=1_000_000;
/// An instance that waits holds a place of the pool.
pub const REUSE_IDLE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// Bridges the pauses between requests of a page, and gives memory back soon.
const REUSE_IDLE_DEFAULT: Duration = Duration::from_secs(10);

// Records are as they were before there was reuse, unless it is asked for.
fn is_fresh(reuse: &u32) -> bool {
    *reuse == 1
}

fn is_default_reuse_idle(idle: &Duration) -> bool {
    *idle == REUSE_IDLE_DEFAULT
}

/// Durations as whole milliseconds.
mod as_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stored_record_lacks_has_its_default() {
        let limits: Limits = serde_json::from_str(r#"{"timeout_ms": 5, "of_a_later_version": 1}"#).unwrap();
        let expected = Limits {
            timeout: Duration::from_millis(5),
            ..Limits::default()
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn the_defaults_are_within_the_ranges() {
        let limits = Limits::default();
        assert!(
            CONCURRENCY.contains(&limits.concurrency.into()) && QUEUE_LEN.contains(&limits.queue_len.into())
        );
        assert!(QUEUE_WAIT.contains(&limits.queue_wait) && TIMEOUT.contains(&limits.timeout));
        assert!(STREAM_TIMEOUT.contains(&limits.stream_timeout) && CPU_TIME.contains(&limits.cpu_time));
        assert!(MEMORY_BYTES.contains(&limits.memory_bytes) && LOG_BYTES.contains(&limits.log_bytes));
        assert!(REQUEST_BODY_BYTES.contains(&limits.request_body_bytes));
        assert!(REUSE.contains(&limits.reuse.into()) && REUSE_IDLE.contains(&limits.reuse_idle));
    }
}
