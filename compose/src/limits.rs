//! What one actor may use.
//!
//! Owns the numbers and their defaults. It must not know how they are enforced: `weft-host` does that.

use std::time::Duration;

/// Bounds on one actor, and on each of its invocations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Invocations that run at once on one host. The next one waits.
    pub concurrency: u32,
    /// Invocations that wait on one host. The next one is shed.
    pub queue_len: u32,
    /// How long an invocation may wait for its turn before it is shed.
    pub queue_wait: Duration,
    /// From a call's arrival to its answer; for HTTP, to the response's head.
    pub timeout: Duration,
    /// How long a streamed response may go on after its head.
    pub stream_timeout: Duration,
    /// Processor time of one invocation, over all of its polls.
    pub cpu_time: Duration,
    /// Linear memory of one invocation in bytes, summed over all memories of its store.
    pub memory_bytes: u64,
    /// Bytes of one request's body.
    pub request_body_bytes: u64,
    /// Bytes of log lines of one invocation. What is over is dropped, and one line says so.
    pub log_bytes: u64,
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
        }
    }
}
