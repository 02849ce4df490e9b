//! A bounded queue from a backend to who listens: of messages, or of changes of keys.
//!
//! Owns the bounds, in numbers and in bytes, and the count of what was lost as there was no room.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

/// Bytes that wait in one queue, at most, however few pieces they are.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;

/// What waits in a queue.
pub trait Queued {
    /// Its bytes, as the bound counts them.
    fn weight(&self) -> usize;
}

/// What comes, until this is dropped.
pub struct Receiver<T> {
    queue: mpsc::Receiver<T>,
    counts: Arc<Counts>,
    guard: Option<Box<dyn Send + Sync>>,
}

/// The backend's end of a [`Receiver`].
pub struct Sender<T> {
    queue: mpsc::Sender<T>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    dropped: AtomicU64,
    bytes: AtomicUsize,
    /// Something was taken.
    taken: Notify,
}

impl Counts {
    /// Counts `len` bytes if there is room for them. A piece by itself always has it.
    fn try_add(&self, len: usize) -> bool {
        let with = |bytes| (bytes == 0 || bytes + len <= QUEUE_BYTES_MAX).then_some(bytes + len);
        let added = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, with);
        added.is_ok()
    }

    fn subtract(&self, len: usize) {
        self.bytes.fetch_sub(len, Ordering::Relaxed);
        self.taken.notify_waiters();
    }
}

/// Why a piece was not queued.
#[derive(Debug)]
pub enum Refused<T> {
    /// There is no room.
    Full(Box<T>),
    /// Nobody takes any more.
    Gone(Box<T>),
}

/// A queue with room for `len_max` pieces (at least one) of [`QUEUE_BYTES_MAX`]: the backend's end of it, and the other.
pub fn queue<T>(len_max: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, queue) = mpsc::channel(len_max.max(1));
    let counts = Arc::<Counts>::default();
    let sender = Sender {
        queue: sender,
        counts: counts.clone(),
    };
    let guard = None;
    (sender, Receiver { queue, counts, guard })
}

impl<T: Queued> Receiver<T> {
    /// For backends: `guard` is dropped when no more is wanted. The backend then gives what has reached it already, and
    /// drops its [`Sender`].
    #[must_use]
    pub fn until(mut self, guard: impl Send + Sync + 'static) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    /// The next piece; `None` when no more will come. Dropping the future loses none.
    pub async fn next(&mut self) -> Option<T> {
        let piece = self.queue.recv().await?;
        self.counts.subtract(piece.weight());
        Some(piece)
    }

    /// Wants no more: [`Receiver::next`] gives what has come, and then `None`.
    pub fn end(&mut self) {
        self.guard = None;
    }

    /// Pieces that were lost because the queue was full. The newest are: those that wait have been accepted.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl<T: Queued> Sender<T> {
    /// Queues a piece if there is room.
    ///
    /// # Errors
    /// The piece, as there is none or nobody takes it.
    pub fn try_send(&self, piece: T) -> Result<(), Refused<T>> {
        // Before the bytes are looked at: what nobody took counts among them.
        if self.queue.is_closed() {
            return Err(Refused::Gone(Box::new(piece)));
        }
        let weight = piece.weight();
        if !self.counts.try_add(weight) {
            return Err(Refused::Full(Box::new(piece)));
        }
        let sent = self.queue.try_send(piece).map_err(|error| match error {
            mpsc::error::TrySendError::Full(piece) => Refused::Full(Box::new(piece)),
            mpsc::error::TrySendError::Closed(piece) => Refused::Gone(Box::new(piece)),
        });
        if sent.is_err() {
            self.counts.subtract(weight);
        }
        sent
    }

    /// Queues a piece, or drops it and counts that if there is no room. Whether anybody still listens.
    pub fn offer(&self, piece: T) -> bool {
        match self.try_send(piece) {
            Ok(()) => true,
            Err(Refused::Full(_)) => {
                self.count_dropped();
                true
            }
            Err(Refused::Gone(_)) => false,
        }
    }

    /// Queues a piece, as soon as there is room: for backends that keep what is not taken. Whether anybody still listens.
    pub async fn send(&self, piece: T) -> bool {
        let Ok(place) = self.queue.reserve().await else {
            return false;
        };
        loop {
            // Begins to listen before it looks, so that nothing is taken unheard in between.
            let taken = self.counts.taken.notified();
            if self.counts.try_add(piece.weight()) {
                place.send(piece);
                return true;
            }
            tokio::select! {
                () = taken => {}
                () = self.queue.closed() => return false,
            }
        }
    }

    /// Counts a piece that was lost as there was no room.
    pub fn count_dropped(&self) {
        self.count_lost(1);
    }

    /// Counts pieces that were lost before they came here.
    pub fn count_lost(&self, pieces: u64) {
        self.counts.dropped.fetch_add(pieces, Ordering::Relaxed);
    }

    /// Waits until nobody takes any more.
    pub async fn unheard(&self) {
        self.queue.closed().await;
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}
