//! One message: the call of the handler, and what the backend is told of it.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::field::Empty;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance};
use weft_capabilities::messaging::{Delivery, Guarantee, Message};
use weft_compose::SubscriptionRecord;
use weft_lattice::envelope::Trace;
use weft_observability::metrics::MessageOutcome;
use weft_observability::{TraceContext, set_parent};

use super::{FUNCTION, HANDLER};
use crate::actor::ActorInfo;
use crate::call::Step;
use crate::call::remote::trace_of;
use crate::front::messaging::{BrokerMessage, TRACEPARENT, TRACESTATE};
use crate::ingress::listening::{Ended, Shared, again_after, once_there_is_a_place};
use crate::invocation::{CallError, ErrorKind};
use crate::state::{ActorIndex, State};
use crate::store::InstanceState;

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
            let handled = call(&shared, &record, (&state, at), &delivery.message).await;
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
            let delay = again_after(delivery.attempt);
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

/// Calls the handler, as soon as there is a place; why the message is not handled, in a few words.
async fn call(
    shared: &Shared,
    record: &SubscriptionRecord,
    at: (&Arc<State>, ActorIndex),
    message: &Message,
) -> Result<(), String> {
    match once_there_is_a_place(|| try_call(shared, record, at, message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(text)) => {
            let reason = plain(&text);
            let (state, at) = at;
            tell_refused(&state.actor(at).actor.info, message, &reason);
            Err(reason)
        }
        Err(error) => Err(error.kind.as_str().to_owned()),
    }
}

async fn try_call(
    shared: &Shared,
    record: &SubscriptionRecord,
    (state, at): (&Arc<State>, ActorIndex),
    message: &Message,
) -> Result<Result<(), String>, CallError> {
    let description = &state.actor(at).actor.component.description;
    let Some(function) = description.position(HANDLER, FUNCTION) else {
        let cause = wasmtime::format_err!("{} exports no {HANDLER}", record.actor);
        return Err(CallError::refused(ErrorKind::NotFound, Some(cause)));
    };
    let parent = trace(message);
    let traced = shared.traced(parent.clone(), || process_span(record, message, parent.as_ref()));
    let step = Handle(message.clone());
    shared
        .call((state, at), function, traced, step, Result::is_err)
        .await
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
