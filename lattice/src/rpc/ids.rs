//! The calls that a host has seen, so that none runs twice.
//!
//! An id is kept until a repeat of its request would be refused as late anyway: for the time that its caller waits, and
//! no longer than [`KEPT_MAX_MS`], since what is later than [`LATE_MAX_MS`] is refused whatever time it has.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::envelope::InvocationId;

/// A request that took longer than this is refused. NATS holds none that long; a host that stood still does.
pub(super) const LATE_MAX_MS: u64 = 10_000;

/// Longer than [`LATE_MAX_MS`] by what clocks drift.
const KEPT_MAX_MS: u64 = LATE_MAX_MS + 100;

/// Ids end together in steps of this, and so up to so much later: a step is ended without looking for what ends next
/// among a million.
const STEP_MS: u64 = 100;
const STEPS_MAX: u64 = KEPT_MAX_MS / STEP_MS + 1;

/// Ids that are kept: ten seconds of 100,000 calls. Each takes some 60 bytes. Beyond it calls are refused, as a repeat
/// could not be told.
const IDS_MAX: usize = 1 << 20;

/// Whether a request is one to look at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not before.
    New,
    /// Once before, when its caller was asked for its clock: it is not to be asked again.
    Again,
    /// It is to be dropped.
    Repeat,
    /// It can't be told: there is no room.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The caller was asked for its clock, and may send it once more, with an echo.
    Asked,
    /// It ran, runs, or was refused.
    Taken,
}

#[derive(Default)]
pub(super) struct Ids {
    marks: HashMap<InvocationId, Mark>,
    /// What ends at the step `first`, and at each of those that follow.
    ends: VecDeque<Vec<InvocationId>>,
    first: u64,
}

impl Ids {
    /// Looks at a request that arrives at `now`, and keeps its id. Whatever is said about it, it was said for good,
    /// unless [`Ids::asked`] follows.
    pub(super) fn see(&mut self, id: InvocationId, has_echo: bool, remaining_ms: u64, now: u64) -> Seen {
        self.end(now);
        let len = self.marks.len();
        match self.marks.entry(id) {
            Entry::Occupied(mut mark) if *mark.get() == Mark::Asked && has_echo => {
                mark.insert(Mark::Taken);
                Seen::Again
            }
            Entry::Occupied(_) => Seen::Repeat,
            Entry::Vacant(_) if len >= IDS_MAX => Seen::Full,
            Entry::Vacant(mark) => {
                mark.insert(Mark::Taken);
                // From when it arrived, which is later than when it was sent.
                let kept = remaining_ms.saturating_add(100).min(KEPT_MAX_MS);
                let step = now.saturating_add(kept).div_ceil(STEP_MS);
                let at = step.saturating_sub(self.first).min(STEPS_MAX) as usize;
                if self.ends.len() <= at {
                    self.ends.resize_with(at + 1, Vec::new);
                }
                self.ends[at].push(id);
                Seen::New
            }
        }
    }

    /// Forgets what ends by `now`.
    fn end(&mut self, now: u64) {
        let step = now / STEP_MS;
        while self.first <= step {
            let Some(ended) = self.ends.pop_front() else {
                self.first = step + 1;
                return;
            };
            self.first += 1;
            for id in ended {
                self.marks.remove(&id);
            }
        }
    }

    /// The caller of `id` was asked for its clock.
    pub(super) fn asked(&mut self, id: InvocationId) {
        self.marks.insert(id, Mark::Asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: InvocationId = InvocationId([1; 16]);

    #[test]
    fn a_repeat_is_known_until_its_caller_has_given_up() {
        let mut ids = Ids::default();
        assert_eq!(ids.see(ID, false, 1_000, 0), Seen::New);
        assert_eq!(ids.see(ID, false, 1_000, 1_000), Seen::Repeat);
        assert_eq!(ids.see(ID, true, 1_000, 1_001), Seen::Repeat);
        assert_eq!(ids.see(ID, false, 1_000, 1_100), Seen::New);
        assert_eq!(ids.see(InvocationId([2; 16]), false, u64::MAX, 0), Seen::New);
        assert_eq!(
            ids.see(InvocationId([2; 16]), false, u64::MAX, KEPT_MAX_MS),
            Seen::New
        );
    }

    #[test]
    fn who_was_asked_for_its_clock_may_come_once_more_with_an_echo() {
        let mut ids = Ids::default();
        assert_eq!(ids.see(ID, false, 1_000, 0), Seen::New);
        ids.asked(ID);
        assert_eq!(ids.see(ID, false, 1_000, 1), Seen::Repeat);
        assert_eq!(ids.see(ID, true, 1_000, 2), Seen::Again);
        assert_eq!(ids.see(ID, true, 1_000, 3), Seen::Repeat);
    }

    #[test]
    fn what_can_t_be_remembered_is_not_let_in() {
        let mut ids = Ids::default();
        for number in 0..IDS_MAX as u128 {
            assert_eq!(
                ids.see(InvocationId(number.to_be_bytes()), false, 1_000, 0),
                Seen::New
            );
        }
        assert_eq!(ids.see(InvocationId([255; 16]), false, 1_000, 0), Seen::Full);
        assert_eq!(ids.see(InvocationId([255; 16]), false, 1_000, 1_100), Seen::New);
    }
}
