//! Who may run, who waits, who is shed.
//!
//! Owns the places: a bound on an actor's invocations, and a bound on root calls (calls from outside) over the whole
//! pool. A call that finds no place waits in a bounded queue, first come first served, and is shed when the queue is
//! full or its time is up. A place is taken for one call, never inside a loop that reads or accepts: one actor without
//! places must not stop the others (wasmCloud #4752).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use weft_compose::Limits;
use weft_observability::metrics::ShedReason;

/// Per cent of the pool that root calls may take. The rest is for calls that those make: with none left, they would
/// wait for each other for ever.
const ROOT_SHARE_PERCENT: u64 = 70;

/// Places for root calls, over all actors of a host.
#[derive(Clone)]
pub struct RootPlaces(Arc<Semaphore>);

impl RootPlaces {
    /// The root calls' share of a pool with `slots`.
    pub fn of_pool(slots: u32) -> Self {
        let places = (u64::from(slots) * ROOT_SHARE_PERCENT / 100).max(1);
        Self(Arc::new(Semaphore::new(
            usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS),
        )))
    }
}

/// One actor's places and queue.
pub struct Admission {
    places: Semaphore,
    root: RootPlaces,
    waiting: AtomicU32,
    queue_len: u32,
    queue_wait: Duration,
}

/// A place; dropping it frees it.
pub struct Place {
    admission: Arc<Admission>,
    is_root: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_root {
            self.admission.root.0.add_permits(1);
        }
        self.admission.places.add_permits(1);
    }
}

impl Admission {
    /// Places and a queue as `limits` say, within the root calls' places.
    pub fn new(limits: &Limits, root: RootPlaces) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(limits.concurrency as usize),
            root,
            waiting: AtomicU32::new(0),
            queue_len: limits.queue_len,
            queue_wait: limits.queue_wait,
        })
    }

    /// A place, if there is one now; a root call also takes one of the root calls'.
    pub fn try_admit(self: &Arc<Self>, is_root: bool) -> Option<Place> {
        let place = self.places.try_acquire().ok()?;
        // If it is not there, the place is given back: those who wait are served first.
        let root = is_root.then(|| self.root.0.try_acquire()).transpose().ok()?;
        Some(self.place(place, root))
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
        let _waiting = Waiting::enter(self).ok_or(ShedReason::QueueFull)?;
        let both = async {
            let place = self.places.acquire().await?;
            let root = match is_root {
                true => Some(self.root.0.acquire().await?),
                false => None,
            };
            Ok::<_, AcquireError>(self.place(place, root))
        };
        match tokio::time::timeout(self.queue_wait, both).await {
            Ok(place) => place.map_err(|_| ShedReason::QueueFull),
            Err(_) => Err(ShedReason::QueueTimeout),
        }
    }

    fn place(self: &Arc<Self>, place: SemaphorePermit<'_>, root: Option<SemaphorePermit<'_>>) -> Place {
        let is_root = root.is_some();
        place.forget();
        if let Some(root) = root {
            root.forget();
        }
        Place {
            admission: self.clone(),
            is_root,
        }
    }

    /// Calls that wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A seat in the queue.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn enter(admission: &'a Admission) -> Option<Self> {
        let before = admission.waiting.fetch_add(1, Ordering::Relaxed);
        let seat = Self(&admission.waiting);
        (before < admission.queue_len).then_some(seat)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(concurrency: u32, queue_len: u32, slots: u32) -> Arc<Admission> {
        let limits = Limits {
            concurrency,
            queue_len,
            queue_wait: Duration::from_millis(50),
            ..Limits::default()
        };
        Admission::new(&limits, RootPlaces::of_pool(slots))
    }

    #[tokio::test(start_paused = true)]
    async fn sheds_at_once_when_the_queue_is_full() {
        let admission = admission(1, 0, 100);
        let _held = admission.admit(true).await.unwrap();
        assert_eq!(admission.admit(true).await.err(), Some(ShedReason::QueueFull));
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn sheds_a_call_whose_wait_is_over() {
        let admission = admission(1, 1, 100);
        let _held = admission.admit(true).await.unwrap();
        assert_eq!(admission.admit(true).await.err(), Some(ShedReason::QueueTimeout));
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_call_takes_the_place_that_comes_free() {
        let admission = admission(1, 1, 100);
        let held = admission.admit(true).await.unwrap();
        let release = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(held);
        };
        let (admitted, ()) = tokio::join!(admission.admit(true), release);
        assert!(admitted.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_frees_its_seat() {
        let admission = admission(1, 1, 100);
        let _held = admission.admit(true).await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(1), admission.admit(true)).await;
        assert!(gone.is_err());
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_root_calls_make_take_the_share_that_is_left_to_them() {
        let admission = admission(100, 0, 10);
        let mut held = Vec::new();
        while let Ok(place) = admission.admit(true).await {
            held.push(place);
        }
        assert!(admission.admit(false).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn root_calls_leave_a_share_of_the_pool_for_the_calls_they_make() {
        let admission = admission(100, 0, 10);
        let mut held = Vec::new();
        while let Ok(place) = admission.admit(true).await {
            held.push(place);
        }
        assert_eq!(held.len(), 7);
        held.clear();
        assert!(admission.admit(true).await.is_ok(), "a refused call kept a place");
    }
}
