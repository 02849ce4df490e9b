//! Blob stores in clouds: S3 and what speaks its protocol, Google Cloud Storage, Azure.
//!
//! Owns the keys and how large objects go there in parts. Crate `object_store` speaks to the servers, and asks
//! `cloud/client.rs` for its connections. All of it runs on tasks of the store, never on the caller's stack, which may be
//! a guest's.
//!
//! ```text
//! PREFIX/apps/NAMESPACE/APP/CONTAINER/container    an empty object: the container is there
//! PREFIX/apps/NAMESPACE/APP/CONTAINER/o/NAME       names as in `name.rs`
//! PREFIX/shared/CONTAINER/...                      containers that apps share
//! ```

mod client;
mod error;
mod key;
mod open;
mod write;

use std::io;
use std::ops::Range;
use std::path::Path as Folder;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use weft_capabilities::blob_store::{OBJECT_SIZE_MAX, PAGE_LEN_MAX, check_batch, check_containers, within};
use weft_capabilities::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage,
};
use weft_http::HttpClient;

use crate::staging::Staging;

pub use self::open::{CloudOptions, OpenError, Service};

/// Objects that are written at once, at most. Each holds two parts.
const WRITERS_MAX: usize = 32;
/// Containers that are asked for at once whether they are there.
const LOOKS_AT_ONCE: usize = 8;
/// Chunks of an object that wait for who reads it; each is what came in one piece from the connection.
const CHUNKS_AHEAD: usize = 4;

/// The cursor behind a page that has only the object whose key is all that is asked for. No server gives such a one.
const AFTER_EXACT: &str = ".";

/// What a cloud's client can do.
trait Cloud: ObjectStore + PaginatedListStore {}
impl<T: ObjectStore + PaginatedListStore> Cloud for T {}

/// A blob store in a cloud.
pub struct CloudBlobStore(Arc<Inner>);

struct Inner {
    cloud: Box<dyn Cloud>,
    prefix: String,
    /// Its listings leave out an object whose key is all that is asked for.
    omits_exact: bool,
    /// For what is too large for memory and goes nowhere yet.
    staging: Staging,
    object_size_max: u64,
    http: HttpClient,
    writers: Arc<Semaphore>,
    runtime: Handle,
    tasks: TaskTracker,
    closed: AtomicBool,
}

impl CloudBlobStore {
    /// Opens a store, whose large objects pass through `folder` where they must. Nothing is connected yet: a server that
    /// is away is an error of each operation. Blocks; connections live on the runtime that this is called on.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: &CloudOptions, folder: &Folder) -> Result<Self, OpenError> {
        let http = client::http(options.ca_file.as_deref())?;
        let staging = Staging::open(&folder.join("staging")).map_err(|source| OpenError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
        Ok(Self(Arc::new(Inner {
            cloud: open::cloud(options, client::Connector(http.clone()))?,
            prefix: key::prefix(&options.prefix),
            // Crate object_store takes it for a folder, which some accounts have.
            omits_exact: matches!(options.service, Service::Azure { .. }),
            staging,
            object_size_max: options.object_size_max.min(OBJECT_SIZE_MAX),
            http,
            writers: Arc::new(Semaphore::new(WRITERS_MAX)),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            closed: AtomicBool::new(false),
        })))
    }

    /// Runs an operation on a task, which ends with the future.
    fn run<'a, T: Send + 'static, F>(
        &'a self,
        operation: impl FnOnce(Arc<Inner>) -> F,
    ) -> BoxFuture<'a, Result<T, BlobError>>
    where
        F: Future<Output = Result<T, BlobError>> + Send + 'static,
    {
        if self.0.closed.load(Ordering::Acquire) {
            return future::err(BlobError::Closed).boxed();
        }
        self.0.run(operation(self.0.clone())).boxed()
    }
}

