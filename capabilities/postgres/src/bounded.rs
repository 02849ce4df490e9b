//! A connection that refuses a message which is too large before it is held in memory.
//!
//! The client below this reads a whole message, and so a whole row, before anyone sees a byte of it; a statement as
//! short as `SELECT repeat('x', 1000000000)` makes one of a gigabyte. Here the length that each message begins with is
//! seen first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};
use weft_capabilities::sql::RESULT_BYTES_MAX;

/// The longest message that is read: a result of one row, and the length of each of its columns.
const MESSAGE_LEN_MAX: usize = RESULT_BYTES_MAX + (64 << 10);
/// A message's kind, and its length, which counts itself.
const HEAD_LEN: usize = 5;

/// Whether a message was refused. The connection is of no use then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrun(Arc<AtomicBool>);

impl Overrun {
    pub(crate) fn happened(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A stream of the server's messages.
pub(crate) struct Bounded<S> {
    stream: S,
    head: [u8; HEAD_LEN],
    head_len: usize,
    /// Bytes that are left of the message whose head was read.
    body_len: usize,
    overrun: Overrun,
}

impl<S> Bounded<S> {
    pub(crate) fn new(stream: S, overrun: Overrun) -> Self {
        Self {
            stream,
            head: [0; HEAD_LEN],
            head_len: 0,
            body_len: 0,
            overrun,
        }
    }

    fn follow(&mut self, mut read: &[u8]) -> io::Result<()> {
        while !read.is_empty() {
            let of_body = self.body_len.min(read.len());
            self.body_len -= of_body;
            read = &read[of_body..];
            let of_head = (HEAD_LEN - self.head_len).min(read.len());
            if self.body_len > 0 || of_head == 0 {
                continue;
            }
            self.head[self.head_len..self.head_len + of_head].copy_from_slice(&read[..of_head]);
            self.head_len += of_head;
            read = &read[of_head..];
            if self.head_len == HEAD_LEN {
                let [_, a, b, c, d] = self.head;
                let len = u32::from_be_bytes([a, b, c, d]) as usize;
                if len > MESSAGE_LEN_MAX {
                    self.overrun.0.store(true, Ordering::Release);
                    return Err(io::Error::other("the server's message is too large"));
                }
                self.body_len = len.saturating_sub(HEAD_LEN - 1);
                self.head_len = 0;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.follow(&buf.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Bounded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let mut message = vec![b'D'];
        message.extend_from_slice(&u32::try_from(len + 4).unwrap().to_be_bytes());
        message.resize(HEAD_LEN + len, 7);
        message
    }

    proptest! {
        #[test]
        fn finds_each_message_however_the_bytes_come(
            lens in proptest::collection::vec(0_usize..50, 0..20), step in 1_usize..40,
        ) {
            let overrun = Overrun::default();
            let mut bounded = Bounded::new(tokio::io::empty(), overrun.clone());
            let whole: Vec<u8> = lens.iter().flat_map(|len| message(*len)).collect();
            for part in whole.chunks(step) {
                bounded.follow(part).unwrap();
            }
            prop_assert_eq!((bounded.head_len, bounded.body_len), (0, 0));
            let too_large = [b'D', 0x7f, 0, 0, 0];
            prop_assert!(too_large.chunks(step).any(|part| bounded.follow(part).is_err()));
            prop_assert!(overrun.happened());
        }
    }

    #[tokio::test]
    async fn passes_on_what_is_within_the_bound() {
        let whole = message(10);
        let mut read = Vec::new();
        Bounded::new(whole.as_slice(), Overrun::default())
            .read_to_end(&mut read)
            .await
            .unwrap();
        assert_eq!(read, whole);
    }
}
