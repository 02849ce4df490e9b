//! The rules of [`KeyValue`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::key_value::{
    BATCH_LEN_MAX, Bucket, KEY_LEN_MAX, KeyValue, KeyValueError, PAGE_LEN_MAX, Swap, VALUE_LEN_MAX,
};

/// Tasks that race in the checks of atomicity.
const TASKS: usize = 16;
/// Turns of each of them.
const TURNS: i64 = 25;

/// Runs every rule, each on a store of its own. `open` gives an empty one.
///
/// # Panics
/// With the rule that the backend breaks.
pub async fn key_value(open: impl Fn() -> Arc<dyn KeyValue>) {
    reads_what_was_written_until_it_is_deleted(&*open()).await;
    keeps_apps_and_buckets_apart(&*open()).await;
    keeps_any_key_and_any_bytes(&*open()).await;
    holds_the_limits(&*open()).await;
    pages_in_key_order(&*open()).await;
    lists_what_stays_exactly_once_while_others_write(open()).await;
    adds_to_decimal_text_only(&*open()).await;
    loses_no_increment_among_many_tasks(open()).await;
    lets_one_of_many_swaps_win(open()).await;
    swaps_only_what_is_expected(&*open()).await;
    writes_a_batch_as_one(open()).await;
    refuses_all_but_closing_once_closed(&*open()).await;
}

/// Runs the rule of backends that can tell their buckets, on an empty store.
///
/// # Panics
/// If the backend breaks it.
pub async fn tells_its_buckets(store: &dyn KeyValue) {
    let shop = Some(("default", "shop"));
    assert!(store.buckets(shop).await.unwrap().is_empty());
    let own =
        ["a", "a\u{1}", "a/b", "%2F*[}{?\\", "ä", ""].map(|name| Bucket::scoped("default", "shop", name));
    let others = [
        Bucket::scoped("default", "shop2", "a"),
        Bucket::scoped("default", "sho", "a"),
        Bucket::scoped("other", "shop", "a"),
    ];
    let shared = ["a", "shop"].map(Bucket::shared);
    for bucket in own.iter().chain(&others).chain(&shared) {
        for key in ["k", "l", "}:k", "\0"] {
            store.set(bucket, key, "v".into()).await.unwrap();
        }
    }
    let told = async |scope| {
        let mut told = store.buckets(scope).await.unwrap();
        told.sort_by_key(ToString::to_string);
        told
    };
    let sorted = |buckets: &[Bucket]| {
        let mut buckets = buckets.to_vec();
        buckets.sort_by_key(ToString::to_string);
        buckets
    };
    assert_eq!(told(shop).await, sorted(&own));
    assert_eq!(told(None).await, sorted(&shared));
    for key in ["k", "l", "}:k", "\0"] {
        store.delete(&own[0], key).await.unwrap();
    }
    assert_eq!(
        told(shop).await,
        sorted(&own[1..]),
        "a bucket without a key is told"
    );
}

/// How much longer than its time a value may be there. Backends look in steps, and machines are busy.
const LATE_MAX: Duration = Duration::from_secs(10);

/// Runs the rule of a backend that forgets values `ttl` after they were last written, on an empty store.
///
/// # Panics
/// If the backend breaks it.
pub async fn forgets_values(store: &dyn KeyValue, ttl: Duration) {
    let bucket = &bucket();
    let is_forgotten = async |key: &str| {
        let until = Instant::now() + ttl + LATE_MAX;
        while store.exists(bucket, key).await.unwrap() {
            assert!(Instant::now() < until, "`{key}` is never forgotten");
            sleep(ttl / 20).await;
        }
    };
    let value = Bytes::from_static(b"1");
    // Each way to write is one to keep.
    let started = Instant::now();
    store.set(bucket, "set", value.clone()).await.unwrap();
    store
        .set_many(bucket, vec![("many".to_owned(), value.clone())])
        .await
        .unwrap();
    store.increment(bucket, "sum", 1).await.unwrap();
    let swapped = store.compare_and_swap(bucket, "swap", None, value.clone()).await;
    assert_eq!(swapped.unwrap(), Swap::Done);
    let keys = ["many", "set", "sum", "swap"];
    if started.elapsed() < ttl / 2 {
        let page = store.list_keys(bucket, None, 10).await.unwrap();
        assert!(started.elapsed() > ttl / 2 || page.keys == keys, "{page:?}");
    }
    for key in keys {
        is_forgotten(key).await;
        assert!(started.elapsed() >= ttl, "`{key}` was forgotten early");
        assert_eq!(store.get(bucket, key).await.unwrap(), None);
    }
    // What is forgotten is as what never was.
    assert_eq!(store.list_keys(bucket, None, 10).await.unwrap().keys, [""; 0]);
    let many = store.get_many(bucket, &keys.map(str::to_owned)).await.unwrap();
    assert!(many.iter().all(Option::is_none));
    assert_eq!(store.increment(bucket, "sum", 5).await.unwrap(), 5);
    let swapped = store.compare_and_swap(bucket, "swap", None, value.clone()).await;
    assert_eq!(swapped.unwrap(), Swap::Done);
    // What is written again is kept for longer.
    let started = Instant::now();
    store.set(bucket, "again", value.clone()).await.unwrap();
    while started.elapsed() < ttl * 2 {
        let wrote = Instant::now();
        store.increment(bucket, "again", 1).await.unwrap();
        sleep(ttl / 4).await;
        let is_there = store.exists(bucket, "again").await.unwrap();
        assert!(
            is_there || wrote.elapsed() >= ttl,
            "it was forgotten in spite of a write"
        );
    }
    is_forgotten("again").await;
}

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

