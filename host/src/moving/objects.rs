//! Objects and containers from one blob store to another.
//!
//! Owns the comparison of two stores container by container, by the objects' bytes, so that a copy that is made again writes
//! only what differs, and what the new store has and the old one has not is deleted. Of an object there is a chunk of each
//! store in memory, and what a writer holds. It must not know why anything is copied.
//!
//! What changes the new store is always waited for: a commit that nobody waits for may come to pass after what is copied next,
//! and bring back what was there before.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, timeout_at};
use weft_capabilities::blob_store::{PAGE_LEN_MAX, send_object};
use weft_capabilities::{BlobError, BlobRead, BlobStore, Container, Listing, Object};

use super::copy::{Copied, Scope, borrowed};
use super::{HOLD_TRY, ROUNDS_MAX};
use crate::provider::blob_store::{Gate, Notes, Written};

/// Objects that are copied at once: each has up to two parts of 5 MiB in memory on its way to a cloud.
const OBJECTS_AT_ONCE: usize = 4;
/// What takes no longer to copy is little enough to copy while writes are held.
const LITTLE: Duration = Duration::from_millis(500);
/// The longest round after which a hold is tried if more rounds don't make it less: half of what a hold has.
const STEADY_MAX: Duration = Duration::from_secs(HOLD_TRY.as_secs() / 2);

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the stores failed.
    #[error("failed to copy {what}")]
    Store {
        /// The object or container.
        what: String,
        /// How it failed.
        #[source]
        source: BlobError,
    },
    /// The new store will never take it.
    #[error("the new backend does not take {what}: {why}")]
    Refused {
        /// The object or container.
        what: String,
        /// What is wrong with it.
        why: BlobError,
    },
    /// There was no time for all.
    #[error("there was too much to copy in the time that there was")]
    TooLong,
}

impl CopyError {
    fn of(what: String, source: BlobError) -> Self {
        match source {
            why @ (BlobError::TooLarge { .. } | BlobError::InvalidName { .. }) => Self::Refused { what, why },
            source => Self::Store { what, source },
        }
    }

    fn of_object(object: &Object, source: BlobError) -> Self {
        let container = object.container().to_string();
        Self::of(
            format!("the object {:?} in the container {container:?}", object.name()),
            source,
        )
    }

    fn of_container(container: &Container, source: BlobError) -> Self {
        Self::of(format!("the container {:?}", container.to_string()), source)
    }
}

/// Makes the containers of `scopes` in `to` what they are in the store behind the gate `from`, while that is written to; if it
/// `is_alone` and notes all that is written, then also what was, for as long as that is not little and gets less.
///
/// # Errors
/// [`CopyError`]; what was copied stays.
pub async fn copy_while_used(
    from: &Gate,
    to: &dyn BlobStore,
    scopes: &[Scope],
    is_alone: bool,
    copied: &Copied,
) -> Result<(), CopyError> {
    let old = from.store();
    copy_all(&*old, to, scopes, copied).await?;
    let mut before = Duration::MAX;
    for _ in 0..ROUNDS_MAX {
        if !is_alone {
            break;
        }
        let (begun, notes) = (Instant::now(), from.take_notes());
        let done = match notes.overflow {
            true => copy_all(&*old, to, scopes, copied).await,
            false => copy_noted(&*old, to, &notes, None, copied).await,
        };
        if let Err(error) = done {
            from.give_back(notes);
            return Err(error);
        }
        let took = begun.elapsed();
        // Where as much is written in a round as was before it, another one is as long.
        let is_steady = took > before / 4 * 3;
        if took <= LITTLE || is_steady && took <= STEADY_MAX {
            break;
        }
        before = took;
    }
    Ok(())
}

/// Makes the containers of `scopes` in `to` what they are in `from`.
///
/// # Errors
/// [`CopyError`]; what was copied stays.
pub async fn copy_all(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    scopes: &[Scope],
    copied: &Copied,
) -> Result<(), CopyError> {
    let copy = Copy {
        from,
        to,
        until: None,
        copied,
    };
    for container in containers(from, to, scopes).await? {
        if copy.has(&container).await? {
            copy.fill(&container).await?;
            copy.drop_stale(&container).await?;
        }
    }
    Ok(())
}

