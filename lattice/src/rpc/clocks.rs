//! How late a request is, without wall clocks.
//!
//! A request has a stamp of its sender's clock. The difference to the receiver's clock is the time that it took, and a
//! number that is the same for all requests of that sender. A bound for that number comes from an echo: the receiver
//! hands out a stamp of its own, the next request carries it back, and that request can't have taken longer than the
//! echo. So what is held to be the lateness of a request is never less than it is, as long as the clocks run at the same
//! speed; it is more by at most the time of the echo.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::subject::Address;

/// A sender is asked anew before clocks can have drifted apart by much: 100 ppm are 6 ms in this time.
const AGE_MAX_MS: u64 = 60_000;

/// From this age on it is asked by the way, with the next reply, and no call waits for it.
const AGE_ASK_MS: u64 = 20_000;

/// Senders whose clocks are kept: a lattice of a thousand hosts fits, each with three clocks. Beyond, the one that was
/// asked longest ago goes.
const SENDERS_MAX: usize = 4_096;

/// A host's monotonic clock in milliseconds, for stamps.
#[derive(Debug, Clone, Copy)]
pub struct Stamps {
    origin: Instant,
    first_ms: u64,
}

impl Stamps {
    /// A clock that begins now at `first_ms`, which means nothing: hosts need not agree.
    pub fn starting_at(first_ms: u64) -> Self {
        Self {
            origin: Instant::now(),
            first_ms,
        }
    }

    /// The stamp of this moment.
    pub fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.first_ms.wrapping_add(passed)
    }
}

/// What a request's stamp tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// It has this much time left, and the sender is to be asked for an echo by the way or not.
    Left { left: Duration, ask: bool },
    /// Its caller has given up.
    Late,
    /// The sender's clock is not known, or no longer: ask for an echo.
    Unknown,
}

/// A request's times, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) sent: u64,
    pub(super) remaining: u64,
    pub(super) echo: Option<u64>,
}

struct Sender {
    /// What the difference of the stamps is at least for a request that takes no time.
    base: i64,
    asked: u64,
}

#[derive(Default)]
pub(super) struct Clocks(HashMap<Address, Sender>);

impl Clocks {
    /// Judges a request that arrives at `now` by the receiver's clock; one that is late by more than `late_max` is late
    /// in any case.
    pub(super) fn judge(&mut self, from: &Address, times: Times, now: u64, late_max: u64) -> Judged {
        let difference = now.wrapping_sub(times.sent).cast_signed();
        if let Some(echo) = times.echo {
            self.echoed(from, difference, now.wrapping_sub(echo), now);
        }
        let Some(sender) = self.0.get(from) else {
            return Judged::Unknown;
        };
        let age = now.saturating_sub(sender.asked);
        // Sooner than at once is not possible: one of the clocks stood still or jumped.
        if age > AGE_MAX_MS || difference.wrapping_sub(sender.base) < 0 {
            return Judged::Unknown;
        }
        // One more, as each of the two stamps is cut to a whole millisecond.
        let late = difference.wrapping_sub(sender.base).cast_unsigned() + 1;
        match times.remaining.checked_sub(late) {
            Some(left @ 1..) if late <= late_max => Judged::Left {
                left: Duration::from_millis(left),
                ask: age > AGE_ASK_MS,
            },
            _ => Judged::Late,
        }
    }

    fn echoed(&mut self, from: &Address, difference: i64, took: u64, now: u64) {
        // A stamp that is not ours: from a run before, or made up.
        let Ok(took) = i64::try_from(took) else { return };
        let base = difference.wrapping_sub(took).wrapping_sub(1);
        match self.0.get_mut(from) {
            // Both are bounds, so the better one counts; an old one counts no more, as clocks drift.
            Some(sender) => {
                let age = now.saturating_sub(sender.asked);
                let tighter = base.wrapping_sub(sender.base) >= 0;
                if tighter || difference.wrapping_sub(sender.base) < 0 || age > AGE_MAX_MS {
                    (sender.base, sender.asked) = (base, now);
                }
            }
            None => {
                if self.0.len() >= SENDERS_MAX {
                    let oldest = self.0.iter().min_by_key(|(_, sender)| sender.asked);
                    let oldest = oldest.map(|(address, _)| address.clone());
                    oldest.and_then(|address| self.0.remove(&address));
                }
                let asked = now;
                self.0.insert(from.clone(), Sender { base, asked });
            }
        }
    }

