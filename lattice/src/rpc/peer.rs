//! What a client knows of one host that it calls.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::membership::Standing;
use crate::subject::{Address, Subject};

/// Calls in a row without an answer after which a host is passed over.
const UNANSWERED_MAX: u32 = 2;

/// Calls at once from which on they go in batches. Fewer are rarely ready to be sent at the same time, and each would wait
/// for a turn of the task that sends.
const BATCH_FROM: u32 = 8;

/// A host that is this busy is passed over if another is not.
const LOAD_FULL: u32 = 1_000;

/// What a load number that was heard is halved after: it says less and less.
const LOAD_HALVED_MS: u64 = 100;

/// What one call of ours that runs there counts, beside a load of 0 to 1,000: others call it too.
const IN_FLIGHT_WEIGHT: u32 = 8;

pub(super) struct Peer {
    pub(super) address: Address,
    /// None for who is no host: it is asked nothing.
    pub(super) control: Option<Subject>,
    in_flight: AtomicU32,
    /// Of those, the calls whose answer comes when something changes.
    patient: AtomicU32,
    load: AtomicU32,
    unanswered: AtomicU32,
    /// Since when nothing was heard of it, or since when there is something to hear.
    quiet_since_ms: AtomicU64,
    heard_ms: AtomicU64,
    /// When it was asked last whether it lives.
    asked_ms: AtomicU64,
    ejected: AtomicBool,
    /// It said so itself, or of itself: a run that leaves does not come back.
    leaving: AtomicBool,
    /// It is taken for gone, until it is seen again.
    gone: AtomicBool,
    /// It takes requests in batches.
    batches: AtomicBool,
    suspect: AtomicBool,
    /// The stamp that it asked for, plus one; 0 is none.
    echo: AtomicU64,
}

/// Whether to choose a host, from the best to the last resort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    Ready,
    Full,
    Silent,
    Leaving,
}

/// A call that runs at a peer, until this is dropped.
pub(super) struct InFlight<'p> {
    peer: &'p Peer,
    patient: bool,
}

impl Peer {
    pub(super) fn new(address: Address, control: Option<Subject>) -> Self {
        Self {
            address,
            control,
            in_flight: AtomicU32::new(0),
            patient: AtomicU32::new(0),
            load: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            quiet_since_ms: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
            asked_ms: AtomicU64::new(0),
            ejected: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            batches: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            echo: AtomicU64::new(0),
        }
    }

