//! A blob store in a folder.
//!
//! Owns the files: an object is a file of its own, written aside, synced, and then renamed to its place. So it is whole
//! or not there, also after the power was cut, and who reads one keeps what it began with.
//!
//! ```text
//! objects/n.NAMESPACE/a.APP/c.CONTAINER/o.NAME    names as in `name.rs`; long ones go on in folders `p.PART`
//! objects/c.CONTAINER/...                         containers that apps share
//! staging/                                        what is being written; see staging.rs
//! ```

mod disk;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task;
use tokio::time::timeout;
use weft_capabilities::blob_store::{OBJECT_SIZE_MAX, check_batch, check_chunk, within};
use weft_capabilities::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage,
};

use crate::fs::disk::Disk;
pub(crate) use crate::fs::disk::failed;
use crate::staging::Staged;

/// Operations on files at once; each has a thread meanwhile, of the 512 that all of the process share.
const OPERATIONS_MAX: u32 = 32;
/// Objects that are read and written at once, each of which has an open file.
const FILES_MAX: usize = 512;
/// How long an operation waits for its turn, or for a file.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes that are read or written by one operation: a thread is woken for each.
const PIECE_LEN: usize = 256 << 10;

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct FsOptions {
    /// The largest object, in bytes; no more than [`OBJECT_SIZE_MAX`] anyway.
    pub object_size_max: u64,
}

impl Default for FsOptions {
    fn default() -> Self {
        Self {
            object_size_max: OBJECT_SIZE_MAX,
        }
    }
}

/// The folder can't be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to open the blob store in {folder}: make it a folder that this user may write to")]
pub struct OpenError {
    folder: PathBuf,
    #[source]
    source: io::Error,
}

/// A blob store in a folder. One process has it at a time, which is for its owner to see to.
pub struct FsBlobStore {
    files: Files,
    object_size_max: u64,
}

/// Runs operations on files, a bounded number at once.
#[derive(Clone)]
struct Files {
    disk: Arc<Disk>,
    seats: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

async fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, BlobError> {
    match semaphore.clone().try_acquire_owned() {
        Ok(permit) => Ok(permit),
        Err(TryAcquireError::Closed) => Err(BlobError::Closed),
        Err(TryAcquireError::NoPermits) => timeout(WAIT_MAX, semaphore.clone().acquire_owned())
            .await
            .map_err(|_| BlobError::Overloaded)?
            .map_err(|_| BlobError::Closed),
    }
}

impl Files {
    /// Runs `operation` to its end, also if the future is dropped meanwhile.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Disk) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let seat = permit(&self.seats).await?;
        let disk = self.disk.clone();
        let operation = task::spawn_blocking(move || {
            let done = operation(&disk);
            drop(seat);
            done
        });
        operation
            .await
            .unwrap_or_else(|error| Err(BlobError::Backend(Box::new(error))))
    }
}

impl FsBlobStore {
    /// Opens the store in `folder`, which is made if it is not there. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, options: FsOptions) -> Result<Self, OpenError> {
        let disk = Disk::open(folder).map_err(|source| OpenError {
            folder: folder.to_owned(),
            source,
        })?;
        let files = Files {
            disk: Arc::new(disk),
            seats: Arc::new(Semaphore::new(OPERATIONS_MAX as usize)),
            open: Arc::new(Semaphore::new(FILES_MAX)),
        };
        Ok(Self {
            files,
            object_size_max: options.object_size_max.min(OBJECT_SIZE_MAX),
        })
    }
}

/// A function of the trait as one operation on files. What it is given is cloned for it.
macro_rules! on_disk {
    ($self:ident, ($($argument:ident),*), |$disk:ident| $body:expr) => {
        async move {
            $(let $argument = $argument.to_owned();)*
            $self.files.run(move |$disk| $body).await
        }
        .boxed()
    };
}

