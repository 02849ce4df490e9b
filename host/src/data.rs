//! The data folder (`.weft` by default).
//!
//! Owns its layout, version, lock, and the secret of this host. Layout of version 1:
//!
//! ```text
//! version      the number of the layout
//! lock         held while a host runs
//! host.key     32 random bytes, 0600: machine code is only loaded if it carries a code made with this key
//! host-id      the host's name in a lattice
//! aot/         machine code, 0700; see component/aot.rs
//! artifacts/   components by their digest; see artifact.rs
//! control.redb the control store: what is deployed
//! providers/   files of embedded backends, NAMESPACE/APP/NAME
//! root.key     what opens this host's secrets, 0600; another file where --root-key names one
//! admin.token  opens the admin API over TCP, 0600; only where that is asked for
//! admin.sock   the admin API, 0600
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use weft_compose::{HostName, NameError};

/// The layout that this version of Weft writes and reads.
pub const VERSION: u32 = 1;

/// A shorter token could be guessed; an empty one would open the door.
const ADMIN_TOKEN_LEN_MIN: usize = 32;

/// A data folder that this process holds the lock of. Dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    host_key: [u8; 32],
    host_id: String,
    _lock: File,
}

/// Why a data folder can't be used. Every text names the folder and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder or a file in it can't be made, read or written.
    #[error("failed to use the data folder {}: can't {act} {file}; check its owner and rights, or name another with --data", path.display())]
    Io {
        /// The data folder.
        path: PathBuf,
        /// The failed act.
        act: &'static str,
        /// The file within the folder.
        file: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another host holds it.
    #[error("the data folder {} is in use by another weft process{}; stop that one, or name another with --data", path.display(), holder(*.pid))]
    Locked {
        /// The data folder.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// It is another host's.
    #[error("the data folder {} is that of the host `{host_id}`, not `{name}`; leave --name out, or name another folder with --data", path.display())]
    Name {
        /// The data folder.
        path: PathBuf,
        /// Whose it is.
        host_id: String,
        /// Whose it was to be.
        name: String,
    },
    /// It was written by a newer Weft, or is not a data folder at all.
    #[error("the data folder {} has layout `{found}`, and this weft knows layout {VERSION}; use the weft that wrote it, or name another with --data", path.display())]
    Version {
        /// The data folder.
        path: PathBuf,
        /// What its file `version` holds.
        found: String,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Makes a data folder (0700) if it is not there.
///
/// # Errors
/// See [`DirBuilder::create`].
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl DataDir {
    /// Opens the folder, making it (0700) if it is not there, and takes its lock.
    ///
    /// # Errors
    /// See [`DataError`]. A folder that is refused is left as it was.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::open_as(path, None)
    }

    /// The same of the host that is to be called `name`, which a folder keeps from its first use on.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open_as(path: &Path, name: Option<&HostName>) -> Result<Self, DataError> {
        let failed = |act, file: &str| {
            let (path, file) = (path.to_owned(), file.to_owned());
            move |source| DataError::Io {
                path,
                act,
                file,
                source,
            }
        };
        make_folder(path).map_err(failed("make", "it"))?;
        // Absolute, so that a later change of the working folder can't move it.
        let path = path.canonicalize().map_err(failed("find", "it"))?;

        check_version(&path)?;
        let lock = take_lock(&path)?;
        write_once(&path.join("version"), 0o600, || {
            Ok(format!("{VERSION}\n").into_bytes())
        })
        .map_err(failed("write", "version"))?;
        let host_key =
            write_once(&path.join("host.key"), 0o600, random_key).map_err(failed("read", "host.key"))?;
        let host_key = host_key.try_into().map_err(|_| {
            let cause = io::Error::new(
                io::ErrorKind::InvalidData,
                "expected 32 bytes; delete it to have a new one made",
            );
            failed("use", "host.key")(cause)
        })?;
        let host_id = write_once(&path.join("host-id"), 0o600, || match name {
            Some(name) => Ok(name.as_str().to_owned().into_bytes()),
            None => random_id().map(String::into_bytes),
        })
        .map_err(failed("read", "host-id"))?;
        let host_id = String::from_utf8_lossy(&host_id).trim().to_owned();
        if let Some(name) = name.filter(|name| name.as_str() != host_id) {
            let name = name.to_string();
            return Err(DataError::Name { path, host_id, name });
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path.join("aot"))
            .map_err(failed("make", "aot"))?;
        // A folder that others could write to would let them choose the code that this host runs.
        fs::set_permissions(path.join("aot"), fs::Permissions::from_mode(0o700))
            .map_err(failed("protect", "aot"))?;
        Ok(Self {
            path,
            host_key,
            host_id,
            _lock: lock,
        })
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The host's name in a lattice; it stays over restarts.
    pub fn host_id(&self) -> &str {
        &self.host_id
    }

    /// The same as a name.
    ///
    /// # Errors
    /// The file was written by hand, and is no name.
    pub fn host_name(&self) -> Result<HostName, NameError> {
        self.host_id.parse()
    }

    /// The key of codes for what only this host may have written.
    pub fn host_key(&self) -> &[u8; 32] {
        &self.host_key
    }

    /// Where the admin API listens.
    pub fn admin_socket(&self) -> PathBuf {
        admin_socket(&self.path)
    }

    /// The token that opens the admin API over TCP; made at the first call, kept in `admin.token` (0600).
    ///
    /// # Errors
    /// If the file can't be made or read.
    pub fn admin_token(&self) -> io::Result<String> {
        let token = write_once(&self.path.join("admin.token"), 0o600, || {
            Ok(format!("{}\n", crate::digest::hex(&random_key()?)).into_bytes())
        })?;
        let token = String::from_utf8_lossy(&token).trim().to_owned();
        if token.len() < ADMIN_TOKEN_LEN_MIN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "expected at least {ADMIN_TOKEN_LEN_MIN} characters; delete it to have a new one made"
                ),
            ));
        }
        Ok(token)
    }

    /// Where root keys are, if no other file is named.
    pub fn root_key(&self) -> PathBuf {
        root_key(&self.path)
    }

    /// Where components are kept.
    pub fn artifacts(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// Where the control store is.
    pub fn control(&self) -> PathBuf {
        self.path.join("control.redb")
    }

    /// Where embedded backends keep their files.
    pub fn providers(&self) -> PathBuf {
        self.path.join("providers")
    }

    /// Where machine code is kept.
    pub fn aot(&self) -> PathBuf {
        self.path.join("aot")
    }
}

