//! How a copy gets what changes, by calls to the host that has the store: a call waits there until something has
//! changed, so that an idle lattice says little and a change is known at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::Replica;
use crate::control::{ControlStore, Entry, Event, Index, RANGE_LEN_MAX, ReadError, WatchError};
use crate::envelope::{EVENTS_MAX, EnvelopeError, Failure, Records, RecordsReply, RecordsRequest};

/// How long a call waits for a change. Two messages in that time are what a follower costs; and so long, with what the
/// reply may need, a change may be late whose reply was lost.
pub const FOLLOW_WAIT: Duration = Duration::from_secs(20);

/// What the reply may need beyond that.
const REPLY_WAIT: Duration = Duration::from_secs(5);

/// Bytes of keys and values in one reply: the largest transaction and a little fit into it, and it into a message.
const REPLY_LEN_MAX: usize = 800 << 10;

/// The first pause after a call that failed; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A controller that comes back is found within this.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("{0}")]
    Call(Failure),
    #[error(transparent)]
    Reply(#[from] EnvelopeError),
    #[error("the control store sent something else than was asked for")]
    Other,
}

impl From<Failure> for FollowError {
    fn from(failure: Failure) -> Self {
        Self::Call(failure)
    }
}

/// Answers a follower of `control`, which is named `store`; waits for a change until `deadline` at most.
///
/// # Errors
/// The request can't be read, or the store.
pub async fn answer(
    control: &dyn ControlStore,
    store: &str,
    request: &Bytes,
    deadline: Instant,
) -> Result<Bytes, AnswerError> {
    let RecordsRequest { after, page } = RecordsRequest::decode(request)?;
    let records = match page {
        Some(key) => {
            let key = Some(key.as_str()).filter(|key| !key.is_empty());
            let (entries, at) = control.range("", key, RANGE_LEN_MAX).await?;
            page_of(entries, at)
        }
        None => changes(control, after, deadline).await?,
    };
    let store = store.to_owned();
    Ok(RecordsReply { store, records }.encode())
}

/// Why a follower gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It asked for something else.
    #[error(transparent)]
    Request(#[from] EnvelopeError),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

fn page_of(mut entries: Vec<Entry>, at: Index) -> Records {
    let whole = entries.len() < RANGE_LEN_MAX;
    let mut len = 0;
    let fits = entries
        .iter()
        .take_while(|entry| {
            len += entry.key.len() + entry.value.len();
            len <= REPLY_LEN_MAX
        })
        .count()
        // One always does.
        .max(1);
    let more = !whole || fits < entries.len();
    entries.truncate(fits);
    Records::Page { at, entries, more }
}

async fn changes(control: &dyn ControlStore, after: Index, deadline: Instant) -> Result<Records, ReadError> {
    let mut watch = control.watch(after)?;
    let mut events: Vec<Arc<Event>> = Vec::new();
    let mut len = 0;
    let mut until = deadline;
    while events.len() < EVENTS_MAX {
        match tokio::time::timeout_at(until, watch.next()).await {
            Ok(Ok(event)) => {
                let changes = event.changes.iter();
                let own =
                    changes.map(|change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len));
                len += own.sum::<usize>();
                if !events.is_empty() && len > REPLY_LEN_MAX {
                    break;
                }
                events.push(event);
                // Those that are there already go with it.
                until = Instant::now();
            }
            Ok(Err(WatchError::Compacted { .. })) if events.is_empty() => return Ok(Records::Forgotten),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(Records::Events(events))
}

/// Keeps `replica` up to date by `call`, which makes one call that may take a given time; `changed` is told whenever
/// it has changed, and `failed` of what goes wrong. Never ends; dropping it loses nothing.
pub async fn follow<'a>(
    replica: &Replica,
    mut call: impl FnMut(Bytes, Duration) -> BoxFuture<'a, Result<Bytes, Failure>>,
    mut changed: impl FnMut(),
    mut failed: impl FnMut(&str),
) {
    let mut pause = PAUSE_MIN;
    loop {
        match step(replica, &mut call).await {
            Ok(moved) => {
                pause = PAUSE_MIN;
                if moved {
                    changed();
                }
            }
            Err(error) => {
                failed(&error.to_string());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// One call, or as many as it takes to read everything. Whether anything changed.
async fn step<'a>(
    replica: &Replica,
    call: &mut impl FnMut(Bytes, Duration) -> BoxFuture<'a, Result<Bytes, Failure>>,
) -> Result<bool, FollowError> {
    let Some(store) = replica.store() else {
        return read_all(replica, call).await.map(|()| true);
    };
    let request = RecordsRequest {
        after: replica.index(),
        page: None,
    };
    let reply = call(request.encode(), FOLLOW_WAIT + REPLY_WAIT).await?;
    let reply = RecordsReply::decode(&reply)?;
    match reply.records {
        Records::Events(events) if reply.store == store => {
            if events.is_empty() {
                return Ok(false);
            }
            if replica.apply(&events) {
                return Ok(true);
            }
        }
        Records::Events(_) | Records::Forgotten => {}
        Records::Page { .. } => return Err(FollowError::Other),
    }
    read_all(replica, call).await.map(|()| true)
}

async fn read_all<'a>(
    replica: &Replica,
    call: &mut impl FnMut(Bytes, Duration) -> BoxFuture<'a, Result<Bytes, Failure>>,
) -> Result<(), FollowError> {
    let mut all = BTreeMap::<String, Entry>::new();
    let mut moment: Option<(String, Index)> = None;
    let mut key = String::new();
    loop {
        let request = RecordsRequest {
            after: Index(0),
            page: Some(key),
        };
        let reply = call(request.encode(), REPLY_WAIT).await?;
        let reply = RecordsReply::decode(&reply)?;
        let Records::Page { at, entries, more } = reply.records else {
            return Err(FollowError::Other);
        };
        let now = (reply.store, at);
        if *moment.get_or_insert_with(|| now.clone()) != now {
            // It changed in between: what was read is of two moments.
            (all, moment, key) = (BTreeMap::new(), None, String::new());
            continue;
        }
        let last = entries.last().map(|entry| entry.key.clone());
        all.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
        match last {
            Some(last) if more => key = last,
            _ => {
                replica.replace(&now.0, all, now.1);
                return Ok(());
            }
        }
    }
}
