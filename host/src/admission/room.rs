//! Who waits, and who is next.
//!
//! Owns the queues of all actors behind one lock, which is touched only when somebody waits. An actor's calls wait in
//! the order in which they came. Where a root call could run but for a root place, its actor stands in a ring: apps
//! take turns, and within an app its actors, so that a long queue takes no more turns than a short one.
//! Calls of calls never wait behind a root call that waits for a root place, as that may be held by their own caller.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::oneshot;
use weft_observability::metrics::ShedReason;

use super::places::AppPlaces;
use super::share::Taken;
use super::{Admission, Place, Share};

/// What a call that waits is told.
pub(super) type Answer = Result<Place, ShedReason>;

/// Answers to be sent once the lock is free again: a place that its caller no longer takes is freed by its drop.
pub(super) type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

/// Where an actor or an app is in memory; it is held by those who wait there.
type Key = usize;

fn key<T>(of: &Arc<T>) -> Key {
    Arc::as_ptr(of).addr()
}

/// All that wait.
#[derive(Default)]
pub(super) struct Room {
    queues: HashMap<Key, Queue>,
    /// Actors of an app whose root calls lack nothing but a root place.
    actors: HashMap<Key, VecDeque<Key>>,
    /// Apps that have some, in the order of their turns.
    apps: VecDeque<Key>,
    ticket: u64,
}

/// One actor's.
struct Queue {
    admission: Arc<Admission>,
    roots: VecDeque<Waiter>,
    nested: VecDeque<Waiter>,
    in_ring: bool,
}

struct Waiter {
    ticket: u64,
    answer: oneshot::Sender<Answer>,
}

impl Queue {
    fn of(&mut self, is_root: bool) -> &mut VecDeque<Waiter> {
        if is_root {
            &mut self.roots
        } else {
            &mut self.nested
        }
    }
}

/// What a turn came to.
#[derive(PartialEq, Eq)]
enum Turn {
    /// A call has a place.
    Served,
    /// There is no root place.
    NoPlace,
    /// None of the app's calls lacks only a root place any more.
    Over,
}

impl Room {
    /// Lets a call wait, unless there are places for it. `None` if the queue is full.
    pub(super) fn enter(
        &mut self,
        admission: &Arc<Admission>,
        is_root: bool,
        answers: &mut Answers,
    ) -> Option<(u64, oneshot::Receiver<Answer>)> {
        if admission.waiting.load(SeqCst) >= admission.queue_len {
            return None;
        }
        // Before places are looked for: who frees one from now on sees that somebody waits.
        admission.waiting.fetch_add(1, SeqCst);
        self.ticket += 1;
        let (answer, answered) = oneshot::channel();
        let queue = self.queues.entry(key(admission)).or_insert_with(|| Queue {
            admission: admission.clone(),
            roots: VecDeque::new(),
            nested: VecDeque::new(),
            in_ring: false,
        });
        queue.of(is_root).push_back(Waiter {
            ticket: self.ticket,
            answer,
        });
        self.serve_actor(admission, answers);
        Some((self.ticket, answered))
    }

