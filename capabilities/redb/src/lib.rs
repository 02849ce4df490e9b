//! Key-value on redb: one file, one writer thread, reads on the caller's thread.
//!
//! Owns the file, its format and its writer. A write is answered when it is on disk: writes that wait are committed
//! together, with one sync for all of them. Reads go to a snapshot that the writer replaces after each commit and
//! before it answers, so a read costs a lookup, no transaction of its own, and sees every write that was answered. A write
//! that the disk fails, as when it is full, ends redb's use of the file, for reads too: the writer opens it again.

mod error;
mod writer;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition, TableError};
use weft_capabilities::KeyValueError;
use weft_capabilities::ordered::{Ordered, Watchers, Write, Written};

pub use crate::error::OpenError;
use crate::writer::Writer;

/// All keys of all buckets: a bucket is a prefix, so that it costs nothing to have many.
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
/// Facts about the file itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The entry of [`META`] that holds the format.
const FORMAT_KEY: &str = "format";
/// The format that this version writes, and the newest that it reads.
const FORMAT: u64 = 1;
/// Bytes of pages that are cached: redb's own default is a gigabyte, and the system caches the file as well.
const CACHE_BYTES_DEFAULT: usize = 16 << 20;

/// The keys at one commit.
type Snapshot = ArcSwapOption<ReadOnlyTable<&'static [u8], &'static [u8]>>;

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub struct RedbOptions {
    /// Bytes of pages that are cached, for reads and writes together.
    pub cache_bytes: usize,
}

impl Default for RedbOptions {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES_DEFAULT,
        }
    }
}

/// How a file is opened again that the disk failed.
struct Again {
    /// What it is called.
    path: PathBuf,
    open: Box<dyn FnMut() -> Result<Database, OpenError> + Send>,
}

/// Key-value in one file. It has [`weft_capabilities::KeyValue`] through [`Ordered`].
pub struct RedbKeyValue {
    snapshot: Arc<Snapshot>,
    writer: Writer,
    watchers: Watchers,
}

impl RedbKeyValue {
    /// Opens the file at `path`, or makes it. Repairs it first if the process that had it was killed.
    ///
    /// # Errors
    /// [`OpenError`], which names the file and what to do.
    pub fn open(path: &Path, options: RedbOptions) -> Result<Self, OpenError> {
        let io = |source| OpenError::io(path, source);
        if !path.try_exists().map_err(io)? {
            make(path, options)?;
        }
        let database = builder(options)
            .create(path)
            .map_err(|source| OpenError::of(path, source))?;
        let opened = path.to_owned();
        let again = Again {
            path: path.to_owned(),
            open: Box::new(move || {
                let database = builder(options).open(&opened);
                database.map_err(|source| OpenError::of(&opened, source))
            }),
        };
        Self::of_database(database, again)
    }

    /// Opens what `backend` gives, and once more each time that a write failed. `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`RedbKeyValue::open`].
    pub fn open_backend<B: StorageBackend>(
        mut backend: impl FnMut() -> B + Send + 'static,
        name: &str,
        options: RedbOptions,
    ) -> Result<Self, OpenError> {
        let path = PathBuf::from(name);
        let named = path.clone();
        let mut open = move || {
            let database = builder(options).create_with_backend(backend());
            database.map_err(|source| OpenError::of(&named, source))
        };
        let database = open()?;
        let again = Again {
            path,
            open: Box::new(open),
        };
        Self::of_database(database, again)
    }

    fn of_database(database: Database, again: Again) -> Result<Self, OpenError> {
        let path = again.path.clone();
        match prepare(&database).map_err(|source| OpenError::failed(&path, source))? {
            None => return Err(OpenError::Foreign { path }),
            Some(found) if found > FORMAT => return Err(OpenError::Newer { path, found }),
            Some(_) => {}
        }
        let first = snapshot_of(&database).map_err(|source| OpenError::failed(&path, source))?;
        let snapshot = Arc::new(ArcSwapOption::from_pointee(first));
        let watchers = Watchers::default();
        let writer = Writer::start(database, again, snapshot.clone(), watchers.clone());
        let writer = writer.map_err(|source| OpenError::io(&path, source))?;
        Ok(Self {
            snapshot,
            writer,
            watchers,
        })
    }
}

/// Makes a new file beside `path` and gives it that name: redb can't open what it had not finished to make.
fn make(path: &Path, options: RedbOptions) -> Result<(), OpenError> {
    let io = |source| OpenError::io(path, source);
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    match std::fs::remove_file(unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let database = builder(options)
        .create(unfinished)
        .map_err(|source| OpenError::of(path, source))?;
    prepare(&database).map_err(|source| OpenError::failed(path, source))?;
    drop(database);
    std::fs::rename(unfinished, path).map_err(io)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // A name is only there for good when its folder is synced.
    File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(io)
}

fn builder(options: RedbOptions) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    builder
}

/// Makes the tables of a new file. Gives the file's format; `None` if it is someone else's database.
fn prepare(database: &Database) -> Result<Option<u64>, redb::Error> {
    let reading = database.begin_read()?;
    match reading.open_table(META) {
        Ok(meta) => return Ok(meta.get(FORMAT_KEY)?.map(|format| format.value())),
        Err(TableError::TableDoesNotExist(_)) if reading.list_tables()?.next().is_none() => {}
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    transaction.open_table(KEYS)?;
    transaction.commit()?;
    Ok(Some(FORMAT))
}

fn snapshot_of(database: &Database) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, redb::Error> {
    Ok(database.begin_read()?.open_table(KEYS)?)
}

impl Ordered for RedbKeyValue {
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, KeyValueError> {
        let snapshot = self.snapshot.load();
        let table = snapshot.as_ref().ok_or(KeyValueError::Closed)?;
        let value = table.get(key).map_err(error::storage)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn contains(&self, key: &[u8]) -> Result<bool, KeyValueError> {
        let snapshot = self.snapshot.load();
        let table = snapshot.as_ref().ok_or(KeyValueError::Closed)?;
        Ok(table.get(key).map_err(error::storage)?.is_some())
    }

    fn scan(
        &self,
        after: &[u8],
        before: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), KeyValueError> {
        let snapshot = self.snapshot.load_full().ok_or(KeyValueError::Closed)?;
        // A cursor beyond the bucket's end is an empty range, which redb would panic at.
        if after < before {
            for entry in snapshot.range(after..before).map_err(error::storage)? {
                let (key, _) = entry.map_err(error::storage)?;
                if key.value() != after && !visit(key.value()) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn write(&self, write: Write) -> BoxFuture<'_, Result<Written, KeyValueError>> {
        self.writer.write(write).boxed()
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.writer.close().boxed()
    }
}
