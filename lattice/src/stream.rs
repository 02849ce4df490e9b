//! Streams of bytes between two hosts, both ways at once, for what is too long for a call or not known when it is made.
//!
//! Owns the promise that a reader gets exactly the bytes that were written, in order, or a reset; and the bounds: a
//! stream has a window, the windows sum up to at most [`BUFFERED_MAX`], and a reader that stalls stalls only its own
//! stream. Must not know what the bytes are. A stream goes with a call: the caller prepares it ([`Streams::prepare`]),
//! the client binds it to the host that it calls, and the callee finds it in the invocation.
//!
//! `end.rs` is one end as a state machine, `handle.rs` what its user holds, `pump.rs` the two tasks of a host.

mod end;
mod handle;
mod pump;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::end::End;
pub use self::handle::{Binder, Duplex, Offer, Reader, Writer};
use crate::envelope::{Side, StreamId};
use crate::subject::{Address, Subject, Subjects};
use crate::transport::{Transport, TransportError};

/// What all streams of a host may hold unread.
pub const BUFFERED_MAX: u64 = 128 << 20;

/// A stream's window: what is on its way at once. At 5 ms of round trip it gives 50 MB/s.
pub const WINDOW: u64 = 256 << 10;

/// The window when half of [`BUFFERED_MAX`] is given out, and what a callee may send before it is told anything.
pub const WINDOW_MIN: u64 = 64 << 10;

/// The most data of a frame.
pub const FRAME_DATA_MAX: usize = 32 << 10;

/// What a frame counts at least, so that a window is a bound for the number of frames too.
pub const FRAME_COST_MIN: u64 = 1 << 10;

/// How often an end says that it is there, if it has said nothing else.
const ALIVE_EACH: Duration = Duration::from_secs(5);

/// An end that heard nothing for so long takes the other for gone. Membership mostly tells sooner.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Frames with data may be overtaken by signs of life that speak of them, for so long.
const BEHIND_MAX: Duration = Duration::from_secs(3);

/// Credits and resets that wait to be sent. A credit that finds no room is said again with the next sign of life.
const SIGNS_MAX: usize = 16_384;

/// What a frame has beside its data, in bytes, with room.
const FRAME_OVERHEAD: usize = 256;

/// Why a stream goes no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It was ended before its end, by one of the two or as something was lost; what was written may not have come.
    #[error("the stream was reset: {0}")]
    Reset(Arc<str>),
    /// All room for streams is given out.
    #[error("streams hold {BUFFERED_MAX} bytes already: try again when some have ended")]
    Full,
}

/// Numbers since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Streams that are open.
    pub open: u64,
    /// Bytes that their windows sum up to.
    pub reserved: u64,
    /// Bytes of data that came.
    pub received: u64,
    /// Streams that were reset, by either end.
    pub resets: u64,
    /// Frames that came for no stream that is open.
    pub strays: u64,
}

/// The streams of one host. Clones are the same.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    _pump: Mutex<JoinSet<()>>,
}

struct Shared {
    transport: Arc<dyn Transport>,
    subjects: Subjects,
    data_len_max: usize,
    table: Mutex<BTreeMap<(StreamId, Side), Arc<End>>>,
    reserved: AtomicU64,
    signs: mpsc::Sender<(Subject, Bytes)>,
    received: AtomicU64,
    resets: AtomicU64,
    strays: AtomicU64,
    opened: AtomicU64,
}

impl Streams {
    /// The streams of the host at `address` over `transport`.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn start(
        transport: Arc<dyn Transport>,
        subjects: Subjects,
        address: &Address,
    ) -> Result<Self, TransportError> {
        let own = subjects
            .stream(address.as_str())
            .expect("an address is a token, as it was made as one");
        let frames_max = usize::try_from(BUFFERED_MAX / FRAME_COST_MIN).unwrap_or(usize::MAX);
        let frames = transport.subscribe(own, frames_max + SIGNS_MAX).await?;
        let (signs, queue) = mpsc::channel(SIGNS_MAX);
        let shared = Arc::new(Shared {
            data_len_max: FRAME_DATA_MAX.min(transport.payload_len_max().saturating_sub(FRAME_OVERHEAD)),
            transport: transport.clone(),
            subjects,
            table: Mutex::default(),
            reserved: AtomicU64::new(0),
            signs,
            received: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            strays: AtomicU64::new(0),
            opened: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(pump::receive(shared.clone(), frames));
        tasks.spawn(pump::send(transport, queue));
        let _pump = Mutex::new(tasks);
        Ok(Self(Arc::new(Inner { shared, _pump })))
    }

    /// A stream for a call that is about to be made, and what binds it to whom it is made to.
    ///
    /// # Errors
    /// There is no room.
    pub fn prepare(&self) -> Result<(Duplex, Binder), StreamError> {
        let window = self.0.shared.reserve()?;
        let end = Arc::new(End::new(self.0.shared.clone(), Side::Caller, window));
        Ok((Duplex::new(end.clone()), Binder::new(end)))
    }

    /// The callee's end of the stream `id` of a call from `from`.
    ///
    /// # Errors
    /// There is no room, or that stream is open already.
    pub fn accept(&self, id: StreamId, from: &Address) -> Result<Duplex, StreamError> {
        let window = self.0.shared.reserve()?;
        let end = Arc::new(End::new(self.0.shared.clone(), Side::Callee, window));
        if !end.route_to(id, from) {
            return Err(StreamError::Reset("it is open already".into()));
        }
        end.grant();
        Ok(Duplex::new(end))
    }

    /// Resets what goes to or comes from a host that has gone.
    pub fn peer_gone(&self, peer: &Address) {
        for end in self.0.shared.ends() {
            if end.is_with(peer) {
                end.reset_here("its other end has gone");
            }
        }
    }

    /// Numbers since the start.
    pub fn stats(&self) -> StreamStats {
        let shared = &self.0.shared;
        StreamStats {
            open: shared.table().len() as u64,
            reserved: shared.reserved.load(Relaxed),
            received: shared.received.load(Relaxed),
            resets: shared.resets.load(Relaxed),
            strays: shared.strays.load(Relaxed),
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, BTreeMap<(StreamId, Side), Arc<End>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> Vec<Arc<End>> {
        let mut ends: Vec<_> = self.table().values().cloned().collect();
        // By age, as names are random and a run that is repeated by its seed is to be the same.
        ends.sort_unstable_by_key(|end| end.opened);
        ends
    }

    fn reserve(&self) -> Result<u64, StreamError> {
        let window = |reserved: u64| {
            if reserved + WINDOW <= BUFFERED_MAX / 2 {
                WINDOW
            } else {
                WINDOW_MIN
            }
        };
        let more = |reserved: u64| Some(reserved + window(reserved)).filter(|sum| *sum <= BUFFERED_MAX);
        match self.reserved.fetch_update(Relaxed, Relaxed, more) {
            Ok(before) => Ok(window(before)),
            Err(_) => Err(StreamError::Full),
        }
    }
}
