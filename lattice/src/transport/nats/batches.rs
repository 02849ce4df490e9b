//! Messages that go together: requests of this host to another, and answers to the requests that came so.
//!
//! A message costs its server, its sender and its receiver several times what reading a short request costs. So what is
//! ready to be sent to the same place at the same time goes as one [`Batch`]. Nothing waits for more to come: a batch
//! goes out when all that was ready to run has run, or when it is full.
//!
//! Requests that go together ask for their answers on a subject of the host that sends them and not on its inbox, as a
//! right to answer an inbox may be one for a single message.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Notify;

use super::super::replies::{Arrived, Replies};
use super::send::Sender;
use super::{Counters, TransportError};
use crate::envelope::Batch;
use crate::subject::Subject;

/// What goes in one message at most: enough that the message hardly counts, and few enough that the first does not wait
/// long for the last.
const PARTS_MAX: usize = 32;

/// The bytes after which a batch is full, and the longest payload that goes with others: of a longer one, the message
/// is the smaller part of the cost.
const LEN_MAX: usize = 16 << 10;

/// What waits to go out, at most, in bytes, beside as much that is being sent: as much as a connection of 130 Mbit/s takes in
/// the time in which a message has to be sent or is given up.
const WAITING_LEN_MAX: usize = 16 << 20;

/// What a part takes besides its payload.
const PART_LEN: usize = 64;

/// The last token of the subject of answers in a batch. Others have the number of what they answer.
const TOGETHER: &str = "batch";

/// What waits to go out.
pub(super) struct Outbox {
    sender: Sender,
    kind: Kind,
    waiting: Mutex<Waiting>,
    /// Something waits where nothing did, or is full.
    begun: Notify,
}

/// What is sent.
enum Kind {
    /// Requests, with the subject of this host's answers.
    Requests { answers: Subject, replies: Replies },
    /// Answers, to subjects of others' answers.
    Answers,
}

/// All that waits. Callers only put it here, and one task sends it: who goes away in the middle of sending would take along
/// what others put.
#[derive(Default)]
struct Waiting {
    /// Batches that nothing more goes into.
    full: Vec<(Subject, Pending)>,
    pending: HashMap<Subject, Pending>,
    /// Bytes of all of them.
    len: usize,
}

/// What waits for one subject.
#[derive(Default)]
struct Pending {
    parts: Vec<(u64, Bytes)>,
    len: usize,
}

impl Outbox {
    /// For requests, whose answers come on subjects below `answers`.
    pub(super) fn requests(sender: Sender, answers: Subject, replies: Replies) -> Self {
        Self::new(sender, Kind::Requests { answers, replies })
    }

    /// For answers.
    pub(super) fn answers(sender: Sender) -> Self {
        Self::new(sender, Kind::Answers)
    }

    fn new(sender: Sender, kind: Kind) -> Self {
        Self {
            sender,
            kind,
            waiting: Mutex::default(),
            begun: Notify::new(),
        }
    }

    /// Whether something of this length goes with others.
    pub(super) fn takes(&self, len: usize) -> bool {
        len <= self.len_max()
    }

    /// The last one may make a batch twice as long as this, and all their numbers take some hundred bytes.
    fn len_max(&self) -> usize {
        LEN_MAX.min(self.sender.client.max_payload() / 4)
    }

    /// Puts a message to the others for `to`, or refuses it if too much waits.
    pub(super) fn put(&self, to: &Subject, number: u64, payload: Bytes) -> Result<(), TransportError> {
        let len_max = self.len_max();
        let mut waiting = self.waiting();
        let len = payload.len() + PART_LEN;
        if waiting.len + len > WAITING_LEN_MAX {
            self.sender.counters.refused.fetch_add(1, Relaxed);
            return Err(TransportError::Full);
        }
        waiting.len += len;
        let batch = waiting.pending.entry(to.clone()).or_default();
        batch.len += payload.len();
        batch.parts.push((number, payload));
        let is_full = batch.parts.len() >= PARTS_MAX || batch.len >= len_max;
        if is_full || batch.parts.len() == 1 {
            self.begun.notify_one();
        }
        if is_full && let Some(full) = waiting.pending.remove_entry(to) {
            waiting.full.push(full);
        }
        Ok(())
    }

    /// Sends what waits whenever what was ready to run has run, and what is full before.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.begun.notified().await;
            if self.waiting().full.is_empty() {
                tokio::task::yield_now().await;
            }
            self.flush().await;
        }
    }

    /// Sends what waits.
    pub(super) async fn flush(&self) {
        let Waiting { full, pending, .. } = std::mem::take(&mut *self.waiting());
        for (to, batch) in full.into_iter().chain(pending) {
            self.send(&to, batch.parts).await;
        }
    }

    async fn send(&self, to: &Subject, parts: Vec<(u64, Bytes)>) {
        match &self.kind {
            Kind::Requests { answers, replies } => {
                // Who gave up meanwhile is not sent.
                let (number, parts) = replies.batch(parts);
                if parts.is_empty() {
                    return;
                }
                let numbers: Vec<u64> = parts.iter().map(|(number, _)| *number).collect();
                let reply = format!("{answers}.{number}");
                if let Err(error) = self.publish(to, to.as_str().to_owned(), Some(reply), parts).await {
                    for number in numbers {
                        replies.arrive(number, Arrived::NotSent(error.clone()));
                    }
                }
            }
            Kind::Answers => {
                // Their callers hear of it by their deadlines, as of an answer that is lost.
                let _ = self.publish(to, format!("{to}.{TOGETHER}"), None, parts).await;
            }
        }
    }

    async fn publish(
        &self,
        subject: &Subject,
        to: String,
        reply: Option<String>,
        parts: Vec<(u64, Bytes)>,
    ) -> Result<(), TransportError> {
        let (counters, count) = (&self.sender.counters, parts.len() as u64);
        let message = Batch { parts }.encode();
        let len = message.len();
        let sent = self.sender.send(to, reply, message).await;
        sent.map_err(|unsent| unsent.of(subject, len, self.sender.client.max_payload()))?;
        counters.batches.fetch_add(1, Relaxed);
        counters.batched.fetch_add(count, Relaxed);
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands over the answers that come below a host's subject for them.
pub(super) async fn take_answers(mut answers: Subscriber, replies: Replies, counters: Arc<Counters>) {
    while let Some(message) = answers.next().await {
        let last = message.subject.rsplit_once('.').map_or("", |(_, last)| last);
        let number = last.parse::<u64>().ok();
        let strays = match (message.status, number) {
            (Some(StatusCode::NO_RESPONDERS), Some(batch)) => {
                replies.no_responders(batch);
                0
            }
            (None, Some(number)) => u64::from(!replies.arrive(number, Arrived::Reply(message.payload))),
            (None, None) if last == TOGETHER => match Batch::decode(&message.payload) {
                Ok(batch) => batch
                    .parts
                    .into_iter()
                    .map(|(number, reply)| u64::from(!replies.arrive(number, Arrived::Reply(reply))))
                    .sum(),
                Err(_) => 1,
            },
            _ => 1,
        };
        counters.strays.fetch_add(strays, Relaxed);
    }
}
