//! One request as one invocation: the step into the guest and back.
//!
//! The guest runs in the connection's own task until its response's head is there, so that a plain request wakes no
//! other thread; one that computes for long is moved to threads that are there for those ([`super::busy`]). What is left
//! of it after the head, a body or work after the answer, goes on in a task of its own on threads that share their work,
//! which ends with the guest, with its stream's deadline, when the client goes, or when the host stops.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::Instrument as _;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::body::{RequestBody, ResponseBody};
use super::busy::{BusyThreads, GuestFuture};
use crate::admission::Place;
use crate::component::lazy::InUse;
use crate::engine::EPOCH_TICK;
use crate::instance::LiveInstance;
use crate::invocation::record::{Record, classify};
use crate::invocation::{Call, CallError, ErrorKind, LONG, Metered};

/// Where guests go on after their response's head, and what ends them when the host stops.
#[derive(Clone)]
pub struct GuestTasks {
    /// Owns the tasks.
    pub tracker: TaskTracker,
    /// The threads that share their work.
    pub shared: Handle,
    /// Those for guests that compute for long.
    pub busy: BusyThreads,
    /// Ends what is still running when the time to drain is over.
    pub abort: CancellationToken,
}

impl GuestTasks {
    /// Lets a guest go on after its response's head, until `client_gone` or `end`.
    fn finish(&self, guest: Guest, end: Instant, client_gone: CancellationToken) {
        let threads = if guest.in_turn {
            &self.busy.runtime
        } else {
            &self.shared
        };
        let task = finish(self.clone(), guest, end, client_gone);
        self.tracker.spawn_on(task, threads);
    }

    /// Runs a guest up to its deadline; one that computes for long takes turns with its kind.
    ///
    /// # Errors
    /// [`CallError`]; it has been logged and counted.
    pub async fn run<T: Send + 'static>(
        &self,
        call: &Arc<Call>,
        guest: impl Future<Output = Result<T, CallError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let mut guest: GuestFuture<_> = Box::pin(Metered::new(call.clone(), guest));
        let mut timer = pin!(tokio::time::sleep_until(call.deadline.into()));
        let is_tried = !call.actor.computes_long.is_likely();
        if is_tried {
            let ended = poll_fn(|cx| {
                LONG.set(false);
                match guest.as_mut().poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(Ok(ended))),
                    Poll::Pending if LONG.get() => Poll::Ready(None),
                    Poll::Pending => timer.as_mut().poll(cx).map(|()| Some(Err(()))),
                }
            });
            match ended.await {
                Some(Ok(ended)) => return ended,
                Some(Err(())) => {
                    call.expire();
                    return Err(CallError::started(ErrorKind::Deadline));
                }
                None => call.actor.computes_long.tell(true),
            }
        }
        let threads = &self.busy;
        let (in_turn, runtime) = (threads.in_turn(guest, &call.actor), threads.runtime.clone());
        // What it does there belongs to the same span.
        let in_turn = in_turn.instrument(tracing::Span::current());
        let moved = AbortOnDropHandle::new(self.tracker.spawn_on(in_turn, &runtime));
        tokio::select! {
            ended = moved => {
                if !is_tried {
                    let used = call.cpu.used_at(Instant::now());
                    call.actor.computes_long.tell(used > EPOCH_TICK);
                }
                ended.map_err(|error| CallError {
                    source: Some(error.into()),
                    ..CallError::started(ErrorKind::Unavailable)
                })?
            }
            () = timer => {
                call.expire();
                Err(CallError::started(ErrorKind::Deadline))
            }
        }
    }
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

/// A guest that runs, up to its response's head.
struct Guest {
    future: GuestFuture<Result<(), CallError>>,
    /// Whether it waits for its turn before each poll, as it computed for long.
    in_turn: bool,
    call: Arc<Call>,
    slot: ResponseSlot,
    /// Most guests are done in the first poll; only the others need one.
    timer: Option<Pin<Box<Sleep>>>,
}