impl Inner {
    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, BlobError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, BlobError>> + Send + 'static {
        let task = AbortOnDropHandle::new(self.tasks.spawn_on(work, &self.runtime));
        task.map(|ended| ended.unwrap_or_else(|error| Err(BlobError::Backend(Box::new(error)))))
    }

    /// When a container was made.
    async fn container(&self, container: &Container) -> Result<SystemTime, BlobError> {
        let marker = key::marker(&self.prefix, container)?;
        match self.cloud.head(&marker).await {
            Ok(found) => Ok(found.last_modified.into()),
            Err(object_store::Error::NotFound { .. }) => Err(BlobError::NoSuchContainer),
            Err(error) => Err(error::of(error)),
        }
    }

    /// What an error about `object` means: what is not there may be the object or the container.
    async fn about(&self, object: &Object, error: object_store::Error) -> BlobError {
        match error::of(error) {
            BlobError::NoSuchObject => match self.container(object.container()).await {
                Ok(_) => BlobError::NoSuchObject,
                Err(error) => error,
            },
            error => error,
        }
    }

    async fn info(&self, object: &Object) -> Result<ObjectInfo, BlobError> {
        match self.cloud.head(&key::object(&self.prefix, object)?).await {
            Ok(found) => Ok(ObjectInfo {
                size: found.size,
                created_at: found.last_modified.into(),
            }),
            Err(error) => Err(self.about(object, error).await),
        }
    }

    async fn page(
        &self,
        container: &Container,
        prefix: &str,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<ObjectPage, BlobError> {
        let folder = key::folder(&self.prefix, container)?;
        let asked = key::listed(&folder, prefix);
        let mut first = match cursor {
            None if self.omits_exact => self.exact(container, prefix, &asked).await?,
            _ => None,
        };
        if first.is_some() && limit == 1 {
            let names = first.into_iter().collect();
            return Ok(ObjectPage {
                names,
                cursor: Some(AFTER_EXACT.to_owned()),
            });
        }
        let mut cursor = cursor.filter(|cursor| cursor != AFTER_EXACT);
        loop {
            let options = PaginatedListOptions {
                max_keys: Some(limit - usize::from(first.is_some())),
                page_token: cursor,
                ..PaginatedListOptions::default()
            };
            let page = self
                .cloud
                .list_paginated(Some(&asked), options)
                .await
                .map_err(error::of)?;
            cursor = page.page_token;
            let found = page.result.objects.iter();
            // What is no name of ours was put there by someone else.
            let found = found
                .filter_map(|found| key::name(&folder, found.location.as_ref()))
                .filter(|name| name.starts_with(prefix));
            let names: Vec<_> = first.take().into_iter().chain(found).collect();
            if cursor.is_none() || !names.is_empty() {
                return Ok(ObjectPage { names, cursor });
            }
        }
    }

    /// `name`, if that is an object whose key is `asked`.
    async fn exact(
        &self,
        container: &Container,
        name: &str,
        asked: &str,
    ) -> Result<Option<String>, BlobError> {
        // What is empty or too long is the name of none.
        let key = container
            .object(name)
            .and_then(|object| key::object(&self.prefix, &object));
        let Some(key) = key.ok().filter(|key| key.as_ref() == asked) else {
            return Ok(None);
        };
        match self.cloud.head(&key).await {
            Ok(_) => Ok(Some(name.to_owned())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error::of(error)),
        }
    }

    /// The containers of one app, or the shared ones, by what is told of their keys.
    async fn containers(&self, scope: Option<(&str, &str)>) -> Result<Vec<Container>, BlobError> {
        // A name that is too long for one part of a key goes on behind the next slash.
        let (mut folders, mut containers) = (vec![key::scope(&self.prefix, scope)], Vec::new());
        let base = folders[0].clone();
        while let Some(folder) = folders.pop() {
            let mut cursor = None;
            loop {
                let options = PaginatedListOptions {
                    delimiter: Some("/".into()),
                    max_keys: Some(PAGE_LEN_MAX),
                    page_token: cursor,
                    ..PaginatedListOptions::default()
                };
                let page = self.cloud.list_paginated(Some(&folder), options).await;
                let page = page.map_err(error::of)?;
                for found in page.result.common_prefixes {
                    match key::step(&base, found.as_ref()) {
                        key::Step::Part => folders.push(format!("{found}/")),
                        key::Step::Whole(name) => containers.extend(crate::name::container(scope, &name)),
                        key::Step::Foreign => {}
                    }
                }
                check_containers(containers.len() + folders.len())?;
                cursor = page.page_token;
                if cursor.is_none() {
                    break;
                }
            }
        }
        // What is left of one that is being deleted is none.
        stream::iter(containers)
            .map(|container| async move {
                match self.container(&container).await {
                    Ok(_) => Ok(Some(container)),
                    Err(BlobError::NoSuchContainer) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_filter_map(future::ok)
            .try_collect()
            .await
    }

    async fn delete(&self, keys: Vec<Path>) -> Result<(), BlobError> {
        let keys = stream::iter(keys.into_iter().map(Ok)).boxed();
        let mut deleted = self.cloud.delete_stream(keys);
        while let Some(deleted) = deleted.next().await {
            match deleted {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error::of(error)),
            }
        }
        Ok(())
    }

    async fn clear(&self, container: &Container) -> Result<(), BlobError> {
        let mut cursor = None;
        loop {
            let page = self.page(container, "", cursor, PAGE_LEN_MAX).await?;
            let keys = page
                .names
                .iter()
                .map(|name| key::object(&self.prefix, &container.object(name)?));
            self.delete(keys.collect::<Result<_, _>>()?).await?;
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn copy(&self, from: &Object, to: &Object) -> Result<(), BlobError> {
        if from == to {
            // Which S3 refuses.
            return self.info(from).await.map(drop);
        }
        self.container(to.container()).await?;
        let keys = (key::object(&self.prefix, from)?, key::object(&self.prefix, to)?);
        match self.cloud.copy(&keys.0, &keys.1).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.about(from, error).await),
        }
    }

    /// Starts to read; gives the size of the part and what comes of it.
    async fn open(&self, object: &Object, range: Range<u64>) -> Result<BlobRead, BlobError> {
        if range.start >= range.end {
            return self.nothing(object, &range).await;
        }
        let asked = match (range.start, range.end) {
            (0, u64::MAX) => None,
            (start, u64::MAX) => Some(GetRange::Offset(start)),
            _ => Some(GetRange::Bounded(range.clone())),
        };
        let is_part = asked.is_some();
        let options = GetOptions {
            range: asked,
            ..GetOptions::default()
        };
        match self
            .cloud
            .get_opts(&key::object(&self.prefix, object)?, options)
            .await
        {
            Ok(found) => Ok(BlobRead {
                size: found.range.end - found.range.start,
                chunks: found.into_stream().map_err(error::of).boxed(),
            }),
            Err(error) => match self.about(object, error).await {
                // Servers refuse a range that begins at the object's end, or beyond it.
                BlobError::Backend(error) if is_part => match self.nothing(object, &range).await {
                    Ok(_) if self.info(object).await?.size > range.start => Err(BlobError::Backend(error)),
                    read => read,
                },
                error => Err(error),
            },
        }
    }

    /// What a range without bytes reads.
    async fn nothing(&self, object: &Object, range: &Range<u64>) -> Result<BlobRead, BlobError> {
        let size = self.info(object).await?.size;
        within(range, size)?;
        Ok(BlobRead {
            size: 0,
            chunks: stream::empty().boxed(),
        })
    }
}

impl BlobStore for CloudBlobStore {
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        let container = container.clone();
        self.run(async move |inner: Arc<Inner>| {
            // Not every server knows conditions; those that do let one of two win.
            match inner.container(&container).await {
                Ok(_) => return Err(BlobError::ContainerExists),
                Err(BlobError::NoSuchContainer) => {}
                Err(error) => return Err(error),
            }
            let marker = key::marker(&inner.prefix, &container)?;
            let made = inner
                .cloud
                .put_opts(&marker, PutPayload::new(), PutMode::Create.into());
            made.await.map(drop).map_err(error::of)
        })
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        let container = container.clone();
        self.run(async move |inner: Arc<Inner>| {
            inner.container(&container).await?;
            // The marker last: what is left, if this fails, can be deleted again.
            inner.clear(&container).await?;
            inner.delete(vec![key::marker(&inner.prefix, &container)?]).await
        })
    }

    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>> {
        let container = container.clone();
        self.run(async move |inner: Arc<Inner>| {
            let created_at = inner.container(&container).await?;
            Ok(ContainerInfo { created_at })
        })
    }

    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>> {
        let (container, prefix) = (container.clone(), listing.prefix.to_owned());
        let (cursor, limit) = (
            listing.cursor.map(str::to_owned),
            listing.limit.clamp(1, PAGE_LEN_MAX),
        );
        self.run(async move |inner: Arc<Inner>| {
            let page = inner.page(&container, &prefix, cursor, limit);
            future::try_join(inner.container(&container), page)
                .await
                .map(|(_, page)| page)
        })
    }

    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        let container = container.clone();
        self.run(async move |inner: Arc<Inner>| {
            inner.container(&container).await?;
            inner.clear(&container).await
        })
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>> {
        let object = object.clone();
        self.run(async move |inner: Arc<Inner>| inner.info(&object).await)
    }

    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>> {
        let object = object.clone();
        self.run(async move |inner: Arc<Inner>| {
            let mut read = inner.open(&object, range).await?;
            let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
            let pump = async move {
                while let Some(chunk) = read.chunks.next().await {
                    if sender.send(chunk).await.is_err() {
                        break;
                    }
                }
            };
            let pump = AbortOnDropHandle::new(inner.tasks.spawn_on(pump, &inner.runtime));
            let chunks = stream::unfold((receiver, pump), async |(mut receiver, pump)| {
                let chunk: Result<Bytes, BlobError> = receiver.recv().await?;
                Some((chunk, (receiver, pump)))
            });
            Ok(BlobRead {
                size: read.size,
                chunks: chunks.boxed(),
            })
        })
    }

    fn write<'a>(&'a self, to: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        let to = to.cloned();
        self.run(async move |inner: Arc<Inner>| write::Writer::start(inner, to).await)
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>> {
        let objects = objects.to_vec();
        self.run(async move |inner: Arc<Inner>| {
            check_batch(&objects)?;
            let mut containers: Vec<_> = objects.iter().map(Object::container).collect();
            containers.dedup();
            future::try_join_all(containers.into_iter().map(|container| inner.container(container))).await?;
            let keys = objects.iter().map(|object| key::object(&inner.prefix, object));
            inner.delete(keys.collect::<Result<_, _>>()?).await
        })
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        let (from, to) = (from.clone(), to.clone());
        self.run(async move |inner: Arc<Inner>| inner.copy(&from, &to).await)
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        let (from, to) = (from.clone(), to.clone());
        self.run(async move |inner: Arc<Inner>| {
            inner.copy(&from, &to).await?;
            if from == to {
                return Ok(());
            }
            inner.delete(vec![key::object(&inner.prefix, &from)?]).await
        })
    }

    fn containers<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Container>, BlobError>> {
        let scope = scope.map(|(namespace, app)| (namespace.to_owned(), app.to_owned()));
        self.run(async move |inner: Arc<Inner>| {
            let scope = scope.as_ref().map(|(namespace, app)| (&**namespace, &**app));
            inner.containers(scope).await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.0.closed.store(true, Ordering::Release);
            self.0.tasks.close();
            self.0.tasks.wait().await;
            self.0.http.close().await;
        }
        .boxed()
    }
}

/// Runs what blocks, on a file that is being written.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(crate::fs::failed)
}
