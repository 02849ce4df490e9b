//! The functions of `weft:provider/blob-store`.
//!
//! What fits in one message is read or written by one call. Of what does not, a chunk travels at a time, and what is
//! between two chunks is kept: so no more than a chunk of it is in memory, however large it is.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use weft_capabilities::blob_store::{CHUNK_LEN_MAX, check_batch};
use weft_capabilities::{BlobError, BlobRead, BlobStore, BlobWriter, Container, Listing, Object};
use weft_lattice::envelope::Failure;

use super::kept::{Lent, NotTaken, Taken, What, Writing};
use super::{Called, Shared};
use crate::cbor::encode;
use crate::shape::Begun;
use crate::{BLOB_STORE, chunk_len_max};

pub(super) async fn run(
    shared: &Shared,
    store: &dyn BlobStore,
    called: &Called<'_>,
) -> Result<Vec<u8>, Failure> {
    Ok(match called.function {
        "create-container" => {
            let (container,): (Container,) = called.args()?;
            encode(&(store.create_container(&container).await,))
        }
        "delete-container" => {
            let (container,): (Container,) = called.args()?;
            encode(&(store.delete_container(&container).await,))
        }
        "container-info" => {
            let (container,): (Container,) = called.args()?;
            encode(&(store.container_info(&container).await,))
        }
        "list-objects" => {
            let (container, prefix, cursor, limit): (Container, String, Option<String>, u64) =
                called.args()?;
            let listing = Listing {
                prefix: &prefix,
                cursor: cursor.as_deref(),
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
            };
            encode(&(store.list_objects(&container, listing).await,))
        }
        "clear" => {
            let (container,): (Container,) = called.args()?;
            encode(&(store.clear(&container).await,))
        }
        "object-info" => {
            let (object,): (Object,) = called.args()?;
            encode(&(store.object_info(&object).await,))
        }
        "delete-objects" => {
            let (objects,): (Vec<Object>,) = called.args()?;
            encode(&(delete(store, &objects).await,))
        }
        "copy-object" => {
            let (from, to): (Object, Object) = called.args()?;
            encode(&(store.copy_object(&from, &to).await,))
        }
        "move-object" => {
            let (from, to): (Object, Object) = called.args()?;
            encode(&(store.move_object(&from, &to).await,))
        }
        "read" => {
            let (id, object, start, end): (Bytes, Object, u64, u64) = called.args()?;
            let read = store.read(&object, start..end).await;
            encode(&(begin_to_read(shared, called, &id, read).await,))
        }
        "read-on" => {
            let (id, at): (Bytes, u64) = called.args()?;
            encode(&(read_on(shared, called, &id, at).await,))
        }
        "put" => {
            let (object, bytes): (Object, Bytes) = called.args()?;
            encode(&(put(store, &object, bytes).await,))
        }
        "write" => {
            let (id, to, chunk): (Bytes, Option<Object>, Bytes) = called.args()?;
            encode(&(begin_to_write(shared, store, called, &id, to, chunk).await,))
        }
        "write-on" => {
            let (id, at, chunk): (Bytes, u64, Bytes) = called.args()?;
            encode(&(write_on(shared, called, &id, at, chunk).await,))
        }
        "commit" => {
            let (id, to, at, chunk): (Bytes, Object, u64, Bytes) = called.args()?;
            encode(&(commit(shared, called, &id, &to, at, chunk).await,))
        }
        "let-go" => {
            let (id,): (Bytes,) = called.args()?;
            drop(shared.kept.take_away(&id, called.owner));
            encode(&(Ok::<_, BlobError>(()),))
        }
        _ => return Err(called.unknown(BLOB_STORE)),
    })
}

/// An object that is read chunk by chunk.
pub(super) struct Reading {
    chunks: BoxStream<'static, Result<Bytes, BlobError>>,
    /// Of the backend's last chunk, what was not given yet.
    rest: Bytes,
    at: u64,
    left: u64,
}

impl Reading {
    /// The next bytes: `len`, or all that are left.
    async fn next(&mut self, len: usize) -> Result<Bytes, BlobError> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(len);
        let mut chunk = BytesMut::with_capacity(len);
        while chunk.len() < len {
            if self.rest.is_empty() {
                let next = self.chunks.next().await;
                let ended = || BlobError::Unavailable("the object ended before its end".to_owned());
                self.rest = next.ok_or_else(ended)??;
            }
            let part = self.rest.len().min(len - chunk.len());
            chunk.extend_from_slice(&self.rest.split_to(part));
        }
        self.at += len as u64;
        self.left -= len as u64;
        Ok(chunk.freeze())
    }
}

