//! A guest's stdout and stderr: each line becomes a log line of its invocation.
//!
//! A line is held back until it ends, at most [`LINE_LEN_MAX`] bytes of it; the rest of the last line is written when
//! the stream is dropped with its store.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::invocation::Call;
use crate::store::LogLine;

/// A longer line is cut into pieces of this length, so that one line can't fill the log.
const LINE_LEN_MAX: usize = 8 << 10;
/// What a guest may write at once.
const WRITE_LEN_MAX: usize = 64 << 10;

/// Standard output or standard error of one invocation.
#[derive(Clone)]
pub struct GuestStdio {
    call: Arc<Call>,
    source: &'static str,
    level: tracing::Level,
}

impl GuestStdio {
    /// Lines at level info.
    pub fn stdout(call: Arc<Call>) -> Self {
        Self {
            call,
            source: "stdout",
            level: tracing::Level::INFO,
        }
    }

    /// Lines at level warn.
    pub fn stderr(call: Arc<Call>) -> Self {
        Self {
            call,
            source: "stderr",
            level: tracing::Level::WARN,
        }
    }
}

impl IsTerminal for GuestStdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines {
            stdio: self.clone(),
            line: Vec::new(),
        })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines {
            stdio: self.clone(),
            line: Vec::new(),
        })
    }
}

/// Bytes on their way to becoming lines.
struct Lines {
    stdio: GuestStdio,
    line: Vec<u8>,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LINE_LEN_MAX - self.line.len();
            let (piece, rest, ends) = match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => (&bytes[..end], &bytes[end + 1..], true),
                None if bytes.len() > room => (&bytes[..room], &bytes[room..], true),
                None => (bytes, &bytes[bytes.len()..], false),
            };
            self.line.extend_from_slice(piece);
            bytes = rest;
            if ends {
                self.emit();
            }
        }
    }

    fn emit(&mut self) {
        let GuestStdio { call, source, level } = &self.stdio;
        let message = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        call.log(LogLine {
            level: *level,
            source,
            context: None,
            message,
        });
        self.line.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.emit();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_LEN_MAX)
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
