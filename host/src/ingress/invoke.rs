//! One request as one invocation: the step into the guest and back.
//!
//! The guest runs in the connection's own task until its response's head is there, so that a plain request wakes no
//! other thread. What is left of it then, a body or work after the answer, goes on in a task of its own, which ends
//! with the guest, with its stream's deadline, when the client goes, or when the host stops.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use weft_observability::metrics::{InvocationRecord, Outcome, ShedReason};

use super::body::{RequestBody, ResponseBody};
use crate::actor::Actor;
use crate::admission::Place;
use crate::invocation::{Call, CallError, ErrorKind, Metered};
use crate::store::{InstanceState, new_store};

/// Where guests go on after their response's head, and what ends them when the host stops.
#[derive(Clone)]
pub struct GuestTasks {
    /// Owns the tasks.
    pub tracker: TaskTracker,
    /// Ends what is still running when the time to drain is over.
    pub abort: CancellationToken,
}

type GuestResponse = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// Where the guest's `response-outparam.set` puts the response.
#[derive(Clone, Default)]
struct ResponseSlot(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    response: Option<GuestResponse>,
    /// Whether the guest has given a response, which may have been taken since.
    answered: bool,
}

impl ResponseSlot {
    fn put(&self, response: GuestResponse) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.answered = response.is_ok();
        slot.response = Some(response);
    }

    fn take(&self) -> Option<GuestResponse> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .response
            .take()
    }

    fn is_answered(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).answered
    }
}

type GuestFuture = Pin<Box<dyn Future<Output = Result<(), CallError>> + Send>>;