async fn reads_what_was_written_until_it_is_deleted(store: &dyn KeyValue) {
    let bucket = bucket();
    assert_eq!(store.get(&bucket, "k").await.unwrap(), None);
    assert!(!store.exists(&bucket, "k").await.unwrap());
    for value in ["one", "", "three"] {
        store.set(&bucket, "k", value.into()).await.unwrap();
        assert_eq!(store.get(&bucket, "k").await.unwrap().unwrap(), value);
        assert!(store.exists(&bucket, "k").await.unwrap());
    }
    for _ in 0..2 {
        store.delete(&bucket, "k").await.unwrap();
        assert_eq!(store.get(&bucket, "k").await.unwrap(), None);
    }
}

async fn keeps_apps_and_buckets_apart(store: &dyn KeyValue) {
    let buckets = [
        bucket(),
        Bucket::scoped("default", "shop", "item"),
        Bucket::scoped("default", "shop", "items2"),
        Bucket::scoped("default", "other", "items"),
        Bucket::scoped("other", "shop", "items"),
        Bucket::scoped("default", "shop", ""),
        Bucket::shared("items"),
        Bucket::shared(""),
    ];
    for (n, bucket) in buckets.iter().enumerate() {
        store.set(bucket, "k", n.to_string().into()).await.unwrap();
        store.set(bucket, "s\0k", n.to_string().into()).await.unwrap();
    }
    for (n, bucket) in buckets.iter().enumerate() {
        assert_eq!(store.get(bucket, "k").await.unwrap().unwrap(), n.to_string());
        let page = store.list_keys(bucket, None, 10).await.unwrap();
        assert_eq!(page.keys, ["k", "s\0k"], "{bucket} shows another's keys");
    }
    store.delete(&buckets[0], "k").await.unwrap();
    assert!(store.exists(&buckets[1], "k").await.unwrap());
    let nowhere = Bucket::shared("a\0b");
    assert!(matches!(
        store.get(&nowhere, "k").await,
        Err(KeyValueError::NoSuchStore)
    ));
    assert!(matches!(
        store.list_keys(&nowhere, None, 1).await,
        Err(KeyValueError::NoSuchStore)
    ));
}

async fn keeps_any_key_and_any_bytes(store: &dyn KeyValue) {
    let bucket = bucket();
    let every_byte = Bytes::from_iter(0..=255);
    let keys = [
        "schlüssel",
        "鍵",
        "🔑",
        " ",
        "a/b",
        "a:b*?[]",
        "\r\n",
        "\0",
        "\u{10ffff}",
    ];
    for key in keys {
        store.set(&bucket, key, every_byte.clone()).await.unwrap();
    }
    for key in keys {
        assert_eq!(
            store.get(&bucket, key).await.unwrap().unwrap(),
            every_byte,
            "{key:?}"
        );
    }
    let listed: BTreeSet<_> = store
        .list_keys(&bucket, None, 100)
        .await
        .unwrap()
        .keys
        .into_iter()
        .collect();
    assert_eq!(listed, keys.iter().map(|&key| key.to_owned()).collect());
}

