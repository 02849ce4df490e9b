//! Objects in NATS's object store.
//!
//! A container is a bucket ([`name`]), and an object is what all clients of NATS take for one ([`bucket`]): chunks, and what
//! is known of them, which is said last and at once. It is said only if the last that was said is still that which was
//! read; so whoever replaces or deletes an object knows which one, and its bytes, which nobody finds any more, are purged
//! a while later ([`waste`]). Chunks have their place in the object with them: so a part is found without reading what is
//! before it ([`read`]).

mod bucket;
mod name;
mod read;
mod waste;
mod write;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream as streams};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_capabilities::blob_store::{
    CONTAINERS_LEN_MAX, OBJECT_SIZE_MAX, PAGE_LEN_MAX, check_batch, check_containers,
};
use weft_capabilities::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage,
};

use self::bucket::{Found, Last};
use self::name::Bucket;
use self::read::Reader;
use self::waste::{Waste, WasteTask};
use self::write::{Upload, Writer};
use crate::connect::{NatsOptions, Source};
use crate::error::{OpenError, Reason, Unanswered};
use crate::jetstream::{self, Failure, Storage, code};
use crate::link::{Connection, Link};

/// What it is if not told otherwise.
const PREFIX_DEFAULT: &str = "weft";
/// How long the bytes of what was replaced or deleted stay for who reads them, if not told otherwise: longer than nearly
/// every invocation.
const GRACE_DEFAULT: Duration = Duration::from_secs(60);

/// Objects that are written at once, at most. Each has up to 1.5 MiB in memory: what is gathered, and what is on its way.
const WRITERS_MAX: usize = 32;
/// Objects that are read at once, at most. Each has up to two chunks in memory.
const READERS_MAX: usize = 128;
/// Other requests on their way, at most.
const REQUESTS_MAX: usize = 256;
/// How long a reader or writer waits until another one ends.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Objects that are deleted at once by one call.
const DELETES_AT_ONCE: usize = 16;
/// Tries to replace an object that others replace too. Each time that one fails, another succeeded.
const TRIES_MAX: u32 = 64;
/// What the subjects of all buckets match.
const BUCKETS: &str = "$O.>";

/// Where objects are, and how buckets are made. One that is there stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectOptions {
    /// What the names of buckets begin with.
    pub prefix: String,
    /// Servers that have a copy.
    pub replicas: usize,
    /// Where they have it.
    pub storage: Storage,
    /// The largest object, in bytes; no more than [`OBJECT_SIZE_MAX`] anyway.
    pub object_size_max: u64,
    /// How long the bytes of what was replaced or deleted stay for who reads them.
    pub grace: Duration,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        Self {
            prefix: PREFIX_DEFAULT.to_owned(),
            replicas: 1,
            storage: Storage::default(),
            object_size_max: OBJECT_SIZE_MAX,
            grace: GRACE_DEFAULT,
        }
    }
}

/// A blob store on NATS.
pub struct NatsBlobStore(Arc<Inner>);

struct Inner {
    link: Arc<Link<()>>,
    options: ObjectOptions,
    /// For what is too large for memory and goes nowhere yet.
    folder: PathBuf,
    requests: Semaphore,
    readers: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    waste: Waste,
    runtime: Handle,
    /// What was accepted and is not over.
    tasks: TaskTracker,
    closed: AtomicBool,
    /// Ends what takes waste away.
    closing: CancellationToken,
    waste_task: TaskTracker,
}

