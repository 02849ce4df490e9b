//! Blob store: objects of any size under names, in containers.
//!
//! Owns the trait, its limits and its errors. Names are checked when a [`Container`] or an [`Object`] is made, so that a
//! backend only sees good ones; how it writes them down is its own.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// The longest name of a container, in bytes.
pub const CONTAINER_LEN_MAX: usize = 128;
/// The longest name of an object, in bytes: S3's keys have 1,024, and its scope and container come before it.
pub const OBJECT_LEN_MAX: usize = 512;
/// The largest object, in bytes: what S3 copies by itself.
pub const OBJECT_SIZE_MAX: u64 = 5 << 30;
/// The largest chunk that is written or read at once, in bytes.
pub const CHUNK_LEN_MAX: usize = 1 << 20;
/// Names in one page of a listing, and objects deleted at once, at most: what one request to S3 has.
pub const PAGE_LEN_MAX: usize = 1_000;
/// Containers that a backend tells at once, at most: a megabyte or two of names.
pub const CONTAINERS_LEN_MAX: usize = 10_000;

/// Where objects live. Cheap to clone.
///
/// A scoped container belongs to one app, so that two apps on one backend don't meet; a shared one belongs to whoever
/// names it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Container(Arc<ContainerName>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ContainerName {
    scope: Option<(String, String)>,
    name: String,
}

impl Container {
    /// The container `name` of one app.
    ///
    /// # Errors
    /// [`BlobError::InvalidName`].
    pub fn scoped(namespace: &str, app: &str, name: &str) -> Result<Self, BlobError> {
        for part in [namespace, app] {
            check_name("scope", part, CONTAINER_LEN_MAX)?;
        }
        Self::of(Some((namespace.to_owned(), app.to_owned())), name)
    }

    /// The container `name` of all apps whose links say `shared`.
    ///
    /// # Errors
    /// [`BlobError::InvalidName`].
    pub fn shared(name: &str) -> Result<Self, BlobError> {
        Self::of(None, name)
    }

    fn of(scope: Option<(String, String)>, name: &str) -> Result<Self, BlobError> {
        check_name("container", name, CONTAINER_LEN_MAX)?;
        let name = name.to_owned();
        Ok(Self(Arc::new(ContainerName { scope, name })))
    }

    /// Namespace and app; `None` if it is shared.
    pub fn scope(&self) -> Option<(&str, &str)> {
        let (namespace, app) = self.0.scope.as_ref()?;
        Some((namespace, app))
    }

    /// Its name within its scope.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The object `name` in it.
    ///
    /// # Errors
    /// [`BlobError::InvalidName`].
    pub fn object(&self, name: &str) -> Result<Object, BlobError> {
        check_name("object", name, OBJECT_LEN_MAX)?;
        Ok(Object {
            container: self.clone(),
            name: name.into(),
        })
    }
}

impl fmt::Display for Container {
    /// `namespace/app/name`, or the bare name of a shared container.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((namespace, app)) = self.scope() {
            write!(f, "{namespace}/{app}/")?;
        }
        f.write_str(self.name())
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Container({self})")
    }
}

/// The place of an object. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    container: Container,
    name: Arc<str>,
}

impl Object {
    /// What it is in.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn check_name(what: &'static str, name: &str, len_max: usize) -> Result<(), BlobError> {
    if name.is_empty() || name.len() > len_max {
        return Err(BlobError::InvalidName { what, len_max });
    }
    Ok(())
}

/// Whether a chunk may be written after `written` bytes of an object that may have `size_max`.
///
/// # Errors
/// [`BlobError::TooLarge`].
pub fn check_chunk(written: u64, chunk: &[u8], size_max: u64) -> Result<(), BlobError> {
    at_most("chunk", chunk.len() as u64, CHUNK_LEN_MAX as u64)?;
    at_most("object", written.saturating_add(chunk.len() as u64), size_max)
}

/// Whether so many objects may be deleted at once.
///
/// # Errors
/// [`BlobError::TooLarge`].
pub fn check_batch(objects: &[Object]) -> Result<(), BlobError> {
    at_most("number of objects", objects.len() as u64, PAGE_LEN_MAX as u64)
}

