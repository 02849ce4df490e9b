//! A place for artifacts in memory, that can lie.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use sha2::{Digest as _, Sha256};

use crate::artifact::{ArtifactDigest, Part, Store, Stored};

/// The longest artifact that a [`MemoryStore`] takes.
pub const LEN_MAX: u64 = 32 << 20;

/// Artifacts in memory. Clones are the same.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    kept: BTreeMap<ArtifactDigest, Bytes>,
    /// Parts that are being written.
    parts: usize,
    reads: u64,
    /// What it adds to the lengths that it tells, from that read on.
    lie: (i64, u64),
    on_read: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

/// The digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> ArtifactDigest {
    ArtifactDigest(Sha256::digest(bytes).into())
}

impl MemoryStore {
    /// Keeps `bytes` by the name that they have.
    pub fn put(&self, bytes: impl Into<Bytes>) -> ArtifactDigest {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        self.put_as(digest, bytes);
        digest
    }

    /// Keeps `bytes` by any name, as a disk that is damaged.
    pub fn put_as(&self, digest: ArtifactDigest, bytes: impl Into<Bytes>) {
        self.lock().kept.insert(digest, bytes.into());
    }

    /// Tells lengths that are so much longer than they are, from the read `since` on.
    pub fn lie(&self, longer: i64, since: u64) {
        self.lock().lie = (longer, since);
    }

    /// Calls `on_read` before each read, with its number.
    pub fn on_read(&self, on_read: impl Fn(u64) + Send + Sync + 'static) {
        self.lock().on_read = Some(Arc::new(on_read));
    }

    /// What is kept by this name.
    pub fn get(&self, digest: ArtifactDigest) -> Option<Bytes> {
        self.lock().kept.get(&digest).cloned()
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// Parts that are being written.
    pub fn parts(&self) -> usize {
        self.lock().parts
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn has(&self, digest: ArtifactDigest) -> bool {
        self.lock().kept.contains_key(&digest)
    }

    fn read(
        &self,
        digest: ArtifactDigest,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, io::Result<Option<Stored>>> {
        let (number, on_read) = {
            let mut inner = self.lock();
            inner.reads += 1;
            (inner.reads, inner.on_read.clone())
        };
        if let Some(on_read) = on_read {
            on_read(number);
        }
        let inner = self.lock();
        let stored = inner.kept.get(&digest).map(|bytes| {
            let from = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
            let to = bytes.len().min(from.saturating_add(len));
            let longer = if number >= inner.lie.1 { inner.lie.0 } else { 0 };
            Stored {
                size: (bytes.len() as u64).saturating_add_signed(longer),
                data: bytes.slice(from..to),
            }
        });
        future::ready(Ok(stored)).boxed()
    }

    fn begin(&self, digest: ArtifactDigest) -> BoxFuture<'static, io::Result<Box<dyn Part>>> {
        self.lock().parts += 1;
        let part = MemoryPart {
            store: self.clone(),
            digest,
            bytes: BytesMut::new(),
        };
        future::ready(Ok(Box::new(part) as Box<dyn Part>)).boxed()
    }

    fn verify(&self, digest: ArtifactDigest) -> BoxFuture<'static, bool> {
        let mut inner = self.lock();
        let whole = inner
            .kept
            .get(&digest)
            .is_some_and(|bytes| digest_of(bytes) == digest);
        if !whole {
            inner.kept.remove(&digest);
        }
        future::ready(whole).boxed()
    }

    fn len_max(&self) -> u64 {
        LEN_MAX
    }
}

struct MemoryPart {
    store: MemoryStore,
    digest: ArtifactDigest,
    bytes: BytesMut,
}

impl Part for MemoryPart {
    fn append(&mut self, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.bytes.extend_from_slice(&data);
        future::ready(Ok(())).boxed()
    }

    fn restart(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.bytes.clear();
        future::ready(Ok(())).boxed()
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        let bytes = self.bytes.split().freeze();
        self.store.put_as(self.digest, bytes);
        future::ready(Ok(())).boxed()
    }
}

impl Drop for MemoryPart {
    fn drop(&mut self) {
        self.store.lock().parts -= 1;
    }
}
