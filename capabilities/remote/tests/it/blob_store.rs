//! What is of blob stores alone: their functions as bytes, and what is kept between two chunks of an object.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::try_join_all;
use proptest::prelude::*;
use weft_blob::{FsBlobStore, FsOptions};
use weft_capabilities::blob_store::{CHUNK_LEN_MAX, Listing};
use weft_capabilities::{BlobError, BlobRead, BlobStore, Container, MemoryBlobStore, Object};
use weft_lattice::codec::{self, Value};
use weft_lattice::rpc::{Server, Stamps};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::memory::Hub;
use weft_remote::{BLOB_STORE, Backend, IDLE_MAX, Provided, Remote, RemoteBlobStore};

use crate::hosts::{Pair, User};
use crate::wire::{Always, Wit, agree_with_the_wit, hex, invocation, overheard, root};

fn container() -> Container {
    Container::scoped("default", "shop", "c").unwrap()
}

fn object(name: &str) -> Object {
    container().object(name).unwrap()
}

fn memory() -> Backend {
    Backend::BlobStore(Arc::new(MemoryBlobStore::default()))
}

async fn put(store: &dyn BlobStore, object: &Object, chunks: usize) {
    let mut writer = store.write(Some(object)).await.unwrap();
    for n in 0..chunks {
        let chunk = vec![(n % 251) as u8; CHUNK_LEN_MAX];
        writer.write(chunk.into()).await.unwrap();
    }
    writer.commit(object).await.unwrap();
}

async fn whole(read: BlobRead) -> Result<usize, BlobError> {
    read.chunks
        .try_fold(0, async |len, chunk| Ok(len + chunk.len()))
        .await
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it is never so that {what}");
}

/// A store in a folder with one container, its remote end, and what serves it.
struct Shelf {
    pair: Pair,
    folder: tempfile::TempDir,
    way: Remote,
    remote: RemoteBlobStore,
    provided: Provided,
}

impl Shelf {
    async fn new() -> Self {
        let (pair, folder) = (Pair::in_memory().await, tempfile::tempdir().unwrap());
        let store = FsBlobStore::open(folder.path(), FsOptions::default()).unwrap();
        store.create_container(&container()).await.unwrap();
        let (way, provided) = pair.provide(Backend::BlobStore(Arc::new(store)));
        let remote = RemoteBlobStore::new(way.clone());
        Self {
            pair,
            folder,
            way,
            remote,
            provided,
        }
    }

    /// How many objects are being written.
    fn staged(&self) -> usize {
        let runs = std::fs::read_dir(self.folder.path().join("staging")).unwrap();
        runs.map(|run| std::fs::read_dir(run.unwrap().path()).unwrap().count())
            .sum()
    }

    async fn names(&self) -> Vec<String> {
        let page = self.remote.list_objects(&container(), Listing::default()).await;
        page.unwrap().names
    }
}

fn is_gone<T>(result: &Result<T, BlobError>) -> bool {
    matches!(result, Err(BlobError::Unavailable(why)) if why.contains("had ended"))
}

#[tokio::test]
async fn what_fits_in_a_message_takes_one_call_each_way_and_nothing_is_kept() {
    let shelf = Shelf::new().await;
    let before = shelf.provided.stats().calls;
    let mut writer = shelf.remote.write(None).await.unwrap();
    writer.write(Bytes::from(vec![1; 600 << 10])).await.unwrap();
    writer.write(Bytes::from(vec![2; 300 << 10])).await.unwrap();
    writer.commit(&object("o")).await.unwrap();
    let read = shelf.remote.read(&object("o"), 0..u64::MAX).await.unwrap();
    assert_eq!(shelf.provided.stats().objects, 0);
    assert_eq!(whole(read).await.unwrap(), 900 << 10);
    assert_eq!(shelf.provided.stats().calls - before, 2);
}

