//! Bytes that belong to no object any more, and a task that has them purged.
//!
//! What was replaced or deleted stays for a while, for who reads it; what was given up goes when all of it has arrived.
//! What is not purged that way, because a host was killed or too much came at once, a sweep finds: of the names of chunks
//! that are a day old, those that no object has. Only names that Weft gave are looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::Message;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::name::{Bucket, object_hash, read_nuid};
use crate::error::Unanswered;
use crate::jetstream::{self, Failure};
use crate::link::{Connection, Link};
use crate::listing::Listing;

/// What is told to the task and not yet heard. What is over is left to a sweep.
const QUEUE_LEN: usize = 1_024;
/// What waits to be purged, at most; the same.
const WAITING_MAX: usize = 16 << 10;
/// How long a chunk of what was given up may still be on its way whose sender did not learn whether it was sent.
const SETTLE: Duration = Duration::from_secs(1);
/// Tries to purge while the server is away, and the pause between two.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_secs(15);
/// Buckets that are swept, at most: those that this host wrote to first.
const BUCKETS_MAX: usize = 1_024;
/// How often each is.
const SWEEP_EVERY: Duration = Duration::from_secs(6 * 60 * 60);
/// Chunks that are younger may be of an object that is still being written, anywhere.
const AGE_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Objects of a bucket that is swept, at most: their names are in memory meanwhile.
const OBJECTS_MAX: usize = 500_000;
/// Objects that one sweep asks for, one after the other, and writes that it purges.
const LOOKS_MAX: usize = 10_000;
/// The longest that purging what was given up holds up closing.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Where it is told what belongs to nobody. What does not fit is left to a sweep.
pub(super) struct Waste(mpsc::Sender<Told>);

enum Told {
    Purge(Chunks, Duration),
    Seen(Bucket),
}

/// The server's answers to chunks that it was sent. Before them it may do a purge first that was asked for later.
pub(super) type Acknowledgements = FuturesUnordered<Acknowledgement>;

type Acknowledgement = Pin<Box<dyn Future<Output = Result<Message, Unanswered>> + Send + Sync>>;

/// The chunks of one write.
struct Chunks {
    bucket: Bucket,
    nuid: String,
    /// Of those that are on their way.
    acknowledgements: Acknowledgements,
    /// Whether somebody may be reading them.
    is_read: bool,
    tries: u32,
}

impl Waste {
    /// These bytes were an object's; after `grace` nobody should read them any more.
    pub(super) fn replaced(&self, bucket: &Bucket, nuid: &str, grace: Duration) {
        let chunks = Chunks {
            bucket: bucket.clone(),
            nuid: nuid.to_owned(),
            acknowledgements: Acknowledgements::new(),
            is_read: true,
            tries: 0,
        };
        self.tell(Told::Purge(chunks, grace));
    }

    /// These never were an object's.
    pub(super) fn given_up(&self, bucket: &Bucket, nuid: &str, acknowledgements: Acknowledgements) {
        let chunks = Chunks {
            bucket: bucket.clone(),
            nuid: nuid.to_owned(),
            acknowledgements,
            is_read: false,
            tries: 0,
        };
        self.tell(Told::Purge(chunks, SETTLE));
    }

    /// This host writes to a bucket, which so is one to be swept.
    pub(super) fn seen(&self, bucket: &Bucket) {
        self.tell(Told::Seen(bucket.clone()));
    }

    fn tell(&self, told: Told) {
        if self.0.try_send(told).is_err() {
            tracing::debug!(target: "weft", "bytes of objects are left to a sweep: too many were replaced at once");
        }
    }
}

enum Job {
    Purge(Chunks),
    Sweep(Bucket),
}

/// What takes it away.
pub(super) struct WasteTask {
    link: Arc<Link<()>>,
    told: mpsc::Receiver<Told>,
    /// What is to be done, by when and in which order it came.
    jobs: BTreeMap<(Instant, u64), Job>,
    count: u64,
    /// When each bucket is swept next.
    buckets: HashMap<Bucket, Instant>,
}

enum Event {
    Told(Option<Told>),
    Due,
    Closing,
}

