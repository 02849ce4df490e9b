//! The rules of [`KeyValue::watch`], for backends that can tell of changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::key_value::{Bucket, Change, Changes, KeyValue, KeyValueError, Watch};

/// A bound for what has to become so.
const LONG: Duration = Duration::from_secs(60);

/// Runs every rule, each on a store of its own. `open` gives an empty one.
///
/// # Panics
/// With the rule that the backend breaks.
pub async fn tells_changes(open: impl Fn() -> Arc<dyn KeyValue>) {
    tells_what_is_set_and_deleted(&*open()).await;
    tells_every_kind_of_write(&*open()).await;
    tells_of_its_bucket_and_keys_alone(&*open()).await;
    tells_each_group_all_and_one_member_each(&*open()).await;
    tells_the_last_value_last(&*open()).await;
    tells_nobody_who_has_gone(&*open()).await;
    ends_when_the_store_is_closed(&*open()).await;
}

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

async fn watch(store: &dyn KeyValue, watch: Watch) -> Changes {
    store.watch(&bucket(), watch).await.unwrap()
}

/// The next change, which is settled as handled.
async fn next(changes: &mut Changes) -> (String, Option<Bytes>) {
    let next = tokio::time::timeout(LONG, changes.next()).await;
    let mut change: Change = next.expect("a change is not told").expect("the watch ended");
    let told = (std::mem::take(&mut change.key), change.value.take());
    change.ack().await.unwrap();
    told
}

/// The key of the next change that one of two is told.
async fn either(one: &mut Changes, two: &mut Changes) -> String {
    let next = async {
        tokio::select! {
            change = one.next() => change,
            change = two.next() => change,
        }
    };
    let next = tokio::time::timeout(LONG, next).await;
    let change = next.expect("a change is not told").expect("the watch ended");
    let key = change.key.clone();
    change.ack().await.unwrap();
    key
}

fn set(key: &str, value: &'static str) -> (String, Option<Bytes>) {
    (key.to_owned(), Some(value.into()))
}

async fn tells_what_is_set_and_deleted(store: &dyn KeyValue) {
    let bucket = bucket();
    store.set(&bucket, "before", "v".into()).await.unwrap();
    let mut changes = watch(store, Watch::new("", "g")).await;
    for key in ["k", "a/b.c", "äöü", "*?[x]\\", "}:k"] {
        store.set(&bucket, key, "1".into()).await.unwrap();
        assert_eq!(next(&mut changes).await, set(key, "1"));
        store.set(&bucket, key, "".into()).await.unwrap();
        assert_eq!(next(&mut changes).await, set(key, ""));
        store.delete(&bucket, key).await.unwrap();
        assert_eq!(next(&mut changes).await, (key.to_owned(), None));
    }
    let large = Bytes::from(vec![7; 300_000]);
    store.set(&bucket, "large", large.clone()).await.unwrap();
    assert_eq!(next(&mut changes).await, ("large".to_owned(), Some(large)));
    store.delete(&bucket, "before").await.unwrap();
    assert_eq!(next(&mut changes).await, ("before".to_owned(), None));
}

async fn tells_every_kind_of_write(store: &dyn KeyValue) {
    let bucket = bucket();
    let mut changes = watch(store, Watch::new("", "g")).await;
    store.increment(&bucket, "n", 5).await.unwrap();
    assert_eq!(next(&mut changes).await, set("n", "5"));
    store
        .compare_and_swap(&bucket, "n", Some("5".into()), "6".into())
        .await
        .unwrap();
    assert_eq!(next(&mut changes).await, set("n", "6"));
    // One that does nothing is told to nobody.
    store
        .compare_and_swap(&bucket, "n", Some("5".into()), "7".into())
        .await
        .unwrap();
    let entries = vec![("a".to_owned(), "1".into()), ("b".to_owned(), "2".into())];
    store.set_many(&bucket, entries).await.unwrap();
    let mut told = [next(&mut changes).await, next(&mut changes).await];
    told.sort();
    assert_eq!(told, [set("a", "1"), set("b", "2")]);
    let keys = ["a", "b"].map(str::to_owned);
    store.delete_many(&bucket, &keys).await.unwrap();
    let mut told = [next(&mut changes).await, next(&mut changes).await];
    told.sort();
    assert_eq!(told, keys.map(|key| (key, None)));
}

