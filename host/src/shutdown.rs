//! The end of the process, in stages.
//!
//! Owns the tokens that each stage cancels and the trackers that every task of the host is spawned on. The order is in
//! [`crate::host::Host::drain`].

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the parts of a host wait on; cheap handles.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// Tasks that a drain waits for: connections and guests.
    pub tasks: TaskTracker,
    /// Tasks that outlast a drain, so that it can be watched: the monitor and the admin API.
    pub servers: TaskTracker,
    /// First: take nothing new, end what is idle, let the rest finish.
    pub drain: CancellationToken,
    /// Second, if the time to drain is over: end what has not finished.
    pub abort: CancellationToken,
    /// Last: end the servers.
    pub end: CancellationToken,
}

/// SIGTERM and SIGINT (Ctrl-C).
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over both signals. To be called before anything that must not be lost to the default action.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of them, by name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
