//! Backends on NATS: [`NatsKeyValue`], key-value in a bucket of JetStream; [`NatsBlobStore`], objects in its object store;
//! [`NatsMessaging`], messaging as NATS has it; and [`JetStreamMessaging`], messaging that keeps what is published until it
//! is handled.
//!
//! Owns the connection to NATS that a provider has, and what is asked of JetStream. It must not know who asks, nor the
//! lattice, which has connections of its own.
//!
//! Requests don't go by `async_nats`'s own, nor by its JetStream client, which uses them: each that is not answered
//! stays in its table for as long as the client lives. Here a table is left by whoever gives up ([`replies`]), and what
//! JetStream is asked are a handful of messages ([`jetstream`]).

mod blob_store;
mod connect;
mod deliveries;
mod error;
mod jetstream;
mod key_value;
mod link;
mod listing;
mod messaging;
mod pull;
mod replies;

pub use crate::blob_store::{NatsBlobStore, ObjectOptions};
pub use crate::connect::{Auth, NatsOptions};
pub use crate::error::OpenError;
pub use crate::jetstream::Storage;
pub use crate::key_value::{BucketOptions, NatsKeyValue};
pub use crate::messaging::NatsMessaging;
pub use crate::messaging::kept::{JetStreamMessaging, StreamOptions};
