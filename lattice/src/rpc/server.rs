//! The callee's side: what arrives is new and in time, or it does not run.
//!
//! Owns what was seen and what runs. A request costs no task here if its call is answered in the first poll.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, AbortHandle, Abortable, BoxFuture};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::clocks::{Clocks, Judged, Times};
use super::ids::{Ids, LATE_MAX_MS, Seen};
use super::{DRAIN_LINGER, Door, HOPS_MAX, Invocation, Service, Stamps};
use crate::envelope::{
    Control, ControlReply, EnvelopeError, Failure, FailureKind, InvocationId, Reply, Request, StreamId,
};
use crate::stream::{Offer, Streams};
use crate::subject::{Address, Subject, SubjectError, Subjects};
use crate::transport::{Handler, Served, Serving, Transport, TransportError};

/// Calls from other hosts that run at once. The service has limits of its own; this one bounds what it is asked.
const RUNNING_MAX: usize = 16_384;

/// Cancels and questions that are looked at at once. Each is answered at once.
const CONTROL_MAX: usize = 1_024;

/// Serves the calls to one host. Clones are the same.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    address: Address,
    stamps: Stamps,
    service: Arc<dyn Service>,
    streams: Option<Streams>,
    book: Mutex<Book>,
    draining: AtomicBool,
    ended: Notify,
    /// What a reply may have at most, over all transports.
    reply_len_max: AtomicUsize,
    stats: Counters,
}

struct Book {
    of_hosts: Ids,
    of_clients: Ids,
    clocks: Clocks,
    running: HashMap<InvocationId, Running>,
}

impl Book {
    fn new() -> Self {
        Self {
            of_hosts: Ids::of_hosts(),
            of_clients: Ids::of_clients(),
            clocks: Clocks::default(),
            running: HashMap::new(),
        }
    }

    /// Looks whether a request has come before, and keeps that it came.
    fn see(&mut self, request: &Request, now: u64) -> Seen {
        if self.running.contains_key(&request.id) {
            return Seen::Repeat;
        }
        let (ids, others) = match request.from {
            Some(_) => (&mut self.of_hosts, &mut self.of_clients),
            None => (&mut self.of_clients, &mut self.of_hosts),
        };
        // A client's call that ran here may come again by another host, which passes it on.
        if others.has(request.id, now) {
            return Seen::Repeat;
        }
        ids.see(request.id, request.echo_ms.is_some(), request.remaining_ms, now)
    }
}

struct Running {
    abort: AbortHandle,
    from: Option<Address>,
}

#[derive(Default)]
struct Counters {
    started: AtomicU64,
    repeated: AtomicU64,
    late: AtomicU64,
    asked: AtomicU64,
    shed: AtomicU64,
    cancelled: AtomicU64,
    malformed: AtomicU64,
    refused_draining: AtomicU64,
}

/// Numbers since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Calls that were run.
    pub started: u64,
    /// Requests that came again and were dropped.
    pub repeated: u64,
    /// Requests that came when their caller had given up, and were refused.
    pub late: u64,
    /// Requests that were sent back for the clock of their sender.
    pub asked: u64,
    /// Requests beyond the bounds, refused.
    pub shed: u64,
    /// Calls that ended as their caller had gone.
    pub cancelled: u64,
    /// Messages that were no request.
    pub malformed: u64,
    /// Requests that were refused as this host drains.
    pub refused_draining: u64,
    /// Calls that run now.
    pub running: u64,
}

/// What becomes of a request.
enum Admitted {
    Run(Box<Request>, Door, Instant, Option<u64>),
    Answer(Reply),
    Drop,
}

impl Server {
    /// A server of the host at `address` for `service`, with `streams` for the calls that have one. Its clock is
    /// `stamps`.
    pub fn new(
        address: Address,
        stamps: Stamps,
        service: Arc<dyn Service>,
        streams: Option<Streams>,
    ) -> Self {
        Self(Arc::new(Inner {
            address,
            stamps,
            service,
            streams,
            book: Mutex::new(Book::new()),
            draining: AtomicBool::new(false),
            ended: Notify::new(),
            reply_len_max: AtomicUsize::new(usize::MAX),
            stats: Counters::default(),
        }))
    }

    /// Serves the calls of `namespace` that come over `transport`, until what is returned is dropped: after
    /// [`Server::drain`], or calls are lost.
    ///
    /// # Errors
    /// There is no connection, or the namespace can't be part of a subject.
    pub async fn serve(
        &self,
        transport: &dyn Transport,
        subjects: &Subjects,
        namespace: &str,
    ) -> Result<Served, ServeError> {
        let subject = subjects.call(self.0.address.as_str(), namespace)?;
        Ok(self
            .serve_of(transport, subject, Some(format!("{namespace}/")))
            .await?)
    }

