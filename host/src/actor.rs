//! Actors: components deployed under a name.
//!
//! Owns what a host keeps of each actor it serves. It must not know routes: [`crate::ingress::routes`] points here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Semaphore;
use weft_compose::{ActorName, Limits};
use weft_observability::ActorMetrics;

use crate::admission::{Admission, Places};
use crate::component::lazy::LazyComponent;
use crate::instance::{Kept, KeptPlaces};

/// Failed invocations of one actor that are logged a second; all of them are counted.
const FAILURES_LOGGED_PER_S: u64 = 10;
/// How many invocations of one actor may write all that one may (`logBytes`) in the same second. At the default that is
/// a megabyte a second, thousands of lines; who needs more raises the limit.
const LOUD_INVOCATIONS_PER_S: u64 = 4;
/// Outgoing requests of one actor that are on their way: half of the connections that the host's client has for all.
const OUTGOING_REQUESTS_MAX: usize = 512;
/// How many short calls make up for one that computed for long: an actor of which fewer are long is served on its
/// connections' threads, but for the few calls after each of those.
const LONG_CALL_SCORE: u8 = 8;
/// After so many short calls at the latest an actor is tried there again.
const LONG_SCORE_MAX: u8 = 64;

/// What every invocation of an actor refers to.
pub struct ActorInfo {
    /// Its name.
    pub name: ActorName,
    /// The same, as providers on other hosts are told it.
    pub caller: Arc<str>,
    /// What it may use.
    pub limits: Limits,
    /// Where its numbers go.
    pub metrics: Arc<ActorMetrics>,
    /// Whether its next call is likely to compute for long.
    pub computes_long: ComputesLong,
    /// Places for its outgoing requests; a request that finds none is refused.
    pub outgoing: Arc<Semaphore>,
    failure_log: Rate,
    guest_log: Rate,
    guest_log_cut: Rate,
}

impl ActorInfo {
    /// An actor's identity, limits and metrics.
    pub fn new(name: ActorName, limits: Limits, metrics: Arc<ActorMetrics>) -> Arc<Self> {
        Arc::new(Self {
            caller: name.as_str().into(),
            name,
            limits,
            metrics,
            computes_long: ComputesLong::default(),
            outgoing: Arc::new(Semaphore::new(OUTGOING_REQUESTS_MAX)),
            failure_log: Rate::default(),
            guest_log: Rate::default(),
            guest_log_cut: Rate::default(),
        })
    }

    /// Whether one more failure may be logged now: a caller who makes an actor fail must not fill the log.
    pub fn may_log_failure(&self) -> bool {
        self.failure_log.take(1, FAILURES_LOGGED_PER_S)
    }

    /// Bytes of guests' lines that are logged a second, over all invocations.
    pub fn log_bytes_per_s(&self) -> u64 {
        self.limits.log_bytes.saturating_mul(LOUD_INVOCATIONS_PER_S)
    }

    /// Whether a guest's line of `len` bytes may be logged now: many callers must not fill the log with what one
    /// invocation may write.
    pub fn may_log(&self, len: u64) -> bool {
        self.guest_log.take(len, self.log_bytes_per_s())
    }

    /// Whether it is to be said now that lines were dropped for the rate: once a second.
    pub fn may_tell_log_cut(&self) -> bool {
        self.guest_log_cut.take(1, 1)
    }
}

/// Whether an actor's calls compute for longer than a tick of late. It is a guess, and a wrong one costs little.
#[derive(Default)]
pub struct ComputesLong(AtomicU8);

impl ComputesLong {
    /// Whether the next call is likely to.
    pub fn is_likely(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Takes note of a call: whether it computed for long. Two that write at once may lose one, which only moves the
    /// guess.
    pub fn tell(&self, long: bool) {
        let score = self.0.load(Ordering::Relaxed);
        let score = if long {
            (score + LONG_CALL_SCORE).min(LONG_SCORE_MAX)
        } else {
            score.saturating_sub(1)
        };
        self.0.store(score, Ordering::Relaxed);
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
    /// Its instances that wait for their next invocation, if they may serve more than one.
    pub kept: Option<Kept>,
}

impl Actor {
    /// Makes an actor of a component.
    pub fn new(
        info: Arc<ActorInfo>,
        revision: u64,
        component: Arc<LazyComponent>,
        places: Places,
        kept: KeptPlaces,
    ) -> Self {
        let admission = Admission::new(&info.limits, &info.name.app_name(), places);
        Self {
            kept: Kept::new(&info.limits, kept),
            info,
            revision,
            component,
            admission,
        }
    }
}

/// Counts events, or bytes, within the running second.
#[derive(Default)]
struct Rate {
    /// Seconds since the process started in the upper half, the count in the lower.
    window: AtomicU64,
}

impl Rate {
    /// Counts `cost`, if that leaves the second's sum within `per_s`, which 32 bits hold.
    fn take(&self, cost: u64, per_s: u64) -> bool {
        const COUNT: u64 = 0xffff_ffff;
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let second = START.elapsed().as_secs() << 32;
        let taken = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
                let count = if window & !COUNT == second {
                    window & COUNT
                } else {
                    0
                };
                (cost <= per_s.min(COUNT).saturating_sub(count)).then_some(second | (count + cost))
            });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_logged_at_a_bounded_rate() {
        let rate = Rate::default();
        let logged = (0..1_000).filter(|_| rate.take(1, 10)).count();
        // A second may turn over in between.
        assert!((10..=20).contains(&logged), "{logged}");
    }

    #[test]
    fn what_is_over_a_rate_leaves_the_rest_to_what_fits() {
        // At the turn of a second the first take may be of the one before.
        let takes = || {
            let rate = Rate::default();
            [60, 60, 40, 1].map(|len| rate.take(len, 100))
        };
        assert!((0..3).any(|_| takes() == [true, false, true, false]));
        assert!(!Rate::default().take(1, 0));
        assert!(!Rate::default().take(u64::MAX, u64::MAX), "the count ran over");
    }

    #[test]
    fn an_actor_is_tried_again_once_its_calls_are_short() {
        let guess = ComputesLong::default();
        assert!(!guess.is_likely());
        (0..1_000).for_each(|_| guess.tell(true));
        for _ in 0..LONG_SCORE_MAX {
            assert!(guess.is_likely());
            guess.tell(false);
        }
        assert!(!guess.is_likely());
        guess.tell(false);
        assert!(!guess.is_likely());
    }
}
