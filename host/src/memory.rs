//! Memory that a peak has left behind, given back.
//!
//! Owns when that happens: the allocator's free pages are given back by each thread that has some, and the pool's by
//! letting go components whose unused slots hold more than is worth keeping. It must not know what runs.
//!
//! Neither happens by itself: mimalloc gives back what a thread has freed when that thread allocates again, and wasmtime
//! 48 keeps the pages of every slot that was ever used until the component that used it last is dropped.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::Components;
use crate::component::LoadedComponent;
use crate::engine::WARM_SLOTS_MAX;
use crate::ingress::workers::Workers;

/// How often it is looked at how many instances live.
const SAMPLE: Duration = Duration::from_secs(1);
/// How many looks make a round: free memory is given back each five seconds. A round costs a thread some microseconds,
/// and what it gives back and is needed again a page fault for each 4 KiB.
const ROUND: usize = 5;
/// Bytes that the memories of unused slots may keep at rest; beyond it components are let go. As much as the slots that
/// are to stay warm hold if each is of a plain actor, which dirties some 70 KiB.
const UNUSED_BYTES_MAX: u64 = WARM_SLOTS_MAX as u64 * (70 << 10);

/// The round that it is.
static NOW: AtomicU32 = AtomicU32::new(0);

/// To be called by a runtime's threads before they wait for work: gives back what the thread has freed, once a round.
pub fn on_thread_park() {
    thread_local!(static DONE: Cell<u32> = const { Cell::new(0) });
    let now = NOW.load(Ordering::Relaxed);
    if DONE.replace(now) != now {
        // SAFETY: it may be called at any time, from any thread, and touches what is free only.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}

/// What gives memory back.
pub struct Upkeep {
    /// Whose unused slots are given back.
    pub components: Arc<Components>,
    /// Threads that serve connections.
    pub workers: Arc<Workers>,
    /// Threads that compute.
    pub busy: Handle,
}

impl Upkeep {
    /// Gives memory back round by round, until `stop`. `tasks` owns what wakes the threads.
    pub async fn run(self, tasks: TaskTracker, stop: CancellationToken) {
        let mut every = tokio::time::interval(SAMPLE);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut recent = Recent::default();
        let mut let_go = Vec::new();
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            // A second later most instances of them have ended. With the last of one its unused slots are unmapped one
            // by one, a microsecond or two each, which no thread that serves is to wait for.
            if !let_go.is_empty() {
                let let_go: Vec<Arc<LoadedComponent>> = std::mem::take(&mut let_go);
                tasks.spawn_blocking(move || drop(let_go));
            }
            let pool = self.components.engine().wasmtime().pooling_allocator_metrics();
            let live = pool.as_ref().map_or(0, |pool| pool.component_instances());
            if !recent.round_is_over(live) {
                continue;
            }
            let unused = pool.map_or_else(Unused::default, |pool| Unused {
                slots: u64::from(pool.unused_warm_memories()),
                bytes: pool.unused_memory_bytes_resident() as u64,
            });
            if recent.are_too_many(unused) {
                let_go = self.components.release();
                tracing::debug!(
                    components = let_go.len(),
                    ?unused,
                    "let components go, as their unused slots held memory"
                );
            }
            self.wake(&tasks);
        }
    }

    /// Has each thread do a round.
    fn wake(&self, tasks: &TaskTracker) {
        NOW.fetch_add(1, Ordering::Relaxed);
        self.workers.wake(tasks);
        for runtime in [&self.busy, &Handle::current()] {
            for _ in 0..runtime.metrics().num_workers() {
                tasks.spawn_on(std::future::ready(()), runtime);
            }
        }
    }
}

/// What the pool's memories hold of no instance.
#[derive(Debug, Clone, Copy, Default)]
struct Unused {
    slots: u64,
    bytes: u64,
}

/// How many instances lived, at each look of the last round.
#[derive(Default)]
struct Recent {
    live: VecDeque<u64>,
    looks: usize,
}

impl Recent {
    /// Notes a look. Whether it was the last of a round.
    fn round_is_over(&mut self, live: u64) -> bool {
        if self.live.len() == ROUND {
            self.live.pop_front();
        }
        self.live.push_back(live);
        self.looks = (self.looks + 1) % ROUND;
        self.looks == 0
    }

    /// Whether more is unused than instances that may come at once would take: as many as there were of late, and those
    /// that are kept warm in any case.
    fn are_too_many(&self, unused: Unused) -> bool {
        let recent = self.live.iter().max().copied().unwrap_or(0);
        unused.bytes > UNUSED_BYTES_MAX && unused.slots > recent + u64::from(WARM_SLOTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: Unused = Unused {
        slots: 5_000,
        bytes: 1 << 30,
    };

    fn round(recent: &mut Recent, live: u64) {
        let over: Vec<_> = (0..ROUND).map(|_| recent.round_is_over(live)).collect();
        assert_eq!(over.iter().filter(|over| **over).count(), 1);
    }

    #[test]
    fn slots_of_a_peak_are_kept_while_it_may_come_again_and_given_back_after_that() {
        let mut recent = Recent::default();
        round(&mut recent, 0);
        assert!(recent.are_too_many(MANY));
        recent.round_is_over(5_000);
        assert!(!recent.are_too_many(MANY));
        round(&mut recent, 10);
        assert!(recent.are_too_many(MANY));
    }

    #[test]
    fn what_is_to_stay_warm_stays() {
        let mut recent = Recent::default();
        round(&mut recent, 0);
        let slots = u64::from(WARM_SLOTS_MAX);
        let bytes = UNUSED_BYTES_MAX;
        assert!(!recent.are_too_many(Unused {
            slots,
            bytes: 1 << 30
        }));
        assert!(
            !recent.are_too_many(Unused { slots: 5_000, bytes }),
            "they hold little"
        );
    }
}
