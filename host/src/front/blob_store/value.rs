//! Bytes on their way into an object and out of one.
//!
//! Owns the streams. Neither reads or takes ahead of the other side more than one chunk: a guest that does not read holds
//! one, and one that writes faster than the store waits.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures::future::{BoxFuture, poll_fn};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};
use weft_capabilities::{BlobError, BlobRead, BlobStore, BlobWriter, Object};
use weft_observability::metrics::{ActorMetrics, ObjectBytes, Operation};
use weft_remote::called_by;

use super::{Answer, Context, OpenContainer, drop_of, opened, told};
use crate::front::operation::observed;
use crate::link::Import;
use crate::store::{BlobBody, InstanceState};

/// Bytes that a guest may write at once.
const WRITE_LEN_MAX: usize = 256 << 10;
/// Bytes that a guest may have at once as a list, which the host holds as well: as many as a batch of key-value.
const LIST_LEN_MAX: u64 = 16 << 20;
pub(super) const TOO_MANY: &str =
    "too many objects are being read, written and listed by this invocation: end some first";

pub(super) fn add_to_linker(types: &mut LinkerInstance<'_, InstanceState>) -> wasmtime::Result<()> {
    types.resource(
        "outgoing-value",
        ResourceType::host::<OutgoingValue>(),
        drop_of::<OutgoingValue>,
    )?;
    types.func_wrap("[static]outgoing-value.new-outgoing-value", new_outgoing_value)?;
    types.func_wrap("[method]outgoing-value.outgoing-value-write-body", write_body)?;
    types.func_wrap_async("[static]outgoing-value.finish", finish)?;
    types.resource(
        "incoming-value",
        ResourceType::host::<IncomingValue>(),
        drop_of::<IncomingValue>,
    )?;
    types.func_wrap_async("[static]incoming-value.incoming-value-consume-sync", consume_sync)?;
    types.func_wrap(
        "[static]incoming-value.incoming-value-consume-async",
        consume_async,
    )?;
    types.func_wrap("[method]incoming-value.size", size)
}

/// What a guest's `outgoing-value` stands for. Its stream shares it.
#[derive(Clone)]
pub(super) struct OutgoingValue(Arc<Mutex<Outgoing>>);

struct Outgoing {
    metrics: Arc<ActorMetrics>,
    /// `None` if the actor is linked to none.
    store: Option<Arc<dyn BlobStore>>,
    to: Option<Object>,
    written: Written,
    stream: Stream,
    /// Whose it is.
    caller: Arc<str>,
    /// From when its stream is given: what was written holds something of the store until it is an object or gone.
    _counted: Option<BlobBody>,
}

/// Whether its stream was given, and is there.
enum Stream {
    NotGiven,
    Open,
    Dropped,
}

/// How far it is.
enum Written {
    /// Nothing was written.
    Nothing,
    /// A chunk is on its way.
    Writing(BoxFuture<'static, Result<Box<dyn BlobWriter>, BlobError>>),
    /// There is room for the next chunk.
    Ready(Box<dyn BlobWriter>),
    /// It can't be an object any more.
    Failed(String),
    /// It is one.
    Committed,
}

impl OutgoingValue {
    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no chunk is on its way. May be dropped and called again.
    async fn settled(&self) {
        poll_fn(|context| self.lock().poll_settled(context)).await;
    }

    /// Makes it the object that it goes to.
    async fn commit(&self) -> Result<(), BlobError> {
        self.settled().await;
        let (written, store, to) = {
            let mut value = self.lock();
            let written = mem::replace(
                &mut value.written,
                Written::Failed("its commit was given up".to_owned()),
            );
            (written, value.store.clone(), value.to.clone())
        };
        let to = to.ok_or_else(|| failed("the value goes nowhere: name its object by write-data"))?;
        let writer = match written {
            Written::Nothing => store.ok_or_else(unlinked)?.write(Some(&to)).await?,
            Written::Ready(writer) => writer,
            Written::Failed(error) => return Err(failed(error)),
            Written::Writing(_) => return Err(failed("a chunk is still on its way")),
            Written::Committed => return Ok(()),
        };
        writer.commit(&to).await?;
        let mut value = self.lock();
        (value.written, value._counted) = (Written::Committed, None);
        Ok(())
    }
}

fn failed(why: impl Into<String>) -> BlobError {
    BlobError::Unavailable(why.into())
}

fn unlinked() -> BlobError {
    failed("this actor is linked to no blob store")
}

impl Outgoing {
    /// Goes to `store`, which is another one if a link was chosen by name since it was made.
    fn go_to(&mut self, store: &Arc<dyn BlobStore>) -> Result<(), String> {
        let is_there = self.store.as_ref().is_some_and(|own| Arc::ptr_eq(own, store));
        if !is_there && !matches!(self.written, Written::Nothing) {
            return Err("the value was begun by another link: choose the link before it is made".to_owned());
        }
        self.store = Some(store.clone());
        Ok(())
    }

