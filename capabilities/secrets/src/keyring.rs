//! The file of root keys: a key a line, of which the last seals and all open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::Secret;
use crate::seal::{Context, ROOT_KEY, RootKey, SealError, Sealed};

/// Keys of a file: a rotation leaves two, and they go when all is sealed to the last.
const KEYS_MAX: usize = 32;
/// Bytes of a file.
const FILE_LEN_MAX: u64 = 16 << 10;
const HEAD: &str =
    "# Root keys of a Weft lattice: the last one seals, all of them open. Who has this file can read every
# secret of the lattice; without it none can be read. Keep a copy where the data is not.
";

/// Root keys, the newest last; none opens nothing.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Vec<RootKey>);

/// A file of root keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be made, read or written.
    #[error("failed to {act} the root keys in {}", path.display())]
    Io {
        /// What failed.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not there.
    #[error("there are no root keys in {}: make one by `weft secret key new --root-key {}`, or copy the lattice's there", .0.display(), .0.display())]
    Missing(PathBuf),
    /// A line is no key.
    #[error("line {line} of {} is no root key: expected {ROOT_KEY} and 43 characters", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// It has more keys than are of use.
    #[error("{} can't have more than {KEYS_MAX} root keys: remove the oldest after `weft secret reseal`", .0.display())]
    TooMany(PathBuf),
}

impl Keyring {
    /// Reads the keys of a file.
    ///
    /// # Errors
    /// [`KeyFileError`]; no text has a key.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
            _ => KeyFileError::Io {
                act: "read",
                path: path.to_owned(),
                source,
            },
        };
        let mut text = Zeroizing::new(String::with_capacity(4 << 10));
        let file = File::open(path).map_err(failed)?;
        file.take(FILE_LEN_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let keys = lines.map(|(at, line)| {
            RootKey::parse(line.trim()).ok_or_else(|| KeyFileError::Line {
                path: path.to_owned(),
                line: at + 1,
            })
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(KeyFileError::Missing(path.to_owned())),
            len if len > KEYS_MAX => Err(KeyFileError::TooMany(path.to_owned())),
            _ => Ok(Self(keys)),
        }
    }

    /// Whether others than its owner may read the file.
    pub fn is_open_to_others(path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
    }

    /// Adds a new key to a file, which is made (0600) if it is not there, and returns the keys that it has now.
    ///
    /// The file is replaced as a whole, so that a crash leaves the one before or the one after.
    ///
    /// # Errors
    /// [`KeyFileError`]; the file is as it was.
    pub fn add(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |act| {
            move |source| KeyFileError::Io {
                act,
                path: path.to_owned(),
                source,
            }
        };
        let mut text = match Self::read(path) {
            Ok(keys) if keys.0.len() >= KEYS_MAX => return Err(KeyFileError::TooMany(path.to_owned())),
            Ok(_) => Zeroizing::new(fs::read_to_string(path).map_err(failed("read"))?),
            Err(KeyFileError::Missing(_)) => Zeroizing::new(HEAD.to_owned()),
            Err(error) => return Err(error),
        };
        let mut bytes = Zeroizing::new([0; 32]);
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut *bytes))
            .map_err(failed("make"))?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
        text.push_str(ROOT_KEY);
        text.push_str(&encoded);
        text.push('\n');
        let beside = path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed("make"))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&beside, path))
            .map_err(failed("write"))?;
        Self::read(path)
    }

    /// The key that seals.
    pub fn newest(&self) -> Option<&RootKey> {
        self.0.last()
    }

    /// All keys, the newest last.
    pub fn keys(&self) -> &[RootKey] {
        &self.0
    }

    /// Seals a value to the newest key.
    ///
    /// # Errors
    /// [`SealError::NoKey`], [`SealError::Recipient`]
    pub fn seal(&self, context: &Context<'_>, secret: &Secret) -> Result<Sealed, SealError> {
        let newest = self.newest().ok_or(SealError::NoKey)?;
        newest.recipient().seal(context, secret)
    }

    /// Opens a value that was sealed to any of the keys.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn open(&self, context: &Context<'_>, sealed: &Sealed) -> Result<Secret, SealError> {
        let key = self.0.iter().find(|key| key.id() == sealed.key);
        let key = key.ok_or_else(|| SealError::UnknownKey(sealed.key.clone()))?;
        key.open(context, sealed)
    }
}
