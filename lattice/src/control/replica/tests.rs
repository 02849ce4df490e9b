use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::control::{Embedded, Op};
use crate::envelope::Failure;

fn store() -> (tempfile::TempDir, Embedded) {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("control.redb")).unwrap();
    (folder, store)
}

async fn put(store: &Embedded, key: &str, value: &[u8]) {
    let transaction = Transaction::by("test").put(key, value.to_vec());
    store.commit(transaction).await.unwrap();
}

/// Follows `store` until nothing is left to be taken.
async fn catch_up(replica: &Replica, store: &Embedded, name: &str) {
    let idle = &AtomicBool::new(false);
    let mut seen = 0;
    let call = |request: Bytes, _| {
        async move {
            let reply = answer(store, name, &request, tokio::time::Instant::now())
                .await
                .unwrap();
            let decoded = RecordsReply::decode(&reply).unwrap();
            if idle.load(Relaxed) {
                // There is nothing more: the follower is dropped while it waits here.
                future::pending::<()>().await;
            }
            let same = replica.store().is_some_and(|store| store == decoded.store);
            let none = matches!(&decoded.records, Records::Events(events) if events.is_empty());
            idle.store(same && none, Relaxed);
            Ok::<_, Failure>(reply)
        }
        .boxed()
    };
    let failed = |error: &str| panic!("{error}");
    let follow = follow(replica, call, || seen += 1, failed);
    tokio::time::timeout(std::time::Duration::from_secs(5), follow)
        .await
        .unwrap_err();
}

async fn all_of(store: &dyn ControlStore) -> (Vec<Entry>, Index) {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let (page, index) = store.range("", after.as_deref(), RANGE_LEN_MAX).await.unwrap();
        after = page.last().map(|entry| entry.key.clone());
        all.extend(page);
        if after.is_none() {
            return (all, index);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_has_every_entry_at_the_stores_own_indices_also_of_many_pages() {
    let (_folder, store) = store();
    for group in 0..3 {
        let mut transaction = Transaction::by("test");
        for key in 0..900 {
            transaction.ops.push(Op::Put {
                key: format!("{group}/{key:04}"),
                value: vec![7; 600].into(),
            });
        }
        store.commit(transaction).await.unwrap();
    }
    let replica = Replica::default();
    catch_up(&replica, &store, "a").await;
    assert_eq!(all_of(&replica).await, all_of(&store).await);
    put(&store, "more", b"1").await;
    put(&store, "more", b"2").await;
    catch_up(&replica, &store, "a").await;
    assert_eq!(all_of(&replica).await, all_of(&store).await);

    let kept = Replica::from_bytes(&replica.to_bytes().into()).unwrap();
    assert_eq!(all_of(&kept).await, all_of(&store).await);
    assert_eq!(kept.store().as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_store_that_was_empty_counts_as_the_store_does() {
    let (_folder, store) = store();
    let replica = Replica::default();
    catch_up(&replica, &store, "a").await;
    put(&store, "a", b"1").await;
    catch_up(&replica, &store, "a").await;
    assert_eq!(all_of(&replica).await, all_of(&store).await);
}

#[tokio::test(start_paused = true)]
async fn another_store_takes_the_place_of_what_was_copied_though_its_index_fits() {
    let ((_one, first), (_two, second)) = (store(), store());
    put(&first, "old", b"1").await;
    let replica = Replica::default();
    catch_up(&replica, &first, "first").await;
    let mut watch = replica.watch(replica.index()).unwrap();
    put(&second, "new", b"1").await;
    catch_up(&replica, &second, "second").await;
    assert_eq!(all_of(&replica).await.0, all_of(&second).await.0);
    assert_eq!(replica.index(), Index(1));
    assert!(
        watch.next().now_or_never().unwrap().is_err(),
        "a watcher has to read it anew"
    );
}

#[tokio::test]
async fn a_copy_takes_no_change_and_says_who_does() {
    let error = Replica::default()
        .commit(Transaction::by("test").put("a", "b"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("controller"), "{error}");
}

#[test]
fn a_file_that_is_no_copy_is_refused() {
    let whole = Replica::default().to_bytes();
    for bytes in [&b""[..], b"\0\0\0\x09abc", &whole[..whole.len() - 1]] {
        assert!(
            Replica::from_bytes(&Bytes::copy_from_slice(bytes)).is_err(),
            "{bytes:?}"
        );
    }
}

proptest! {
    #[test]
    fn what_was_sent_is_read_and_no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..100,
    ) {
        let bytes = Bytes::from(bytes);
        let _ = RecordsReply::decode(&bytes);
        let _ = crate::envelope::RecordsRequest::decode(&bytes);
        let _ = Replica::from_bytes(&bytes);
        let event = Event {
            index: Index(7),
            by: "test".to_owned(),
            changes: vec![
                crate::control::Change { key: "a".to_owned(), value: Some(bytes) },
                crate::control::Change { key: "b".to_owned(), value: None },
            ],
        };
        let reply = RecordsReply { store: "s".to_owned(), records: Records::Events(vec![Arc::new(event)]) };
        let whole = reply.encode();
        prop_assert_eq!(RecordsReply::decode(&whole), Ok(reply));
        let _ = RecordsReply::decode(&whole.slice(..cut.min(whole.len())));
    }
}
