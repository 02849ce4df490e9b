//! How many retries there may be: a tenth of the calls, so that a host in trouble is not called more for it.

use std::sync::atomic::{AtomicU32, Ordering};

/// What a retry costs; a call brings 1.
const RETRY: u32 = 10;

/// The most that is saved up: a hundred retries at once, for a burst of calls that meet the same host.
const SAVED_MAX: u32 = 100 * RETRY;

/// A client that has made few calls may retry some of them.
const SAVED_FIRST: u32 = 10 * RETRY;

pub(super) struct Budget(AtomicU32);

impl Budget {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(SAVED_FIRST))
    }

    pub(super) fn called(&self) {
        let more = |saved| (saved < SAVED_MAX).then(|| saved + 1);
        // Refused when there is enough already.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether there may be one more retry; it is counted.
    pub(super) fn try_retry(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(RETRY);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_in_ten_may_be_retried_once_the_first_ten_are_used_up() {
        let budget = Budget::new();
        assert_eq!((0..100).filter(|_| budget.try_retry()).count(), 10);
        let retries = (0..1_000).filter(|_| {
            budget.called();
            budget.try_retry()
        });
        assert_eq!(retries.count(), 100);
    }
}
