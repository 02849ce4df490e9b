//! The cache of machine code.
//!
//! Owns the files under `aot/` of the data folder: `<engine fingerprint>/<sha256 of the component>.cwasm`, and beside
//! each a `.mac` with its authentication code. Loading machine code is running it, so only what this host compiled
//! is loaded: a file whose code does not match the host's key is taken for damaged, deleted and compiled again.
//!
//! The cache is bounded: what was not used for the longest time goes first, and what an older build left goes with it.
//!
//! A file is opened once: the bytes that are checked and those that are mapped come from the same descriptor. wasmtime
//! keeps one of it open for as long as the component is loaded, as it maps the first memory of instances from there.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use wasmtime::component::Component;
use weft_observability::HostMetrics;
use weft_observability::metrics::CacheResult;

use super::ComponentBytes;
use super::compile::{CompileError, Compiler};
use crate::digest::{Digest, hex};
use crate::engine::Engine;

/// Bytes of machine code that are kept. A plain component has 0.2 to 0.5 MB of it, so this is several thousand, and
/// what is mapped stays usable after its file was removed.
const CACHE_BYTES_MAX: u64 = 2 << 30;

/// Machine code of all components that this host has compiled.
pub struct AotCache {
    folder: PathBuf,
    key: [u8; 32],
    compiler: Compiler,
    metrics: HostMetrics,
}

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum AotError {
    /// The component could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The cache can't be written or read.
    #[error("failed to {act} {}", path.display())]
    Io {
        /// The failed act.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Machine code that was just compiled can't be loaded.
    #[error("failed to load the machine code that was just compiled")]
    Load(#[source] wasmtime::Error),
}

/// What a look into the cache found.
enum Found {
    Hit(Component),
    Miss,
    /// There is a file, and it must not be run.
    Bad(CacheResult, &'static str),
}

impl AotCache {
    /// A cache in `folder`, which must be writable by this user alone.
    ///
    /// What a host that was killed while it compiled has left there is removed.
    pub fn new(folder: PathBuf, key: [u8; 32], compiler: Compiler, metrics: HostMetrics) -> Self {
        for unfinished in files(&folder)
            .into_iter()
            .filter(|file| file.has_extension("new"))
        {
            let _ = fs::remove_file(unfinished.path);
        }
        Self {
            folder,
            key,
            compiler,
            metrics,
        }
    }

    /// The component, from the cache if it is there and whole, else compiled by a child process.
    ///
    /// # Errors
    /// [`AotError`]; the cache is left without a half-written file.
    pub async fn get(&self, engine: &Engine, component: &ComponentBytes) -> Result<Component, AotError> {
        if let Some(loaded) = self.cached(engine, component.digest) {
            return Ok(loaded);
        }
        let folder = self.folder.join(engine.fingerprint());
        let path = self.path(engine, component.digest);
        let failed = |act, path: &Path| {
            let path = path.to_owned();
            move |source| AotError::Io { act, path, source }
        };
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let beside = folder.join(format!(
            "{}.{}.new",
            component.digest.to_hex(),
            std::process::id()
        ));
        let compiled = self
            .compiler
            .compile(engine.report().profile, component, &beside)
            .await;
        if let Err(error) = compiled {
            let _ = fs::remove_file(&beside);
            return Err(error.into());
        }
        self.seal(&beside, &path).map_err(failed("write", &path))?;
        trim(&self.folder, CACHE_BYTES_MAX, &path);
        self.open(engine, &path)
            .map_err(failed("open", &path))?
            .map_err(AotError::Load)
    }

    /// The component, if its machine code is in the cache and whole. What must not be run is removed.
    pub fn cached(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(engine, digest);
        match self.look_up(engine, &path) {
            Found::Hit(loaded) => {
                self.metrics.artifact_cache(CacheResult::Hit);
                return Some(loaded);
            }
            Found::Miss => self.metrics.artifact_cache(CacheResult::Miss),
            Found::Bad(result, reason) => {
                self.metrics.artifact_cache(result);
                tracing::warn!(path = %path.display(), reason, "machine code in the cache is not to be run: compiling again");
                remove(&path);
                remove(&mac_path(&path));
            }
        }
        None
    }

    /// Whether there is a file of machine code.
    pub fn has(&self, engine: &Engine, digest: Digest) -> bool {
        self.path(engine, digest).exists()
    }

    fn path(&self, engine: &Engine, digest: Digest) -> PathBuf {
        let folder = self.folder.join(engine.fingerprint());
        folder.join(format!("{}.cwasm", digest.to_hex()))
    }

    fn look_up(&self, engine: &Engine, path: &Path) -> Found {
        match self.open(engine, path) {
            Ok(Ok(component)) => Found::Hit(component),
            Ok(Err(_)) => Found::Bad(
                CacheResult::Stale,
                "it was made by another build or for another processor",
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Miss,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Found::Bad(CacheResult::Corrupt, "its authentication code is wrong")
            }
            Err(_) => Found::Bad(CacheResult::Corrupt, "it can't be read"),
        }
    }

    /// Checks a file's authentication code, then maps that same file.
    fn open(&self, engine: &Engine, path: &Path) -> io::Result<wasmtime::Result<Component>> {
        // Opening a pipe would wait for a writer.
        if !fs::metadata(path)?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut file = File::open(path)?;
        let stored = match fs::read_to_string(mac_path(path)) {
            Ok(stored) => stored,
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        };
        let mac = hex(&self.authenticate(path, &mut file)?);
        if mac != stored.trim() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // For `trim`. Refused, the file only looks older than it is.
        let _ = file.set_modified(SystemTime::now());
        let same_file = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the bytes were written by this host's own compile child, as only the holder of the host key can
        // make the code that was just checked, and the folder is writable by this user alone.
        Ok(unsafe { Component::deserialize_file(engine.wasmtime(), same_file) })
    }

    /// Puts a finished file and its code in place, the code first: a crash between leaves a file that is compiled again.
    fn seal(&self, beside: &Path, path: &Path) -> io::Result<()> {
        let mut file = File::open(beside)?;
        let mac = hex(&self.authenticate(path, &mut file)?);
        fs::write(mac_path(path), mac)?;
        fs::rename(beside, path)
    }

    /// The code of a file's bytes and of the name under which they may be loaded.
    fn authenticate(&self, path: &Path, file: &mut File) -> io::Result<[u8; 32]> {
        authenticate(&self.key, path, file)
    }
}

/// A code that only the holder of `key` can make, of bytes and of the name of the file that holds them.
///
/// # Errors
/// If the bytes can't be read.
pub fn authenticate(key: &[u8; 32], path: &Path, bytes: &mut impl io::Read) -> io::Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    mac.update(&(name.len() as u64).to_le_bytes());
    mac.update(name);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match bytes.read(&mut buffer)? {
            0 => return Ok(mac.finalize().into_bytes().into()),
            n => mac.update(&buffer[..n]),
        }
    }
}

/// A file of the cache.
struct CacheFile {
    path: PathBuf,
    len: u64,
    used: SystemTime,
}

impl CacheFile {
    fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|own| own == extension)
    }
}

