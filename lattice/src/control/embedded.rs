//! The control store of a single voter: one redb file.
//!
//! Owns the file: making it whole or not at all, refusing what is not one, and the handle that callers hold. What the
//! file holds is in `state`, the thread that writes it in `writer`.

#[cfg(test)]
mod crash_tests;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use futures::future::BoxFuture;
use redb::{Database, DatabaseError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use self::writer::{Again, Commit, Message, Writer};
use super::history::History;
use super::{CommitError, ControlStore, Entry, Index, ReadError, StorageError, Transaction, Watch};

/// Bytes of pages that redb keeps in memory. Its default is 1 GiB; what is read often here is small.
const CACHE_LEN: usize = 8 << 20;

/// Transactions that wait for the writer: two groups of it.
const QUEUE_LEN_MAX: usize = 128;

/// How long a transaction waits for a place in the queue: many times what a slow disk's sync takes.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);

/// The file. `None` while it can't be opened again after the disk has failed it.
type File = ArcSwapOption<Database>;

/// Why it can't be used just now.
fn closed() -> String {
    "its disk failed, and is tried each second".to_owned()
}

/// The embedded store. Clones are handles to the same; with the last one the file is closed.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    file: Arc<File>,
    history: Arc<History>,
    moved: watch::Receiver<Index>,
    /// Taken when the last handle goes: that ends the writer.
    queue: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("`{}` is open already: stop the other host, or give this one a data folder of its own", .0.display())]
    InUse(PathBuf),
    /// The file is of something else.
    #[error("`{}` is not a control store: move it away, and a new one is made", .0.display())]
    Foreign(PathBuf),
    /// The file was written by a later version.
    #[error("`{}` has format {found}, and this version knows up to {known}: use the newer version", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that it has.
        found: u64,
        /// The newest format that is known here.
        known: u64,
    },
    /// The file is damaged.
    #[error("`{}` is damaged: put a copy of it in its place, or move it away and deploy again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        #[source]
        source: redb::Error,
    },
    /// The file could not be read or made.
    #[error("failed to open `{}`: look at the folder's rights and the disk's space", .path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: redb::Error,
    },
    /// The writer's thread could not be started.
    #[error("failed to start the control store's thread: raise the limit on threads")]
    Thread(#[source] io::Error),
}

impl Embedded {
    /// Opens the store in the file `path`, or makes it. Blocks on the disk: call it while the host starts.
    ///
    /// # Errors
    /// [`OpenError`]; a file that is not a store of a known format is left as it is.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let opened = if path.exists() {
            builder().open(path)
        } else {
            create(path).and_then(|()| builder().open(path))
        };
        let db = opened.map_err(|error| open_error(path, error.into()))?;
        let path = path.to_owned();
        let index = checked(&db, &path)?;
        let again = move || {
            let db = builder().open(&path);
            let db = db.map_err(|error| open_error(&path, error.into()))?;
            let index = checked(&db, &path)?;
            Ok((db, index))
        };
        Self::start(db, index, Box::new(again))
    }

    /// Opens the store on what `backend` gives, or makes it there; and once more each time that the disk has failed it.
    #[cfg(test)]
    fn on<B: redb::StorageBackend>(
        mut backend: impl FnMut() -> B + Send + 'static,
    ) -> Result<Self, OpenError> {
        let path = Path::new("the test's disk");
        let mut open = move || {
            let db = builder().create_with_backend(backend());
            let db = db.map_err(|error| open_error(path, error.into()))?;
            state::initialize(&db).map_err(|error| open_error(path, error))?;
            let index = checked(&db, path)?;
            Ok((db, index))
        };
        let (db, index) = open()?;
        Self::start(db, index, Box::new(open))
    }

    fn start(db: Database, index: Index, again: Again) -> Result<Self, OpenError> {
        let file = Arc::new(File::from_pointee(db));
        let history = Arc::new(History::new(index));
        let (moving, moved) = watch::channel(index);
        let (sender, queue) = mpsc::channel(QUEUE_LEN_MAX);
        let writer = Writer::new(file.clone(), again, history.clone(), moving);
        let thread = thread::Builder::new()
            .name("weft-control".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(OpenError::Thread)?;
        Ok(Self(Arc::new(Inner {
            file,
            history,
            moved,
            queue: Some(sender),
            thread: Some(thread),
        })))
    }

    /// Refuses new transactions, and returns when those that wait are safe. May be called twice.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if let Some(queue) = &self.0.queue
            && queue.send(Message::Close(done)).await.is_ok()
        {
            // It ends without a word, with the writer.
            closed.await.ok();
        }
    }

    /// The file, to read from; to be let go at once, so that it can be opened again.
    fn file(&self) -> Result<Arc<Database>, ReadError> {
        let file = self.0.file.load_full();
        file.ok_or_else(|| ReadError::Unavailable(closed()))
    }

    async fn send(&self, transaction: Transaction) -> Result<Index, CommitError> {
        transaction.check()?;
        let queue = self.0.queue.as_ref().ok_or(CommitError::Closed)?;
        let place = match queue.try_reserve() {
            Ok(place) => place,
            Err(TrySendError::Closed(())) => return Err(CommitError::Closed),
            Err(TrySendError::Full(())) => {
                match tokio::time::timeout(QUEUE_WAIT_MAX, queue.reserve()).await {
                    Ok(place) => place.map_err(|_| CommitError::Closed)?,
                    Err(_) => return Err(CommitError::Unavailable("its disk doesn't keep up".to_owned())),
                }
            }
        };
        let (answer, answered) = oneshot::channel();
        place.send(Message::Commit(Commit { transaction, answer }));
        answered.await.unwrap_or(Err(CommitError::Closed))
    }
}

impl ControlStore for Embedded {
    // Reads are answered on the caller's thread: they are a few pages, mostly in the cache.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, ReadError>> {
        async move { Ok(state::get(&*self.file()?, key).map_err(StorageError::from)?) }.boxed()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<(Vec<Entry>, Index), ReadError>> {
        async move { Ok(state::range(&*self.file()?, prefix, after, limit).map_err(StorageError::from)?) }
            .boxed()
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Index, CommitError>> {
        self.send(transaction).boxed()
    }

    fn watch(&self, from: Index) -> Result<Watch, ReadError> {
        Ok(Watch::new(self.0.history.clone(), self.0.moved.clone(), from))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        // At most one group's sync away. Waiting for it means that the file can be opened again when this returns.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control store's writer panicked");
        }
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_LEN);
    builder
}

/// Makes a new file beside its place and moves it there when it is whole: a loss of power in between leaves none.
fn create(path: &Path) -> Result<(), DatabaseError> {
    let unfinished = path.with_added_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let db = builder().create(&unfinished)?;
    state::initialize(&db).map_err(|error| io::Error::other(error.to_string()))?;
    drop(db);
    fs::rename(&unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
}

/// The index that the store is at.
fn checked(db: &Database, path: &Path) -> Result<Index, OpenError> {
    state::check(db).map_err(|failure| match failure {
        state::Unusable::Foreign => OpenError::Foreign(path.to_owned()),
        state::Unusable::Newer(found) => OpenError::Newer {
            path: path.to_owned(),
            found,
            known: state::FORMAT,
        },
        state::Unusable::Storage(error) => open_error(path, error),
    })
}

fn open_error(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => OpenError::InUse(path),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => OpenError::Foreign(path),
        source @ (redb::Error::Corrupted(_) | redb::Error::RepairAborted) => {
            OpenError::Damaged { path, source }
        }
        source => OpenError::Storage { path, source },
    }
}
