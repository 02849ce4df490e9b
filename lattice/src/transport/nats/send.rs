//! Handing messages to a connection's client.
//!
//! Owns the bound on it: nothing is queued while there is no connection, and what the client has no room for in time was
//! not sent.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_nats::connection::State;
use async_nats::{Client, PublishErrorKind, ToSubject};
use bytes::Bytes;
use tokio::time::timeout;

use super::{Counters, SEND_WAIT, TransportError};
use crate::subject::Subject;

/// Sends on one connection. Clones are the same.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) client: Client,
    pub(super) counters: Arc<Counters>,
}

/// Why a message was not sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unsent {
    Disconnected,
    TooLarge,
    /// The connection had no room for it.
    Late,
}

impl Unsent {
    /// The same, of a message of `len` bytes to `subject`.
    pub(super) fn of(self, subject: &Subject, len: usize, len_max: usize) -> TransportError {
        let (subject, may_have_started) = (subject.clone(), false);
        match self {
            Self::Disconnected => TransportError::Disconnected,
            Self::TooLarge => TransportError::TooLarge {
                subject,
                len,
                len_max,
                may_have_started,
            },
            Self::Late => TransportError::Timeout {
                subject,
                may_have_started,
            },
        }
    }
}

impl Sender {
    /// Whether there is a connection. Who is told that there is none is counted as refused.
    pub(super) fn is_open(&self) -> bool {
        let is_open = self.client.connection_state() == State::Connected;
        if !is_open {
            self.counters.refused.fetch_add(1, Relaxed);
        }
        is_open
    }

    /// Hands a message to the client.
    pub(super) async fn send(
        &self,
        to: impl ToSubject,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), Unsent> {
        if !self.is_open() {
            return Err(Unsent::Disconnected);
        }
        let sent = async {
            match reply {
                Some(reply) => self.client.publish_with_reply(to, reply, payload).await,
                None => self.client.publish(to, payload).await,
            }
        };
        match timeout(SEND_WAIT, sent).await {
            Ok(sent) => sent.map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Unsent::TooLarge,
                _ => Unsent::Disconnected,
            }),
            Err(_) => {
                self.counters.send_timeouts.fetch_add(1, Relaxed);
                Err(Unsent::Late)
            }
        }
    }
}
