//! The rules of [`BlobStore`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use tokio::task::JoinSet;

use crate::blob_store::{
    BlobError, BlobStore, CHUNK_LEN_MAX, CONTAINER_LEN_MAX, Container, Listing, OBJECT_LEN_MAX, Object,
    PAGE_LEN_MAX,
};

/// How far the clock of a backend may be from this one.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Runs every rule, each on a store of its own. `open` gives an empty one. `name_len_max` is what the server behind it
/// takes in a name, if that is a stand-in which takes less than what it stands for.
///
/// # Panics
/// With the rule that the backend breaks.
pub async fn blob_store(open: impl Fn() -> Arc<dyn BlobStore>, name_len_max: usize) {
    has_the_containers_that_were_created(&*open()).await;
    reads_what_was_written_until_it_is_deleted(&*open()).await;
    reads_any_part(&*open()).await;
    keeps_apps_and_containers_apart(&*open()).await;
    keeps_any_name_and_any_bytes(&*open()).await;
    holds_the_limits(&*open(), name_len_max).await;
    lists_each_name_once_in_pages(&*open()).await;
    shows_nothing_of_an_object_before_it_is_whole(&*open()).await;
    an_object_of_which_a_write_failed_is_not_committed(&*open()).await;
    reads_one_write_whatever_comes_after(&*open()).await;
    shows_one_of_many_writes_and_no_mixture(open()).await;
    copies_and_moves(&*open()).await;
    clears_and_deletes_containers(&*open(), name_len_max).await;
    refuses_all_but_closing_once_closed(&*open()).await;
}

/// Runs the rule of backends that can tell their containers, on an empty store. `name_len_max` as for [`blob_store`].
///
/// # Panics
/// If the backend breaks it.
pub async fn tells_its_containers(store: &dyn BlobStore, name_len_max: usize) {
    let shop = Some(("default", "shop"));
    assert!(store.containers(shop).await.unwrap().is_empty());
    // In a key of a cloud, and a name of a file, those have three bytes for each of theirs.
    let long = "ä".repeat(CONTAINER_LEN_MAX.min(name_len_max) / 2);
    let scoped = |app: &str, name: &str| Container::scoped("default", app, name).unwrap();
    let own = ["a", "a/b", "..", "%2F*[}{?\\", "ä", "o", "container", &long].map(|name| scoped("shop", name));
    let others = [
        scoped("shop2", "a"),
        scoped("sho", "a"),
        Container::scoped("other", "shop", "a").unwrap(),
    ];
    let shared = ["a", "shop", "default/shop/a"].map(|name| Container::shared(name).unwrap());
    for container in own.iter().chain(&others).chain(&shared) {
        store.create_container(container).await.unwrap();
    }
    // Most are empty; what is in one is no container.
    for name in ["o", "a/b/c", "container"] {
        put(store, &own[0].object(name).unwrap(), b"x").await;
    }
    let told = async |scope| BTreeSet::from_iter(store.containers(scope).await.unwrap());
    assert_eq!(told(shop).await, BTreeSet::from(own.clone()));
    assert_eq!(told(None).await, BTreeSet::from(shared));
    store.delete_container(&own[0]).await.unwrap();
    assert_eq!(
        told(shop).await,
        BTreeSet::from_iter(own[1..].iter().cloned()),
        "a container that was deleted is told"
    );
    assert!(told(Some(("default", "nobody"))).await.is_empty());
}

fn container() -> Container {
    Container::scoped("default", "shop", "pictures").unwrap()
}

async fn created(store: &dyn BlobStore) -> Container {
    let container = container();
    store.create_container(&container).await.unwrap();
    container
}

/// Writes an object in chunks of `len` bytes.
async fn put_in(store: &dyn BlobStore, to: Option<&Object>, object: &Object, bytes: &[u8], len: usize) {
    let mut writer = store.write(to).await.unwrap();
    for chunk in bytes.chunks(len) {
        writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    writer.commit(object).await.unwrap();
}

async fn put(store: &dyn BlobStore, object: &Object, bytes: &[u8]) {
    put_in(store, None, object, bytes, CHUNK_LEN_MAX).await;
}

async fn get(store: &dyn BlobStore, object: &Object, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
    let read = store.read(object, range).await?;
    let chunks: Vec<Bytes> = read.chunks.try_collect().await?;
    assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_LEN_MAX));
    let bytes = chunks.concat();
    assert_eq!(bytes.len() as u64, read.size, "the size that was told");
    Ok(bytes)
}

