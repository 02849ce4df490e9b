//! The caller's side: chooses a host, sends, and tries the next one if that is allowed.
//!
//! Owns what is known of the hosts that are called. A call costs no task and no subscription; cancels and questions
//! whether a silent host lives go out from one task (`upkeep.rs`), which ends with the last clone of the client.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::budget::Budget;
use super::peer::Peer;
use super::route::Row;
use super::{Candidate, Place, Ring, Stamps, Targets, upkeep};
use crate::envelope::{Failure, FailureKind, InvocationId, Reply, Request, Trace};
use crate::membership::Standing;
use crate::stream::Binder;
use crate::subject::{Address, Subject, SubjectError, Subjects};
use crate::transport::{Transport, TransportError};

/// Hosts that one call is tried at: a few that drain, and one that does not.
const ATTEMPTS_MAX: usize = 8;

/// Cancels that wait to be sent. One that finds no room is left out: the callee ends by its deadline.
const CANCELS_MAX: usize = 4_096;

/// Calls other hosts. Clones are the same.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    cancels: mpsc::Sender<(Arc<Peer>, InvocationId)>,
    _upkeep: Mutex<JoinSet<()>>,
}

/// What the client and its task both have.
pub(super) struct Shared {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) stamps: Stamps,
    pub(super) counters: Counters,
    subjects: Subjects,
    address: Address,
    place: Place,
    /// In order, so that a run that is repeated by its seed is the same.
    peers: Mutex<BTreeMap<Address, Weak<Peer>>>,
    budget: Budget,
    random: AtomicU64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) calls: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) retries_refused: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) ejected: AtomicU64,
    pub(super) cancels: AtomicU64,
    pub(super) cancels_dropped: AtomicU64,
}

/// Numbers since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Calls that were made.
    pub calls: u64,
    /// Times that another host was tried.
    pub retries: u64,
    /// Times that another host was not tried, as the budget was used up.
    pub retries_refused: u64,
    /// Times that the same host was sent a call again, with an echo.
    pub resent: u64,
    /// Hosts that were passed over as they did not answer.
    pub ejected: u64,
    /// Cancels that were sent.
    pub cancels: u64,
    /// Cancels that found no room.
    pub cancels_dropped: u64,
}

/// One call to make.
pub struct Call {
    /// Who is called, `namespace/app/name`.
    pub target: String,
    /// The interface, with its version.
    pub interface: String,
    /// The function in it.
    pub function: String,
    /// The arguments, as CBOR.
    pub body: Bytes,
    /// When the caller gives up.
    pub deadline: Instant,
    /// Calls between the root call and this one.
    pub hops: u8,
    /// The trace that it belongs to, if it is traced.
    pub trace: Option<Trace>,
    /// Who calls, `namespace/app/name`, or the name of a trigger.
    pub caller: String,
    /// Whether it may run twice, so that it may be tried again when it is not known what became of it.
    pub idempotent: bool,
    /// Whether it is answered when something changes, and not before: that it is not yet says nothing of the host, which is
    /// then not asked whether it lives.
    pub patient: bool,
    /// The stream that goes with it.
    pub stream: Option<Binder>,
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The results, as CBOR.
    pub body: Bytes,
    /// Who ran it.
    pub host: Address,
    /// How far away that was.
    pub ring: Ring,
    /// How many hosts were tried.
    pub attempts: u32,
}

/// What to do after an attempt that gave no results.
enum Next {
    /// The same host again, with this stamp of its clock: it asked for an echo, and takes the call again only with one.
    Same(u64),
    /// Another host, at no cost to the budget: this one said that it goes, or is not there.
    Other,
    /// Another host, if the budget allows it.
    OtherForBudget,
    /// Nothing: that is the answer.
    Nothing,
}

impl Client {
    /// A client of the host at `address` in `place` that calls over `transport`. Chances come from `seed`.
    pub fn new(
        transport: Arc<dyn Transport>,
        subjects: Subjects,
        address: Address,
        place: Place,
        stamps: Stamps,
        seed: u64,
    ) -> Self {
        let (cancels, queue) = mpsc::channel(CANCELS_MAX);
        let shared = Arc::new(Shared {
            transport,
            stamps,
            counters: Counters::default(),
            subjects,
            address,
            place,
            peers: Mutex::default(),
            budget: Budget::new(),
            random: AtomicU64::new(seed),
        });
        let mut task = JoinSet::new();
        task.spawn(upkeep::run(shared.clone(), queue));
        let _upkeep = Mutex::new(task);
        Self(Arc::new(Inner {
            shared,
            cancels,
            _upkeep,
        }))
    }

