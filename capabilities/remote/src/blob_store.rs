//! Blob store that is elsewhere, with objects that the one run that began them reads or writes chunk by chunk.
//!
//! An object that fits in a message is read or written by one call. Of a longer one this side holds one chunk, which is as
//! much as a message takes, and the other side as much.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{self, BoxFuture};
use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;
use weft_capabilities::blob_store::{CHUNK_LEN_MAX, OBJECT_SIZE_MAX, PAGE_LEN_MAX, check_batch, check_chunk};
use weft_capabilities::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage,
};
use weft_lattice::envelope::FailureKind;

use crate::BLOB_STORE;
use crate::cbor::{Read, Write, encode};
use crate::remote::{Function, NoAnswer, Remote, Run};
use crate::shape::Begun;

/// How long an operation may take. Whoever waits less drops it.
const CALL_MAX: Duration = Duration::from_secs(30);

/// How long an operation may take that touches all bytes of an object, or all objects of a container: as long as an outside
/// provider may take to answer.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// A blob store provider that is elsewhere.
///
/// An operation without an answer is [`BlobError::Unavailable`] (or `Overloaded`, or `AccessDenied` if it certainly did
/// not start). Reading and writing end, as `Unavailable`, if their caller pauses for longer than
/// [`IDLE_MAX`](crate::IDLE_MAX), or if the run of the provider ends that began them. Closing it closes this end alone.
pub struct RemoteBlobStore {
    remote: Remote,
    is_closed: AtomicBool,
}

impl RemoteBlobStore {
    /// The provider that `remote` leads to.
    pub fn new(remote: Remote) -> Self {
        Self {
            remote,
            is_closed: AtomicBool::new(false),
        }
    }

    fn run(&self) -> Result<Run, BlobError> {
        if self.is_closed.load(Relaxed) {
            return Err(BlobError::Closed);
        }
        self.remote.now().map_err(|failure| no_answer(failure.into()))
    }

    async fn ask<T: Read>(&self, name: &'static str, args: impl Write) -> Result<T, BlobError> {
        call(&self.remote, &self.run()?, name, CALL_MAX, true, args).await
    }

    async fn change(&self, name: &'static str, within: Duration, args: impl Write) -> Result<(), BlobError> {
        call(&self.remote, &self.run()?, name, within, false, args).await
    }
}

async fn call<T: Read>(
    remote: &Remote,
    run: &Run,
    name: &'static str,
    within: Duration,
    reads: bool,
    args: impl Write,
) -> Result<T, BlobError> {
    let function = Function {
        interface: BLOB_STORE,
        name,
        deadline: Instant::now() + within,
        reads,
        args: encode(&args).into(),
    };
    let (done,): (Result<T, BlobError>,) = remote.call(run, function).await.map_err(no_answer)?;
    done
}

fn no_answer(why: NoAnswer) -> BlobError {
    match why {
        NoAnswer::TooLong { len, len_max } => BlobError::TooLarge {
            what: "request",
            len: len as u64,
            len_max: len_max as u64,
        },
        NoAnswer::Failed(failure) => match failure.kind {
            FailureKind::Overloaded if !failure.may_have_started => BlobError::Overloaded,
            FailureKind::Denied if !failure.may_have_started => BlobError::AccessDenied,
            _ => BlobError::Unavailable(failure.to_string()),
        },
    }
}

impl BlobStore for RemoteBlobStore {
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.change("create-container", CALL_MAX, (container,)).boxed()
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.change("delete-container", WHOLE_MAX, (container,)).boxed()
    }

    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>> {
        self.ask("container-info", (container,)).boxed()
    }

    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>> {
        let limit = listing.limit.clamp(1, PAGE_LEN_MAX) as u64;
        let args = (container, listing.prefix, listing.cursor, limit);
        self.ask("list-objects", args).boxed()
    }

    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.change("clear", WHOLE_MAX, (container,)).boxed()
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>> {
        self.ask("object-info", (object,)).boxed()
    }

    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>> {
        async move {
            // From here on it is let go of if this future is dropped, as the other side may have begun it.
            let mut kept = Kept::new(&self.remote, self.run()?);
            let args = (&kept.id, object, range.start, range.end);
            let begun = call(&self.remote, &kept.run, "read", CALL_MAX, false, args).await;
            let Begun { run, size, chunk } = kept.unless_refused(begun)?;
            kept.stays_with(&run)?;
            let (first, rest) = RemoteReading { kept, at: 0, size }.took(chunk)?;
            let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
            let rest = stream::try_unfold(rest, async |reading: Option<RemoteReading>| match reading {
                Some(reading) => reading.next().await.map(Some),
                None => Ok(None),
            });
            Ok(BlobRead {
                size,
                chunks: first.chain(rest).boxed(),
            })
        }
        .boxed()
    }

    fn write<'a>(&'a self, to: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        future::lazy(move |_| {
            let writer: Box<dyn BlobWriter> = Box::new(RemoteWriter {
                remote: self.remote.clone(),
                run: self.run()?,
                kept: None,
                to: to.cloned(),
                pending: BytesMut::new(),
                sent: 0,
                has_ended: false,
            });
            Ok(writer)
        })
        .boxed()
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>> {
        async move {
            check_batch(objects)?;
            self.change("delete-objects", WHOLE_MAX, (objects,)).await
        }
        .boxed()
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.change("copy-object", WHOLE_MAX, (from, to)).boxed()
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.change("move-object", WHOLE_MAX, (from, to)).boxed()
    }

    fn containers<'a>(
        &'a self,
        _: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Container>, BlobError>> {
        let cannot = "a store that is elsewhere can't tell which containers it has".to_owned();
        future::err(BlobError::Unavailable(cannot)).boxed()
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.is_closed.store(true, Relaxed);
        future::ready(()).boxed()
    }
}

