//! What a control store promises while the power stays on.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use futures::FutureExt;
use futures::executor::block_on;
use proptest::prelude::*;
use redb::{Database, TableDefinition};

use super::super::{
    CommandId, CommitError, ControlStore, Expected, Index, KEY_LEN_MAX, OPS_MAX, Op, TRANSACTION_LEN_MAX,
    Transaction, VALUE_LEN_MAX, WatchError,
};
use super::state::ANSWERS_MAX;
use super::{Embedded, OpenError};
use crate::testing::power_loss::Disk;

fn store() -> Embedded {
    Embedded::on(Disk::default).unwrap()
}

fn keys(store: &Embedded, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let (entries, _) = block_on(store.range(prefix, after, limit)).unwrap();
    entries.into_iter().map(|entry| entry.key).collect()
}

fn by() -> Transaction {
    Transaction::by("a test")
}

#[tokio::test]
async fn a_conflict_says_what_was_found_and_changes_nothing() {
    let store = store();
    let first = store
        .commit(by().expect("a", Expected::Absent).put("a", "1"))
        .await
        .unwrap();
    assert_eq!(first, Index(1));
    let error = store
        .commit(by().expect("a", Expected::Absent).put("b", "2"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`a` was expected absent, and is as of commit 1: read it again and decide anew"
    );
    let error = store
        .commit(by().expect("c", Expected::Modified(Index(1))).delete("a"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`c` was expected as of commit 1, and is absent: read it again and decide anew"
    );
    assert_eq!(keys(&store, "", None, 10), ["a"]);
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!((entry.value.as_ref(), entry.modified), (b"1".as_ref(), Index(1)));
    assert!(store.get("b").await.unwrap().is_none());
}

#[tokio::test]
async fn a_repeat_is_applied_once_and_gets_the_first_answer() {
    let store = store();
    let put = by().put("a", "1");
    let claim = by().expect("a", Expected::Absent).put("b", "1");
    assert_eq!(store.commit(put.clone()).await.unwrap(), Index(1));
    assert!(store.commit(claim.clone()).await.is_err());
    store.commit(by().delete("a")).await.unwrap();
    assert_eq!(store.commit(put).await.unwrap(), Index(1));
    let again = store.commit(claim).await.unwrap_err();
    assert!(matches!(again, CommitError::Conflict { key, .. } if key == "a"));
    assert!(keys(&store, "", None, 10).is_empty());
}

#[tokio::test]
async fn only_the_last_answers_are_kept() {
    let store = store();
    let first = by().put("a", "1");
    let second = by().put("a", "2");
    assert_eq!(store.commit(first.clone()).await.unwrap(), Index(1));
    assert_eq!(store.commit(second.clone()).await.unwrap(), Index(2));
    let rest = (2..=ANSWERS_MAX).map(|_| by()).collect::<Vec<_>>();
    for group in rest.chunks(100) {
        futures::future::join_all(group.iter().map(|transaction| store.commit(transaction.clone()))).await;
    }
    assert_eq!(store.commit(second).await.unwrap(), Index(2));
    assert_eq!(
        store.commit(first).await.unwrap(),
        Index(3),
        "it was to be forgotten"
    );
}

#[tokio::test]
async fn what_changes_nothing_does_not_move_the_index() {
    let store = store();
    assert_eq!(store.commit(by().delete("a")).await.unwrap(), Index(0));
    assert_eq!(store.commit(by().put("a", "1")).await.unwrap(), Index(1));
    assert_eq!(store.commit(by()).await.unwrap(), Index(1));
}

#[tokio::test]
async fn a_range_goes_by_prefix_and_in_pages() {
    let store = store();
    let all = ["a/1", "a/2", "a/3", "a0", "b"];
    let put = all.iter().fold(by(), |txn, key| txn.put(*key, "v"));
    store.commit(put).await.unwrap();
    assert_eq!(keys(&store, "a/", None, 2), ["a/1", "a/2"]);
    assert_eq!(keys(&store, "a/", Some("a/2"), 2), ["a/3"]);
    assert_eq!(keys(&store, "a/", Some("a/3"), 2), [""; 0]);
    assert_eq!(keys(&store, "b", Some("a"), 2), ["b"]);
    assert_eq!(keys(&store, "", None, 10), all);
}

#[tokio::test]
async fn a_watch_from_the_index_of_a_range_misses_nothing_and_repeats_nothing() {
    let store = store();
    store.commit(by().put("a", "1")).await.unwrap();
    let (_, index) = store.range("", None, 10).await.unwrap();
    let mut watch = store.watch(index).unwrap();
    assert!(watch.next().now_or_never().is_none());
    store
        .commit(by().put("a", "2").put("b", "1").delete("a").delete("c"))
        .await
        .unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!((event.index, event.by.as_str()), (Index(2), "a test"));
    let changes: Vec<_> = event
        .changes
        .iter()
        .map(|change| (change.key.as_str(), change.value.clone()))
        .collect();
    assert_eq!(changes, [("a", None), ("b", Some(Bytes::from("1")))]);
    store.close().await;
    assert_eq!(watch.next().await, Err(WatchError::Closed));
}

#[tokio::test]
async fn a_closed_store_refuses_transactions_and_keeps_what_it_took() {
    let store = store();
    let last = store.commit(by().put("a", "1"));
    let ((), last) = tokio::join!(biased; async { store.close().await }, last);
    assert!(matches!(last, Ok(_) | Err(CommitError::Closed)));
    store.close().await;
    assert!(matches!(store.commit(by()).await, Err(CommitError::Closed)));
    assert_eq!(store.get("a").await.unwrap().is_some(), last.is_ok());
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let store = store();
    let long = "k".repeat(KEY_LEN_MAX + 1);
    let large = Bytes::from(vec![0; VALUE_LEN_MAX]);
    let many = (0..=OPS_MAX).fold(by(), |txn, at| txn.delete(at.to_string()));
    let heavy = (0..=TRANSACTION_LEN_MAX / VALUE_LEN_MAX)
        .fold(by(), |txn, at| txn.put(at.to_string(), large.clone()));
    let over = Bytes::from(vec![0; VALUE_LEN_MAX + 1]);
    for (transaction, subject) in [
        (by().delete(&long), "the key `kkkk"),
        (by().expect(&long, Expected::Absent), "the key `kkkk"),
        (
            by().put("a", over),
            "the value of `a` is 65537 long and may be at most 65536",
        ),
        (many, "the transaction's list of operations is 1001 long"),
        (heavy, "the transaction is "),
        (by().put("", ""), "a key is empty"),
        (Transaction::by(&long), "the transaction's sender"),
    ] {
        let error = store.commit(transaction).await.unwrap_err().to_string();
        assert!(error.starts_with(subject), "{error}");
    }
    let longest = "k".repeat(KEY_LEN_MAX);
    assert_eq!(store.commit(by().put(longest, large)).await.unwrap(), Index(1));
}

#[tokio::test]
async fn is_there_again_after_a_restart_with_its_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    // What a loss of power during the first start may leave.
    fs::write(folder.path().join("control.redb.new"), "half a file").unwrap();
    let put = by().put("a", "1");
    let store = Embedded::open(&path).unwrap();
    store.commit(put.clone()).await.unwrap();
    assert!(matches!(Embedded::open(&path), Err(OpenError::InUse(_))));
    drop(store);

    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().modified, Index(1));
    assert_eq!(store.commit(put).await.unwrap(), Index(1));
    let mut old = store.watch(Index(0)).unwrap();
    assert!(matches!(old.next().await, Err(WatchError::Compacted { .. })));
    let mut new = store.watch(Index(1)).unwrap();
    store.commit(by().put("a", "2")).await.unwrap();
    assert_eq!(new.next().await.unwrap().index, Index(2));
}

