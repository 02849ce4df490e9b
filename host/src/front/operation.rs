//! What is written down of an operation that a guest asks of a capability: its duration and outcome, and a span in a
//! trace that is recorded.

use std::time::Instant;

use tracing::Instrument as _;
use tracing::field::Empty;
use weft_observability::metrics::{Operation, OperationOutcome};
use weft_remote::called_by;

use crate::invocation::Call;

/// Runs one operation of `call`. A provider on another host is told whose it is.
pub(super) async fn observed<T, E: std::fmt::Display>(
    call: &Call,
    operation: Operation,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let started = Instant::now();
    let future = called_by(call.actor.caller.clone(), future);
    let parent = tracing::Span::current();
    let result = if parent.is_none() {
        future.await
    } else {
        let span = operation_span(call, operation);
        let result = future.instrument(span.clone()).await;
        if let Err(error) = &result {
            span.record("otel.status_code", "ERROR");
            span.record("error.message", tracing::field::display(error));
        }
        result
    };
    let outcome = if result.is_ok() {
        OperationOutcome::Ok
    } else {
        OperationOutcome::Error
    };
    call.actor
        .metrics
        .operation(operation, outcome, started.elapsed());
    result
}

fn operation_span(call: &Call, operation: Operation) -> tracing::Span {
    tracing::info_span!(
        target: "weft",
        "capability.operation",
        otel.name = format!("{} {}", operation.capability(), operation.as_str()),
        otel.kind = "client",
        otel.status_code = Empty,
        error.message = Empty,
        weft.capability = operation.capability(),
        weft.operation = operation.as_str(),
        weft.actor = call.actor.name.as_str(),
    )
}
