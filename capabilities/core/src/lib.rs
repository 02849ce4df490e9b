//! What actors can be given: a trait for each capability, and the backends in memory.
//!
//! Owns the traits, their limits and errors, and the conformance suites that every backend runs (feature
//! `test-util`). It must not know guests' interfaces, manifests or links: the host adapts those to these traits.
//!
//! Read next: [`key_value`], [`sql`], [`blob_store`], [`messaging`], and [`ordered`], which makes a key-value backend out of any ordered map.

pub mod blob_store;
#[cfg(feature = "test-util")]
pub mod conformance;
pub mod key_value;
pub mod memory;
pub mod messaging;
pub mod ordered;
pub mod queue;
pub mod sql;

pub use blob_store::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage,
};
pub use futures::future::BoxFuture;
pub use key_value::{Bucket, Change, Changes, KeyValue, KeyValueError, Page, Swap, Watch};
pub use memory::{MemoryBlobStore, MemoryKeyValue};
pub use messaging::{Delivery, Listen, MemoryMessaging, Message, Messaging, MessagingError, Scope};
pub use sql::tables::{SqlTables, TablesError};
pub use sql::{Executed, Rows, Sql, SqlError, SqlTransaction, SqlValue};
