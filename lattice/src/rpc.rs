//! Calls between hosts: at most once, with a deadline, and an answer or a typed error for each.
//!
//! Owns the promise. [`Client`] chooses a host and sends; [`Server`] drops what is repeated or late, runs the rest and
//! answers; [`route`] is the choice as a pure function. Must not know what is called: a [`Service`] takes names and
//! bytes, and who may be called is plain data ([`Candidate`]).
//!
//! No wall clock plays a part. A request says how long its caller still waits and when it was sent by its caller's clock;
//! the callee asks each caller's clock once in a while (`clocks.rs`), and so knows how late a request is at most.

mod budget;
mod client;
mod clocks;
mod ids;
mod peer;
pub mod route;
mod server;
mod upkeep;

#[cfg(any(test, feature = "test-util"))]
pub(crate) use self::client::mix;

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

pub use self::client::{Answer, Call, Client, ClientStats};
pub use self::clocks::Stamps;
pub use self::route::{Candidate, Place, Ring, Targets};
pub use self::server::{ServeError, Server, ServerStats};
use crate::envelope::{Failure, FailureKind, InvocationId, Trace};
use crate::stream::Offer;
use crate::subject::Address;

/// How many calls a chain of calls may have, as on one host.
pub const HOPS_MAX: u8 = 32;

/// A host that drains goes on answering (that it drains) this long after its last call ended: a heartbeat and a digest
/// tell the others within two seconds, and a second is for those on their way.
pub const DRAIN_LINGER: Duration = Duration::from_secs(3);

/// What a host runs for the others.
pub trait Service: Send + Sync + 'static {
    /// Runs one call. The future is dropped at the deadline, and when the caller has gone.
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>>;

    /// Whether calls compute, and so are not begun where requests are received; those that only pass something on are
    /// answered there without a task of their own, if they can be at once.
    fn computes(&self) -> bool {
        false
    }

    /// How busy this host is: 0 idle, 1,000 full, more if calls wait.
    fn load(&self) -> u32;
}

/// A call as it arrives.
#[derive(Debug)]
pub struct Invocation {
    /// The call.
    pub id: InvocationId,
    /// Who is called, `namespace/app/name`.
    pub target: String,
    /// The interface, with its version.
    pub interface: String,
    /// The function in it.
    pub function: String,
    /// The target's revision, if it must be that one.
    pub revision: Option<u64>,
    /// The arguments, as CBOR.
    pub body: Bytes,
    /// When the caller gives up, and the call ends.
    pub deadline: Instant,
    /// Calls between the root call and this one.
    pub hops: u8,
    /// The trace that it belongs to, if it is traced.
    pub trace: Option<Trace>,
    /// Who calls, `namespace/app/name`, or the name of a trigger.
    pub caller: String,
    /// The host that sent it, if it is one.
    pub from: Option<Address>,
    /// The stream that goes with the call, to be taken or left.
    pub stream: Option<Offer>,
    /// By which way it came.
    pub door: Door,
}

/// By which way a call came: what is said on the subjects of hosts is said by hosts, which trust each other; on the others
/// by whoever has the right to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A subject of this host, or one of its own choice.
    Host,
    /// [`Subjects::fronts`](crate::subject::Subjects::fronts): a client calls the actor that the subject names.
    Front,
    /// [`Subjects::apis`](crate::subject::Subjects::apis): a tool reads the state of the namespace that the subject names.
    ApiRead,
    /// The same, and it writes.
    ApiWrite,
}

impl Failure {
    /// One of a call that certainly did not start.
    pub fn not_started(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            may_have_started: false,
            detail: detail.into(),
        }
    }

    /// One of a call that may have run, even to its end.
    pub fn started(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            may_have_started: true,
            detail: detail.into(),
        }
    }
}
