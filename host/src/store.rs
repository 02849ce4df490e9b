//! What one instance holds: the data of its wasmtime store.
//!
//! Owns the WASI context, the resource table, the memory account, and the bounds that are set on a store. Made for
//! an invocation and mostly dropped with it, so everything here is either cheap or made on first use.

use std::borrow::Cow;
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::engine::TABLE_ELEMENTS_MAX;
use crate::front::http_client::HttpHooks;
use crate::front::key_value::OpenBucket;
use crate::front::lattice::CallTarget;
use crate::front::stdio::Stdio;
use crate::invocation::{Call, CpuCheck};

/// Bytes of host memory that one host call may take for what the guest hands over: half of what the guest may have
/// itself, within these. A value of key-value has up to 8 MiB, a batch 16; a list of bytes that goes to another actor
/// by reflection counts 40 for each.
const HOST_CALL_BYTES: std::ops::RangeInclusive<u64> = (32 << 20)..=(128 << 20);
/// Handles of one instance, and resources on the host's side of them. A request uses some ten; each may stand for as
/// much of the host's memory as [`FIELDS_LEN_MAX`] or a write to a body, which nothing else counts.
const HANDLES_MAX: usize = 1_024;
/// Handles that an instance may keep from one invocation to the next: the standard streams, buckets. More are a leak.
const KEPT_HANDLES_MAX: usize = 64;
/// Bodies of objects that one instance reads and writes at once: each may hold a megabyte of the host's memory.
const BLOB_BODIES_MAX: usize = 16;
/// Bytes of one set of headers or trailers: what the host itself takes in a request's head.
const FIELDS_LEN_MAX: usize = 64 << 10;
/// Random bytes of one call.
const RANDOM_LEN_MAX: u64 = 64 << 10;

/// The data of a store.
pub struct InstanceState {
    hooks: HttpHooks,
    // Most guests ask for no clock, no variable and no random byte.
    wasi: Option<Wasi>,
    table: ResourceTable,
    http: WasiHttpCtx,
    /// Counts the bodies of objects that are being read or written.
    blob_bodies: Option<BlobBody>,
    /// Memory and tables of all instances in the store.
    pub memory: MemoryAccount,
}

/// A body of an object that is being read or written. Given back when it is dropped.
#[derive(Debug, Clone, Default)]
pub struct BlobBody(Arc<()>);

impl BlobBody {
    fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

struct Wasi {
    context: Box<WasiCtx>,
    stdio: Arc<Stdio>,
}

impl InstanceState {
    /// The invocation that this instance serves.
    pub fn call(&self) -> &Arc<Call> {
        self.hooks.call()
    }

    /// Starts the next invocation of an instance that was kept.
    pub fn begin(&mut self, call: Arc<Call>) {
        self.memory.begin();
        if let Some(Wasi { stdio, .. }) = &self.wasi {
            stdio.begin(call.clone());
        }
        self.hooks = HttpHooks::new(call);
    }

    /// Ends an invocation whose instance is to be kept, and lets go of it. `false` if the instance holds what ends with
    /// an invocation, such as a body or a transaction: then it must end, too.
    pub fn end(&mut self) -> bool {
        let mut handles = 0;
        let outlives = self.table.iter_mut().all(|handle| {
            handles += 1;
            // A stream or a pollable of a body is a child of it, and gone before it.
            handle.is::<DynOutputStream>()
                || handle.is::<DynInputStream>()
                || handle.is::<DynPollable>()
                || handle
                    .downcast_ref::<OpenBucket>()
                    .is_some_and(OpenBucket::outlives)
                || handle.is::<CallTarget>()
        });
        if let Some(Wasi { stdio, .. }) = &self.wasi {
            stdio.end();
        }
        self.hooks.end();
        // The stream of an object can't be told from others, and holds a store open.
        let reads_no_blob = self
            .blob_bodies
            .as_ref()
            .is_none_or(|bodies| bodies.others() == 0);
        outlives && reads_no_blob && handles <= KEPT_HANDLES_MAX && !self.memory.refused
    }

    /// Takes one of the places for bodies of objects that this instance has; `None` if all are taken.
    pub fn blob_body(&mut self) -> Option<BlobBody> {
        let bodies = self.blob_bodies.get_or_insert_with(BlobBody::default);
        (bodies.others() < BLOB_BODIES_MAX).then(|| bodies.clone())
    }

