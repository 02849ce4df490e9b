//! The backend as a host uses it: on a file.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::{fs, io};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Database, StorageBackend, TableDefinition};
use weft_capabilities::{Bucket, KeyValue, KeyValueError, conformance};
use weft_redb::{OpenError, RedbKeyValue, RedbOptions};

fn open(path: &std::path::Path) -> Result<RedbKeyValue, OpenError> {
    RedbKeyValue::open(path, RedbOptions::default())
}

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    conformance::key_value(|| {
        let name = count.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(open(&folder.path().join(name)).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_changes() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    conformance::tells_changes(|| {
        let name = count.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(open(&folder.path().join(name)).unwrap())
    })
    .await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_close_and_after_drop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    for n in 0..4 {
        let store = open(&path).unwrap();
        assert_eq!(store.increment(&bucket(), "n", 1).await.unwrap(), n + 1);
        if n % 2 == 0 {
            store.close().await;
        }
    }
}

#[tokio::test]
async fn the_file_is_free_once_closed_while_others_still_hold_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    let old = open(&path).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Locked { .. })));
    old.set(&bucket(), "k", "v".into()).await.unwrap();
    old.close().await;
    let new = open(&path).unwrap();
    assert_eq!(new.get(&bucket(), "k").await.unwrap().unwrap(), "v");
    assert!(matches!(
        old.get(&bucket(), "k").await,
        Err(KeyValueError::Closed)
    ));
}

#[tokio::test]
async fn a_write_whose_caller_left_is_done_before_the_store_closes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    let store = open(&path).unwrap();
    let bucket = bucket();
    for n in 0..20 {
        let key = n.to_string();
        let mut write = store.set(&bucket, &key, Bytes::new());
        assert!(futures::poll!(&mut write).is_pending());
    }
    store.close().await;
    let keys = open(&path)
        .unwrap()
        .list_keys(&bucket, None, 100)
        .await
        .unwrap()
        .keys;
    assert_eq!(keys.len(), 20);
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);

    fs::write(at("foreign"), "SQLite format 3\0".repeat(1_000)).unwrap();
    assert!(matches!(open(&at("foreign")), Err(OpenError::Foreign { .. })));
    fs::write(at("short"), "x").unwrap();
    assert!(matches!(open(&at("short")), Err(OpenError::Foreign { .. })));

    drop(open(&at("cut")).unwrap());
    let whole = fs::read(at("cut")).unwrap();
    fs::write(at("cut"), &whole[..whole.len() / 2]).unwrap();
    let error = open(&at("cut")).err().unwrap();
    assert!(
        matches!(error, OpenError::Damaged { .. } | OpenError::Failed { .. }),
        "{error:?}"
    );

    let newer = Database::create(at("newer")).unwrap();
    let transaction = newer.begin_write().unwrap();
    let meta = TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(newer);
    let error = open(&at("newer")).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("use the version that wrote it"));

    assert!(matches!(
        open(&at("no/such/folder")),
        Err(OpenError::Failed { .. })
    ));
}

/// A file on a disk that has no more room for a while.
#[derive(Debug)]
struct OnFullDisk {
    file: FileBackend,
    is_full: Arc<AtomicBool>,
}

impl StorageBackend for OnFullDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) && len > self.file.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// A disk that was full for a moment left a store that refused all writes, and reads of what was not cached, until its host
/// was started again.
#[tokio::test]
async fn a_store_whose_disk_is_full_is_read_has_all_that_was_answered_and_takes_writes_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    let is_full = Arc::new(AtomicBool::new(false));
    let told = is_full.clone();
    let backend = move || {
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        OnFullDisk {
            file: FileBackend::new(options.open(&path).unwrap()).unwrap(),
            is_full: told.clone(),
        }
    };
    let options = RedbOptions {
        cache_bytes: 64 << 10,
    };
    let store = RedbKeyValue::open_backend(backend, "a", options).unwrap();
    let (bucket, large) = (bucket(), Bytes::from(vec![b'x'; 1 << 20]));
    let mut answered = Vec::new();
    for _ in 0..3 {
        is_full.store(true, Ordering::Relaxed);
        // Until the file would have to grow.
        let refused = loop {
            let key = format!("{:03}", answered.len());
            match store.set(&bucket, &key, large.clone()).await {
                Ok(()) => answered.push(key),
                Err(error) => break error,
            }
            assert!(answered.len() < 100, "the disk was never full");
        };
        assert!(matches!(refused, KeyValueError::Full { .. }), "{refused:?}");
        for key in &answered {
            assert_eq!(store.get(&bucket, key).await.unwrap().unwrap(), large);
        }
        is_full.store(false, Ordering::Relaxed);
        let key = format!("{:03}", answered.len());
        store.set(&bucket, &key, large.clone()).await.unwrap();
        answered.push(key);
    }
    let keys = store.list_keys(&bucket, None, 1_000).await.unwrap().keys;
    assert_eq!(keys, answered);
}