async fn holds_the_limits(store: &dyn KeyValue) {
    let bucket = bucket();
    let longest = "k".repeat(KEY_LEN_MAX);
    let largest = Bytes::from(vec![7; VALUE_LEN_MAX]);
    store.set(&bucket, &longest, largest.clone()).await.unwrap();
    assert_eq!(store.get(&bucket, &longest).await.unwrap().unwrap(), largest);
    store.delete(&bucket, &longest).await.unwrap();

    let too_large = |error| matches!(error, KeyValueError::TooLarge { .. });
    let longer = "k".repeat(KEY_LEN_MAX + 1);
    let larger = Bytes::from(vec![7; VALUE_LEN_MAX + 1]);
    assert!(too_large(store.get(&bucket, &longer).await.unwrap_err()));
    assert!(too_large(
        store.set(&bucket, &longer, Bytes::new()).await.unwrap_err()
    ));
    assert!(too_large(store.delete(&bucket, &longer).await.unwrap_err()));
    assert!(too_large(store.increment(&bucket, &longer, 1).await.unwrap_err()));
    assert!(too_large(
        store.set(&bucket, "k", larger.clone()).await.unwrap_err()
    ));
    let swap = store.compare_and_swap(&bucket, "k", None, larger.clone());
    assert!(too_large(swap.await.unwrap_err()));
    let batch = vec![("a".to_owned(), Bytes::new()), ("k".to_owned(), larger)];
    assert!(too_large(store.set_many(&bucket, batch).await.unwrap_err()));
    let many = vec!["k".to_owned(); BATCH_LEN_MAX + 1];
    assert!(too_large(store.get_many(&bucket, &many).await.unwrap_err()));
    assert!(too_large(store.delete_many(&bucket, &many).await.unwrap_err()));
    assert!(matches!(
        store.set(&bucket, "", Bytes::new()).await,
        Err(KeyValueError::EmptyKey)
    ));
    assert!(matches!(
        store.get(&bucket, "").await,
        Err(KeyValueError::EmptyKey)
    ));

    // Few keys of large values: an answer has a bound as well.
    let keys: Vec<_> = ["a", "b", "c"].map(str::to_owned).into();
    for key in &keys {
        store.set(&bucket, key, largest.clone()).await.unwrap();
    }
    assert!(too_large(store.get_many(&bucket, &keys).await.unwrap_err()));
}

async fn pages_in_key_order(store: &dyn KeyValue) {
    let bucket = bucket();
    let keys: Vec<_> = (0..PAGE_LEN_MAX + 5).map(|n| format!("{n:05}")).collect();
    for some in keys.chunks(BATCH_LEN_MAX) {
        let entries = some.iter().rev().map(|key| (key.clone(), Bytes::new())).collect();
        store.set_many(&bucket, entries).await.unwrap();
    }
    assert_eq!(list(store, &bucket, 7).await, keys);
    let first = store.list_keys(&bucket, None, usize::MAX).await.unwrap();
    assert_eq!(first.keys, keys[..PAGE_LEN_MAX]);
    // A cursor need not be a key that is still there, nor a key at all.
    store.delete(&bucket, "00010").await.unwrap();
    assert_eq!(
        store.list_keys(&bucket, Some("00010"), 1).await.unwrap().keys,
        ["00011"]
    );
    assert_eq!(
        store.list_keys(&bucket, Some("00012x"), 1).await.unwrap().keys,
        ["00013"]
    );
    let end = store.list_keys(&bucket, Some("\u{10ffff}"), 1).await.unwrap();
    assert_eq!((end.keys.len(), end.cursor), (0, None));
}

async fn list(store: &dyn KeyValue, bucket: &Bucket, limit: usize) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list_keys(bucket, cursor.as_deref(), limit).await.unwrap();
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return keys;
        }
    }
}

