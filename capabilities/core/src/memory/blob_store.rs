//! Objects in this process's memory.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{FutureExt, stream};

use super::BYTES_MAX_DEFAULT;
use crate::blob_store::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, OBJECT_SIZE_MAX, Object,
    ObjectInfo, ObjectPage, PAGE_LEN_MAX, check_batch, check_chunk, check_containers, within,
};

/// What an object or a container costs beside its bytes: names, the map's slots, heads.
const ENTRY_OVERHEAD: usize = 256;

/// What a chunk costs beside its bytes: its head and its allocation.
const CHUNK_OVERHEAD: usize = 64;

/// What some chunks cost.
fn cost_of(chunks: &[Bytes]) -> usize {
    chunks.iter().map(|chunk| chunk.len() + CHUNK_OVERHEAD).sum()
}

/// A blob store in memory. Gone when it is dropped.
#[derive(Debug)]
pub struct MemoryBlobStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<Container, Held>,
    /// Of all that is held, and of what is being written.
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Held {
    created_at: SystemTime,
    objects: BTreeMap<Arc<str>, Stored>,
}

#[derive(Debug, Clone)]
struct Stored {
    chunks: Arc<[Bytes]>,
    info: ObjectInfo,
}

impl Stored {
    fn cost(&self) -> usize {
        cost_of(&self.chunks) + ENTRY_OVERHEAD
    }
}

impl MemoryBlobStore {
    /// An empty store that holds at most `bytes_max` bytes, with what it adds to them.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            bytes_max,
        }))
    }
}

impl Default for MemoryBlobStore {
    fn default() -> Self {
        Self::new(BYTES_MAX_DEFAULT)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, BlobError> {
        let state = self.state();
        if state.closed {
            return Err(BlobError::Closed);
        }
        Ok(state)
    }

    fn take(&self, state: &mut State, bytes: usize) -> Result<(), BlobError> {
        if state.bytes + bytes > self.bytes_max {
            return Err(BlobError::Full);
        }
        state.bytes += bytes;
        Ok(())
    }
}

impl State {
    fn held(&self, container: &Container) -> Result<&Held, BlobError> {
        self.containers.get(container).ok_or(BlobError::NoSuchContainer)
    }

    fn objects(&mut self, container: &Container) -> Result<&mut BTreeMap<Arc<str>, Stored>, BlobError> {
        let held = self.containers.get_mut(container);
        Ok(&mut held.ok_or(BlobError::NoSuchContainer)?.objects)
    }

    fn stored(&self, object: &Object) -> Result<&Stored, BlobError> {
        let held = self.held(object.container())?;
        held.objects.get(object.name()).ok_or(BlobError::NoSuchObject)
    }

    /// Whose cost was taken already.
    fn put(&mut self, object: &Object, stored: Stored) -> Result<(), BlobError> {
        let before = self
            .objects(object.container())?
            .insert(object.name().into(), stored);
        self.bytes -= before.map_or(0, |before| before.cost());
        Ok(())
    }

    fn remove(&mut self, object: &Object) -> Result<(), BlobError> {
        let before = self.objects(object.container())?.remove(object.name());
        self.bytes -= before.map_or(0, |before| before.cost());
        Ok(())
    }
}

/// An operation that needs no waiting.
macro_rules! now {
    ($body:expr) => {
        future::lazy(move |_| $body).boxed()
    };
}

impl BlobStore for MemoryBlobStore {
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        now!({
            let mut state = self.0.open()?;
            if state.containers.contains_key(container) {
                return Err(BlobError::ContainerExists);
            }
            self.0.take(&mut state, ENTRY_OVERHEAD)?;
            let held = Held {
                created_at: SystemTime::now(),
                objects: BTreeMap::new(),
            };
            state.containers.insert(container.clone(), held);
            Ok(())
        })
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        now!({
            let mut state = self.0.open()?;
            let held = state
                .containers
                .remove(container)
                .ok_or(BlobError::NoSuchContainer)?;
            state.bytes -= ENTRY_OVERHEAD + held.objects.values().map(Stored::cost).sum::<usize>();
            Ok(())
        })
    }

    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>> {
        now!({
            let created_at = self.0.open()?.held(container)?.created_at;
            Ok(ContainerInfo { created_at })
        })
    }

    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>> {
        now!({
            let state = self.0.open()?;
            let limit = listing.limit.clamp(1, PAGE_LEN_MAX);
            let from = match listing.cursor {
                Some(last) if last >= listing.prefix => Bound::Excluded(last),
                _ => Bound::Included(listing.prefix),
            };
            let mut names = state
                .held(container)?
                .objects
                .range::<str, _>((from, Bound::Unbounded))
                .map(|(name, _)| name.to_string())
                .take_while(|name| name.starts_with(listing.prefix));
            let page: Vec<_> = names.by_ref().take(limit).collect();
            Ok(ObjectPage {
                cursor: names.next().and_then(|_| page.last().cloned()),
                names: page,
            })
        })
    }

    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        now!({
            let mut state = self.0.open()?;
            let objects = mem::take(state.objects(container)?);
            state.bytes -= objects.values().map(Stored::cost).sum::<usize>();
            Ok(())
        })
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>> {
        now!(Ok(self.0.open()?.stored(object)?.info))
    }

    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>> {
        now!({
            let stored = self.0.open()?.stored(object)?.clone();
            let range = within(&range, stored.info.size)?;
            let mut from = 0;
            // Slices share the bytes: nothing is copied, and they stay when the object goes.
            let parts: VecDeque<_> = stored
                .chunks
                .iter()
                .filter_map(|chunk| {
                    let (start, end) = (from, from + chunk.len() as u64);
                    from = end;
                    let at = |position: u64| usize::try_from(position.clamp(start, end) - start).ok();
                    let part = chunk.slice(at(range.start)?..at(range.end)?);
                    (!part.is_empty()).then_some(Ok(part))
                })
                .collect();
            Ok(BlobRead {
                size: range.end - range.start,
                chunks: Box::pin(stream::iter(parts)),
            })
        })
    }

