//! One call of one exported function.
//!
//! Owns an invocation's identity, its processor-time account, its log budget and the ways it can fail. It must not
//! know HTTP: [`crate::ingress`] makes calls out of requests and answers out of failures. Read [`record`] for what is
//! written down of a call, [`crate::call`] for calls from one actor to another.

pub mod record;

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use weft_compose::Limits;
use weft_observability::TraceContext;
use weft_observability::metrics::{Outcome, ShedReason};

use crate::actor::ActorInfo;
use crate::engine::EPOCH_TICK;
use crate::link::{Chosen, Import, Links};
use crate::state::{ActorIndex, ActorState, State};
use crate::store::LogLine;

/// Calls in a chain from one actor to the next. Real ones have three or four; past this an actor calls itself in a
/// circle, each time with an instance of its own.
pub const HOPS_MAX: u8 = 32;

/// Names an invocation, unique over restarts and hosts: the host's start, then a count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InvocationId(u64, u64);

impl InvocationId {
    /// The next one.
    pub fn next() -> Self {
        static BOOT: LazyLock<u64> = LazyLock::new(|| {
            use std::hash::{BuildHasher as _, Hasher as _};
            // Seeded from the system's randomness by the standard library.
            std::collections::hash_map::RandomState::new()
                .build_hasher()
                .finish()
        });
        static COUNT: AtomicU64 = AtomicU64::new(1);
        Self(*BOOT, COUNT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

/// Who makes a call.
#[derive(Clone)]
pub enum Caller {
    /// An actor on this host.
    Actor(Arc<ActorInfo>),
    /// An actor or a trigger on another, by its name.
    Remote(Arc<str>),
}

impl Caller {
    /// The name, for people.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Actor(actor) => actor.name.as_str(),
            Self::Remote(name) => name,
        }
    }
}

/// A call that came from another host.
pub struct FromAfar {
    /// Who made it.
    pub caller: String,
    /// How many calls led to it.
    pub hops: u8,
    /// When it arrived here.
    pub arrived: Instant,
    /// When its answer is due, if the callee's own limit is not sooner.
    pub deadline: Instant,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

/// What all parts of a running invocation share.
pub struct Call {
    /// Its name.
    pub id: InvocationId,
    /// Whom it calls.
    pub actor: Arc<ActorInfo>,
    /// What the host was when the call came, or the call that led to it: actors, links, routes. It sees no other.
    pub state: Arc<State>,
    at: ActorIndex,
    /// Who made it; `None` for a call from outside.
    pub caller: Option<Caller>,
    /// How many calls led to it; 0 for a call from outside.
    pub hops: u8,
    /// When it arrived.
    pub arrived: Instant,
    /// When its answer is due.
    pub deadline: Instant,
    /// The trace it belongs to, sampled or not.
    pub trace: Option<TraceContext>,
    /// Its processor time.
    pub cpu: CpuAccount,
    /// The links that it chose by name.
    pub chosen: Chosen,
    expired: AtomicBool,
    failed: AtomicBool,
    log_bytes: AtomicU64,
    log_was_cut: AtomicBool,
}

impl Call {
    /// A call from outside of the actor at `at`, which came at `arrived`.
    pub fn root(
        state: Arc<State>,
        at: ActorIndex,
        arrived: Instant,
        trace: Option<TraceContext>,
    ) -> Arc<Self> {
        let actor = state.actor(at).actor.info.clone();
        let deadline = arrived + actor.limits.timeout;
        Arc::new(Self::new(state, at, actor, arrived, deadline, trace))
    }

    /// A call of the actor at `at` that another host sends.
    pub fn from_afar(state: Arc<State>, at: ActorIndex, from: FromAfar) -> Arc<Self> {
        let actor = state.actor(at).actor.info.clone();
        let FromAfar {
            caller,
            hops,
            arrived,
            deadline,
            trace,
        } = from;
        let deadline = deadline.min(arrived + actor.limits.timeout);
        Arc::new(Self {
            hops,
            caller: Some(Caller::Remote(caller.into())),
            ..Self::new(state, at, actor, arrived, deadline, trace)
        })
    }

    /// How many calls lead to one that this call makes.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the chain is [`HOPS_MAX`] long.
    pub fn next_hop(&self) -> Result<u8, CallError> {
        if self.hops >= HOPS_MAX {
            let cause =
                wasmtime::format_err!("a chain of {HOPS_MAX} calls from actor to actor goes no further");
            return Err(CallError::refused(ErrorKind::Denied, Some(cause)));
        }
        Ok(self.hops + 1)
    }

