//! Actors: components deployed under a name.
//!
//! Owns what a host keeps of each actor it serves. It must not know routes: [`crate::ingress::routes`] points here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use weft_compose::{ActorName, Limits};
use weft_observability::ActorMetrics;

use crate::admission::{Admission, RootPlaces};
use crate::component::lazy::LazyComponent;

/// Failed invocations of one actor that are logged a second; all of them are counted.
const FAILURES_LOGGED_PER_S: u64 = 10;

/// What every invocation of an actor refers to.
pub struct ActorInfo {
    /// Its name.
    pub name: ActorName,
    /// What it may use.
    pub limits: Limits,
    /// Where its numbers go.
    pub metrics: Arc<ActorMetrics>,
    failure_log: LogRate,
}

impl ActorInfo {
    /// An actor's identity, limits and metrics.
    pub fn new(name: ActorName, limits: Limits, metrics: Arc<ActorMetrics>) -> Arc<Self> {
        Arc::new(Self {
            name,
            limits,
            metrics,
            failure_log: LogRate::default(),
        })
    }

    /// Whether one more failure may be logged now: a caller who makes an actor fail must not fill the log.
    pub fn may_log_failure(&self) -> bool {
        self.failure_log.take(FAILURES_LOGGED_PER_S)
    }
}

/// A revision of an actor that this host can run.
pub struct Actor {
    /// Its identity.
    pub info: Arc<ActorInfo>,
    /// Which revision of its record it is.
    pub revision: u64,
    /// What it runs, once it is called.
    pub component: Arc<LazyComponent>,
    /// Its places and queue.
    pub admission: Arc<Admission>,
}

impl Actor {
    /// Makes an actor of a component.
    pub fn new(info: Arc<ActorInfo>, revision: u64, component: Arc<LazyComponent>, root: RootPlaces) -> Self {
        let admission = Admission::new(&info.limits, root);
        Self {
            info,
            revision,
            component,
            admission,
        }
    }
}

/// Counts events within the running second.
#[derive(Default)]
struct LogRate {
    /// Seconds since the process started in the upper half, the count in the lower.
    window: AtomicU64,
}

impl LogRate {
    fn take(&self, per_s: u64) -> bool {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let second = START.elapsed().as_secs() << 32;
        let taken = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
                let count = if window & !0xffff_ffff == second {
                    window & 0xffff_ffff
                } else {
                    0
                };
                (count < per_s).then_some(second | (count + 1))
            });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_logged_at_a_bounded_rate() {
        let rate = LogRate::default();
        let logged = (0..1_000).filter(|_| rate.take(10)).count();
        // A second may turn over in between.
        assert!((10..=20).contains(&logged), "{logged}");
    }
}