impl WasteTask {
    pub(super) fn new(link: Arc<Link<()>>) -> (Waste, Self) {
        let (sender, told) = mpsc::channel(QUEUE_LEN);
        let task = Self {
            link,
            told,
            jobs: BTreeMap::new(),
            count: 0,
            buckets: HashMap::new(),
        };
        (Waste(sender), task)
    }

    /// Runs until the store is closed or dropped.
    pub(super) async fn run(mut self, closing: CancellationToken) {
        loop {
            let due = self.jobs.first_key_value().map(|((due, _), _)| *due);
            let event = tokio::select! {
                () = closing.cancelled() => Event::Closing,
                told = self.told.recv() => Event::Told(told),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
            };
            match event {
                Event::Told(Some(told)) => self.take(told),
                Event::Told(None) => return,
                Event::Due => {
                    let Some((_, job)) = self.jobs.pop_first() else {
                        continue;
                    };
                    tokio::select! {
                        () = closing.cancelled() => break,
                        () = self.work(job) => {}
                    }
                }
                Event::Closing => break,
            }
        }
        self.finish().await;
    }

    fn take(&mut self, told: Told) {
        let now = Instant::now();
        match told {
            Told::Purge(chunks, after) => self.put(now + after, Job::Purge(chunks)),
            Told::Seen(bucket) => {
                let is_known = self.buckets.contains_key(&bucket);
                let is_due = self.buckets.get(&bucket).is_none_or(|next| *next <= now);
                if is_due && (is_known || self.buckets.len() < BUCKETS_MAX) {
                    self.buckets.insert(bucket.clone(), now + SWEEP_EVERY);
                    self.put(now, Job::Sweep(bucket));
                }
            }
        }
    }

    fn put(&mut self, due: Instant, job: Job) {
        if self.jobs.len() < WAITING_MAX {
            self.count += 1;
            self.jobs.insert((due, self.count), job);
        }
    }

    async fn work(&mut self, job: Job) {
        match job {
            Job::Purge(mut chunks) => {
                let purged = self.purge_chunks(&mut chunks).await;
                chunks.tries += 1;
                // If the bucket is gone, so are they.
                if let Err(Failure::Unanswered(_)) = purged
                    && chunks.tries < TRIES_MAX
                {
                    self.put(Instant::now() + PAUSE, Job::Purge(chunks));
                }
            }
            Job::Sweep(bucket) => match self.sweep(&bucket).await {
                Ok(0) => {}
                Ok(count) => {
                    tracing::info!(target: "weft", bucket = bucket.name(), count, "purged what was left of objects that were not written");
                }
                Err(error) => {
                    tracing::debug!(target: "weft", bucket = bucket.name(), %error, "failed to sweep a bucket of objects");
                    // It is swept when it is written to again.
                    self.buckets.remove(&bucket);
                }
            },
        }
    }

    /// Purges what nobody reads. What is still read on other hosts is left to their sweeps.
    async fn finish(mut self) {
        while let Ok(told) = self.told.try_recv() {
            self.take(told);
        }
        let until = Instant::now() + CLOSE_WAIT;
        for job in std::mem::take(&mut self.jobs).into_values() {
            if let Job::Purge(mut chunks) = job
                && !chunks.is_read
            {
                let purged = timeout_at(until, self.purge_chunks(&mut chunks)).await;
                if purged.is_err() {
                    return;
                }
            }
        }
    }