async fn all(store: &dyn BlobStore, object: &Object) -> Result<Vec<u8>, BlobError> {
    get(store, object, 0..u64::MAX).await
}

fn no_container<T>(result: &Result<T, BlobError>) -> bool {
    matches!(result, Err(BlobError::NoSuchContainer))
}

fn no_object<T>(result: &Result<T, BlobError>) -> bool {
    matches!(result, Err(BlobError::NoSuchObject))
}

fn is_now(time: SystemTime) -> bool {
    let now = SystemTime::now();
    now.duration_since(time).unwrap_or_default() < CLOCK_SKEW
        && time.duration_since(now).unwrap_or_default() < CLOCK_SKEW
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

async fn has_the_containers_that_were_created(store: &dyn BlobStore) {
    let container = container();
    let object = container.object("o").unwrap();
    let elsewhere = Container::shared("elsewhere").unwrap();
    assert!(no_container(&store.container_info(&container).await));
    assert!(no_container(&store.delete_container(&container).await));
    assert!(no_container(
        &store.list_objects(&container, Listing::default()).await
    ));
    assert!(no_container(&store.clear(&container).await));
    assert!(no_container(&store.object_info(&object).await));
    assert!(no_container(&all(store, &object).await));
    assert!(no_container(
        &store.delete_objects(std::slice::from_ref(&object)).await
    ));
    assert!(no_container(&store.copy_object(&object, &object).await));
    for to in [None, Some(&object)] {
        let committed = async {
            let mut writer = store.write(to).await?;
            writer.write(Bytes::from_static(b"x")).await?;
            writer.commit(&object).await
        };
        assert!(no_container(&committed.await));
    }
    store.create_container(&container).await.unwrap();
    assert!(is_now(store.container_info(&container).await.unwrap().created_at));
    let again = store.create_container(&container).await;
    assert!(matches!(again, Err(BlobError::ContainerExists)), "{again:?}");
    let to = elsewhere.object("o").unwrap();
    put(store, &object, b"x").await;
    assert!(no_container(&store.copy_object(&object, &to).await));
    assert!(no_container(&store.move_object(&object, &to).await));
    assert_eq!(all(store, &object).await.unwrap(), b"x");
}

async fn reads_what_was_written_until_it_is_deleted(store: &dyn BlobStore) {
    let container = created(store).await;
    let object = container.object("o").unwrap();
    assert!(no_object(&store.object_info(&object).await));
    assert!(no_object(&all(store, &object).await));
    for value in [&b"one"[..], b"", b"three"] {
        for to in [None, Some(&object)] {
            put_in(store, to, &object, value, CHUNK_LEN_MAX).await;
            assert_eq!(all(store, &object).await.unwrap(), value);
            let info = store.object_info(&object).await.unwrap();
            assert_eq!(info.size, value.len() as u64);
            assert!(is_now(info.created_at));
        }
    }
    let other = container.object("other").unwrap();
    let missing = container.object("missing").unwrap();
    put(store, &other, b"stays").await;
    for _ in 0..2 {
        store
            .delete_objects(&[object.clone(), missing.clone()])
            .await
            .unwrap();
        assert!(no_object(&all(store, &object).await));
    }
    store.delete_objects(&[]).await.unwrap();
    assert_eq!(all(store, &other).await.unwrap(), b"stays");
}

async fn reads_any_part(store: &dyn BlobStore) {
    let container = created(store).await;
    let large = container.object("large").unwrap();
    // More than any backend keeps as one part, and not a whole number of parts.
    let bytes = pattern(12 * CHUNK_LEN_MAX + 12_345);
    for to in [None, Some(&large)] {
        put_in(store, to, &large, &bytes, 300_000).await;
        assert!(
            all(store, &large).await.unwrap() == bytes,
            "a large object came back otherwise"
        );
    }
    let len = bytes.len() as u64;
    let chunk = CHUNK_LEN_MAX as u64;
    for range in [
        0..0,
        0..1,
        0..chunk,
        chunk - 1..chunk + 1,
        5 * chunk + 17..9 * chunk - 17,
        len - 1..len,
        len - 5..len + 5,
        len..len + 1,
    ] {
        let end = range.end.min(len) as usize;
        let expected = &bytes[range.start as usize..end];
        let part = get(store, &large, range.clone()).await.unwrap();
        assert!(part == expected, "{range:?} came back otherwise");
    }
    let empty = container.object("empty").unwrap();
    put(store, &empty, b"").await;
    assert_eq!(get(store, &empty, 0..10).await.unwrap(), b"");
    for range in [len + 1..len + 2, Range { start: 5, end: 4 }] {
        let beyond = get(store, &large, range).await;
        assert!(matches!(beyond, Err(BlobError::OutOfRange { .. })), "{beyond:?}");
    }
}

async fn keeps_apps_and_containers_apart(store: &dyn BlobStore) {
    let containers = [
        Container::scoped("default", "shop", "pictures"),
        Container::scoped("default", "shop", "picture"),
        Container::scoped("default", "shop", "pictures2"),
        Container::scoped("default", "shop", "../other/pictures"),
        Container::scoped("default", "other", "pictures"),
        Container::scoped("other", "shop", "pictures"),
        Container::shared("pictures"),
        Container::shared("default/shop/pictures"),
    ]
    .map(Result::unwrap);
    for (n, container) in containers.iter().enumerate() {
        store.create_container(container).await.unwrap();
        put(store, &container.object("o").unwrap(), n.to_string().as_bytes()).await;
    }
    for (n, container) in containers.iter().enumerate() {
        let object = container.object("o").unwrap();
        assert_eq!(all(store, &object).await.unwrap(), n.to_string().as_bytes());
        let page = store.list_objects(container, Listing::default()).await.unwrap();
        assert_eq!(page.names, ["o"], "{container} shows another's objects");
    }
    store.delete_container(&containers[0]).await.unwrap();
    for container in &containers[1..] {
        assert!(
            all(store, &container.object("o").unwrap()).await.is_ok(),
            "{container} went"
        );
    }
}

/// Names that a file system or a path of HTTP would take for something else.
const NAMES: &[&str] = &[
    ".",
    "..",
    "/",
    "//",
    "a/../b",
    "../../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a//b",
    "a/",
    "a",
    "A",
    "con",
    "CON",
    "nul.txt",
    "a.",
    "a ",
    " ",
    "\\",
    "..\\..",
    "a\\b",
    "C:",
    "\0",
    "a\0b",
    "%2e%2e",
    "%2F",
    "%",
    "%%",
    "~",
    "$HOME",
    "`id`",
    "*?[]",
    "a:b",
    "a?b#c",
    "a&b=c+d",
    "\r\n",
    "\u{7f}",
    "schlüssel",
    "schlu\u{308}ssel",
    "鍵",
    "🔑",
    "\u{10ffff}",
    "-rf",
    "o",
    "d",
    "c",
    ".container",
];

async fn keeps_any_name_and_any_bytes(store: &dyn BlobStore) {
    let every_byte = Vec::from_iter(0..=255);
    for container in [
        container(),
        Container::shared("../..").unwrap(),
        Container::shared("..").unwrap(),
    ] {
        store.create_container(&container).await.unwrap();
        for name in NAMES {
            let mut bytes = every_byte.clone();
            bytes.extend(name.bytes());
            put(store, &container.object(name).unwrap(), &bytes).await;
        }
        for name in NAMES {
            let bytes = all(store, &container.object(name).unwrap()).await.unwrap();
            assert_eq!(&bytes[256..], name.as_bytes(), "{name:?} is another's");
        }
        assert_eq!(
            list(store, &container, "", 7).await,
            sorted(NAMES.iter().copied())
        );
    }
}

async fn holds_the_limits(store: &dyn BlobStore, name_len_max: usize) {
    let (container_len, len) = (
        CONTAINER_LEN_MAX.min(name_len_max),
        OBJECT_LEN_MAX.min(name_len_max),
    );
    let container = Container::scoped("default", "shop", &"c".repeat(container_len)).unwrap();
    store.create_container(&container).await.unwrap();
    let longest = container.object(&"o".repeat(len)).unwrap();
    let longer = container.object(&format!("{}x", "o".repeat(len - 1))).unwrap();
    put(store, &longest, b"x").await;
    put(store, &longer, b"y").await;
    assert_eq!(all(store, &longest).await.unwrap(), b"x");
    assert_eq!(list(store, &container, "o", 1).await.len(), 2);
    store.delete_objects(&[longest, longer]).await.unwrap();
    assert_eq!(list(store, &container, "", 1).await.len(), 0);

    let too_large = |error| matches!(error, BlobError::TooLarge { .. });
    let mut writer = store.write(None).await.unwrap();
    let chunk = Bytes::from(vec![0; CHUNK_LEN_MAX + 1]);
    assert!(too_large(writer.write(chunk).await.unwrap_err()));
    let many = vec![container.object("o").unwrap(); PAGE_LEN_MAX + 1];
    assert!(too_large(store.delete_objects(&many).await.unwrap_err()));
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names
        .map(str::to_owned)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// All names, sorted; no name may come twice.
async fn list(store: &dyn BlobStore, container: &Container, prefix: &str, limit: usize) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let listing = Listing {
            prefix,
            cursor: cursor.as_deref(),
            limit,
        };
        let page = store.list_objects(container, listing).await.unwrap();
        assert!(page.names.len() <= limit, "a page is longer than was asked for");
        names.extend(page.names);
        cursor = page.cursor;
        if cursor.is_none() {
            names.sort();
            return names;
        }
    }
}