    /// Serves the calls on `subject`, which several may share, as an outside provider does with its own.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn serve_at(
        &self,
        transport: &dyn Transport,
        subject: Subject,
    ) -> Result<Served, TransportError> {
        self.serve_of(transport, subject, None).await
    }

    /// The same for targets in `namespace` alone, whoever may publish on the subject.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn serve_scoped(
        &self,
        transport: &dyn Transport,
        subject: Subject,
        namespace: &str,
    ) -> Result<Served, TransportError> {
        self.serve_of(transport, subject, Some(format!("{namespace}/")))
            .await
    }

    /// Serves clients that have no view of the lattice, and tools, until what is returned is dropped; several hosts share
    /// their requests. A request reaches what its subject names and nothing else, and is no host's, whatever it says.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn serve_clients(
        &self,
        transport: &dyn Transport,
        subjects: &Subjects,
    ) -> Result<Vec<Served>, TransportError> {
        self.0
            .reply_len_max
            .fetch_min(transport.payload_len_max(), Relaxed);
        let concurrency = RUNNING_MAX;
        let mut serving = Vec::new();
        for (subject, door) in [
            (subjects.fronts(), Door::Front),
            (subjects.apis(false), Door::ApiRead),
            (subjects.apis(true), Door::ApiWrite),
        ] {
            let handler = Open {
                server: self.clone(),
                subjects: subjects.clone(),
                door,
            };
            let served = transport.serve(subject, Serving { concurrency }, Arc::new(handler));
            serving.push(served.await?);
        }
        Ok(serving)
    }

    async fn serve_of(
        &self,
        transport: &dyn Transport,
        subject: Subject,
        scope: Option<String>,
    ) -> Result<Served, TransportError> {
        let concurrency = RUNNING_MAX;
        self.0
            .reply_len_max
            .fetch_min(transport.payload_len_max(), Relaxed);
        let handler = Scoped {
            server: self.clone(),
            scope,
        };
        let served = transport.serve(subject, Serving { concurrency }, Arc::new(handler));
        served.await
    }

    /// Serves cancels, and the question whether this host lives, until what is returned is dropped.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn serve_control(
        &self,
        transport: &dyn Transport,
        subjects: &Subjects,
    ) -> Result<Served, ServeError> {
        let subject = subjects.control(self.0.address.as_str())?;
        let concurrency = CONTROL_MAX;
        let handler = Arc::new(ControlHandler(self.clone()));
        Ok(transport.serve(subject, Serving { concurrency }, handler).await?)
    }

    /// Takes no call any more, and says so to who calls, so that it calls another; returns when those that run have
    /// ended and callers had the time to hear of it, or after `limit`. Whether all have ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.0.draining.store(true, Relaxed);
        let deadline = Instant::now() + limit;
        let ended = async || {
            loop {
                let ended = self.0.ended.notified();
                if self.book().running.is_empty() {
                    return;
                }
                ended.await;
            }
        };
        if tokio::time::timeout_at(deadline, ended()).await.is_err() {
            return false;
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + DRAIN_LINGER)).await;
        // One may have been taken in the very moment in which this began.
        tokio::time::timeout_at(deadline, ended()).await.is_ok()
    }

    /// Whether it takes no call any more.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Relaxed)
    }

    /// Ends what runs for a host that has gone.
    pub fn peer_gone(&self, peer: &Address) {
        let mut book = self.book();
        book.clocks.forget(peer);
        for running in book.running.values() {
            if running.from.as_ref() == Some(peer) {
                running.abort.abort();
                self.0.stats.cancelled.fetch_add(1, Relaxed);
            }
        }
    }

    /// Numbers since the start.
    pub fn stats(&self) -> ServerStats {
        let stats = &self.0.stats;
        ServerStats {
            started: stats.started.load(Relaxed),
            repeated: stats.repeated.load(Relaxed),
            late: stats.late.load(Relaxed),
            asked: stats.asked.load(Relaxed),
            shed: stats.shed.load(Relaxed),
            cancelled: stats.cancelled.load(Relaxed),
            malformed: stats.malformed.load(Relaxed),
            refused_draining: stats.refused_draining.load(Relaxed),
            running: self.book().running.len() as u64,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reply(&self, id: InvocationId, outcome: Result<Bytes, Failure>, clock_ms: Option<u64>) -> Reply {
        Reply {
            id,
            outcome,
            load: self.0.service.load(),
            clock_ms,
            batches: clock_ms.is_some(),
            leaving: self.is_draining(),
        }
    }

    /// The message of a reply, or of why it can't be sent.
    fn reply_that_fits(
        &self,
        id: InvocationId,
        outcome: Result<Bytes, Failure>,
        clock_ms: Option<u64>,
    ) -> Bytes {
        let reply = self.reply(id, outcome, clock_ms).encode();
        let len_max = self.0.reply_len_max.load(Relaxed);
        if reply.len() <= len_max {
            return reply;
        }
        let detail = format!(
            "the reply of {} bytes is longer than {len_max}: send it as a stream",
            reply.len()
        );
        let failure = Failure::started(FailureKind::Unavailable, detail);
        self.reply(id, Err(failure), clock_ms).encode()
    }

    fn refuse(&self, id: InvocationId, kind: FailureKind, detail: impl Into<String>) -> Admitted {
        Admitted::Answer(self.reply(id, Err(Failure::not_started(kind, detail)), None))
    }

    /// Looks at a request. Whatever is answered that did not start, is said for good: a repeat of it gets no answer.
    fn admit(&self, request: Bytes, room: bool, scope: &Scope<'_>) -> Admitted {
        let mut request = match Request::decode(&request) {
            Ok(request) => request,
            Err(error) => return self.malformed(&error),
        };
        if scope.door() != Door::Host {
            // What it says of a host's clock would be believed of that host.
            (request.from, request.echo_ms) = (None, None);
        }
        let stats = &self.0.stats;
        let (id, now) = (request.id, self.0.stamps.now_ms());
        let mut book = self.book();
        let seen = book.see(&request, now);
        match seen {
            Seen::New | Seen::Again => {}
            Seen::Repeat => {
                stats.repeated.fetch_add(1, Relaxed);
                return Admitted::Drop;
            }
            Seen::Full => {
                stats.shed.fetch_add(1, Relaxed);
                return self.refuse(id, FailureKind::Overloaded, "too many calls to remember");
            }
        }
        let mut ask = false;
        let mut left = Duration::from_millis(request.remaining_ms);
        if let Some(from) = &request.from {
            let times = Times {
                sent: request.sent_ms,
                remaining: request.remaining_ms,
                echo: request.echo_ms,
            };
            let failure = match book.clocks.judge(from, times, now, LATE_MAX_MS) {
                Judged::Left {
                    left: rest,
                    ask: asks,
                } => {
                    (left, ask) = (rest, asks);
                    None
                }
                Judged::Late => {
                    stats.late.fetch_add(1, Relaxed);
                    Some((FailureKind::Deadline, "the request came too late"))
                }
                Judged::Unknown => Some((FailureKind::Unavailable, "the caller's clock is not known here")),
            };
            if let Some((kind, detail)) = failure {
                // If the caller still waits, it was not late: then it is sent again with an echo. Once, so that what is
                // said then is said for good.
                let asks = seen == Seen::New;
                if asks {
                    stats.asked.fetch_add(1, Relaxed);
                    book.of_hosts.asked(id);
                }
                let failure = Failure::not_started(kind, detail);
                return Admitted::Answer(self.reply(id, Err(failure), asks.then_some(now)));
            }
        }
        drop(book);
        if left.is_zero() {
            return self.refuse(id, FailureKind::Deadline, "the request has no time left");
        }
        if !scope.has(&request.target) {
            let detail = match scope.door() {
                Door::Front => "this subject is another actor's",
                _ => "this subject is another namespace's",
            };
            return self.refuse(id, FailureKind::Denied, detail);
        }
        if self.is_draining() {
            stats.refused_draining.fetch_add(1, Relaxed);
            return self.refuse(id, FailureKind::Unavailable, "this host drains");
        }
        if !room {
            stats.shed.fetch_add(1, Relaxed);
            let detail = format!("{RUNNING_MAX} calls from other hosts run already");
            return self.refuse(id, FailureKind::Overloaded, detail);
        }
        if request.hops > HOPS_MAX {
            let detail = format!("a chain of more than {HOPS_MAX} calls: does it call itself?");
            return self.refuse(id, FailureKind::Denied, detail);
        }
        // A time of centuries is no reason to fail.
        let deadline = Instant::now() + left.min(Duration::from_hours(24));
        Admitted::Run(Box::new(request), scope.door(), deadline, ask.then_some(now))
    }

    fn handle(&self, request: Bytes, scope: &Scope<'_>) -> BoxFuture<'static, Option<Bytes>> {
        match self.admit(request, true, scope) {
            Admitted::Run(request, door, deadline, asks_ms) => self.run(*request, door, deadline, asks_ms),
            Admitted::Answer(reply) => future::ready(Some(reply.encode())).boxed(),
            Admitted::Drop => future::ready(None).boxed(),
        }
    }

    fn shed(&self, request: Bytes, scope: &Scope<'_>) -> Option<Bytes> {
        match self.admit(request, false, scope) {
            Admitted::Answer(reply) => Some(reply.encode()),
            // It is never run without room.
            Admitted::Run(..) | Admitted::Drop => None,
        }
    }

    fn malformed(&self, error: &EnvelopeError) -> Admitted {
        self.0.stats.malformed.fetch_add(1, Relaxed);
        debug!(%error, "refused a message that is no request");
        // Whose it is can't be said; its caller knows by where the answer comes.
        self.refuse(InvocationId([0; 16]), FailureKind::Unavailable, error.to_string())
    }

    fn offer(&self, id: Option<StreamId>, from: Option<&Address>) -> Result<Option<Offer>, Failure> {
        let Some(id) = id else { return Ok(None) };
        match (&self.0.streams, from) {
            (Some(streams), Some(from)) => Ok(Some(Offer::new(streams.clone(), id, from.clone()))),
            _ => Err(Failure::not_started(
                FailureKind::Overloaded,
                "streams are not taken here",
            )),
        }
    }

    fn run(
        &self,
        request: Request,
        door: Door,
        deadline: Instant,
        asks_ms: Option<u64>,
    ) -> BoxFuture<'static, Option<Bytes>> {
        let id = request.id;
        let stream = match self.offer(request.stream, request.from.as_ref()) {
            Ok(stream) => stream,
            Err(failure) => return future::ready(Some(self.reply(id, Err(failure), None).encode())).boxed(),
        };
        let (abort, registration) = AbortHandle::new_pair();
        let from = request.from.clone();
        self.book().running.insert(id, Running { abort, from });
        self.0.stats.started.fetch_add(1, Relaxed);
        let ends = Ends {
            server: self.clone(),
            id,
        };
        let call = self.0.service.call(Invocation {
            id,
            target: request.target,
            interface: request.interface,
            function: request.function,
            revision: request.revision,
            body: request.body,
            deadline,
            hops: request.hops,
            trace: request.trace,
            caller: request.caller,
            from: request.from,
            stream,
            door,
        });
        let computes = self.0.service.computes();
        let server = self.clone();
        async move {
            let call = async move {
                if computes {
                    // Before the deadline is watched, which costs a timer once the call waits: most don't.
                    tokio::task::yield_now().await;
                    // This process may have stood still since.
                    if Instant::now() >= deadline {
                        let detail = "the request had no time left when its turn came";
                        return Err(Failure::not_started(FailureKind::Deadline, detail));
                    }
                }
                let late = |_| {
                    let detail = "the call ran out of time";
                    Err(Failure::started(FailureKind::Deadline, detail))
                };
                let ended = tokio::time::timeout_at(deadline, call).await;
                ended.unwrap_or_else(late)
            };
            let Ok(outcome) = Abortable::new(call, registration).await else {
                // Nobody waits for an answer.
                return None;
            };
            drop(ends);
            Some(server.reply_that_fits(id, outcome, asks_ms))
        }
        .boxed()
    }

    fn cancel(&self, id: InvocationId) {
        let mut book = self.book();
        if let Some(running) = book.running.get(&id) {
            running.abort.abort();
            self.0.stats.cancelled.fetch_add(1, Relaxed);
        }
        // It may have overtaken its call, which then is a repeat. Only hosts send one.
        let now = self.0.stamps.now_ms();
        book.of_hosts.see(id, false, LATE_MAX_MS, now);
    }
}

/// What the target of a request may be.
enum Scope<'s> {
    /// Whatever.
    Any,
    /// What begins so.
    Of(&'s str),
    /// This one, for a client.
    Actor(String),
    /// What is in this namespace, for a tool.
    Namespace(Door, &'s str),
    /// Nothing: the subject names nothing that there could be.
    Nothing(Door),
}

impl Scope<'_> {
    fn door(&self) -> Door {
        match self {
            Self::Any | Self::Of(_) => Door::Host,
            Self::Actor(_) => Door::Front,
            Self::Namespace(door, _) | Self::Nothing(door) => *door,
        }
    }

    fn has(&self, target: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Of(begin) => target.starts_with(begin),
            Self::Actor(actor) => target == actor,
            Self::Namespace(_, namespace) => target
                .strip_prefix(namespace)
                .is_some_and(|rest| rest.starts_with('/')),
            Self::Nothing(_) => false,
        }
    }
}