#[test]
fn refuses_files_that_are_not_a_store_of_a_known_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let open = || Embedded::open(&path).err().unwrap();

    for foreign in [Vec::new(), b"text".to_vec(), vec![7; 1 << 16]] {
        fs::write(&path, &foreign).unwrap();
        assert!(matches!(open(), OpenError::Foreign(_)), "{:?}", open());
        assert_eq!(fs::read(&path).unwrap(), foreign);
    }

    fs::remove_file(&path).unwrap();
    let other: TableDefinition<&str, &str> = TableDefinition::new("other");
    let number: TableDefinition<&str, u64> = TableDefinition::new("weft-control");
    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(other).unwrap().insert("a", "b").unwrap();
    txn.commit().unwrap();
    drop(db);
    assert!(matches!(open(), OpenError::Foreign(_)));

    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(number).unwrap().insert("format", 2).unwrap();
    txn.commit().unwrap();
    drop(db);
    let newer = open().to_string();
    assert!(
        newer.ends_with("has format 2, and this version knows up to 1: use the newer version"),
        "{newer}"
    );

    drop(Embedded::open(&folder.path().join("whole.redb")).unwrap());
    let mut damaged = fs::read(folder.path().join("whole.redb")).unwrap();
    damaged[64..320].fill(0xff);
    fs::write(&path, damaged).unwrap();
    assert!(matches!(open(), OpenError::Damaged { .. }), "{:?}", open());
}