    async fn with<T, F>(&self, act: impl FnOnce(Connection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let acted = async {
            let (connection, ()) = self.link.connection().await?;
            act(connection).await
        };
        self.link.within(self.link.deadline(), acted).await
    }

    async fn purge_chunks(&self, chunks: &mut Chunks) -> Result<(), Failure> {
        let arrived = async { while chunks.acknowledgements.next().await.is_some() {} };
        // What is not answered by then never arrives, or is left to a sweep.
        let _ = timeout_at(self.link.deadline(), arrived).await;
        self.purge(&chunks.bucket, &chunks.nuid).await
    }

    async fn purge(&self, bucket: &Bucket, nuid: &str) -> Result<(), Failure> {
        self.with(async |connection: Connection| bucket.purge(&connection, nuid).await)
            .await
    }

    /// Purges the chunks that are nobody's; how many writes they are of.
    async fn sweep(&self, bucket: &Bucket) -> Result<usize, Failure> {
        let (chunks, metas) = (bucket.all_chunks(), bucket.metas());
        let nuid = |subject: &str| Some(subject.strip_prefix(&chunks)?.to_owned());
        let nuids = self.subjects(bucket, &chunks, nuid).await?;
        let now = SystemTime::now();
        let is_old = |nuid: &String| {
            let began = read_nuid(nuid).map(|(began, _)| began);
            began.is_some_and(|began| now.duration_since(began).unwrap_or_default() > AGE_MIN)
        };
        if !nuids.iter().any(is_old) {
            return Ok(0);
        }
        // Objects are asked for after chunks: so each that has some of these is among them.
        let objects = self
            .subjects(bucket, &metas, |subject| bucket.object(subject))
            .await?;
        let (mut used, unclear) = users(&nuids, objects);
        if unclear.len() > LOOKS_MAX {
            return Err(Failure::Unreadable(
                "too many of its objects have to be looked at".into(),
            ));
        }
        for object in &unclear {
            let last = self
                .with(async |connection: Connection| bucket.last(&connection, object).await)
                .await?;
            used.extend(last.found.map(|found| found.meta.nuid));
        }
        let waste = nuids.iter().filter(|nuid| is_old(nuid) && !used.contains(*nuid));
        let mut count = 0;
        for nuid in waste.take(LOOKS_MAX) {
            self.purge(bucket, nuid).await?;
            count += 1;
        }
        Ok(count)
    }

    /// What the stream has subjects of.
    async fn subjects(
        &self,
        bucket: &Bucket,
        begin: &str,
        name: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>, Failure> {
        let mut names = Listing::new(None, OBJECTS_MAX);
        let (stream, filter) = (&bucket.stream(), &format!("{begin}>"));
        loop {
            let offset = names.offset();
            let (total, subjects) = self
                .with(async move |connection: Connection| {
                    jetstream::subjects(&connection, stream, filter, offset).await
                })
                .await?;
            if names.take(total, subjects.into_keys(), &name) {
                break;
            }
        }
        match names.finish() {
            (names, false) => Ok(names),
            (_, true) => Err(Failure::Unreadable("it has too many objects to be swept".into())),
        }
    }
}

/// Those of `nuids` that are surely an object's, by its name alone, and the objects that have to be asked for theirs: what
/// was written more than once, what has no bytes, and what another client wrote or gave another name.
fn users(nuids: &[String], objects: Vec<String>) -> (HashSet<String>, Vec<String>) {
    let mut by_object: HashMap<&str, Vec<&String>> = HashMap::new();
    for nuid in nuids {
        if let Some((_, object)) = read_nuid(nuid) {
            by_object.entry(object).or_default().push(nuid);
        }
    }
    let (mut used, mut unclear) = (HashSet::new(), Vec::new());
    for object in objects {
        match by_object.get(&*object_hash(&object)).map(Vec::as_slice) {
            Some([nuid]) => {
                used.insert((*nuid).clone());
            }
            _ => unclear.push(object),
        }
    }
    (used, unclear)
}

#[cfg(test)]
mod tests {
    use super::super::name::nuid;
    use super::*;

    #[test]
    fn only_objects_whose_bytes_are_not_clear_by_their_names_are_asked_for_them() {
        let now = SystemTime::now();
        let [once, twice, again, gone] = ["once", "twice", "twice", "gone"].map(|name| nuid(name, now));
        let nuids = [
            once.clone(),
            twice,
            again,
            gone,
            "S4B1Q8ZXWMJ9N3FV0QDZ2K".to_owned(),
        ];
        let objects = ["once", "twice", "empty", "of-another-client"].map(str::to_owned);
        let (used, unclear) = users(&nuids, objects.to_vec());
        assert_eq!(used, HashSet::from([once]));
        assert_eq!(unclear, ["twice", "empty", "of-another-client"]);
    }
}