impl BlobStore for FsBlobStore {
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        on_disk!(self, (container), |disk| disk.create_container(&container))
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        on_disk!(self, (container), |disk| disk.delete_container(&container))
    }

    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>> {
        on_disk!(self, (container), |disk| disk.container_info(&container))
    }

    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>> {
        let (prefix, cursor) = (listing.prefix, listing.cursor.map(str::to_owned));
        let limit = listing.limit;
        on_disk!(self, (container, prefix), |disk| {
            let (prefix, cursor) = (prefix.as_str(), cursor.as_deref());
            disk.list(
                &container,
                Listing {
                    prefix,
                    cursor,
                    limit,
                },
            )
        })
    }

    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        on_disk!(self, (container), |disk| disk.clear(&container))
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>> {
        on_disk!(self, (object), |disk| disk.object_info(&object))
    }

    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>> {
        async move {
            let place = permit(&self.files.open).await?;
            let wanted = object.clone();
            let open = move |disk: &Disk| {
                let (mut file, size) = disk.open_object(&wanted)?;
                let range = within(&range, size)?;
                file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
                Ok((file, range.end - range.start))
            };
            let (file, size) = self.files.run(open).await?;
            let reading = (self.files.clone(), file, size, place);
            Ok(BlobRead {
                size,
                chunks: stream::try_unfold(reading, next).boxed(),
            })
        }
        .boxed()
    }

    fn write<'a>(&'a self, _: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async move {
            let place = permit(&self.files.open).await?;
            let staged = self.files.run(|disk| disk.staging.file().map_err(failed)).await?;
            let writer: Box<dyn BlobWriter> = Box::new(Writer {
                files: self.files.clone(),
                staged: Some(staged),
                pending: BytesMut::new(),
                size: 0,
                size_max: self.object_size_max,
                _place: place,
            });
            Ok(writer)
        }
        .boxed()
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>> {
        if let Err(error) = check_batch(objects) {
            return futures::future::err(error).boxed();
        }
        on_disk!(self, (objects), |disk| disk.delete(&objects))
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        on_disk!(self, (from, to), |disk| disk.copy(&from, &to))
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        on_disk!(self, (from, to), |disk| disk.rename(&from, &to))
    }

    fn containers<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Container>, BlobError>> {
        async move {
            let scope = scope.map(|(namespace, app)| (namespace.to_owned(), app.to_owned()));
            self.files.run(move |disk| disk.containers(scope.as_ref())).await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            // Each operation that runs has a seat, and none is endless.
            let seats = self.files.seats.acquire_many(OPERATIONS_MAX).await;
            // Before they are given back: whoever waits for one is refused.
            self.files.seats.close();
            drop(seats);
        }
        .boxed()
    }
}

type Reading = (Files, File, u64, OwnedSemaphorePermit);

/// The next piece of a file of which so much is left to read.
async fn next((files, mut file, left, place): Reading) -> Result<Option<(Bytes, Reading)>, BlobError> {
    if left == 0 {
        return Ok(None);
    }
    let read = move |_: &Disk| {
        let len = left.min(PIECE_LEN as u64);
        let mut piece = Vec::with_capacity(PIECE_LEN.min(usize::try_from(left).unwrap_or(PIECE_LEN)));
        io::Read::by_ref(&mut file)
            .take(len)
            .read_to_end(&mut piece)
            .map_err(failed)?;
        if piece.len() as u64 != len {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok((file, Bytes::from(piece)))
    };
    let (file, piece) = files.run(read).await?;
    let left = left - piece.len() as u64;
    Ok(Some((piece, (files, file, left, place))))
}

struct Writer {
    files: Files,
    /// Taken while it is written to, and gone after an error.
    staged: Option<Staged>,
    pending: BytesMut,
    size: u64,
    size_max: u64,
    _place: OwnedSemaphorePermit,
}

impl Writer {
    /// Writes what is pending.
    async fn flush(&mut self) -> Result<Staged, BlobError> {
        let mut staged = self.staged.take().ok_or_else(ended)?;
        let piece = self.pending.split().freeze();
        let write = move |_: &Disk| staged.file.write_all(&piece).map_err(failed).map(|()| staged);
        self.files.run(write).await
    }
}

fn ended() -> BlobError {
    BlobError::Backend("the write failed before, or was given up".into())
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            if let Err(error) = check_chunk(self.size, &chunk, self.size_max) {
                self.staged = None;
                return Err(error);
            }
            self.size += chunk.len() as u64;
            self.pending.extend_from_slice(&chunk);
            if self.pending.len() >= PIECE_LEN {
                self.staged = Some(self.flush().await?);
            }
            Ok(())
        }
        .boxed()
    }

    fn commit<'a>(mut self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        async move {
            let staged = self.flush().await?;
            let to = to.clone();
            self.files.run(move |disk| disk.put(staged, &to)).await
        }
        .boxed()
    }
}
