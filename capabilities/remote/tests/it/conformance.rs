//! The suites of the traits, through two ends of a lattice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_blob::{FsBlobStore, FsOptions};
use weft_capabilities::conformance::{self, SqlDialect};
use weft_capabilities::{KeyValue, MemoryBlobStore, MemoryKeyValue};
use weft_redb::{RedbKeyValue, RedbOptions};
use weft_sqlite::{SqliteOptions, SqliteSql};

use crate::hosts::Pair;

const SQLITE: SqlDialect = SqlDialect {
    blob: "BLOB",
    integer: "INTEGER",
    transactions_conflict: false,
};

async fn redb_conforms(pair: Pair) {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let open = || {
        let file = folder
            .path()
            .join(count.fetch_add(1, Ordering::Relaxed).to_string());
        let store: Arc<dyn KeyValue> = Arc::new(RedbKeyValue::open(&file, RedbOptions::default()).unwrap());
        pair.key_value(store)
    };
    conformance::key_value(open).await;
}

async fn sqlite_conforms(pair: Pair) {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let open = || {
        let file = folder
            .path()
            .join(count.fetch_add(1, Ordering::Relaxed).to_string());
        pair.sql(Arc::new(
            SqliteSql::open(&file, SqliteOptions::default()).unwrap(),
        ))
    };
    conformance::sql(open, SQLITE).await;
}

async fn files_conform(pair: Pair) {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let open = || {
        let folder = folder
            .path()
            .join(count.fetch_add(1, Ordering::Relaxed).to_string());
        let store = FsBlobStore::open(&folder, FsOptions::default()).unwrap();
        pair.blob_store(Arc::new(store))
    };
    conformance::blob_store(open, usize::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_value_in_memory_keeps_the_contract_within_a_process() {
    let pair = Pair::in_memory().await;
    conformance::key_value(|| pair.key_value(Arc::new(MemoryKeyValue::default()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_keeps_the_contract_over_nats() {
    redb_conforms(Pair::on_nats("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_elsewhere_tells_changes_within_a_process() {
    let pair = Pair::in_memory().await;
    conformance::tells_changes(|| pair.key_value(Arc::new(MemoryKeyValue::default()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_elsewhere_tells_changes_over_nats_with_small_messages() {
    let pair = Pair::on_nats("max_payload: 65536").await;
    conformance::tells_changes(|| pair.key_value(Arc::new(MemoryKeyValue::default()))).await;
}

/// The smallest messages that a lattice is likely to have.
#[tokio::test(flavor = "multi_thread")]
async fn redb_keeps_the_contract_over_nats_with_small_messages() {
    redb_conforms(Pair::on_nats("max_payload: 65536").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract_within_a_process() {
    sqlite_conforms(Pair::in_memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract_over_nats() {
    sqlite_conforms(Pair::on_nats("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_store_in_memory_keeps_the_contract_within_a_process() {
    let pair = Pair::in_memory().await;
    conformance::blob_store(
        || pair.blob_store(Arc::new(MemoryBlobStore::default())),
        usize::MAX,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keep_the_contract_over_nats() {
    files_conform(Pair::on_nats("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keep_the_contract_over_nats_with_small_messages() {
    files_conform(Pair::on_nats("max_payload: 65536").await).await;
}
