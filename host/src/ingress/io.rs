//! A client's connection, with a bound on how long it may stall.
//!
//! hyper bounds the time for a request's head; this bounds what hyper does not: a connection that never says what it
//! speaks, and a client that does not read what it is sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::streams::Streams;

/// Bytes by which a connection has shown which protocol it speaks: the length of HTTP/2's preface (RFC 9113, 3.4).
const PREFACE_LEN: usize = 24;

/// A connection that fails with `TimedOut` when the other side stalls.
pub struct TimedIo<S> {
    inner: S,
    preface_left: usize,
    preface_timer: Option<Pin<Box<Sleep>>>,
    stall: Duration,
    stall_timer: Option<Pin<Box<Sleep>>>,
    streams: Option<Arc<Streams>>,
}

impl<S> TimedIo<S> {
    /// Bounds `inner`: the first bytes must come within `first`, and each write must get on within `stall`.
    pub fn new(inner: S, first: Duration, stall: Duration) -> Self {
        Self {
            inner,
            preface_left: PREFACE_LEN,
            preface_timer: Some(Box::pin(tokio::time::sleep(first))),
            stall,
            stall_timer: None,
            streams: None,
        }
    }

    /// The same; `streams` is told what goes out.
    pub(super) fn with_streams(mut self, streams: Arc<Streams>) -> Self {
        self.streams = Some(streams);
        self
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(len)), Some(streams)) = (polled, &self.streams) {
            streams.wrote(*len);
        }
    }

    /// Passes a write's outcome on, or an error if it has been pending for too long.
    fn watch<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall_timer = None;
            return polled;
        }
        let stall = self.stall;
        let timer = self
            .stall_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read what it is sent",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let Some(timer) = &mut self.preface_timer else {
            return polled;
        };
        if polled.is_pending() {
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client says nothing",
            )));
        }
        self.preface_left = self.preface_left.saturating_sub(buf.filled().len() - before);
        if self.preface_left == 0 {
            self.preface_timer = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(&polled);
        self.watch(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(&polled);
        self.watch(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_left() {
        let (near, _far) = tokio::io::duplex(64);
        let error = TimedIo::new(near, SECOND, SECOND).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_its_preface_byte_by_byte_is_left() {
        let (near, mut far) = tokio::io::duplex(64);
        let drip = async {
            for _ in 0..20 {
                tokio::time::sleep(SECOND / 4).await;
                let _ = far.write_u8(b'P').await;
            }
        };
        let mut io = TimedIo::new(near, SECOND, SECOND);
        let mut buffer = [0; PREFACE_LEN];
        let (read, ()) = tokio::join!(io.read_exact(&mut buffer), drip);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_left_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut io = TimedIo::new(near, SECOND, SECOND);
        let slow = async {
            let mut buffer = [0; 4];
            for _ in 0..4 {
                tokio::time::sleep(SECOND / 2).await;
                far.read_exact(&mut buffer).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(io.write_all(&[0; 20]), slow);
        written.unwrap();
        assert_eq!(
            io.write_all(&[0; 20]).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }
}