/// Where the host with data folder `data` has its root keys.
pub fn root_key(data: &Path) -> PathBuf {
    data.join("root.key")
}

/// Where the host with data folder `data` serves its admin API.
pub fn admin_socket(data: &Path) -> PathBuf {
    data.join("admin.sock")
}

fn check_version(path: &Path) -> Result<(), DataError> {
    match fs::read_to_string(path.join("version")) {
        Ok(found) if found.trim() == VERSION.to_string() => Ok(()),
        Ok(found) => Err(DataError::Version {
            path: path.to_owned(),
            found: found.trim().chars().take(40).collect(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DataError::Io {
            path: path.to_owned(),
            act: "read",
            file: "version".to_owned(),
            source,
        }),
    }
}

fn take_lock(path: &Path) -> Result<File, DataError> {
    let io_error = |source| DataError::Io {
        path: path.to_owned(),
        act: "lock",
        file: "lock".to_owned(),
        source,
    };
    let mut lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(io_error)?;
    match lock.try_lock() {
        Ok(()) => {
            // For the message that the next one gets.
            lock.set_len(0)
                .and_then(|()| write!(lock, "{}", std::process::id()))
                .map_err(io_error)?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            Err(DataError::Locked {
                path: path.to_owned(),
                pid: pid.trim().parse().ok(),
            })
        }
        Err(TryLockError::Error(source)) => Err(io_error(source)),
    }
}

/// The file's bytes, after making it with `content` if it is not there.
///
/// Written beside and renamed, so that a crash leaves either no file or a whole one.
fn write_once(path: &Path, mode: u32, content: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let content = content()?;
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(&content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    Ok(content)
}

fn random_key() -> io::Result<Vec<u8>> {
    let mut key = vec![0; 32];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

fn random_id() -> io::Result<String> {
    Ok(format!("h{}", crate::digest::hex(&random_key()?[..8])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_identity_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/.weft");
        let first = DataDir::open(&path).unwrap();
        let (id, key) = (first.host_id().to_owned(), *first.host_key());
        drop(first);
        let second = DataDir::open(&path).unwrap();
        assert_eq!((second.host_id(), second.host_key()), (id.as_str(), &key));
        let mode = fs::metadata(path.join("host.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn refuses_a_folder_that_another_holds_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let _held = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(
            matches!(error, DataError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
            "{error}"
        );
    }

    #[test]
    fn refuses_a_folder_of_another_version_and_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("version"), "2\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, DataError::Version { found, .. } if found == "2"),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
