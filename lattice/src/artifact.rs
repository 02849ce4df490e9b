//! Artifacts: bytes that hosts fetch from each other by their digest.
//!
//! Owns who asks whom for which part ([`pull`]), how others are answered ([`serve`]), and that nothing is kept whose
//! digest is not the one that was asked for. Must not know what the bytes are, nor where they are kept: that is a
//! [`Store`]. However large an artifact is, [`WINDOW`] chunks of it are in memory at once.
//!
//! A digest is fetched once at a time, by a task that goes on when who asked for it has gone.

mod pull;
mod serve;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use self::pull::SourceError;
use crate::envelope::{ArtifactAsk, ArtifactReply, ArtifactRequest, EnvelopeError, Failure, FailureKind};
use crate::subject::{Address, SubjectError, Subjects};
use crate::transport::{Served, Transport, TransportError};

/// The most bytes that are asked for at once: large enough that a message costs little beside them, small enough that
/// calls of other hosts are not behind much.
pub const CHUNK_LEN_MAX: usize = 256 << 10;
/// What a reply takes beside its data, in bytes.
const REPLY_OVERHEAD: usize = 256;
/// Chunks of one artifact that are asked for at once: 2 MiB fill a line of 100 ms and 160 Mbit/s.
pub const WINDOW: usize = 8;
/// Artifacts that are fetched at once; the others wait. With the window it bounds the memory to 8 MiB.
const FETCHES_AT_ONCE: usize = 4;
/// Artifacts that are fetched or wait for it: more than an app has actors.
const FETCHES_MAX: usize = 1_024;
/// Hosts that one fetch asks. Whoever has a longer list should look whether it is the right one.
const SOURCES_MAX: usize = 16;
/// How long one fetch may take: 256 MiB at 4 Mbit/s.
const FETCH_MAX: Duration = Duration::from_secs(600);
/// How long another host may take to fetch, its queue included.
const REPLICATE_MAX: Duration = Duration::from_secs(600);
/// How long a request may take. A holder reads one chunk from its disk.
const REPLY_MAX: Duration = Duration::from_secs(5);
/// How often a request that got no answer is made.
const TRIES_MAX: u32 = 4;
/// Before the second try; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(800);
/// For how long it is remembered that a fetch failed, for a host that asked for it and asks again.
const FAILURE_KEPT: Duration = Duration::from_secs(10);

/// The sha256 of an artifact's bytes: its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactDigest(pub [u8; 32]);

/// Where a host keeps artifacts. Whoever implements it does disk work off the runtime's threads.
pub trait Store: Send + Sync + 'static {
    /// Whether the artifact is here, whole. At most a look at a folder.
    fn has(&self, digest: ArtifactDigest) -> bool;

    /// At most `len` bytes from `offset` on, and the length of the whole; `None` if it is not here.
    fn read(
        &self,
        digest: ArtifactDigest,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, io::Result<Option<Stored>>>;

    /// A place to write an artifact to.
    fn begin(&self, digest: ArtifactDigest) -> BoxFuture<'static, io::Result<Box<dyn Part>>>;

    /// Looks whether the bytes are still what their digest says, and drops them if they are not. Whether they are here
    /// after that.
    fn verify(&self, digest: ArtifactDigest) -> BoxFuture<'static, bool>;

    /// The longest artifact that is taken, in bytes.
    fn len_max(&self) -> u64;
}

/// Some bytes of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The length of the whole.
    pub size: u64,
    /// The bytes.
    pub data: Bytes,
}

