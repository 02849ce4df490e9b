//! What listens for actors: subscriptions to messages, and watches of keys.
//!
//! Owns how those that run become those that are wanted, the task of each, and how a handler gets its place. What is heard is
//! a root call like a request: it is admitted, measured, traced and bounded as one. No place is taken where it is read: what
//! finds none waits on its own, and what waits has a bound. It must not know what is heard: [`super::messages`] and
//! [`super::watches`] do.
//!
//! One that is wanted no more ends in order: it takes nothing new, and what it has accepted runs, on the snapshot in which
//! its actor was there. One that changes is replaced by one that listens already. One that its backend ended is begun anew
//! by the reconciler, which is told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use weft_capabilities::queue::{Queued, Receiver};
use weft_compose::{ActorName, HostName};
use weft_observability::{Sampler, TraceContext, context_of};

use super::invoke::GuestTasks;
use crate::actor::ActorInfo;
use crate::call::{self, Step};
use crate::invocation::{Call, CallError, ErrorKind};
use crate::state::{ActorIndex, State};

/// What is handled at once of one that listens, at most: fewer if its actor has less concurrency.
const HANDLED_AT_ONCE_MAX: usize = 256;
/// Bytes after which no more is taken until some of it is handled: a value has up to 8 MiB.
const HANDLED_BYTES_MAX: usize = 64 << 20;
/// How many are begun at once: each is a question to a server.
const BEGUN_AT_ONCE: usize = 16;
/// How long a backend has to begin one; then it is tried again, and others are served meanwhile.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// How long after its backend ended it one is begun anew: a backend that ends each at once must not keep the host busy.
const ANEW_AFTER: Duration = Duration::from_secs(1);
/// How long what was heard may wait for a place of its actor, beyond the actor's own queue: then it goes back, or is lost.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(30);
/// The first wait before a place is asked for again; it doubles.
const PLACE_RETRY_MIN: Duration = Duration::from_millis(10);
const PLACE_RETRY_MAX: Duration = Duration::from_secs(1);
/// How long a backend that keeps what it tells is to wait before it tells it again, at first; it doubles.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What all that listen on a host share.
pub struct Shared {
    /// Actors and links, as of now.
    pub state: Arc<ArcSwap<State>>,
    /// Where handlers run.
    pub tasks: GuestTasks,
    /// Decides what is traced.
    pub sampler: Sampler,
    /// Cancelled when this host takes no more work.
    pub drain: CancellationToken,
    /// This host, if there may be others.
    pub host: Option<HostName>,
    /// Told when a backend has ended one that is wanted.
    pub lost: Notify,
}

/// A snapshot that one ends with: the last one that has its actor.
pub(super) type Ended = Option<Arc<State>>;

/// What is to listen, and the backend that is to be asked.
pub trait Source: Clone + Send + Sync + 'static {
    /// What is heard.
    type Piece: Queued + Send + 'static;

    /// Who handles it.
    fn actor(&self) -> &ActorName;

    /// Whether it is the same, at the same backend.
    fn is(&self, other: &Self) -> bool;

    /// Begins to listen.
    ///
    /// # Errors
    /// Why it can't, for the operator.
    fn begin(
        &self,
        shared: &Arc<Shared>,
    ) -> impl Future<Output = Result<Receiver<Self::Piece>, String>> + Send;

    /// What pieces have in common that are handled in their order, one after the other; `None` for one that stands alone.
    fn line(piece: &Self::Piece) -> Option<&str>;

    /// Has the actor handle a piece, and settles it.
    fn handle(
        self,
        shared: Arc<Shared>,
        piece: Self::Piece,
        ended: watch::Receiver<Ended>,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// Counts pieces that were dropped, as the actor handles fewer than came.
    fn tell_dropped(&self, info: &ActorInfo, lost: u64);
}

struct Running<S> {
    source: S,
    end: watch::Sender<Ended>,
    /// Its backend has ended it.
    lost: Arc<AtomicBool>,
}

/// All of a kind that listen on a host, by the keys of their records.
pub struct Listeners<S> {
    shared: Arc<Shared>,
    running: BTreeMap<String, Running<S>>,
}

