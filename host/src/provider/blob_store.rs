//! A blob store as actors and other hosts get it: supervised, and able to move.
//!
//! Owns what is noted of a write, and what becomes of what takes longer than a move: an object that is being read or written
//! stays with the store that it was begun on. What waits, and for what, is [`super::gate`]'s.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::Mutex;
use weft_capabilities::blob_store::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage, send_object,
};

use super::gate::{self, HELD, HeldTooLong};

/// What stands before a blob store.
pub type Gate = gate::Gate<dyn BlobStore, Written>;
/// What was written.
pub type Notes = gate::Notes<Written>;

/// What a write is to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Written {
    /// It was made, deleted or cleared.
    Container(Container),
    /// It was written or deleted.
    Object(Object),
}

/// What is told of a cursor from before a move.
const LIST_AGAIN: &str = "its data has moved since this listing began: list again from the beginning";

/// The store behind a [`Gate`]. Objects that are being read or written when a server goes away tell it themselves.
pub(super) struct Guarded {
    gate: Arc<Gate>,
    /// Objects that were begun before a move are finished one after the other.
    late: Arc<Mutex<()>>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, BlobError>>;

fn held(_: HeldTooLong) -> BlobError {
    BlobError::Unavailable(HELD.to_owned())
}

impl Guarded {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            late: Arc::default(),
        }
    }

    /// The store for a read.
    fn reading(&self) -> Result<Arc<dyn BlobStore>, BlobError> {
        match self.gate.health.refusal() {
            None => Ok(self.gate.store()),
            Some(reason) => Err(BlobError::Unavailable(reason)),
        }
    }

    /// The store for a write of what `noted` names, which runs for as long as what comes with it is there.
    async fn writing(
        &self,
        noted: impl FnOnce() -> Vec<Written>,
    ) -> Result<(Running<'_>, Arc<dyn BlobStore>), BlobError> {
        self.reading()?;
        let running = self.gate.write(noted).await.map_err(held)?;
        // Not the one from before a hold.
        Ok((running, self.gate.store()))
    }
}

type Running<'g> = gate::Running<'g, dyn BlobStore, Written>;

/// An operation that reads.
macro_rules! reads {
    ($self:ident, |$store:ident| $read:expr) => {
        async move {
            let $store = $self.reading()?;
            $self.gate.told($read.await)
        }
        .boxed()
    };
}

/// An operation that writes, and to what.
macro_rules! writes {
    ($self:ident, $written:expr, |$store:ident| $write:expr) => {
        async move {
            let (_running, $store) = $self.writing(|| $written).await?;
            $self.gate.told($write.await)
        }
        .boxed()
    };
}

impl BlobStore for Guarded {
    fn create_container<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        let written = || vec![Written::Container(container.clone())];
        writes!(self, written(), |store| store.create_container(container))
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        let written = || vec![Written::Container(container.clone())];
        writes!(self, written(), |store| store.delete_container(container))
    }

    fn container_info<'a>(&'a self, container: &'a Container) -> Answer<'a, ContainerInfo> {
        reads!(self, |store| store.container_info(container))
    }

    fn list_objects<'a>(&'a self, container: &'a Container, listing: Listing<'a>) -> Answer<'a, ObjectPage> {
        async move {
            let store = self.reading()?;
            // Cursors are a store's own words: those of one mean nothing to another.
            let words_of = format!("{:x}:", Arc::as_ptr(&store).addr());
            let cursor = match listing.cursor.map(|cursor| cursor.strip_prefix(&words_of)) {
                Some(None) => return Err(BlobError::Unavailable(LIST_AGAIN.to_owned())),
                own => own.flatten(),
            };
            let page = store.list_objects(container, Listing { cursor, ..listing });
            let mut page = self.gate.told(page.await)?;
            page.cursor = page.cursor.map(|cursor| words_of + &cursor);
            Ok(page)
        }
        .boxed()
    }

    fn clear<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        let written = || vec![Written::Container(container.clone())];
        writes!(self, written(), |store| store.clear(container))
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> Answer<'a, ObjectInfo> {
        reads!(self, |store| store.object_info(object))
    }

    fn read<'a>(&'a self, object: &'a Object, range: Range<u64>) -> Answer<'a, BlobRead> {
        async move {
            let store = self.reading()?;
            let read = self.gate.told(store.read(object, range).await)?;
            // The store is in use, and so is not closed, until all is read.
            let reading = (read.chunks, store);
            let chunks = stream::unfold(reading, async |(mut chunks, store)| {
                let chunk: Result<Bytes, BlobError> = chunks.next().await?;
                Some((chunk, (chunks, store)))
            });
            Ok(BlobRead {
                size: read.size,
                chunks: chunks.boxed(),
            })
        }
        .boxed()
    }

    fn write<'a>(&'a self, to: Option<&'a Object>) -> Answer<'a, Box<dyn BlobWriter>> {
        async move {
            self.reading()?;
            // What would begin in a hold would have begun on the old store.
            drop(self.gate.enter().await.map_err(held)?);
            let store = self.gate.store();
            let inner = self.gate.told(store.write(to).await)?;
            let writer: Box<dyn BlobWriter> = Box::new(Writer {
                inner,
                store,
                gate: self.gate.clone(),
                late: self.late.clone(),
            });
            Ok(writer)
        }
        .boxed()
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> Answer<'a, ()> {
        let written = || objects.iter().cloned().map(Written::Object).collect();
        writes!(self, written(), |store| store.delete_objects(objects))
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> Answer<'a, ()> {
        let written = || vec![Written::Object(to.clone())];
        writes!(self, written(), |store| store.copy_object(from, to))
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> Answer<'a, ()> {
        let written = move || [from, to].map(|object| Written::Object(object.clone())).to_vec();
        writes!(self, written(), |store| store.move_object(from, to))
    }

    fn containers<'a>(&'a self, scope: Option<(&'a str, &'a str)>) -> Answer<'a, Vec<Container>> {
        reads!(self, |store| store.containers(scope))
    }

    fn is_elsewhere(&self) -> bool {
        self.gate.store().is_elsewhere()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move { self.gate.store().close().await }.boxed()
    }
}

