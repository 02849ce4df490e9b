//! How long a read and a write of 64 MiB take: of a file by the system, of the blob store in a folder, and of the same
//! through NATS from a second host.
//!
//! ```sh
//! cargo run --release --package weft-remote --example objects
//! ```

#![expect(clippy::print_stdout, reason = "the table is what this program prints")]
#![expect(clippy::unwrap_used, reason = "it is no part of a host")]

#[path = "../tests/it/hosts.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod hosts;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt as _;
use weft_blob::{FsBlobStore, FsOptions};
use weft_capabilities::{BlobStore, Container, Object};

use crate::hosts::Pair;

const LEN: usize = 64 << 20;
/// What a guest writes at once, at most.
const PIECE_LEN: usize = 256 << 10;
const ROUNDS: usize = 7;

#[tokio::main]
async fn main() {
    let (pair, folder) = (Pair::on_nats("").await, tempfile::tempdir().unwrap());
    let store = FsBlobStore::open(&folder.path().join("store"), FsOptions::default()).unwrap();
    let local: Arc<dyn BlobStore> = Arc::new(store);
    let remote = pair.blob_store(local.clone());
    let container = Container::shared("c").unwrap();
    local.create_container(&container).await.unwrap();
    let object = container.object("o").unwrap();
    let file = folder.path().join("file");

    let mut rows = [("file", vec![]), ("fs", vec![]), ("fs, over NATS", vec![])];
    for _ in 0..ROUNDS {
        rows[0].1.push((write_file(&file), read_file(&file)));
        for (row, store) in [(1, &local), (2, &remote)] {
            let wrote = write(&**store, &object).await;
            rows[row].1.push((wrote, read(&**store, &object).await));
        }
    }
    println!("{:<16} {:>14} {:>14}", "64 MiB", "write and sync", "read");
    for (what, times) in rows {
        let median = |of: fn(&(Duration, Duration)) -> Duration| {
            let mut all: Vec<_> = times.iter().map(of).collect();
            all.sort();
            format!("{:.1} ms", all[all.len() / 2].as_secs_f64() * 1e3)
        };
        println!("{what:<16} {:>14} {:>14}", median(|it| it.0), median(|it| it.1));
    }
}

fn write_file(path: &Path) -> Duration {
    let started = Instant::now();
    let mut file = File::create(path).unwrap();
    let piece = vec![7; PIECE_LEN];
    for _ in 0..LEN / PIECE_LEN {
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    started.elapsed()
}

fn read_file(path: &Path) -> Duration {
    let started = Instant::now();
    let (mut file, mut piece, mut len) = (File::open(path).unwrap(), vec![0; PIECE_LEN], 0);
    while len < LEN {
        len += file.read(&mut piece).unwrap();
    }
    started.elapsed()
}

async fn write(store: &dyn BlobStore, object: &Object) -> Duration {
    let started = Instant::now();
    let mut writer = store.write(Some(object)).await.unwrap();
    let piece = Bytes::from(vec![7; PIECE_LEN]);
    for _ in 0..LEN / PIECE_LEN {
        writer.write(piece.clone()).await.unwrap();
    }
    writer.commit(object).await.unwrap();
    started.elapsed()
}

async fn read(store: &dyn BlobStore, object: &Object) -> Duration {
    let started = Instant::now();
    let read = store.read(object, 0..u64::MAX).await.unwrap();
    let len = read
        .chunks
        .try_fold(0, async |len, chunk| Ok(len + chunk.len()))
        .await
        .unwrap();
    assert_eq!(len, LEN);
    started.elapsed()
}
