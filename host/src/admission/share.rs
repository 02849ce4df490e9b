//! Counts of places, without a lock.
//!
//! Owns the arithmetic of one share of the pool: what each app has reserved of it and uses, and what is left for all.
//! It must not know who waits: [`super::room`]. All orders are `SeqCst`, as who leaves looks for those who wait after
//! it has freed a place, and who waits looks for a place after it has said so.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Places of a share that no app has reserved. Less than none after a change of what is reserved, until enough of the
/// calls have ended that ran before it.
pub(super) struct Common(AtomicI64);

impl Common {
    pub(super) fn new(places: u32) -> Self {
        Self(AtomicI64::new(places.into()))
    }

    fn take(&self) -> bool {
        let taken = self
            .0
            .fetch_update(SeqCst, SeqCst, |free| (free > 0).then(|| free - 1));
        taken.is_ok()
    }

    fn give(&self, places: i64) {
        if places != 0 {
            self.0.fetch_add(places, SeqCst);
        }
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> i64 {
        self.0.load(SeqCst)
    }
}

/// One app's part of a share: places used in the upper half, reserved in the lower, so that one look sees both. What is
/// used over the reservation is taken from [`Common`].
#[derive(Default)]
pub(super) struct Part(AtomicU64);

const ONE_USED: u64 = 1 << 32;

/// Used and reserved.
fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

fn over(used: u32, reserved: u32) -> i64 {
    used.saturating_sub(reserved).into()
}

/// What came of asking for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// There is none.
    No,
    /// There was one.
    Yes,
    /// There was one; a common place that was held for a moment is free again, and may be waited for.
    YesAndFreed,
}

impl Part {
    /// Takes a reserved place, or one of all if `may_share`.
    pub(super) fn take(&self, common: &Common, may_share: bool) -> Taken {
        let mut word = self.0.load(SeqCst);
        let mut holds_common = false;
        loop {
            let (used, reserved) = halves(word);
            if used >= reserved && !holds_common {
                if !may_share || !common.take() {
                    return Taken::No;
                }
                holds_common = true;
            }
            match self
                .0
                .compare_exchange_weak(word, word + ONE_USED, SeqCst, SeqCst)
            {
                // A reserved one came free meanwhile.
                Ok(_) if holds_common && used < reserved => {
                    common.give(1);
                    return Taken::YesAndFreed;
                }
                Ok(_) => return Taken::Yes,
                Err(now) => word = now,
            }
        }
    }

    /// Gives a place back.
    pub(super) fn free(&self, common: &Common) {
        let (used, reserved) = halves(self.0.fetch_sub(ONE_USED, SeqCst));
        if used > reserved {
            common.give(1);
        }
    }

    /// Changes what is reserved. What comes to be over the reservation counts among the common places.
    pub(super) fn reserve(&self, common: &Common, places: u32) {
        let mut word = self.0.load(SeqCst);
        loop {
            let (used, before) = halves(word);
            // What is raised is taken from all first, so that no place is promised twice.
            let raised = i64::from(places.saturating_sub(before));
            common.give(-raised);
            let next = (word & !u64::from(u32::MAX)) | u64::from(places);
            match self.0.compare_exchange_weak(word, next, SeqCst, SeqCst) {
                Ok(_) => {
                    let lowered = i64::from(before.saturating_sub(places));
                    return common.give(lowered + over(used, before) - over(used, places));
                }
                Err(now) => {
                    common.give(raised);
                    word = now;
                }
            }
        }
    }

    pub(super) fn used(&self) -> u32 {
        halves(self.0.load(SeqCst)).0
    }

    pub(super) fn reserved(&self) -> u32 {
        halves(self.0.load(SeqCst)).1
    }
}

/// One actor's places.
pub(super) struct Bound {
    used: AtomicU32,
    most: u32,
}

impl Bound {
    pub(super) fn new(most: u32) -> Self {
        Self {
            used: AtomicU32::new(0),
            most,
        }
    }

    pub(super) fn take(&self) -> bool {
        let taken = self
            .used
            .fetch_update(SeqCst, SeqCst, |used| (used < self.most).then(|| used + 1));
        taken.is_ok()
    }

    pub(super) fn free(&self) {
        self.used.fetch_sub(1, SeqCst);
    }

    pub(super) fn is_full(&self) -> bool {
        self.used() >= self.most
    }

    pub(super) fn used(&self) -> u32 {
        self.used.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_app_takes_what_it_reserved_and_then_what_is_left_for_all() {
        let (common, one, other) = (Common::new(10), Part::default(), Part::default());
        one.reserve(&common, 2);
        other.reserve(&common, 5);
        let taken = (0..)
            .take_while(|_| one.take(&common, true) == Taken::Yes)
            .count();
        assert_eq!(taken, 5, "two of its own and three of all");
        let taken = (0..)
            .take_while(|_| other.take(&common, true) == Taken::Yes)
            .count();
        assert_eq!(taken, 5, "its own were kept for it");
    }

    proptest! {
        /// Whatever is taken, freed and reserved anew: what is free for all is what the rest leaves.
        #[test]
        fn no_place_is_lost_or_made(steps in prop::collection::vec((0..3usize, 0..4u32, 0..12u32), 0..200)) {
            const TOTAL: u32 = 20;
            let common = Common::new(TOTAL);
            let parts: [Part; 3] = Default::default();
            for (app, what, number) in steps {
                let part = &parts[app];
                match what {
                    0 | 1 => {
                        let before = (part.used() < part.reserved(), common.free() > 0);
                        let taken = part.take(&common, what == 0);
                        prop_assert_eq!(taken == Taken::Yes, before.0 || (what == 0 && before.1));
                    }
                    2 if part.used() > 0 => part.free(&common),
                    2 => {}
                    _ => part.reserve(&common, number),
                }
                let kept: i64 = parts.iter().map(|part| i64::from(part.used().max(part.reserved()))).sum();
                prop_assert_eq!(common.free(), i64::from(TOTAL) - kept);
            }
        }
    }

    /// Threads that take and free at once, while reservations change: at the end all is as it was.
    #[test]
    fn threads_that_meet_lose_no_place() {
        const ROUNDS: usize = 20_000;
        let common = Arc::new(Common::new(8));
        let parts = Arc::new([Part::default(), Part::default()]);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (common, parts) = (common.clone(), parts.clone());
                scope.spawn(move || {
                    let part = &parts[thread % 2];
                    for round in 0..ROUNDS {
                        if part.take(&common, true) != Taken::No {
                            if round % 8 == 0 {
                                std::thread::yield_now();
                            }
                            part.free(&common);
                        }
                    }
                });
            }
            for round in 0..ROUNDS / 10 {
                parts[round % 2].reserve(&common, u32::try_from(round % 5).unwrap());
            }
        });
        parts.iter().for_each(|part| part.reserve(&common, 0));
        assert_eq!((parts[0].used(), parts[1].used()), (0, 0));
        assert_eq!(common.free(), 8);
    }
}
