//! Streams of HTTP/2 whose client takes nothing, and connections that have none.
//!
//! Owns the bounds on both. Over HTTP/1.1 a client that reads nothing stalls its connection, which [`super::io`] ends, and
//! hyper ends a connection that brings no request. Over HTTP/2 a client may answer pings and give a stream no window: its
//! body then waits, and the guest behind it, for as long as a response may take. Only that stream is reset, as others of the
//! connection may be those of other clients, if a proxy stands between.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use http::Version;
use tokio::time::{Sleep, sleep};

/// How long a client may take for one piece of a stream, of some 64 KiB. A minute, as in other servers: on a slow line many
/// streams share what it carries.
const PIECE_MAX: Duration = Duration::from_secs(60);

/// What a stream waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waits {
    /// The next piece of its body.
    Guest,
    /// That the client takes the piece that is there.
    Client,
}

thread_local! {
    /// What a body that was polled on this thread waits for since.
    static WAITS: Cell<Option<Waits>> = const { Cell::new(None) };
}

/// Told by a body whenever it is polled.
pub(super) fn now_waits_for(whom: Waits) {
    WAITS.set(Some(whom));
}

/// Runs the task of a stream to its end, or until its client has taken nothing for [`PIECE_MAX`]; hyper resets a stream
/// whose task is dropped.
pub(super) async fn until_stalled(stream: impl Future) {
    let mut stream = pin!(stream);
    let mut stall: Option<Pin<Box<Sleep>>> = None;
    poll_fn(move |cx| {
        WAITS.set(None);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match WAITS.take() {
            Some(Waits::Client) => stall = Some(Box::pin(sleep(PIECE_MAX))),
            Some(Waits::Guest) => stall = None,
            None => {}
        }
        match &mut stall {
            Some(stall) => stall.as_mut().poll(cx),
            None => Poll::Pending,
        }
    })
    .await;
}

/// The streams of one connection.
#[derive(Default)]
pub struct Streams {
    open: AtomicU32,
    /// Streams that were opened or ended.
    changes: AtomicU32,
    /// Bytes that the client's side of the connection took.
    written: AtomicU64,
    is_http1: AtomicBool,
}

impl Streams {
    /// A request that came: its stream is open until what this gives is dropped.
    pub(super) fn open(self: &Arc<Self>, version: Version) -> Option<OpenStream> {
        if version != Version::HTTP_2 {
            self.is_http1.store(true, Relaxed);
            return None;
        }
        self.open.fetch_add(1, Relaxed);
        self.changes.fetch_add(1, Relaxed);
        Some(OpenStream(self.clone()))
    }

    /// Bytes went to the client.
    pub(super) fn wrote(&self, len: usize) {
        self.written.fetch_add(len as u64, Relaxed);
    }

    /// Returns when there was no stream for `limit`, and the client took less than `bytes_per_s` of what was left of those
    /// before. It may tell so as late as after twice the time. Never over HTTP/1.1.
    pub(super) async fn idle(&self, limit: Duration, bytes_per_s: u64) {
        loop {
            let (changes, written) = (self.changes.load(Relaxed), self.written.load(Relaxed));
            sleep(limit).await;
            if self.is_http1.load(Relaxed) {
                return pending().await;
            }
            let is_same = self.open.load(Relaxed) == 0 && self.changes.load(Relaxed) == changes;
            let taken = self.written.load(Relaxed).saturating_sub(written);
            if is_same && taken < bytes_per_s.saturating_mul(limit.as_secs()).max(1) {
                return;
            }
        }
    }
}

/// A stream that is open.
pub struct OpenStream(Arc<Streams>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.changes.fetch_add(1, Relaxed);
    }
}