/// Copies what was noted, until `until` at most.
///
/// # Errors
/// [`CopyError`]; what was copied stays.
pub async fn copy_noted(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    notes: &Notes,
    until: Option<Instant>,
    copied: &Copied,
) -> Result<(), CopyError> {
    let copy = Copy {
        from,
        to,
        until,
        copied,
    };
    let mut of: HashMap<&Container, Vec<Object>> = HashMap::new();
    for written in &notes.keys {
        match written {
            Written::Container(container) => {
                of.entry(container).or_default();
            }
            Written::Object(object) => of.entry(object.container()).or_default().push(object.clone()),
        }
    }
    for (container, objects) in of {
        if !copy.has(container).await? {
            continue;
        }
        if notes.keys.contains(&Written::Container(container.clone())) {
            // It may have been cleared, or be another one. What was written since is noted itself.
            copy.drop_stale(container).await?;
        }
        copy.settle(objects, Look::Copy).await?;
    }
    Ok(())
}

/// A container of `scopes` that has an object in `to`, if there is one.
///
/// # Errors
/// The first that either store gives.
pub async fn first_in_use(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    scopes: &[Scope],
) -> Result<Option<Container>, CopyError> {
    for container in containers(from, to, scopes).await? {
        let first = Listing {
            limit: 1,
            ..Listing::default()
        };
        match to.list_objects(&container, first).await {
            Ok(page) if page.names.is_empty() => {}
            Ok(_) => return Ok(Some(container)),
            Err(BlobError::NoSuchContainer) => {}
            Err(error) => return Err(CopyError::of_container(&container, error)),
        }
    }
    Ok(None)
}

/// Those that either has, if the new one can tell.
async fn containers(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    scopes: &[Scope],
) -> Result<HashSet<Container>, CopyError> {
    let mut containers = HashSet::new();
    for scope in scopes {
        let failed = |source| CopyError::Store {
            what: "the list of containers".to_owned(),
            source,
        };
        containers.extend(from.containers(borrowed(scope)).await.map_err(failed)?);
        // One that is elsewhere has no more than what was copied there from the old one.
        if !to.is_elsewhere() {
            containers.extend(to.containers(borrowed(scope)).await.map_err(failed)?);
        }
    }
    Ok(containers)
}

/// What is done with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// They are copied, if they differ.
    Copy,
    /// Only whether the old store has them.
    There,
}

struct Copy<'c> {
    from: &'c dyn BlobStore,
    to: &'c dyn BlobStore,
    until: Option<Instant>,
    copied: &'c Copied,
}

