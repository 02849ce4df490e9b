//! The folder of artifacts, as other hosts fetch from it and this one fetches into it.
//!
//! Owns files that are being written, and that disk work is off the runtime's threads. Must not know who asks: that is
//! [`weft_lattice::artifact`].

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use sha2::{Digest as _, Sha256};
use weft_lattice::artifact::{ArtifactDigest, Part, Store, Stored};

use super::{Components, sync_folder};
use crate::component::COMPONENT_LEN_MAX;
use crate::digest::Digest;

/// How much of a file is hashed at once.
const HASH_STEP: usize = 1 << 20;

impl From<ArtifactDigest> for Digest {
    fn from(digest: ArtifactDigest) -> Self {
        Self::from_bytes(digest.0)
    }
}

impl From<Digest> for ArtifactDigest {
    fn from(digest: Digest) -> Self {
        Self(digest.to_bytes())
    }
}

/// Runs `work` where it may wait for the disk.
fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, io::Result<T>> {
    async { tokio::task::spawn_blocking(work).await? }.boxed()
}

impl Store for Components {
    fn has(&self, digest: ArtifactDigest) -> bool {
        Self::has(self, digest.into())
    }

    fn read(
        &self,
        digest: ArtifactDigest,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, io::Result<Option<Stored>>> {
        let path = self.path(digest.into(), "wasm");
        on_disk(move || {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let size = file.metadata()?.len();
            let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut data = vec![0; len.min(left)];
            file.read_exact_at(&mut data, offset)?;
            let data = data.into();
            Ok(Some(Stored { size, data }))
        })
    }

    fn begin(&self, digest: ArtifactDigest) -> BoxFuture<'static, io::Result<Box<dyn Part>>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let whole = self.path(digest.into(), "wasm");
        let path = whole.with_added_extension(format!("fetch-{number}.part"));
        let Some(components) = self.this.upgrade() else {
            return future::err(io::Error::other("the host stops")).boxed();
        };
        on_disk(move || {
            let file = Arc::new(File::create(&path)?);
            let (digest, len) = (digest.into(), 0);
            Ok(Box::new(PartFile {
                components,
                digest,
                whole,
                path,
                file,
                len,
            }) as Box<dyn Part>)
        })
    }

    fn verify(&self, digest: ArtifactDigest) -> BoxFuture<'static, bool> {
        let path = self.path(digest.into(), "wasm");
        let components = self.this.clone();
        let verified = on_disk(move || {
            let whole = hash(&path)? == digest.0;
            if !whole && let Some(components) = components.upgrade() {
                components.remove(digest.into());
            }
            Ok(whole)
        });
        // What can't be read is not here.
        verified.map(|verified| verified.unwrap_or(false)).boxed()
    }

    fn len_max(&self) -> u64 {
        COMPONENT_LEN_MAX
    }
}

fn hash(path: &Path) -> io::Result<[u8; 32]> {
    use std::io::Read as _;
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; HASH_STEP]);
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(hash.finalize().into()),
            len => hash.update(&bytes[..len]),
        }
    }
}

/// An artifact that is being fetched; its file goes unless it is finished.
struct PartFile {
    components: Arc<Components>,
    digest: Digest,
    whole: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    len: u64,
}

impl Part for PartFile {
    fn append(&mut self, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let (file, at) = (self.file.clone(), self.len);
        self.len += data.len() as u64;
        on_disk(move || file.write_all_at(&data, at))
    }

    fn restart(&mut self) -> BoxFuture<'_, io::Result<()>> {
        let file = self.file.clone();
        self.len = 0;
        on_disk(move || file.set_len(0))
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        on_disk(move || {
            self.file.sync_all()?;
            fs::rename(&self.path, &self.whole)?;
            sync_folder(&self.whole)?;
            self.components.keep_bound(self.digest);
            Ok(())
        })
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // Not there if it is finished; at the next start it goes if it can't be removed now.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    use weft_observability::HostMetrics;

    use super::super::{ArtifactError, Fetch, Residency};
    use super::*;
    use crate::component::Loader;
    use crate::component::aot::AotCache;
    use crate::component::compile::Compiler;
    use crate::engine::{Engine, Profile};
    use crate::system::SystemFacts;

    fn open(folder: &Path) -> Arc<Components> {
        let metrics = HostMetrics::default();
        let engine = Engine::new(Profile::Fast, Some(4), &SystemFacts::read()).unwrap();
        let linker = wasmtime::component::Linker::new(engine.wasmtime());
        let compiler = Compiler::new("/nowhere".into(), metrics.clone());
        let cache = AotCache::new(folder.join("aot"), [7; 32], compiler, metrics.clone());
        let loader = Loader::new(engine, linker, cache, metrics.clone());
        let residency = Residency {
            idle: Duration::from_secs(1),
            loaded_max: 1,
        };
        Components::open(loader, folder.join("artifacts"), [7; 32], residency, metrics).unwrap()
    }

