//! The calling side's way to a provider: who has it now, and calls of any length.
//!
//! Owns what a failed call means, but not to a trait. Who has the provider can change while it is used: a call goes to who
//! has it when it is made, and what a run of it keeps is asked of that run alone.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_lattice::envelope::{Failure, FailureKind, Trace};
use weft_lattice::rpc::{Call, Candidate, Client, Place, Targets};
use weft_lattice::subject::{Address, SubjectError, Subjects};

use crate::cbor::{Read, Reader, Unreadable, Write, decode, encode};
use crate::shape::{Handle, InParts, LongAnswer, PartsError};
use crate::{ENVELOPE_LEN_MAX, PARTS, PARTS_LEN_MAX, WATCH, chunk_len_max};

/// How long an end that nobody waits for is tried. The provider lets go of what is idle by itself later.
const END_WAIT: Duration = Duration::from_secs(5);

/// Ends that wait to be sent. One that finds no room is left to the provider.
const ENDS_MAX: usize = 1_024;

/// Ends that are on their way at once.
const ENDS_AT_ONCE: usize = 64;

tokio::task_local! {
    static CALLER: Arc<str>;
}

/// Runs `future`, whose calls of providers name `caller` as who makes them, and so does what they begin and others end.
pub fn called_by<F: Future>(caller: Arc<str>, future: F) -> impl Future<Output = F::Output> {
    CALLER.scope(caller, future)
}

/// A provider that is elsewhere. Clones are the same.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    at: ArcSwap<At>,
    ends: mpsc::Sender<End>,
    _task: Mutex<JoinSet<()>>,
}

struct Shared {
    client: Client,
    name: [String; 3],
    target: String,
    caller: Arc<str>,
    trace: fn() -> Option<Trace>,
    calls: AtomicU64,
    failed: AtomicU64,
    in_parts: AtomicU64,
}

enum At {
    Somewhere(Run),
    /// The condition that says why.
    Nowhere(String),
}

/// Who is called: a host's one run, any run of an outside provider, or one of them.
#[derive(Clone)]
pub(crate) struct Run {
    targets: Arc<Targets>,
    /// For an outside provider whose runs share a subject.
    shared_on: Option<Subjects>,
    /// Who calls.
    caller: Arc<str>,
}

impl Run {
    /// Whether it is a process that is no host.
    pub(crate) fn is_outside(&self) -> bool {
        self.shared_on.is_some()
    }
}

/// What a run keeps, and the function that ends it.
struct End {
    run: Run,
    interface: &'static str,
    name: &'static str,
    id: Bytes,
}

/// Numbers since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoteStats {
    /// Calls of functions.
    pub calls: u64,
    /// Calls that the provider gave no answer to.
    pub failed: u64,
    /// Arguments and answers that went in parts.
    pub in_parts: u64,
}

