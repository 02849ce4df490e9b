//! A store on a server of S3's protocol, which the test starts.

use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use tempfile::TempDir;
use weft_blob::{CloudBlobStore, CloudOptions, Service};
use weft_capabilities::{BlobError, BlobStore, Container, Listing};
use weft_servers::S3;

use super::cloud_keeps_the_contract;

/// Bytes of a name that the server takes: it keeps what it knows of a key in a file whose name has the key in base64.
const NAME_LEN_MAX: usize = 40;

fn options(server: &S3) -> CloudOptions {
    options_with(server, S3::KEY)
}

fn options_with(server: &S3, key: &str) -> CloudOptions {
    let service = Service::S3 {
        region: "us-east-1".to_owned(),
        access: Some((S3::ID.to_owned(), key.to_owned())),
    };
    CloudOptions {
        endpoint: Some(server.url()),
        ..CloudOptions::new(service, S3::BUCKET)
    }
}

/// Files below a folder.
fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let (server, folder) = (S3::start(), TempDir::new().unwrap());
    cloud_keeps_the_contract(&options(&server), folder.path(), NAME_LEN_MAX).await;
    assert_eq!(files(&folder.path().join("staging")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_containers_than_a_page_has_are_told_each_once_and_what_is_left_of_one_is_none() {
    let (server, folder) = (S3::start(), TempDir::new().unwrap());
    let store = CloudBlobStore::open(&options(&server), folder.path()).unwrap();
    let app = server.folder().join(S3::BUCKET).join("apps/default/shop");
    for n in 0..1_234 {
        let container = app.join(format!("c{n}"));
        std::fs::create_dir_all(&container).unwrap();
        std::fs::write(container.join("container"), "").unwrap();
    }
    std::fs::create_dir_all(app.join("left/o")).unwrap();
    std::fs::write(app.join("left/o/object"), "").unwrap();
    let told = store.containers(Some(("default", "shop"))).await.unwrap();
    let names: std::collections::BTreeSet<_> = told.iter().map(Container::name).collect();
    assert_eq!((told.len(), names.len()), (1_234, 1_234));
    assert!(!names.contains("left"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_that_is_given_up_is_taken_back() {
    let (server, folder) = (S3::start(), TempDir::new().unwrap());
    let store = CloudBlobStore::open(&options(&server), folder.path()).unwrap();
    let container = Container::shared("c").unwrap();
    let object = container.object("o").unwrap();
    store.create_container(&container).await.unwrap();
    let before = files(&server.folder());
    let mut writer = store.write(Some(&object)).await.unwrap();
    for _ in 0..12 {
        writer.write(vec![1; 1 << 20].into()).await.unwrap();
    }
    assert!(files(&server.folder()) > before, "no part was sent");
    drop(writer);
    // Ends when what is being taken back is gone.
    store.close().await;
    assert_eq!(files(&server.folder()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_unavailable_and_serves_when_it_is_back() {
    let (server, folder) = (S3::start(), TempDir::new().unwrap());
    // A second address of the same server, of which nothing is there at first.
    let port = weft_servers::free_port();
    let options = CloudOptions {
        endpoint: Some(format!("http://127.0.0.1:{}", port)),
        ..options(&server)
    };
    let store = CloudBlobStore::open(&options, folder.path()).unwrap();
    let container = Container::shared("c").unwrap();
    let error = store.container_info(&container).await.unwrap_err();
    assert!(matches!(error, BlobError::Unavailable(_)), "{error:?}");
    let _there = server.also_at(port);
    store.create_container(&container).await.unwrap();
    store.container_info(&container).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_denied_and_is_in_no_text() {
    let (server, folder) = (S3::start(), TempDir::new().unwrap());
    let options = options_with(&server, "wrong-secret");
    assert!(!format!("{options:?}").contains("wrong-secret"));
    let store = CloudBlobStore::open(&options, folder.path()).unwrap();
    for error in [
        store
            .container_info(&Container::shared("c").unwrap())
            .await
            .map(drop),
        store.containers(None).await.map(drop),
    ] {
        assert!(matches!(error, Err(BlobError::AccessDenied)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_beside_the_objects_is_not_listed() {
    let (server, folder) = (S3::start(), TempDir::new().unwrap());
    let store = CloudBlobStore::open(&options(&server), folder.path()).unwrap();
    let container = Container::scoped("default", "shop", "c").unwrap();
    store.create_container(&container).await.unwrap();
    let mut writer = store.write(None).await.unwrap();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    writer.commit(&container.object("o").unwrap()).await.unwrap();
    let beside = server.folder().join(S3::BUCKET).join("apps/default/shop/c/o/%zz");
    std::fs::write(beside, "not ours").unwrap();
    let page = store.list_objects(&container, Listing::default()).await.unwrap();
    assert_eq!(page.names, ["o"]);
    let read = store
        .read(&container.object("o").unwrap(), 0..u64::MAX)
        .await
        .unwrap();
    let chunks: Vec<Bytes> = read.chunks.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"x");
}