/// Counts containers and refuses the one that goes over [`CONTAINERS_LEN_MAX`].
///
/// # Errors
/// [`BlobError::TooLarge`].
pub fn check_containers(len: usize) -> Result<(), BlobError> {
    at_most("number of containers", len as u64, CONTAINERS_LEN_MAX as u64)
}

fn at_most(what: &'static str, len: u64, len_max: u64) -> Result<(), BlobError> {
    if len > len_max {
        return Err(BlobError::TooLarge { what, len, len_max });
    }
    Ok(())
}

/// The part of an object of `size` bytes that `range` asks for: its end may lie beyond the object's.
///
/// # Errors
/// [`BlobError::OutOfRange`] if it begins beyond the object's end, or ends before it begins.
pub fn within(range: &Range<u64>, size: u64) -> Result<Range<u64>, BlobError> {
    if range.start > size || range.end < range.start {
        return Err(BlobError::OutOfRange {
            start: range.start,
            end: range.end,
            size,
        });
    }
    Ok(range.start..range.end.min(size))
}

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerInfo {
    /// When it was made.
    pub created_at: SystemTime,
}

/// What is known of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its bytes.
    pub size: u64,
    /// When it was written.
    pub created_at: SystemTime,
}

/// Which names are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Listing<'a> {
    /// What they begin with.
    pub prefix: &'a str,
    /// The cursor of the page before.
    pub cursor: Option<&'a str>,
    /// How many, at most; no more than [`PAGE_LEN_MAX`] anyway.
    pub limit: usize,
}

impl Default for Listing<'_> {
    fn default() -> Self {
        Self {
            prefix: "",
            cursor: None,
            limit: PAGE_LEN_MAX,
        }
    }
}

/// Some names of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectPage {
    /// The names, in an order of the backend's.
    pub names: Vec<String>,
    /// What to ask the next page with, if more may follow. It is the backend's own word.
    pub cursor: Option<String>,
}

/// An object, or a part of one, that is being read. What it reads stays as it was, whatever becomes of the object.
pub struct BlobRead {
    /// The bytes that come.
    pub size: u64,
    /// The bytes, in chunks of at most [`CHUNK_LEN_MAX`]. Ends after an error. Nothing is read ahead of who asks but a
    /// bounded part.
    pub chunks: BoxStream<'static, Result<Bytes, BlobError>>,
}

/// An object that is being written. Dropped, it leaves nothing.
pub trait BlobWriter: Send {
    /// Adds a chunk of at most [`CHUNK_LEN_MAX`]; answers when there is room for the next. After an error the object
    /// can't be committed. A write whose future is dropped ends the object, too.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Makes what was written the object `to`, all at once, in place of what was there. Answers when it is as durable as
    /// the backend makes it. `to` is what [`BlobStore::write`] was told, if it was. If the future is dropped it may still
    /// happen.
    fn commit<'a>(self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>>;
}

/// A blob store.
///
/// Every operation may be called from any number of tasks at once. An object is seen whole or not at all: a read gets
/// the bytes of one write. What is done in a container that is not there is [`BlobError::NoSuchContainer`].
pub trait BlobStore: Send + Sync + 'static {
    /// Makes an empty container. [`BlobError::ContainerExists`] if it is there.
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>>;

    /// Takes a container away, with all objects in it.
    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>>;

    /// What is known of a container.
    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>>;

    /// A page of names. An object that is there from the first page to the last is listed exactly once, whatever is
    /// written meanwhile.
    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>>;

    /// Deletes all objects that are there when it begins. What is written meanwhile may go or stay.
    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>>;

    /// What is known of an object.
    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>>;

    /// Reads a part of an object. The range may end beyond the object, but not begin there ([`within`]).
    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>>;

    /// Starts to write an object. Where it will be committed may be told now: then a backend can send it there as it
    /// comes; else it keeps it aside, on disk if it is large.
    fn write<'a>(&'a self, to: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>>;

    /// Deletes some objects, at most [`PAGE_LEN_MAX`]. One that is not there is no error. Not atomic: a call that fails
    /// may have deleted some.
    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>>;

    /// Makes `to` the same as `from` is.
    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>>;

    /// Makes `to` what `from` is, and takes `from` away. A backend that can't do it as one copies first, so that both
    /// may be there if it fails.
    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>>;

    /// The containers of one app (namespace and name), or with `None` the shared ones, in any order; empty ones too. One that
    /// is made or deleted meanwhile may be told or not. At most [`CONTAINERS_LEN_MAX`].
    ///
    /// For who copies a store. One that is elsewhere can't tell, and is [`BlobError::Unavailable`].
    fn containers<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Container>, BlobError>>;

    /// Whether it is another process that has the store open. That one sees to what was begun before its store moves.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Refuses what comes after, and ends when all that was accepted is durable. May be called twice.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Sends an object of one store to the same place in another, where it is once the writer is committed. Gives its bytes,