    /// The hosts that run one target in `namespace`, with a weight for each revision.
    ///
    /// # Errors
    /// The namespace can't be part of a subject.
    pub fn targets(
        &self,
        namespace: &str,
        candidates: &[Candidate],
        weights: Vec<(u64, u32)>,
    ) -> Result<Targets, SubjectError> {
        let shared = &self.0.shared;
        let row = |candidate: &Candidate| {
            let ring = if candidate.address == shared.address {
                Ring::Host
            } else {
                Ring::between(&shared.place, &candidate.place)
            };
            Ok(Row {
                peer: shared.peer(&candidate.address)?,
                subject: shared.subjects.call(candidate.address.as_str(), namespace)?,
                revision: candidate.revision,
                ring,
            })
        };
        let rows = candidates.iter().map(row).collect::<Result<_, SubjectError>>()?;
        Ok(Targets { rows, weights })
    }

    /// Whoever serves `subject` and is no host: an outside provider. It is told nothing of this host's clock, gets no
    /// cancel and no stream.
    pub fn at_subject(&self, subject: Subject) -> Targets {
        let row = Row {
            peer: self.0.shared.outsider(&subject),
            subject,
            revision: 0,
            ring: Ring::Zone,
        };
        Targets {
            rows: vec![row],
            weights: Vec::new(),
        }
    }

    /// The longest message that goes, in bytes: a request with its envelope.
    pub fn payload_len_max(&self) -> usize {
        self.0.shared.transport.payload_len_max()
    }

    /// Takes over how membership sees a host: who is not alive is the last to be chosen.
    pub fn set_standing(&self, address: &Address, standing: Standing) {
        if let Some(peer) = self.0.shared.known(address) {
            peer.set_standing(standing);
        }
    }

    /// Whether a host is passed over, as it does not answer.
    pub fn is_ejected(&self, address: &Address) -> bool {
        self.0.shared.known(address).is_some_and(|peer| peer.is_ejected())
    }

    /// Numbers since the start.
    pub fn stats(&self) -> ClientStats {
        let counters = &self.0.shared.counters;
        ClientStats {
            calls: counters.calls.load(Relaxed),
            retries: counters.retries.load(Relaxed),
            retries_refused: counters.retries_refused.load(Relaxed),
            resent: counters.resent.load(Relaxed),
            ejected: counters.ejected.load(Relaxed),
            cancels: counters.cancels.load(Relaxed),
            cancels_dropped: counters.cancels_dropped.load(Relaxed),
        }
    }

    /// Makes a call at one of `targets`; it has ended by its deadline. Dropping the future cancels it.
    ///
    /// # Errors
    /// Why there are no results, and whether it may have run all the same.
    pub async fn call(&self, targets: &Targets, call: Call) -> Result<Answer, Failure> {
        self.call_as(targets, call, InvocationId::random()).await
    }