async fn lists_each_name_once_in_pages(store: &dyn BlobStore) {
    let container = created(store).await;
    let mut names: Vec<_> = (0..60).map(|n| format!("a/{n:03}")).collect();
    names.extend((0..5).map(|n| format!("ab{n}")));
    // Which what follows begins with.
    names.push("b-".to_owned());
    names.extend((0..5).map(|n| format!("b-{n}")));
    for name in names.iter().rev() {
        put(store, &container.object(name).unwrap(), b"").await;
    }
    assert_eq!(list(store, &container, "", 7).await, names);
    assert_eq!(list(store, &container, "", PAGE_LEN_MAX).await, names);
    assert_eq!(list(store, &container, "a/", 7).await, names[..60]);
    assert_eq!(list(store, &container, "a", 7).await, names[..65]);
    assert_eq!(list(store, &container, "a/05", 3).await, names[50..60]);
    for limit in [1, 2, 7] {
        assert_eq!(list(store, &container, "b-", limit).await, names[65..]);
        assert_eq!(list(store, &container, "b-4", limit).await, names[70..]);
    }
    assert!(list(store, &container, "c", 7).await.is_empty());

    // What stays is listed exactly once, while others come and go.
    let (mut seen, mut cursor, mut turn) = (Vec::new(), None, 0);
    loop {
        let listing = Listing {
            prefix: "a/",
            cursor: cursor.as_deref(),
            limit: 7,
        };
        let page = store.list_objects(&container, listing).await.unwrap();
        seen.extend(page.names);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
        let passing = container.object(&format!("a/{turn:03}-passing")).unwrap();
        put(store, &passing, b"").await;
        store.delete_objects(&[passing]).await.unwrap();
        turn += 1;
    }
    seen.retain(|name| !name.ends_with("passing"));
    seen.sort();
    assert_eq!(seen, names[..60]);
}

