//! The mesh between hosts.
//!
//! Owns how hosts reach each other ([`transport`], [`subject`]), what they say ([`envelope`], [`codec`]), calls and
//! streams between them ([`rpc`], [`stream`]), bytes by their digest ([`artifact`]), who is there ([`membership`]) and where the desired state lives
//! ([`control`]). It must know no Wasm and no manifest: a value has a [`codec::Type`] of its own,
//! and the control store keeps bytes under keys.
//!
//! `docs/wire.md` is the same for people who write a provider in another language.

pub mod artifact;
pub mod codec;
pub mod control;
pub mod envelope;
pub mod membership;
pub mod rpc;
pub mod stream;
pub mod subject;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
pub mod transport;
