//! One message: the call of the handler, and what the backend is told of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::Instrument as _;
use tracing::field::Empty;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance};
use weft_capabilities::messaging::{Delivery, Guarantee, Message};
use weft_compose::{ActorName, SubscriptionRecord};
use weft_lattice::envelope::Trace;
use weft_observability::metrics::MessageOutcome;
use weft_observability::{TraceContext, context_of, set_parent};

use super::{Ended, FUNCTION, HANDLER, Shared};
use crate::actor::ActorInfo;
use crate::call::remote::trace_of;
use crate::call::{self, Step};
use crate::front::messaging::{BrokerMessage, TRACEPARENT, TRACESTATE};
use crate::invocation::{Call, CallError, ErrorKind};
use crate::state::{ActorIndex, State};
use crate::store::InstanceState;

/// How long a message may wait for a place of its actor, beyond the actor's own queue: then it goes back, or is lost.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(30);
/// The first wait before a place is asked for again; it doubles.
const PLACE_RETRY_MIN: Duration = Duration::from_millis(10);
const PLACE_RETRY_MAX: Duration = Duration::from_secs(1);
/// How long a backend that keeps messages is to wait before it delivers one again, at first; it doubles.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Characters of a handler's own error that are told: it stands in logs and headers.
const REASON_LEN_MAX: usize = 256;

/// A call of `handle-message`.
struct Handle(Message);

impl Step for Handle {
    type Output = Result<(), String>;

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> wasmtime::Result<Result<(), String>> {
        type Handled = (Result<(), String>,);
        let handler = instance.get_typed_func::<(BrokerMessage,), Handled>(&mut *store, export)?;
        let (handled,) = handler.call_async(store, (self.0.into(),)).await?;
        Ok(handled)
    }
}

/// Has the actor handle a message, and settles it.
pub(super) async fn handle(
    shared: Arc<Shared>,
    record: Arc<SubscriptionRecord>,
    guarantee: Guarantee,
    delivery: Delivery,
    ended: watch::Receiver<Ended>,
) {
    let handled = match shared.find(&record.actor, ended).await {
        Some((state, at)) => {
            let info = state.actor(at).actor.info.clone();
            let handled = shared.call(&record, &state, at, &delivery.message).await;
            let outcome = match (&handled, guarantee) {
                (Ok(()), _) => MessageOutcome::Handled,
                (Err(_), Guarantee::AtLeastOnce) => MessageOutcome::Returned,
                (Err(_), Guarantee::AtMostOnce) => MessageOutcome::Lost,
            };
            info.metrics.messages(1, outcome);
            handled
        }
        None => Err("its actor is not on this host any more".to_owned()),
    };
    let settled = match handled {
        Ok(()) => delivery.ack().await,
        Err(reason) => {
            let doublings = delivery.attempt.saturating_sub(1).min(16);
            let delay = (AGAIN_MIN * (1 << doublings)).min(AGAIN_MAX);
            delivery.nak(delay, reason).await
        }
    };
    if let Err(error) = settled {
        let (actor, error) = (record.actor.as_str(), crate::cli::chain(&error));
        tracing::warn!(
            actor,
            subject = record.subject,
            error,
            "a message could not be settled"
        );
    }
}

impl Shared {
    /// The actor, and the snapshot that it runs in. One that is being taken off this host runs in the last that had it.
    async fn find(
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

    /// Calls the handler, as soon as there is a place; why the message is not handled, in a few words.
    async fn call(
        &self,
        record: &SubscriptionRecord,
        state: &Arc<State>,
        at: ActorIndex,
        message: &Message,
    ) -> Result<(), String> {
        let info = &state.actor(at).actor.info;
        let give_up = Instant::now() + PLACE_WAIT_MAX;
        let mut wait = PLACE_RETRY_MIN;
        loop {
            let called = self.try_call(record, state, at, message).await;
            let reason = match called {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(text)) => {
                    let reason = plain(&text);
                    tell_refused(info, message, &reason);
                    reason
                }
                Err(CallError {
                    kind: ErrorKind::Overloaded(_),
                    may_have_started: false,
                    ..
                }) if Instant::now() < give_up => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(PLACE_RETRY_MAX);
                    continue;
                }
                Err(error) => error.kind.as_str().to_owned(),
            };
            return Err(reason);
        }
    }

    async fn try_call(
        &self,
        record: &SubscriptionRecord,
        state: &Arc<State>,
        at: ActorIndex,
        message: &Message,
    ) -> Result<Result<(), String>, CallError> {
        let description = &state.actor(at).actor.component.description;
        let Some(function) = description.position(HANDLER, FUNCTION) else {
            let cause = wasmtime::format_err!("{} exports no {HANDLER}", record.actor);
            return Err(CallError::refused(ErrorKind::NotFound, Some(cause)));
        };
        let parent = trace(message);
        let span = match self.sampler.decide(parent.as_ref()) {
            true => process_span(record, message, parent.as_ref()),
            false => tracing::Span::none(),
        };
        let trace = context_of(&span).or(parent);
        let call = Call::root(state.clone(), at, Instant::now(), trace);
        span.record("faas.invocation_id", tracing::field::display(call.id));
        let step = Handle(message.clone());
        let run = call::run(call.clone(), function, step);
        let ended = self.tasks.run(&call, run).instrument(span.clone()).await;
        let failed = match &ended {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(ErrorKind::RefusedByGuest.as_str()),
            Err(error) => Some(error.kind.as_str()),
        };
        if let Some(kind) = failed {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", kind);
        }
        ended
    }
}

/// The trace that a message belongs to; one that can't be read is none.
fn trace(message: &Message) -> Option<TraceContext> {
    trace_of(&Trace {
        parent: message.header(TRACEPARENT)?.to_owned(),
        state: message.header(TRACESTATE).unwrap_or_default().to_owned(),
    })
}

fn process_span(
    record: &SubscriptionRecord,
    message: &Message,
    parent: Option<&TraceContext>,
) -> tracing::Span {
    let span = tracing::info_span!(
        target: "weft",
        "messaging.process",
        otel.name = format!("process {}", record.subject),
        otel.kind = "consumer",
        otel.status_code = Empty,
        error.type = Empty,
        messaging.system = "weft",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = message.subject.as_str(),
        messaging.consumer.group.name = record.group.as_str(),
        messaging.message.body.size = message.body.len(),
        faas.trigger = "pubsub",
        faas.invocation_id = Empty,
        weft.actor = record.actor.as_str(),
    );
    if let Some(parent) = parent {
        set_parent(&span, parent);
    }
    span
}

/// What a handler says of its failure, so that it can't start a line of its own.
fn plain(text: &str) -> String {
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    visible.take(REASON_LEN_MAX).collect()
}

fn tell_refused(info: &ActorInfo, message: &Message, reason: &str) {
    if info.may_log_failure() {
        let (actor, subject) = (info.name.as_str(), message.subject.as_str());
        tracing::warn!(
            actor,
            subject,
            reason,
            "a message was not handled: its handler says why"
        );
    }
}