/// too. Of the object there is a chunk in memory, and what the writer holds. Dropped, it leaves nothing.
///
/// # Errors
/// The first that either store gives.
pub async fn send_object(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    object: &Object,
) -> Result<(Box<dyn BlobWriter>, u64), BlobError> {
    let mut read = from.read(object, 0..u64::MAX).await?;
    let mut writer = to.write(Some(object)).await?;
    while let Some(chunk) = read.chunks.try_next().await? {
        writer.write(chunk).await?;
    }
    Ok((writer, read.size))
}

/// Why an operation on objects failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such container.
    #[error("no such container: create it first")]
    NoSuchContainer,
    /// The container is there already.
    #[error("the container exists already")]
    ContainerExists,
    /// There is no such object.
    #[error("no such object")]
    NoSuchObject,
    /// A name can't be one.
    #[error("the name of the {what} is invalid: it has 1 to {len_max} bytes")]
    InvalidName {
        /// What it names.
        what: &'static str,
        /// How long it may be.
        len_max: usize,
    },
    /// A part was asked for that the object does not have.
    #[error("the range from {start} to {end} is not within the {size} bytes of the object")]
    OutOfRange {
        /// Where the range begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// What the object has.
        size: u64,
    },
    /// The caller may not do this.
    #[error("access to the container is denied")]
    AccessDenied,
    /// Something is over its limit.
    #[error("the {what} is too large: {len}, at most {len_max}")]
    TooLarge {
        /// What it is: a chunk, an object.
        what: &'static str,
        /// How large it is.
        len: u64,
        /// How large it may be.
        len_max: u64,
    },
    /// The backend holds as much as it can.
    #[error("the store is full: delete objects or give it more room")]
    Full,
    /// Too much is going on; try again later.
    #[error("the store is overloaded: too many objects are being written; try again later")]
    Overloaded,
    /// The backend was closed.
    #[error("the store is closed")]
    Closed,
    /// The backend can't be reached or gave up. A write may have happened.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The backend failed. A write may have happened.
    #[error("the store failed")]
    Backend(#[source] Box<dyn Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_reads_as_a_path() {
        let scoped = Container::scoped("default", "shop", "pictures").unwrap();
        assert_eq!(scoped.to_string(), "default/shop/pictures");
        assert_eq!(Container::shared("pictures").unwrap().to_string(), "pictures");
    }

    #[test]
    fn names_have_a_byte_and_a_bound() {
        let container = Container::shared(&"c".repeat(CONTAINER_LEN_MAX)).unwrap();
        container.object(&"o".repeat(OBJECT_LEN_MAX)).unwrap();
        for refused in [
            Container::shared("").err(),
            Container::shared(&"c".repeat(CONTAINER_LEN_MAX + 1)).err(),
            Container::scoped("", "shop", "c").err(),
            container.object("").err(),
            container.object(&"o".repeat(OBJECT_LEN_MAX + 1)).err(),
        ] {
            assert!(
                matches!(refused, Some(BlobError::InvalidName { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_range_is_cut_at_the_end_and_may_not_begin_beyond_it() {
        assert_eq!(within(&(0..u64::MAX), 5).unwrap(), 0..5);
        assert_eq!(within(&(2..4), 5).unwrap(), 2..4);
        assert_eq!(within(&(5..9), 5).unwrap(), 5..5);
        assert_eq!(within(&(0..0), 0).unwrap(), 0..0);
        for range in [6..9, Range { start: 3, end: 2 }] {
            assert!(matches!(within(&range, 5), Err(BlobError::OutOfRange { .. })));
        }
    }
}