impl<S: Source> Listeners<S> {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            running: BTreeMap::new(),
        }
    }

    /// Makes those that run the wanted ones; which could not be begun, and why. `before` is the snapshot that was there
    /// until now.
    pub async fn apply(&mut self, wanted: BTreeMap<String, S>, before: &Arc<State>) -> Vec<(S, String)> {
        let gone = self.running.extract_if(.., |key, _| !wanted.contains_key(key));
        let gone: Vec<Running<S>> = gone.map(|(_, running)| running).collect();
        let missing = wanted
            .into_iter()
            .filter(|(key, wanted)| !self.running.get(key).is_some_and(|running| running.is(wanted)));
        let shared = &self.shared;
        let begun = missing.map(|(key, source)| async move {
            let begun = match tokio::time::timeout(BEGIN_MAX, source.begin(shared)).await {
                Ok(begun) => begun,
                Err(_) => Err(format!("it did not answer within {} s", BEGIN_MAX.as_secs())),
            };
            (key, source, begun)
        });
        let begun: Vec<_> = stream::iter(begun.collect::<Vec<_>>())
            .buffer_unordered(BEGUN_AT_ONCE)
            .collect()
            .await;
        let mut failed = Vec::new();
        for (key, source, begun) in begun {
            match begun {
                // The one that it replaces ends after it has begun, so that nothing falls between.
                Ok(heard) => {
                    let running = self.run(source, heard);
                    if let Some(replaced) = self.running.insert(key, running) {
                        replaced.end(before);
                    }
                }
                Err(reason) => failed.push((source, reason)),
            }
        }
        gone.into_iter().for_each(|gone| gone.end(before));
        failed
    }

    fn run(&self, source: S, heard: Receiver<S::Piece>) -> Running<S> {
        let (end, ended) = watch::channel(None);
        let lost = Arc::<AtomicBool>::default();
        let (shared, tells) = (self.shared.clone(), lost.clone());
        let running = source.clone();
        let task = async move {
            run(&shared, running, heard, ended.clone()).await;
            let is_over = || ended.borrow().is_some() || shared.drain.is_cancelled();
            if !is_over() {
                drop(tokio::time::timeout(ANEW_AFTER, shared.drain.cancelled()).await);
            }
            if !is_over() {
                tells.store(true, Ordering::Release);
                shared.lost.notify_one();
            }
        };
        let tasks = &self.shared.tasks;
        tasks.tracker.spawn_on(task, &tasks.shared);
        Running { source, end, lost }
    }
}

impl<S: Source> Running<S> {
    fn is(&self, wanted: &S) -> bool {
        self.source.is(wanted) && !self.lost.load(Ordering::Acquire)
    }

    fn end(self, before: &Arc<State>) {
        self.end.send_replace(Some(before.clone()));
    }
}

/// Pieces that are handled, and those that wait for one of their line.
struct Handling<S: Source> {
    source: S,
    ended: watch::Receiver<Ended>,
    tasks: JoinSet<()>,
    /// Of each task the line that it is of, and the bytes of its piece.
    begun: HashMap<Id, (Option<String>, usize)>,
    /// What waits, by its line: there is an entry for each line of which a piece is handled.
    behind: HashMap<String, VecDeque<S::Piece>>,
    waiting: usize,
    /// Bytes of all of them.
    bytes: usize,
}

impl<S: Source> Handling<S> {
    fn has_room(&self, len_max: usize) -> bool {
        self.tasks.len() + self.waiting < len_max && self.bytes < HANDLED_BYTES_MAX
    }

    fn add(&mut self, shared: &Arc<Shared>, piece: S::Piece) {
        self.bytes += piece.weight();
        match S::line(&piece).and_then(|line| self.behind.get_mut(line)) {
            Some(behind) => {
                behind.push_back(piece);
                self.waiting += 1;
            }
            None => self.begin(shared, piece),
        }
    }

    fn begin(&mut self, shared: &Arc<Shared>, piece: S::Piece) {
        let (line, weight) = (S::line(&piece).map(str::to_owned), piece.weight());
        let handled = self
            .source
            .clone()
            .handle(shared.clone(), piece, self.ended.clone());
        let task = self.tasks.spawn(handled);
        if let Some(line) = &line {
            self.behind.entry(line.clone()).or_default();
        }
        self.begun.insert(task.id(), (line, weight));
    }

    /// Waits until a piece is handled, and begins the next of its line. `None` if none is being handled.
    async fn next(&mut self, shared: &Arc<Shared>) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(failed) => failed.id(),
        };
        let (line, weight) = self.begun.remove(&id).unwrap_or_default();
        self.bytes -= weight;
        if let Some(line) = line {
            match self.behind.get_mut(&line).and_then(VecDeque::pop_front) {
                Some(piece) => {
                    self.waiting -= 1;
                    self.begin(shared, piece);
                }
                None => drop(self.behind.remove(&line)),
            }
        }
        Some(())
    }
}

