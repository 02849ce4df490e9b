//! Fetching one artifact: chunks of one host after the other, until the digest is right.
//!
//! A host that fails in the middle leaves a part that the next one goes on with. If that comes out wrong, nobody knows
//! whose bytes were: the last host is asked for all of it, alone. So one host that has the artifact and answers is enough,
//! whatever the others do, and a host is only said to have a damaged copy for bytes that were all its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::{ArtifactDigest, FetchError, PAUSE_MIN, Part, REPLY_MAX, Shared, Stored, TRIES_MAX, WINDOW};
use crate::envelope::{ArtifactAsk, ArtifactReply, ArtifactRequest, EnvelopeError, Failure, FailureKind};
use crate::subject::{Address, Subject, SubjectError};
use crate::transport::TransportError;

/// How long a holder has to say that it heard that its copy is damaged. Nothing hangs on it.
const TELL_MAX: Duration = Duration::from_secs(1);

/// Why a host did not give an artifact.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// It does not answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Its address can't be part of a subject.
    #[error(transparent)]
    Address(#[from] SubjectError),
    /// It says why not.
    #[error("{0}")]
    Refused(Failure),
    /// What it says can't be read.
    #[error("its answer can't be read: {0}; is it of another version?")]
    Unreadable(EnvelopeError),
    /// What it says is no answer to what it was asked, or contradicts what it said before.
    #[error("it answers what it was not asked: {0}")]
    Contradiction(&'static str),
    /// It is longer than this host takes.
    #[error("it has {size} bytes, and this host takes {len_max}")]
    TooLarge {
        /// Its length.
        size: u64,
        /// The longest that is taken.
        len_max: u64,
    },
    /// All of its bytes came, and their digest is another.
    #[error("its copy is damaged: look at its disk")]
    Damaged,
}

/// Whose fault it is that a copy was not had.
enum Stop {
    Source(SourceError),
    Store(io::Error),
}

impl<E: Into<SourceError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Source(error.into())
    }
}

/// What has come so far.
struct Building {
    part: Box<dyn Part>,
    hash: Sha256,
    len: u64,
    /// As told by who sent the first bytes.
    size: Option<u64>,
    /// Whether bytes of more than one host are in it.
    mixed: bool,
}

impl Building {
    async fn append(&mut self, data: Bytes) -> Result<(), Stop> {
        self.hash.update(&data);
        self.len += data.len() as u64;
        self.part.append(data).await.map_err(Stop::Store)
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.part.restart().await?;
        (self.hash, self.len, self.size, self.mixed) = (Sha256::new(), 0, None, false);
        Ok(())
    }

    /// Whether this is the artifact; the hash begins anew.
    fn is(&mut self, digest: ArtifactDigest) -> bool {
        <[u8; 32]>::from(self.hash.finalize_reset()) == digest.0
    }
}

/// Fetches the artifact into the store. Who gave the last of it, and its length.
pub(super) async fn fetch(
    shared: &Shared,
    digest: ArtifactDigest,
    sources: &[Address],
) -> Result<(Address, u64), FetchError> {
    let broken = |source: io::Error| FetchError::Store {
        digest,
        source: Arc::new(source),
    };
    let mut building = Building {
        part: shared.store.begin(digest).await.map_err(broken)?,
        hash: Sha256::new(),
        len: 0,
        size: None,
        mixed: false,
    };
    let mut failed = Vec::new();
    for source in sources {
        loop {
            match copy(shared, digest, source, &mut building).await {
                Ok(()) if building.is(digest) => {
                    let len = building.len;
                    building.part.finish().await.map_err(broken)?;
                    return Ok((source.clone(), len));
                }
                Ok(()) => {
                    let mixed = building.mixed;
                    building.restart().await.map_err(broken)?;
                    if mixed {
                        continue;
                    }
                    shared.counters.refused_copies.fetch_add(1, Relaxed);
                    tracing::error!(%digest, host = %source, "refused a damaged copy of an artifact: look at that host's disk");
                    tell(shared, digest, source).await;
                    failed.push((source.clone(), SourceError::Damaged));
                }
                Err(Stop::Source(error)) => failed.push((source.clone(), error)),
                Err(Stop::Store(error)) => return Err(broken(error)),
            }
            break;
        }
    }
    Err(FetchError::Sources {
        digest,
        sources: failed.into(),
    })
}