#[tokio::test]
async fn an_object_that_is_given_up_leaves_nothing_with_the_one_who_keeps_it() {
    let shelf = Shelf::new().await;
    let mut writer = shelf.remote.write(None).await.unwrap();
    for _ in 0..4 {
        writer.write(vec![1; CHUNK_LEN_MAX].into()).await.unwrap();
    }
    assert_eq!((shelf.provided.stats().objects, shelf.staged()), (1, 1));
    drop(writer);
    until("it is let go of", || shelf.provided.stats().objects == 0).await;
    until("its file is gone", || shelf.staged() == 0).await;

    put(&shelf.remote, &object("o"), 4).await;
    let mut read = shelf.remote.read(&object("o"), 0..u64::MAX).await.unwrap();
    read.chunks.try_next().await.unwrap();
    assert_eq!(shelf.provided.stats().objects, 1);
    drop(read);
    until("it is let go of", || shelf.provided.stats().objects == 0).await;
    assert_eq!(shelf.names().await, ["o"]);
}

#[tokio::test]
async fn an_object_goes_with_the_host_that_writes_or_reads_it() {
    let shelf = Shelf::new().await;
    put(&shelf.remote, &object("o"), 4).await;
    let mut read = shelf.remote.read(&object("o"), 0..u64::MAX).await.unwrap();
    let mut writer = shelf.remote.write(None).await.unwrap();
    for _ in 0..2 {
        writer.write(vec![1; CHUNK_LEN_MAX].into()).await.unwrap();
    }
    shelf.provided.peer_gone(&Address::new("another", 1).unwrap());
    assert_eq!(shelf.provided.stats().objects, 2);
    shelf.provided.peer_gone(&shelf.pair.user.address);
    assert_eq!(shelf.provided.stats().objects, 0);
    until("its file is gone", || shelf.staged() == 0).await;
    read.chunks.try_next().await.unwrap();
    assert!(is_gone(&read.chunks.try_next().await));
    let committed = writer.commit(&object("lost")).await;
    assert!(is_gone(&committed), "{committed:?}");
    assert_eq!(shelf.names().await, ["o"]);
}

#[tokio::test]
async fn an_object_stays_with_the_run_that_began_it() {
    let shelf = Shelf::new().await;
    let mut writer = shelf.remote.write(None).await.unwrap();
    for _ in 0..3 {
        writer.write(vec![1; CHUNK_LEN_MAX].into()).await.unwrap();
    }
    // From now on others are called; not for what was begun.
    shelf.way.set_nowhere("it moved");
    writer.write(vec![1; CHUNK_LEN_MAX].into()).await.unwrap();
    writer.commit(&object("o")).await.unwrap();
    shelf.way.set_host(&shelf.pair.owner.address).unwrap();
    let read = shelf.remote.read(&object("o"), 0..u64::MAX).await.unwrap();
    shelf.way.set_nowhere("it moved");
    assert_eq!(whole(read).await.unwrap(), 4 * CHUNK_LEN_MAX);
}

#[tokio::test]
async fn an_object_of_which_nothing_is_heard_is_let_go_of() {
    let pair = Pair::in_memory().await;
    let (way, provided) = pair.provide(memory());
    let remote = RemoteBlobStore::new(way);
    remote.create_container(&container()).await.unwrap();
    let mut writer = remote.write(None).await.unwrap();
    for _ in 0..2 {
        writer.write(vec![1; CHUNK_LEN_MAX].into()).await.unwrap();
    }
    tokio::time::pause();
    tokio::time::advance(IDLE_MAX).await;
    while provided.stats().expired == 0 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    let committed = writer.commit(&object("o")).await;
    assert!(is_gone(&committed), "{committed:?}");
    let page = remote
        .list_objects(&container(), Listing::default())
        .await
        .unwrap();
    assert!(page.names.is_empty());
}

