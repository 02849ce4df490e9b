//! Deliveries of consumers of JetStream that are not settled yet, by the subjects on which the server hears of them.
//!
//! Owns the time after which one comes again that was refused. The server could count it, too, but now and then (seen with
//! 2.15, of the first one of a consumer) gives it only when the time for its handling is over.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::link::Connection;

/// The deliveries of one member of a group that are not settled. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Shared>);

#[derive(Default)]
struct Shared {
    acks: Mutex<Acks>,
    /// Something is to be given back.
    told: Notify,
}

#[derive(Default)]
struct Acks {
    held: HashSet<String>,
    /// Those that were refused, and when they are to be given back.
    refused: BTreeSet<(Instant, String)>,
    /// Those that are to be given back now.
    due: Vec<String>,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Acks> {
        self.0.acks.lock().unwrap_or_else(PoisonError::into_inner)
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
        all.due.push(acks.to_owned());
        drop(all);
        self.0.told.notify_one();
    }

    /// One was refused, and is to be given back after `delay`.
    pub(crate) fn refuse(&self, acks: &str, delay: Duration) {
        let mut all = self.lock();
        all.held.remove(acks);
        all.refused.insert((Instant::now() + delay, acks.to_owned()));
        drop(all);
        self.0.told.notify_one();
    }

    /// Waits until something that was refused or dropped is to be given back. For one task.
    pub(crate) async fn due(&self) {
        loop {
            let next = {
                let mut all = self.lock();
                let now = Instant::now();
                while all.refused.first().is_some_and(|(due, _)| *due <= now) {
                    let due = all.refused.pop_first();
                    all.due.extend(due.map(|(_, acks)| acks));
                }
                if !all.due.is_empty() {
                    return;
                }
                all.refused.first().map(|(due, _)| *due)
            };
            tokio::select! {
                () = self.0.told.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Gives back what is due or was dropped, for whoever is next. What is not heard, or finds no connection, comes again when
    /// its time is over.
    pub(crate) async fn give_back(&self, connection: Option<&Connection>) {
        let due = std::mem::take(&mut self.lock().due);
        let Some(connection) = connection else { return };
        for acks in due {
            drop(connection.publish(acks.into(), None, None, "-NAK".into()).await);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let all = self.lock();
        all.held.is_empty() && all.refused.is_empty() && all.due.is_empty()
    }

    /// Tells the server of each that its time has to begin anew.
    pub(crate) async fn prolong(&self, connection: &Connection) {
        let held: Vec<_> = {
            let all = self.lock();
            let refused = all.refused.iter().map(|(_, acks)| acks);
            all.held.iter().chain(refused).cloned().collect()
        };
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