/// Copies from `source` what is missing.
async fn copy(
    shared: &Shared,
    digest: ArtifactDigest,
    source: &Address,
    building: &mut Building,
) -> Result<(), Stop> {
    let asking = Asking {
        shared,
        subject: shared.subjects.artifact(source.as_str())?,
        digest,
    };
    let len_max = shared.chunk_len_max();
    // The first tells how long it is, and how much the source sends at once.
    let mut first = asking.read(building.len, len_max as u64).await?;
    if building.size.is_some_and(|size| size != first.size) || building.len > first.size {
        // One of the two is wrong.
        building.restart().await.map_err(Stop::Store)?;
        first = asking.read(0, len_max as u64).await?;
    }
    let size = first.size;
    let taken = shared.store.len_max();
    if size > taken {
        let len_max = taken;
        return Err(SourceError::TooLarge { size, len_max }.into());
    }
    building.mixed |= building.len > 0;
    building.size = Some(size);
    let step = first.data.len() as u64;
    if step == 0 && building.len < size {
        return Err(SourceError::Contradiction("nothing, before the end").into());
    }
    building.append(first.data).await?;
    let parts = (building.len..size).step_by(usize::try_from(step).unwrap_or(len_max).max(1));
    let parts = parts.map(|offset| asking.read_exactly(offset, step.min(size - offset), size));
    let mut parts = stream::iter(parts).buffered(WINDOW);
    while let Some(data) = parts.try_next().await? {
        building.append(data).await?;
        // Hashing is work: others have their turn after each chunk.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Tells `source` that its copy is damaged, once: it looks itself.
async fn tell(shared: &Shared, digest: ArtifactDigest, source: &Address) {
    let Ok(subject) = shared.subjects.artifact(source.as_str()) else {
        return;
    };
    let ask = ArtifactAsk::Damaged;
    let message = ArtifactRequest { digest, ask }.encode();
    let told = shared.transport.request(&subject, message, TELL_MAX).await;
    if let Err(error) = told {
        tracing::debug!(%digest, host = %source, %error, "failed to tell a host that its copy is damaged");
    }
}

struct Asking<'s> {
    shared: &'s Shared,
    subject: Subject,
    digest: ArtifactDigest,
}

impl Asking<'_> {
    /// At most `len` bytes; asked for again if no answer comes, which may be lost.
    async fn read(&self, offset: u64, len: u64) -> Result<Stored, SourceError> {
        let ask = ArtifactAsk::Read { offset, len };
        let digest = self.digest;
        let message = ArtifactRequest { digest, ask }.encode();
        let mut tries = 1;
        loop {
            let asked = self
                .shared
                .transport
                .request(&self.subject, message.clone(), REPLY_MAX);
            let error = match asked.await.map(|reply| ArtifactReply::decode(&reply)) {
                Ok(Ok(ArtifactReply::Part { size, data })) => {
                    let wanted = len.min(size.saturating_sub(offset));
                    if data.len() as u64 > wanted {
                        return Err(SourceError::Contradiction("more than was asked for"));
                    }
                    let counters = &self.shared.counters;
                    counters.fetched_bytes.fetch_add(data.len() as u64, Relaxed);
                    return Ok(Stored { size, data });
                }
                Ok(Ok(ArtifactReply::Have(_))) => return Err(SourceError::Contradiction("no bytes")),
                Ok(Ok(ArtifactReply::Failed(failure))) if failure.kind == FailureKind::Overloaded => {
                    SourceError::Refused(failure)
                }
                Ok(Ok(ArtifactReply::Failed(failure))) => return Err(SourceError::Refused(failure)),
                Ok(Err(error)) => return Err(SourceError::Unreadable(error)),
                Err(error @ (TransportError::NoResponders(_) | TransportError::TooLarge { .. })) => {
                    return Err(error.into());
                }
                Err(error) => error.into(),
            };
            if tries == TRIES_MAX {
                return Err(error);
            }
            sleep(PAUSE_MIN * 2_u32.pow(tries)).await;
            tries += 1;
        }
    }

    /// `len` bytes of an artifact that has `size`.
    async fn read_exactly(&self, offset: u64, len: u64, size: u64) -> Result<Bytes, SourceError> {
        let part = self.read(offset, len).await?;
        if part.size != size {
            return Err(SourceError::Contradiction("another length than before"));
        }
        if part.data.len() as u64 != len {
            return Err(SourceError::Contradiction("fewer bytes than before"));
        }
        Ok(part.data)
    }
}