    /// When a call that this one makes now of an actor with `limits` is due.
    pub fn child_deadline(&self, limits: &Limits) -> Instant {
        self.deadline.min(Instant::now() + limits.timeout)
    }

    /// A call of the actor at `at` that this call makes. It ends no later than this one.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] when the chain is [`HOPS_MAX`] long.
    pub fn child(&self, at: ActorIndex, trace: Option<TraceContext>) -> Result<Arc<Self>, CallError> {
        let hops = self.next_hop()?;
        let arrived = Instant::now();
        let actor = self.state.actor(at).actor.info.clone();
        let deadline = self.deadline.min(arrived + actor.limits.timeout);
        Ok(Arc::new(Self {
            hops,
            caller: Some(Caller::Actor(self.actor.clone())),
            ..Self::new(self.state.clone(), at, actor, arrived, deadline, trace)
        }))
    }

    fn new(
        state: Arc<State>,
        at: ActorIndex,
        actor: Arc<ActorInfo>,
        arrived: Instant,
        deadline: Instant,
        trace: Option<TraceContext>,
    ) -> Self {
        Self {
            id: InvocationId::next(),
            cpu: CpuAccount::new(actor.limits.cpu_time),
            chosen: Chosen::default(),
            actor,
            state,
            at,
            caller: None,
            hops: 0,
            arrived,
            deadline,
            trace,
            expired: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            log_bytes: AtomicU64::new(0),
            log_was_cut: AtomicBool::new(false),
        }
    }

    /// The actor that it calls, with its links.
    pub fn target(&self) -> &ActorState {
        self.state.actor(self.at)
    }

    /// The links by which its calls of `import` go now.
    pub fn links(&self, import: Import) -> &Links {
        self.target().links.by(self.chosen.of(import))
    }

    /// Says that the call is about to be dropped for lateness, and not because its caller left.
    pub fn expire(&self) {
        self.expired.store(true, Ordering::Relaxed);
        self.fail();
    }

    /// Says that the instance is about to be dropped before it has done its work.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Whether [`fail`](Self::fail) was called: a body that ends now is cut short.
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether [`expire`](Self::expire) was called.
    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    /// Writes a guest's line to the log, within the invocation's budget and the actor's rate. The first line over the
    /// budget is replaced by one that says so, and one a second over the rate; the others are counted and dropped.
    pub fn log(&self, line: LogLine<'_>) {
        let cost = line.message.len() as u64 + line.context.map_or(0, str::len) as u64 + LOG_LINE_OVERHEAD;
        let used = self.log_bytes.fetch_add(cost, Ordering::Relaxed) + cost;
        let within = used <= self.actor.limits.log_bytes;
        // What an invocation may not write doesn't count against the others of its actor.
        let logged = within && self.actor.may_log(cost + LOG_LINE_FIELDS);
        self.actor.metrics.log_lines(1, !logged);
        if logged {
            line.emit(self);
        } else if within {
            if self.actor.may_tell_log_cut() {
                let bytes = self.actor.log_bytes_per_s();
                self.tell_cut(&format!(
                    "log cut: this actor wrote more than {bytes} bytes within a second"
                ));
            }
        } else if !self.log_was_cut.swap(true, Ordering::Relaxed) && self.actor.may_log(LOG_LINE_FIELDS) {
            let bytes = self.actor.limits.log_bytes;
            self.tell_cut(&format!("log cut: this invocation wrote more than {bytes} bytes"));
        }
    }

    fn tell_cut(&self, message: &str) {
        let cut = LogLine {
            level: tracing::Level::WARN,
            source: "weft",
            context: None,
            message: message.as_bytes(),
        };
        cut.emit(self);
    }
}

/// What an empty line counts, so that empty lines are bounded too.
const LOG_LINE_OVERHEAD: u64 = 32;
/// What the host writes around a line (time, actor, invocation, trace), which counts against the actor's rate: a flood
/// of empty lines would else be seven times what the rate says.
const LOG_LINE_FIELDS: u64 = 224;

thread_local! {
    /// Set when a guest that is polled on this thread gives way because it computes for long.
    pub static LONG: Cell<bool> = const { Cell::new(false) };
}

/// What a guest is to do at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuCheck {
    /// Go on: it has only started, and a tick fell into its few microseconds, or it did not have a processor.
    Go,
    /// Let others have the thread, then go on.
    Yield,
    /// Stop: its processor time is used up.
    Stop,
}

/// Processor time of one invocation: the time inside polls of its future, less that in which their thread had to wait for a
/// processor.
///
/// Read and written on the thread that polls; the atomics only make it shareable.
pub struct CpuAccount {
    budget: Duration,
    used_ns: AtomicU64,
    poll_started_ns: AtomicU64,
    /// When the last tick of this poll was, and the thread's processor time then.
    ticked_ns: AtomicU64,
    ticked_cpu_ns: AtomicU64,
    /// The part of all that in which the thread had no processor, as far as ticks tell.
    waited_ns: AtomicU64,
    exhausted: AtomicBool,
}

impl CpuAccount {
    fn new(budget: Duration) -> Self {
        Self {
            budget,
            used_ns: AtomicU64::new(0),
            poll_started_ns: AtomicU64::new(NOT_POLLED),
            ticked_ns: AtomicU64::new(NOT_TICKED),
            ticked_cpu_ns: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
            exhausted: AtomicBool::new(false),
        }
    }