/// Calls `actor` with `request` and waits for the head of its response.
///
/// Dropping the future, which hyper does when the client goes, ends the guest and frees its place.
///
/// # Errors
/// [`CallError`]; it has been logged and counted.
pub async fn invoke(
    tasks: &GuestTasks,
    actor: &Arc<Actor>,
    call: &Arc<Call>,
    scheme: Scheme,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, CallError> {
    let mut record = Record::new(call.clone());
    let place = match actor.admission.admit().await {
        Ok(place) => place,
        Err(reason) => return Err(record.shed(reason)),
    };
    record.admitted = Some(call.arrived.elapsed());

    let slot = ResponseSlot::default();
    let guest = run_guest(actor.clone(), record, place, slot.clone(), scheme, request);
    let guest = Metered::new(call.clone(), guest);
    let mut guest: GuestFuture = match tracing::Span::current() {
        span if span.is_none() => Box::pin(guest),
        span => Box::pin(guest.instrument(span)),
    };

    // Most guests are done in the first poll; only the others need a timer.
    let mut timer = None;
    let head = poll_fn(|cx| {
        if let Poll::Ready(ended) = guest.as_mut().poll(cx) {
            return Poll::Ready(Head::Ended(ended));
        }
        if let Some(response) = slot.take() {
            return Poll::Ready(Head::Streams(response));
        }
        let timer = timer.get_or_insert_with(|| {
            let left = call.actor.limits.timeout.saturating_sub(call.arrived.elapsed());
            Box::pin(tokio::time::sleep(left))
        });
        timer.as_mut().poll(cx).map(|()| Head::Late)
    })
    .await;

    match head {
        Head::Ended(Ok(())) => match slot.take() {
            Some(Ok(response)) => Ok(response.map(ResponseBody::finished)),
            Some(Err(_)) | None => Err(CallError::started(ErrorKind::RefusedByGuest)),
        },
        Head::Ended(Err(error)) => Err(error),
        Head::Streams(Ok(response)) => {
            let client_gone = CancellationToken::new();
            let guard = client_gone.clone().drop_guard();
            tasks
                .tracker
                .spawn(finish(guest, call.clone(), client_gone, tasks.abort.clone()));
            let len = response
                .headers()
                .get(CONTENT_LENGTH)
                .and_then(|len| len.to_str().ok()?.parse().ok());
            Ok(response.map(|body| ResponseBody::streaming(body, call.clone(), guard, len)))
        }
        Head::Streams(Err(_)) => {
            let never = CancellationToken::new();
            tasks
                .tracker
                .spawn(finish(guest, call.clone(), never, tasks.abort.clone()));
            Err(CallError::started(ErrorKind::RefusedByGuest))
        }
        Head::Late => {
            call.expire();
            drop(guest);
            Err(CallError::started(ErrorKind::Deadline))
        }
    }
}

enum Head {
    /// The guest has ended; its response, if it gave one, is in the slot.
    Ended(Result<(), CallError>),
    /// The head is there and the guest goes on.
    Streams(GuestResponse),
    /// Neither came in time.
    Late,
}

/// Runs what is left of a guest after its response's head.
async fn finish(
    mut guest: GuestFuture,
    call: Arc<Call>,
    client_gone: CancellationToken,
    abort: CancellationToken,
) {
    tokio::select! {
        // Its failure is in its own record; the client sees a body that breaks off.
        _ = &mut guest => {}
        () = client_gone.cancelled() => {}
        () = abort.cancelled() => call.fail(),
        () = tokio::time::sleep(call.actor.limits.stream_timeout) => call.expire(),
    }
}

/// The whole life of an instance. Its future's drop is its end too: the record then says why.
async fn run_guest(
    actor: Arc<Actor>,
    mut record: Record,
    place: Place,
    slot: ResponseSlot,
    scheme: Scheme,
    request: Request<RequestBody>,
) -> Result<(), CallError> {
    let _place = place;
    let mut store = new_store(actor.http.engine(), record.call.clone());
    let ended = handle(&actor, &mut store, &mut record, slot.clone(), scheme, request).await;
    record.peak_memory = Some(store.data().memory.peak());
    let result = match ended {
        Ok(()) if slot.is_answered() => Ok(()),
        Ok(()) => Err(CallError::started(ErrorKind::RefusedByGuest)),
        Err(error) => Err(classify(error, &store)),
    };
    if result.is_err() {
        // Before the store is dropped, which ends the response's body.
        record.call.fail();
    }
    record.finish(result)
}

async fn handle(
    actor: &Actor,
    store: &mut Store<InstanceState>,
    record: &mut Record,
    slot: ResponseSlot,
    scheme: Scheme,
    request: Request<RequestBody>,
) -> wasmtime::Result<()> {
    let proxy = actor.http.instantiate_async(&mut *store).await?;
    record.started = Some(record.call.arrived.elapsed());
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(scheme, request)?;
    let outparam = http.new_response_outparam_from_callback(move |response| slot.put(response))?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(store, request, outparam)
        .await
}

/// What a failed run means.
fn classify(error: wasmtime::Error, store: &Store<InstanceState>) -> CallError {
    if error.is::<PoolConcurrencyLimitError>() {
        return CallError::shed(ShedReason::PoolFull);
    }
    let state = store.data();
    let kind = if state.call().cpu.is_exhausted() {
        ErrorKind::CpuExhausted
    } else if state.memory.refused {
        ErrorKind::MemoryExhausted
    } else {
        ErrorKind::Trap
    };
    CallError {
        kind,
        may_have_started: true,
        source: Some(error),
    }
}

/// One invocation's numbers. Written when it ends, also if that is by being dropped.
struct Record {
    call: Arc<Call>,
    admitted: Option<Duration>,
    started: Option<Duration>,
    peak_memory: Option<u64>,
    written: bool,
}

impl Record {
    fn new(call: Arc<Call>) -> Self {
        Self {
            call,
            admitted: None,
            started: None,
            peak_memory: None,
            written: false,
        }
    }

    fn shed(mut self, reason: ShedReason) -> CallError {
        self.call.actor.metrics.shed(reason);
        self.write(Outcome::Overloaded);
        CallError::shed(reason)
    }

    fn finish(mut self, result: Result<(), CallError>) -> Result<(), CallError> {
        if let Err(error) = &result {
            if let ErrorKind::Overloaded(reason) = error.kind {
                self.call.actor.metrics.shed(reason);
            }
            log_failure(&self.call, error.kind, &error.detail());
        }
        self.write(
            result
                .as_ref()
                .map_or_else(|error| error.kind.outcome(), |()| Outcome::Ok),
        );
        result
    }

    fn write(&mut self, outcome: Outcome) {
        self.written = true;
        let total = self.call.arrived.elapsed();
        let queue = self.admitted.unwrap_or(total);
        self.call.actor.metrics.record(&InvocationRecord {
            outcome,
            queue,
            start: self.started.map(|started| started.saturating_sub(queue)),
            cpu: self.call.cpu.used_now(),
            total,
            peak_memory: self.peak_memory,
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.written {
            return;
        }
        if self.call.is_expired() {
            log_failure(&self.call, ErrorKind::Deadline, "");
            self.write(Outcome::Deadline);
        } else {
            self.write(Outcome::Cancelled);
        }
    }
}

fn log_failure(call: &Call, kind: ErrorKind, detail: &str) {
    if !call.actor.may_log_failure() {
        return;
    }
    tracing::warn!(
        actor = call.actor.name.as_str(),
        invocation = %call.id,
        trace_id = call.trace.as_ref().map(|trace| format!("{:032x}", trace.trace_id)),
        error.kind = kind.as_str(),
        elapsed_ms = call.arrived.elapsed().as_millis() as u64,
        detail,
        "an invocation failed: {kind}"
    );
}
