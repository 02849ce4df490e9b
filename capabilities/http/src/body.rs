//! A response's body: it may not pause for long, and gives its connection back at its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::HttpError;
use crate::pool::{Connection, Key, Pool};

/// The body of a response. Dropped before its end, it ends the connection if that is HTTP/1.1.
pub struct ResponseBody {
    incoming: Incoming,
    between_bytes: Duration,
    /// Set while a piece is waited for.
    pause: Option<Pin<Box<Sleep>>>,
    kept: Option<(Arc<Pool>, Key, Connection)>,
}

impl ResponseBody {
    pub(crate) fn new(
        incoming: Incoming,
        between_bytes: Duration,
        kept: Option<(Arc<Pool>, Key, Connection)>,
    ) -> Self {
        let mut this = Self {
            incoming,
            between_bytes,
            pause: None,
            kept,
        };
        if this.incoming.is_end_stream() {
            this.give_back();
        }
        this
    }

    fn give_back(&mut self) {
        if let Some((pool, key, connection)) = self.kept.take() {
            pool.keep(key, connection);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            self.pause = None;
            if frame.is_none() || self.incoming.is_end_stream() {
                self.give_back();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(HttpError::from)));
        }
        let between_bytes = self.between_bytes;
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + between_bytes)));
        ready!(pause.as_mut().poll(context));
        self.kept = None;
        Poll::Ready(Some(Err(HttpError::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
