//! The power goes at every step of a run: nothing that was answered is lost, nothing is half written.
#![cfg(test)]

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use weft_capabilities::{Bucket, KeyValue};
use weft_lattice::testing::power_loss::{Disk, Unsynced};
use weft_redb::{RedbKeyValue, RedbOptions};

/// Batches of a run; each sets the same keys to its own number.
const BATCHES: u64 = 6;
/// Keys of a batch, with values larger than a page.
const KEYS: usize = 4;

fn bucket() -> Bucket {
    Bucket::shared("b")
}

fn open(disk: &Disk) -> Option<Arc<RedbKeyValue>> {
    let disk = disk.clone();
    RedbKeyValue::open_backend(move || disk.clone(), "disk", RedbOptions::default())
        .ok()
        .map(Arc::new)
}

fn value(batch: u64) -> Bytes {
    Bytes::from(format!("{batch};").repeat(3_000))
}

/// Writes batches, and increments beside them, until the power goes. Gives the last batch and sum that were answered.
async fn run(disk: &Disk) -> (u64, i64) {
    let (mut batch_answered, mut sum_answered) = (0, 0);
    let Some(store) = open(disk) else { return (0, 0) };
    for batch in 1..=BATCHES {
        let entries = (0..KEYS).map(|key| (key.to_string(), value(batch))).collect();
        let bucket = bucket();
        let sums = join_all((0..3).map(|_| store.increment(&bucket, "sum", 1)));
        let (written, sums) = futures::join!(store.set_many(&bucket, entries), sums);
        sum_answered = sums.into_iter().flatten().fold(sum_answered, i64::max);
        if written.is_err() {
            break;
        }
        batch_answered = batch;
    }
    (batch_answered, sum_answered)
}

#[tokio::test]
async fn nothing_answered_is_lost_and_nothing_is_half_written_at_any_step() {
    // How a file comes to be is not what is tested: it gets its name when it is whole.
    let made = Disk::default();
    open(&made).unwrap().close().await;
    let whole = Disk::with_image(made.image());
    assert_eq!(run(&whole).await, (BATCHES, 3 * i64::try_from(BATCHES).unwrap()));
    let steps = whole.steps();
    assert!(steps > 20, "{steps} steps are no run");
    for step in 0..steps {
        let disk = Disk::with_image(made.image());
        disk.cut_power_at(step);
        let (batch, sum) = run(&disk).await;
        let seeds = (0..4).map(|seed| Unsynced::Some(step * 4 + seed));
        for unsynced in [Unsynced::Lost, Unsynced::Kept].into_iter().chain(seeds) {
            let at = format!("power lost at step {step} of {steps}, {unsynced:?}");
            let after = disk.restart(unsynced);
            let store = open(&after).unwrap_or_else(|| panic!("{at}: the store does not open"));
            let keys: Vec<_> = (0..KEYS).map(|key| key.to_string()).collect();
            let found = store.get_many(&bucket(), &keys).await.unwrap();
            let written = (batch..=BATCHES).map(|batch| (batch > 0).then(|| value(batch)));
            let whole = written
                .into_iter()
                .any(|value| found.iter().all(|found| *found == value));
            assert!(whole, "{at}: batch {batch} was answered, and is not there");
            // It goes on: what is there counts on.
            let next = store.increment(&bucket(), "sum", 0).await.unwrap();
            assert!(next >= sum, "{at}: sum {sum} was answered, {next} is there");
        }
    }
}
