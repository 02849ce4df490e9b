//! The functions of `weft:host/watch`: changes of keys, for another host.
//!
//! A watch is kept for who began it, for as long as that asks for more: with the idle time of all that is kept it ends.

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use weft_capabilities::key_value::KEY_LEN_MAX;
use weft_capabilities::{Bucket, Changes, KeyValue, KeyValueError, Watch};
use weft_lattice::envelope::Failure;

use super::kept::{NotTaken, What};
use super::{Called, Shared};
use crate::cbor::encode;
use crate::shape::{Batch, Changed, Handle};
use crate::{NEXT_WAIT, WATCH};

/// Changes in one answer, at most, and bytes after which it takes no more: most fit in a message then.
const TOLD_LEN_MAX: usize = 256;
const TOLD_BYTES_MAX: usize = 256 << 10;

pub(super) async fn run(
    shared: &Shared,
    store: &dyn KeyValue,
    called: &Called<'_>,
) -> Result<Vec<u8>, Failure> {
    Ok(match called.function {
        "begin" => {
            let (bucket, prefix, group): (Bucket, String, String) = called.args()?;
            encode(&(begin(shared, store, called, &bucket, Watch::new(prefix, group)).await,))
        }
        "next" => {
            let (id, before): (Bytes, u64) = called.args()?;
            encode(&(next(shared, called, &id, before).await,))
        }
        "end" => {
            let (id,): (Bytes,) = called.args()?;
            drop(shared.kept.take_away(&id, called.owner));
            encode(&())
        }
        _ => return Err(called.unknown(WATCH)),
    })
}

async fn begin(
    shared: &Shared,
    store: &dyn KeyValue,
    called: &Called<'_>,
    bucket: &Bucket,
    watch: Watch,
) -> Result<Handle, KeyValueError> {
    for (what, text) in [("key", &watch.prefix), ("request", &watch.group)] {
        let (len, len_max) = (text.len(), KEY_LEN_MAX);
        if len > len_max {
            return Err(KeyValueError::TooLarge { what, len, len_max });
        }
    }
    let changes = store.watch(bucket, watch).await?;
    let id = shared.kept.keep(called.owner, What::Watching(Some(changes)));
    let id = id.ok_or(KeyValueError::Overloaded)?;
    Ok(Handle {
        run: shared.run.as_ref().to_owned(),
        id: Bytes::copy_from_slice(&id),
    })
}

/// The changes that came, or come within the time of one question; none if there are none. `before` is how many the caller
/// knows to be lost.
async fn next(shared: &Shared, called: &Called<'_>, id: &[u8], before: u64) -> Result<Batch, KeyValueError> {
    let mut taken = shared
        .kept
        .take::<Changes>(id, called.owner)
        .map_err(|error| match error {
            NotTaken::Gone => KeyValueError::Closed,
            NotTaken::Busy => KeyValueError::Overloaded,
        })?;
    let changes = taken.lent.as_mut().ok_or(KeyValueError::Closed)?;
    let mut told = Batch::default();
    let (mut bytes, mut until) = (0, Instant::now() + NEXT_WAIT);
    while told.changes.len() < TOLD_LEN_MAX && bytes < TOLD_BYTES_MAX {
        match timeout_at(until, changes.next()).await {
            Ok(Some(mut change)) => {
                let (key, value) = (std::mem::take(&mut change.key), change.value.take());
                bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                told.changes.push(Changed { key, value });
                // What is there already goes along, and nothing is waited for.
                until = Instant::now();
            }
            // What came is told before the end is.
            Ok(None) if told.changes.is_empty() => return Err(KeyValueError::Closed),
            Ok(None) | Err(_) => break,
        }
    }
    told.lost = changes.dropped().saturating_sub(before);
    taken.give_back();
    Ok(told)
}