/// One function and its arguments.
pub(crate) struct Function {
    pub(crate) interface: &'static str,
    pub(crate) name: &'static str,
    pub(crate) deadline: Instant,
    /// Whether it only reads, and may be run twice.
    pub(crate) reads: bool,
    pub(crate) args: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    Failed(Failure),
    /// What is sent is longer than this provider takes.
    TooLong {
        len: usize,
        len_max: usize,
    },
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Remote {
    /// The provider `namespace/app/name`, which is nowhere yet, as `caller` uses it where [`called_by`] names nobody else.
    /// Each call belongs to the trace that `trace` gives. Called on a runtime, where it keeps a task.
    pub fn new(
        client: Client,
        [namespace, app, name]: [&str; 3],
        caller: &str,
        trace: fn() -> Option<Trace>,
    ) -> Self {
        let shared = Arc::new(Shared {
            client,
            name: [namespace, app, name].map(str::to_owned),
            target: format!("{namespace}/{app}/{name}"),
            caller: caller.into(),
            trace,
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            in_parts: AtomicU64::new(0),
        });
        let (ends, queue) = mpsc::channel(ENDS_MAX);
        let mut task = JoinSet::new();
        task.spawn(send_ends(shared.clone(), queue));
        let nowhere = At::Nowhere("no host is known to have it yet".to_owned());
        Self(Arc::new(Inner {
            shared,
            at: ArcSwap::from_pointee(nowhere),
            ends,
            _task: Mutex::new(task),
        }))
    }

    /// From now on the run of a host at `address` has it.
    ///
    /// # Errors
    /// The namespace can't be part of a subject.
    pub fn set_host(&self, address: &Address) -> Result<(), SubjectError> {
        let shared = &self.0.shared;
        let candidate = Candidate {
            address: address.clone(),
            // There is one only, so that it does not matter which is near.
            place: Place::default(),
            revision: 0,
        };
        let targets = shared.client.targets(&shared.name[0], &[candidate], Vec::new())?;
        self.set(At::Somewhere(Run {
            targets: Arc::new(targets),
            shared_on: None,
            caller: shared.caller.clone(),
        }));
        Ok(())
    }

    /// From now on an outside process has it, or several that share its subject.
    ///
    /// # Errors
    /// A part of its name can't be part of a subject.
    pub fn set_outside(&self, subjects: &Subjects) -> Result<(), SubjectError> {
        let shared = &self.0.shared;
        let [namespace, app, name] = &shared.name;
        let subject = subjects.provider(namespace, app, name)?;
        self.set(At::Somewhere(Run {
            targets: Arc::new(shared.client.at_subject(subject)),
            shared_on: Some(subjects.clone()),
            caller: shared.caller.clone(),
        }));
        Ok(())
    }

    /// From now on calls fail at once, with `condition`.
    pub fn set_nowhere(&self, condition: impl Into<String>) {
        self.set(At::Nowhere(condition.into()));
    }

    /// Numbers since the start.
    pub fn stats(&self) -> RemoteStats {
        let shared = &self.0.shared;
        RemoteStats {
            calls: shared.calls.load(Relaxed),
            failed: shared.failed.load(Relaxed),
            in_parts: shared.in_parts.load(Relaxed),
        }
    }

    fn set(&self, at: At) {
        self.0.at.store(Arc::new(at));
    }

    /// Who has it now, for who calls now: what it keeps is that caller's.
    pub(crate) fn now(&self) -> Result<Run, Failure> {
        match &**self.0.at.load() {
            At::Somewhere(run) => Ok(Run {
                caller: CALLER.try_with(Arc::clone).unwrap_or_else(|_| run.caller.clone()),
                ..run.clone()
            }),
            At::Nowhere(condition) => {
                let detail = format!("the provider `{}`: {condition}", self.0.shared.target);
                Err(Failure::not_started(FailureKind::Unavailable, detail))
            }
        }
    }

    /// The one run named `name` of those that `run` is.
    pub(crate) fn pinned(&self, run: &Run, name: &str) -> Result<Run, Failure> {
        self.0.shared.pinned(run, name)
    }

    /// Calls `function` at `run`, and gives its results, however long they and the arguments are.
    pub(crate) async fn call<T: Read>(&self, run: &Run, function: Function) -> Result<T, NoAnswer> {
        let shared = &self.0.shared;
        shared.calls.fetch_add(1, Relaxed);
        let called = shared.call(run, function).await;
        called.inspect_err(|_| {
            shared.failed.fetch_add(1, Relaxed);
        })
    }

    /// Bytes of a chunk that fits in a message with its place, as what goes chunk by chunk is sent.
    pub(crate) fn chunk_len_max(&self) -> usize {
        chunk_len_max(self.0.shared.body_len_max())
    }

    /// Ends by the function `name` what a run keeps, for nobody waits.
    pub(crate) fn end(&self, run: Run, interface: &'static str, name: &'static str, id: Bytes) {
        let end = End {
            run,
            interface,
            name,
            id,
        };
        // Without room it ends when the provider finds it idle.
        let _ = self.0.ends.try_send(end);
    }
}

async fn send_ends(shared: Arc<Shared>, queue: mpsc::Receiver<End>) {
    let queue = stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
    let sent = queue.for_each_concurrent(ENDS_AT_ONCE, async |end| {
        let function = Function {
            interface: end.interface,
            name: end.name,
            deadline: Instant::now() + END_WAIT,
            reads: true,
            args: encode(&(end.id,)).into(),
        };
        // What was not reached ends by itself.
        let _ = shared
            .send(
                &end.run,
                &function,
                function.interface,
                function.name,
                function.args.clone(),
            )
            .await;
    });
    sent.await;
}

impl Shared {
    fn body_len_max(&self) -> usize {
        self.client.payload_len_max().saturating_sub(ENVELOPE_LEN_MAX)
    }

    fn pinned(&self, run: &Run, name: &str) -> Result<Run, Failure> {
        let Some(subjects) = &run.shared_on else {
            return Ok(run.clone());
        };
        let [namespace, app, provider] = &self.name;
        let subject = subjects.provider_run(namespace, app, provider, name);
        let subject = subject.map_err(|error| unreadable("a run", &error))?;
        Ok(Run {
            targets: Arc::new(self.client.at_subject(subject)),
            shared_on: run.shared_on.clone(),
            caller: run.caller.clone(),
        })
    }

    async fn call<T: Read>(&self, run: &Run, function: Function) -> Result<T, NoAnswer> {
        let (interface, name) = (function.interface, function.name);
        let (run, results) = if function.args.len() <= self.body_len_max() {
            let body = function.args.clone();
            let results = self.send(run, &function, interface, name, body).await?;
            (run.clone(), results)
        } else {
            self.send_in_parts(run, &function).await?
        };
        let results = match decode::<(Result<Whole, InParts>,)>(&results) {
            Ok((Err(InParts(long)),)) => self.read_in_parts(&run, &function, &long).await?,
            _ => results,
        };
        decode(&results).map_err(|error| unreadable(name, &error).into())
    }

