//! An object on its way into NATS.
//!
//! Its chunks go there as they come, if it is known where to; else it is kept in memory or in a file until it is.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use weft_capabilities::blob_store::{OBJECT_SIZE_MAX, check_chunk};
use weft_capabilities::{BlobError, BlobWriter, Object};

use super::bucket::{CHUNK, Last, Meta, MetaOptions};
use super::name::{self, Bucket};
use super::waste::Acknowledgements;
use super::{Inner, TRIES_MAX, seat};
use crate::error::Unanswered;
use crate::jetstream::{self, Failure};
use crate::link::Connection;

/// Bytes of a chunk, if the server takes as many in a message: enough that few messages make an object, and few enough
/// that those on their way are not many bytes.
const CHUNK_LEN: usize = 256 << 10;
/// Bytes of a message that are for its headers.
const HEADERS_LEN: usize = 256;
/// Chunks that are on their way at once, of one object: enough that the way to the server and back costs little.
const WINDOW: usize = 4;
/// Bytes of an object that are kept in memory before a file is made for them.
const MEMORY_LEN_MAX: usize = 1 << 20;
/// The longest pause before another try to replace an object.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// An object whose chunks are being sent. Dropped before it is committed, it leaves nothing.
pub(super) struct Upload {
    store: Arc<Inner>,
    bucket: Bucket,
    object: String,
    nuid: String,
    chunk_len: usize,
    /// What is not yet a chunk.
    pending: BytesMut,
    /// Chunks that were sent.
    chunks: u64,
    size: u64,
    digest: Sha256,
    /// Of those that are on their way.
    acknowledgements: Acknowledgements,
    /// Whether the chunks belong to nobody.
    is_waste: bool,
    _seat: OwnedSemaphorePermit,
}

impl Upload {
    pub(super) async fn start(
        store: Arc<Inner>,
        to: &Object,
        seat: OwnedSemaphorePermit,
    ) -> Result<Self, BlobError> {
        let until = store.link.deadline();
        let payload_max = store
            .with(until, async |connection: Connection| Ok(connection.payload_max()))
            .await?;
        let bucket = store.bucket(to.container());
        Ok(Self {
            bucket,
            object: to.name().to_owned(),
            nuid: name::nuid(to.name(), SystemTime::now()),
            chunk_len: payload_max.saturating_sub(HEADERS_LEN).clamp(1, CHUNK_LEN),
            pending: BytesMut::new(),
            chunks: 0,
            size: 0,
            digest: Sha256::new(),
            acknowledgements: Acknowledgements::new(),
            is_waste: false,
            store,
            _seat: seat,
        })
    }

    /// Adds bytes; returns when there is room for more.
    pub(super) async fn add(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.size += bytes.len() as u64;
        self.pending.extend_from_slice(bytes);
        while self.pending.len() >= self.chunk_len {
            let chunk = self.pending.split_to(self.chunk_len).freeze();
            self.send(chunk).await?;
        }
        Ok(())
    }

    async fn send(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        if self.acknowledgements.len() >= WINDOW {
            self.acknowledged().await?;
        }
        self.digest.update(&chunk);
        let mut headers = HeaderMap::new();
        headers.insert(CHUNK, self.chunks.to_string());
        let subject = self.bucket.chunks(&self.nuid);
        let until = self.store.link.deadline();
        self.is_waste = true;
        self.chunks += 1;
        // One is sent before the next is begun, so that they are in the stream in their order.
        let sent = self
            .store
            .with(until, async move |connection: Connection| {
                Ok(connection.ask(subject, Some(headers), chunk).await?)
            })
            .await?;
        self.acknowledgements.push(Box::pin(sent.arrived()));
        Ok(())
    }

