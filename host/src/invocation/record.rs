//! What is written down of an invocation: its numbers when it ends, whichever way, and its failure.
//!
//! Owns the meaning of a failed run. It must not know where calls come from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{PoolConcurrencyLimitError, Store};
use weft_observability::metrics::{InvocationRecord, Outcome, ShedReason};

use super::{Call, CallError, Caller, ErrorKind};
use crate::store::InstanceState;

/// One invocation's numbers. Written when it ends, also if that is by being dropped.
pub struct Record {
    /// The invocation.
    pub call: Arc<Call>,
    /// From its arrival to its place.
    pub admitted: Option<Duration>,
    /// From its arrival to its instance.
    pub started: Option<Duration>,
    /// The most memory that it had at once, in bytes.
    pub peak_memory: Option<u64>,
    written: bool,
}

impl Record {
    /// A record that is written when it is dropped, if not before.
    pub fn new(call: Arc<Call>) -> Self {
        Self {
            call,
            admitted: None,
            started: None,
            peak_memory: None,
            written: false,
        }
    }

    /// Ends a call that found no place.
    pub fn shed(mut self, reason: ShedReason) -> CallError {
        self.call.actor.metrics.shed(reason);
        self.write(Outcome::Overloaded);
        CallError::shed(reason)
    }

    /// Ends a call that ran.
    pub fn finish<T>(mut self, result: Result<T, CallError>) -> Result<T, CallError> {
        if let Err(error) = &result {
            if let ErrorKind::Overloaded(reason) = error.kind {
                self.call.actor.metrics.shed(reason);
            }
            log_failure(&self.call, error.kind, &error.detail());
        }
        self.write(
            result
                .as_ref()
                .map_or_else(|error| error.kind.outcome(), |_| Outcome::Ok),
        );
        result
    }

    fn write(&mut self, outcome: Outcome) {
        self.written = true;
        let now = Instant::now();
        let total = now.saturating_duration_since(self.call.arrived);
        let queue = self.admitted.unwrap_or(total);
        self.call.actor.metrics.record(&InvocationRecord {
            outcome,
            queue,
            start: self.started.map(|started| started.saturating_sub(queue)),
            cpu: self.call.cpu.used_at(now),
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
        caller = call.caller.as_ref().map(Caller::as_str),
        elapsed_ms = call.arrived.elapsed().as_millis() as u64,
        detail,
        "an invocation failed: {kind}"
    );
}

/// What a failed run means.
pub fn classify(error: wasmtime::Error, store: &Store<InstanceState>) -> CallError {
    if error.is::<PoolConcurrencyLimitError>() {
        return CallError::shed(ShedReason::PoolFull);
    }
    if let Some(callee) = error.downcast_ref::<CallError>() {
        let kind = callee.for_caller();
        return CallError {
            source: Some(error),
            ..CallError::started(kind)
        };
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
