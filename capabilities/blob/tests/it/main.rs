//! The backends against what they are made for.
#![cfg(test)]

mod azure;
mod fs;
mod s3;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_blob::{CloudBlobStore, CloudOptions};
use weft_capabilities::{BlobStore, conformance};

/// Runs the suite on a cloud, with a prefix of its own for each store.
async fn cloud_keeps_the_contract(options: &CloudOptions, folder: &Path, name_len_max: usize) {
    let count = AtomicU32::new(0);
    let open = || -> Arc<dyn BlobStore> {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let options = CloudOptions {
            prefix: format!("store-{n}"),
            ..options.clone()
        };
        Arc::new(CloudBlobStore::open(&options, folder).unwrap())
    };
    conformance::blob_store(&open, name_len_max).await;
    conformance::tells_its_containers(&*open(), name_len_max).await;
}
