//! The seal: HPKE to a root key's public half.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, HpkeError, Kem, OpModeR, OpModeS, Serializable as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{SECRET_LEN_MAX, Secret};

/// What a recipient is written with.
const RECIPIENT: &str = "weft-public-1:";
/// What a root key is written with.
pub(crate) const ROOT_KEY: &str = "weft-root-1:";
/// Told to the key schedule, so that no other use of the same key opens what this one sealed.
const INFO: &[u8] = b"weft secret v1";
/// Bytes of either half of a key, and of what a sealed value begins with.
const KEY_LEN: usize = 32;
/// Bytes that sealing adds.
const OVERHEAD: usize = KEY_LEN + 16;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;

/// What a value is sealed as. It opens as this and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// Whose value it is.
    pub name: &'a str,
    /// Which of its values.
    pub version: u64,
}

impl Context<'_> {
    /// The associated data; names have no line ends.
    fn bytes(&self) -> Vec<u8> {
        format!("{}\n{}", self.name, self.version).into_bytes()
    }
}

/// A sealed value, and the id of the key that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The id.
    pub key: String,
    /// The value, in base64.
    pub text: String,
}

/// The public half of a root key: who has it can seal, and not open.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient([u8; KEY_LEN]);

/// A root key: it opens what was sealed to its recipient.
#[derive(Clone)]
pub struct RootKey {
    private: PrivateKey,
    recipient: Recipient,
    id: String,
}

/// A text is no recipient.
#[derive(Debug, thiserror::Error)]
#[error("this is no public key of a lattice: expected {RECIPIENT}..., as `weft secret key show` prints it")]
pub struct RecipientError;

/// A value can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No key with this id is there.
    #[error("it is sealed to the root key {0}, which is not among this host's: add that key to its file")]
    UnknownKey(String),
    /// It was sealed as something else, to another key, or is damaged.
    #[error("it does not open: it was sealed as another name or version, or is damaged; put it again")]
    NotThis,
    /// There is no key to seal to.
    #[error("there is no root key: make one by `weft secret key new`, and name its file by --root-key")]
    NoKey,
    /// The public key is one that nothing can be sealed to.
    #[error("nothing can be sealed to this public key: make another root key")]
    Recipient,
}

impl Recipient {
    /// What tells the key: the start of the sha256 of its public half, 16 hexadecimal digits.
    pub fn id(&self) -> String {
        let digest = Sha256::digest(self.0);
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seals a value. Each time the result is another.
    ///
    /// # Errors
    /// [`SealError::Recipient`]
    pub fn seal(&self, context: &Context<'_>, secret: &Secret) -> Result<Sealed, SealError> {
        let public = PublicKey::from_bytes(&self.0).map_err(|_| SealError::Recipient)?;
        let (encapped, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            secret.reveal(),
            &context.bytes(),
        )
        .map_err(|_| SealError::Recipient)?;
        let mut bytes = encapped.to_bytes().to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(Sealed {
            key: self.id(),
            text: STANDARD.encode(bytes),
        })
    }
}

impl RootKey {
    /// A key of 32 random bytes.
    pub(crate) fn from_bytes(bytes: &[u8; KEY_LEN]) -> Option<Self> {
        let private = PrivateKey::from_bytes(bytes).ok()?;
        let public = X25519HkdfSha256::sk_to_pk(&private).to_bytes();
        let recipient = Recipient(public.as_slice().try_into().ok()?);
        Some(Self {
            private,
            id: recipient.id(),
            recipient,
        })
    }

    /// The key as it is written in a file.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.strip_prefix(ROOT_KEY)?).ok()?);
        let bytes: Zeroizing<[u8; KEY_LEN]> = Zeroizing::new(bytes.as_slice().try_into().ok()?);
        Self::from_bytes(&bytes)
    }

    /// What tells it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its public half.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Opens what was sealed to this key.
    pub(crate) fn open(&self, context: &Context<'_>, sealed: &Sealed) -> Result<Secret, SealError> {
        // What is longer was never a secret.
        if sealed.text.len() > (SECRET_LEN_MAX + OVERHEAD) * 2 {
            return Err(SealError::NotThis);
        }
        let bytes = STANDARD.decode(&sealed.text).map_err(|_| SealError::NotThis)?;
        let (encapped, sealed) = bytes.split_at_checked(KEY_LEN).ok_or(SealError::NotThis)?;
        let encapped = Encapped::from_bytes(encapped).map_err(|_| SealError::NotThis)?;
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapped,
            INFO,
            sealed,
            &context.bytes(),
        );
        let opened = opened.map_err(|_: HpkeError| SealError::NotThis)?;
        Secret::new(opened).map_err(|_| SealError::NotThis)
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, RecipientError> {
        let encoded = text.trim().strip_prefix(RECIPIENT).ok_or(RecipientError)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| RecipientError)?;
        bytes.try_into().map(Self).map_err(|_| RecipientError)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{RECIPIENT}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({})", self.id)
    }
}