    /// Takes a call out that no longer waits, if it is still there.
    pub(super) fn leave(&mut self, admission: &Arc<Admission>, ticket: u64, is_root: bool) {
        let Some(queue) = self.queues.get_mut(&key(admission)) else {
            return;
        };
        let waiters = queue.of(is_root);
        let Ok(at) = waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket) else {
            return;
        };
        waiters.remove(at);
        admission.waiting.fetch_sub(1, SeqCst);
        self.tidy(admission);
    }

    /// After a place of an actor came free.
    pub(super) fn serve_actor(&mut self, admission: &Arc<Admission>, answers: &mut Answers) {
        while let Some(queue) = self.queues.get(&key(admission)) {
            let first = |waiters: &VecDeque<Waiter>| waiters.front().map(|waiter| waiter.ticket);
            let root = first(&queue.roots).filter(|_| !queue.in_ring);
            let is_root = match (root, first(&queue.nested)) {
                (Some(root), Some(nested)) => root < nested,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return,
            };
            if !admission.running.take() {
                return;
            }
            let share = if !is_root && admission.take_nested() {
                Some(Share::Nested)
            } else {
                self.take_root(admission).then_some(Share::Root)
            };
            if share.is_none() {
                admission.running.free();
            }
            match share {
                Some(share) => self.answer(admission, is_root, Ok(share), answers),
                // All of its callers hold places: were it to wait, they might wait for each other.
                None if !is_root => self.answer(admission, is_root, Err(ShedReason::PoolFull), answers),
                None => {
                    self.enter_ring(admission);
                    // Again, now that who frees a root place sees that somebody waits.
                    self.serve_app(&admission.app, answers);
                    self.serve_apps(answers);
                }
            }
        }
    }

    /// After places that an app has reserved may have come free.
    pub(super) fn serve_app(&mut self, app: &Arc<AppPlaces>, answers: &mut Answers) {
        while self.turn(key(app), false, answers) == Turn::Served {}
    }

    /// After places that nobody has reserved may have come free.
    pub(super) fn serve_apps(&mut self, answers: &mut Answers) {
        while let Some(&app) = self.apps.front() {
            match self.turn(app, true, answers) {
                Turn::NoPlace => return,
                Turn::Over => {}
                Turn::Served if self.apps.front() == Some(&app) => self.apps.rotate_left(1),
                Turn::Served => {}
            }
        }
    }

    /// A root place for an actor outside the ring, unless there are some in it that come first.
    fn take_root(&self, admission: &Admission) -> bool {
        let is_first_of_app = admission.app.waiting.load(SeqCst) == 0;
        is_first_of_app && admission.take_root(self.apps.is_empty()) != Taken::No
    }

    fn turn(&mut self, app: Key, may_share: bool, answers: &mut Answers) -> Turn {
        while let Some(actor) = self.actors.get(&app).and_then(VecDeque::front) {
            let admission = self.queues[actor].admission.clone();
            if !admission.running.take() {
                // It is served when a place of its own comes free.
                self.leave_ring(&admission);
                continue;
            }
            if admission.take_root(may_share) == Taken::No {
                admission.running.free();
                return Turn::NoPlace;
            }
            self.leave_ring(&admission);
            self.answer(&admission, true, Ok(Share::Root), answers);
            if self
                .queues
                .get(&key(&admission))
                .is_some_and(|queue| !queue.roots.is_empty())
            {
                self.enter_ring(&admission);
            }
            return Turn::Served;
        }
        Turn::Over
    }

    /// Tells the first of a queue what came of its waiting: places that have been taken, or why there are none.
    fn answer(
        &mut self,
        admission: &Arc<Admission>,
        is_root: bool,
        taken: Result<Share, ShedReason>,
        answers: &mut Answers,
    ) {
        let place = taken.map(|share| Place {
            admission: admission.clone(),
            share,
        });
        if let Some(queue) = self.queues.get_mut(&key(admission))
            && let Some(waiter) = queue.of(is_root).pop_front()
        {
            admission.waiting.fetch_sub(1, SeqCst);
            answers.push((waiter.answer, place));
        }
        self.tidy(admission);
    }

    /// Forgets what is empty.
    fn tidy(&mut self, admission: &Arc<Admission>) {
        let Entry::Occupied(queue) = self.queues.entry(key(admission)) else {
            return;
        };
        let (no_roots, in_ring) = (queue.get().roots.is_empty(), queue.get().in_ring);
        if no_roots && queue.get().nested.is_empty() {
            let _ = queue.remove();
        }
        if no_roots && in_ring {
            self.leave_ring(admission);
        }
    }

    fn enter_ring(&mut self, admission: &Arc<Admission>) {
        let Some(queue) = self.queues.get_mut(&key(admission)) else {
            return;
        };
        queue.in_ring = true;
        let app = key(&admission.app);
        let actors = self.actors.entry(app).or_default();
        if actors.is_empty() {
            self.apps.push_back(app);
            admission.places.apps_waiting().fetch_add(1, SeqCst);
        }
        actors.push_back(key(admission));
        admission.app.waiting.fetch_add(1, SeqCst);
    }

    fn leave_ring(&mut self, admission: &Arc<Admission>) {
        if let Some(queue) = self.queues.get_mut(&key(admission)) {
            queue.in_ring = false;
        }
        let app = key(&admission.app);
        let Some(actors) = self.actors.get_mut(&app) else {
            return;
        };
        if remove(actors, key(admission)) {
            admission.app.waiting.fetch_sub(1, SeqCst);
        }
        if actors.is_empty() {
            self.actors.remove(&app);
            remove(&mut self.apps, app);
            admission.places.apps_waiting().fetch_sub(1, SeqCst);
        }
    }
}

/// Takes a key out of a ring, where it is mostly the first. `true` if it was there.
fn remove(ring: &mut VecDeque<Key>, key: Key) -> bool {
    match ring.iter().position(|other| *other == key) {
        Some(at) => ring.remove(at).is_some(),
        None => false,
    }
}
