//! The folder of artifacts: what is in it, who needs it, and what goes when there is too much.
//!
//! What a record names is pinned, and what is in use stays; of the rest those stay that were used last, up to a bound.
//! When one was used is the time of its file, so that it outlasts the host.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::{ArtifactError, Components};
use crate::digest::Digest;

/// Bytes of components that no record names, by default: some thousand components.
pub const BYTES_MAX: u64 = 4 << 30;
/// How old the time of a pinned file gets before it is set anew: what was pinned until today is not the oldest.
const TOUCH_AFTER: Duration = Duration::from_secs(3_600);

/// Who needs which artifact, for people: names of actors.
pub type Pins = HashMap<Digest, Vec<String>>;

/// An artifact on disk.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Artifact {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// The actors whose records name it, and those that did in the revision before.
    pub pinned_by: Vec<String>,
    /// Whether it is in use here, which it is for a while after the last record that names it has gone.
    pub in_use: bool,
    /// When it came or was last used, in seconds since 1970.
    pub last_used: u64,
}

impl Components {
    /// Asks `pins` who needs what, from now on. Until then nothing is dropped.
    pub fn pin_by(&self, pins: impl Fn() -> Pins + Send + Sync + 'static) {
        // Who asks first is the deployer; a second one of this host knows the same.
        let _ = self.pins.set(Box::new(pins));
    }

    /// Bounds what no record names to `bytes_max` bytes.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// The bound of what no record names, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// All artifacts, those first that were used last. Reads the folder.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn artifacts(&self) -> Result<Vec<Artifact>, ArtifactError> {
        let mut pins = self.pins.get().map(|pins| pins()).unwrap_or_default();
        let failed = |source| ArtifactError::Folder {
            path: self.folder.clone(),
            source,
        };
        let mut artifacts = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // One that goes while it is looked at is not there.
            let Some((digest, metadata)) = digest_of(&path).zip(path.metadata().ok()) else {
                continue;
            };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let since = modified.duration_since(SystemTime::UNIX_EPOCH);
            artifacts.push(Artifact {
                digest,
                bytes: metadata.len(),
                pinned_by: pins.remove(&digest).unwrap_or_default(),
                in_use: self.is_in_use(digest),
                last_used: since.map_or(0, |since| since.as_secs()),
            });
        }
        artifacts.sort_by_key(|artifact| (std::cmp::Reverse(artifact.last_used), artifact.digest.to_hex()));
        Ok(artifacts)
    }

    /// Drops what no record names and nobody uses: all of it, or with `dry_run` nothing. What goes.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn collect(&self, dry_run: bool) -> Result<Vec<Artifact>, ArtifactError> {
        self.drop_beyond(0, None, dry_run)
    }

    /// Keeps the bound, after `came` has come, which stays.
    pub(super) fn keep_bound(&self, came: Digest) {
        if self.pins.get().is_none() {
            return self.recount();
        }
        if let Err(error) = self.drop_beyond(self.bytes_max(), Some(came), false) {
            tracing::warn!(
                error = crate::cli::chain(&error),
                "failed to look for artifacts that may go"
            );
        }
    }

    /// Drops of what may go all but `bytes_max` bytes.
    fn drop_beyond(
        &self,
        bytes_max: u64,
        stays: Option<Digest>,
        dry_run: bool,
    ) -> Result<Vec<Artifact>, ArtifactError> {
        let now = SystemTime::now();
        let mut kept = 0;
        let mut dropped = Vec::new();
        for artifact in self.artifacts()? {
            if !artifact.pinned_by.is_empty() {
                let used = SystemTime::UNIX_EPOCH + Duration::from_secs(artifact.last_used);
                if now.duration_since(used).is_ok_and(|age| age > TOUCH_AFTER) {
                    self.touch(artifact.digest);
                }
                continue;
            }
            kept += artifact.bytes;
            if kept <= bytes_max || artifact.in_use || stays == Some(artifact.digest) {
                continue;
            }
            kept -= artifact.bytes;
            if !dry_run {
                self.remove(artifact.digest);
                self.metrics.artifact_dropped();
                tracing::info!(component = %artifact.digest, bytes = artifact.bytes, "dropped a component that nothing deploys");
            }
            dropped.push(artifact);
        }
        self.recount();
        Ok(dropped)
    }

    /// How many are kept, and their bytes.
    pub(super) fn kept(&self) -> (u64, u64) {
        let [count, bytes] = &self.kept;
        (count.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Counts what is kept anew.
    pub(super) fn recount(&self) {
        let Ok(folder) = fs::read_dir(&self.folder) else {
            return;
        };
        let files = folder.filter_map(|entry| {
            let path = entry.ok()?.path();
            digest_of(&path).and(path.metadata().ok())
        });
        let kept = files.fold([0, 0], |[count, bytes], file| [count + 1, bytes + file.len()]);
        for (shown, now) in std::iter::zip(&self.kept, kept) {
            shown.store(now, Ordering::Relaxed);
        }
    }

    /// It was used now.
    pub(super) fn touch(&self, digest: Digest) {
        // Without it, it only seems older than it is.
        let file = fs::File::open(self.path(digest, "wasm"));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Takes it away, with what is written of it. What runs of it goes on.
    pub(super) fn remove(&self, digest: Digest) {
        for extension in ["wasm", "json"] {
            let path = self.path(digest, extension);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "failed to remove an artifact");
            }
        }
    }

    fn is_in_use(&self, digest: Digest) -> bool {
        let slot = self.lock_known().slots.get(&digest).cloned();
        // One that is locked is being made.
        slot.is_some_and(|slot| slot.try_lock().map_or(true, |made| made.strong_count() > 0))
    }
}

/// Whose bytes the file holds.
fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?.strip_suffix(".wasm")?;
    format!("sha256:{name}").parse().ok()
}

/// Takes away what an earlier run began and did not finish. The data folder has one owner.
pub(super) fn remove_parts(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        if path.extension().is_some_and(|extension| extension == "part") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