    fn write(&mut self, chunk: Bytes) {
        self.metrics.object_bytes(ObjectBytes::Written, chunk.len());
        let writing = match mem::replace(&mut self.written, Written::Nothing) {
            Written::Nothing => {
                let (store, to) = (self.store.clone(), self.to.clone());
                let start = async move {
                    let mut writer = store.ok_or_else(unlinked)?.write(to.as_ref()).await?;
                    writer.write(chunk).await?;
                    Ok(writer)
                };
                Written::Writing(called_by(self.caller.clone(), start).boxed())
            }
            Written::Ready(mut writer) => Written::Writing(
                async move {
                    writer.write(chunk).await?;
                    Ok(writer)
                }
                .boxed(),
            ),
            // Asked for room first, it does not come here.
            other => other,
        };
        self.written = writing;
        // Mostly the store has room, and nobody has to wait.
        let _ = self.poll_settled(&mut TaskContext::from_waker(std::task::Waker::noop()));
    }

    fn poll_settled(&mut self, context: &mut TaskContext<'_>) -> Poll<()> {
        if let Written::Writing(writing) = &mut self.written {
            self.written = match writing.poll_unpin(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(writer)) => Written::Ready(writer),
                Poll::Ready(Err(error)) => Written::Failed(told(error)),
            };
        }
        Poll::Ready(())
    }

    fn failure(&self) -> Result<(), StreamError> {
        match &self.written {
            Written::Failed(error) => Err(StreamError::LastOperationFailed(wasmtime::format_err!("{error}"))),
            Written::Committed => Err(StreamError::Closed),
            _ => Ok(()),
        }
    }
}

/// The stream of an outgoing value's body.
struct OutgoingBody(OutgoingValue);

impl Drop for OutgoingBody {
    fn drop(&mut self) {
        self.0.lock().stream = Stream::Dropped;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for OutgoingBody {
    async fn ready(&mut self) {
        self.0.settled().await;
    }
}

impl OutputStream for OutgoingBody {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.check_write()? {
            return Err(StreamError::trap(
                "a write is larger than what check-write allowed",
            ));
        }
        if !bytes.is_empty() {
            self.0.lock().write(bytes);
        }
        Ok(())
    }

    /// What is written is on its way already; that it is durable is what `finish` waits for.
    fn flush(&mut self) -> StreamResult<()> {
        self.0.lock().failure()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let value = self.0.lock();
        value.failure()?;
        Ok(match value.written {
            Written::Writing(_) => 0,
            _ => WRITE_LEN_MAX,
        })
    }
}

fn new_outgoing_value(mut context: Context<'_>, (): ()) -> wasmtime::Result<(Resource<OutgoingValue>,)> {
    let call = context.data().call();
    // Where it goes is said by a container, mostly before anything is written.
    let link = call.links(Import::BLOB_CONTAINER).blob_store.as_ref();
    let value = Outgoing {
        metrics: call.actor.metrics.clone(),
        store: link.map(|link| link.store.clone()),
        to: None,
        written: Written::Nothing,
        stream: Stream::NotGiven,
        caller: call.actor.caller.clone(),
        _counted: None,
    };
    let value = OutgoingValue(Arc::new(Mutex::new(value)));
    Ok((context.data_mut().table().push(value)?,))
}

fn write_body(
    mut context: Context<'_>,
    (handle,): (Resource<OutgoingValue>,),
) -> wasmtime::Result<(Result<Resource<DynOutputStream>, ()>,)> {
    let value = context.data_mut().table().get(&handle)?.clone();
    let Some(counted) = context.data_mut().blob_body() else {
        return Ok((Err(()),));
    };
    {
        let mut value = value.lock();
        if !matches!(value.stream, Stream::NotGiven) {
            return Ok((Err(()),));
        }
        value.stream = Stream::Open;
        value._counted = Some(counted);
    }
    let body: DynOutputStream = Box::new(OutgoingBody(value));
    Ok((Ok(context.data_mut().table().push(body)?),))
}

pub(super) fn write_data<'a>(
    mut context: Context<'a>,
    (handle, name, value): (Resource<OpenContainer>, String, Resource<OutgoingValue>),
) -> Answer<'a, ()> {
    let opened = opened(&mut context, &handle);
    Box::new(async move {
        let (call, at) = opened?;
        let value = context.data_mut().table().get(&value)?.clone();
        let to = at.and_then(|at| Ok((at.container.object(&name)?, at)));
        let (object, at) = match to {
            Ok(to) => to,
            Err(error) => return Ok((Err(told(error)),)),
        };
        let is_whole = {
            let mut value = value.lock();
            if value.to.as_ref().is_some_and(|to| *to != object) {
                return Ok((Err(
                    "the value goes to another object: make one for each".to_owned()
                ),));
            }
            if let Err(reason) = value.go_to(&at.store) {
                return Ok((Err(reason),));
            }
            value.to = Some(object);
            matches!(value.stream, Stream::Dropped)
        };
        if !is_whole {
            // It is not told where it fails before its body comes; that there is no such container may be told now.
            let found = observed(
                &call,
                Operation::BlobContainerInfo,
                at.store.container_info(&at.container),
            );
            return Ok((found.await.map(drop).map_err(told),));
        }
        let committed = observed(&call, Operation::BlobWrite, value.commit()).await;
        Ok((committed.map_err(told),))
    })
}

