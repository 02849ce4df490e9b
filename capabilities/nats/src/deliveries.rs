//! Deliveries of consumers of JetStream that are not settled yet, by the subjects on which the server hears of them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::link::Connection;

/// The deliveries of one member of a group that are not settled. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Acks>>);

#[derive(Default)]
struct Acks {
    held: HashSet<String>,
    /// Those that were dropped, and are to be given back.
    dropped: Vec<String>,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Acks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, acks: &str) {
        self.lock().held.insert(acks.to_owned());
    }

    pub(crate) fn remove(&self, acks: &str) {
        self.lock().held.remove(acks);
    }

    /// One was dropped, and is to be given back by whoever can.
    pub(crate) fn give_up(&self, acks: &str) {
        let mut all = self.lock();
        all.held.remove(acks);
        all.dropped.push(acks.to_owned());
    }

    /// Gives back what was dropped, for whoever is next. What is not heard comes again when its time is over.
    pub(crate) async fn give_back_dropped(&self, connection: &Connection) {
        let dropped = std::mem::take(&mut self.lock().dropped);
        for acks in dropped {
            drop(connection.publish(acks.into(), None, None, "-NAK".into()).await);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().held.is_empty()
    }

    /// Tells the server of each that its time has to begin anew.
    pub(crate) async fn prolong(&self, connection: &Connection) {
        let held: Vec<_> = self.lock().held.iter().cloned().collect();
        for acks in held {
            // A server that does not hear it delivers again.
            drop(connection.publish(acks.into(), None, None, "+WPI".into()).await);
        }
    }
}

/// What the subject on which a delivery is settled says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// How often the message was delivered by now.
    pub(crate) attempt: u32,
    /// Its place in the stream.
    pub(crate) sequence: u64,
}

impl Delivered {
    /// Reads `$JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.DELIVERED.SEQUENCE.SEQUENCE.TIME.PENDING`, and what may follow the
    /// long form.
    pub(crate) fn read(acks: &str) -> Option<Self> {
        let tokens: Vec<_> = acks.split('.').collect();
        let (attempt, sequence) = match tokens[..] {
            ["$JS", "ACK", _, _, delivered, sequence, _, _, _] => (delivered, sequence),
            ["$JS", "ACK", _, _, _, _, delivered, sequence, _, _, _, ..] => (delivered, sequence),
            _ => return None,
        };
        Some(Self {
            attempt: attempt.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_it_came_is_told_by_where_it_is_settled() {
        for (acks, delivered) in [
            ("$JS.ACK.weft.mailer.3.10.4.1700000000.0", Some((3, 10))),
            (
                "$JS.ACK.hub.ACCOUNT.weft.mailer.2.10.4.1700000000.0",
                Some((2, 10)),
            ),
            (
                "$JS.ACK._.ACCOUNT.weft.mailer.2.11.4.1700000000.0.token",
                Some((2, 11)),
            ),
            ("$JS.ACK.weft.mailer.x.10.4.1700000000.0", None),
            ("_INBOX.a.1", None),
        ] {
            let delivered = delivered.map(|(attempt, sequence)| Delivered { attempt, sequence });
            assert_eq!(Delivered::read(acks), delivered, "{acks}");
        }
    }
}