/// An artifact that is being written. Nobody reads it before it is finished; dropped before that, nothing is left of it.
pub trait Part: Send + 'static {
    /// Puts `data` behind what is there.
    fn append(&mut self, data: Bytes) -> BoxFuture<'_, io::Result<()>>;

    /// Throws away what is there.
    fn restart(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// The artifact is whole and its digest right: it is kept from now on. It survives a loss of power after that.
    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// Fetches artifacts, and answers those who fetch. Clones are the same; with the last one its tasks end.
#[derive(Clone)]
pub struct Artifacts(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

/// What a host and its tasks both have.
struct Shared {
    transport: Arc<dyn Transport>,
    subjects: Subjects,
    address: Address,
    store: Arc<dyn Store>,
    /// In order, so that a run that is repeated by its seed is the same.
    fetches: Mutex<BTreeMap<ArtifactDigest, Running>>,
    places: Arc<Semaphore>,
    counters: Counters,
}

/// A fetch that waits, runs, or has failed.
#[derive(Clone)]
struct Running {
    ended: watch::Receiver<Option<Ended>>,
}

#[derive(Clone)]
struct Ended {
    outcome: Result<(), FetchError>,
    at: Instant,
}

#[derive(Default)]
struct Counters {
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    failed: AtomicU64,
    refused_copies: AtomicU64,
    served_chunks: AtomicU64,
    served_bytes: AtomicU64,
}

/// Numbers since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArtifactStats {
    /// Artifacts that came from other hosts.
    pub fetched: u64,
    /// Bytes that came from other hosts, those that were refused too.
    pub fetched_bytes: u64,
    /// Fetches that no host could satisfy.
    pub failed: u64,
    /// Copies that were refused, as their digest is another.
    pub refused_copies: u64,
    /// Parts that other hosts were sent.
    pub served_chunks: u64,
    /// Their bytes.
    pub served_bytes: u64,
    /// Fetches that run or wait now.
    pub running: u64,
}

/// Why an artifact was not fetched. Nothing of it is kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// There is nobody to ask.
    #[error("no other host is known that may have {0}: push it again")]
    NoSource(ArtifactDigest),
    /// Nobody gave it.
    #[error("failed to fetch {digest} from {}", told(.sources))]
    Sources {
        /// The artifact.
        digest: ArtifactDigest,
        /// Each host that was asked, and what was wrong.
        sources: Arc<[(Address, SourceError)]>,
    },
    /// It can't be kept here.
    #[error("failed to keep {digest}: is there space, and may this user write there?")]
    Store {
        /// The artifact.
        digest: ArtifactDigest,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Too many are fetched.
    #[error("{FETCHES_MAX} artifacts are being fetched already: try again when some have come")]
    Full,
    /// It took too long.
    #[error("fetching {0} took more than {max} s: is the line to the other hosts slow?", max = FETCH_MAX.as_secs())]
    TooLong(ArtifactDigest),
    /// The host stops.
    #[error("fetching {0} was broken off, as the host stops")]
    Broken(ArtifactDigest),
}

/// Hosts that an error names, so that it can be read in a lattice of hundreds.
const TOLD_MAX: usize = 8;

fn told(sources: &[(Address, SourceError)]) -> String {
    let told = sources.iter().map(|(host, error)| format!("{host} ({error})"));
    let told = told.take(TOLD_MAX).collect::<Vec<_>>().join(", ");
    match sources.len().saturating_sub(TOLD_MAX) {
        0 => told,
        more => format!("{told}, and {more} more"),
    }
}

/// Why another host did not take an artifact.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReplicateError {
    /// It does not answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Its address can't be part of a subject.
    #[error(transparent)]
    Address(#[from] SubjectError),
    /// It can't fetch it.
    #[error("{host} did not take {digest}: {failure}")]
    Refused {
        /// Who.
        host: Address,
        /// The artifact.
        digest: ArtifactDigest,
        /// Why.
        failure: Failure,
    },
    /// It says something else.
    #[error("{host} gave no answer that this host understands; is it of another version?")]
    Answer {
        /// Who.
        host: Address,
        /// Why.
        #[source]
        source: Option<EnvelopeError>,
    },
    /// It took too long.
    #[error("{host} did not take {digest} within {max} s", max = REPLICATE_MAX.as_secs())]
    TooLong {
        /// Who.
        host: Address,
        /// The artifact.
        digest: ArtifactDigest,
    },
}

impl Artifacts {
    /// Those of the host at `address`, kept in `store`, that go over `transport`, the connection for bulk.
    pub fn new(
        transport: Arc<dyn Transport>,
        subjects: Subjects,
        address: Address,
        store: Arc<dyn Store>,
    ) -> Self {
        let shared = Arc::new(Shared {
            transport,
            subjects,
            address,
            store,
            fetches: Mutex::default(),
            places: Arc::new(Semaphore::new(FETCHES_AT_ONCE)),
            counters: Counters::default(),
        });
        let tasks = Mutex::default();
        Self(Arc::new(Inner { shared, tasks }))
    }

    /// Answers other hosts until what is returned is dropped.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn serve(&self) -> Result<Served, TransportError> {
        serve::serve(self).await
    }

    /// Makes sure that the artifact is here: asks `sources` for it, one after the other. Whoever asks for what is being
    /// fetched waits for that. Dropping the future ends only the wait.
    ///
    /// # Errors
    /// [`FetchError`]; nothing is kept then.
    pub async fn fetch(&self, digest: ArtifactDigest, sources: &[Address]) -> Result<(), FetchError> {
        let mut joined = false;
        loop {
            if self.0.shared.store.has(digest) {
                return Ok(());
            }
            let (running, own) = self.join(digest, sources)?;
            let outcome = running.wait(digest).await;
            // Who was there first may have asked others: then it is tried once more.
            if own || joined || outcome.is_ok() {
                return outcome;
            }
            joined = true;
        }
    }

    /// Makes another host fetch the artifact from this one. When it returns, `to` has it, whole and on disk.
    ///
    /// # Errors
    /// [`ReplicateError`]; it may come to have it later all the same.
    pub async fn replicate(&self, digest: ArtifactDigest, to: &Address) -> Result<(), ReplicateError> {
        let too_long = |_| ReplicateError::TooLong {
            host: to.clone(),
            digest,
        };
        let asked = timeout(REPLICATE_MAX, self.ask_to_fetch(digest, to)).await;
        asked.map_err(too_long).flatten()
    }

    async fn ask_to_fetch(&self, digest: ArtifactDigest, to: &Address) -> Result<(), ReplicateError> {
        let shared = &self.0.shared;
        let subject = shared.subjects.artifact(to.as_str())?;
        let ask = ArtifactAsk::Fetch(shared.address.clone());
        let message = ArtifactRequest { digest, ask }.encode();
        let (mut pause, mut unanswered) = (PAUSE_MIN, 0);
        loop {
            let asked = shared.transport.request(&subject, message.clone(), REPLY_MAX);
            match asked.await.map(|reply| ArtifactReply::decode(&reply)) {
                Ok(Ok(ArtifactReply::Have(true))) => return Ok(()),
                Ok(Ok(ArtifactReply::Have(false))) => unanswered = 0,
                Ok(Ok(ArtifactReply::Failed(failure))) if failure.kind == FailureKind::Overloaded => {
                    unanswered = 0;
                }
                Ok(Ok(ArtifactReply::Failed(failure))) => {
                    return Err(ReplicateError::Refused {
                        host: to.clone(),
                        digest,
                        failure,
                    });
                }
                Ok(answer) => {
                    return Err(ReplicateError::Answer {
                        host: to.clone(),
                        source: answer.err(),
                    });
                }
                Err(TransportError::NoResponders(subject)) => {
                    return Err(TransportError::NoResponders(subject).into());
                }
                Err(error) => {
                    unanswered += 1;
                    if unanswered >= TRIES_MAX {
                        return Err(error.into());
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Numbers since the start.
    pub fn stats(&self) -> ArtifactStats {
        let shared = &self.0.shared;
        let counters = &shared.counters;
        let running = shared.lock().values().filter(|fetch| fetch.runs()).count();
        ArtifactStats {
            fetched: counters.fetched.load(Relaxed),
            fetched_bytes: counters.fetched_bytes.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            refused_copies: counters.refused_copies.load(Relaxed),
            served_chunks: counters.served_chunks.load(Relaxed),
            served_bytes: counters.served_bytes.load(Relaxed),
            running: running as u64,
        }
    }

    /// The fetch that runs, or a new one; whether it is new.
    fn join(&self, digest: ArtifactDigest, sources: &[Address]) -> Result<(Running, bool), FetchError> {
        let shared = &self.0.shared;
        let mut fetches = shared.lock();
        if let Some(running) = fetches.get(&digest).filter(|fetch| fetch.runs()) {
            return Ok((running.clone(), false));
        }
        let mut asked: Vec<Address> = Vec::new();
        for source in sources {
            if *source != shared.address && !asked.contains(source) && asked.len() < SOURCES_MAX {
                asked.push(source.clone());
            }
        }
        if asked.is_empty() {
            return Err(FetchError::NoSource(digest));
        }
        if fetches.len() >= FETCHES_MAX {
            fetches.retain(|_, fetch| fetch.runs());
        }
        if fetches.len() >= FETCHES_MAX {
            return Err(FetchError::Full);
        }
        let (done, ended) = watch::channel(None);
        let running = Running { ended };
        fetches.insert(digest, running.clone());
        drop(fetches);
        let shared = shared.clone();
        self.spawn(async move {
            let outcome = shared.run(digest, &asked).await;
            let mut fetches = shared.lock();
            // A failure stays until it was told or is old.
            if outcome.is_ok() {
                fetches.remove(&digest);
            }
            let at = Instant::now();
            done.send_replace(Some(Ended { outcome, at }));
        });
        Ok((running, true))
    }

    /// The fetch that another host asked for and that failed just now. It is told once.
    fn failed(&self, digest: ArtifactDigest) -> Option<FetchError> {
        let mut fetches = self.0.shared.lock();
        let ended = fetches.get(&digest)?.ended.borrow().clone()?;
        fetches.remove(&digest);
        (ended.at.elapsed() < FAILURE_KEPT)
            .then(|| ended.outcome.err())
            .flatten()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ArtifactDigest, Running>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunk_len_max(&self) -> usize {
        let payload = self.transport.payload_len_max().saturating_sub(REPLY_OVERHEAD);
        CHUNK_LEN_MAX.min(payload)
    }

    async fn run(&self, digest: ArtifactDigest, sources: &[Address]) -> Result<(), FetchError> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(FetchError::Broken(digest));
        };
        if self.store.has(digest) {
            return Ok(());
        }
        let started = Instant::now();
        let fetched = timeout(FETCH_MAX, pull::fetch(self, digest, sources)).await;
        let fetched = fetched.map_err(|_| FetchError::TooLong(digest)).flatten();
        match &fetched {
            Ok((host, bytes)) => {
                self.counters.fetched.fetch_add(1, Relaxed);
                let ms = started.elapsed().as_millis() as u64;
                tracing::info!(%digest, %host, bytes, ms, "fetched an artifact");
            }
            Err(error) => {
                self.counters.failed.fetch_add(1, Relaxed);
                tracing::warn!(%digest, %error, "failed to fetch an artifact");
            }
        }
        fetched.map(drop)
    }
}

impl Running {
    fn runs(&self) -> bool {
        // One whose task has gone without a word can't be waited for.
        self.ended.borrow().is_none() && self.ended.has_changed().is_ok()
    }

    async fn wait(mut self, digest: ArtifactDigest) -> Result<(), FetchError> {
        match self.ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.as_ref().map_or(Ok(()), |ended| ended.outcome.clone()),
            Err(_) => Err(FetchError::Broken(digest)),
        }
    }
}

impl fmt::Display for ArtifactDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ArtifactDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Artifacts({})", self.0.shared.address)
    }
}