    fn write<'a>(&'a self, _: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        now!({
            self.0.take(&mut *self.0.open()?, ENTRY_OVERHEAD)?;
            let writer: Box<dyn BlobWriter> = Box::new(Writer {
                store: self.0.clone(),
                chunks: Vec::new(),
                size: 0,
                has_failed: false,
            });
            Ok(writer)
        })
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>> {
        now!({
            check_batch(objects)?;
            let mut state = self.0.open()?;
            objects.iter().try_for_each(|object| state.remove(object))
        })
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        now!({
            let mut state = self.0.open()?;
            let mut stored = state.stored(from)?.clone();
            state.held(to.container())?;
            // Both share the bytes, and each counts them: either may go first.
            self.0.take(&mut state, stored.cost())?;
            stored.info.created_at = SystemTime::now();
            state.put(to, stored)
        })
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        now!({
            let mut state = self.0.open()?;
            let stored = state.stored(from)?.clone();
            state.held(to.container())?;
            if from == to {
                return Ok(());
            }
            state.objects(from.container())?.remove(from.name());
            state.put(to, stored)
        })
    }

    fn containers<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Container>, BlobError>> {
        now!({
            let state = self.0.open()?;
            let all = state.containers.keys();
            let containers: Vec<_> = all
                .filter(|container| container.scope() == scope)
                .cloned()
                .collect();
            check_containers(containers.len())?;
            Ok(containers)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.state().closed = true;
        future::ready(()).boxed()
    }
}

/// Holds what it has taken of the store's bytes until it is committed or dropped.
struct Writer {
    store: Arc<Inner>,
    chunks: Vec<Bytes>,
    size: u64,
    /// A chunk is missing.
    has_failed: bool,
}

impl Writer {
    fn try_write(&mut self, chunk: &Bytes) -> Result<(), BlobError> {
        check_chunk(self.size, chunk, OBJECT_SIZE_MAX)?;
        self.store
            .take(&mut *self.store.open()?, chunk.len() + CHUNK_OVERHEAD)?;
        self.size += chunk.len() as u64;
        // A chunk may be a slice of something larger: what is kept is its own.
        self.chunks.push(Bytes::copy_from_slice(chunk));
        Ok(())
    }
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        now!({
            let written = self.try_write(&chunk);
            self.has_failed |= written.is_err();
            written
        })
    }

    fn commit<'a>(mut self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        now!({
            let mut state = self.store.open()?;
            if self.has_failed {
                return Err(BlobError::Backend("a write failed before".into()));
            }
            state.held(to.container())?;
            let stored = Stored {
                chunks: mem::take(&mut self.chunks).into(),
                info: ObjectInfo {
                    size: self.size,
                    created_at: SystemTime::now(),
                },
            };
            state.put(to, stored)?;
            // The object has it now, and the writer gives back what it takes again.
            state.bytes += ENTRY_OVERHEAD;
            Ok(())
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let bytes = cost_of(&self.chunks) + ENTRY_OVERHEAD;
        self.store.state().bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::blob_store(|| Arc::new(MemoryBlobStore::default()), usize::MAX).await;
        conformance::tells_its_containers(&MemoryBlobStore::default(), usize::MAX).await;
    }

    #[tokio::test]
    async fn counts_what_is_held_and_what_is_being_written_and_gives_all_of_it_back() {
        let store = MemoryBlobStore::new(5_500);
        let container = Container::shared("c").unwrap();
        let object = |name: &str| container.object(name).unwrap();
        store.create_container(&container).await.unwrap();
        let chunk = Bytes::from(vec![7; 1_000]);
        let mut first = store.write(None).await.unwrap();
        first.write(chunk.clone()).await.unwrap();
        first.commit(&object("a")).await.unwrap();
        for _ in 0..50 {
            let mut kept = store.write(None).await.unwrap();
            let mut dropped = store.write(None).await.unwrap();
            kept.write(chunk.clone()).await.unwrap();
            dropped.write(chunk.clone()).await.unwrap();
            dropped.write(chunk.clone()).await.unwrap();
            assert!(matches!(dropped.write(chunk.clone()).await, Err(BlobError::Full)));
            drop(dropped);
            kept.commit(&object("a")).await.unwrap();
            store.copy_object(&object("a"), &object("b")).await.unwrap();
            store.move_object(&object("b"), &object("a")).await.unwrap();
            store.copy_object(&object("a"), &object("a")).await.unwrap();
        }
        store.clear(&container).await.unwrap();
        assert_eq!(store.0.state().bytes, ENTRY_OVERHEAD);
        store.delete_container(&container).await.unwrap();
        assert_eq!(store.0.state().bytes, 0);
    }
}
