//! Who computes next: turn by turn among actors, and among the guests of one actor.
//!
//! Owns the queue. A turn is one poll of a guest, which a tick ends after a millisecond or two, so there is none to be
//! taken away. How many wait is bounded by what admission lets run.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::GuestFuture;

/// As many turns at once as there are threads for them.
pub(super) struct Turns(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    free: usize,
    seats: u64,
    /// The actors whose guests want a turn; the first is next.
    actors: VecDeque<Waiting>,
    /// Those whose turn it is and who have not taken it yet.
    called: HashSet<Seat>,
}

/// The guests of one actor that want a turn; the first is next. There is one at least.
struct Waiting {
    actor: u64,
    guests: VecDeque<(Seat, Waker)>,
}

/// Names one guest in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Seat(u64);

impl Queue {
    /// Whether the guest on `seat` of `actor` may compute now. If not, it is called by `waker` when it may.
    fn enter(&mut self, actor: u64, seat: Seat, waker: &Waker) -> bool {
        if self.called.remove(&seat) {
            return true;
        }
        let at = self.actors.iter().position(|waiting| waiting.actor == actor);
        if let Some((_, old)) =
            at.and_then(|at| self.actors[at].guests.iter_mut().find(|(own, _)| *own == seat))
        {
            old.clone_from(waker);
            return false;
        }
        if self.free > 0 && self.actors.is_empty() {
            self.free -= 1;
            return true;
        }
        let guest = (seat, waker.clone());
        match at {
            Some(at) => self.actors[at].guests.push_back(guest),
            None => self.actors.push_back(Waiting {
                actor,
                guests: VecDeque::from([guest]),
            }),
        }
        false
    }

    /// Gives a turn back, and tells who is to be woken for it. Its actor goes to the end of the queue.
    fn give_back(&mut self) -> Option<Waker> {
        let Some(mut first) = self.actors.pop_front() else {
            self.free += 1;
            return None;
        };
        let next = first.guests.pop_front();
        if !first.guests.is_empty() {
            self.actors.push_back(first);
        }
        let (seat, waker) = next?;
        self.called.insert(seat);
        Some(waker)
    }

    /// Leaves the queue, wherever in it the guest is. Tells who is to be woken if it had a turn.
    fn leave(&mut self, seat: Seat) -> Option<Waker> {
        if self.called.remove(&seat) {
            return self.give_back();
        }
        for waiting in &mut self.actors {
            waiting.guests.retain(|(own, _)| *own != seat);
        }
        self.actors.retain(|waiting| !waiting.guests.is_empty());
        None
    }
}

impl Turns {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue {
            free: count.max(1),
            ..Queue::default()
        })))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest that is polled only when it is its turn.
pub(super) struct InTurn<O> {
    guest: GuestFuture<O>,
    turns: Arc<Turns>,
    actor: u64,
    seat: Seat,
}

impl<O> InTurn<O> {
    pub(super) fn new(guest: GuestFuture<O>, turns: Arc<Turns>, actor: u64) -> Self {
        let seat = {
            let mut queue = turns.queue();
            queue.seats += 1;
            Seat(queue.seats)
        };
        Self {
            guest,
            turns,
            actor,
            seat,
        }
    }
}

/// Gives the turn back also if the poll panics.
struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let next = self.0.queue().give_back();
        // Not under the lock: whoever is woken may look at it at once.
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl<O> Future for InTurn<O> {
    type Output = O;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O> {
        let this = &mut *self;
        if !this.turns.queue().enter(this.actor, this.seat, cx.waker()) {
            return Poll::Pending;
        }
        let _turn = Turn(&this.turns);
        this.guest.as_mut().poll(cx)
    }
}

impl<O> Drop for InTurn<O> {
    fn drop(&mut self) {
        let next = self.turns.queue().leave(self.seat);
        if let Some(next) = next {
            next.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The guests of actor 0 and the one of actor 1 always want to go on. How many turns each actor has of `rounds`.
    fn turns_beside(flood: u64, rounds: usize) -> [usize; 2] {
        let mut queue = Queue {
            free: 1,
            ..Queue::default()
        };
        let actor = |seat: Seat| u64::from(seat.0 == flood);
        let mut running = Seat(0);
        for seat in (0..=flood).map(Seat) {
            assert_eq!(queue.enter(actor(seat), seat, Waker::noop()), seat == running);
        }
        let mut had = [0; 2];
        for _ in 0..rounds {
            had[usize::from(running.0 == flood)] += 1;
            queue.give_back();
            let next = *queue.called.iter().next().unwrap();
            queue.enter(actor(running), running, Waker::noop());
            assert!(queue.enter(actor(next), next, Waker::noop()));
            running = next;
        }
        had
    }

    #[test]
    fn one_guest_of_an_actor_has_its_turns_beside_sixty_four_of_another() {
        let [flood, one] = turns_beside(64, 300);
        assert!(one >= 99, "{one} beside {flood}");
    }

    proptest! {
        #[test]
        fn no_turn_is_lost_or_made_whatever_comes_and_goes(
            count in 1_usize..4,
            steps in prop::collection::vec((0_u8..3, 0_u64..3, 0_u64..8), 0..200),
        ) {
            let mut queue = Queue { free: count, ..Queue::default() };
            let mut running = Vec::new();
            for (step, actor, seat) in steps {
                // A seat belongs to one actor.
                let (seat, actor) = (Seat(seat + 8 * actor), actor);
                match step {
                    0 if !running.contains(&seat) => {
                        if queue.enter(actor, seat, Waker::noop()) {
                            running.push(seat);
                        }
                    }
                    1 if !running.contains(&seat) => drop(queue.leave(seat)),
                    _ => {
                        if running.pop().is_some() {
                            queue.give_back();
                        }
                    }
                }
                prop_assert_eq!(queue.free + queue.called.len() + running.len(), count);
                prop_assert!(queue.free == 0 || queue.actors.is_empty(), "someone waits for a turn that is free");
            }
        }
    }
}
