//! Secrets: values that don't show, root keys, and the seal between them.
//!
//! Owns the file of root keys and the form of a sealed value. It must not know who has a secret, nor where sealed values
//! are kept.
//!
//! A value is sealed by HPKE (RFC 9180, base mode: X25519, HKDF-SHA256, ChaCha20-Poly1305) to the public half of a root
//! key, by whoever has it: a command on another machine needs no more than that, and what it sends is stored as it comes.
//! Hosts have the private half. What is sealed is bound to a context, a name and a version, and opens as nothing else.

mod keyring;
mod seal;
mod value;

pub use crate::keyring::{KeyFileError, Keyring};
pub use crate::seal::{Context, Recipient, RecipientError, RootKey, SealError, Sealed};
pub use crate::value::{SECRET_LEN_MAX, Secret, TooLong};