impl NatsBlobStore {
    /// Starts to connect. A server that is away is no error here, but one of each operation, until it comes. Large
    /// objects of which it is not known yet where they go pass through `folder`. Blocks.
    ///
    /// The connection lives on the runtime that this is called on, whoever uses it.
    ///
    /// # Errors
    /// [`OpenError`]: an address, the certificates, the prefix or the folder can't be used.
    pub fn open(nats: &NatsOptions, options: ObjectOptions, folder: &Path) -> Result<Self, OpenError> {
        jetstream::check_name(&options.prefix)?;
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
        let source = Source::new(nats)?;
        // Nothing is asked of JetStream yet: buckets are made when they are told to be.
        let set_up = Box::new(|_: Connection| async { Ok::<(), Reason>(()) }.boxed());
        let link = Arc::new(Link::start(source, set_up, Vec::new(), nats.timeout));
        let (closing, runtime, waste_task) =
            (CancellationToken::new(), Handle::current(), TaskTracker::new());
        let (waste, task) = WasteTask::new(link.clone());
        waste_task.spawn_on(task.run(closing.clone()), &runtime);
        Ok(Self(Arc::new(Inner {
            link,
            options,
            folder: folder.to_owned(),
            requests: Semaphore::new(REQUESTS_MAX),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            writers: Arc::new(Semaphore::new(WRITERS_MAX)),
            waste,
            runtime,
            tasks: TaskTracker::new(),
            closed: AtomicBool::new(false),
            closing,
            waste_task,
        })))
    }

    /// An operation, which closing waits for.
    fn run<'a, T: Send + 'a>(
        &'a self,
        operation: impl Future<Output = Result<T, BlobError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, BlobError>> {
        self.0
            .tasks
            .track_future(async move {
                self.0.check_open()?;
                operation.await
            })
            .boxed()
    }
}

/// The seat of one who reads or writes.
async fn seat(seats: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, BlobError> {
    timeout(WAIT_MAX, seats.clone().acquire_owned())
        .await
        .map_err(|_| BlobError::Overloaded)?
        .map_err(|_| BlobError::Closed)
}

impl Inner {
    fn check_open(&self) -> Result<(), BlobError> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(BlobError::Closed),
            false => Ok(()),
        }
    }

    fn bucket(&self, container: &Container) -> Bucket {
        Bucket::of(&self.options.prefix, container)
    }

    /// Does something with the connection, until `until`.
    async fn with<T, F>(&self, until: Instant, act: impl FnOnce(Connection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let acted = async {
            let (connection, ()) = self.link.connection().await?;
            act(connection).await
        };
        self.link.within(until, acted).await
    }

    /// The same, in turn. Half of the time is for waiting: the other half is for the answer.
    async fn ask<T, F>(&self, act: impl FnOnce(Connection) -> F) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let (now, until) = (Instant::now(), self.link.deadline());
        let turn = now + until.saturating_duration_since(now) / 2;
        let _turn = timeout_at(turn, self.requests.acquire())
            .await
            .map_err(|_| BlobError::Overloaded)?
            .map_err(|_| BlobError::Closed)?;
        Ok(self.with(until, act).await?)
    }

    /// Runs `work` to its end, whoever waits for it: so that what it replaces is purged.
    async fn finish(
        &self,
        work: impl Future<Output = Result<(), BlobError>> + Send + 'static,
    ) -> Result<(), BlobError> {
        let work = self.tasks.spawn_on(work, &self.runtime);
        work.await
            .unwrap_or_else(|error| Err(BlobError::Backend(Box::new(error))))
    }

    async fn last(&self, bucket: &Bucket, object: &str) -> Result<Last, BlobError> {
        self.ask(async |connection: Connection| bucket.last(&connection, object).await)
            .await
    }

    async fn find(&self, bucket: &Bucket, object: &str) -> Result<(u64, Found), BlobError> {
        let last = self.last(bucket, object).await?;
        let found = last.found.ok_or(BlobError::NoSuchObject)?;
        if found
            .meta
            .options
            .as_ref()
            .is_some_and(|options| options.link.is_some())
        {
            let text =
                "it is a link of NATS to another object, which is not followed: put the object itself there";
            return Err(BlobError::Backend(text.into()));
        }
        Ok((last.sequence, found))
    }