/// Serves one subject. Who may publish on that of a namespace reaches nothing else.
struct Scoped {
    server: Server,
    /// What the target's name has to begin with.
    scope: Option<String>,
}

impl Scoped {
    fn scope(&self) -> Scope<'_> {
        self.scope.as_deref().map_or(Scope::Any, Scope::Of)
    }
}

impl Handler for Scoped {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        self.server.handle(request, &self.scope())
    }

    fn shed(&self, request: Bytes) -> Option<Bytes> {
        self.server.shed(request, &self.scope())
    }
}

/// Serves clients on subjects of which each names what it is for.
struct Open {
    server: Server,
    subjects: Subjects,
    door: Door,
}

impl Open {
    fn scope<'s>(&self, subject: &'s str) -> Scope<'s> {
        let namespace = |writes| self.subjects.api_namespace(subject, writes);
        let found = match self.door {
            Door::Host => None,
            Door::Front => self.subjects.front_target(subject).map(Scope::Actor),
            Door::ApiRead => namespace(false).map(|name| Scope::Namespace(self.door, name)),
            Door::ApiWrite => namespace(true).map(|name| Scope::Namespace(self.door, name)),
        };
        found.unwrap_or(Scope::Nothing(self.door))
    }
}

impl Handler for Open {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        self.server.handle(request, &Scope::Nothing(self.door))
    }

    fn shed(&self, request: Bytes) -> Option<Bytes> {
        self.server.shed(request, &Scope::Nothing(self.door))
    }

    fn handle_on(&self, subject: &str, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        self.server.handle(request, &self.scope(subject))
    }

    fn shed_on(&self, subject: &str, request: Bytes) -> Option<Bytes> {
        self.server.shed(request, &self.scope(subject))
    }
}

