//! Files that are not yet what they are to be.
//!
//! Owns a folder of its own below `staging/`, which it keeps locked. What a process that was killed left there is taken
//! away by the next one that opens the store; what another that still runs has there is not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder for files that are being written.
pub(crate) struct Staging {
    folder: PathBuf,
    /// Holds the lock.
    _lock: File,
    next: AtomicU64,
}

impl Staging {
    /// Makes a folder below `parent`, and takes away those whose owner is gone.
    pub(crate) fn open(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        for entry in fs::read_dir(parent)? {
            let path = entry?.path();
            // Whoever owns it holds the lock until it ends, however it ends.
            if File::open(&path).is_ok_and(|folder| folder.try_lock().is_ok()) {
                fs::remove_dir_all(&path)?;
            }
        }
        for n in 0.. {
            let folder = parent.join(format!("{}-{n}", std::process::id()));
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => {
                    created?;
                    let lock = File::open(&folder)?;
                    lock.try_lock().map_err(io::Error::other)?;
                    return Ok(Self {
                        folder,
                        _lock: lock,
                        next: AtomicU64::new(0),
                    });
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// A path where nothing is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// An empty file.
    pub(crate) fn file(&self) -> io::Result<Staged> {
        let path = self.path();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Staged { file, path })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If it can't be done now, whoever opens the store next does it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A file that is gone when it is dropped, unless it was put in its place.
pub(crate) struct Staged {
    pub(crate) file: File,
    path: PathBuf,
}

impl Staged {
    /// Makes it durable, and then the file at `to`, in place of what was there.
    pub(crate) fn put(self, to: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, to)?;
        sync_folder_of(to)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `put` there is nothing any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes durable that `path` has its name, or has it no more.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
