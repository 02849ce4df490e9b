//! A store in a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use proptest::prelude::*;
use tempfile::TempDir;
use weft_blob::{FsBlobStore, FsOptions};
use weft_capabilities::{BlobError, BlobStore, Container, Listing, Object, conformance};

fn open(folder: &Path) -> FsBlobStore {
    FsBlobStore::open(folder, FsOptions::default()).unwrap()
}

async fn put(store: &dyn BlobStore, object: &Object, bytes: &[u8]) -> Result<(), BlobError> {
    let mut writer = store.write(None).await?;
    writer.write(Bytes::copy_from_slice(bytes)).await?;
    writer.commit(object).await
}

async fn get(store: &dyn BlobStore, object: &Object) -> Result<Vec<u8>, BlobError> {
    let read = store.read(object, 0..u64::MAX).await?;
    let chunks: Vec<Bytes> = read.chunks.try_collect().await?;
    Ok(chunks.concat())
}

/// All files and folders below `folder`, with what the files hold.
fn tree(folder: &Path) -> BTreeSet<(PathBuf, Option<Vec<u8>>)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert((path, None));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert((path, Some(bytes)));
        }
    }
    found
}

fn staged(folder: &Path) -> usize {
    let files = tree(&folder.join("staging"));
    files.iter().filter(|(_, bytes)| bytes.is_some()).count()
}

#[tokio::test]
async fn keeps_the_contract() {
    let folders = TempDir::new().unwrap();
    let count = std::cell::Cell::new(0);
    let open = || -> Arc<dyn BlobStore> {
        count.set(count.get() + 1);
        Arc::new(open(&folders.path().join(count.get().to_string())))
    };
    conformance::blob_store(open, usize::MAX).await;
}

#[tokio::test]
async fn tells_its_containers_and_nothing_else_that_is_in_its_folder() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let app = folder.path().join("objects/n.default/a.shop");
    fs::create_dir_all(app.join("c.%zz")).unwrap();
    fs::create_dir_all(app.join("lost+found")).unwrap();
    conformance::tells_its_containers(&store, usize::MAX).await;
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart_and_what_was_not_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let container = Container::scoped("default", "shop", "pictures").unwrap();
    let [kept, lost] = ["kept", "lost"].map(|name| container.object(name).unwrap());
    let store = open(folder.path());
    store.create_container(&container).await.unwrap();
    put(&store, &kept, b"kept").await.unwrap();
    let mut writer = store.write(Some(&lost)).await.unwrap();
    writer.write(vec![1; 1 << 20].into()).await.unwrap();
    assert_eq!(staged(folder.path()), 1);
    // As if the process had been killed: nothing of it is run any more, and its locks are gone.
    let left = tree(&folder.path().join("staging"));
    drop(writer);
    store.close().await;
    drop(store);
    assert_eq!(staged(folder.path()), 0);
    for (path, bytes) in left {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if let Some(bytes) = bytes {
            fs::write(path, bytes).unwrap();
        }
    }
    assert_eq!(staged(folder.path()), 1);

    let store = open(folder.path());
    assert_eq!(staged(folder.path()), 0, "what was left is still there");
    assert_eq!(get(&store, &kept).await.unwrap(), b"kept");
    assert!(matches!(get(&store, &lost).await, Err(BlobError::NoSuchObject)));
}

#[tokio::test]
async fn opening_a_store_again_does_not_take_away_what_is_being_written_by_the_one_before() {
    let folder = TempDir::new().unwrap();
    let container = Container::shared("c").unwrap();
    let object = container.object("o").unwrap();
    let before = open(folder.path());
    before.create_container(&container).await.unwrap();
    let mut writer = before.write(None).await.unwrap();
    writer.write(Bytes::from_static(b"whole")).await.unwrap();
    let after = open(folder.path());
    writer.commit(&object).await.unwrap();
    assert_eq!(get(&after, &object).await.unwrap(), b"whole");
}

#[tokio::test]
async fn an_object_over_the_limit_is_refused_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let options = FsOptions {
        object_size_max: 1_000,
    };
    let store = FsBlobStore::open(folder.path(), options).unwrap();
    let container = Container::shared("c").unwrap();
    let object = container.object("o").unwrap();
    store.create_container(&container).await.unwrap();
    put(&store, &object, &[7; 1_000]).await.unwrap();
    let mut writer = store.write(None).await.unwrap();
    writer.write(vec![8; 600].into()).await.unwrap();
    let refused = writer.write(vec![8; 600].into()).await;
    assert!(matches!(
        refused,
        Err(BlobError::TooLarge {
            len: 1_200,
            len_max: 1_000,
            ..
        })
    ));
    assert!(
        writer.commit(&object).await.is_err(),
        "a part of an object was taken for whole"
    );
    assert_eq!(get(&store, &object).await.unwrap(), [7; 1_000]);
    assert_eq!(staged(folder.path()), 0);
}

#[tokio::test]
async fn a_folder_that_can_not_be_one_is_refused_by_its_name() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = FsBlobStore::open(&file, FsOptions::default()).err().unwrap();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

/// Names that try to be elsewhere.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("../".to_owned()),
        Just("..".to_owned()),
        Just("/".to_owned()),
        Just("\0".to_owned()),
        Just("%2e%2e%2f".to_owned()),
        Just("outside".to_owned()),
        Just("objects".to_owned()),
        Just("staging".to_owned()),
        Just("c.".to_owned()),
        "[a-zA-Z]{1,2}",
        "\\PC{1,2}",
        any::<char>().prop_map(String::from),
        "[b/]{50,90}",
    ];
    let name = proptest::collection::vec(part, 1..5).prop_map(|parts| parts.concat());
    name.prop_map(|mut name| {
        while name.len() > 128 {
            name.pop();
        }
        name
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_name_reaches_out_of_the_folder_or_to_another_object(
        names in proptest::collection::btree_set((hostile(), hostile()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let around = TempDir::new().unwrap();
        fs::write(around.path().join("outside"), "untouched").unwrap();
        let store = open(&around.path().join("store"));
        runtime.block_on(async {
            for (container, name) in &names {
                let container = Container::scoped("default", "shop", container).unwrap();
                let created = store.create_container(&container).await;
                assert!(matches!(created, Ok(()) | Err(BlobError::ContainerExists)), "{created:?}");
                put(&store, &container.object(name).unwrap(), name.as_bytes()).await.unwrap();
            }
            for (container, name) in &names {
                let container = Container::scoped("default", "shop", container).unwrap();
                let object = container.object(name).unwrap();
                assert_eq!(get(&store, &object).await.unwrap(), name.as_bytes());
                let names = store.list_objects(&container, Listing::default()).await.unwrap().names;
                assert!(names.contains(name));
            }
            for container in names.iter().map(|(container, _)| container).collect::<BTreeSet<_>>() {
                store.delete_container(&Container::scoped("default", "shop", container).unwrap()).await.unwrap();
            }
        });
        drop(store);
        let files: Vec<_> = tree(around.path()).into_iter().filter(|(_, bytes)| bytes.is_some()).collect();
        prop_assert_eq!(files, [(around.path().join("outside"), Some(b"untouched".to_vec()))]);
    }
}