    /// What it means that a message for a bucket's stream was not taken: there may be no such stream any more, or it may
    /// have as much as it was made for.
    async fn why(&self, bucket: &Bucket, failure: Failure) -> BlobError {
        let is_store =
            matches!(&failure, Failure::Refused(refusal) if refusal.err_code == code::STORE_FAILED);
        let is_silence = matches!(
            &failure,
            Failure::Unanswered(Unanswered::NoResponders | Unanswered::Late(_))
        );
        if is_store || is_silence {
            let info = self.ask(async |connection: Connection| bucket.info(&connection).await);
            match info.await {
                Ok(info) if is_store && info.config.max_bytes > 0 => return BlobError::Full,
                Err(BlobError::NoSuchContainer) => return BlobError::NoSuchContainer,
                _ => {}
            }
        }
        failure.into()
    }

    /// Takes an object away that was said to be there at `last`.
    async fn take_away(&self, bucket: &Bucket, object: &str, last: &Last) -> Result<(), BlobError> {
        if last.sequence == 0 {
            return Ok(());
        }
        self.ask(async |connection: Connection| bucket.take_away(&connection, object, last.sequence).await)
            .await?;
        self.is_past(bucket, last);
        Ok(())
    }

    /// What was said of an object is said no more: has the bytes purged that it had.
    fn is_past(&self, bucket: &Bucket, last: &Last) {
        self.waste.seen(bucket);
        if let Some(nuid) = last.found.as_ref().and_then(|found| found.meta.chunks_of()) {
            self.waste.replaced(bucket, nuid, self.options.grace);
        }
    }

    async fn delete(&self, bucket: &Bucket, object: &str) -> Result<(), BlobError> {
        let last = self.last(bucket, object).await?;
        self.take_away(bucket, object, &last).await
    }

