//! The calls that a host has seen, so that none runs twice.
//!
//! An id is kept for the time that its caller waits. Of a host's request no longer than [`KEPT_MAX_MS`]: a repeat that is
//! later than [`LATE_MAX_MS`] is refused whatever time it has. Who is no host sends no stamp to tell that by, and so its ids
//! are kept for longer, in a table of their own, which takes nothing from the hosts' if it is full.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::envelope::InvocationId;

/// A request that took longer than this is refused. NATS holds none that long; a host that stood still does.
pub(super) const LATE_MAX_MS: u64 = 10_000;

/// Longer than [`LATE_MAX_MS`] by what clocks drift.
const KEPT_MAX_MS: u64 = LATE_MAX_MS + 100;

/// The same for a request of who is no host: as long as most of them wait. A repeat of one that still runs is known by that.
const CLIENTS_KEPT_MAX_MS: u64 = 60_000;

/// Ids end together in steps of this, and so up to so much later: a step is ended without looking for what ends next
/// among a million.
const STEP_MS: u64 = 100;

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

/// The ids of one kind of callers.
pub(super) struct Ids {
    kept_max_ms: u64,
    marks: HashMap<InvocationId, Mark>,
    /// What ends at the step `first`, and at each of those that follow.
    ends: VecDeque<Vec<InvocationId>>,
    first: u64,
}

impl Ids {
    /// Of hosts, whose stamps tell what is late.
    pub(super) fn of_hosts() -> Self {
        Self::kept(KEPT_MAX_MS)
    }

    /// Of whoever else calls.
    pub(super) fn of_clients() -> Self {
        Self::kept(CLIENTS_KEPT_MAX_MS)
    }

    fn kept(kept_max_ms: u64) -> Self {
        Self {
            kept_max_ms,
            marks: HashMap::new(),
            ends: VecDeque::new(),
            first: 0,
        }
    }

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
                let kept = remaining_ms.saturating_add(100).min(self.kept_max_ms);
                let step = now.saturating_add(kept).div_ceil(STEP_MS);
                let steps_max = self.kept_max_ms / STEP_MS + 1;
                let at = step.saturating_sub(self.first).min(steps_max) as usize;
                if self.ends.len() <= at {
                    self.ends.resize_with(at + 1, Vec::new);
                }
                self.ends[at].push(id);
                Seen::New
            }
        }
    }

    /// Whether an id is kept at `now`.
    pub(super) fn has(&mut self, id: InvocationId, now: u64) -> bool {
        self.end(now);
        !self.marks.is_empty() && self.marks.contains_key(&id)
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
        let mut ids = Ids::of_hosts();
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
    fn a_repeat_of_who_is_no_host_is_known_for_longer() {
        let mut ids = Ids::of_clients();
        assert_eq!(ids.see(ID, false, 30_000, 0), Seen::New);
        assert_eq!(ids.see(ID, false, 30_000, 30_000), Seen::Repeat);
        assert!(ids.has(ID, 30_000) && !ids.has(ID, 30_200));
        assert_eq!(ids.see(ID, false, 30_000, 30_200), Seen::New);
        assert_eq!(ids.see(InvocationId([2; 16]), false, u64::MAX, 40_000), Seen::New);
        assert_eq!(
            ids.see(InvocationId([2; 16]), false, u64::MAX, 99_000),
            Seen::Repeat
        );
        assert_eq!(
            ids.see(InvocationId([2; 16]), false, u64::MAX, 101_000),
            Seen::New
        );
    }

    #[test]
    fn who_was_asked_for_its_clock_may_come_once_more_with_an_echo() {
        let mut ids = Ids::of_hosts();
        assert_eq!(ids.see(ID, false, 1_000, 0), Seen::New);
        ids.asked(ID);
        assert_eq!(ids.see(ID, false, 1_000, 1), Seen::Repeat);
        assert_eq!(ids.see(ID, true, 1_000, 2), Seen::Again);
        assert_eq!(ids.see(ID, true, 1_000, 3), Seen::Repeat);
    }

    #[test]
    fn what_can_t_be_remembered_is_not_let_in() {
        let mut ids = Ids::of_hosts();
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