    /// Sends arguments in parts; gives the run that took them, and its results.
    async fn send_in_parts(&self, run: &Run, function: &Function) -> Result<(Run, Bytes), NoAnswer> {
        self.in_parts.fetch_add(1, Relaxed);
        let (len, len_max) = (function.args.len(), self.body_len_max());
        if len > PARTS_LEN_MAX {
            let len_max = PARTS_LEN_MAX;
            return Err(NoAnswer::TooLong { len, len_max });
        }
        let opened = match self.parts::<Handle>(run, function, "open", &(len as u64,)).await {
            Err(Failure {
                kind: FailureKind::NotFound,
                ..
            }) => return Err(NoAnswer::TooLong { len, len_max }),
            opened => opened.map_err(|mut failure| {
                // Nothing but room was asked for.
                failure.may_have_started = false;
                failure
            })?,
        };
        let run = self.pinned(run, &opened.run)?;
        let mut rest = function.args.clone();
        let mut at = 0_u64;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(len_max.saturating_sub(PART_OVERHEAD).max(1)));
            let args = (&opened.id, at, &part);
            let written = self.parts::<()>(&run, function, "write", &args).await;
            written.map_err(|mut failure| {
                failure.may_have_started = false;
                failure
            })?;
            at += part.len() as u64;
        }
        let args = (&opened.id, function.interface, function.name);
        let results = self.parts::<Bytes>(&run, function, "run", &args).await?;
        Ok((run, results))
    }

    /// Fetches an answer that does not fit in one message.
    async fn read_in_parts(
        &self,
        run: &Run,
        function: &Function,
        long: &LongAnswer,
    ) -> Result<Bytes, Failure> {
        self.in_parts.fetch_add(1, Relaxed);
        let len = usize::try_from(long.len).ok().filter(|len| *len <= PARTS_LEN_MAX);
        let len = len.ok_or_else(|| unreadable(function.name, &"a length beyond what is kept in parts"))?;
        let run = self.pinned(run, &long.run)?;
        let part_len = self.body_len_max().saturating_sub(PART_OVERHEAD) as u64;
        let mut whole = BytesMut::new();
        while whole.len() < len {
            let args = (&long.id, whole.len() as u64, part_len);
            let part = self.parts::<Bytes>(&run, function, "read", &args).await;
            // The function has run.
            let part = part.map_err(|mut failure| {
                failure.may_have_started = true;
                failure
            })?;
            if part.is_empty() || part.len() > len - whole.len() {
                return Err(unreadable(function.name, &"a part of another length"));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    /// Calls a function of `parts`.
    async fn parts<T: Read>(
        &self,
        run: &Run,
        function: &Function,
        name: &'static str,
        args: &impl Write,
    ) -> Result<T, Failure> {
        let results = self.send(run, function, PARTS, name, encode(args).into()).await?;
        let (done,): (Result<T, PartsError>,) = decode(&results).map_err(|error| unreadable(name, &error))?;
        done.map_err(|error| {
            let (kind, why) = match error {
                PartsError::NoRoom => (FailureKind::Overloaded, "has no room for what goes in parts"),
                PartsError::TooLong => (FailureKind::Denied, "takes nothing of this length"),
                PartsError::Unknown => (FailureKind::Unavailable, "has let go of what goes in parts"),
                PartsError::Misplaced => (FailureKind::Unavailable, "misses a part"),
            };
            Failure::not_started(kind, format!("the provider `{}` {why}", self.target))
        })
    }

    async fn send(
        &self,
        run: &Run,
        function: &Function,
        interface: &str,
        name: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let call = Call {
            target: self.target.clone(),
            interface: interface.to_owned(),
            function: name.to_owned(),
            body,
            deadline: function.deadline,
            hops: 0,
            trace: (self.trace)(),
            caller: run.caller.as_ref().to_owned(),
            idempotent: function.reads && interface != PARTS,
            patient: interface == WATCH,
            stream: None,
        };
        self.client
            .call(&run.targets, call)
            .await
            .map(|answer| answer.body)
    }
}

/// What a part has beside its bytes in the arguments or results that it is in.
const PART_OVERHEAD: usize = 64;

fn unreadable(what: &str, error: &dyn fmt::Display) -> Failure {
    let detail = format!("the provider's answer to `{what}` can't be read: {error}");
    Failure::started(FailureKind::Unavailable, detail)
}

/// A payload that is no answer in parts, and so not looked at here.
struct Whole;

impl Read for Whole {
    fn read(_: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Err(Unreadable("an answer in parts"))
    }
}