    /// Time used until `now`, that of a running poll included.
    pub fn used_at(&self, now: Instant) -> Duration {
        let running = match self.poll_started_ns.load(Ordering::Relaxed) {
            NOT_POLLED => 0,
            started => since_start_ns(now).saturating_sub(started),
        };
        let polled = self.used_ns.load(Ordering::Relaxed).saturating_add(running);
        Duration::from_nanos(polled.saturating_sub(self.waited_ns.load(Ordering::Relaxed)))
    }

    /// Whether the budget ran out.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// Looks at the account in the middle of a poll. Called on each epoch tick.
    pub fn check(&self) -> CpuCheck {
        let now = Instant::now();
        let compared = self.note_wait(now);
        let used = self.used_at(now);
        if used > self.budget {
            self.exhausted.store(true, Ordering::Relaxed);
            CpuCheck::Stop
        } else if !compared || used < EPOCH_TICK {
            CpuCheck::Go
        } else {
            LONG.set(true);
            CpuCheck::Yield
        }
    }

    /// Takes note of the time since the tick before in which the thread had no processor, as others had them all. `false` at
    /// the first tick of a poll, which has nothing to compare with.
    fn note_wait(&self, now: Instant) -> bool {
        let now = since_start_ns(now);
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu = u64::try_from(cpu.tv_sec * 1_000_000_000 + cpu.tv_nsec).unwrap_or_default();
        let (then, cpu_then) = (
            self.ticked_ns.swap(now, Ordering::Relaxed),
            self.ticked_cpu_ns.swap(cpu, Ordering::Relaxed),
        );
        if then == NOT_TICKED {
            return false;
        }
        let waited = now
            .saturating_sub(then)
            .saturating_sub(cpu.saturating_sub(cpu_then));
        self.waited_ns.fetch_add(waited, Ordering::Relaxed);
        true
    }

    /// Says that what runs from here on is charged to this account.
    pub fn start_poll(&self) {
        self.poll_started_ns.store(now_ns(), Ordering::Relaxed);
        self.ticked_ns.store(NOT_TICKED, Ordering::Relaxed);
    }

    /// Says that what ran until here was charged to this account.
    pub fn end_poll(&self) {
        let started = self.poll_started_ns.swap(NOT_POLLED, Ordering::Relaxed);
        self.used_ns
            .fetch_add(now_ns().saturating_sub(started), Ordering::Relaxed);
    }
}

/// Stands for no running poll.
const NOT_POLLED: u64 = u64::MAX;
/// Stands for no tick in this poll.
const NOT_TICKED: u64 = u64::MAX;

fn now_ns() -> u64 {
    since_start_ns(Instant::now())
}

fn since_start_ns(now: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(now.saturating_duration_since(*START).as_nanos()).unwrap_or(u64::MAX)
}

/// A future whose polls are charged to a call's processor-time account.
pub struct Metered<F> {
    call: Arc<Call>,
    future: F,
}

impl<F> Metered<F> {
    /// Charges `future` to `call`.
    pub fn new(call: Arc<Call>, future: F) -> Self {
        Self { call, future }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `future` is pinned whenever `self` is: it is never moved out, and neither field is handed out by
        // mutable reference otherwise.
        let (call, future) = unsafe {
            let this = self.get_unchecked_mut();
            (&this.call, Pin::new_unchecked(&mut this.future))
        };
        call.cpu.start_poll();
        let polled = future.poll(cx);
        call.cpu.end_poll();
        polled
    }
}

/// How a call failed.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct CallError {
    /// What the caller is told.
    pub kind: ErrorKind,
    /// Whether the function may have run, in part or as a whole.
    pub may_have_started: bool,
    /// What the operator is told besides.
    #[source]
    pub source: Option<wasmtime::Error>,
}

