//! What is told of buckets.
#![cfg(test)]

use weft_capabilities::conformance;
use weft_redb::{RedbKeyValue, RedbOptions};

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_told_by_app() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbKeyValue::open(&folder.path().join("a.redb"), RedbOptions::default()).unwrap();
    conformance::tells_its_buckets(&store).await;
}
