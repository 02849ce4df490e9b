//! Key-value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use weft_capabilities::{Bucket, Changes, KeyValue, KeyValueError, Swap, Watch, conformance};
use weft_nats::{BucketOptions, NatsKeyValue, NatsOptions};
use weft_servers::{Nats, Proxy};

use super::{LONG, ask, bare, bucket, once_it_answers, open, open_at};

/// What the largest value needs.
const LARGE: &str = "max_payload: 9MB";

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = Nats::start_with_jetstream(LARGE);
    let count = AtomicU32::new(0);
    conformance::key_value(|| {
        let bucket = BucketOptions {
            name: format!("bucket-{}", count.fetch_add(1, Ordering::Relaxed)),
            ..BucketOptions::default()
        };
        Arc::new(NatsKeyValue::open(&NatsOptions::new(server.url()), bucket).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_changes() {
    let server = Nats::start_with_jetstream("");
    let count = AtomicU32::new(0);
    conformance::tells_changes(|| {
        let bucket = BucketOptions {
            name: format!("bucket-{}", count.fetch_add(1, Ordering::Relaxed)),
            ..BucketOptions::default()
        };
        Arc::new(NatsKeyValue::open(&NatsOptions::new(server.url()), bucket).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_until_it_is_handled_also_what_came_while_nobody_listened_and_marks_are_no_keys() {
    let server = Nats::start_with_jetstream("");
    let store = open(&NatsOptions::new(server.url()));
    let watch = async || store.watch(&bucket(), Watch::new("", "g")).await.unwrap();
    let next = async |changes: &mut Changes| {
        let change = tokio::time::timeout(LONG, changes.next()).await;
        change.expect("a change is not told").expect("the watch ended")
    };
    // Before anybody watches, a delete leaves nothing.
    store.set(&bucket(), "old", "v".into()).await.unwrap();
    store.delete(&bucket(), "old").await.unwrap();
    let client = bare(&server).await;
    let subjects = async || {
        let info = ask(
            &client,
            "STREAM.INFO.KV_weft",
            serde_json::json!({ "subjects_filter": ">" }),
        )
        .await;
        info["state"]["subjects"]
            .as_object()
            .map_or(0, |subjects| subjects.len())
    };
    assert_eq!(subjects().await, 0);
    let mut changes = watch().await;
    store.set(&bucket(), "k", "1".into()).await.unwrap();
    let change = next(&mut changes).await;
    assert_eq!((change.attempt, change.comes_again()), (1, true));
    change.nak(Duration::from_millis(1)).await.unwrap();
    let change = next(&mut changes).await;
    assert_eq!((change.attempt, change.key.as_str()), (2, "k"));
    change.ack().await.unwrap();
    drop(changes);
    store.set(&bucket(), "k", "2".into()).await.unwrap();
    store.delete(&bucket(), "k").await.unwrap();
    store.set(&bucket(), "l", "1".into()).await.unwrap();
    let mut changes = watch().await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let change = next(&mut changes).await;
        told.push((change.key.clone(), change.value.is_some()));
        change.ack().await.unwrap();
    }
    // Who has left may have given one of them back.
    told.sort();
    assert_eq!(told, [("k".to_owned(), false), ("l".to_owned(), true)]);
    assert_eq!(subjects().await, 2, "the key and the mark");
    // Another host knows that somebody watches.
    let other = open(&NatsOptions::new(server.url()));
    other.delete(&bucket(), "l").await.unwrap();
    let change = next(&mut changes).await;
    assert_eq!((change.key.as_str(), change.value.is_some()), ("l", false));
    change.ack().await.unwrap();
    store.set(&bucket(), "l", "1".into()).await.unwrap();
    let keys = store.list_keys(&bucket(), None, 10).await.unwrap().keys;
    assert_eq!(keys, ["l"]);
    let change = next(&mut changes).await;
    assert_eq!(change.key, "l");
    // Who leaves gives back what it has not handled, and the next need not wait until its time is over.
    store.set(&bucket(), "m", "1".into()).await.unwrap();
    drop((change, changes));
    let mut changes = watch().await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let change = tokio::time::timeout(Duration::from_secs(20), changes.next()).await;
        let change = change.expect("it waits for too long").unwrap();
        told.push(change.key.clone());
        change.ack().await.unwrap();
    }
    told.sort();
    assert_eq!(told, ["l", "m"]);
}

/// Of a bucket with copies on several servers, the first of them alone is asked, by another question.
#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_where_only_the_leader_is_asked() {
    let server = Nats::start_with_jetstream(LARGE);
    let client = bare(&server).await;
    for n in 0..20 {
        let config = serde_json::json!({
            "name": format!("KV_bucket-{n}"),
            "subjects": [format!("$KV.bucket-{n}.>")],
            "max_msgs_per_subject": 1,
            "storage": "memory",
            "num_replicas": 1,
            "allow_direct": false,
        });
        let made = ask(&client, &format!("STREAM.CREATE.KV_bucket-{n}"), config).await;
        assert!(made.get("error").is_none(), "{made}");
    }
    let count = AtomicU32::new(0);
    conformance::key_value(|| {
        let bucket = BucketOptions {
            name: format!("bucket-{}", count.fetch_add(1, Ordering::Relaxed)),
            ..BucketOptions::default()
        };
        Arc::new(NatsKeyValue::open(&NatsOptions::new(server.url()), bucket).unwrap())
    })
    .await;
    assert!(count.into_inner() <= 20, "a bucket was made by the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn forgets_what_was_not_written_for_a_while_if_the_bucket_does_and_says_if_it_does_not() {
    let server = Nats::start_with_jetstream("");
    let ttl = Duration::from_secs(1);
    let open = |ttl| {
        let bucket = BucketOptions {
            ttl,
            ..BucketOptions::default()
        };
        NatsKeyValue::open(&NatsOptions::new(server.url()), bucket).unwrap()
    };
    conformance::forgets_values(&open(Some(ttl)), ttl).await;
    // Who asks for nothing takes the bucket as it is.
    open(None).set(&bucket(), "k", "v".into()).await.unwrap();
    let other = open(Some(ttl * 2));
    let refused = once_it_is_refused(&other).await;
    assert!(refused.contains("keeps values for 1s, not for 2s"), "{refused}");
}

/// What a store says that can't be used.
async fn once_it_is_refused(store: &NatsKeyValue) -> String {
    let tries = async {
        loop {
            let refused = store.get(&bucket(), "k").await.unwrap_err().to_string();
            if refused.contains("bucket") {
                return refused;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, tries).await.unwrap()
}

#[tokio::test]
async fn what_it_writes_is_what_other_clients_of_nats_read() {
    let server = Nats::start_with_jetstream("");
    let store = open_at(server.url());
    store.set(&bucket(), "item-1", "a rug".into()).await.unwrap();
    let client = bare(&server).await;
    let subject = "$JS.API.DIRECT.GET.KV_weft.$KV.weft.default.shop.items.item-1";
    let found = client.request(subject, "".into()).await.unwrap();
    assert_eq!(found.payload, "a rug");

    // Others delete by a marker, which is no value, and may be followed by one.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let subject = "$KV.weft.default.shop.items.item-1";
    client
        .request_with_headers(subject, headers, "".into())
        .await
        .unwrap();
    assert_eq!(store.get(&bucket(), "item-1").await.unwrap(), None);
    let swap = store
        .compare_and_swap(&bucket(), "item-1", None, "another".into())
        .await;
    assert_eq!(swap.unwrap(), Swap::Done);
    assert_eq!(store.get(&bucket(), "item-1").await.unwrap().unwrap(), "another");
}

#[tokio::test]
async fn what_is_deleted_leaves_nothing_in_the_stream() {
    let server = Nats::start_with_jetstream("");
    let store = open_at(server.url());
    let entries: Vec<_> = (0..20).map(|n| (n.to_string(), "v".into())).collect();
    let keys: Vec<_> = entries.iter().map(|(key, _)| key.clone()).collect();
    store.set_many(&bucket(), entries).await.unwrap();
    store.delete_many(&bucket(), &keys).await.unwrap();
    let info = ask(&bare(&server).await, "STREAM.INFO.KV_weft", serde_json::json!({})).await;
    assert_eq!(info["state"]["messages"], 0, "{info}");
}

/// JetStream tells 100,000 subjects at once, and of more a section.
#[tokio::test(flavor = "multi_thread")]
async fn lists_more_keys_than_the_server_tells_at_once() {
    const KEYS: usize = 100_300;
    let server = Nats::start_with_jetstream("");
    let options = NatsOptions {
        timeout: LONG,
        ..NatsOptions::new(server.url())
    };
    let store = open(&options);
    store.set(&bucket(), "other", "v".into()).await.unwrap();
    let client = bare(&server).await;
    for n in 0..KEYS {
        let subject = format!("$KV.weft.default.shop.many.{n:06}");
        client.publish(subject, "".into()).await.unwrap();
    }
    let many = Bucket::scoped("default", "shop", "many");
    let last = format!("{:06}", KEYS - 1);
    once_it_answers(async || match store.exists(&many, &last).await? {
        true => Ok(()),
        false => Err(KeyValueError::Unavailable(String::new())),
    })
    .await;
    for (after, first) in [(None, 0), (Some("050000"), 50_001), (Some("100289"), 100_290)] {
        let page = store.list_keys(&many, after, 500).await.unwrap();
        let expected: Vec<_> = (first..KEYS).take(500).map(|n| format!("{n:06}")).collect();
        assert_eq!(page.keys, expected);
        assert_eq!(page.cursor.is_some(), first + 500 < KEYS);
    }
}

#[tokio::test]
async fn a_value_that_the_server_does_not_take_is_told_with_its_limit() {
    let server = Nats::start_with_jetstream("max_payload: 64KB");
    let store = open_at(server.url());
    let error = store
        .set(&bucket(), "k", vec![7; 70_000].into())
        .await
        .unwrap_err();
    let is_told =
        matches!(&error, KeyValueError::TooLarge { len: 70_000, len_max, .. } if *len_max == 64 << 10);
    assert!(is_told, "{error:?}");
}

#[tokio::test]
async fn a_bucket_that_is_full_says_so() {
    let server = Nats::start_with_jetstream("");
    let client = bare(&server).await;
    let config = serde_json::json!({
        "name": "KV_weft",
        "subjects": ["$KV.weft.>"],
        "max_msgs_per_subject": 1,
        "max_bytes": 4_096,
        "discard": "new",
        "allow_direct": true,
    });
    ask(&client, "STREAM.CREATE.KV_weft", config).await;
    let store = open_at(server.url());
    let error = store
        .set(&bucket(), "k", vec![7; 8_000].into())
        .await
        .unwrap_err();
    assert!(
        matches!(error, KeyValueError::Full { bytes_max: 4_096 }),
        "{error:?}"
    );
    store.set(&bucket(), "k", "v".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_change_the_same_key_lose_no_change() {
    let server = Nats::start_with_jetstream("");
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let store = open_at(server.url());
        tasks.spawn(async move {
            let mut done = 0;
            for _ in 0..50 {
                match store.increment(&bucket(), "n", 1).await {
                    Ok(_) => done += 1,
                    Err(KeyValueError::Overloaded) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            done
        });
    }
    let done: i64 = tasks.join_all().await.into_iter().sum();
    assert!(done > 0, "nobody got through");
    assert_eq!(
        open_at(server.url()).increment(&bucket(), "n", 0).await.unwrap(),
        done
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_no_acknowledged_write_when_the_server_is_killed_under_load() {
    let mut server = Nats::start_with_jetstream("");
    let store = Arc::new(open_at(server.url()));
    store.set(&bucket(), "n", "0".into()).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let (mut done, mut unknown) = (0, 0);
            while done < 100 {
                // What was deleted stays deleted too.
                let key = format!("{task}-{done}");
                let turn = async {
                    store.increment(&bucket(), "n", 1).await?;
                    done += 1;
                    store.set(&bucket(), &key, "v".into()).await?;
                    store.delete(&bucket(), &key).await?;
                    assert!(!store.exists(&bucket(), &key).await?, "{key} is there");
                    Ok(())
                };
                match turn.await {
                    Ok(()) => {}
                    Err(KeyValueError::Unavailable(_)) => {
                        unknown += 1;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            (done, unknown)
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.kill();
        server.restart();
        once_it_answers(async || store.get(&bucket(), "n").await).await;
    }
    let counts = tokio::time::timeout(LONG, tasks.join_all()).await.unwrap();
    let done: i64 = counts.iter().map(|(done, _)| done).sum();
    let unknown: i64 = counts.iter().map(|(_, unknown)| unknown).sum();
    let sum = store.increment(&bucket(), "n", 0).await.unwrap();
    assert!(
        (done..=done + unknown).contains(&sum),
        "{done} <= {sum} <= {}",
        done + unknown
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_costs_a_caller_its_time_limit_at_most_and_heals() {
    let server = Nats::start_with_jetstream("");
    let proxy = Proxy::to(server.port()).await;
    let options = NatsOptions {
        timeout: Duration::from_millis(300),
        ..NatsOptions::new(format!("nats://127.0.0.1:{}", proxy.port()))
    };
    let store = open(&options);
    once_it_answers(async || store.set(&bucket(), "k", "v".into()).await).await;
    proxy.cut();
    for _ in 0..5 {
        let cut = tokio::time::timeout(LONG, store.get(&bucket(), "k"))
            .await
            .unwrap();
        assert!(matches!(cut, Err(KeyValueError::Unavailable(_))), "{cut:?}");
    }
    proxy.heal();
    let value = once_it_answers(async || store.get(&bucket(), "k").await).await;
    assert_eq!(value.unwrap(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_operations_than_fit_are_refused_while_the_server_is_stuck() {
    let server = Nats::start_with_jetstream("");
    let options = NatsOptions {
        timeout: Duration::from_millis(500),
        ..NatsOptions::new(server.url())
    };
    let store = Arc::new(open(&options));
    once_it_answers(async || store.set(&bucket(), "k", "v".into()).await).await;
    server.freeze();
    let mut tasks = JoinSet::new();
    for _ in 0..3_000 {
        let store = store.clone();
        tasks.spawn(async move { store.get(&bucket(), "k").await });
    }
    let answers = tokio::time::timeout(LONG, tasks.join_all()).await.unwrap();
    let overloaded = answers
        .iter()
        .filter(|answer| matches!(answer, Err(KeyValueError::Overloaded)))
        .count();
    assert!(overloaded > 0, "all of them were on their way at once");
    assert!(answers.iter().all(|answer| matches!(
        answer,
        Err(KeyValueError::Overloaded | KeyValueError::Unavailable(_))
    )));
    server.thaw();
    once_it_answers(async || store.get(&bucket(), "k").await).await;
}

#[tokio::test]
async fn a_server_that_was_never_there_is_unavailable_at_once() {
    let store = open_at(format!("nats://127.0.0.1:{}", weft_servers::free_port()));
    for _ in 0..3 {
        let error = store.get(&bucket(), "k").await.unwrap_err();
        assert!(matches!(error, KeyValueError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_without_jetstream_says_so() {
    let server = Nats::start("");
    let error = open_at(server.url()).get(&bucket(), "k").await.unwrap_err();
    assert!(
        matches!(&error, KeyValueError::Unavailable(text) if text.contains("JetStream is off")),
        "{error:?}"
    );
}

#[tokio::test]
async fn more_copies_than_there_are_servers_are_refused_with_the_reason() {
    let server = Nats::start_with_jetstream("");
    let bucket_options = BucketOptions {
        replicas: 3,
        ..BucketOptions::default()
    };
    let store = NatsKeyValue::open(&NatsOptions::new(server.url()), bucket_options).unwrap();
    let error = store.get(&bucket(), "k").await.unwrap_err();
    assert!(
        matches!(&error, KeyValueError::Unavailable(text) if text.contains("replicas")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_stream_that_is_no_bucket_is_left_alone() {
    let server = Nats::start_with_jetstream("");
    let config = serde_json::json!({ "name": "KV_weft", "subjects": ["$KV.weft.>"] });
    ask(&bare(&server).await, "STREAM.CREATE.KV_weft", config).await;
    let error = open_at(server.url()).get(&bucket(), "k").await.unwrap_err();
    assert!(
        matches!(&error, KeyValueError::Unavailable(text) if text.contains("no bucket")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_bucket_that_is_taken_away_is_made_again() {
    let server = Nats::start_with_jetstream("");
    let store = open_at(server.url());
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    let gone = ask(
        &bare(&server).await,
        "STREAM.DELETE.KV_weft",
        serde_json::json!({}),
    )
    .await;
    assert_eq!(gone["success"], true);
    let value = once_it_answers(async || store.get(&bucket(), "k").await).await;
    assert_eq!(value, None);
    store.set(&bucket(), "k", "w".into()).await.unwrap();
}

#[tokio::test]
async fn adds_to_every_text_that_other_backends_take_for_a_number() {
    let server = Nats::start_with_jetstream("");
    let store = open_at(server.url());
    for (before, sum) in [("+5", 6), ("007", 8), ("-0", 1), ("-012", -11), ("000", 1)] {
        store.set(&bucket(), "n", before.into()).await.unwrap();
        assert_eq!(store.increment(&bucket(), "n", 1).await.unwrap(), sum, "{before}");
    }
}
