//! Values as CBOR (RFC 8949), directed by a type.
//!
//! Owns the mapping that `docs/wire.md` describes, and the errors that say where in a value something is wrong. It must
//! know no Wasm: [`Type`] and [`Value`] mirror the component model one to one, and whoever has other values converts.
//!
//! What is written is deterministic (RFC 8949, section 4.2.1): the shortest form of every number, definite lengths, the
//! keys of a record sorted by their encoded bytes, one NaN. A reader takes numbers in any width and record fields and
//! flags in any order, since not every encoder can do the above, and nothing else: no indefinite length, no tag, no
//! unknown, missing or repeated field, no bytes left over.

mod decode;
mod encode;
mod error;
mod value;

pub use self::decode::{Limits, decode, decode_all};
pub use self::encode::{encode, encode_all};
pub use self::error::{CodecError, Problem};
pub use self::value::{Fields, Names, Type, TypeError, Value};

/// The case of a result that went well, on the wire.
const OK: &str = "ok";
/// The case of a result that failed, on the wire.
const ERR: &str = "err";