    /// The same for a call that has an id already, as it is passed on: whoever runs it drops a repeat.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_as(&self, targets: &Targets, call: Call, id: InvocationId) -> Result<Answer, Failure> {
        let shared = &self.0.shared;
        shared.counters.calls.fetch_add(1, Relaxed);
        shared.budget.called();
        let mut tried = Vec::new();
        let mut last: Option<Failure> = None;
        let (mut asked, stream) = Asked::of(call, id);
        let outcome = loop {
            let chosen = (tried.len() < ATTEMPTS_MAX)
                .then(|| targets.choose(&tried, shared.stamps.now_ms(), shared.random()))
                .flatten();
            let Some(at) = chosen else {
                let detail = format!("no host that could be reached runs `{}`", asked.request.target);
                break Err(last.unwrap_or_else(|| Failure::not_started(FailureKind::Unavailable, detail)));
            };
            let more = tried.len() + 1 < targets.rows.len();
            tried.push(at);
            let row = &targets.rows[at];
            let (mut failure, next) = match self.try_at(row, &mut asked, stream.as_ref(), more).await {
                Ok(body) => {
                    break Ok(Answer {
                        body,
                        host: row.peer.address.clone(),
                        ring: row.ring,
                        attempts: u32::try_from(tried.len()).unwrap_or(u32::MAX),
                    });
                }
                Err(failed) => failed,
            };
            failure.may_have_started |= last.is_some_and(|last| last.may_have_started);
            // Half a body may have been read already.
            let again = stream.as_ref().is_none_or(Binder::is_untouched) && Instant::now() < asked.deadline;
            let goes_on = again
                && match next {
                    Next::Other => true,
                    Next::OtherForBudget => more && shared.may_retry(),
                    Next::Same(_) | Next::Nothing => false,
                };
            if !goes_on {
                break Err(failure);
            }
            shared.counters.retries.fetch_add(1, Relaxed);
            last = Some(failure);
        };
        if let (Err(failure), Some(stream)) = (&outcome, &stream) {
            stream.fail(&failure.to_string());
        }
        outcome
    }

    /// Sends the call to one host, and once again if that asks for an echo.
    async fn try_at(
        &self,
        row: &Row,
        asked: &mut Asked,
        stream: Option<&Binder>,
        more: bool,
    ) -> Result<Bytes, (Failure, Next)> {
        let first = self.send(row, asked, stream, more, None).await;
        let Err((_, Next::Same(stamp))) = first else {
            return first;
        };
        self.0.shared.counters.resent.fetch_add(1, Relaxed);
        // Not the stamp that is kept for whoever calls next: another call may have taken that, and without one this is a
        // repeat, which gets no answer.
        match self.send(row, asked, stream, more, Some(stamp)).await {
            Err((failure, Next::Same(_))) => Err((failure, Next::OtherForBudget)),
            answered => answered,
        }
    }

    async fn send(
        &self,
        row: &Row,
        asked: &mut Asked,
        stream: Option<&Binder>,
        more: bool,
        echo_ms: Option<u64>,
    ) -> Result<Bytes, (Failure, Next)> {
        let shared = &self.0.shared;
        let left = asked.deadline.saturating_duration_since(Instant::now());
        let remaining_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        if remaining_ms == 0 {
            let failure = Failure::not_started(FailureKind::Deadline, "no time was left to call");
            return Err((failure, Next::Nothing));
        }
        let is_host = row.peer.control.is_some();
        if stream.is_some() && !is_host {
            let failure =
                Failure::not_started(FailureKind::Denied, "a stream goes to a host, and to nobody else");
            return Err((failure, Next::Nothing));
        }
        // What may run twice need not wait for one host until the end.
        let wait = if asked.idempotent && more { left / 2 } else { left };
        let patient = asked.patient;
        let request = &mut asked.request;
        request.remaining_ms = remaining_ms;
        request.sent_ms = shared.stamps.now_ms();
        // Of a row without weights, as of one, the revision is whatever runs there.
        request.revision = (row.revision != 0).then_some(row.revision);
        // Several share the subject of who is no host, and each has a clock of its own.
        request.from = is_host.then(|| shared.address.clone());
        request.echo_ms = echo_ms.or_else(|| is_host.then(|| row.peer.take_echo()).flatten());
        request.stream = stream.map(|stream| stream.bind(&row.peer.address));
        let message = request.encode().map_err(|error| {
            let failure = Failure::not_started(FailureKind::Denied, error.to_string());
            (failure, Next::Nothing)
        })?;
        let _in_flight = row.peer.begin(request.sent_ms, patient);
        let mut cancel = Cancel {
            client: self,
            peer: Some(&row.peer).filter(|_| is_host),
            id: request.id,
        };
        let replied = match row.peer.is_worth_a_batch() {
            true => {
                shared
                    .transport
                    .request_in_batch(&row.subject, message, wait)
                    .await
            }
            false => shared.transport.request(&row.subject, message, wait).await,
        };
        if !matches!(replied, Err(TransportError::Timeout { .. })) || wait == left {
            cancel.peer = None;
        }
        match replied {
            Ok(reply) => shared.read(row, asked, &reply),
            Err(error) => Err(shared.unanswered(row, asked, &error)),
        }
    }
}

/// A call as it is asked, of one host after the other.
struct Asked {
    /// What is told of it; what each host is told besides is set before it is sent.
    request: Request,
    deadline: Instant,
    idempotent: bool,
    patient: bool,
}

impl Asked {
    fn of(call: Call, id: InvocationId) -> (Self, Option<Binder>) {
        let request = Request {
            id,
            target: call.target,
            interface: call.interface,
            function: call.function,
            remaining_ms: 0,
            sent_ms: 0,
            hops: call.hops,
            trace: call.trace,
            caller: call.caller,
            revision: None,
            from: None,
            echo_ms: None,
            stream: None,
            body: call.body,
        };
        let asked = Self {
            request,
            deadline: call.deadline,
            idempotent: call.idempotent,
            patient: call.patient,
        };
        (asked, call.stream)
    }
}

impl Shared {
    pub(super) fn peers(&self) -> Vec<Arc<Peer>> {
        let mut peers = self.lock_peers();
        peers.retain(|_, peer| peer.strong_count() > 0);
        peers.values().filter_map(Weak::upgrade).collect()
    }