async fn shows_nothing_of_an_object_before_it_is_whole(store: &dyn BlobStore) {
    let container = created(store).await;
    let object = container.object("o").unwrap();
    for to in [None, Some(&object)] {
        for before in [None, Some(&b"before"[..])] {
            if let Some(before) = before {
                put(store, &object, before).await;
            }
            let mut writer = store.write(to).await.unwrap();
            // More than one part of a backend that sends parts.
            for _ in 0..7 {
                writer.write(Bytes::from(vec![1; CHUNK_LEN_MAX])).await.unwrap();
            }
            let expected = Vec::from_iter(before.map(|_| "o".to_owned()));
            assert_eq!(list(store, &container, "", 7).await, expected);
            drop(writer);
            assert_eq!(list(store, &container, "", 7).await, expected);
            assert_eq!(all(store, &object).await.ok().as_deref(), before);
        }
        store.clear(&container).await.unwrap();
    }
}

async fn an_object_of_which_a_write_failed_is_not_committed(store: &dyn BlobStore) {
    let container = created(store).await;
    let object = container.object("o").unwrap();
    for to in [None, Some(&object)] {
        let mut writer = store.write(to).await.unwrap();
        writer.write(Bytes::from_static(b"one")).await.unwrap();
        let refused = writer.write(Bytes::from(vec![0; CHUNK_LEN_MAX + 1])).await;
        assert!(matches!(refused, Err(BlobError::TooLarge { .. })), "{refused:?}");
        // Whether this is taken or refused, a part is missing.
        drop(writer.write(Bytes::from_static(b"three")).await);
        let committed = writer.commit(&object).await;
        assert!(committed.is_err(), "half an object was committed");
        assert!(list(store, &container, "", 7).await.is_empty());
    }
}