fn finish<'a>(mut context: Context<'a>, (handle,): (Resource<OutgoingValue>,)) -> Answer<'a, ()> {
    Box::new(async move {
        let call = context.data().call().clone();
        let value = context.data_mut().table().delete(handle)?;
        if matches!(value.lock().written, Written::Committed) {
            return Ok((Ok(()),));
        }
        let committed = observed(&call, Operation::BlobWrite, value.commit()).await;
        Ok((committed.map_err(told),))
    })
}

/// What a guest's `incoming-value` stands for.
pub(super) struct IncomingValue {
    metrics: Arc<ActorMetrics>,
    read: BlobRead,
    counted: BlobBody,
}

pub(super) fn get_data<'a>(
    mut context: Context<'a>,
    (handle, name, start, end): (Resource<OpenContainer>, String, u64, u64),
) -> Answer<'a, Resource<IncomingValue>> {
    let opened = opened(&mut context, &handle);
    Box::new(async move {
        let (call, at) = opened?;
        let Some(counted) = context.data_mut().blob_body() else {
            return Ok((Err(TOO_MANY.to_owned()),));
        };
        let read = async {
            let at = at?;
            // The guest's end is included.
            at.store
                .read(&at.container.object(&name)?, start..end.saturating_add(1))
                .await
        };
        Ok((match observed(&call, Operation::BlobRead, read).await {
            Ok(read) => {
                let metrics = call.actor.metrics.clone();
                let value = IncomingValue {
                    metrics,
                    read,
                    counted,
                };
                Ok(context.data_mut().table().push(value)?)
            }
            Err(error) => Err(told(error)),
        },))
    })
}

fn size(mut context: Context<'_>, (handle,): (Resource<IncomingValue>,)) -> wasmtime::Result<(u64,)> {
    Ok((context.data_mut().table().get(&handle)?.read.size,))
}

fn consume_sync<'a>(mut context: Context<'a>, (handle,): (Resource<IncomingValue>,)) -> Answer<'a, Vec<u8>> {
    Box::new(async move {
        let IncomingValue {
            metrics,
            read,
            counted,
        } = context.data_mut().table().delete(handle)?;
        if read.size > LIST_LEN_MAX {
            return Ok((Err(format!(
                "the value is too large for a list: {}, at most {LIST_LEN_MAX}; consume it as a stream",
                read.size
            )),));
        }
        let list = read.chunks.try_fold(Vec::new(), async |mut list, chunk| {
            metrics.object_bytes(ObjectBytes::Read, chunk.len());
            list.extend_from_slice(&chunk);
            Ok(list)
        });
        let list = list.await;
        drop(counted);
        Ok((list.map_err(told),))
    })
}

fn consume_async(
    mut context: Context<'_>,
    (handle,): (Resource<IncomingValue>,),
) -> wasmtime::Result<(Result<Resource<DynInputStream>, String>,)> {
    let IncomingValue {
        metrics,
        read,
        counted,
    } = context.data_mut().table().delete(handle)?;
    let body: DynInputStream = Box::new(IncomingBody {
        metrics,
        read,
        chunk: Ok(Bytes::new()),
        _counted: counted,
    });
    Ok((Ok(context.data_mut().table().push(body)?),))
}

/// The stream of an incoming value's body.
struct IncomingBody {
    metrics: Arc<ActorMetrics>,
    read: BlobRead,
    /// What the guest has not read of the last chunk; how it ended, if it did.
    chunk: Result<Bytes, Option<BlobError>>,
    _counted: BlobBody,
}

impl IncomingBody {
    fn take(&mut self, next: Option<Result<Bytes, BlobError>>) {
        self.chunk = next.transpose().map_err(Some).and_then(|chunk| chunk.ok_or(None));
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for IncomingBody {
    async fn ready(&mut self) {
        while self.chunk.as_ref().is_ok_and(Bytes::is_empty) {
            let next = self.read.chunks.next().await;
            self.take(next);
        }
    }
}

impl InputStream for IncomingBody {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.chunk.as_ref().is_ok_and(Bytes::is_empty)
            && let Some(next) = self.read.chunks.next().now_or_never()
        {
            self.take(next);
        }
        match &mut self.chunk {
            Ok(chunk) => {
                let given = chunk.split_to(size.min(chunk.len()));
                self.metrics.object_bytes(ObjectBytes::Read, given.len());
                Ok(given)
            }
            Err(ended) => match ended.take() {
                Some(error) => Err(StreamError::LastOperationFailed(wasmtime::format_err!(
                    "{}",
                    told(error)
                ))),
                None => Err(StreamError::Closed),
            },
        }
    }
}
