//! A value that is cleared when the last who has it lets go, and that no formatting shows.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use zeroize::Zeroizing;

/// Bytes of a value: a chain of certificates fits. Sealed it is a record, which is kept in the control store's log.
pub const SECRET_LEN_MAX: usize = 64 << 10;

/// The value of a secret. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

/// A value has more than [`SECRET_LEN_MAX`] bytes.
#[derive(Debug, thiserror::Error)]
#[error("the value has more than {} KiB", SECRET_LEN_MAX >> 10)]
pub struct TooLong;

impl Secret {
    /// Takes a value as it is.
    ///
    /// # Errors
    /// [`TooLong`]
    pub fn new(bytes: Vec<u8>) -> Result<Self, TooLong> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() > SECRET_LEN_MAX {
            return Err(TooLong);
        }
        Ok(Self(Arc::new(bytes)))
    }

    /// The same of a value that was typed or read from a file: the end of a last line of text is no part of it.
    ///
    /// # Errors
    /// [`TooLong`]
    pub fn from_text(mut bytes: Vec<u8>) -> Result<Self, TooLong> {
        if std::str::from_utf8(&bytes).is_ok() && bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self::new(bytes)
    }

    /// Reads a value to its end, without the end of a last line of text.
    ///
    /// # Errors
    /// It can't be read, or is too long.
    pub fn read(from: impl Read) -> io::Result<Self> {
        // Room for all that is taken, so that no copy stays behind where it grew.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_LEN_MAX + 3));
        from.take(SECRET_LEN_MAX as u64 + 3).read_to_end(&mut bytes)?;
        let taken = std::mem::take(&mut *bytes);
        Self::from_text(taken).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The value. Whoever calls this keeps it out of logs, errors and traces.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// The value, if it is text.
    pub fn reveal_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// `text` without the value in it, for errors of libraries that might repeat what they were given.
    pub fn redact(&self, text: &str) -> String {
        match self.reveal_text() {
            Some(value) if !value.is_empty() => text.replace(value, "***"),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