    /// The resources that the instance holds handles of.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

/// A store for one invocation, with every bound set.
pub fn new_store(engine: &wasmtime::Engine, call: Arc<Call>) -> Store<InstanceState> {
    let host_call_bytes =
        (call.actor.limits.memory_bytes / 2).clamp(*HOST_CALL_BYTES.start(), *HOST_CALL_BYTES.end());
    let host_call_bytes = usize::try_from(host_call_bytes).unwrap_or(usize::MAX);
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES_MAX);
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELDS_LEN_MAX);
    let state = InstanceState {
        memory: MemoryAccount::new(call.actor.limits.memory_bytes),
        hooks: HttpHooks::new(call),
        wasi: None,
        table,
        http,
        blob_bodies: None,
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(host_call_bytes);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        Ok(match store.data().call().cpu.check() {
            CpuCheck::Go => UpdateDeadline::Continue(1),
            CpuCheck::Yield => UpdateDeadline::Yield(1),
            CpuCheck::Stop => UpdateDeadline::Interrupt,
        })
    });
    store
}

impl WasiView for InstanceState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| {
            let stdio = Stdio::new(self.hooks.call().clone());
            let mut builder = WasiCtxBuilder::new();
            builder
                .stdout(stdio.stdout())
                .stderr(stdio.stderr())
                .max_random_size(RANDOM_LEN_MAX)
                .allow_tcp(false)
                .allow_udp(false);
            Wasi {
                context: Box::new(builder.build()),
                stdio,
            }
        });
        WasiCtxView {
            ctx: &mut wasi.context,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for InstanceState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// Memory of one store, summed over all of its memories (a bound on each alone is none: spin#3705).
#[derive(Debug)]
pub struct MemoryAccount {
    used: u64,
    peak: u64,
    max: u64,
    table_elements: usize,
    /// Whether growth was refused. What the guest does then, mostly to trap, is due to that.
    pub refused: bool,
}

impl MemoryAccount {
    fn new(max: u64) -> Self {
        Self {
            used: 0,
            peak: 0,
            max,
            table_elements: 0,
            refused: false,
        }
    }

    /// Starts to account for the next invocation: what is in use stays.
    fn begin(&mut self) {
        self.peak = self.used;
    }

    /// What is in use, in bytes.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The most that was in use at once, in bytes.
    pub fn peak(&self) -> u64 {
        self.peak
    }
}

impl ResourceLimiter for MemoryAccount {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self
            .used
            .saturating_sub(current as u64)
            .saturating_add(desired as u64);
        if used > self.max {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        self.peak = self.peak.max(used);
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let elements = self
            .table_elements
            .saturating_sub(current)
            .saturating_add(desired);
        if elements > 2 * TABLE_ELEMENTS_MAX {
            self.refused = true;
            return Ok(false);
        }
        self.table_elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        30
    }

    fn tables(&self) -> usize {
        12
    }

    fn memories(&self) -> usize {
        8
    }
}

/// One line that a guest wrote.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// How much it matters.
    pub level: tracing::Level,
    /// `stdout`, `stderr`, `wasi:logging`, or `weft` for what the host says about the guest's log.
    pub source: &'static str,
    /// What `wasi:logging` calls the context.
    pub context: Option<&'a str>,
    /// The text; bytes that are not UTF-8 are replaced.
    pub message: &'a [u8],
}

impl LogLine<'_> {
    /// Writes it to the log with the identity of `call`.
    pub fn emit(self, call: &Call) {
        macro_rules! event {
            ($level:expr) => {
                tracing::event!(
                    target: "guest",
                    $level,
                    actor = call.actor.name.as_str(),
                    invocation = %call.id,
                    trace_id = call.trace.as_ref().map(|trace| format!("{:032x}", trace.trace_id)),
                    source = self.source,
                    context = self.context,
                    "{}",
                    clean(self.message)
                )
            };
        }
        match self.level {
            tracing::Level::ERROR => event!(tracing::Level::ERROR),
            tracing::Level::WARN => event!(tracing::Level::WARN),
            tracing::Level::INFO => event!(tracing::Level::INFO),
            tracing::Level::DEBUG => event!(tracing::Level::DEBUG),
            tracing::Level::TRACE => event!(tracing::Level::TRACE),
        }
    }
}

/// The text without control characters: a guest must not move an operator's cursor or start a line of its own.
fn clean(message: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(message);
    if text.chars().any(|c| c.is_control() && c != '\t') {
        Cow::Owned(
            text.chars()
                .map(|c| {
                    if c.is_control() && c != '\t' {
                        '\u{fffd}'
                    } else {
                        c
                    }
                })
                .collect(),
        )
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_summed_over_all_memories_of_a_store() {
        let mut account = MemoryAccount::new(100);
        assert!(account.memory_growing(0, 60, None).unwrap());
        assert!(
            !account.memory_growing(0, 60, None).unwrap(),
            "a second memory passed the bound of the first"
        );
        assert!(account.refused);
        assert!(account.memory_growing(60, 100, None).unwrap());
        assert_eq!(account.peak(), 100);
    }

    #[test]
    fn a_guest_cannot_write_control_characters_to_a_terminal() {
        assert_eq!(clean(b"\x1b[2Jgone\tok"), "\u{fffd}[2Jgone\tok");
        assert_eq!(clean(b"\xff"), "\u{fffd}");
    }
}
