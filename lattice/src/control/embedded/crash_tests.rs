//! What a control store promises when the power goes, at every step of its work.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::executor::block_on;
use futures::future::join_all;

use super::super::{CommitError, ControlStore, Index, Op, Transaction, WatchError};
use super::{Embedded, OpenError};
use crate::testing::power_loss::{Disk, Unsynced};

/// Transactions that are sent together, so that they share a sync.
const GROUP_LEN: usize = 3;

/// Steps at which a commit is made to fail: more than it has.
const STEPS: u64 = 40;

type Table = BTreeMap<String, Bytes>;

/// Transactions of several keys each, so that half of one would be seen.
fn work() -> Vec<Transaction> {
    let transaction = |at: usize| {
        let value = Bytes::from(vec![u8::try_from(at).unwrap(); 1 + 700 * (at % 4)]);
        let transaction = Transaction::by("a test")
            .put("last", value.clone())
            .put(format!("own/{at}"), value.clone());
        transaction
            .put(format!("shared/{}", at % 3), value)
            .delete(format!("own/{}", at.wrapping_sub(2)))
    };
    (0..9).map(transaction).collect()
}

/// The table after each transaction, from none to all.
fn tables(work: &[Transaction]) -> Vec<Table> {
    let mut tables = vec![Table::new()];
    let mut table = Table::new();
    for transaction in work {
        for op in &transaction.ops {
            match op {
                Op::Put { key, value } => table.insert(key.clone(), value.clone()),
                Op::Delete { key } => table.remove(key),
            };
        }
        tables.push(table.clone());
    }
    tables
}

/// How many were acknowledged before the power went.
fn run(store: &Embedded, work: &[Transaction]) -> usize {
    let mut acknowledged = 0;
    for group in work.chunks(GROUP_LEN) {
        let answers = block_on(join_all(
            group.iter().map(|transaction| store.commit(transaction.clone())),
        ));
        acknowledged += answers.iter().filter(|answer| answer.is_ok()).count();
    }
    acknowledged
}

fn read(store: &Embedded) -> (Table, Index) {
    let (entries, index) = block_on(store.range("", None, 1_000)).unwrap();
    (
        entries
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect(),
        index,
    )
}

fn store_on(disk: &Disk) -> Result<Embedded, OpenError> {
    let disk = disk.clone();
    Embedded::on(move || disk.clone())
}

/// An image of a store that has been made, and is empty.
fn fresh() -> Vec<u8> {
    let disk = Disk::default();
    drop(store_on(&disk).unwrap());
    disk.image()
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_there_wherever_the_power_goes() {
    let (work, image) = (work(), fresh());
    let tables = tables(&work);
    let whole = Disk::with_image(image.clone());
    let store = store_on(&whole).unwrap();
    assert_eq!(run(&store, &work), work.len());
    drop(store);

    let steps = whole.steps();
    assert!(steps > 30, "only {steps} steps: is every commit synced?");
    for step in 0..steps {
        let disk = Disk::with_image(image.clone());
        disk.cut_power_at(step);
        let acknowledged = store_on(&disk).map_or(0, |store| run(&store, &work));
        for unsynced in [
            Unsynced::Lost,
            Unsynced::Kept,
            Unsynced::Some(step),
            Unsynced::Some(!step),
        ] {
            let context = format!("power cut at step {step}, {unsynced:?}");
            // The power goes once more while the store recovers.
            let disk = disk.restart(unsynced);
            disk.cut_power_at(step % 7);
            drop(store_on(&disk));
            let store =
                store_on(&disk.restart(unsynced)).unwrap_or_else(|error| panic!("{context}: {error:?}"));

            let (table, index) = read(&store);
            let there = usize::try_from(index.0).unwrap();
            assert!(
                there >= acknowledged,
                "{context}: {acknowledged} acknowledged, {there} there"
            );
            assert_eq!(table, tables[there], "{context}");
            // Who got no answer asks again: what was applied is not applied twice.
            for (at, transaction) in work.iter().enumerate() {
                let answer = block_on(store.commit(transaction.clone())).unwrap();
                assert_eq!(answer, Index(at as u64 + 1), "{context}");
            }
            assert_eq!(read(&store).0, tables[work.len()], "{context}");
        }
    }
}

#[test]
fn a_commit_is_acknowledged_and_seen_only_after_the_sync() {
    let disk = Disk::with_image(fresh());
    let store = store_on(&disk).unwrap();
    let mut watch = store.watch(Index(0)).unwrap();
    disk.hold_syncs();
    let mut commit = store.commit(Transaction::by("a test").put("a", "1"));
    // Polled once, it is on its way to the writer.
    assert!((&mut commit).now_or_never().is_none());
    let held = disk.wait_for_held_sync();
    if !held {
        disk.release_syncs();
    }
    assert!(held, "nothing was synced");
    assert!((&mut commit).now_or_never().is_none());
    assert!(watch.next().now_or_never().is_none());
    assert!(block_on(store.get("a")).unwrap().is_none());
    disk.release_syncs();
    assert_eq!(block_on(commit).unwrap(), Index(1));
    assert!(watch.next().now_or_never().is_some());
    assert!(block_on(store.get("a")).unwrap().is_some());
}

#[test]
fn a_store_whose_disk_fails_says_so_and_goes_on_once_it_works() {
    // Each of the steps of a commit, and some more at which it is done.
    let done = std::thread::scope(|scope| {
        let steps = (0..STEPS).map(|step| scope.spawn(move || fails_and_goes_on(step)));
        let steps: Vec<_> = steps.collect();
        steps
            .into_iter()
            .map(|step| step.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(!done[0] && done.ends_with(&[true]), "{done:?}");
}

/// Has the disk fail at this step of a commit, for a while. Whether the commit was done before.
fn fails_and_goes_on(step: u64) -> bool {
    let disk = Disk::with_image(fresh());
    let store = store_on(&disk).unwrap();
    let transaction = |value: &'static str| Transaction::by("a test").put("a", value);
    assert_eq!(block_on(store.commit(transaction("1"))).unwrap(), Index(1));
    let mut watch = store.watch(Index(1)).unwrap();

    disk.cut_power_at(disk.steps() + step);
    let second = transaction("2");
    let first_answer = block_on(store.commit(second.clone()));
    match &first_answer {
        Ok(index) => assert_eq!(*index, Index(2)),
        Err(error) => {
            assert!(error.to_string().contains("storage failed"), "{error}");
            assert!(block_on(store.commit(transaction("3"))).is_err());
        }
    }
    disk.mend();
    let give_up = Instant::now() + Duration::from_secs(30);
    let answer = loop {
        match block_on(store.commit(second.clone())) {
            Err(CommitError::Unavailable(_)) if Instant::now() < give_up => sleep(Duration::from_millis(20)),
            answer => break answer,
        }
    };
    assert_eq!(answer.unwrap(), Index(2), "failed at step {step}");
    assert_eq!(block_on(store.get("a")).unwrap().unwrap().value, "2");
    match block_on(watch.next()) {
        Ok(event) => assert_eq!(event.index, Index(2)),
        Err(WatchError::Compacted { from }) => assert_eq!(from, Index(1)),
        Err(error) => panic!("{error}"),
    }
    first_answer.is_ok()
}