struct ControlHandler(Server);

impl Handler for ControlHandler {
    fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let reply = match Control::decode(&request) {
            Ok(control) => {
                control.cancel.inspect(|id| self.0.cancel(*id));
                let reply = ControlReply {
                    load: self.0.0.service.load(),
                    leaving: self.0.is_draining(),
                };
                Some(reply.encode())
            }
            Err(_) => {
                self.0.0.stats.malformed.fetch_add(1, Relaxed);
                None
            }
        };
        future::ready(reply).boxed()
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        None
    }
}

/// Strikes a call out when it has ended, however it did.
struct Ends {
    server: Server,
    id: InvocationId,
}

impl Drop for Ends {
    fn drop(&mut self) {
        let mut book = self.server.book();
        book.running.remove(&self.id);
        let none = book.running.is_empty();
        drop(book);
        if none {
            self.server.0.ended.notify_waiters();
        }
    }
}

/// A subject that can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A name can't be part of a subject.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The transport refused.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says whether it was begun.
    struct Begun(Arc<AtomicBool>);

    impl Service for Begun {
        fn call(&self, _: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
            let begun = self.0.clone();
            async move {
                begun.store(true, Relaxed);
                Ok(Bytes::new())
            }
            .boxed()
        }

        fn computes(&self) -> bool {
            true
        }

        fn load(&self) -> u32 {
            0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_time_went_by_before_its_turn_is_not_begun() {
        let begun = Arc::<AtomicBool>::default();
        let address = Address::new("h1", 1).unwrap();
        let service = Arc::new(Begun(begun.clone()));
        let server = Server::new(address, Stamps::starting_at(0), service, None);
        let request = || Request {
            id: InvocationId::random(),
            target: "default/shop/catalog".to_owned(),
            interface: "shop:catalog/items@1.0.0".to_owned(),
            function: "all".to_owned(),
            remaining_ms: 1_000,
            sent_ms: 0,
            from: None,
            echo_ms: None,
            stream: None,
            hops: 0,
            trace: None,
            caller: "default/shop/checkout".to_owned(),
            revision: None,
            body: Bytes::new(),
        };
        let mut handled = server.handle(request().encode().unwrap(), &Scope::Any);
        assert!((&mut handled).now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        let reply = Reply::decode(&handled.await.unwrap()).unwrap();
        let failure = reply.outcome.unwrap_err();
        assert_eq!(
            (failure.kind, failure.may_have_started),
            (FailureKind::Deadline, false)
        );
        assert!(!begun.load(Relaxed));

        let handled = server.handle(request().encode().unwrap(), &Scope::Any);
        assert!(Reply::decode(&handled.await.unwrap()).unwrap().outcome.is_ok());
        assert!(begun.load(Relaxed));
    }
}