/// Hands pieces over until no more come and all that was accepted is done.
async fn run<S: Source>(
    shared: &Arc<Shared>,
    source: S,
    mut heard: Receiver<S::Piece>,
    mut ended: watch::Receiver<Ended>,
) {
    let mut handling = Handling {
        ended: ended.clone(),
        tasks: JoinSet::new(),
        begun: HashMap::new(),
        behind: HashMap::new(),
        waiting: 0,
        bytes: 0,
        source,
    };
    let (mut is_ending, mut dropped) = (false, 0);
    loop {
        let lost = heard.dropped() - dropped;
        if lost > 0 {
            dropped += lost;
            let state = shared.state.load();
            if let Some(at) = state.find(handling.source.actor()) {
                handling.source.tell_dropped(&state.actor(at).actor.info, lost);
            }
        }
        let has_room = handling.has_room(shared.handled_at_once(handling.source.actor()));
        let over = async {
            tokio::select! {
                () = shared.drain.cancelled() => {}
                _ = ended.changed() => {}
            }
        };
        let piece = tokio::select! {
            biased;
            () = shared.tasks.abort.cancelled() => return,
            () = over, if !is_ending => {
                is_ending = true;
                heard.end();
                continue;
            }
            Some(()) = handling.next(shared) => continue,
            piece = heard.next(), if has_room => piece,
        };
        let Some(piece) = piece else { break };
        handling.add(shared, piece);
    }
    let done = async { while handling.next(shared).await.is_some() {} };
    // What waits for its turn is not begun any more when the time to drain is over.
    shared.tasks.abort.run_until_cancelled(done).await;
}

impl Shared {
    fn handled_at_once(&self, actor: &ActorName) -> usize {
        let state = self.state.load();
        let actor = state.find(actor).map(|at| &state.actor(at).actor.info);
        let concurrency = actor.map_or(1, |info| info.limits.concurrency as usize);
        concurrency.min(HANDLED_AT_ONCE_MAX)
    }

    /// The actor, and the snapshot that it runs in. One that is being taken off this host runs in the last that had it.
    pub(super) async fn find(
        &self,
        actor: &ActorName,
        mut ended: watch::Receiver<Ended>,
    ) -> Option<(Arc<State>, ActorIndex)> {
        let state = self.state.load_full();
        if let Some(at) = state.find(actor) {
            return Some((state, at));
        }
        let last = ended.wait_for(Option::is_some).await.ok()?.clone()?;
        let at = last.find(actor)?;
        Some((last, at))
    }

    /// The span of what was heard, and the trace that its handler is in.
    pub(super) fn traced(
        &self,
        parent: Option<TraceContext>,
        span: impl FnOnce() -> tracing::Span,
    ) -> (tracing::Span, Option<TraceContext>) {
        let span = match self.sampler.decide(parent.as_ref()) {
            true => span(),
            false => tracing::Span::none(),
        };
        let trace = context_of(&span).or(parent);
        (span, trace)
    }

    /// Calls the handler's function at `function`; `refused` says whether what comes of it is a failure of the guest's own.
    pub(super) async fn call<P: Step + 'static>(
        &self,
        (state, at): (&Arc<State>, ActorIndex),
        function: usize,
        (span, trace): (tracing::Span, Option<TraceContext>),
        step: P,
        refused: impl FnOnce(&P::Output) -> bool,
    ) -> Result<P::Output, CallError>
    where
        P::Output: 'static,
    {
        let call = Call::root(state.clone(), at, Instant::now(), trace);
        span.record("faas.invocation_id", tracing::field::display(call.id));
        let run = call::run(call.clone(), function, step);
        let ended = self.tasks.run(&call, run).instrument(span.clone()).await;
        let failed = match &ended {
            Ok(output) => refused(output).then_some(ErrorKind::RefusedByGuest.as_str()),
            Err(error) => Some(error.kind.as_str()),
        };
        if let Some(kind) = failed {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", kind);
        }
        ended
    }
}

/// Calls a handler as soon as there is a place for it.
pub(super) async fn once_there_is_a_place<T, F: Future<Output = Result<T, CallError>>>(
    call: impl Fn() -> F,
) -> Result<T, CallError> {
    let give_up = Instant::now() + PLACE_WAIT_MAX;
    let mut wait = PLACE_RETRY_MIN;
    loop {
        match call().await {
            Err(CallError {
                kind: ErrorKind::Overloaded(_),
                may_have_started: false,
                ..
            }) if Instant::now() < give_up => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PLACE_RETRY_MAX);
            }
            called => return called,
        }
    }
}

/// When what failed for the time numbered `attempt` is to come again.
pub(super) fn again_after(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    (AGAIN_MIN * (1 << doublings)).min(AGAIN_MAX)
}
