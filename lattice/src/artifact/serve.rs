//! Answering those who fetch.
//!
//! Owns what this host does for others: it reads a part, fetches what it is asked to have, and looks at a copy that is
//! said to be damaged. Each is bounded, and what finds no room is refused at once.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{ArtifactDigest, Artifacts, FetchError, Stored};
use crate::envelope::{ArtifactAsk, ArtifactReply, ArtifactRequest, FailureKind};
use crate::subject::Address;
use crate::transport::{Handler, Served, Serving, TransportError};

/// Requests that are answered at once. Each read holds a chunk, so that they hold 16 MiB together.
const SERVED_MAX: usize = 64;
/// Requests to fetch that wait for its end; those beyond are told to ask again.
const WAITS_MAX: usize = 16;
/// How long one waits: less than who asks does.
const WAIT_MAX: Duration = Duration::from_secs(2);

struct Serve {
    artifacts: Artifacts,
    waits: Arc<Semaphore>,
    /// One copy is looked at, at a time: that reads all of it.
    looks: Arc<Semaphore>,
}

pub(super) async fn serve(artifacts: &Artifacts) -> Result<Served, TransportError> {
    let shared = &artifacts.0.shared;
    let subject = shared.subjects.artifact(shared.address.as_str());
    let subject = subject.expect("an address is a token, as it was parsed");
    let handler = Serve {
        artifacts: artifacts.clone(),
        waits: Arc::new(Semaphore::new(WAITS_MAX)),
        looks: Arc::new(Semaphore::new(1)),
    };
    let serving = Serving {
        concurrency: SERVED_MAX,
    };
    shared.transport.serve(subject, serving, Arc::new(handler)).await
}

impl Handler for Serve {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let ArtifactRequest { digest, ask } = match ArtifactRequest::decode(&request) {
            Ok(request) => request,
            Err(error) => {
                let refused = ArtifactReply::failed(FailureKind::Unavailable, error.to_string());
                return futures::future::ready(Some(refused.encode())).boxed();
            }
        };
        let artifacts = self.artifacts.clone();
        match ask {
            ArtifactAsk::Read { offset, len } => {
                async move { Some(read(&artifacts, digest, offset, len).await.encode()) }.boxed()
            }
            ArtifactAsk::Fetch(from) => {
                let waits = self.waits.clone();
                async move { Some(take(&artifacts, digest, from, &waits).await.encode()) }.boxed()
            }
            ArtifactAsk::Damaged => {
                let reply = ArtifactReply::Have(artifacts.0.shared.store.has(digest));
                self.look(digest);
                futures::future::ready(Some(reply.encode())).boxed()
            }
        }
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        let detail = format!("{SERVED_MAX} requests for artifacts run here already");
        Some(ArtifactReply::failed(FailureKind::Overloaded, detail).encode())
    }
}

impl Serve {
    /// Looks at a copy, unless one is looked at: whoever meets the damage again says so again.
    fn look(&self, digest: ArtifactDigest) {
        let shared = &self.artifacts.0.shared;
        let Ok(place) = self.looks.clone().try_acquire_owned() else {
            return;
        };
        if !shared.store.has(digest) {
            return;
        }
        let verified = shared.store.verify(digest);
        self.artifacts.spawn(async move {
            let _place = place;
            if verified.await {
                tracing::warn!(%digest, "another host got a damaged copy of an artifact that is whole here");
            } else {
                tracing::error!(%digest, "an artifact was damaged on this host's disk, and is dropped: look at the disk");
            }
        });
    }
}

async fn read(artifacts: &Artifacts, digest: ArtifactDigest, offset: u64, len: u64) -> ArtifactReply {
    let shared = &artifacts.0.shared;
    let len_max = shared.chunk_len_max();
    let len = usize::try_from(len).map_or(len_max, |len| len.min(len_max));
    match shared.store.read(digest, offset, len).await {
        Ok(Some(Stored { size, data })) => {
            shared.counters.served_chunks.fetch_add(1, Relaxed);
            shared.counters.served_bytes.fetch_add(data.len() as u64, Relaxed);
            ArtifactReply::Part { size, data }
        }
        Ok(None) => ArtifactReply::failed(FailureKind::NotFound, "it is not here"),
        Err(error) => {
            tracing::error!(%digest, %error, "failed to read an artifact for another host");
            ArtifactReply::failed(
                FailureKind::Unavailable,
                format!("it can't be read here: {error}"),
            )
        }
    }
}

/// Takes an artifact that `from` has.
async fn take(
    artifacts: &Artifacts,
    digest: ArtifactDigest,
    from: Address,
    waits: &Semaphore,
) -> ArtifactReply {
    if artifacts.0.shared.store.has(digest) {
        return ArtifactReply::Have(true);
    }
    let failed = |error: FetchError| {
        let kind = match error {
            FetchError::Full => FailureKind::Overloaded,
            _ => FailureKind::Unavailable,
        };
        ArtifactReply::failed(kind, error.to_string())
    };
    // What it asked for before, if that has failed since.
    if let Some(error) = artifacts.failed(digest) {
        return failed(error);
    }
    let running = match artifacts.join(digest, &[from]) {
        Ok((running, _)) => running,
        Err(error) => return failed(error),
    };
    let Ok(_place) = waits.try_acquire() else {
        return ArtifactReply::Have(false);
    };
    match timeout(WAIT_MAX, running.wait(digest)).await {
        Ok(Ok(())) => ArtifactReply::Have(true),
        Ok(Err(_)) => match artifacts.failed(digest) {
            Some(error) => failed(error),
            None => ArtifactReply::Have(false),
        },
        Err(_) => ArtifactReply::Have(false),
    }
}
