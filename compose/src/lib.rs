//! How services are composed out of actors.
//!
//! Owns the names of things and the limits an actor runs under; manifests, records, the planner and rollouts
//! join it here. Everything in this crate is pure: it reads no file, opens no socket and knows no Wasm engine.
//!
//! Start with [`name`], the identity that every key, subject, metric and log line carries, then [`limits`].

pub mod limits;
pub mod name;

pub use limits::Limits;
pub use name::{ActorName, NameError};