impl Copy<'_> {
    /// What changes nothing, for as long as there is time.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, CopyError> {
        match self.until {
            None => Ok(work.await),
            Some(until) if until <= Instant::now() => Err(CopyError::TooLong),
            Some(until) => timeout_at(until, work).await.map_err(|_| CopyError::TooLong),
        }
    }

    /// Whether the old store has a container; the new one has it then, too, and else has not.
    async fn has(&self, container: &Container) -> Result<bool, CopyError> {
        let failed = |error| CopyError::of_container(container, error);
        match self.within(self.from.container_info(container)).await? {
            Ok(_) => match self.to.create_container(container).await {
                Ok(()) | Err(BlobError::ContainerExists) => Ok(true),
                Err(error) => Err(failed(error)),
            },
            Err(BlobError::NoSuchContainer) => match self.to.delete_container(container).await {
                Ok(()) | Err(BlobError::NoSuchContainer) => Ok(false),
                Err(error) => Err(failed(error)),
            },
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes what the new store lacks of a container, or has otherwise.
    async fn fill(&self, container: &Container) -> Result<(), CopyError> {
        let mut cursor = None;
        loop {
            let page = self.page(self.from, container, cursor).await?;
            self.settle(page.0, Look::Copy).await?;
            cursor = page.1;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Deletes what the new store has of a container and the old one has not.
    async fn drop_stale(&self, container: &Container) -> Result<(), CopyError> {
        let mut cursor = None;
        loop {
            let page = self.page(self.to, container, cursor).await?;
            self.settle(page.0, Look::There).await?;
            cursor = page.1;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Some objects of a container, and where the next ones begin. One that is gone has none: that is noted.
    async fn page(
        &self,
        store: &dyn BlobStore,
        container: &Container,
        cursor: Option<String>,
    ) -> Result<(Vec<Object>, Option<String>), CopyError> {
        let listing = Listing {
            cursor: cursor.as_deref(),
            ..Listing::default()
        };
        let failed = |error| CopyError::of_container(container, error);
        match self.within(store.list_objects(container, listing)).await? {
            Ok(page) => {
                let objects = page.names.iter().map(|name| container.object(name));
                Ok((objects.collect::<Result<_, _>>().map_err(failed)?, page.cursor))
            }
            Err(BlobError::NoSuchContainer) => Ok((Vec::new(), None)),
            Err(error) => Err(failed(error)),
        }
    }

    /// Copies or looks for objects, and deletes those from the new store that the old one has not. After a failure no more are
    /// begun; those that were are waited for.
    async fn settle(&self, objects: Vec<Object>, look: Look) -> Result<(), CopyError> {
        let (failure, gone) = (Mutex::new(None), Mutex::new(Vec::new()));
        let (failed, missing) = (&failure, &gone);
        let each = stream::iter(objects).for_each_concurrent(OBJECTS_AT_ONCE, |object| async move {
            if lock(failed).is_some() {
                return;
            }
            match self.look(&object, look).await {
                Ok(true) => {}
                Ok(false) => lock(missing).push(object),
                Err(error) => {
                    lock(failed).get_or_insert(error);
                }
            }
        });
        each.await;
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let gone = gone.into_inner().unwrap_or_else(PoisonError::into_inner);
        for some in gone.chunks(PAGE_LEN_MAX) {
            match self.to.delete_objects(some).await {
                Ok(()) | Err(BlobError::NoSuchContainer) => {}
                Err(error) => return Err(CopyError::of_object(&some[0], error)),
            }
            self.copied.changed.fetch_add(some.len() as u64, Relaxed);
        }
        Ok(())
    }

    /// Whether the old store has an object.
    async fn look(&self, object: &Object, look: Look) -> Result<bool, CopyError> {
        use BlobError as B;
        let failed = |error| CopyError::of_object(object, error);
        let mine = match self.within(self.from.object_info(object)).await? {
            Ok(info) => info,
            Err(B::NoSuchObject | B::NoSuchContainer) => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        if look == Look::There {
            return Ok(true);
        }
        self.copied.keys.fetch_add(1, Relaxed);
        let is_same = match self.within(self.to.object_info(object)).await? {
            Ok(theirs) => theirs.size == mine.size && self.is_same(object).await?,
            Err(B::NoSuchObject | B::NoSuchContainer) => false,
            Err(error) => return Err(failed(error)),
        };
        if is_same {
            return Ok(true);
        }
        let sent = self.within(send_object(self.from, self.to, object)).await?;
        let (writer, size) = match sent {
            Ok(sent) => sent,
            // Of which store this is told is not said.
            Err(error @ (B::NoSuchObject | B::NoSuchContainer)) => {
                return match self.within(self.from.object_info(object)).await? {
                    Err(B::NoSuchObject | B::NoSuchContainer) => Ok(false),
                    _ => Err(failed(error)),
                };
            }
            Err(error) => return Err(failed(error)),
        };
        writer.commit(object).await.map_err(failed)?;
        self.copied.changed.fetch_add(1, Relaxed);
        self.copied.bytes.fetch_add(size, Relaxed);
        Ok(true)
    }

    /// Whether both stores have the same bytes of an object. Where that can't be read, copying tells why.
    async fn is_same(&self, object: &Object) -> Result<bool, CopyError> {
        let both = async {
            let (mine, theirs) = (
                self.from.read(object, 0..u64::MAX).await?,
                self.to.read(object, 0..u64::MAX).await?,
            );
            are_equal(mine, theirs).await
        };
        Ok(self.within(both).await?.unwrap_or(false))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn are_equal(mut mine: BlobRead, mut theirs: BlobRead) -> Result<bool, BlobError> {
    if mine.size != theirs.size {
        return Ok(false);
    }
    let (mut my_chunk, mut their_chunk) = (Bytes::new(), Bytes::new());
    let mut left = mine.size;
    while left > 0 {
        for (chunk, read) in [(&mut my_chunk, &mut mine), (&mut their_chunk, &mut theirs)] {
            while chunk.is_empty() {
                match read.chunks.try_next().await? {
                    Some(next) => *chunk = next,
                    None => return Ok(false),
                }
            }
        }
        let len = my_chunk.len().min(their_chunk.len());
        if my_chunk[..len] != their_chunk[..len] {
            return Ok(false);
        }
        my_chunk.advance(len);
        their_chunk.advance(len);
        left = left.saturating_sub(len as u64);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use weft_blob::{FsBlobStore, FsOptions};
    use weft_capabilities::MemoryBlobStore;

    use super::*;

    fn scopes() -> Vec<Scope> {
        vec![Some(("default".to_owned(), "shop".to_owned()))]
    }

    fn container(name: &str) -> Container {
        Container::scoped("default", "shop", name).unwrap()
    }

    async fn put(store: &dyn BlobStore, object: &Object, bytes: &[u8]) {
        let mut writer = store.write(Some(object)).await.unwrap();
        for chunk in bytes.chunks(100_000) {
            writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        writer.commit(object).await.unwrap();
    }

    async fn get(store: &dyn BlobStore, object: &Object) -> Vec<u8> {
        let read = store.read(object, 0..u64::MAX).await.unwrap();
        let chunks: Vec<Bytes> = read.chunks.try_collect().await.unwrap();
        chunks.concat()
    }

    /// What an app has: its containers, and their objects.
    type All = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

    async fn all(store: &dyn BlobStore) -> All {
        let mut all = All::new();
        for container in store.containers(Some(("default", "shop"))).await.unwrap() {
            let mut objects = BTreeMap::new();
            let page = store.list_objects(&container, Listing::default()).await.unwrap();
            for name in page.names {
                let bytes = get(store, &container.object(&name).unwrap()).await;
                objects.insert(name, bytes);
            }
            all.insert(container.name().to_owned(), objects);
        }
        all
    }

    async fn have(store: &dyn BlobStore, all: &All) {
        for (name, objects) in all {
            let container = container(name);
            store.create_container(&container).await.unwrap();
            for (name, bytes) in objects {
                put(store, &container.object(name).unwrap(), bytes).await;
            }
        }
    }

    fn any_store() -> impl Strategy<Value = All> {
        let bytes = proptest::collection::vec(0..2_u8, 0..3);
        let objects = proptest::collection::btree_map("[a-c]", bytes, 0..4);
        proptest::collection::btree_map("[a-c]", objects, 0..4)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(test);
    }

    proptest! {
        #[test]
        fn after_a_copy_both_have_the_same_whatever_the_new_one_had(old in any_store(), new in any_store()) {
            run(async {
                let (from, to) = (MemoryBlobStore::default(), MemoryBlobStore::default());
                have(&from, &old).await;
                have(&to, &new).await;
                let other = Container::scoped("default", "other", "a").unwrap();
                to.create_container(&other).await.unwrap();
                let copied = Copied::default();
                copy_all(&from, &to, &scopes(), &copied).await.unwrap();
                assert_eq!(all(&to).await, old);
                assert!(to.container_info(&other).await.is_ok(), "another app's went");
                // The second time there is nothing to write.
                let before = copied.changed.load(Relaxed);
                copy_all(&from, &to, &scopes(), &copied).await.unwrap();
                assert_eq!(copied.changed.load(Relaxed), before);
            });
        }

        #[test]
        fn what_was_noted_is_all_that_has_to_be_copied_again(before in any_store(), after in any_store()) {
            run(async {
                let (from, to) = (MemoryBlobStore::default(), MemoryBlobStore::default());
                have(&from, &before).await;
                have(&to, &before).await;
                let mut notes = Notes::default();
                // From one to the other by what guests can do.
                for (name, objects) in &before {
                    let container = container(name);
                    match after.get(name) {
                        None => {
                            from.delete_container(&container).await.unwrap();
                            notes.keys.insert(Written::Container(container));
                        }
                        Some(kept) if kept.is_empty() => {
                            from.clear(&container).await.unwrap();
                            notes.keys.insert(Written::Container(container));
                        }
                        Some(kept) => {
                            for name in objects.keys().filter(|name| !kept.contains_key(*name)) {
                                let object = container.object(name).unwrap();
                                from.delete_objects(std::slice::from_ref(&object)).await.unwrap();
                                notes.keys.insert(Written::Object(object));
                            }
                        }
                    }
                }
                for (name, objects) in &after {
                    let container = container(name);
                    if !before.contains_key(name) {
                        from.create_container(&container).await.unwrap();
                        notes.keys.insert(Written::Container(container.clone()));
                    }
                    for (name, bytes) in objects {
                        let object = container.object(name).unwrap();
                        put(&from, &object, bytes).await;
                        notes.keys.insert(Written::Object(object));
                    }
                }
                copy_noted(&from, &to, &notes, None, &Copied::default()).await.unwrap();
                assert_eq!(all(&to).await, after);
            });
        }
    }

    #[tokio::test]
    async fn objects_of_several_pages_and_large_ones_are_copied_and_only_what_differs_is_written_again() {
        let (from, to) = (MemoryBlobStore::default(), MemoryBlobStore::default());
        let container = container("a");
        for store in [&from, &to] {
            store.create_container(&container).await.unwrap();
        }
        let large: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
        let object = |name: &str| container.object(name).unwrap();
        put(&from, &object("large"), &large).await;
        for n in 0..2_345 {
            put(&from, &object(&format!("small-{n}")), b"v").await;
            put(&to, &object(&format!("stale-{n}")), b"v").await;
        }
        assert_eq!(
            first_in_use(&from, &to, &scopes()).await.unwrap(),
            Some(container.clone())
        );
        let copied = Copied::default();
        copy_all(&from, &to, &scopes(), &copied).await.unwrap();
        assert!(to.object_info(&object("small-2344")).await.is_ok());
        assert!(get(&to, &object("large")).await == large);
        assert!(to.object_info(&object("stale-2344")).await.is_err());
        assert_eq!(copied.changed.load(Relaxed), 1 + 2 * 2_345);
        // As long as before, and its last byte is another.
        let mut other = large.clone();
        other[4_999_999] ^= 1;
        put(&from, &object("large"), &other).await;
        copy_all(&from, &to, &scopes(), &copied).await.unwrap();
        assert!(get(&to, &object("large")).await == other);
        assert_eq!(copied.changed.load(Relaxed), 2 + 2 * 2_345);
    }

    #[tokio::test]
    async fn an_object_that_the_new_store_does_not_take_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let from = MemoryBlobStore::default();
        let options = FsOptions {
            object_size_max: 1_000,
        };
        let to = FsBlobStore::open(folder.path(), options).unwrap();
        from.create_container(&container("a")).await.unwrap();
        put(&from, &container("a").object("b/c").unwrap(), &[1; 1_001]).await;
        let refused = copy_all(&from, &to, &scopes(), &Copied::default())
            .await
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the new backend does not take the object \"b/c\" in the container \"default/shop/a\": the object is too \
             large: 1001, at most 1000"
        );
        assert!(matches!(refused, CopyError::Refused { .. }));
    }

    #[tokio::test]
    async fn where_no_time_is_left_nothing_is_begun() {
        let (from, to) = (MemoryBlobStore::default(), MemoryBlobStore::default());
        have(
            &from,
            &[("a".to_owned(), BTreeMap::from([("o".to_owned(), vec![1])]))].into(),
        )
        .await;
        let notes = Notes {
            keys: [Written::Object(container("a").object("o").unwrap())].into(),
            overflow: false,
        };
        let late = copy_noted(&from, &to, &notes, Some(Instant::now()), &Copied::default()).await;
        assert!(matches!(late, Err(CopyError::TooLong)), "{late:?}");
        assert!(all(&to).await.is_empty());
    }
}