/// The typed errors of the data plane (docs/errors.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Shed: no place, or none in time.
    Overloaded(ShedReason),
    /// Not answered within its deadline.
    Deadline,
    /// The guest trapped.
    Trap,
    /// The guest used up its processor time.
    CpuExhausted,
    /// The guest wanted more memory than it may have, and failed over it.
    MemoryExhausted,
    /// The guest ended well without an answer, or answered with an error of its own.
    RefusedByGuest,
    /// The actor, or one that it called, can't be run now.
    Unavailable,
    /// Nothing is linked to what was called.
    NotFound,
    /// The call is not allowed.
    Denied,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overloaded(_) => "the actor is overloaded",
            Self::Deadline => "the actor did not answer in time",
            Self::Trap => "the actor failed",
            Self::CpuExhausted => "the actor used up its processor time",
            Self::MemoryExhausted => "the actor used up its memory",
            Self::RefusedByGuest => "the actor gave no answer",
            Self::Unavailable => "the actor, or one that it needs, is not available",
            Self::NotFound => "what was called is not linked",
            Self::Denied => "the call is not allowed",
        })
    }
}

impl ErrorKind {
    /// As metrics count it.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Overloaded(_) => Outcome::Overloaded,
            Self::Deadline => Outcome::Deadline,
            Self::Trap => Outcome::Trap,
            Self::CpuExhausted => Outcome::Cpu,
            Self::MemoryExhausted => Outcome::Memory,
            Self::RefusedByGuest => Outcome::RefusedByGuest,
            Self::Unavailable => Outcome::Unavailable,
            Self::NotFound => Outcome::NotFound,
            Self::Denied => Outcome::Denied,
        }
    }

    /// The error's name in answers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded(_) => "overloaded",
            Self::Deadline => "deadline",
            Self::Trap => "trap",
            Self::CpuExhausted => "cpu",
            Self::MemoryExhausted => "memory",
            Self::RefusedByGuest => "refused-by-guest",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
        }
    }
}

impl CallError {
    /// A call that was shed before it started.
    pub fn shed(reason: ShedReason) -> Self {
        Self {
            kind: ErrorKind::Overloaded(reason),
            may_have_started: false,
            source: None,
        }
    }

    /// A call that was refused before it started.
    pub fn refused(kind: ErrorKind, source: Option<wasmtime::Error>) -> Self {
        Self {
            kind,
            may_have_started: false,
            source,
        }
    }

    /// What the failure of a call means for the call that made it: the caller has started, and shed is only the
    /// callee.
    pub fn for_caller(&self) -> ErrorKind {
        match self.kind {
            ErrorKind::Overloaded(_) | ErrorKind::Unavailable => ErrorKind::Unavailable,
            kind @ (ErrorKind::Deadline | ErrorKind::NotFound | ErrorKind::Denied) => kind,
            _ => ErrorKind::Trap,
        }
    }

    /// A failure after the guest may have run, without a cause to tell.
    pub fn started(kind: ErrorKind) -> Self {
        Self {
            kind,
            may_have_started: true,
            source: None,
        }
    }

    /// The whole chain of causes for the operator, with the guest's backtrace if it has one.
    pub fn detail(&self) -> String {
        self.source
            .as_ref()
            .map(|source| format!("{source:#}"))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        assert_ne!(InvocationId::next().to_string(), InvocationId::next().to_string());
    }

    #[test]
    fn a_guest_is_charged_what_its_thread_computed_and_not_what_that_waited_for_a_processor() {
        let account = CpuAccount::new(Duration::from_millis(50));
        account.start_poll();
        LONG.set(false);
        assert_eq!(account.check(), CpuCheck::Go);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(60));
            assert_ne!(account.check(), CpuCheck::Stop);
        }
        loop {
            let begin = Instant::now();
            while begin.elapsed() < 2 * EPOCH_TICK {
                std::hint::spin_loop();
            }
            if account.check() == CpuCheck::Stop {
                break;
            }
        }
        assert!(LONG.get());
    }

    #[test]
    fn an_account_runs_out_in_the_middle_of_a_poll() {
        let account = CpuAccount::new(Duration::from_millis(5));
        account.start_poll();
        assert_eq!(account.check(), CpuCheck::Go);
        while account.check() != CpuCheck::Stop {
            std::hint::spin_loop();
        }
        account.end_poll();
        assert!(account.is_exhausted());
        assert!(account.used_at(Instant::now()) >= Duration::from_millis(5));
    }
}