/// A transaction over few keys, so that they meet.
fn transactions() -> impl Strategy<Value = Vec<Transaction>> {
    let key = || "[a-c]";
    let expected = prop_oneof![
        Just(Expected::Absent),
        (0..20_u64).prop_map(|index| Expected::Modified(Index(index)))
    ];
    let op = prop_oneof![
        (key(), any::<[u8; 2]>()).prop_map(|(key, value)| Op::Put {
            key,
            value: Bytes::copy_from_slice(&value)
        }),
        key().prop_map(|key| Op::Delete { key }),
    ];
    let compare = proptest::option::weighted(0.3, (key(), expected));
    // Ids from a small range too, so that some transactions repeat an id.
    let transaction =
        (0..40_u128, compare, proptest::collection::vec(op, 0..4)).prop_map(|(id, compare, ops)| {
            let mut transaction = by();
            transaction.id = CommandId(id);
            transaction.ops = ops;
            compare
                .into_iter()
                .fold(transaction, |txn, (key, expected)| txn.expect(key, expected))
        });
    proptest::collection::vec(transaction, 1..30)
}

/// The store as a table, an index and the answers.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, (u64, Bytes)>,
    index: u64,
    answers: BTreeMap<u128, Result<u64, String>>,
}

impl Model {
    fn commit(&mut self, transaction: &Transaction) -> Result<u64, String> {
        if let Some(first) = self.answers.get(&transaction.id.0) {
            return first.clone();
        }
        let found = |key: &String| self.entries.get(key).map(|(index, _)| *index);
        let failed = transaction.compare.iter().find(|compare| match compare.expected {
            Expected::Absent => found(&compare.key).is_some(),
            Expected::Modified(index) => found(&compare.key) != Some(index.0),
        });
        let answer = match failed {
            Some(compare) => Err(compare.key.clone()),
            None => Ok(self.change(transaction)),
        };
        self.answers.insert(transaction.id.0, answer.clone());
        answer
    }

    fn change(&mut self, transaction: &Transaction) -> u64 {
        let index = self.index + 1;
        for op in &transaction.ops {
            let changed = match op {
                Op::Put { key, value } => {
                    self.entries.insert(key.clone(), (index, value.clone()));
                    true
                }
                Op::Delete { key } => self.entries.remove(key).is_some(),
            };
            if changed {
                self.index = index;
            }
        }
        self.index
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn does_as_a_table_would(transactions in transactions(), at_once in 1..5_usize) {
        let store = store();
        let mut watch = store.watch(Index(0)).unwrap();
        let mut model = Model::default();
        let mut seen = BTreeMap::new();
        for group in transactions.chunks(at_once) {
            let answers = block_on(futures::future::join_all(group.iter().map(|txn| store.commit(txn.clone()))));
            for (transaction, answer) in group.iter().zip(answers) {
                let answer = answer.map(|index| index.0).map_err(|error| match error {
                    CommitError::Conflict { key, .. } => key,
                    error => error.to_string(),
                });
                prop_assert_eq!(answer, model.commit(transaction));
            }
        }
        let (entries, index) = block_on(store.range("", None, 100)).unwrap();
        let entries: Vec<_> = entries.into_iter().map(|e| (e.key, (e.modified.0, e.value))).collect();
        prop_assert_eq!(&entries, &model.entries.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(index.0, model.index);
        // A reader who has only the watch ends with the same.
        for at in 1..=index.0 {
            let event = block_on(watch.next()).unwrap();
            prop_assert_eq!(event.index, Index(at));
            for change in &event.changes {
                match &change.value {
                    Some(value) => seen.insert(change.key.clone(), (at, value.clone())),
                    None => seen.remove(&change.key),
                };
            }
        }
        prop_assert_eq!(entries, seen.into_iter().collect::<Vec<_>>());
    }
}