    /// A call of it begins; of a `patient` one, silence is no sign.
    pub(super) fn begin(&self, now_ms: u64, patient: bool) -> InFlight<'_> {
        let patients = self.patient.fetch_add(u32::from(patient), Relaxed);
        if self.in_flight.fetch_add(1, Relaxed) <= patients {
            self.quiet_since_ms.store(now_ms, Relaxed);
        }
        InFlight { peer: self, patient }
    }

    /// It answered.
    pub(super) fn heard(&self, load: u32, leaving: bool, now_ms: u64) {
        self.load.store(load, Relaxed);
        self.heard_ms.store(now_ms, Relaxed);
        self.quiet_since_ms.store(now_ms, Relaxed);
        self.unanswered.store(0, Relaxed);
        if self.ejected.load(Relaxed) {
            self.ejected.store(false, Relaxed);
        }
        if leaving {
            self.leaving.store(true, Relaxed);
        }
    }

    /// It did not answer what was sent at `sent_ms`; whether it is passed over from now on and was not before.
    pub(super) fn unanswered(&self, sent_ms: u64) -> bool {
        // It answered something else since: it is slow with that one only.
        if self.quiet_since_ms.load(Relaxed) > sent_ms {
            return false;
        }
        self.unanswered.fetch_add(1, Relaxed) + 1 >= UNANSWERED_MAX && self.eject()
    }

    /// Passes it over until it answers; whether it was not before.
    pub(super) fn eject(&self) -> bool {
        !self.ejected.swap(true, Relaxed)
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// How membership sees it.
    pub(super) fn set_standing(&self, standing: Standing) {
        self.suspect.store(standing == Standing::Suspect, Relaxed);
        self.gone.store(standing == Standing::Gone, Relaxed);
        if standing == Standing::Leaving {
            self.leaving.store(true, Relaxed);
        }
    }

    pub(super) fn set_batches(&self) {
        self.batches.store(true, Relaxed);
    }

    /// Whether a call that was begun should go with others.
    pub(super) fn is_worth_a_batch(&self) -> bool {
        self.batches.load(Relaxed) && self.in_flight.load(Relaxed) >= BATCH_FROM
    }

    /// For how long calls have waited there and nothing was heard; nothing if none waits that is not patient.
    pub(super) fn quiet_ms(&self, now_ms: u64) -> Option<u64> {
        let waits = self.in_flight.load(Relaxed) > self.patient.load(Relaxed);
        waits.then(|| now_ms.saturating_sub(self.quiet_since_ms.load(Relaxed)))
    }

    pub(super) fn asked_at(&self, now_ms: u64) -> u64 {
        // Stamps begin anywhere, and may be less than 0 ms ago only by a race.
        self.asked_ms.load(Relaxed).min(now_ms)
    }

    pub(super) fn note_asked(&self, now_ms: u64) -> bool {
        self.asked_ms.store(now_ms, Relaxed);
        true
    }

    fn load_at(&self, now_ms: u64) -> u32 {
        let halvings = now_ms.saturating_sub(self.heard_ms.load(Relaxed)) / LOAD_HALVED_MS;
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.load.load(Relaxed).checked_shr(halvings).unwrap_or(0)
    }

    pub(super) fn health(&self, now_ms: u64) -> Health {
        if self.leaving.load(Relaxed) || self.gone.load(Relaxed) {
            Health::Leaving
        } else if self.ejected.load(Relaxed) || self.suspect.load(Relaxed) {
            Health::Silent
        } else if self.load_at(now_ms) >= LOAD_FULL {
            Health::Full
        } else {
            Health::Ready
        }
    }

    /// How busy it is, to compare with others.
    pub(super) fn score(&self, now_ms: u64) -> u32 {
        let mine = self.in_flight.load(Relaxed).saturating_mul(IN_FLIGHT_WEIGHT);
        mine.saturating_add(self.load_at(now_ms))
    }

    pub(super) fn asked(&self, stamp_ms: u64) {
        self.echo.store(stamp_ms.wrapping_add(1), Relaxed);
    }

    /// The stamp to send along, once.
    pub(super) fn take_echo(&self) -> Option<u64> {
        // Mostly there is none, and reading is cheaper than swapping.
        if self.echo.load(Relaxed) == 0 {
            return None;
        }
        self.echo.swap(0, Relaxed).checked_sub(1)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.peer.in_flight.fetch_sub(1, Relaxed);
        self.peer.patient.fetch_sub(u32::from(self.patient), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::new(Address::new("h1", 1).unwrap(), None)
    }

    #[test]
    fn who_was_taken_for_gone_is_chosen_again_once_it_is_seen() {
        let peer = peer();
        for (standing, health) in [
            (Standing::Suspect, Health::Silent),
            (Standing::Gone, Health::Leaving),
            (Standing::Alive, Health::Ready),
        ] {
            peer.set_standing(standing);
            assert_eq!(peer.health(0), health, "{standing:?}");
        }
    }

    #[test]
    fn who_leaves_is_not_chosen_again() {
        let peer = peer();
        peer.set_standing(Standing::Leaving);
        peer.set_standing(Standing::Alive);
        assert_eq!(peer.health(0), Health::Leaving);
        let peer = self::peer();
        peer.heard(0, true, 0);
        peer.set_standing(Standing::Alive);
        assert_eq!(peer.health(0), Health::Leaving);
    }

    #[test]
    fn the_silence_of_a_call_that_waits_for_a_change_says_nothing() {
        let peer = peer();
        let waits = peer.begin(0, true);
        assert_eq!(peer.quiet_ms(1_000), None);
        let calls = peer.begin(1_000, false);
        assert_eq!(peer.quiet_ms(1_250), Some(250));
        drop(calls);
        assert_eq!(peer.quiet_ms(2_000), None);
        drop(waits);
        assert_eq!(peer.quiet_ms(3_000), None);
    }
}
