//! The writer: a thread that commits what waits, together, and answers when it is on disk.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Database, Durability, ReadableTable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use weft_capabilities::KeyValueError;
use weft_capabilities::ordered::{Table, Watchers, Write, Written};

use crate::error::WriteError;
use crate::{Again, KEYS, OpenError, Snapshot, snapshot_of};

/// Writes that wait, at most: some commits' worth.
const QUEUE_LEN_MAX: usize = 1_024;
/// KiB of keys and values that wait, at most: eight of the largest values.
const QUEUE_KIB_MAX: u32 = 64 << 10;
/// How long a write waits for a seat in the queue: many times what a slow disk takes to sync.
const QUEUE_WAIT: Duration = Duration::from_secs(2);
/// Bytes in one commit, at most (and one write more): redb holds them in memory until then.
const COMMIT_BYTES_MAX: usize = 16 << 20;

/// How often a file that could not be opened again after a failure of the disk is tried, and whether a write came meanwhile.
const AGAIN_EACH: Duration = Duration::from_secs(1);
const QUEUE_LOOK: Duration = Duration::from_millis(20);
/// The least time between two lines of the log on a disk that is full.
const FULL_TOLD_EACH: Duration = Duration::from_secs(10);

type Reply = oneshot::Sender<Result<Written, KeyValueError>>;

struct Job {
    write: Write,
    reply: Reply,
    _bytes: OwnedSemaphorePermit,
}

pub(crate) struct Writer {
    /// `None` once closed: the thread ends after what is in the queue.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    bytes: Arc<Semaphore>,
    ended: tokio::sync::watch::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(
        database: Database,
        again: Again,
        snapshot: Arc<Snapshot>,
        watchers: Watchers,
    ) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_LEN_MAX);
        let (alive, ended) = tokio::sync::watch::channel(());
        let thread = std::thread::Builder::new()
            .name("redb-writer".to_owned())
            .spawn(move || {
                let mut file = OpenFile {
                    database: Some(database),
                    tried: Instant::now(),
                    again,
                    snapshot,
                    watchers,
                    told_full: None,
                };
                serve(&mut file, queue);
                // The file is let go before anyone is told: it may be opened again at once.
                file.snapshot.store(None);
                drop(file);
                drop(alive);
            })?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            bytes: Arc::new(Semaphore::new(QUEUE_KIB_MAX as usize)),
            ended,
            thread: Some(thread),
        })
    }

    /// Queues a write and waits until it is on disk. Dropping the future after that leaves the write in the queue.
    pub(crate) async fn write(&self, write: Write) -> Result<Written, KeyValueError> {
        let jobs = self.jobs().clone().ok_or(KeyValueError::Closed)?;
        let kib = u32::try_from(write.len() >> 10)
            .unwrap_or(u32::MAX)
            .clamp(1, QUEUE_KIB_MAX);
        let seat = async {
            let bytes = self.bytes.clone().acquire_many_owned(kib).await.ok()?;
            Some((bytes, jobs.reserve().await.ok()?))
        };
        let (bytes, seat) = tokio::time::timeout(QUEUE_WAIT, seat)
            .await
            .map_err(|_| KeyValueError::Overloaded)?
            .ok_or(KeyValueError::Closed)?;
        let (reply, answer) = oneshot::channel();
        seat.send(Job {
            write,
            reply,
            _bytes: bytes,
        });
        // Held on, it would keep the thread from ending while this write waits.
        drop(jobs);
        let lost = || KeyValueError::Unavailable("its writer ended before it answered".to_owned());
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    pub(crate) async fn close(&self) {
        drop(self.jobs().take());
        // An error is what is waited for: the thread has dropped its end.
        while self.ended.clone().changed().await.is_ok() {}
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writer {
    /// Waits for what was accepted, so that the file is free after. A host closes first, and then waits for nothing.
    fn drop(&mut self) {
        drop(self.jobs().take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told to each waiting caller already.
            drop(thread.join());
        }
    }
}

/// The file. After a failure of the disk redb neither writes nor reads what it has not cached, until it is opened again.
struct OpenFile {
    /// `None` while it can't be opened again.
    database: Option<Database>,
    /// When it was opened last, or tried to be.
    tried: Instant,
    again: Again,
    snapshot: Arc<Snapshot>,
    watchers: Watchers,
    /// When the log was last told that the disk is full.
    told_full: Option<Instant>,
}

impl OpenFile {
    fn commit(&mut self, writes: Vec<Write>) -> Result<Vec<Result<Written, KeyValueError>>, WriteError> {
        let database = self.database.as_ref().ok_or(WriteError::Closed)?;
        let committed = commit(database, writes, &self.snapshot, &self.watchers);
        if committed.is_err() {
            self.open_again();
        }
        committed.map_err(WriteError::Storage)
    }

    fn open_again(&mut self) {
        let was_open = self.database.is_some();
        self.tried = Instant::now();
        self.snapshot.store(None);
        drop(self.database.take());
        let opened = (self.again.open)().and_then(|database| {
            let snapshot = snapshot_of(&database);
            let snapshot = snapshot.map_err(|source| OpenError::failed(&self.again.path, source))?;
            Ok((database, snapshot))
        });
        match opened {
            Ok((database, snapshot)) => {
                self.snapshot.store(Some(Arc::new(snapshot)));
                self.database = Some(database);
                if !was_open {
                    tracing::info!(path = %self.again.path.display(), "the key-value store is open again");
                }
            }
            Err(error) if was_open => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the disk failed the key-value store, which can't be opened again: it is tried each second"
            ),
            Err(_) => {}
        }
    }

    /// Tells the log that the disk is full, and gives how large the file is: it can't be larger.
    fn tell_full(&mut self) -> usize {
        if self.told_full.is_none_or(|told| told.elapsed() >= FULL_TOLD_EACH) {
            self.told_full = Some(Instant::now());
            tracing::warn!(
                path = %self.again.path.display(),
                "the disk of the key-value store is full: it is read, and refuses what is written until there is room"
            );
        }
        let len = std::fs::metadata(&self.again.path).map_or(0, |file| file.len());
        usize::try_from(len).unwrap_or(usize::MAX)
    }

    /// The next of `queue`; `None` when there will be none. A file that is not open is tried meanwhile.
    fn next(&mut self, queue: &mut mpsc::Receiver<Job>) -> Option<Job> {
        while self.database.is_none() {
            if self.tried.elapsed() >= AGAIN_EACH {
                self.open_again();
            }
            match queue.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => std::thread::sleep(QUEUE_LOOK),
            }
        }
        queue.blocking_recv()
    }
}

