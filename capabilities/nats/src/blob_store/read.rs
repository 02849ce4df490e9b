//! An object that is being read, chunk by chunk; of what follows, one is asked for ahead.
//!
//! Where chunk number k is in the stream is not known, but between two chunks of one object there are at least as many
//! messages as chunks. So from the place of chunk j, chunk k is at least k - j places on: whoever asks for the first chunk
//! from there on gets it, or one between them, if others wrote meanwhile, and asks again from that one's place. Objects of
//! other clients are read from their beginning.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::{StreamExt, stream as streams};
use tokio::sync::OwnedSemaphorePermit;
use weft_capabilities::blob_store::{CHUNK_LEN_MAX, within};
use weft_capabilities::{BlobError, BlobRead};

use super::Inner;
use super::bucket::{Chunk, Meta};
use super::name::Bucket;
use crate::link::Connection;
use crate::replies::Waiting;

pub(super) struct Reader {
    store: Arc<Inner>,
    bucket: Bucket,
    nuid: String,
    /// Whether chunks say which they are.
    is_numbered: bool,
    /// Bytes of the chunk that came last, which are wanted and not yet given.
    bytes: Bytes,
    /// Wanted bytes after those.
    left: u64,
    /// Where the next chunk is, or after it.
    sequence: u64,
    /// Which one it is.
    index: u64,
    /// It was asked for.
    ahead: Option<Waiting>,
    _seat: OwnedSemaphorePermit,
}

impl Reader {
    /// Starts to read a part of an object; its first chunk comes at once, so that an early error has a caller.
    pub(super) async fn start(
        store: Arc<Inner>,
        bucket: Bucket,
        meta: &Meta,
        range: Range<u64>,
        seat: OwnedSemaphorePermit,
    ) -> Result<BlobRead, BlobError> {
        let range = within(&range, meta.size)?;
        let size = range.end - range.start;
        if size == 0 {
            return Ok(BlobRead {
                size,
                chunks: streams::empty().boxed(),
            });
        }
        let nuid = meta
            .chunks_of()
            .ok_or_else(|| broken("its name is none of NATS"))?;
        let mut reader = Self {
            store,
            bucket,
            nuid: nuid.to_owned(),
            is_numbered: meta.chunk_len().is_some(),
            bytes: Bytes::new(),
            left: size,
            sequence: 1,
            index: 0,
            ahead: None,
            _seat: seat,
        };
        match meta.chunk_len() {
            Some(chunk_len) => reader.jump(range.start, chunk_len).await?,
            None => reader.walk(range.start).await?,
        }
        Ok(BlobRead {
            size,
            chunks: streams::try_unfold(reader, async |mut reader: Self| {
                let bytes = reader.next().await?;
                Ok::<_, BlobError>(bytes.map(|bytes| (bytes, reader)))
            })
            .boxed(),
        })
    }

    /// Goes to the chunk that has the byte `start`, of which all but the last are `chunk_len` long.
    async fn jump(&mut self, start: u64, chunk_len: u64) -> Result<(), BlobError> {
        let wanted = start / chunk_len;
        loop {
            let chunk = self
                .chunk(self.sequence.saturating_add(wanted - self.index))
                .await?;
            match chunk.index {
                Some(index) if index == wanted => {
                    self.index = index;
                    return self.take(chunk, start % chunk_len).await;
                }
                // Chunks come in their order, so each time it is a later one.
                Some(index) if (self.index..wanted).contains(&index) => {
                    self.index = index + 1;
                    self.sequence = chunk.sequence.saturating_add(1);
                }
                _ => return Err(broken("a chunk is missing, or is not where it should be")),
            }
        }
    }

    /// Goes there chunk by chunk.
    async fn walk(&mut self, start: u64) -> Result<(), BlobError> {
        let mut before = 0;
        loop {
            let chunk = self.chunk(self.sequence).await?;
            let after = before + chunk.bytes.len() as u64;
            if start < after {
                return self.take(chunk, start - before).await;
            }
            before = after;
            self.sequence = chunk.sequence.saturating_add(1);
        }
    }

    /// Takes the chunk that was wanted, without its first `skipped` bytes, and asks for the one after it.
    async fn take(&mut self, chunk: Chunk, skipped: u64) -> Result<(), BlobError> {
        let mut bytes = chunk.bytes;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        if skipped >= bytes.len() {
            return Err(broken("a chunk is shorter than it should be"));
        }
        bytes.advance(skipped);
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= bytes.len() as u64;
        self.bytes = bytes;
        self.sequence = chunk.sequence.saturating_add(1);
        self.index += 1;
        if self.left > 0 {
            // If that fails, it is asked for again when it is wanted.
            let (bucket, nuid, sequence) = (&self.bucket, &self.nuid, self.sequence);
            let until = self.store.link.deadline();
            let asked = self.store.with(until, async move |connection: Connection| {
                Ok(bucket.ask_for_chunk(&connection, nuid, sequence).await?)
            });
            self.ahead = asked.await.ok();
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.bytes.is_empty() && self.left > 0 {
            let chunk = match self.given().await {
                Some(chunk) => chunk,
                None => self.chunk(self.sequence).await?,
            };
            if self.is_numbered && chunk.index != Some(self.index) {
                return Err(broken("a chunk is missing, or is not where it should be"));
            }
            self.take(chunk, 0).await?;
        }
        if self.bytes.is_empty() {
            return Ok(None);
        }
        // Other clients may have written larger ones.
        let len = self.bytes.len().min(CHUNK_LEN_MAX);
        Ok(Some(self.bytes.split_to(len)))
    }

    /// The chunk that was asked for ahead, if it came.
    async fn given(&mut self) -> Option<Chunk> {
        let waiting = self.ahead.take()?;
        let until = self.store.link.deadline();
        self.store.link.within(until, Bucket::given(waiting)).await.ok()?
    }

    async fn chunk(&self, sequence: u64) -> Result<Chunk, BlobError> {
        let (bucket, nuid) = (&self.bucket, &self.nuid);
        let until = self.store.link.deadline();
        let asked = self.store.with(until, async move |connection: Connection| {
            bucket.chunk(&connection, nuid, sequence).await
        });
        asked.await?.ok_or_else(|| {
            let text = "the object was replaced or deleted, and its bytes were kept no longer: read it again";
            BlobError::Unavailable(text.to_owned())
        })
    }
}

fn broken(text: &str) -> BlobError {
    BlobError::Backend(format!("the object can't be read as it is in NATS: {text}; write it again").into())
}
