//! Objects.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use futures::TryStreamExt;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use weft_capabilities::{BlobError, BlobStore, Container, Listing, Object, conformance};
use weft_nats::{NatsBlobStore, NatsOptions, ObjectOptions, Storage};
use weft_servers::Nats;

use super::{LONG, ask, bare};

/// A chunk, if the server takes as much.
const CHUNK: usize = 256 << 10;

fn open_with(options: &NatsOptions, objects: ObjectOptions) -> NatsBlobStore {
    NatsBlobStore::open(options, objects, &std::env::temp_dir()).unwrap()
}

/// Where those who replace one object take turns, on a machine that may do much else.
fn patient(server: &Nats) -> NatsOptions {
    NatsOptions {
        timeout: LONG,
        ..NatsOptions::new(server.url())
    }
}

fn open(server: &Nats) -> NatsBlobStore {
    open_with(&NatsOptions::new(server.url()), ObjectOptions::default())
}

/// One that keeps nothing for who reads what was replaced.
fn open_graceless(server: &Nats) -> NatsBlobStore {
    let objects = ObjectOptions {
        grace: Duration::ZERO,
        ..ObjectOptions::default()
    };
    open_with(&patient(server), objects)
}

/// A server, and a store on it with a container.
async fn with_container(store: &NatsBlobStore) -> Container {
    let container = Container::scoped("default", "shop", "pictures").unwrap();
    until(async || store.create_container(&container).await.is_ok()).await;
    container
}

async fn put(store: &dyn BlobStore, object: &Object, bytes: &[u8]) -> Result<(), BlobError> {
    let mut writer = store.write(Some(object)).await?;
    for chunk in bytes.chunks(300_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.commit(object).await
}

async fn get(store: &dyn BlobStore, object: &Object, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
    let read = store.read(object, range).await?;
    let chunks: Vec<Bytes> = read.chunks.try_collect().await?;
    Ok(chunks.concat())
}

async fn all(store: &dyn BlobStore, object: &Object) -> Result<Vec<u8>, BlobError> {
    get(store, object, 0..u64::MAX).await
}

/// Bytes that differ from place to place, and from `seed` to `seed`.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| ((n / 7 + seed) % 251) as u8).collect()
}

/// Waits until it is so.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, waiting)
        .await
        .expect("it never becomes so");
}

/// The only stream of the server.
async fn stream(client: &async_nats::Client) -> String {
    let names = ask(client, "STREAM.NAMES", json!({})).await;
    assert_eq!(names["total"], 1, "{names}");
    names["streams"][0].as_str().unwrap().to_owned()
}

/// The bucket of the only stream.
async fn bucket(client: &async_nats::Client) -> String {
    stream(client).await.strip_prefix("OBJ_").unwrap().to_owned()
}

/// What the bucket has of objects' bytes: a name of each write.
async fn nuids(client: &async_nats::Client) -> Vec<String> {
    let bucket = bucket(client).await;
    let begin = format!("$O.{bucket}.C.");
    let question = json!({ "subjects_filter": format!("{begin}>") });
    let info = ask(client, &format!("STREAM.INFO.OBJ_{bucket}"), question).await;
    let Some(subjects) = info["state"]["subjects"].as_object() else {
        return Vec::new();
    };
    let names = subjects.keys().map(|subject| subject[begin.len()..].to_owned());
    names.collect()
}

/// What NATS's own clients read of an object.
async fn meta(client: &async_nats::Client, object: &str) -> Value {
    let bucket = bucket(client).await;
    let question = json!({ "last_by_subj": format!("$O.{bucket}.M.{}", URL_SAFE.encode(object)) });
    let found = ask(client, &format!("STREAM.MSG.GET.OBJ_{bucket}"), question).await;
    let data = STANDARD
        .decode(found["message"]["data"].as_str().unwrap())
        .unwrap();
    serde_json::from_slice(&data).unwrap()
}

/// Writes as a client of NATS does that knows nothing of Weft.
async fn publish(client: &async_nats::Client, subject: String, payload: Vec<u8>) {
    let ack = client.request(subject, payload.into()).await.unwrap();
    let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
    assert!(ack.get("error").is_none(), "{ack}");
}