#[tokio::test]
async fn objects_that_are_read_at_once_have_a_bound_and_others_find_room_again() {
    let shelf = Shelf::new().await;
    put(&shelf.remote, &object("o"), 2).await;
    let mut reads = Vec::new();
    let refused = loop {
        match shelf.remote.read(&object("o"), 0..u64::MAX).await {
            Ok(read) => reads.push(read),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, BlobError::Overloaded), "{refused:?}");
    assert_eq!(shelf.provided.stats().objects, reads.len() as u64);
    let lens = try_join_all(reads.into_iter().map(whole)).await.unwrap();
    assert!(lens.iter().all(|len| *len == 2 * CHUNK_LEN_MAX));
    assert_eq!(shelf.provided.stats().objects, 0);
    let read = shelf.remote.read(&object("o"), 0..u64::MAX).await.unwrap();
    whole(read).await.unwrap();
}

#[tokio::test]
async fn an_object_with_the_host_that_keeps_it_gone_fails_and_says_so() {
    let shelf = Shelf::new().await;
    put(&shelf.remote, &object("o"), 3).await;
    let read = shelf.remote.read(&object("o"), 0..u64::MAX).await.unwrap();
    let mut writer = shelf.remote.write(Some(&object("p"))).await.unwrap();
    for _ in 0..2 {
        writer.write(vec![1; CHUNK_LEN_MAX].into()).await.unwrap();
    }
    shelf.pair.owner.kill();
    let read = whole(read).await;
    assert!(matches!(read, Err(BlobError::Unavailable(_))), "{read:?}");
    let committed = writer.commit(&object("p")).await;
    assert!(
        matches!(committed, Err(BlobError::Unavailable(_))),
        "{committed:?}"
    );
}

/// Each function, and each error that one gives easily.
async fn all_of_it(store: &dyn BlobStore) {
    let (container, elsewhere) = (container(), Container::shared("elsewhere").unwrap());
    store.container_info(&container).await.unwrap_err();
    store.create_container(&container).await.unwrap();
    store.create_container(&container).await.unwrap_err();
    store.create_container(&elsewhere).await.unwrap();
    store.container_info(&container).await.unwrap();
    store.object_info(&object("none")).await.unwrap_err();
    put(store, &object("large"), 3).await;
    put(store, &object("small"), 0).await;
    store.object_info(&object("large")).await.unwrap();
    let read = store.read(&object("large"), 5..u64::MAX).await.unwrap();
    assert_eq!(whole(read).await.unwrap(), 3 * CHUNK_LEN_MAX - 5);
    assert!(store.read(&object("small"), 1..2).await.is_err());
    let listing = Listing {
        limit: 1,
        ..Listing::default()
    };
    store.list_objects(&container, listing).await.unwrap();
    store
        .copy_object(&object("small"), &elsewhere.object("o").unwrap())
        .await
        .unwrap();
    store.move_object(&object("small"), &object("o")).await.unwrap();
    store.delete_objects(&[object("o"), object("p")]).await.unwrap();
    store.clear(&container).await.unwrap();
    store.delete_container(&container).await.unwrap();
}

#[tokio::test]
async fn what_is_said_is_what_the_wit_says() {
    let ((), said) = overheard(memory(), async |remote| {
        let store = RemoteBlobStore::new(remote);
        all_of_it(&store).await;
    })
    .await;
    let names = agree_with_the_wit(&said, &Wit::read());
    assert_eq!(
        names,
        [
            "clear",
            "commit",
            "container-info",
            "copy-object",
            "create-container",
            "delete-container",
            "delete-objects",
            "list-objects",
            "move-object",
            "object-info",
            "put",
            "read",
            "read-on",
            "write",
            "write-on"
        ]
    );
}