/// What a run may keep for this side. Dropped, it is let go of.
struct Kept {
    remote: Remote,
    run: Run,
    id: Bytes,
    is_there: bool,
}

impl Kept {
    fn new(remote: &Remote, run: Run) -> Self {
        Self {
            remote: remote.clone(),
            run,
            id: Bytes::copy_from_slice(&rand::random::<[u8; 16]>()),
            is_there: true,
        }
    }

    /// The run named `name` keeps it.
    fn stays_with(&mut self, name: &str) -> Result<(), BlobError> {
        let run = self.remote.pinned(&self.run, name);
        self.run = run.map_err(|failure| no_answer(failure.into()))?;
        Ok(())
    }

    /// What is refused is not kept. Without an answer nobody knows.
    fn unless_refused<T>(&mut self, done: Result<T, BlobError>) -> Result<T, BlobError> {
        if let Err(error) = &done {
            self.is_there = matches!(error, BlobError::Unavailable(_) | BlobError::Overloaded);
        }
        done
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.is_there {
            self.remote
                .end(self.run.clone(), BLOB_STORE, "let-go", self.id.clone());
        }
    }
}

/// An object that is read chunk by chunk.
struct RemoteReading {
    kept: Kept,
    at: u64,
    size: u64,
}

impl RemoteReading {
    /// A chunk that came, and what is to be read after it.
    fn took(mut self, chunk: Bytes) -> Result<(Bytes, Option<Self>), BlobError> {
        let (len, left) = (chunk.len() as u64, self.size - self.at);
        if chunk.len() > CHUNK_LEN_MAX || len > left || (len == 0 && left > 0) {
            let wrong = format!("it gave a chunk of {len} bytes where {left} were left");
            return Err(BlobError::Unavailable(wrong));
        }
        self.at += len;
        if len == left {
            // With its last byte the other side has let go of it.
            self.kept.is_there = false;
            return Ok((chunk, None));
        }
        Ok((chunk, Some(self)))
    }

    async fn next(mut self) -> Result<(Bytes, Option<Self>), BlobError> {
        let Kept { remote, run, id, .. } = &self.kept;
        let chunk = call(remote, run, "read-on", CALL_MAX, false, (id, self.at)).await;
        let chunk = self.kept.unless_refused(chunk)?;
        self.took(chunk)
    }
}

struct RemoteWriter {
    remote: Remote,
    /// Who had it when it began.
    run: Run,
    /// From the first chunk that was sent.
    kept: Option<Kept>,
    to: Option<Object>,
    pending: BytesMut,
    sent: u64,
    /// So after an error; and from the beginning of a write to its end: still so then, its future was dropped.
    has_ended: bool,
}

impl RemoteWriter {
    /// Sends the first bytes of what is pending.
    async fn send(&mut self, len: usize) -> Result<(), BlobError> {
        let chunk = self.pending.split_to(len).freeze();
        match &mut self.kept {
            None => {
                let kept = self.kept.insert(Kept::new(&self.remote, self.run.clone()));
                let args = (&kept.id, self.to.as_ref(), &chunk);
                let begun = call(&self.remote, &kept.run, "write", CALL_MAX, false, args).await;
                let run: String = kept.unless_refused(begun)?;
                kept.stays_with(&run)?;
            }
            Some(kept) => {
                let args = (&kept.id, self.sent, &chunk);
                let done = call(&self.remote, &kept.run, "write-on", CALL_MAX, false, args).await;
                kept.unless_refused::<()>(done)?;
            }
        }
        self.sent += len as u64;
        Ok(())
    }

    /// From here on it has ended, unless it is said otherwise.
    fn go_on(&mut self) -> Result<(), BlobError> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Err(BlobError::Unavailable(
                "the write failed before, or was given up".to_owned(),
            ));
        }
        Ok(())
    }
}

impl BlobWriter for RemoteWriter {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            self.go_on()?;
            check_chunk(self.sent + self.pending.len() as u64, &chunk, OBJECT_SIZE_MAX)?;
            self.pending.extend_from_slice(&chunk);
            let len = self.remote.chunk_len_max();
            while self.pending.len() > len {
                self.send(len).await?;
            }
            self.has_ended = false;
            Ok(())
        }
        .boxed()
    }

    fn commit<'a>(mut self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        async move {
            self.go_on()?;
            if self.to.as_ref().is_some_and(|told| told != to) {
                return Err(BlobError::Backend("the object was to go elsewhere".into()));
            }
            let last = self.pending.split().freeze();
            let Some(mut kept) = self.kept.take() else {
                return call(&self.remote, &self.run, "put", WHOLE_MAX, false, (to, last)).await;
            };
            let args = (&kept.id, to, self.sent, last);
            let done = call(&self.remote, &kept.run, "commit", WHOLE_MAX, false, args).await;
            kept.is_there = done.is_err();
            kept.unless_refused(done)
        }
        .boxed()
    }
}