    async fn put(components: &Components, bytes: &'static [u8], age_s: u64) -> Digest {
        let digest = Digest::of(bytes);
        let mut part = components.begin(digest.into()).await.unwrap();
        part.append(Bytes::from_static(b"other")).await.unwrap();
        part.restart().await.unwrap();
        for byte in bytes.chunks(2) {
            part.append(Bytes::from_static(byte)).await.unwrap();
        }
        part.finish().await.unwrap();
        let file = File::open(components.path(digest, "wasm")).unwrap();
        let used = SystemTime::now() - Duration::from_secs(age_s);
        file.set_modified(used).unwrap();
        digest
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder.join("artifacts")).unwrap().count()
    }

    #[tokio::test]
    async fn what_is_finished_is_kept_and_of_what_is_not_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let components = open(folder.path());
        let digest = put(&components, b"abcde", 0).await;
        let part = Store::read(&*components, digest.into(), 2, 100)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((part.size, &part.data[..]), (5, &b"cde"[..]));
        let behind = Store::read(&*components, digest.into(), 9, 100).await;
        assert!(behind.is_err() || behind.unwrap().unwrap().data.is_empty());
        let unknown = Digest::of(b"unknown").into();
        assert_eq!(Store::read(&*components, unknown, 0, 1).await.unwrap(), None);

        let mut part = components.begin(unknown).await.unwrap();
        part.append(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(files(folder.path()), 2);
        drop(part);
        assert_eq!(files(folder.path()), 1);
        // What a host left that was killed goes at the next start.
        std::mem::forget(components.begin(unknown).await.unwrap());
        assert_eq!(files(folder.path()), 2);
        open(folder.path());
        assert_eq!(files(folder.path()), 1);
    }

    #[tokio::test]
    async fn a_copy_that_is_damaged_goes_when_it_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let components = open(folder.path());
        let digest = put(&components, b"whole", 0).await;
        assert!(components.verify(digest.into()).await);
        fs::write(components.path(digest, "wasm"), b"wholf").unwrap();
        assert!(!components.verify(digest.into()).await && !components.has(digest));
    }

    #[tokio::test]
    async fn what_no_record_names_stays_within_the_bound_and_what_was_used_last_stays_longest() {
        let folder = tempfile::tempdir().unwrap();
        let components = open(folder.path());
        let [pinned, oldest, older] = [
            put(&components, b"pinned", 9_000).await,
            put(&components, b"aaaa", 500).await,
            put(&components, b"bbbb", 400).await,
        ];
        let pins = Arc::new(Mutex::new(HashMap::from([(pinned, vec!["a/b/c".to_owned()])])));
        let shared = pins.clone();
        components.pin_by(move || shared.lock().unwrap().clone());
        components.set_bytes_max(8);
        put(&components, b"cccc", 300).await;
        let there = |digest| components.has(digest);
        assert!(there(pinned) && !there(oldest) && there(older));
        // One that is larger than the bound stays too, alone, until the next comes.
        let large = put(&components, b"large enough", 0).await;
        assert!(there(large) && !there(older) && there(pinned));
        // It is pinned no more, and by then not the oldest.
        pins.lock().unwrap().clear();
        components.set_bytes_max(20);
        put(&components, b"dd", 0).await;
        assert!(there(pinned) && there(large));

        let would: Vec<_> = components.collect(true).unwrap();
        assert_eq!((would.len(), there(large)), (3, true));
        assert_eq!(components.collect(false).unwrap().len(), 3);
        assert_eq!(components.artifacts().unwrap().len(), 0);
    }

    /// Fetches nothing at first, then what is put here.
    struct Other(Mutex<Vec<&'static [u8]>>, Arc<Components>);

    impl Fetch for Other {
        fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<(), super::super::FetchFailure>> {
            let found = self
                .0
                .lock()
                .unwrap()
                .iter()
                .find(|bytes| Digest::of(bytes) == digest)
                .copied();
            let components = self.1.clone();
            async move {
                let bytes = found.ok_or("nobody has it")?;
                put(&components, bytes, 0).await;
                Ok(())
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn a_component_that_is_not_here_is_fetched_and_a_damaged_one_fetched_anew() {
        // A component's first bytes: what follows is for who compiles it.
        const BYTES: &[u8] = b"\0asm\x0d\0\x01\0 and more";
        let folder = tempfile::tempdir().unwrap();
        let components = open(folder.path());
        let digest = Digest::of(BYTES);
        let unread = components.bytes_of(digest).await.unwrap_err();
        assert!(matches!(unread, ArtifactError::Component(_)), "{unread}");
        let other = Arc::new(Other(Mutex::default(), components.clone()));
        components.fetch_by(other.clone());
        let unread = components.bytes_of(digest).await.unwrap_err();
        assert!(matches!(unread, ArtifactError::Fetch { .. }), "{unread}");
        other.0.lock().unwrap().push(BYTES);
        assert_eq!(components.bytes_of(digest).await.unwrap().bytes, BYTES);
        fs::write(components.path(digest, "wasm"), b"\0asm\x0d\0\x01\0 and less").unwrap();
        assert_eq!(components.bytes_of(digest).await.unwrap().bytes, BYTES);
    }
}