    pub(super) fn forget(&mut self, from: &Address) {
        self.0.remove(from);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LATE_MAX: u64 = 10_000;

    fn sender() -> Address {
        Address::new("h1", 1).unwrap()
    }

    fn times(sent: u64, remaining: u64, echo: Option<u64>) -> Times {
        Times {
            sent,
            remaining,
            echo,
        }
    }

    #[test]
    fn a_sender_is_asked_first_and_then_its_requests_have_what_is_left() {
        let mut clocks = Clocks::default();
        let first = clocks.judge(&sender(), times(500, 1_000, None), 90_000, LATE_MAX);
        assert_eq!(first, Judged::Unknown);
        // The echo took 20 ms, so the request took that at most.
        let second = clocks.judge(&sender(), times(510, 1_000, Some(90_000)), 90_020, LATE_MAX);
        let left = |ms| Judged::Left {
            left: Duration::from_millis(ms),
            ask: false,
        };
        assert_eq!(second, left(1_000 - 20 - 1 - 1));
        // A request that comes 400 ms later than it was sent later.
        let third = clocks.judge(&sender(), times(520, 1_000, None), 90_430, LATE_MAX);
        assert_eq!(third, left(1_000 - 420 - 1 - 1));
        assert_eq!(
            clocks.judge(&sender(), times(530, 1_000, None), 91_520, LATE_MAX),
            Judged::Late
        );
    }

    #[test]
    fn a_clock_that_jumped_and_an_old_echo_are_asked_for_again() {
        let mut clocks = Clocks::default();
        let known = times(510, 1_000, Some(90_000));
        assert!(matches!(
            clocks.judge(&sender(), known, 90_001, LATE_MAX),
            Judged::Left { .. }
        ));
        // The receiver slept for 5 s: what comes seems to have been sent later than now.
        let jumped = times(5_510, 1_000, None);
        assert_eq!(clocks.judge(&sender(), jumped, 90_002, LATE_MAX), Judged::Unknown);
        // The sender slept for 5 s: what comes seems to be late, until an echo shows that it is not.
        assert_eq!(
            clocks.judge(&sender(), times(512, 1_000, None), 95_001, LATE_MAX),
            Judged::Late
        );
        assert!(matches!(
            clocks.judge(&sender(), times(513, 1_000, Some(95_001)), 95_002, LATE_MAX),
            Judged::Left { .. }
        ));
        let later = times(21_510, 1_000, None);
        assert!(matches!(
            clocks.judge(&sender(), later, 116_001, LATE_MAX),
            Judged::Left { ask: true, .. }
        ));
        let much_later = times(61_510, 1_000, None);
        assert_eq!(
            clocks.judge(&sender(), much_later, 156_001, LATE_MAX),
            Judged::Unknown
        );
    }

    proptest! {
        /// Whatever the delays are, no request is held to have more time left than it has, and one that is not much
        /// delayed more than the echo took is let through.
        #[test]
        fn what_is_late_is_never_let_through(
            offset in any::<u64>(),
            asked in 0..5_000_u64,
            first in 0..5_000_u64,
            delays in prop::collection::vec((0..5_000_u64, 1..6_000_u64), 1..20),
        ) {
            let mut clocks = Clocks::default();
            // The receiver's time is true; the sender's is `offset` more. The stamp goes out at 0.
            let sent = asked;
            let arrived = asked + first;
            clocks.judge(&sender(), times(offset.wrapping_add(sent), 1, Some(0)), arrived, LATE_MAX);
            for (delay, remaining) in delays {
                let sent = arrived + 7;
                let times = times(offset.wrapping_add(sent), remaining, None);
                match clocks.judge(&sender(), times, sent + delay, LATE_MAX) {
                    Judged::Left { left, .. } => prop_assert!(delay + u64::try_from(left.as_millis()).unwrap() < remaining),
                    Judged::Late => prop_assert!(delay + asked + first + 2 >= remaining),
                    Judged::Unknown => prop_assert!(false, "it was asked"),
                }
            }
        }
    }
}
