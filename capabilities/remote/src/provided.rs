//! The serving side: a backend that answers calls.
//!
//! Owns which function does what, and what is kept for callers (`kept.rs`). Must not know how calls come: whoever serves
//! a subject hands them to [`Provided::call`].

mod blob_store;
mod kept;
mod key_value;
mod parts;
mod sql;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_capabilities::{BlobStore, KeyValue, Sql};
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::Invocation;
use weft_lattice::subject::Address;

use self::kept::{Kept, Owner, What};
use crate::cbor::{self, Read, encode};
use crate::shape::{InParts, LongAnswer};
use crate::{BLOB_STORE, ENVELOPE_LEN_MAX, IDLE_MAX, KEY_VALUE, PARTS, SQL, WATCH};

/// How often what is idle is looked for.
const SWEEP_EACH: Duration = Duration::from_secs(1);

/// What is served.
#[derive(Clone)]
pub enum Backend {
    /// Keys and values.
    KeyValue(Arc<dyn KeyValue>),
    /// Objects in containers.
    BlobStore(Arc<dyn BlobStore>),
    /// Tables.
    Sql(Arc<dyn Sql>),
}

/// A backend that answers calls from elsewhere. Clones are the same. Dropping the last rolls back the transactions that
/// are open for callers.
#[derive(Clone)]
pub struct Provided(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    _sweeper: Mutex<JoinSet<()>>,
}

struct Shared {
    backend: Backend,
    run: Arc<str>,
    body_len_max: usize,
    kept: Arc<Kept>,
    calls: AtomicU64,
    in_parts: AtomicU64,
}

/// Numbers since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProvidedStats {
    /// Calls of functions of the backend.
    pub calls: u64,
    /// Arguments and answers that went in parts.
    pub in_parts: u64,
    /// Transactions that are open for callers.
    pub transactions: u64,
    /// Objects that are read or written chunk by chunk.
    pub objects: u64,
    /// Bytes that are reserved for what goes in parts.
    pub reserved: u64,
    /// What was let go of, as nothing was done with it for [`IDLE_MAX`].
    pub expired: u64,
}

/// One call, as its function needs it.
struct Called<'c> {
    function: &'c str,
    args: &'c Bytes,
    owner: &'c Owner,
    deadline: Instant,
}

impl Called<'_> {
    /// The arguments.
    fn args<T: Read>(&self) -> Result<T, Failure> {
        cbor::decode(self.args).map_err(|error| {
            let detail = format!("the arguments of `{}`: {error}", self.function);
            Failure::not_started(FailureKind::RefusedByGuest, detail)
        })
    }

    fn unknown(&self, interface: &str) -> Failure {
        let detail = format!("`{interface}` has no function `{}` here", self.function);
        Failure::not_started(FailureKind::NotFound, detail)
    }
}

impl Provided {
    /// Serves `backend` as the run named `run` (the host's address, or of an outside provider a token that is new each
    /// time it starts), with messages of at most `message_len_max` bytes. Called on a runtime, where it keeps a task.
    pub fn new(backend: Backend, run: &str, message_len_max: usize) -> Self {
        let kept = Arc::<Kept>::default();
        let shared = Arc::new(Shared {
            backend,
            run: run.into(),
            body_len_max: message_len_max.saturating_sub(ENVELOPE_LEN_MAX),
            kept: kept.clone(),
            calls: AtomicU64::new(0),
            in_parts: AtomicU64::new(0),
        });
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut sweep = tokio::time::interval(SWEEP_EACH);
            loop {
                let now = sweep.tick().await;
                kept.let_go_of_idle(now, IDLE_MAX);
            }
        });
        let _sweeper = Mutex::new(task);
        Self(Arc::new(Inner { shared, _sweeper }))
    }

    /// Answers one call, for the service of a host or of an outside provider. Dropping the future stops what it does; a
    /// transaction that it was in is rolled back.
    pub fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let shared = self.0.shared.clone();
        async move {
            let owner = Owner {
                from: invocation.from,
                caller: invocation.caller,
            };
            let called = Called {
                function: &invocation.function,
                args: &invocation.body,
                owner: &owner,
                deadline: invocation.deadline,
            };
            let results = match invocation.interface.as_str() {
                PARTS => parts::run(&shared, &called).await?,
                interface => {
                    let results = shared.run(interface, &called).await?;
                    shared.that_fit(results, shared.body_len_max, &owner)?
                }
            };
            Ok(results.into())
        }
        .boxed()
    }

    /// Rolls back and lets go of what is kept for a host that has gone.
    pub fn peer_gone(&self, peer: &Address) {
        self.0
            .shared
            .kept
            .let_go_of(|owner| owner.from.as_ref() == Some(peer));
    }

    /// Rolls back and lets go of all that is kept.
    pub fn release(&self) {
        self.0.shared.kept.let_go_of(|_| true);
    }

    /// Waits until nothing is kept for anybody, for a drain: callers end what they began.
    pub async fn released(&self) {
        self.0.shared.kept.emptied().await;
    }

    /// Numbers since the start.
    pub fn stats(&self) -> ProvidedStats {
        let shared = &self.0.shared;
        let kept = shared.kept.stats();
        ProvidedStats {
            calls: shared.calls.load(Relaxed),
            in_parts: shared.in_parts.load(Relaxed),
            transactions: kept.transactions,
            objects: kept.objects,
            reserved: kept.reserved,
            expired: kept.expired,
        }
    }
}

impl Shared {
    /// Runs a function of the backend and gives its results, however long they are.
    async fn run(&self, interface: &str, called: &Called<'_>) -> Result<Vec<u8>, Failure> {
        self.calls.fetch_add(1, Relaxed);
        match (&self.backend, interface) {
            (Backend::KeyValue(store), KEY_VALUE) => key_value::run(&**store, called).await,
            (Backend::KeyValue(store), WATCH) => watch::run(self, &**store, called).await,
            (Backend::BlobStore(store), BLOB_STORE) => blob_store::run(self, &**store, called).await,
            (Backend::Sql(database), SQL) => sql::run(self, &**database, called).await,
            (backend, _) => {
                let serves = match backend {
                    Backend::KeyValue(_) => KEY_VALUE,
                    Backend::BlobStore(_) => BLOB_STORE,
                    Backend::Sql(_) => SQL,
                };
                let detail = format!("this provider serves `{serves}`, and not `{interface}`");
                Err(Failure::not_started(FailureKind::NotFound, detail))
            }
        }
    }

    /// `results`, or in their place where to read them in parts.
    fn that_fit(&self, results: Vec<u8>, len_max: usize, owner: &Owner) -> Result<Vec<u8>, Failure> {
        if results.len() <= len_max {
            return Ok(results);
        }
        self.in_parts.fetch_add(1, Relaxed);
        let len = results.len();
        let Some(id) = self.kept.keep(owner, What::Outgoing(results.into())) else {
            let detail = format!("there is no room to keep an answer of {len} bytes: try again later");
            return Err(Failure::started(FailureKind::Overloaded, detail));
        };
        let long = LongAnswer {
            run: self.run.as_ref().to_owned(),
            id: Bytes::copy_from_slice(&id),
            len: len as u64,
        };
        Ok(encode(&(Err::<(), _>(InParts(long)),)))
    }
}