    /// Waits until the server has one more chunk.
    async fn acknowledged(&mut self) -> Result<(), BlobError> {
        let until = self.store.link.deadline();
        let acknowledgements = &mut self.acknowledgements;
        let acknowledged = async {
            match acknowledgements.next().await {
                Some(answer) => jetstream::read_ack(&answer?.payload).map(drop),
                None => Ok(()),
            }
        };
        match self.store.link.within(until, acknowledged).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.store.why(&self.bucket, failure).await),
        }
    }

    /// Makes what was added the object.
    pub(super) async fn commit(mut self) -> Result<(), BlobError> {
        if !self.pending.is_empty() {
            let chunk = self.pending.split().freeze();
            self.send(chunk).await?;
        }
        while !self.acknowledgements.is_empty() {
            self.acknowledged().await?;
        }
        let meta = Meta {
            name: self.object.clone(),
            bucket: self.bucket.name().to_owned(),
            nuid: self.nuid.clone(),
            size: self.size,
            mtime: jiff::Timestamp::now().to_string(),
            chunks: self.chunks,
            digest: Some(format!(
                "SHA-256={}",
                URL_SAFE.encode(self.digest.finalize_reset())
            )),
            options: Some(MetaOptions {
                max_chunk_size: Some(self.chunk_len as u64),
                link: None,
            }),
            deleted: false,
        };
        let meta = serde_json::to_vec(&meta).map_err(|error| BlobError::Backend(Box::new(error)))?;
        self.say(meta.into()).await
    }

    /// Says what the object is now, and has the bytes purged of what it was.
    async fn say(&mut self, meta: Bytes) -> Result<(), BlobError> {
        let until = self.store.link.deadline();
        for tries in 0..TRIES_MAX {
            let (bucket, object, meta) = (&self.bucket, &self.object, meta.clone());
            let last = self
                .store
                .with(until, async move |connection: Connection| {
                    bucket.last(&connection, object).await
                })
                .await?;
            // From here on it may be said, also if the answer is lost or nobody waits for it: then a sweep finds out whose
            // the chunks are.
            self.is_waste = false;
            let expected = last.sequence;
            let said = self.store.with(until, async move |connection: Connection| {
                bucket.put(&connection, object, expected, meta).await
            });
            match said.await {
                Ok(true) => {
                    self.store.is_past(&self.bucket, &last);
                    return Ok(());
                }
                Ok(false) => {
                    self.is_waste = self.chunks > 0;
                    let pause = PAUSE_MAX.min(Duration::from_micros(100 << tries.min(10)));
                    sleep(pause.mul_f64(rand::random_range(0.0..1.0))).await;
                }
                Err(failure) => return self.may_be_said(&last, failure).await,
            }
        }
        Err(BlobError::Overloaded)
    }

    /// There was no answer, or none that says that it was not done.
    async fn may_be_said(&mut self, before: &Last, failure: Failure) -> Result<(), BlobError> {
        let is_unclear = matches!(
            failure,
            Failure::Unreadable(_) | Failure::Unanswered(Unanswered::Lost | Unanswered::Late(_))
        );
        if is_unclear {
            let now = self.store.last(&self.bucket, &self.object).await;
            if let Ok(Last {
                found: Some(found), ..
            }) = now
                && found.meta.nuid == self.nuid
            {
                self.store.is_past(&self.bucket, before);
                return Ok(());
            }
        } else {
            self.is_waste = self.chunks > 0;
        }
        Err(self.store.why(&self.bucket, failure).await)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_waste {
            let acknowledgements = std::mem::take(&mut self.acknowledgements);
            self.store
                .waste
                .given_up(&self.bucket, &self.nuid, acknowledgements);
        }
    }
}

/// What of an object goes nowhere yet.
struct Kept {
    memory: BytesMut,
    /// What came before. It has no name, so that nobody else finds it and nothing is left of it.
    file: Option<File>,
}

impl Kept {
    async fn add(&mut self, store: &Inner, bytes: &[u8]) -> Result<(), BlobError> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() < MEMORY_LEN_MAX {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let folder = store.folder.clone();
                let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
                let made = made.unwrap_or_else(|error| Err(io::Error::other(error)));
                none.insert(File::from_std(made.map_err(failed)?))
            }
        };
        file.write_all(&self.memory).await.map_err(failed)?;
        // What is written later tells of an error in what was written before.
        file.flush().await.map_err(failed)?;
        self.memory.clear();
        Ok(())
    }

    async fn send(mut self, upload: &mut Upload) -> Result<(), BlobError> {
        if let Some(mut file) = self.file.take() {
            file.rewind().await.map_err(failed)?;
            let mut piece = BytesMut::with_capacity(CHUNK_LEN);
            while file.read_buf(&mut piece).await.map_err(failed)? > 0 {
                upload.add(&piece).await?;
                piece.clear();
            }
        }
        upload.add(&self.memory).await
    }
}

fn failed(error: io::Error) -> BlobError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::Full,
        _ => BlobError::Backend(Box::new(error)),
    }
}

/// What becomes of what is written.
enum Place {
    Sent(Box<Upload>),
    Kept(Kept, OwnedSemaphorePermit),
}

pub(super) struct Writer {
    store: Arc<Inner>,
    to: Option<Object>,
    size: u64,
    /// Gone after an error, and while something is written.
    place: Option<Place>,
}

impl Writer {
    pub(super) async fn start(store: Arc<Inner>, to: Option<&Object>) -> Result<Self, BlobError> {
        let seat = seat(&store.writers).await?;
        let place = match to {
            Some(to) => Place::Sent(Box::new(Upload::start(store.clone(), to, seat).await?)),
            None => {
                let (memory, file) = (BytesMut::new(), None);
                Place::Kept(Kept { memory, file }, seat)
            }
        };
        Ok(Self {
            store,
            to: to.cloned(),
            size: 0,
            place: Some(place),
        })
    }
}

fn ended() -> BlobError {
    BlobError::Backend("the write failed before, or was given up".into())
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            let mut place = self.place.take().ok_or_else(ended)?;
            self.store.check_open()?;
            let size_max = self.store.options.object_size_max.min(OBJECT_SIZE_MAX);
            check_chunk(self.size, &chunk, size_max)?;
            self.size += chunk.len() as u64;
            match &mut place {
                Place::Sent(upload) => upload.add(&chunk).await?,
                Place::Kept(kept, _) => kept.add(&self.store, &chunk).await?,
            }
            self.place = Some(place);
            Ok(())
        }
        .boxed()
    }

    fn commit<'a>(mut self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        async move {
            if self.to.as_ref().is_some_and(|told| told != to) {
                return Err(BlobError::Backend("the object was to go elsewhere".into()));
            }
            let place = self.place.take().ok_or_else(ended)?;
            self.store.check_open()?;
            let (store, to) = (self.store.clone(), to.clone());
            let commit = async move {
                match place {
                    Place::Sent(upload) => upload.commit().await,
                    Place::Kept(kept, seat) => {
                        let mut upload = Upload::start(store, &to, seat).await?;
                        kept.send(&mut upload).await?;
                        upload.commit().await
                    }
                }
            };
            self.store.finish(commit).await
        }
        .boxed()
    }
}