async fn put_meta(client: &async_nats::Client, object: &str, meta: Value) {
    let subject = format!("$O.{}.M.{}", bucket(client).await, URL_SAFE.encode(object));
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "sub");
    let ack = client.request_with_headers(subject, headers, meta.to_string().into());
    let ack: Value = serde_json::from_slice(&ack.await.unwrap().payload).unwrap();
    assert!(ack.get("error").is_none(), "{ack}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = Nats::start_with_jetstream("");
    let count = AtomicU32::new(0);
    let open = || -> Arc<dyn BlobStore> {
        let objects = ObjectOptions {
            prefix: format!("store-{}", count.fetch_add(1, Ordering::Relaxed)),
            ..ObjectOptions::default()
        };
        Arc::new(open_with(&patient(&server), objects))
    };
    conformance::blob_store(&open, usize::MAX).await;
    conformance::tells_its_containers(&*open(), usize::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_containers_than_the_server_tells_at_once_are_told_each_once_while_others_come_and_go() {
    let server = Nats::start_with_jetstream("");
    let objects = |prefix: &str| ObjectOptions {
        prefix: prefix.to_owned(),
        storage: Storage::Memory,
        ..ObjectOptions::default()
    };
    let store = Arc::new(open_with(&patient(&server), objects("weft")));
    let other = open_with(&patient(&server), objects("weft-other"));
    let scoped = |name: &str| Container::scoped("default", "shop", name).unwrap();
    for n in 0..300 {
        store.create_container(&scoped(&n.to_string())).await.unwrap();
    }
    other.create_container(&scoped("theirs")).await.unwrap();
    let passing = {
        let store = store.clone();
        async move {
            for n in 0.. {
                // Before all others, in the order of the names.
                let passing = Container::scoped("a", "a", &n.to_string()).unwrap();
                store.create_container(&passing).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                store.delete_container(&passing).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(passing);
    for _ in 0..10 {
        let told = store.containers(Some(("default", "shop"))).await.unwrap();
        let names: HashSet<_> = told.iter().map(|container| container.name().to_owned()).collect();
        assert_eq!((told.len(), names.len()), (300, 300));
        assert!(!names.contains("theirs"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_as_small_as_the_server_takes_messages() {
    let server = Nats::start_with_jetstream("max_payload: 16KB");
    let store = open(&server);
    let object = with_container(&store).await.object("o").unwrap();
    let bytes = pattern(1_000_000, 0);
    put(&store, &object, &bytes).await.unwrap();
    assert!(all(&store, &object).await.unwrap() == bytes);
    let part = get(&store, &object, 500_000..500_010).await.unwrap();
    assert_eq!(part, bytes[500_000..500_010]);
    let chunks = meta(&bare(&server).await, "o").await["chunks"].as_u64().unwrap();
    assert!((60..70).contains(&chunks), "{chunks}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_where_only_the_leader_is_asked() {
    let server = Nats::start_with_jetstream("");
    let store = open(&server);
    let object = with_container(&store).await.object("o").unwrap();
    let client = bare(&server).await;
    let name = stream(&client).await;
    let mut config = ask(&client, &format!("STREAM.INFO.{name}"), json!({})).await["config"].take();
    config["allow_direct"] = json!(false);
    let updated = ask(&client, &format!("STREAM.UPDATE.{name}"), config).await;
    assert_eq!(updated["config"]["allow_direct"], false, "{updated}");
    let bytes = pattern(5 * CHUNK + 17, 0);
    put(&store, &object, &bytes).await.unwrap();
    assert!(all(&store, &object).await.unwrap() == bytes);
    let (start, end) = (3 * CHUNK - 1, 4 * CHUNK + 1);
    let part = get(&store, &object, start as u64..end as u64).await.unwrap();
    assert!(part == bytes[start..end]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_writes_is_what_other_clients_of_nats_read() {
    let server = Nats::start_with_jetstream("");
    let store = open(&server);
    let object = with_container(&store).await.object("a/b c.jpg").unwrap();
    let bytes = pattern(3 * CHUNK + 1, 0);
    put(&store, &object, &bytes).await.unwrap();
    let client = bare(&server).await;
    let meta = meta(&client, "a/b c.jpg").await;
    let bucket = bucket(&client).await;
    assert_eq!(meta["name"], "a/b c.jpg");
    assert_eq!(meta["bucket"], json!(bucket));
    assert_eq!(meta["size"], bytes.len());
    assert_eq!(meta["chunks"], 4);
    let digest = format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(&bytes)));
    assert_eq!(meta["digest"], json!(digest));
    // As a consumer would get them, one after the other.
    let subject = format!("$O.{bucket}.C.{}", meta["nuid"].as_str().unwrap());
    let (mut read, mut next) = (Vec::new(), 1);
    loop {
        let question = json!({ "seq": next, "next_by_subj": subject });
        let found = ask(&client, &format!("STREAM.MSG.GET.OBJ_{bucket}"), question).await;
        let Some(sequence) = found["message"]["seq"].as_u64() else {
            break;
        };
        read.extend(
            STANDARD
                .decode(found["message"]["data"].as_str().unwrap())
                .unwrap(),
        );
        next = sequence + 1;
    }
    assert!(read == bytes, "another client reads something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_what_other_clients_of_nats_write_and_sees_that_they_deleted_it() {
    let server = Nats::start_with_jetstream("");
    let store = open(&server);
    let object = with_container(&store).await.object("theirs").unwrap();
    let client = bare(&server).await;
    let bucket = bucket(&client).await;
    // Chunks of any length, and in larger ones than are given to who reads them.
    let bytes = pattern(40_000, 0);
    let nuid = "S4B1Q8ZXWMJ9N3FV0QDZ2K";
    for chunk in [&bytes[..10], &bytes[10..30_000], &bytes[30_000..]] {
        publish(&client, format!("$O.{bucket}.C.{nuid}"), chunk.to_vec()).await;
    }
    let mut meta = json!({
        "name": "theirs", "bucket": bucket, "nuid": nuid, "size": bytes.len(), "chunks": 3,
        "mtime": "0001-01-01T00:00:00Z", "options": { "max_chunk_size": 131_072 },
    });
    put_meta(&client, "theirs", meta.clone()).await;
    assert!(all(&store, &object).await.unwrap() == bytes);
    let part = get(&store, &object, 29_990..30_020).await.unwrap();
    assert_eq!(part, bytes[29_990..30_020]);
    let info = store.object_info(&object).await.unwrap();
    assert_eq!(info.size, bytes.len() as u64);
    assert!(info.created_at > SystemTime::now() - LONG);

    meta["deleted"] = json!(true);
    put_meta(&client, "theirs", meta).await;
    let error = all(&store, &object).await.unwrap_err();
    assert!(matches!(error, BlobError::NoSuchObject), "{error:?}");
    put(&store, &object, b"ours").await.unwrap();
    assert_eq!(all(&store, &object).await.unwrap(), b"ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_say_of_an_object_makes_nothing_else_be_purged_or_read() {
    let server = Nats::start_with_jetstream("");
    let store = open_graceless(&server);
    let container = with_container(&store).await;
    let [kept, odd] = ["kept", "odd"].map(|name| container.object(name).unwrap());
    put(&store, &kept, b"kept").await.unwrap();
    let client = bare(&server).await;
    let bucket = bucket(&client).await;
    for nuid in [">", "*", "a.b", ""] {
        let meta = json!({ "name": "odd", "bucket": bucket, "nuid": nuid, "size": 4, "chunks": 1 });
        put_meta(&client, "odd", meta).await;
        let error = all(&store, &odd).await.unwrap_err();
        assert!(matches!(error, BlobError::Backend(_)), "{error:?}");
        store.delete_objects(std::slice::from_ref(&odd)).await.unwrap();
    }
    let link = json!({ "name": "odd", "bucket": bucket, "options": { "link": { "bucket": "other" } } });
    put_meta(&client, "odd", link).await;
    let error = all(&store, &odd).await.unwrap_err();
    assert!(
        matches!(&error, BlobError::Backend(why) if why.to_string().contains("link")),
        "{error:?}"
    );
    put(&store, &odd, b"x").await.unwrap();
    put(&store, &odd, b"y").await.unwrap();
    until(async || nuids(&client).await.len() == 2).await;
    assert_eq!(all(&store, &kept).await.unwrap(), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_any_part_of_objects_that_were_written_at_once() {
    const WRITERS: usize = 6;
    let server = Nats::start_with_jetstream("");
    let store = open(&server);
    let container = with_container(&store).await;
    let objects: Vec<_> = (0..WRITERS)
        .map(|n| container.object(&n.to_string()).unwrap())
        .collect();
    let len = 12 * CHUNK + 345;
    let patterns: Vec<_> = (0..WRITERS).map(|n| pattern(len, n)).collect();
    let mut writers = Vec::new();
    for object in &objects {
        writers.push(store.write(Some(object)).await.unwrap());
    }
    // Turn by turn, some in larger steps than others.
    for start in (0..len).step_by(CHUNK) {
        for (n, writer) in writers.iter_mut().enumerate() {
            let (bytes, step) = (&patterns[n], CHUNK * (n % 3 + 1));
            if start % step == 0 {
                let chunk = Bytes::copy_from_slice(&bytes[start..(start + step).min(len)]);
                writer.write(chunk).await.unwrap();
            }
        }
    }
    for (writer, object) in writers.into_iter().zip(&objects) {
        writer.commit(object).await.unwrap();
    }
    for (n, object) in objects.iter().enumerate() {
        let bytes = &patterns[n];
        for start in [0, 1, CHUNK - 1, 5 * CHUNK, 7 * CHUNK + 9, 11 * CHUNK, len - 1] {
            let end = (start + CHUNK + 2).min(len);
            let part = get(&store, object, start as u64..end as u64).await.unwrap();
            assert!(part == bytes[start..end], "{n} from {start}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_a_large_object_goes_on_when_it_is_replaced_and_deleted() {
    let server = Nats::start_with_jetstream("");
    let store = open(&server);
    let object = with_container(&store).await.object("o").unwrap();
    let bytes = pattern(20 * CHUNK, 1);
    put(&store, &object, &bytes).await.unwrap();
    let mut read = store.read(&object, 0..u64::MAX).await.unwrap();
    let mut gathered = read.chunks.try_next().await.unwrap().unwrap().to_vec();
    put(&store, &object, b"other").await.unwrap();
    gathered.extend(read.chunks.try_next().await.unwrap().unwrap());
    store.delete_objects(&[object]).await.unwrap();
    while let Some(chunk) = read.chunks.try_next().await.unwrap() {
        gathered.extend(chunk);
    }
    assert!(gathered == bytes, "a read mixed two writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_what_is_kept_no_longer_is_told_so_and_gets_no_other_bytes() {
    let server = Nats::start_with_jetstream("");
    let store = open_graceless(&server);
    let object = with_container(&store).await.object("o").unwrap();
    put(&store, &object, &pattern(20 * CHUNK, 1)).await.unwrap();
    let mut read = store.read(&object, 0..u64::MAX).await.unwrap();
    put(&store, &object, &pattern(20 * CHUNK, 2)).await.unwrap();
    let client = bare(&server).await;
    until(async || nuids(&client).await.len() == 1).await;
    let mut len = 0;
    let error = loop {
        match read.chunks.try_next().await {
            Ok(Some(chunk)) => {
                assert!(chunk[..] == pattern(20 * CHUNK, 1)[len..len + chunk.len()]);
                len += chunk.len();
            }
            Ok(None) => panic!("it came to an end"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, BlobError::Unavailable(why) if why.contains("replaced or deleted")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_write_the_same_object_leave_the_bytes_of_one() {
    let server = Nats::start_with_jetstream("");
    let mut tasks = JoinSet::new();
    let object = with_container(&open(&server)).await.object("o").unwrap();
    for host in 0..3 {
        let (store, object) = (open_graceless(&server), object.clone());
        tasks.spawn(async move {
            for n in 0..15 {
                let bytes = pattern(CHUNK + 1, 100 * host + n);
                match put(&store, &object, &bytes).await {
                    Ok(()) | Err(BlobError::Overloaded) => {}
                    Err(error) => panic!("{error:?}"),
                }
                if n % 5 == 4 {
                    store.delete_objects(std::slice::from_ref(&object)).await.unwrap();
                }
            }
            put(&store, &object, &pattern(CHUNK + 1, host)).await.unwrap();
            store
        });
    }
    let stores = tasks.join_all().await;
    let client = bare(&server).await;
    until(async || nuids(&client).await.len() == 1).await;
    let read = all(&stores[0], &object).await.unwrap();
    assert!(
        (0..3).any(|host| read == pattern(CHUNK + 1, host)),
        "it is a mixture"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_given_up_leaves_nothing() {
    let server = Nats::start_with_jetstream("");
    let store = open(&server);
    let object = with_container(&store).await.object("o").unwrap();
    let client = bare(&server).await;
    for closes in [false, true] {
        let mut writer = store.write(Some(&object)).await.unwrap();
        for _ in 0..3 {
            writer.write(vec![1; 1 << 20].into()).await.unwrap();
        }
        until(async || nuids(&client).await.len() == 1).await;
        drop(writer);
        match closes {
            false => until(async || nuids(&client).await.is_empty()).await,
            true => {
                store.close().await;
                assert!(nuids(&client).await.is_empty(), "closing left something");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_waits_for_is_done_or_leaves_nothing() {
    let server = Nats::start_with_jetstream("");
    let store = open_graceless(&server);
    let object = with_container(&store).await.object("o").unwrap();
    let client = bare(&server).await;
    for n in 0..10 {
        let mut writer = store.write(None).await.unwrap();
        writer.write(pattern(CHUNK * 2, n).into()).await.unwrap();
        let wait = Duration::from_micros(300 * n as u64);
        drop(tokio::time::timeout(wait, writer.commit(&object)).await);
    }
    put(&store, &object, b"last").await.unwrap();
    until(async || nuids(&client).await.len() == 1).await;
    assert_eq!(nuids(&client).await.len(), 1);
}

/// `weft-TIME-OBJECT-RANDOM` of a time long ago.
fn old_nuid(object: &str, n: u64) -> String {
    let hash: String = Sha256::digest(object)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("weft-{:012x}-{hash}-{n:016x}", 1_700_000_000_000_u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_purges_what_a_killed_host_left_and_nothing_else() {
    let server = Nats::start_with_jetstream("");
    let container = with_container(&open(&server)).await;
    let client = bare(&server).await;
    let bucket = bucket(&client).await;
    let old = |name, n| old_nuid(name, n);
    let theirs = "S4B1Q8ZXWMJ9N3FV0QDZ2K".to_owned();
    // Of an object that was never written, and of one that was written again.
    let left = [old("never", 1), old("again", 2)];
    let (used, renamed) = ([old("once", 3), old("again", 4)], old("before", 5));
    for nuid in left.iter().chain(&used).chain([&renamed, &theirs]) {
        let mut headers = HeaderMap::new();
        headers.insert("Weft-Chunk", "0");
        let subject = format!("$O.{bucket}.C.{nuid}");
        client
            .request_with_headers(subject, headers, "here".into())
            .await
            .unwrap();
    }
    let named = [("once", &used[0]), ("again", &used[1]), ("after", &renamed)];
    for (name, nuid) in named {
        let options = json!({ "max_chunk_size": CHUNK });
        let meta = json!({ "name": name, "bucket": bucket, "nuid": nuid, "size": 4, "chunks": 1, "options": options });
        put_meta(&client, name, meta).await;
    }
    let store = open(&server);
    put(&store, &container.object("new").unwrap(), b"new")
        .await
        .unwrap();
    until(async || nuids(&client).await.len() == 5).await;
    let stay = nuids(&client).await;
    assert!(left.iter().all(|nuid| !stay.contains(nuid)), "{stay:?}");
    assert!(stay.contains(&theirs));
    for (name, _) in named {
        assert_eq!(
            all(&store, &container.object(name).unwrap()).await.unwrap(),
            b"here"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_written_while_the_server_is_killed_fails_and_shows_nothing() {
    let mut server = Nats::start_with_jetstream("");
    let store = open(&server);
    let object = with_container(&store).await.object("o").unwrap();
    put(&store, &object, b"before").await.unwrap();
    let mut writer = store.write(Some(&object)).await.unwrap();
    writer.write(vec![1; 1 << 20].into()).await.unwrap();
    server.kill();
    let ended = async {
        loop {
            writer.write(vec![1; 1 << 20].into()).await?;
        }
    };
    let error: Result<(), BlobError> = tokio::time::timeout(LONG, ended).await.unwrap();
    assert!(matches!(error, Err(BlobError::Unavailable(_))), "{error:?}");
    server.restart();
    let error = writer.commit(&object).await;
    assert!(error.is_err(), "a part was taken for the whole");
    until(async || store.object_info(&object).await.is_ok()).await;
    assert_eq!(all(&store, &object).await.unwrap(), b"before");
    put(&store, &object, b"after").await.unwrap();
    assert_eq!(all(&store, &object).await.unwrap(), b"after");
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_no_acknowledged_object_and_mixes_none_when_the_server_is_killed_under_load() {
    let mut server = Nats::start_with_jetstream("");
    let store = Arc::new(open(&server));
    let container = with_container(&store).await;
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let (store, object) = (store.clone(), container.object(&task.to_string()).unwrap());
        tasks.spawn(async move {
            let (mut last, mut n) = (None, 0);
            while n < 15 {
                n += 1;
                match put(&*store, &object, &pattern(2 * CHUNK + 1, n)).await {
                    Ok(()) => last = Some(n),
                    Err(BlobError::Unavailable(_)) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error:?}"),
                }
                match all(&*store, &object).await {
                    // What was not acknowledged may be there, and nothing older than what was.
                    Ok(bytes) => assert!(
                        (last.unwrap_or(1)..=n).any(|n| bytes == pattern(2 * CHUNK + 1, n)),
                        "a mixture, or lost"
                    ),
                    Err(BlobError::NoSuchObject) => assert!(last.is_none(), "it is lost"),
                    Err(BlobError::Unavailable(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            last
        });
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        server.kill();
        server.restart();
        until(async || store.container_info(&container).await.is_ok()).await;
    }
    let last = tokio::time::timeout(LONG, tasks.join_all()).await.unwrap();
    assert!(last.iter().all(Option::is_some), "nobody got through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_full_says_so_and_keeps_what_it_has() {
    let server = Nats::start_with_jetstream("");
    let store = open_graceless(&server);
    let container = with_container(&store).await;
    let [small, large] = ["small", "large"].map(|name| container.object(name).unwrap());
    let client = bare(&server).await;
    let name = stream(&client).await;
    let mut config = ask(&client, &format!("STREAM.INFO.{name}"), json!({})).await["config"].take();
    config["max_bytes"] = json!(2 << 20);
    let updated = ask(&client, &format!("STREAM.UPDATE.{name}"), config).await;
    assert_eq!(updated["config"]["max_bytes"], 2 << 20, "{updated}");
    put(&store, &small, b"small").await.unwrap();
    let error = put(&store, &large, &vec![1; 4 << 20]).await.unwrap_err();
    assert!(matches!(error, BlobError::Full), "{error:?}");
    assert_eq!(all(&store, &small).await.unwrap(), b"small");
    until(async || nuids(&client).await.len() == 1).await;
    put(&store, &large, &vec![1; 1 << 20]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_over_the_limit_is_refused_and_leaves_nothing() {
    let server = Nats::start_with_jetstream("");
    let objects = ObjectOptions {
        object_size_max: 1 << 20,
        ..ObjectOptions::default()
    };
    let store = open_with(&NatsOptions::new(server.url()), objects);
    let object = with_container(&store).await.object("o").unwrap();
    let error = put(&store, &object, &vec![1; (1 << 20) + 1]).await.unwrap_err();
    assert!(
        matches!(error, BlobError::TooLarge { what: "object", .. }),
        "{error:?}"
    );
    let client = bare(&server).await;
    until(async || nuids(&client).await.is_empty()).await;
    put(&store, &object, &vec![1; 1 << 20]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_taken_away_while_an_object_is_written_is_told_so() {
    let server = Nats::start_with_jetstream("");
    let store = open(&server);
    let container = with_container(&store).await;
    let object = container.object("o").unwrap();
    let mut writer = store.write(Some(&object)).await.unwrap();
    writer.write(vec![1; 1 << 20].into()).await.unwrap();
    store.delete_container(&container).await.unwrap();
    let ended = async {
        for _ in 0..4 {
            writer.write(vec![1; 1 << 20].into()).await?;
        }
        writer.commit(&object).await
    };
    let error = ended.await.unwrap_err();
    assert!(matches!(error, BlobError::NoSuchContainer), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_do_is_denied_and_what_is_off_is_told() {
    let container = Container::shared("c").unwrap();
    let server = Nats::start_with_jetstream(
        "authorization { users: [ { user: weft, password: x, permissions: \
         { publish: [\"_INBOX.>\", \"$JS.API.STREAM.INFO.*\"], subscribe: [\"_INBOX.>\"] } } ] }",
    );
    let url = format!("nats://weft:x@127.0.0.1:{}", server.port());
    let store = open_with(&NatsOptions::new(url), ObjectOptions::default());
    let error = store.container_info(&container).await.unwrap_err();
    assert!(matches!(error, BlobError::NoSuchContainer), "{error:?}");
    let error = store.create_container(&container).await.unwrap_err();
    assert!(matches!(error, BlobError::AccessDenied), "{error:?}");

    let server = Nats::start("");
    let error = open(&server).container_info(&container).await.unwrap_err();
    assert!(
        matches!(&error, BlobError::Unavailable(text) if text.contains("JetStream")),
        "{error:?}"
    );

    let server = Nats::start_with_jetstream("");
    let objects = ObjectOptions {
        replicas: 3,
        ..ObjectOptions::default()
    };
    let store = open_with(&NatsOptions::new(server.url()), objects);
    let error = store.create_container(&container).await.unwrap_err();
    assert!(
        matches!(&error, BlobError::Unavailable(text) if text.contains("replicas")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stuck_costs_a_caller_its_time_limit_at_most() {
    let server = Nats::start_with_jetstream("");
    let options = NatsOptions {
        timeout: Duration::from_millis(500),
        ..NatsOptions::new(server.url())
    };
    let store = open_with(&options, ObjectOptions::default());
    let container = with_container(&store).await;
    let object = container.object("o").unwrap();
    until(async || put(&store, &object, b"x").await.is_ok()).await;
    server.freeze();
    let asked = tokio::time::timeout(LONG, store.list_objects(&container, Listing::default()));
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, BlobError::Unavailable(_)), "{error:?}");
    let error = tokio::time::timeout(LONG, put(&store, &object, &vec![1; 4 << 20])).await;
    let error = error.unwrap().unwrap_err();
    assert!(matches!(error, BlobError::Unavailable(_)), "{error:?}");
    server.thaw();
    until(async || all(&store, &object).await.is_ok_and(|bytes| bytes == b"x")).await;
}

#[tokio::test]
async fn a_prefix_that_can_not_be_one_is_refused() {
    for prefix in ["", "a.b", "a b", &"x".repeat(65)] {
        let objects = ObjectOptions {
            prefix: prefix.to_owned(),
            ..ObjectOptions::default()
        };
        let options = NatsOptions::new("nats://127.0.0.1:4222");
        let error = NatsBlobStore::open(&options, objects, &std::env::temp_dir())
            .err()
            .unwrap();
        assert!(error.to_string().contains("bucket"), "{error}");
    }
}