/// Each function once, as `docs/wire.md` has it; but for those that tell when something was made.
#[tokio::test]
async fn the_document_shows_each_function_as_it_goes() {
    let wit = Wit::read();
    // Chunks are of two bytes here.
    let provided = Provided::new(memory(), "run-1", (9 << 10) + (2 << 10) + 2);
    let record = |fields: Vec<(&str, Value)>| {
        Value::Record(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    };
    let text = |text: &str| Value::String(text.to_owned());
    let scope = Value::Tuple(vec![text("default"), text("shop")]);
    let container = record(vec![
        ("name", text("c")),
        ("scope", Value::Option(Some(Box::new(scope)))),
    ]);
    let object = |name: &str| record(vec![("name", text(name)), ("container", container.clone())]);
    let id = || Value::Bytes(vec![7; 16]);
    let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let to = || Value::Option(Some(Box::new(object("o"))));
    let mut rows = Vec::new();
    for (function, values) in [
        ("create-container", vec![container.clone()]),
        ("put", vec![object("o"), bytes("abc")]),
        (
            "read",
            vec![id(), object("o"), Value::U64(0), Value::U64(u64::MAX)],
        ),
        ("read-on", vec![id(), Value::U64(2)]),
        ("write", vec![id(), to(), bytes("de")]),
        ("write-on", vec![id(), Value::U64(2), bytes("fg")]),
        ("commit", vec![id(), object("o"), Value::U64(4), bytes("h")]),
        ("let-go", vec![id()]),
        (
            "list-objects",
            vec![container.clone(), text(""), Value::Option(None), Value::U64(10)],
        ),
        ("copy-object", vec![object("o"), object("p")]),
        ("move-object", vec![object("p"), object("q")]),
        ("delete-objects", vec![Value::List(vec![object("q")])]),
        ("clear", vec![container.clone()]),
        ("delete-container", vec![container.clone()]),
        ("container-info", vec![container.clone()]),
        ("object-info", vec![object("o")]),
    ] {
        let args = codec::encode_all("args", &wit.function(BLOB_STORE, function).0, &values).unwrap();
        let args = Bytes::from(args);
        let results = provided
            .call(invocation(BLOB_STORE, function, args.clone()))
            .await
            .unwrap();
        rows.push(format!("| {function} | `{}` | `{}` |", hex(&args), hex(&results)));
    }
    let doc = std::fs::read_to_string(root("docs/wire.md")).unwrap();
    let all = rows.join("\n");
    assert!(doc.contains(&all), "docs/wire.md should have the rows\n{all}\n");
}

#[tokio::test]
async fn a_chunk_that_is_not_the_next_ends_what_was_begun() {
    let provided = Provided::new(memory(), "run-1", (9 << 10) + (2 << 10) + 2);
    let wit = Wit::read();
    let call = async |function: &str, values: &[Value]| {
        let args = codec::encode_all("args", &wit.function(BLOB_STORE, function).0, values).unwrap();
        let results = provided.call(invocation(BLOB_STORE, function, args.into())).await;
        results.unwrap()
    };
    let id = || Value::Bytes(vec![7; 16]);
    let chunk = || Value::Bytes(vec![1, 2]);
    call("write", &[id(), Value::Option(None), chunk()]).await;
    assert_eq!(provided.stats().objects, 1);
    for _ in 0..2 {
        let answer = call("write-on", &[id(), Value::U64(7), chunk()]).await;
        assert!(answer.windows(11).any(|word| word == b"unavailable"));
        assert_eq!(provided.stats().objects, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Arguments from a stranger, and answers from one.
    #[test]
    fn garbage_is_an_error_and_no_harm(args in proptest::collection::vec(any::<u8>(), 0..200), at in 0..16_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = [
                "create-container", "delete-container", "container-info", "list-objects", "clear", "object-info",
                "delete-objects", "copy-object", "move-object", "read", "read-on", "put", "write", "write-on", "commit",
                "let-go",
            ];
            let provided = Provided::new(memory(), "r", 1 << 20);
            let _ = provided.call(invocation(BLOB_STORE, names[at], args.clone().into())).await;

            let hub = Hub::new();
            let (subjects, address) = (Subjects::new("one").unwrap(), Address::new("h", 1).unwrap());
            let service = Arc::new(Always(args.into()));
            let server = Server::new(address.clone(), Stamps::starting_at(1), service, None);
            let transport = hub.join();
            let _served = server.serve(&transport, &subjects, "default").await.unwrap();
            let remote = User::start(hub.join()).remote("p");
            remote.set_host(&address).unwrap();
            let store = RemoteBlobStore::new(remote);
            let _ = store.object_info(&object("o")).await;
            if let Ok(read) = store.read(&object("o"), 0..10).await {
                let _ = whole(read).await;
            }
        });
    }
}
