//! HTTP, messages and changes of keys in.
//!
//! Owns the listeners, the connections and what of a request is settled before an actor sees it. It must not know
//! how a component runs beyond handing over a [`crate::invocation::Call`]. Read [`listener`] for a connection's life,
//! [`handler`] for a request's, [`invoke`] for the step into the guest, [`listening`],
//! [`messages`] and [`watches`] for what comes without HTTP.

pub mod answer;
pub mod body;
pub mod busy;
pub mod forward;
pub mod forwarded;
pub mod handler;
pub mod invoke;
pub mod io;
pub mod listener;
pub mod listening;
pub mod messages;
pub mod routes;
pub mod streams;
pub mod tls;
pub mod watches;
pub mod workers;

use std::time::Duration;

/// Bounds on what clients may do, over all actors.
#[derive(Debug, Clone)]
pub struct IngressLimits {
    /// Open connections. One more is answered 503 and closed.
    pub connections: u32,
    /// From the first byte to the last of a request's head, and how long an idle connection is kept.
    pub head_timeout: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long a client may leave what it is sent unread.
    pub write_stall: Duration,
    /// Bytes a second that a request's body must bring, after [`body_grace`](Self::body_grace), while it is waited for.
    pub body_rate_min: u64,
    /// How long a body may be slower.
    pub body_grace: Duration,
}

impl Default for IngressLimits {
    fn default() -> Self {
        Self {
            // Well below the usual limit of 20,000 open files, and 10 KiB each.
            connections: 10_000,
            head_timeout: Duration::from_secs(30),
            head_bytes: 64 << 10,
            write_stall: Duration::from_secs(30),
            // As in Kestrel: slower than any modem, faster than a client that means harm.
            body_rate_min: 240,
            body_grace: Duration::from_secs(5),
        }
    }
}