/// An object that is being written. Only its commit is a write that a hold waits for: until then there is nothing of it.
struct Writer {
    inner: Box<dyn BlobWriter>,
    /// What it was begun on, which is in use until it has ended.
    store: Arc<dyn BlobStore>,
    gate: Arc<Gate>,
    late: Arc<Mutex<()>>,
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.inner.write(chunk)
    }

    fn commit<'a>(self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        async move {
            let Self {
                inner,
                store,
                gate,
                late,
            } = *self;
            let written = || vec![Written::Object(to.clone())];
            let _running = gate.write(written).await.map_err(held)?;
            let now = gate.store();
            if Arc::ptr_eq(&store, &now) || store.is_elsewhere() {
                return inner.commit(to).await;
            }
            // One after the other: what is sent is what was committed just before.
            let _turn = late.lock().await;
            finish_late(inner, &*store, &*now, to).await
        }
        .boxed()
    }
}

/// Finishes an object that was begun on `store`, from which the data has moved to `now` since.
async fn finish_late(
    writer: Box<dyn BlobWriter>,
    store: &dyn BlobStore,
    now: &dyn BlobStore,
    to: &Object,
) -> Result<(), BlobError> {
    now.container_info(to.container()).await?;
    match store.create_container(to.container()).await {
        Ok(()) | Err(BlobError::ContainerExists) => {}
        Err(error) => return Err(error),
    }
    writer.commit(to).await?;
    let (sent, _) = send_object(store, now, to).await?;
    sent.commit(to).await
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use weft_capabilities::{MemoryBlobStore, conformance};

    use super::super::health::Health;
    use super::*;

    fn memory() -> Arc<dyn BlobStore> {
        Arc::new(MemoryBlobStore::default())
    }

    fn gate(store: Arc<dyn BlobStore>) -> Arc<Gate> {
        Gate::new(store, Health::new("default/shop/pictures".parse().unwrap()))
    }

    fn container() -> Container {
        Container::scoped("default", "shop", "pictures").unwrap()
    }

    async fn put(store: &dyn BlobStore, name: &str, bytes: &'static str) -> Result<(), BlobError> {
        let mut writer = store.write(None).await?;
        writer.write(bytes.into()).await?;
        writer.commit(&container().object(name)?).await
    }

    async fn get(store: &dyn BlobStore, name: &str) -> Result<Vec<u8>, BlobError> {
        let read = store.read(&container().object(name)?, 0..u64::MAX).await?;
        let chunks: Vec<Bytes> = read.chunks.try_collect().await?;
        Ok(chunks.concat())
    }

    /// Two stores with the container, and a gate before the first.
    async fn two() -> (Arc<dyn BlobStore>, Arc<dyn BlobStore>, Arc<Gate>) {
        let (old, new) = (memory(), memory());
        for store in [&old, &new] {
            store.create_container(&container()).await.unwrap();
        }
        (old.clone(), new, gate(old))
    }

    #[tokio::test]
    async fn behind_its_gate_a_store_keeps_the_contract() {
        conformance::blob_store(|| Arc::new(Guarded::new(gate(memory()))), usize::MAX).await;
        conformance::tells_its_containers(&Guarded::new(gate(memory())), usize::MAX).await;
    }

    #[tokio::test]
    async fn while_objects_are_noted_none_that_is_written_deleted_or_moved_is_missed() {
        let gate = gate(memory());
        let store = Guarded::new(gate.clone());
        let object = |name: &str| container().object(name).unwrap();
        assert!(gate.note().await);
        store.create_container(&container()).await.unwrap();
        let noted = || gate.take_notes().keys;
        assert_eq!(noted(), [Written::Container(container())].into());
        put(&store, "a", "1").await.unwrap();
        store.copy_object(&object("a"), &object("b")).await.unwrap();
        store.move_object(&object("a"), &object("c")).await.unwrap();
        store.delete_objects(&[object("d")]).await.unwrap();
        get(&store, "b").await.unwrap();
        let given_up = store.write(Some(&object("e"))).await.unwrap();
        drop(given_up);
        let four = ["a", "b", "c", "d"].map(|name| Written::Object(object(name)));
        assert_eq!(noted(), four.into());
        store.clear(&container()).await.unwrap();
        assert_eq!(noted(), [Written::Container(container())].into());
        store.delete_container(&container()).await.unwrap();
        assert_eq!(noted(), [Written::Container(container())].into());
    }

    #[tokio::test]
    async fn a_hold_does_not_wait_for_an_object_that_is_being_written_and_its_end_waits_for_the_hold() {
        let (old, new, gate) = two().await;
        let store = Guarded::new(gate.clone());
        let object = container().object("o").unwrap();
        let mut begun = store.write(Some(&object)).await.unwrap();
        begun.write("one, ".into()).await.unwrap();
        assert!(gate.hold().await);
        begun.write("two".into()).await.unwrap();
        let commit = begun.commit(&object);
        let begins = put(&store, "later", "3");
        tokio::pin!(commit, begins);
        assert!(futures::poll!(&mut commit).is_pending());
        assert!(futures::poll!(&mut begins).is_pending());
        assert!(
            matches!(get(&store, "o").await, Err(BlobError::NoSuchObject)),
            "reads don't wait"
        );
        gate.replace(new.clone());
        gate.release();
        commit.await.unwrap();
        begins.await.unwrap();
        assert_eq!(get(&*new, "o").await.unwrap(), b"one, two");
        assert_eq!(get(&*new, "later").await.unwrap(), b"3");
        assert!(
            get(&*old, "later").await.is_err(),
            "it was begun on the old store"
        );
        assert_eq!(get(&store, "o").await.unwrap(), b"one, two");
    }

    #[tokio::test]
    async fn an_object_begun_before_a_move_goes_to_containers_as_they_are_after_it() {
        let (_, new, gate) = two().await;
        let store = Guarded::new(gate.clone());
        let (made, gone) = (
            Container::shared("made").unwrap(),
            container().object("o").unwrap(),
        );
        let [mut to_made, mut to_gone] = [store.write(None).await.unwrap(), store.write(None).await.unwrap()];
        to_made.write("1".into()).await.unwrap();
        to_gone.write("2".into()).await.unwrap();
        gate.replace(new.clone());
        store.create_container(&made).await.unwrap();
        store.delete_container(&container()).await.unwrap();
        to_made.commit(&made.object("o").unwrap()).await.unwrap();
        let refused = to_gone.commit(&gone).await;
        assert!(matches!(refused, Err(BlobError::NoSuchContainer)), "{refused:?}");
        assert_eq!(new.object_info(&made.object("o").unwrap()).await.unwrap().size, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_does_not_end_fails_writes_in_time_and_nothing_is_written() {
        let (old, _, gate) = two().await;
        let store = Guarded::new(gate.clone());
        let object = container().object("o").unwrap();
        let begun = store.write(None).await.unwrap();
        assert!(gate.hold().await);
        for refused in [begun.commit(&object).await, put(&store, "o", "1").await] {
            assert!(
                matches!(&refused, Err(BlobError::Unavailable(why)) if why.contains("moved")),
                "{refused:?}"
            );
        }
        gate.end();
        assert!(get(&*old, "o").await.is_err());
        put(&store, "o", "1").await.unwrap();
    }

    #[tokio::test]
    async fn the_old_store_is_in_use_until_what_was_begun_on_it_has_ended() {
        let (old, new, gate) = two().await;
        let store = Guarded::new(gate.clone());
        put(&store, "o", "1").await.unwrap();
        let read = store.read(&container().object("o").unwrap(), 0..1).await.unwrap();
        let writer = store.write(None).await.unwrap();
        drop(gate.replace(new));
        assert_eq!(Arc::strong_count(&old), 3);
        drop(read);
        assert_eq!(Arc::strong_count(&old), 2);
        drop(writer);
        assert_eq!(Arc::strong_count(&old), 1);
    }

    #[tokio::test]
    async fn a_listing_that_a_move_overtakes_is_told_to_begin_again() {
        let (old, new, gate) = two().await;
        let store = Guarded::new(gate.clone());
        for name in ["a", "b", "c"] {
            put(&*old, name, "1").await.unwrap();
            put(&*new, name, "1").await.unwrap();
        }
        let first = Listing {
            limit: 1,
            ..Listing::default()
        };
        let page = store.list_objects(&container(), first).await.unwrap();
        let next = Listing {
            cursor: page.cursor.as_deref(),
            ..Listing::default()
        };
        let rest = store.list_objects(&container(), next).await.unwrap();
        assert_eq!(rest.names, ["b", "c"]);
        gate.replace(new);
        let overtaken = store.list_objects(&container(), next).await;
        assert!(
            matches!(&overtaken, Err(BlobError::Unavailable(why)) if why.contains("list again")),
            "{overtaken:?}"
        );
    }
}