    fn lock_peers(&self) -> MutexGuard<'_, BTreeMap<Address, Weak<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, address: &Address) -> Option<Arc<Peer>> {
        self.lock_peers().get(address)?.upgrade()
    }

    fn peer(&self, address: &Address) -> Result<Arc<Peer>, SubjectError> {
        let mut peers = self.lock_peers();
        if let Some(peer) = peers.get(address).and_then(Weak::upgrade) {
            return Ok(peer);
        }
        let control: Subject = self.subjects.control(address.as_str())?;
        let peer = Arc::new(Peer::new(address.clone(), Some(control)));
        peers.insert(address.clone(), Arc::downgrade(&peer));
        Ok(peer)
    }

    fn outsider(&self, subject: &Subject) -> Arc<Peer> {
        let address = Address::of_subject(subject);
        let mut peers = self.lock_peers();
        if let Some(peer) = peers.get(&address).and_then(Weak::upgrade) {
            return peer;
        }
        let peer = Arc::new(Peer::new(address.clone(), None));
        peers.insert(address, Arc::downgrade(&peer));
        peer
    }

    fn random(&self) -> u64 {
        mix(self.random.fetch_add(1, Relaxed))
    }

    fn may_retry(&self) -> bool {
        let may = self.budget.try_retry();
        if !may {
            self.counters.retries_refused.fetch_add(1, Relaxed);
        }
        may
    }

    fn read(&self, row: &Row, asked: &Asked, reply: &Bytes) -> Result<Bytes, (Failure, Next)> {
        let reply = Reply::decode(reply).map_err(|error| {
            let failure = Failure::started(FailureKind::Unavailable, format!("no reply but this: {error}"));
            (failure, Next::Nothing)
        })?;
        row.peer.heard(reply.load, reply.leaving, self.stamps.now_ms());
        reply.clock_ms.inspect(|stamp| row.peer.asked(*stamp));
        if reply.batches {
            row.peer.set_batches();
        }
        // Who could not read the request does not know its id.
        if reply.id != asked.request.id && reply.id != InvocationId([0; 16]) {
            let failure = Failure::started(FailureKind::Unavailable, "the reply is to another call");
            return Err((failure, Next::Nothing));
        }
        let failure = match reply.outcome {
            Ok(body) => return Ok(body),
            Err(failure) => failure,
        };
        let next = match (failure.kind, reply.clock_ms) {
            _ if failure.may_have_started => match failure.kind {
                FailureKind::Unavailable if asked.idempotent => Next::OtherForBudget,
                _ => Next::Nothing,
            },
            (_, Some(stamp)) => Next::Same(stamp),
            _ if reply.leaving => Next::Other,
            (
                FailureKind::Overloaded
                | FailureKind::NotFound
                | FailureKind::Unavailable
                | FailureKind::Deadline,
                _,
            ) => Next::OtherForBudget,
            _ => Next::Nothing,
        };
        Err((failure, next))
    }

    fn unanswered(&self, row: &Row, asked: &Asked, error: &TransportError) -> (Failure, Next) {
        let failure = |kind| Failure {
            kind,
            may_have_started: error.may_have_started(),
            detail: error.to_string(),
        };
        let ejected = match error {
            TransportError::NoResponders(_) => row.peer.eject(),
            TransportError::Timeout { .. } => row.peer.unanswered(asked.request.sent_ms),
            _ => false,
        };
        if ejected {
            self.counters.ejected.fetch_add(1, Relaxed);
        }
        match error {
            TransportError::NoResponders(_) => (failure(FailureKind::Unavailable), Next::Other),
            TransportError::Timeout { .. } if asked.idempotent => {
                (failure(FailureKind::Deadline), Next::OtherForBudget)
            }
            TransportError::Timeout { .. } => (failure(FailureKind::Deadline), Next::Nothing),
            TransportError::ConnectionLost(_) if asked.idempotent => {
                (failure(FailureKind::Unavailable), Next::OtherForBudget)
            }
            TransportError::Full => (failure(FailureKind::Overloaded), Next::Nothing),
            TransportError::ConnectionLost(_)
            | TransportError::Disconnected
            | TransportError::TooLarge { .. } => (failure(FailureKind::Unavailable), Next::Nothing),
        }
    }
}

/// Tells the callee when the caller is gone before the answer is there.
struct Cancel<'c> {
    client: &'c Client,
    peer: Option<&'c Arc<Peer>>,
    id: InvocationId,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        if self.client.0.cancels.try_send((peer.clone(), self.id)).is_err() {
            let counters = &self.client.0.shared.counters;
            counters.cancels_dropped.fetch_add(1, Relaxed);
        }
    }
}

/// A number that looks random for each number (splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
