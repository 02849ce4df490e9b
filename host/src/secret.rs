//! Secrets on a host: its root keys, and the values that the lattice does not keep.
//!
//! Owns who can open what is sealed, and what of the environment and the disk is given out. It must not know what uses
//! a secret; [`opened`] is what the reconciler has of them.

pub mod opened;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use weft_compose::{SecretName, SecretRecord, SecretSource};
use weft_secrets::{Context, KeyFileError, Keyring, Recipient, SealError, Sealed, Secret, TooLong};

use crate::data::DataDir;

/// What opens and reads secrets on this host.
pub struct Vault {
    key_file: PathBuf,
    files: Option<PathBuf>,
    keys: ArcSwap<Keyring>,
}

/// Why a value is not to be had. No text has one.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It can't be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It is not in the environment.
    #[error("{0} is not set in this host's environment")]
    Env(String),
    /// No folder was named.
    #[error("this host has no folder of secrets: name one by --secret-files")]
    NoFolder,
    /// The file is somewhere else.
    #[error("{0} leads out of the folder of secrets")]
    Outside(String),
    /// The file can't be read, or is too long.
    #[error("failed to read {path} in the folder of secrets")]
    File {
        /// The path, as it was asked for.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The variable is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// It is kept sealed, and not read.
    #[error("it is not read here")]
    Sealed,
}

impl Vault {
    /// Reads the root keys: those of `key_file`, or those in the data folder. A host that is alone makes them there;
    /// one of a lattice is given the lattice's, and opens nothing until it is.
    ///
    /// # Errors
    /// [`KeyFileError`]
    pub fn open(
        key_file: Option<PathBuf>,
        files: Option<PathBuf>,
        data: &DataDir,
        is_alone: bool,
    ) -> Result<Self, KeyFileError> {
        let is_named = key_file.is_some();
        let key_file = key_file.unwrap_or_else(|| data.root_key());
        let keys = match Keyring::read(&key_file) {
            Err(KeyFileError::Missing(_)) if !is_named && is_alone => {
                let keys = Keyring::add(&key_file)?;
                tracing::info!(
                    file = %key_file.display(),
                    "made the root key of this host's secrets: keep a copy of the file, as without it no secret can be read"
                );
                keys
            }
            Err(KeyFileError::Missing(_)) if !is_named => Keyring::default(),
            read => read?,
        };
        if Keyring::is_open_to_others(&key_file) {
            let file = key_file.display();
            tracing::warn!(%file, "others than its owner may read the root keys: chmod 600");
        }
        Ok(Self {
            key_file,
            files,
            keys: ArcSwap::from_pointee(keys),
        })
    }

    /// What values are sealed to, if this host has a key.
    pub fn recipient(&self) -> Option<Recipient> {
        self.keys.load().newest().map(|key| key.recipient().clone())
    }

    /// Opens a sealed value. A key that is not known may have come since: its file is read again. Blocks for that.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn open_record(&self, name: &SecretName, record: &SecretRecord) -> Result<Secret, SealError> {
        let context = Context {
            name: name.as_str(),
            version: record.version,
        };
        let sealed = Sealed {
            key: record.key.clone(),
            text: record.sealed.clone(),
        };
        match self.keys.load().open(&context, &sealed) {
            Err(SealError::UnknownKey(_)) => {}
            opened => return opened,
        }
        self.reload();
        self.keys.load().open(&context, &sealed)
    }

    /// Seals the value of a record to the newest key; `None` if it is.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn reseal(&self, record: &SecretRecord) -> Result<Option<Sealed>, SealError> {
        let keys = self.keys.load();
        let newest = keys.newest().ok_or(SealError::NoKey)?;
        if newest.id() == record.key {
            return Ok(None);
        }
        let secret = self.open_record(&record.name, record)?;
        let context = Context {
            name: record.name.as_str(),
            version: record.version,
        };
        newest.recipient().seal(&context, &secret).map(Some)
    }

    /// Reads the root keys again. Those that were there stay if that fails. Blocks.
    pub fn reload(&self) {
        match Keyring::read(&self.key_file) {
            Ok(keys) => self.keys.store(keys.into()),
            Err(KeyFileError::Missing(_)) if self.keys.load().newest().is_none() => {}
            Err(error) => {
                tracing::error!(
                    error = crate::cli::chain(&error),
                    "failed to read the root keys again"
                );
            }
        }
    }

    /// Reads a value that the lattice does not keep. Blocks.
    ///
    /// # Errors
    /// [`SecretError`]
    pub fn read(&self, source: &SecretSource) -> Result<Secret, SecretError> {
        match source {
            SecretSource::Sealed(_) => Err(SecretError::Sealed),
            SecretSource::Env(name) => {
                let value = std::env::var_os(name).ok_or_else(|| SecretError::Env(name.clone()))?;
                Ok(Secret::new(value.into_encoded_bytes())?)
            }
            SecretSource::File(path) => {
                let folder = self.files.as_deref().ok_or(SecretError::NoFolder)?;
                read_below(folder, path)
            }
        }
    }
}

/// Reads a file below a folder. Links within the folder are followed, as Kubernetes mounts secrets by them.
fn read_below(folder: &Path, path: &str) -> Result<Secret, SecretError> {
    let failed = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    let folder = folder.canonicalize().map_err(failed)?;
    let file = folder.join(path).canonicalize().map_err(failed)?;
    if !file.starts_with(&folder) {
        return Err(SecretError::Outside(path.to_owned()));
    }
    // A pipe that nobody writes to would be waited for without an end.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no file",
        )));
    }
    Secret::read(File::open(file).map_err(failed)?).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_below_the_folder_of_secrets_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("secrets"), folder.path().join("outside"));
        std::fs::create_dir_all(inside.join("..data")).unwrap();
        std::fs::write(inside.join("..data/db"), "hunter2\n").unwrap();
        std::fs::write(&outside, "not this").unwrap();
        std::os::unix::fs::symlink("..data/db", inside.join("db")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("away")).unwrap();
        assert_eq!(read_below(&inside, "db").unwrap().reveal(), b"hunter2");
        let away = read_below(&inside, "away").unwrap_err();
        assert!(matches!(away, SecretError::Outside(_)), "{away}");
        let none = read_below(&inside, "none").unwrap_err();
        assert_eq!(none.to_string(), "failed to read none in the folder of secrets");
    }

    #[test]
    fn a_host_alone_makes_its_key_and_one_of_a_lattice_waits_for_the_lattices() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let of_lattice = Vault::open(None, None, &data, false).unwrap();
        assert!(of_lattice.recipient().is_none());
        let alone = Vault::open(None, None, &data, true).unwrap();
        let made = alone.recipient().unwrap();
        assert_eq!(
            Vault::open(None, None, &data, true).unwrap().recipient(),
            Some(made.clone())
        );
        of_lattice.reload();
        assert_eq!(of_lattice.recipient(), Some(made));
        let named = Vault::open(Some(folder.path().join("none")), None, &data, true);
        assert!(
            named.is_err(),
            "a file that was named and is not there is a mistake"
        );
    }
}