    async fn delete_all(&self, objects: Vec<(Bucket, String)>) -> Result<(), BlobError> {
        streams::iter(objects)
            .map(|(bucket, object)| async move { self.delete(&bucket, &object).await })
            .buffer_unordered(DELETES_AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    async fn list(&self, bucket: &Bucket, listing: Listing<'_>) -> Result<ObjectPage, BlobError> {
        let limit = listing.limit.clamp(1, PAGE_LEN_MAX);
        let mut names = crate::listing::Listing::new(listing.cursor, limit);
        let (stream, filter) = (bucket.stream(), format!("{}>", bucket.metas()));
        loop {
            let offset = names.offset();
            let (stream, filter) = (&stream, &filter);
            let (total, subjects) = self
                .ask(async move |connection: Connection| {
                    jetstream::subjects(&connection, stream, filter, offset).await
                })
                .await?;
            let name = |subject: &str| {
                let name = bucket.object(subject)?;
                name.starts_with(listing.prefix).then_some(name)
            };
            if names.take(total, subjects.into_keys(), name) {
                break;
            }
        }
        let (names, more) = names.finish();
        let cursor = names.last().filter(|_| more).cloned();
        Ok(ObjectPage { names, cursor })
    }

    /// The containers of one app, or the shared ones.
    async fn containers(&self, scope: Option<(&str, &str)>) -> Result<Vec<Container>, BlobError> {
        let mut names = crate::listing::Listing::new(None, CONTAINERS_LEN_MAX);
        let mut containers = HashMap::new();
        loop {
            let offset = names.offset();
            let (total, streams) = self
                .ask(async move |connection: Connection| {
                    jetstream::streams(&connection, BUCKETS, offset).await
                })
                .await?;
            containers.extend(streams.iter().filter_map(|stream| {
                let (name, description) = (&stream.name, &stream.description);
                let container = Bucket::container(&self.options.prefix, scope, name, description)?;
                Some((name.clone(), container))
            }));
            check_containers(containers.len())?;
            let known = |stream: &str| containers.contains_key(stream).then(|| stream.to_owned());
            if names.take(total, streams.iter().map(|stream| stream.name.clone()), known) {
                break;
            }
        }
        Ok(containers.into_values().collect())
    }

    async fn clear(&self, bucket: &Bucket) -> Result<(), BlobError> {
        let mut cursor = None;
        loop {
            let listing = Listing {
                cursor: cursor.as_deref(),
                ..Listing::default()
            };
            let page = self.list(bucket, listing).await?;
            let objects = page.names.into_iter().map(|name| (bucket.clone(), name));
            self.delete_all(objects.collect()).await?;
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Makes `to` what `from` is; gives what that was.
    async fn copy(self: &Arc<Self>, from: &Object, to: &Object) -> Result<Last, BlobError> {
        let bucket = self.bucket(from.container());
        let (sequence, found) = self.find(&bucket, from.name()).await?;
        if from != to {
            let seat = seat(&self.writers).await?;
            let mut upload = Upload::start(self.clone(), to, seat).await?;
            let mut read = self.open(bucket, &found, 0..u64::MAX).await?;
            while let Some(chunk) = read.chunks.try_next().await? {
                upload.add(&chunk).await?;
            }
            self.finish(upload.commit()).await?;
        }
        Ok(Last {
            sequence,
            found: Some(found),
        })
    }

    /// Starts to read.
    async fn open(
        self: &Arc<Self>,
        bucket: Bucket,
        found: &Found,
        range: Range<u64>,
    ) -> Result<BlobRead, BlobError> {
        let seat = seat(&self.readers).await?;
        Reader::start(self.clone(), bucket, &found.meta, range, seat).await
    }
}

impl BlobStore for NatsBlobStore {
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.run(async move {
            let (bucket, options) = (&self.0.bucket(container), &self.0.options);
            let made = self
                .0
                .ask(async move |connection: Connection| bucket.create(&connection, container, options).await)
                .await?;
            match made {
                true => Ok(()),
                false => Err(BlobError::ContainerExists),
            }
        })
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.run(async move {
            let bucket = &self.0.bucket(container);
            self.0
                .ask(async move |connection: Connection| bucket.delete(&connection).await)
                .await
        })
    }

    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>> {
        self.run(async move {
            let bucket = &self.0.bucket(container);
            let info = self
                .0
                .ask(async move |connection: Connection| bucket.info(&connection).await)
                .await?;
            Ok(ContainerInfo {
                created_at: bucket::created_at(&info)?,
            })
        })
    }

    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>> {
        self.run(async move { self.0.list(&self.0.bucket(container), listing).await })
    }

    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.run(async move { self.0.clear(&self.0.bucket(container)).await })
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>> {
        self.run(async move {
            let bucket = self.0.bucket(object.container());
            let (_, found) = self.0.find(&bucket, object.name()).await?;
            Ok(ObjectInfo {
                size: found.meta.size,
                created_at: found.created_at,
            })
        })
    }

    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>> {
        self.run(async move {
            let bucket = self.0.bucket(object.container());
            let (_, found) = self.0.find(&bucket, object.name()).await?;
            self.0.open(bucket, &found, range).await
        })
    }

    fn write<'a>(&'a self, to: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        self.run(async move {
            let writer = Writer::start(self.0.clone(), to).await?;
            Ok(Box::new(writer) as Box<dyn BlobWriter>)
        })
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>> {
        self.run(async move {
            check_batch(objects)?;
            let objects = objects.iter().map(|object| {
                let bucket = self.0.bucket(object.container());
                (bucket, object.name().to_owned())
            });
            self.0.delete_all(objects.collect()).await
        })
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.run(async move { self.0.copy(from, to).await.map(drop) })
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.run(async move {
            let copied = self.0.copy(from, to).await?;
            if from == to {
                return Ok(());
            }
            // What was copied, and not what has taken its place since.
            let bucket = self.0.bucket(from.container());
            self.0.take_away(&bucket, from.name(), &copied).await
        })
    }

    fn containers<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Container>, BlobError>> {
        self.run(self.0.containers(scope))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.0.closed.store(true, Ordering::Release);
            self.0.tasks.close();
            self.0.tasks.wait().await;
            self.0.closing.cancel();
            self.0.waste_task.close();
            self.0.waste_task.wait().await;
            self.0.link.refuse();
            self.0.link.end().await;
        }
        .boxed()
    }
}
