//! A guest's stdout and stderr: each line becomes a log line of its invocation.
//!
//! A line is held back until it ends, at most [`LINE_LEN_MAX`] bytes of it; what the last line lacks its end of is
//! written when the invocation ends.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Standard output and standard error of one instance.
pub struct Stdio(Mutex<Lines>);

struct Lines {
    /// The invocation that the lines belong to; none while the instance is kept for the next.
    call: Option<Arc<Call>>,
    /// What was written of a line that has not ended, by [`Source`].
    started: [Vec<u8>; 2],
}

#[derive(Clone, Copy)]
enum Source {
    Stdout,
    Stderr,
}

/// One of the two, as an instance holds it.
#[derive(Clone)]
pub struct GuestStream {
    stdio: Arc<Stdio>,
    source: Source,
}

impl Stdio {
    /// For an instance that serves `call`.
    pub fn new(call: Arc<Call>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Lines {
            call: Some(call),
            started: Default::default(),
        })))
    }

    /// Lines at level info.
    pub fn stdout(self: &Arc<Self>) -> GuestStream {
        self.stream(Source::Stdout)
    }

    /// Lines at level warn.
    pub fn stderr(self: &Arc<Self>) -> GuestStream {
        self.stream(Source::Stderr)
    }

    /// What is written from now on belongs to `call`.
    pub fn begin(&self, call: Arc<Call>) {
        self.lines().call = Some(call);
    }

    /// Writes what is left of the invocation's lines, and lets go of it.
    pub fn end(&self) {
        let mut lines = self.lines();
        lines.flush();
        lines.call = None;
    }

    fn stream(self: &Arc<Self>, source: Source) -> GuestStream {
        GuestStream {
            stdio: self.clone(),
            source,
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn take(&mut self, source: Source, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let line = &mut self.started[source as usize];
            let room = LINE_LEN_MAX - line.len();
            let (piece, rest, ends) = match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => (&bytes[..end], &bytes[end + 1..], true),
                None if bytes.len() > room => (&bytes[..room], &bytes[room..], true),
                None => (bytes, &bytes[bytes.len()..], false),
            };
            line.extend_from_slice(piece);
            bytes = rest;
            if ends {
                self.emit(source);
            }
        }
    }

    fn emit(&mut self, source: Source) {
        let line = &mut self.started[source as usize];
        if let Some(call) = &self.call {
            let (source, level) = match source {
                Source::Stdout => ("stdout", tracing::Level::INFO),
                Source::Stderr => ("stderr", tracing::Level::WARN),
            };
            let message = line.strip_suffix(b"\r").unwrap_or(line);
            call.log(LogLine {
                level,
                source,
                context: None,
                message,
            });
        }
        line.clear();
    }

    fn flush(&mut self) {
        for source in [Source::Stdout, Source::Stderr] {
            if !self.started[source as usize].is_empty() {
                self.emit(source);
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl GuestStream {
    fn take(&self, bytes: &[u8]) {
        self.stdio.lines().take(self.source, bytes);
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestStream {
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

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
