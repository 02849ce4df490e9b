//! The folder that holds what `setup` got. It outlives a checkout, and all checkouts of a user share it.
//!
//! An entry is there when its name is there: it is made under another name and renamed when it is complete, so
//! that an interrupted setup is simply repeated. A lock keeps two runs apart.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// As long as the longest setup takes, which compiles wasmtime on a slow machine.
const LOCK_LIMIT: Duration = Duration::from_secs(60 * 60);
const LOCK_POLL: Duration = Duration::from_millis(200);

pub(crate) struct Cache {
    root: PathBuf,
    // Let go when the cache is dropped, or the process ends.
    _lock: File,
}

impl Cache {
    /// Opens the folder, and waits until no other run has it.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let root = root(|name| std::env::var_os(name).filter(|value| !value.is_empty()))?;
        fs::create_dir_all(&root).with_context(|| {
            format!(
                "failed to make the cache folder {}; set WEFT_CACHE_DIR",
                root.display()
            )
        })?;
        let lock = lock(&root.join("lock"))?;
        Ok(Self { root, _lock: lock })
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The entry `name`, which `make` makes in a new folder if it is not there yet.
    pub(crate) fn entry(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            return Ok(path);
        }
        let partial = self.path(format!("{name}.partial"));
        remove(&partial)?;
        fs::create_dir_all(&partial).with_context(|| format!("failed to make {}", partial.display()))?;
        make(&partial)?;
        fs::rename(&partial, &path).with_context(|| format!("failed to move {} in place", path.display()))?;
        Ok(path)
    }
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn root<S: AsRef<OsStr>>(variable: impl Fn(&str) -> Option<S>) -> anyhow::Result<PathBuf> {
    let folder = |name| variable(name).map(|value| PathBuf::from(value.as_ref()));
    let root = folder("WEFT_CACHE_DIR")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("weft")))
        .or_else(|| Some(folder("HOME")?.join(".cache/weft")))
        .context("there is no home folder to keep a cache in; set WEFT_CACHE_DIR")?;
    std::path::absolute(&root).with_context(|| format!("failed to resolve {}", root.display()))
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let context = || format!("failed to lock {}", path.display());
    let file = File::create(path).with_context(context)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
            Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_LIMIT => {
                bail!(
                    "another xtask has held {} for too long; is it stuck?",
                    path.display()
                )
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if start.elapsed() < LOCK_POLL {
            eprintln!("waiting for another xtask that uses the cache folder");
        }
        std::thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_of(variables: &[(&str, &'static str)]) -> anyhow::Result<PathBuf> {
        root(|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| *value)
        })
    }

    #[test]
    fn the_most_particular_variable_names_the_cache() {
        let all = [("WEFT_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(root_of(&all).unwrap(), Path::new("/a"));
        assert_eq!(root_of(&all[1..]).unwrap(), Path::new("/b/weft"));
        assert_eq!(root_of(&all[2..]).unwrap(), Path::new("/c/.cache/weft"));
        assert!(root_of(&[]).unwrap_err().to_string().contains("WEFT_CACHE_DIR"));
    }
}
