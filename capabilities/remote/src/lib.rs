//! Backends that are elsewhere: the traits of `weft-capabilities` over the lattice's calls.
//!
//! Owns both ends. [`Remote`] says who has a provider now, [`RemoteKeyValue`], [`RemoteSql`] and [`RemoteBlobStore`] are
//! the traits on the calling side; [`Provided`] is what the other side answers calls with, around any backend. The
//! functions are those of `wit/weft-provider.wit`, and `docs/wire.md` shows them as bytes, as outside providers in other
//! languages serve them. Must not know hosts, manifests or links: who may call whom is decided before, by the
//! name of the caller that goes along ([`called_by`]).
//!
//! [`LatticeMessaging`] is on the lattice's connection itself, as there is no other side that has the messages.
//!
//! Four things are kept for a caller by the one run of a provider that it spoke to, for as long as it uses them: SQL
//! transactions, objects that are read or written chunk by chunk, watches of keys, and what is longer than a message, which
//! goes in parts.

mod blob_store;
mod cbor;
mod key_value;
mod messaging;
mod provided;
mod remote;
mod shape;
mod sql;
mod watch;

use std::time::Duration;

pub use self::blob_store::RemoteBlobStore;
pub use self::key_value::RemoteKeyValue;
pub use self::messaging::LatticeMessaging;
pub use self::provided::{Backend, Provided, ProvidedStats};
pub use self::remote::{Remote, RemoteStats, called_by};
pub use self::sql::RemoteSql;

/// The interface of key-value.
pub const KEY_VALUE: &str = "weft:provider/key-value@1.0.0";
/// The interface of SQL.
pub const SQL: &str = "weft:provider/sql@1.0.0";
/// The interface of blob stores.
pub const BLOB_STORE: &str = "weft:provider/blob-store@1.0.0";
/// The interface for what is longer than a message.
pub const PARTS: &str = "weft:provider/parts@1.0.0";
/// The interface of changes of keys, which hosts alone serve to each other.
pub const WATCH: &str = "weft:host/watch@1.0.0";
/// The interfaces that [`Provided`] serves.
pub const INTERFACES: [&str; 4] = [KEY_VALUE, SQL, BLOB_STORE, PARTS];

/// The longest arguments or results that go in parts: the largest batch, with its keys and what CBOR adds.
pub const PARTS_LEN_MAX: usize = 20 << 20;

/// What an envelope takes at most beside arguments or results that are sent by this crate: eight texts of names.
const ENVELOPE_LEN_MAX: usize = 9 << 10;

/// How long a provider keeps a transaction, an object or parts that nothing is done with: their caller may be gone
/// without a word. Less than the time of a request, and more than any pause of one that works.
pub const IDLE_MAX: Duration = Duration::from_secs(15);

/// How long one question for changes waits for them: less than [`IDLE_MAX`], so that a watch that is asked never is idle.
const NEXT_WAIT: Duration = Duration::from_secs(10);
/// How much longer its answer is waited for.
const NEXT_MARGIN: Duration = Duration::from_secs(5);

/// What a chunk of an object has beside its bytes in the arguments or results that it is in: names, an id, a place.
const CHUNK_OVERHEAD: usize = 2 << 10;

/// Bytes of a chunk in a message whose body has `body_len_max`.
fn chunk_len_max(body_len_max: usize) -> usize {
    body_len_max
        .saturating_sub(CHUNK_OVERHEAD)
        .clamp(1, weft_capabilities::blob_store::CHUNK_LEN_MAX)
}
