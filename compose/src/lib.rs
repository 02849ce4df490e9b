//! How services are composed out of actors.
//!
//! Owns the names of things, the limits an actor runs under, the manifest of an app, the records that the control
//! store holds of it, and the step from one to the other. Everything in this crate is pure: it reads no file, opens
//! no socket and knows no Wasm engine.
//!
//! Start with [`name`], the identity that every key, subject, metric and log line carries, then [`manifest`] (what
//! people write), [`record`] and [`key`] (what is stored) and [`deploy`] (how the one becomes the other).

pub mod allow;
pub mod capability;
pub mod deploy;
pub mod diff;
pub mod fault;
pub mod interface;
pub mod key;
pub mod limits;
mod link;
pub mod manifest;
pub mod moving;
pub mod name;
pub mod record;
pub mod route;
pub mod schema;
pub mod scope;
pub mod secret;
pub mod settings;
pub mod subscription;
pub mod units;
pub mod watch;

pub use allow::AllowPattern;
pub use capability::Capability;
pub use deploy::{Change, CurrentApp, plan};
pub use fault::{Fault, FaultKind, Faults};
pub use interface::InterfacePattern;
pub use limits::Limits;
pub use link::{DEFAULT_LINK, LinkKey, check_beside, check_provider};
pub use manifest::{Manifest, parse};
pub use moving::MoveRecord;
pub use name::{ActorName, AppName, HostName, NameError, ProviderName, SecretName};
pub use record::{
    ActorRecord, AppRecord, CommandRecord, LinkRecord, LinkTarget, PlacementRecord, ProviderRecord,
    QuotaRecord, RouteRecord, SecretRecord, SubscriptionRecord, WatchRecord,
};
pub use scope::AppPattern;
pub use secret::SecretSource;