async fn reads_one_write_whatever_comes_after(store: &dyn BlobStore) {
    let container = created(store).await;
    let object = container.object("o").unwrap();
    let bytes = pattern(64 << 10);
    put(store, &object, &bytes).await;
    let reads = [0, 1, 2].map(|_| store.read(&object, 0..u64::MAX));
    let mut reads = futures::future::try_join_all(reads).await.unwrap().into_iter();
    let mut check = async || {
        let chunks: Vec<Bytes> = reads.next().unwrap().chunks.try_collect().await.unwrap();
        assert!(chunks.concat() == bytes, "a read mixed two writes");
    };
    put(store, &object, b"other").await;
    check().await;
    store.delete_objects(std::slice::from_ref(&object)).await.unwrap();
    check().await;
    store.delete_container(&container).await.unwrap();
    check().await;
}

async fn shows_one_of_many_writes_and_no_mixture(store: Arc<dyn BlobStore>) {
    let object = created(&*store).await.object("o").unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..8_u8 {
        let (store, object) = (store.clone(), object.clone());
        tasks.spawn(async move {
            for _ in 0..5 {
                put_in(&*store, None, &object, &[task; 100_000], 30_000).await;
                let read = all(&*store, &object).await.unwrap();
                assert_eq!(read.len(), 100_000);
                assert!(
                    read.iter().all(|byte| *byte == read[0]),
                    "a read mixed two writes"
                );
            }
        });
    }
    tasks.join_all().await;
}

async fn copies_and_moves(store: &dyn BlobStore) {
    let container = created(store).await;
    let other = Container::shared("other").unwrap();
    store.create_container(&other).await.unwrap();
    let [a, b, missing] = ["a", "b", "missing"].map(|name| container.object(name).unwrap());
    let far = other.object("a").unwrap();
    put(store, &a, b"a").await;
    put(store, &b, b"b").await;

    for to in [&b, &far] {
        store.copy_object(&a, to).await.unwrap();
        assert_eq!(all(store, to).await.unwrap(), b"a");
        assert_eq!(all(store, &a).await.unwrap(), b"a");
    }
    // They are two objects.
    put(store, &far, b"changed").await;
    assert_eq!(all(store, &a).await.unwrap(), b"a");
    store.copy_object(&a, &a).await.unwrap();
    store.move_object(&a, &a).await.unwrap();
    assert_eq!(all(store, &a).await.unwrap(), b"a");

    store.move_object(&a, &far).await.unwrap();
    assert!(no_object(&all(store, &a).await));
    assert_eq!(all(store, &far).await.unwrap(), b"a");
    store.move_object(&far, &a).await.unwrap();
    assert_eq!(all(store, &a).await.unwrap(), b"a");

    assert!(no_object(&store.copy_object(&missing, &a).await));
    assert!(no_object(&store.move_object(&missing, &a).await));
    assert!(no_object(&store.move_object(&missing, &missing).await));
    assert_eq!(all(store, &a).await.unwrap(), b"a");
}

async fn clears_and_deletes_containers(store: &dyn BlobStore, name_len_max: usize) {
    let container = created(store).await;
    for name in ["a", "b/c", &"long/".repeat(name_len_max.min(OBJECT_LEN_MAX) / 5)] {
        put(store, &container.object(name).unwrap(), b"x").await;
    }
    store.clear(&container).await.unwrap();
    assert!(list(store, &container, "", 7).await.is_empty());
    store.clear(&container).await.unwrap();
    put(store, &container.object("a").unwrap(), b"x").await;
    store.delete_container(&container).await.unwrap();
    assert!(no_container(&store.container_info(&container).await));
    store.create_container(&container).await.unwrap();
    assert!(
        list(store, &container, "", 7).await.is_empty(),
        "a new container shows what the one before had"
    );
}

async fn refuses_all_but_closing_once_closed(store: &dyn BlobStore) {
    let container = created(store).await;
    let object = container.object("o").unwrap();
    store.close().await;
    store.close().await;
    let closed = |error| matches!(error, BlobError::Closed);
    assert!(closed(store.container_info(&container).await.unwrap_err()));
    assert!(closed(store.create_container(&container).await.unwrap_err()));
    assert!(closed(store.read(&object, 0..1).await.err().unwrap()));
    assert!(closed(store.write(None).await.err().unwrap()));
}