impl Called<'_> {
    fn object<'k, T: Lent>(&self, shared: &'k Shared, id: &[u8]) -> Result<Taken<'k, T>, BlobError> {
        shared.kept.take(id, self.owner).map_err(|error| match error {
            NotTaken::Gone => gone(),
            NotTaken::Busy => misplaced(),
        })
    }

    /// Keeps what goes on with the next chunk, under the id that the caller chose.
    fn keep(&self, shared: &Shared, id: &[u8], what: What) -> Result<(), BlobError> {
        match id.try_into() {
            Ok(id) if shared.kept.keep_as(id, self.owner, what) => Ok(()),
            _ => Err(BlobError::Overloaded),
        }
    }
}

fn gone() -> BlobError {
    BlobError::Unavailable(
        "what was read or written had ended, or nothing was done with it for too long".to_owned(),
    )
}

fn misplaced() -> BlobError {
    BlobError::Unavailable("a chunk was lost on its way".to_owned())
}

async fn delete(store: &dyn BlobStore, objects: &[Object]) -> Result<(), BlobError> {
    check_batch(objects)?;
    store.delete_objects(objects).await
}

async fn begin_to_read(
    shared: &Shared,
    called: &Called<'_>,
    id: &[u8],
    read: Result<BlobRead, BlobError>,
) -> Result<Begun, BlobError> {
    let BlobRead { size, chunks } = read?;
    let mut reading = Reading {
        chunks,
        rest: Bytes::new(),
        at: 0,
        left: size,
    };
    let chunk = reading.next(chunk_len_max(shared.body_len_max)).await?;
    if reading.left > 0 {
        called.keep(shared, id, What::Reading(Some(reading)))?;
    }
    Ok(Begun {
        run: shared.run.as_ref().to_owned(),
        size,
        chunk,
    })
}

async fn read_on(shared: &Shared, called: &Called<'_>, id: &[u8], at: u64) -> Result<Bytes, BlobError> {
    let mut taken: Taken<'_, Reading> = called.object(shared, id)?;
    let reading = taken.lent.as_mut().ok_or_else(gone)?;
    if reading.at != at {
        return Err(misplaced());
    }
    let chunk = reading.next(chunk_len_max(shared.body_len_max)).await?;
    if reading.left > 0 {
        taken.give_back();
    }
    Ok(chunk)
}

/// Writes bytes that came in one message, which may be longer than a chunk.
async fn write_all(writer: &mut dyn BlobWriter, mut bytes: Bytes) -> Result<(), BlobError> {
    while bytes.has_remaining() {
        let chunk = bytes.split_to(bytes.len().min(CHUNK_LEN_MAX));
        writer.write(chunk).await?;
    }
    Ok(())
}

async fn put(store: &dyn BlobStore, object: &Object, bytes: Bytes) -> Result<(), BlobError> {
    let mut writer = store.write(Some(object)).await?;
    write_all(&mut *writer, bytes).await?;
    writer.commit(object).await
}

async fn begin_to_write(
    shared: &Shared,
    store: &dyn BlobStore,
    called: &Called<'_>,
    id: &[u8],
    to: Option<Object>,
    chunk: Bytes,
) -> Result<String, BlobError> {
    let mut writer = store.write(to.as_ref()).await?;
    let written = chunk.len() as u64;
    write_all(&mut *writer, chunk).await?;
    called.keep(shared, id, What::Writing(Some(Writing { writer, written })))?;
    Ok(shared.run.as_ref().to_owned())
}

async fn write_on(
    shared: &Shared,
    called: &Called<'_>,
    id: &[u8],
    at: u64,
    chunk: Bytes,
) -> Result<(), BlobError> {
    let mut taken: Taken<'_, Writing> = called.object(shared, id)?;
    let writing = taken.lent.as_mut().ok_or_else(gone)?;
    if writing.written != at {
        return Err(misplaced());
    }
    writing.written += chunk.len() as u64;
    write_all(&mut *writing.writer, chunk).await?;
    taken.give_back();
    Ok(())
}

async fn commit(
    shared: &Shared,
    called: &Called<'_>,
    id: &[u8],
    to: &Object,
    at: u64,
    chunk: Bytes,
) -> Result<(), BlobError> {
    let taken: Taken<'_, Writing> = called.object(shared, id)?;
    let Writing { mut writer, written } = taken.into_inner().ok_or_else(gone)?;
    if written != at {
        return Err(misplaced());
    }
    write_all(&mut *writer, chunk).await?;
    writer.commit(to).await
}
