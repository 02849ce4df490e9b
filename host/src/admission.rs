//! Who may run, who waits, who is shed.
//!
//! Owns the places: a bound on an actor's invocations, and shares of the pool for root calls (calls from outside) and
//! for the calls that those make. Of each share an app has some reserved ([`places`]), which a flood of calls to another
//! can't take. A call that finds no place waits in its actor's bounded queue, and is shed when the queue is full or its
//! time is up; who is next is [`room`]'s. A place is taken for one call, never inside a loop that reads or accepts: one
//! actor without places must not stop the others (wasmCloud #4752).
//!
//! Where nobody waits, a place is two atomic additions, one on the actor's count and one on the app's, and freeing it
//! two more; only an app that is over its reservation touches a count that all apps share.

mod places;
mod room;
mod share;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use weft_compose::{AppName, Limits};
use weft_observability::metrics::ShedReason;

use self::places::AppPlaces;
pub use self::places::Places;
use self::room::Answer;
use self::share::{Bound, Taken};

/// One actor's places and queue.
pub struct Admission {
    running: Bound,
    waiting: AtomicU32,
    queue_len: u32,
    queue_wait: Duration,
    app: Arc<AppPlaces>,
    places: Places,
}

/// A place; dropping it frees it.
pub struct Place {
    admission: Arc<Admission>,
    share: Share,
}

/// Which share of the pool a place is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    /// Root calls', and any other's if there is nothing else and nobody waits for it.
    Root,
    /// That no root call takes.
    Nested,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Admission { app, places, .. } = &*self.admission;
        match self.share {
            Share::Root => app.root.free(places.root()),
            Share::Nested => app.nested.free(places.nested()),
        }
        self.admission.running.free();
        let for_root = self.share == Share::Root && places.apps_waiting().load(SeqCst) > 0;
        if for_root || self.admission.waiting() > 0 {
            places.serve(|room, answers| {
                if for_root {
                    room.serve_app(app, answers);
                    room.serve_apps(answers);
                }
                room.serve_actor(&self.admission, answers);
            });
        }
    }
}

impl Admission {
    /// Places and a queue as `limits` say, for an actor of `app`, within the pool's places.
    pub fn new(limits: &Limits, app: &AppName, places: Places) -> Arc<Self> {
        Arc::new(Self {
            running: Bound::new(limits.concurrency),
            waiting: AtomicU32::new(0),
            queue_len: limits.queue_len,
            queue_wait: limits.queue_wait,
            app: places.app(app),
            places,
        })
    }

    /// A place, if there is one now and nobody waits for it. A root call takes one of the root calls' share; any other
    /// one of the rest, or else of the root calls' too.
    pub fn try_admit(self: &Arc<Self>, is_root: bool) -> Option<Place> {
        if self.waiting() > 0 || !self.running.take() {
            return None;
        }
        let share = if !is_root && self.take_nested() {
            Some(Share::Nested)
        } else {
            self.try_root().then_some(Share::Root)
        };
        match share {
            Some(share) => Some(Place {
                admission: self.clone(),
                share,
            }),
            None => {
                self.running.free();
                // Who came meanwhile has found none.
                if self.waiting() > 0 {
                    self.places.serve(|room, answers| room.serve_actor(self, answers));
                }
                None
            }
        }
    }

    /// A place now, or after waiting for it.
    ///
    /// Dropping the future leaves the queue.
    ///
    /// # Errors
    /// Why the call was shed. It has not started.
    pub async fn admit(self: &Arc<Self>, is_root: bool) -> Result<Place, ShedReason> {
        if let Some(place) = self.try_admit(is_root) {
            return Ok(place);
        }
        let seat = Seat::take(self, is_root).ok_or(match !is_root && !self.running.is_full() {
            true => ShedReason::PoolFull,
            false => ShedReason::QueueFull,
        })?;
        match tokio::time::timeout(self.queue_wait, seat).await {
            Ok(answer) => answer,
            Err(_) => Err(ShedReason::QueueTimeout),
        }
    }

    /// Whether one more call would be shed: another host may have room.
    pub fn is_full(&self) -> bool {
        self.running.is_full() && self.waiting() >= self.queue_len
    }

    /// Calls that wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// Calls that run now.
    pub fn running(&self) -> u32 {
        self.running.used()
    }

    /// A root place, if nobody waits for one.
    fn try_root(&self) -> bool {
        if self.app.waiting.load(SeqCst) > 0 {
            return false;
        }
        let taken = self.take_root(self.places.apps_waiting().load(SeqCst) == 0);
        if taken == Taken::YesAndFreed {
            self.places.serve(|room, answers| room.serve_apps(answers));
        }
        taken != Taken::No
    }

    fn take_root(&self, may_share: bool) -> Taken {
        self.app.root.take(self.places.root(), may_share)
    }

    /// Nobody waits for one, so that one that came free need not be told.
    fn take_nested(&self) -> bool {
        self.app.nested.take(self.places.nested(), true) != Taken::No
    }
}

/// A seat in a queue, and what comes of it.
struct Seat<'a> {
    admission: &'a Arc<Admission>,
    is_root: bool,
    ticket: u64,
    answered: oneshot::Receiver<Answer>,
}

impl<'a> Seat<'a> {
    /// `None` if the queue is full, which is seen without a lock: it is what a flood meets.
    fn take(admission: &'a Arc<Admission>, is_root: bool) -> Option<Self> {
        if admission.waiting() >= admission.queue_len {
            return None;
        }
        let seat = admission
            .places
            .serve(|room, answers| room.enter(admission, is_root, answers));
        seat.map(|(ticket, answered)| Self {
            admission,
            is_root,
            ticket,
            answered,
        })
    }
}

impl Future for Seat<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        // Who has a seat is answered or holds it, so that the other end is not lost before.
        let answered = Pin::new(&mut self.answered).poll(cx);
        answered.map(|answer| answer.unwrap_or(Err(ShedReason::QueueTimeout)))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if self.answered.is_terminated() {
            return;
        }
        let Self {
            admission,
            is_root,
            ticket,
            ..
        } = *self;
        // A place that was sent meanwhile is dropped with its channel.
        admission
            .places
            .serve(|room, _| room.leave(admission, ticket, is_root));
    }
}