async fn tells_of_its_bucket_and_keys_alone(store: &dyn KeyValue) {
    let bucket = bucket();
    let mut users = watch(store, Watch::new("user/*", "g")).await;
    let mut all = watch(store, Watch::new("", "g")).await;
    let others = [
        Bucket::scoped("default", "shop", "items2"),
        Bucket::scoped("default", "other", "items"),
        Bucket::shared("items"),
    ];
    for other in &others {
        store.set(other, "user/*1", "other".into()).await.unwrap();
    }
    for key in ["user/1", "user", "user/*1", "xuser/*", "user/*"] {
        store.set(&bucket, key, "v".into()).await.unwrap();
        assert_eq!(next(&mut all).await, set(key, "v"));
    }
    assert_eq!(next(&mut users).await, set("user/*1", "v"));
    assert_eq!(next(&mut users).await, set("user/*", "v"));
}

async fn tells_each_group_all_and_one_member_each(store: &dyn KeyValue) {
    const KEYS: usize = 40;
    let bucket = bucket();
    let is_even = |key: &str| key.bytes().map(usize::from).sum::<usize>() % 2 == 0;
    let member = |even: bool| Watch {
        takes: Arc::new(move |key| is_even(key) == even),
        ..Watch::new("", "one")
    };
    let mut members = [
        watch(store, member(true)).await,
        watch(store, member(false)).await,
    ];
    let mut other = watch(store, Watch::new("", "two")).await;
    for n in 0..KEYS {
        store.set(&bucket, &format!("k{n}"), "v".into()).await.unwrap();
    }
    let [one, two] = &mut members;
    let mut told = Vec::new();
    while told.len() < KEYS {
        told.push(either(one, two).await);
    }
    let different: BTreeSet<_> = told.into_iter().collect();
    assert_eq!(
        different.len(),
        KEYS,
        "a change was told to both members of a group"
    );
    let mut all = BTreeSet::new();
    while all.len() < KEYS {
        all.insert(next(&mut other).await.0);
    }
    // What is over is told to nobody.
    store.set(&bucket, "end", "v".into()).await.unwrap();
    assert_eq!(next(&mut other).await.0, "end");
    assert_eq!(either(one, two).await, "end");
}

/// A backend may pass over values that a later one replaced, and no other.
async fn tells_the_last_value_last(store: &dyn KeyValue) {
    let bucket = bucket();
    let mut changes = watch(store, Watch::new("", "g")).await;
    for n in 0..50_u32 {
        for key in ["a", "b"] {
            store.set(&bucket, key, n.to_string().into()).await.unwrap();
        }
    }
    for key in ["a", "b"] {
        store.set(&bucket, key, "end".into()).await.unwrap();
    }
    let mut last: [(Option<u32>, bool); 2] = [(None, false); 2];
    while last.iter().any(|(_, has_ended)| !has_ended) {
        let (key, value) = next(&mut changes).await;
        let (before, has_ended) = &mut last[usize::from(key == "b")];
        let value = value.expect("nothing was deleted");
        match std::str::from_utf8(&value).unwrap().parse() {
            Ok(n) => {
                assert!(
                    !*has_ended && before.is_none_or(|before| before <= n),
                    "{key} is {n} late"
                );
                *before = Some(n);
            }
            Err(_) => *has_ended = true,
        }
    }
}

async fn tells_nobody_who_has_gone(store: &dyn KeyValue) {
    let bucket = bucket();
    let mut gone = watch(store, Watch::new("", "one")).await;
    let mut stays = watch(store, Watch::new("", "two")).await;
    gone.end();
    let over = tokio::time::timeout(LONG, gone.next()).await;
    assert!(over.expect("a watch does not end").is_none());
    store.set(&bucket, "k", "v".into()).await.unwrap();
    assert_eq!(next(&mut stays).await, set("k", "v"));
}

async fn ends_when_the_store_is_closed(store: &dyn KeyValue) {
    let mut changes = watch(store, Watch::new("", "g")).await;
    store.close().await;
    let over = tokio::time::timeout(LONG, changes.next()).await;
    assert!(over.expect("a watch outlives its store").is_none());
    let refused = store.watch(&bucket(), Watch::new("", "g")).await;
    assert!(matches!(refused, Err(KeyValueError::Closed)), "{refused:?}");
}
