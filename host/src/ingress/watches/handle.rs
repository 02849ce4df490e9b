//! One change of a key: the call of the watcher, and what the backend is told of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::field::Empty;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance, Resource};
use weft_capabilities::Change;
use weft_observability::metrics::MessageOutcome;

use super::{ON_DELETE, ON_SET, WATCHERS, Wanted, position};
use crate::call::Step;
use crate::front::key_value::OpenBucket;
use crate::ingress::listening::{Ended, Shared, again_after, once_there_is_a_place};
use crate::invocation::{CallError, ErrorKind};
use crate::state::{ActorIndex, State};
use crate::store::InstanceState;

/// A call of `on-set`, or without a value of `on-delete`.
struct Tell {
    bucket: OpenBucket,
    key: String,
    value: Option<Bytes>,
}

impl Step for Tell {
    type Output = ();

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> wasmtime::Result<()> {
        let bucket: Resource<OpenBucket> = store.data_mut().table().push(self.bucket)?;
        match &self.value {
            Some(value) => {
                type Set<'a> = (Resource<OpenBucket>, &'a str, &'a [u8]);
                let on_set = instance.get_typed_func::<Set<'_>, ()>(&mut *store, export)?;
                on_set.call_async(store, (bucket, &self.key, value)).await
            }
            None => {
                type Deleted<'a> = (Resource<OpenBucket>, &'a str);
                let on_delete = instance.get_typed_func::<Deleted<'_>, ()>(&mut *store, export)?;
                on_delete.call_async(store, (bucket, &self.key)).await
            }
        }
    }
}

/// Has the actor told of a change, and settles it.
pub(super) async fn handle(
    shared: Arc<Shared>,
    wanted: Wanted,
    change: Change,
    ended: watch::Receiver<Ended>,
) {
    let is_handled = match shared.find(&wanted.record.actor, ended).await {
        Some((state, at)) => {
            let called = once_there_is_a_place(|| try_call(&shared, &wanted, (&state, at), &change)).await;
            let outcome = match called {
                Ok(()) => MessageOutcome::Handled,
                Err(_) if change.comes_again() => MessageOutcome::Returned,
                Err(_) => MessageOutcome::Lost,
            };
            state.actor(at).actor.info.metrics.changes(1, outcome);
            called.is_ok()
        }
        None => false,
    };
    let settled = match is_handled {
        true => change.ack().await,
        false => {
            let delay = again_after(change.attempt);
            change.nak(delay).await
        }
    };
    if let Err(error) = settled {
        tracing::warn!(
            actor = wanted.record.actor.as_str(),
            bucket = wanted.record.bucket,
            error = crate::cli::chain(&error),
            "a change of a key could not be settled"
        );
    }
}

async fn try_call(
    shared: &Shared,
    wanted: &Wanted,
    (state, at): (&Arc<State>, ActorIndex),
    change: &Change,
) -> Result<(), CallError> {
    let description = &state.actor(at).actor.component.description;
    let function = if change.value.is_some() { ON_SET } else { ON_DELETE };
    let Some(function) = position(description, function) else {
        let [one, other] = WATCHERS;
        let actor = &wanted.record.actor;
        let cause = wasmtime::format_err!("{actor} exports neither {one} nor {other}");
        return Err(CallError::refused(ErrorKind::NotFound, Some(cause)));
    };
    let traced = shared.traced(None, || watch_span(wanted, change));
    let step = Tell {
        bucket: OpenBucket::told(wanted.store.clone(), wanted.bucket(), &wanted.record.bucket),
        key: change.key.clone(),
        value: change.value.clone(),
    };
    shared.call((state, at), function, traced, step, |()| false).await
}

/// The span of a change, by the conventions of functions that a data source triggers.
fn watch_span(wanted: &Wanted, change: &Change) -> tracing::Span {
    let operation = if change.value.is_some() { "edit" } else { "delete" };
    tracing::info_span!(
        target: "weft",
        "keyvalue.watch",
        otel.name = format!("watch {}", wanted.record.bucket),
        otel.kind = "consumer",
        otel.status_code = Empty,
        error.type = Empty,
        faas.trigger = "datasource",
        faas.document.collection = wanted.record.bucket.as_str(),
        faas.document.operation = operation,
        faas.invocation_id = Empty,
        weft.provider = wanted.record.provider.as_str(),
        weft.actor = wanted.record.actor.as_str(),
    )
}