/// All files in the folders of all engines. What can't be read is left out.
fn files(folder: &Path) -> Vec<CacheFile> {
    let list = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let about = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        let used = metadata.modified().ok()?;
        Some(CacheFile {
            path: entry.path(),
            len: metadata.len(),
            used,
        })
    };
    list(folder.to_owned())
        .flat_map(|engine| list(engine.path()))
        .filter_map(about)
        .collect()
}

/// Removes the machine code that was not used for the longest time, until at most `bytes_max` are left; never `keep`.
fn trim(folder: &Path, bytes_max: u64, keep: &Path) {
    let mut code: Vec<_> = files(folder)
        .into_iter()
        .filter(|file| file.has_extension("cwasm"))
        .collect();
    let mut bytes: u64 = code.iter().map(|file| file.len).sum();
    code.sort_by_key(|file| file.used);
    for file in code {
        if bytes <= bytes_max {
            return;
        }
        if file.path == keep {
            continue;
        }
        bytes -= file.len;
        let _ = fs::remove_file(mac_path(&file.path));
        let _ = fs::remove_file(&file.path);
        tracing::info!(path = %file.path.display(), "removed machine code that was not used for the longest time");
    }
}

/// Removes what is there, also if it is a folder. What stays is told when it can't be written over.
fn remove(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

fn mac_path(path: &Path) -> PathBuf {
    path.with_extension("mac")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(folder: &Path, name: &str, len: usize, age_s: u64) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![0; len]).unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age_s))
            .unwrap();
        path
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first_also_of_another_engine() {
        let dir = tempfile::tempdir().unwrap();
        let newest = write(dir.path(), "engine/a.cwasm", 100, 1);
        let older = write(dir.path(), "engine/b.cwasm", 100, 2);
        let oldest = write(dir.path(), "old-engine/c.cwasm", 100, 3);
        let its_code = write(dir.path(), "old-engine/c.mac", 10, 3);
        trim(dir.path(), 200, &newest);
        assert!(newest.exists() && older.exists() && !oldest.exists() && !its_code.exists());
    }

    #[test]
    fn what_was_just_compiled_stays_even_if_it_is_larger_than_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let new = write(dir.path(), "engine/a.cwasm", 300, 9);
        let other = write(dir.path(), "engine/b.cwasm", 100, 1);
        trim(dir.path(), 200, &new);
        assert!(new.exists() && !other.exists());
    }
}
