//! A store on a server of Azure's protocol, which the test starts.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;
use weft_blob::{CloudBlobStore, CloudOptions, Service};
use weft_capabilities::{BlobError, BlobStore, Container, Listing, Object};
use weft_servers::Azure;

use super::cloud_keeps_the_contract;

fn options(server: &Azure) -> CloudOptions {
    options_with(server, Azure::KEY)
}

fn options_with(server: &Azure, key: &str) -> CloudOptions {
    let service = Service::Azure {
        account: Azure::ACCOUNT.to_owned(),
        access_key: Some(key.to_owned()),
    };
    CloudOptions {
        endpoint: Some(server.url()),
        ..CloudOptions::new(service, Azure::CONTAINER)
    }
}

fn open(server: &Azure, folder: &TempDir) -> CloudBlobStore {
    CloudBlobStore::open(&options(server), folder.path()).unwrap()
}

async fn put(store: &dyn BlobStore, object: &Object, chunks: impl IntoIterator<Item = Bytes>) {
    let mut writer = store.write(Some(object)).await.unwrap();
    for chunk in chunks {
        writer.write(chunk).await.unwrap();
    }
    writer.commit(object).await.unwrap();
}

async fn get(store: &dyn BlobStore, object: &Object, range: Range<u64>) -> Vec<u8> {
    let read = store.read(object, range).await.unwrap();
    let chunks: Vec<Bytes> = read.chunks.try_collect().await.unwrap();
    chunks.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let (server, folder) = (Azure::start(), TempDir::new().unwrap());
    cloud_keeps_the_contract(&options(&server), folder.path(), usize::MAX).await;
    let staged = std::fs::read_dir(folder.path().join("staging")).unwrap();
    assert_eq!(staged.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_goes_in_parts_and_any_part_of_it_is_read() {
    let (server, folder) = (Azure::start(), TempDir::new().unwrap());
    let store = open(&server, &folder);
    let container = Container::shared("c").unwrap();
    let (told, untold) = (
        container.object("told").unwrap(),
        container.object("un/told ä").unwrap(),
    );
    store.create_container(&container).await.unwrap();
    // Two parts of 5 MiB and a rest, whose bytes tell where they are.
    let bytes: Vec<u8> = (0..3_u32 << 20).flat_map(u32::to_be_bytes).collect();
    let chunks = || bytes.chunks(777_777).map(Bytes::copy_from_slice);
    put(&store, &told, chunks()).await;
    let mut writer = store.write(None).await.unwrap();
    for chunk in chunks() {
        writer.write(chunk).await.unwrap();
    }
    writer.commit(&untold).await.unwrap();
    let parts = server.log().matches("comp=block&").count();
    assert_eq!(parts, 6, "{}", server.log());
    let len = bytes.len() as u64;
    for object in [&told, &untold] {
        assert_eq!(store.object_info(object).await.unwrap().size, len);
        assert!(get(&store, object, 0..u64::MAX).await == bytes);
        for range in [
            0..1,
            (5 << 20) - 3..(5 << 20) + 3,
            len - 1..u64::MAX,
            len - 7..len + 7,
        ] {
            let expected = &bytes[range.start as usize..range.end.min(len) as usize];
            assert_eq!(get(&store, object, range.clone()).await, expected, "{range:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_that_is_given_up_is_never_seen_and_hinders_no_other() {
    let (server, folder) = (Azure::start(), TempDir::new().unwrap());
    let store = open(&server, &folder);
    let container = Container::shared("c").unwrap();
    let object = container.object("o").unwrap();
    store.create_container(&container).await.unwrap();
    let mut writer = store.write(Some(&object)).await.unwrap();
    for _ in 0..12 {
        writer.write(vec![1; 1 << 20].into()).await.unwrap();
    }
    assert!(server.log().contains("comp=block&"), "no part was sent");
    drop(writer);
    assert!(matches!(
        store.object_info(&object).await,
        Err(BlobError::NoSuchObject)
    ));
    let page = store.list_objects(&container, Listing::default()).await.unwrap();
    assert!(page.names.is_empty(), "{:?}", page.names);
    let chunks = || (0..7).map(|n| Bytes::from(vec![n; 1 << 20]));
    put(&store, &object, chunks()).await;
    assert!(get(&store, &object, 0..u64::MAX).await == chunks().collect::<Vec<_>>().concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_containers_and_objects_than_a_page_has_are_told_each_once() {
    let (server, folder) = (Azure::start(), TempDir::new().unwrap());
    let store = open(&server, &folder);
    let app = |name: String| Container::scoped("default", "shop", &name).unwrap();
    let containers: Vec<_> = (0..1_034).map(|n| app(format!("c{n}"))).collect();
    let made = stream::iter(&containers).map(|container| store.create_container(container));
    made.buffer_unordered(32).try_collect::<()>().await.unwrap();
    let told = store.containers(Some(("default", "shop"))).await.unwrap();
    let names: BTreeSet<_> = told.iter().map(Container::name).collect();
    assert_eq!((told.len(), names.len()), (1_034, 1_034));

    let objects: Vec<_> = (0..1_034)
        .map(|n| containers[0].object(&format!("{n}")).unwrap())
        .collect();
    let put = stream::iter(&objects).map(|object| put(&store, object, [Bytes::from_static(b"x")]));
    put.buffer_unordered(32).collect::<()>().await;
    store.clear(&containers[0]).await.unwrap();
    let page = store
        .list_objects(&containers[0], Listing::default())
        .await
        .unwrap();
    assert_eq!((page.names.len(), page.cursor), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_unavailable_and_serves_what_it_had_when_it_is_back() {
    let (mut server, folder) = (Azure::start(), TempDir::new().unwrap());
    let store = open(&server, &folder);
    let container = Container::shared("c").unwrap();
    let object = container.object("o").unwrap();
    store.create_container(&container).await.unwrap();
    put(&store, &object, [Bytes::from_static(b"kept")]).await;
    server.stop();
    let error = store.object_info(&object).await.unwrap_err();
    assert!(matches!(error, BlobError::Unavailable(_)), "{error:?}");
    server.start_again();
    assert_eq!(get(&store, &object, 0..u64::MAX).await, b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_denied_and_is_in_no_text() {
    let (server, folder) = (Azure::start(), TempDir::new().unwrap());
    let wrong = "d3Jvbmctc2VjcmV0";
    let options = options_with(&server, wrong);
    assert!(!format!("{options:?}").contains(wrong));
    let store = CloudBlobStore::open(&options, folder.path()).unwrap();
    let container = Container::shared("c").unwrap();
    for error in [
        store.container_info(&container).await.unwrap_err(),
        store.create_container(&container).await.unwrap_err(),
        store.containers(None).await.unwrap_err(),
    ] {
        assert!(matches!(error, BlobError::AccessDenied), "{error:?}");
        assert!(!format!("{error:?}").contains(wrong));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_at_all_is_refused_before_anything_is_asked() {
    let (server, folder) = (Azure::start(), TempDir::new().unwrap());
    let options = options_with(&server, "not base64!");
    let Err(error) = CloudBlobStore::open(&options, folder.path()) else {
        panic!("it was opened");
    };
    assert!(!format!("{error:?}").contains("not base64!"), "{error:?}");
}
