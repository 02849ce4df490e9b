//! Bodies on their way in and out.
//!
//! Owns what a request's body may be (how long, how slow) and the link from a response's body back to the guest that
//! writes it: when the client goes, the guest is told.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::DropGuard;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::streams::{OpenStream, Waits, now_waits_for};
use crate::invocation::Call;

/// A request's body, bounded in length and in slowness. Only time spent waiting for the client counts: an actor may
/// read as slowly as it likes.
pub struct RequestBody {
    inner: Source,
    left: u64,
    rate: Rate,
}

/// Where a request's body comes from.
enum Source {
    /// A client's connection.
    Client(Incoming),
    /// Another host, which bounds its client.
    Host(UnsyncBoxBody<Bytes, Error>),
}

/// The least speed of a client.
struct Rate {
    bytes_per_s: u64,
    grace: Duration,
    waited: Duration,
    received: u64,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl RequestBody {
    /// Bounds `inner` to `max` bytes that come at no less than `bytes_per_s`, after `grace`.
    pub fn new(inner: Incoming, max: u64, bytes_per_s: u64, grace: Duration) -> Self {
        Self {
            inner: Source::Client(inner),
            left: max,
            rate: Rate::new(bytes_per_s, grace),
        }
    }

    /// A body that another host sends, of at most `max` bytes.
    pub fn of_host(inner: UnsyncBoxBody<Bytes, Error>, max: u64, bytes_per_s: u64, grace: Duration) -> Self {
        Self {
            inner: Source::Host(inner),
            left: max,
            rate: Rate::new(bytes_per_s, grace),
        }
    }
}

impl Rate {
    fn new(bytes_per_s: u64, grace: Duration) -> Self {
        Self {
            bytes_per_s,
            grace,
            waited: Duration::ZERO,
            received: 0,
            waiting: None,
        }
    }

    /// The waiting that the bytes so far allow.
    fn allowed(&self) -> Duration {
        self.grace + Duration::from_millis(self.received.saturating_mul(1_000) / self.bytes_per_s.max(1))
    }

    /// Ready when the client has been waited for too long.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.allowed().saturating_sub(self.waited);
        let (_, timer) = self
            .waiting
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        timer.as_mut().poll(cx)
    }

    fn got(&mut self, len: u64) {
        self.received = self.received.saturating_add(len);
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let polled = match &mut this.inner {
            Source::Client(body) => Pin::new(body).poll_frame(cx).map_err(Error::Hyper),
            Source::Host(body) => Pin::new(body).poll_frame(cx),
        };
        let Poll::Ready(frame) = polled else {
            ready!(this.rate.poll_too_slow(cx));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        let len = frame.data_ref().map_or(0, Bytes::len) as u64;
        this.rate.got(len);
        match this.left.checked_sub(len) {
            Some(left) => {
                this.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(Some(Err(Error::HttpRequestBodySize(None)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Source::Client(body) => body.is_end_stream(),
            Source::Host(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Source::Client(body) => body.size_hint(),
            Source::Host(body) => body.size_hint(),
        }
    }
}

/// A response's body. While it is on its way, it is tied to the guest that writes it.
pub struct ResponseBody {
    inner: HyperOutgoingBody,
    guest: Option<Writer>,
    /// Held while it is on its way, over HTTP/2.
    _stream: Option<OpenStream>,
}

/// A guest that is still writing.
struct Writer {
    call: Arc<Call>,
    /// Dropped before the body's end, it cancels the guest.
    cancel: DropGuard,
    /// Bytes to come, if the response announced its length: hyper then drops the body without asking for its end.
    left: Option<u64>,
}

impl ResponseBody {
    /// A body that is there as a whole, as its guest has ended.
    pub fn finished(inner: HyperOutgoingBody) -> Self {
        Self {
            inner,
            guest: None,
            _stream: None,
        }
    }

    /// A body of `len` bytes, if that was announced, that the guest of `call` is still writing. Dropped before its
    /// end, it cancels the guest.
    pub fn streaming(inner: HyperOutgoingBody, call: Arc<Call>, cancel: DropGuard, len: Option<u64>) -> Self {
        Self {
            inner,
            guest: Some(Writer {
                call,
                cancel,
                left: len,
            }),
            _stream: None,
        }
    }

    /// The same, on its way by `stream`.
    pub(super) fn of_stream(self, stream: Option<OpenStream>) -> Self {
        Self {
            _stream: stream,
            ..self
        }
    }

    /// A body of the host's own.
    pub fn full(bytes: Bytes) -> Self {
        Self::finished(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
    }

    /// What a guest does after its answer is its own: it goes on to its end, within its limits.
    fn let_go(&mut self) {
        if let Some(Writer { cancel, .. }) = self.guest.take() {
            cancel.disarm();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        now_waits_for(Waits::Guest);
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        now_waits_for(Waits::Client);
        let Some(Writer { call, left, .. }) = &mut self.guest else {
            return Poll::Ready(frame);
        };
        match &frame {
            // To the library that an instance was dropped looks like the end of its body. It must not look so to the
            // client. (A guest that fails right after a whole body of no announced length is taken for this too.)
            None if call.is_failed() => return Poll::Ready(Some(Err(Error::HttpResponseIncomplete))),
            None => self.let_go(),
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                *left = left.map(|left| left.saturating_sub(len));
                if frame.is_trailers() || *left == Some(0) {
                    self.let_go();
                }
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn too_slow(rate: &mut Rate) {
        std::future::poll_fn(|cx| rate.poll_too_slow(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_below_the_least_rate_is_cut_off_after_its_grace() {
        let mut rate = Rate::new(100, Duration::from_secs(5));
        let started = Instant::now();
        // One byte a second, as a slow-body attack sends.
        while tokio::time::timeout(Duration::from_secs(1), too_slow(&mut rate))
            .await
            .is_err()
        {
            rate.got(1);
        }
        let lasted = started.elapsed();
        assert!(
            (Duration::from_secs(5)..Duration::from_secs(6)).contains(&lasted),
            "{lasted:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_above_the_least_rate_is_never_cut_off() {
        let mut rate = Rate::new(100, Duration::from_secs(5));
        for _ in 0..1_000 {
            assert!(
                tokio::time::timeout(Duration::from_secs(1), too_slow(&mut rate))
                    .await
                    .is_err()
            );
            rate.got(100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_actors_own_slowness_does_not_count() {
        let mut rate = Rate::new(100, Duration::from_secs(5));
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert!(
            tokio::time::timeout(Duration::from_secs(4), too_slow(&mut rate))
                .await
                .is_err()
        );
    }
}
