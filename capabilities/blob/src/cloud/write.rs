//! An object on its way into a cloud.
//!
//! A small one is one request. A large one goes in parts as it comes, if it is known where to; else it is kept in a file
//! until it is. No more than two parts are in memory.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use weft_capabilities::blob_store::check_chunk;
use weft_capabilities::{BlobError, BlobWriter, Object};

use super::{Inner, blocking, error, key};
use crate::staging::Staged;

/// Bytes of a part: the least that S3 takes. The largest object has 1,024, of the 10,000 that it may have.
const PART_LEN: usize = 5 << 20;
/// How long a writer waits until another one ends.
const WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) struct Writer {
    inner: Arc<Inner>,
    to: Option<Object>,
    pending: BytesMut,
    size: u64,
    /// Gone after an error, and while a part is on its way.
    sent: Option<Sent>,
    _seat: OwnedSemaphorePermit,
}

/// What became of the parts before.
enum Sent {
    /// There were none.
    Nothing,
    /// The server has them.
    Parts(Upload),
    /// They are in a file.
    File(Staged),
}

/// An upload in parts, which is taken back unless it was completed.
struct Upload {
    parts: Option<Box<dyn MultipartUpload>>,
    inner: Arc<Inner>,
}

impl Upload {
    async fn start(inner: &Arc<Inner>, to: &Object) -> Result<Self, BlobError> {
        inner.container(to.container()).await?;
        let key = key::object(&inner.prefix, to)?;
        let parts = inner.cloud.put_multipart(&key).await.map_err(error::of)?;
        Ok(Self {
            parts: Some(parts),
            inner: inner.clone(),
        })
    }

    async fn part(mut self, part: Bytes) -> Result<Self, BlobError> {
        if let Some(parts) = &mut self.parts {
            parts.put_part(part.into()).await.map_err(error::of)?;
        }
        Ok(self)
    }

    async fn complete(mut self) -> Result<(), BlobError> {
        if let Some(parts) = &mut self.parts {
            parts.complete().await.map_err(error::of)?;
        }
        self.parts = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            let end = async move {
                if let Err(error) = parts.abort().await {
                    tracing::warn!(target: "weft", %error, "failed to take back the parts of an object that was not written");
                }
            };
            self.inner.tasks.spawn_on(end, &self.inner.runtime);
        }
    }
}

impl Writer {
    pub(super) async fn start(
        inner: Arc<Inner>,
        to: Option<Object>,
    ) -> Result<Box<dyn BlobWriter>, BlobError> {
        let seat = timeout(WAIT_MAX, inner.writers.clone().acquire_owned()).await;
        let seat = seat
            .map_err(|_| BlobError::Overloaded)?
            .map_err(|_| BlobError::Closed)?;
        Ok(Box::new(Self {
            inner,
            to,
            pending: BytesMut::new(),
            size: 0,
            sent: Some(Sent::Nothing),
            _seat: seat,
        }))
    }
}

/// Puts one part away.
async fn put_away(inner: Arc<Inner>, to: Option<Object>, sent: Sent, part: Bytes) -> Result<Sent, BlobError> {
    match (sent, to) {
        (Sent::Parts(upload), _) => upload.part(part).await.map(Sent::Parts),
        (Sent::Nothing, Some(to)) => Upload::start(&inner, &to)
            .await?
            .part(part)
            .await
            .map(Sent::Parts),
        (sent, _) => {
            blocking(move || {
                let mut staged = match sent {
                    Sent::File(staged) => staged,
                    _ => inner.staging.file()?,
                };
                staged.file.write_all(&part)?;
                Ok(Sent::File(staged))
            })
            .await
        }
    }
}

/// Makes an object of what was put away and the last part.
async fn commit(inner: Arc<Inner>, to: Object, sent: Sent, last: Bytes) -> Result<(), BlobError> {
    match sent {
        Sent::Nothing => {
            inner.container(to.container()).await?;
            let put = inner
                .cloud
                .put(&key::object(&inner.prefix, &to)?, last.into())
                .await;
            put.map(drop).map_err(error::of)
        }
        Sent::Parts(upload) if last.is_empty() => upload.complete().await,
        Sent::Parts(upload) => upload.part(last).await?.complete().await,
        Sent::File(mut staged) => {
            let mut upload = Upload::start(&inner, &to).await?;
            let mut staged = blocking(move || {
                staged.file.write_all(&last)?;
                staged.file.seek(SeekFrom::Start(0))?;
                Ok(staged)
            })
            .await?;
            loop {
                let mut part = Vec::with_capacity(PART_LEN);
                (staged, part) = blocking(move || {
                    let file = std::io::Read::by_ref(&mut staged.file);
                    file.take(PART_LEN as u64).read_to_end(&mut part)?;
                    Ok((staged, part))
                })
                .await?;
                if part.is_empty() {
                    return upload.complete().await;
                }
                upload = upload.part(part.into()).await?;
            }
        }
    }
}

fn ended() -> BlobError {
    BlobError::Backend("the write failed before, or was given up".into())
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            if let Err(error) = check_chunk(self.size, &chunk, self.inner.object_size_max) {
                self.sent = None;
                return Err(error);
            }
            self.size += chunk.len() as u64;
            self.pending.extend_from_slice(&chunk);
            if self.pending.len() >= PART_LEN {
                let part = self.pending.split_to(PART_LEN).freeze();
                let sent = self.sent.take().ok_or_else(ended)?;
                let put = put_away(self.inner.clone(), self.to.clone(), sent, part);
                self.sent = Some(self.inner.run(put).await?);
            }
            Ok(())
        }
        .boxed()
    }

    fn commit<'a>(mut self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        async move {
            if self.to.as_ref().is_some_and(|told| told != to) {
                return Err(BlobError::Backend("the object was to go elsewhere".into()));
            }
            let sent = self.sent.take().ok_or_else(ended)?;
            let commit = commit(
                self.inner.clone(),
                to.clone(),
                sent,
                self.pending.split().freeze(),
            );
            self.inner.run(commit).await
        }
        .boxed()
    }
}