enum Head {
    /// The guest has ended; its response, if it gave one, is in the slot.
    Ended(Result<(), CallError>),
    /// The head is there and the guest goes on.
    Streams(GuestResponse),
    /// Neither came in time.
    Late,
}

impl Guest {
    /// Lets it take turns with others that compute.
    fn take_turns(mut self, threads: &BusyThreads) -> Self {
        self.in_turn = true;
        self.future = threads.in_turn(self.future, &self.call.actor);
        self
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Head> {
        if let Poll::Ready(ended) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Head::Ended(ended));
        }
        if let Some(response) = self.slot.take() {
            return Poll::Ready(Head::Streams(response));
        }
        let deadline = self.call.deadline;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        timer.as_mut().poll(cx).map(|()| Head::Late)
    }
}

/// Calls the actor of `call` with `request` and waits for the head of its response.
///
/// Dropping the future, which hyper does when the client goes, ends the guest and frees its place.
///
/// # Errors
/// [`CallError`]; it has been logged and counted.
pub async fn invoke(
    tasks: &GuestTasks,
    call: &Arc<Call>,
    scheme: Scheme,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, CallError> {
    let mut record = Record::new(call.clone());
    let admission = &call.target().actor.admission;
    let place = if let Some(place) = admission.try_admit(true) {
        record.admitted = Some(Duration::ZERO);
        place
    } else {
        match admission.admit(true).await {
            Ok(place) => {
                record.admitted = Some(call.arrived.elapsed());
                place
            }
            Err(reason) => return Err(record.shed(reason)),
        }
    };

    let slot = ResponseSlot::default();
    let guest = run_guest(record, place, slot.clone(), scheme, request);
    let guest = Metered::new(call.clone(), guest);
    let guest = Guest {
        future: match tracing::Span::current() {
            span if span.is_none() => Box::pin(guest),
            span => Box::pin(guest.instrument(span)),
        },
        in_turn: false,
        call: call.clone(),
        slot,
        timer: None,
    };
    let (guest, head) = until_head(tasks, guest).await?;

    let end = || Instant::now() + call.actor.limits.stream_timeout;
    match head {
        Head::Ended(Ok(())) => match guest.slot.take() {
            Some(Ok(response)) => Ok(final_response(response)?.map(ResponseBody::finished)),
            Some(Err(_)) | None => Err(CallError::started(ErrorKind::RefusedByGuest)),
        },
        Head::Ended(Err(error)) => Err(error),
        Head::Streams(Ok(response)) => {
            let response = final_response(response)?;
            let client_gone = CancellationToken::new();
            let guard = client_gone.clone().drop_guard();
            tasks.finish(guest, end(), client_gone);
            let len = response
                .headers()
                .get(CONTENT_LENGTH)
                .and_then(|len| len.to_str().ok()?.parse().ok());
            Ok(response.map(|body| ResponseBody::streaming(body, call.clone(), guard, len)))
        }
        Head::Streams(Err(_)) => {
            tasks.finish(guest, end(), CancellationToken::new());
            Err(CallError::started(ErrorKind::RefusedByGuest))
        }
        Head::Late => {
            call.expire();
            drop(guest);
            Err(CallError::started(ErrorKind::Deadline))
        }
    }
}

/// The response, if it may end an exchange: a client would take what follows an informational status, or one that
/// switches protocols, for something else than this host's answers.
fn final_response(
    mut response: Response<HyperOutgoingBody>,
) -> Result<Response<HyperOutgoingBody>, CallError> {
    if response.status().is_informational() {
        return Err(CallError::started(ErrorKind::RefusedByGuest));
    }
    if response.status() == StatusCode::NO_CONTENT {
        // It has no body, and must not announce one (RFC 9110, section 8.6).
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    Ok(response)
}

/// Runs a guest on the connection's thread; one that computes for longer than a tick goes on where others do, so that
/// other connections of this thread don't wait for it. A guest of an actor whose calls did so just before is not tried
/// here at all: a single instruction may hold a thread for many ticks.
async fn until_head(tasks: &GuestTasks, mut guest: Guest) -> Result<(Guest, Head), CallError> {
    let call = guest.call.clone();
    let is_tried = !call.actor.computes_long.is_likely();
    if is_tried {
        let head = poll_fn(|cx| {
            LONG.set(false);
            match guest.poll_head(cx) {
                Poll::Ready(head) => Poll::Ready(Some(head)),
                Poll::Pending if LONG.get() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(head) = head.await {
            return Ok((guest, head));
        }
        call.actor.computes_long.tell(true);
    }
    let mut guest = guest.take_turns(&tasks.busy);
    let moved = tasks.tracker.spawn_on(
        async move {
            let head = poll_fn(|cx| guest.poll_head(cx)).await;
            if !is_tried {
                let used = call.cpu.used_at(Instant::now());
                call.actor.computes_long.tell(used > EPOCH_TICK);
            }
            (guest, head)
        },
        &tasks.busy.runtime,
    );
    // It fails only if the host ends, or if polling panicked, which has been told by then.
    AbortOnDropHandle::new(moved).await.map_err(|error| CallError {
        source: Some(error.into()),
        ..CallError::started(ErrorKind::Unavailable)
    })
}

/// Runs what is left of a guest after its response's head, until `end` at most.
async fn finish(tasks: GuestTasks, mut guest: Guest, end: Instant, client_gone: CancellationToken) {
    let Guest {
        future,
        call,
        in_turn,
        ..
    } = &mut guest;
    let polled = poll_fn(|cx| {
        LONG.set(false);
        match future.as_mut().poll(cx) {
            // Its failure is in its own record; the client sees a body that breaks off.
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if LONG.get() && !*in_turn => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    });
    let is_over = tokio::select! {
        is_over = polled => is_over,
        () = client_gone.cancelled() => true,
        () = tasks.abort.cancelled() => {
            call.fail();
            true
        }
        () = tokio::time::sleep_until(end.into()) => {
            call.expire();
            true
        }
    };
    if !is_over {
        tasks.finish(guest.take_turns(&tasks.busy), end, client_gone);
    }
}

/// The whole life of an instance. Its future's drop is its end too: the record then says why.
async fn run_guest(
    mut record: Record,
    place: Place,
    slot: ResponseSlot,
    scheme: Scheme,
    request: Request<RequestBody>,
) -> Result<(), CallError> {
    let _place = place;
    let component = match record.call.target().actor.component.get().await {
        Ok(component) => component,
        Err(error) => return record.finish(Err(error.into())),
    };
    let mut live = LiveInstance::of(&record.call, &component);
    let ended = handle(&mut live, component, &mut record, slot.clone(), scheme, request).await;
    record.peak_memory = Some(live.store.data().memory.peak());
    let result = match ended {
        Ok(()) if slot.is_answered() => Ok(()),
        Ok(()) => Err(CallError::started(ErrorKind::RefusedByGuest)),
        Err(error) => Err(classify(error, &live.store)),
    };
    if result.is_err() {
        // Before the store is dropped, which ends the response's body.
        record.call.fail();
    }
    let result = record.finish(result);
    if result.is_ok() {
        live.keep();
    }
    result
}

async fn handle(
    live: &mut LiveInstance,
    component: InUse,
    record: &mut Record,
    slot: ResponseSlot,
    scheme: Scheme,
    request: Request<RequestBody>,
) -> wasmtime::Result<()> {
    let (handler, store) = live.http(component).await?;
    record.started = Some(record.call.arrived.elapsed());
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(scheme, request)?;
    let outparam = http.new_response_outparam_from_callback(move |response| slot.put(response))?;
    handler
        .wasi_http_incoming_handler()
        .call_handle(store, request, outparam)
        .await
}