fn serve(file: &mut OpenFile, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = file.next(&mut queue) {
        let mut bytes = first.write.len();
        let mut batch = vec![first];
        while bytes < COMMIT_BYTES_MAX && batch.len() < QUEUE_LEN_MAX {
            let Ok(job) = queue.try_recv() else { break };
            bytes += job.write.len();
            batch.push(job);
        }
        let (writes, replies): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|job| (job.write, (job.reply, job._bytes)))
            .unzip();
        match file.commit(writes) {
            Ok(answers) => {
                for ((reply, _), answer) in replies.into_iter().zip(answers) {
                    // Who has gone is not waiting.
                    drop(reply.send(answer));
                }
            }
            Err(error) if error.is_full() => {
                let bytes_max = file.tell_full();
                for (reply, _) in replies {
                    drop(reply.send(Err(KeyValueError::Full { bytes_max })));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for (reply, _) in replies {
                    drop(reply.send(Err(KeyValueError::Backend(Box::new(error.clone())))));
                }
            }
        }
    }
}

/// Commits `writes` in their order, and tells what they changed. An error means that none of them was answered, nor will be
/// read or told.
fn commit(
    database: &Database,
    writes: Vec<Write>,
    snapshot: &Snapshot,
    watchers: &Watchers,
) -> Result<Vec<Result<Written, KeyValueError>>, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // A start after a kill then takes no time that grows with the file.
    transaction.set_quick_repair(true);
    let mut answers = Vec::with_capacity(writes.len());
    let mut effects = watchers.effects();
    {
        let mut table = Open(transaction.open_table(KEYS)?);
        for write in writes {
            answers.push(match write.apply(&mut table, &mut effects) {
                Ok(written) => Ok(written),
                Err(Failed::Refused(error)) => Err(error),
                Err(Failed::Storage(error)) => return Err(error.into()),
            });
        }
    }
    transaction.commit()?;
    snapshot.store(Some(Arc::new(snapshot_of(database)?)));
    watchers.tell(effects);
    Ok(answers)
}

struct Open<'t>(redb::Table<'t, &'static [u8], &'static [u8]>);

enum Failed {
    /// This write alone.
    Refused(KeyValueError),
    /// The file, and so the whole transaction.
    Storage(redb::StorageError),
}

impl From<KeyValueError> for Failed {
    fn from(error: KeyValueError) -> Self {
        Self::Refused(error)
    }
}

impl Table for Open<'_> {
    type Error = Failed;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failed> {
        let value = self.0.get(key).map_err(Failed::Storage)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn set(&mut self, entries: &[(Vec<u8>, Bytes)]) -> Result<(), Failed> {
        for (key, value) in entries {
            self.0
                .insert(key.as_slice(), &value[..])
                .map_err(Failed::Storage)?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<bool, Failed> {
        let removed = self.0.remove(key).map_err(Failed::Storage)?;
        Ok(removed.is_some())
    }
}