async fn lists_what_stays_exactly_once_while_others_write(store: Arc<dyn KeyValue>) {
    let bucket = bucket();
    let stays: Vec<_> = (0..100).map(|n| format!("stays-{n:03}")).collect();
    let entries = stays.iter().map(|key| (key.clone(), Bytes::new())).collect();
    store.set_many(&bucket, entries).await.unwrap();
    let mut others = JoinSet::new();
    for task in 0..4 {
        let (store, bucket) = (store.clone(), bucket.clone());
        others.spawn(async move {
            for turn in 0..TURNS {
                let key = format!("stays-{turn:03}-not-{task}");
                store.set(&bucket, &key, Bytes::new()).await.unwrap();
                store.delete(&bucket, &key).await.unwrap();
            }
        });
    }
    while !others.is_empty() {
        let mut listed = list(&*store, &bucket, 7).await;
        listed.retain(|key| stays.contains(key));
        assert_eq!(listed, stays);
        while let Some(ended) = others.try_join_next() {
            ended.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

async fn adds_to_decimal_text_only(store: &dyn KeyValue) {
    let bucket = bucket();
    assert_eq!(store.increment(&bucket, "n", 5).await.unwrap(), 5);
    assert_eq!(store.increment(&bucket, "n", -7).await.unwrap(), -2);
    assert_eq!(store.get(&bucket, "n").await.unwrap().unwrap(), "-2");
    store.set(&bucket, "n", "41".into()).await.unwrap();
    assert_eq!(store.increment(&bucket, "n", 1).await.unwrap(), 42);
    for value in ["", "abc", "1.5", "\u{661}", "99999999999999999999"] {
        store.set(&bucket, "n", value.into()).await.unwrap();
        let error = store.increment(&bucket, "n", 1).await.unwrap_err();
        assert!(
            matches!(&error, KeyValueError::NotANumber { key } if key == "n"),
            "{error}"
        );
        assert_eq!(store.get(&bucket, "n").await.unwrap().unwrap(), value);
    }
    store
        .set(&bucket, "n", i64::MAX.to_string().into())
        .await
        .unwrap();
    let error = store.increment(&bucket, "n", 1).await.unwrap_err();
    assert!(matches!(error, KeyValueError::OutOfRange { .. }));
}

async fn loses_no_increment_among_many_tasks(store: Arc<dyn KeyValue>) {
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let store = store.clone();
        tasks.spawn(async move {
            let mut sums = Vec::new();
            for _ in 0..TURNS {
                sums.push(store.increment(&bucket(), "n", 1).await.unwrap());
            }
            sums
        });
    }
    let mut sums: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    sums.sort_unstable();
    let total = i64::try_from(TASKS).unwrap() * TURNS;
    assert_eq!(
        sums,
        (1..=total).collect::<Vec<_>>(),
        "two increments gave the same sum"
    );
}

async fn lets_one_of_many_swaps_win(store: Arc<dyn KeyValue>) {
    for round in 0..TURNS {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let store = store.clone();
            tasks.spawn(async move {
                let expected = (round > 0).then(|| Bytes::from(format!("round {}", round - 1)));
                let mine = Bytes::from(format!("round {round} of {task}"));
                store
                    .compare_and_swap(&bucket(), "k", expected, mine)
                    .await
                    .unwrap()
            });
        }
        let swaps = tasks.join_all().await;
        assert_eq!(swaps.iter().filter(|&swap| *swap == Swap::Done).count(), 1);
        let winner = store.get(&bucket(), "k").await.unwrap();
        for swap in swaps {
            assert!(swap == Swap::Done || swap == Swap::Changed(winner.clone()));
        }
        store
            .set(&bucket(), "k", format!("round {round}").into())
            .await
            .unwrap();
    }
}

async fn swaps_only_what_is_expected(store: &dyn KeyValue) {
    let bucket = bucket();
    let swap = async |expected: Option<&'static str>, new: &'static str| {
        let expected = expected.map(Bytes::from);
        store
            .compare_and_swap(&bucket, "k", expected, new.into())
            .await
            .unwrap()
    };
    assert_eq!(
        swap(Some(""), "x").await,
        Swap::Changed(None),
        "no value is not an empty one"
    );
    assert_eq!(swap(None, "").await, Swap::Done);
    assert_eq!(swap(None, "x").await, Swap::Changed(Some(Bytes::new())));
    assert_eq!(swap(Some(""), "y").await, Swap::Done);
    assert_eq!(store.get(&bucket, "k").await.unwrap().unwrap(), "y");
}

async fn writes_a_batch_as_one(store: Arc<dyn KeyValue>) {
    let bucket = bucket();
    let keys: Vec<_> = ["a", "missing", "b", "a"].map(str::to_owned).into();
    let entries = [("a", "1"), ("b", "2"), ("a", "3")];
    let entries = entries.map(|(key, value)| (key.to_owned(), Bytes::from(value)));
    store.set_many(&bucket, entries.into()).await.unwrap();
    let values = store.get_many(&bucket, &keys).await.unwrap();
    assert_eq!(
        values,
        [Some("3".into()), None, Some("2".into()), Some(Bytes::from("3"))]
    );

    // One bad entry, and none is written.
    let bad = vec![("c".to_owned(), Bytes::new()), (String::new(), Bytes::new())];
    assert!(matches!(
        store.set_many(&bucket, bad).await,
        Err(KeyValueError::EmptyKey)
    ));
    assert!(!store.exists(&bucket, "c").await.unwrap());

    store.delete_many(&bucket, &keys).await.unwrap();
    assert_eq!(store.list_keys(&bucket, None, 1).await.unwrap().keys.len(), 0);
    store.set_many(&bucket, Vec::new()).await.unwrap();
    store.delete_many(&bucket, &[]).await.unwrap();
    assert!(store.get_many(&bucket, &[]).await.unwrap().is_empty());
}

async fn refuses_all_but_closing_once_closed(store: &dyn KeyValue) {
    let bucket = bucket();
    store.close().await;
    store.close().await;
    let closed = |error| matches!(error, KeyValueError::Closed);
    assert!(closed(store.get(&bucket, "k").await.unwrap_err()));
    assert!(closed(store.set(&bucket, "k", Bytes::new()).await.unwrap_err()));
    assert!(closed(store.list_keys(&bucket, None, 1).await.unwrap_err()));
}
