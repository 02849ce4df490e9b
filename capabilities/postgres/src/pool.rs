//! The connections: how many there are, who has which, and who waits for one.
//!
//! Owns the sessions that nobody uses. A caller gets the one that was used last of those whose task is on the caller's own
//! runtime, so that an answer wakes no other thread and finds the server's process warm; if there is none, a new one while
//! there may be more, and else one of another runtime. How a session is made, and whether it still is one, is
//! [`super::connect`]'s.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use weft_capabilities::sql::SqlError;

use crate::connect::Connections;
use crate::session::Session;

/// The longest wait for a connection when all are busy.
const WAIT: Duration = Duration::from_secs(5);
/// Callers that wait for a connection, at most.
const WAITERS_MAX: usize = 1_024;

/// The connections of one database.
pub(crate) struct Pool {
    connections: Connections,
    len_max: usize,
    /// One for each session that there may be; who has one may have a session.
    seats: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// The one that was used last is at the end. `None` once the pool is closed.
    idle: Mutex<Option<Vec<Session>>>,
}

impl Pool {
    pub(crate) fn new(connections: Connections, len_max: usize) -> Arc<Self> {
        Arc::new(Self {
            connections,
            len_max,
            seats: Arc::new(Semaphore::new(len_max)),
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Some(Vec::new())),
        })
    }

    /// A session for the caller, who waits until `deadline` at most.
    pub(crate) async fn get(self: &Arc<Self>, deadline: Instant) -> Result<Taken, SqlError> {
        let until = deadline.min(Instant::now() + WAIT);
        match timeout_at(until.into(), self.seated()).await {
            Ok(taken) => taken,
            Err(_) if until == deadline => Err(SqlError::DeadlineExceeded),
            Err(_) => Err(SqlError::Busy),
        }
    }

    async fn seated(self: &Arc<Self>) -> Result<Taken, SqlError> {
        let seat = match self.seats.clone().try_acquire_owned() {
            Ok(seat) => seat,
            Err(_) => self.wait().await?,
        };
        let here = Handle::current().id();
        loop {
            let session = match self.choose(here)? {
                None => self.connections.create().await?,
                Some(session) => match self.connections.is_alive(&session).await {
                    true => session,
                    // One less: the next look takes another, or makes one.
                    false => continue,
                },
            };
            return Ok(Taken {
                session,
                seat,
                pool: self.clone(),
            });
        }
    }

    async fn wait(&self) -> Result<OwnedSemaphorePermit, SqlError> {
        let _waits = Waits::begin(&self.waiting)?;
        let seat = self.seats.clone().acquire_owned().await;
        seat.map_err(|_| SqlError::Closed)
    }

    /// An idle session for a caller on the runtime `here`, who has a seat. `None` if a new one is to be made.
    fn choose(&self, here: Id) -> Result<Option<Session>, SqlError> {
        let mut idle = self.idle();
        let idle = idle.as_mut().ok_or(SqlError::Closed)?;
        if let Some(at) = idle.iter().rposition(|session| session.runtime == here) {
            return Ok(Some(idle.remove(at)));
        }
        // Each seat that is taken stands for a session, the caller's among them.
        let taken = self.len_max.saturating_sub(self.seats.available_permits());
        if idle.len() + taken <= self.len_max {
            return Ok(None);
        }
        Ok(idle.pop())
    }

    fn idle(&self) -> MutexGuard<'_, Option<Vec<Session>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses whoever comes or waits, and ends the sessions that nobody uses; the others end with their users.
    pub(crate) fn close(&self) {
        self.seats.close();
        drop(self.idle().take());
    }
}

/// Counts who waits.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Result<Self, SqlError> {
        let before = waiting.fetch_add(1, Relaxed);
        let waits = Self(waiting);
        if before >= WAITERS_MAX {
            return Err(SqlError::Busy);
        }
        Ok(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A session that somebody uses. Dropped, it is closed; [`Taken::give_back`] keeps it for the next.
pub(crate) struct Taken {
    session: Session,
    // Behind the session: it is free once the session is back or has gone.
    seat: OwnedSemaphorePermit,
    pool: Arc<Pool>,
}

impl Taken {
    /// Gives it back to the pool. Nothing may be left on it: the next user is another.
    pub(crate) fn give_back(self) {
        let Self { session, seat, pool } = self;
        if let Some(idle) = pool.idle().as_mut() {
            idle.push(session);
        }
        drop(seat);
    }
}

impl Deref for Taken {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
