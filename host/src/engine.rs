//! The wasmtime engine: its profile, its pool of instance slots and its epoch ticker.
//!
//! Owns every setting of [`wasmtime::Config`]. It must not know actors, HTTP or where artifacts are kept: see
//! [`crate::component`] for loading and [`crate::store`] for what an instance holds.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails,
};

use crate::system::SystemFacts;

/// How often running guests are looked at: the longest that a busy guest holds its thread before others get it.
///
/// 1 ms costs 0.1 % of a core in wake-ups; the check itself is in the machine code either way.
pub const EPOCH_TICK: Duration = Duration::from_millis(1);

/// Mappings that the rest of the process may need: code images (4 each), threads, files, the allocator's arenas.
const MAPS_RESERVED: u64 = 5_500;
/// Mappings of one slot with a live instance: 2 when the pool is made, 4 when it is used (measured).
const MAPS_PER_SLOT: u64 = 6;
/// Bytes of memory that a small actor's live instance takes (measured: docs/performance.md).
const BYTES_PER_INSTANCE: u64 = 40 << 10;
/// Open files of a host that serves as many connections as it takes by default, with its components and stores.
const OPEN_FILES_WANTED: u64 = 12_000;
/// Slots if the kernel does not tell its limit.
const SLOTS_FALLBACK: u32 = 1_000;
/// The smallest pool that is worth having; below it instances are allocated one by one.
const SLOTS_MIN: u32 = 16;
/// Core instances of one component: main module, shims, fix-ups and adapters. Only a counter in the pool.
const CORE_INSTANCES_PER_SLOT: u32 = 6;
/// Tables of one component: the main module's and its shim's.
const TABLES_PER_SLOT: u32 = 2;
/// Elements of one table: enough for a JavaScript engine, and 312 KiB of address space.
pub const TABLE_ELEMENTS_MAX: usize = 40_000;
/// Slots that stay warm when unused. wasmtime 48 can't give them back, so this bounds memory at rest: each may keep
/// up to [`KEEP_RESIDENT_MEMORY`], and a plain actor dirties some 70 KiB.
pub const WARM_SLOTS_MAX: u32 = 512;
/// Bytes of a memory that are reset by writing instead of unmapping: above what a plain request dirties.
const KEEP_RESIDENT_MEMORY: usize = 128 << 10;
/// The same for tables.
const KEEP_RESIDENT_TABLE: usize = 16 << 10;
/// The same for stacks, of which a plain request uses ten to fourteen. What stacks and tables keep is never given back:
/// 24 KiB for each slot that was in use at once with others. Keeping none doubles the processor time of a plain request.
const KEEP_RESIDENT_STACK: usize = 16 << 10;

/// Which trade between speed and density the engine makes. Chosen at start; each has its own artifacts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Profile {
    /// 4 GiB of address space a memory, so that no bounds check is needed; up to 20,000 slots.
    #[default]
    Fast,
    /// 512 MiB of address space a memory and explicit bounds checks; up to 100,000 slots.
    Dense,
}

impl Profile {
    /// The name, as flags and reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Dense => "dense",
        }
    }

    fn memory_reservation(self) -> u64 {
        match self {
            Self::Fast => 4 << 30,
            Self::Dense => 512 << 20,
        }
    }

    /// Slots that fit into 47 bits of address space with room to spare.
    fn slots_max(self) -> u32 {
        match self {
            Self::Fast => 20_000,
            Self::Dense => 100_000,
        }
    }
}

/// What the engine got, for the operator.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PoolReport {
    /// The profile that runs.
    pub profile: Profile,
    /// Instances that can be live at once; `None` without a pool.
    pub slots: Option<u32>,
    /// Whether dirty pages are found by a pagemap scan.
    pub pagemap_scan: bool,
    /// What would give more, in one sentence each.
    pub advice: Vec<String>,
}

/// Why no engine could be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up the wasm engine")]
pub struct EngineError(#[from] wasmtime::Error);

/// The engine of a host, with its pool and its ticker.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    report: PoolReport,
    fingerprint: String,
}

impl Engine {
    /// Makes an engine with as large a pool as the kernel grants, at most `slots_wanted`.
    ///
    /// A pool that can't be had is tried at half the size, down to none at all; the report says what was got.
    ///
    /// # Errors
    /// Only if wasmtime refuses the configuration itself.
    pub fn new(
        profile: Profile,
        slots_wanted: Option<u32>,
        facts: &SystemFacts,
    ) -> Result<Arc<Self>, EngineError> {
        let mut report = PoolReport {
            profile,
            slots: None,
            pagemap_scan: false,
            advice: Vec::new(),
        };
        let granted = slots_granted(profile, facts, &mut report.advice);
        let mut slots = slots_wanted.map_or(granted, |wanted| wanted.min(granted));
        if slots_wanted.is_some_and(|wanted| wanted > granted) {
            tracing::warn!(wanted = slots_wanted, granted, "the pool is smaller than wanted");
        }
        report.pagemap_scan = facts.may_scan_pagemap();
        if !report.pagemap_scan {
            report.advice.push(pagemap_advice(facts));
        }
        let wasmtime = loop {
            let mut config = base_config(profile);
            if slots < SLOTS_MIN && slots_wanted.is_none() {
                tracing::warn!(
                    "no pool of instances could be had; each start allocates, which is some ten times slower"
                );
                report.pagemap_scan = false;
                break wasmtime::Engine::new(&config)?;
            }
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool_config(
                profile,
                slots,
                report.pagemap_scan,
            )));
            match wasmtime::Engine::new(&config) {
                Ok(engine) => {
                    report.slots = Some(slots);
                    break engine;
                }
                Err(error) if slots > 1 => {
                    tracing::warn!(
                        slots,
                        error = format!("{error:#}"),
                        "failed to reserve the pool, trying half of it"
                    );
                    slots /= 2;
                }
                Err(error) => return Err(error.into()),
            }
        };
        spawn_epoch_ticker(&wasmtime)?;
        let fingerprint = fingerprint(&wasmtime);
        Ok(Arc::new(Self {
            wasmtime,
            report,
            fingerprint,
        }))
    }

    /// wasmtime's own engine.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// What the pool got, and what would give more.
    pub fn report(&self) -> &PoolReport {
        &self.report
    }

    /// Names all that machine code depends on: wasmtime's version, the settings, the processor's features.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Instances that can be live at once.
    pub fn slots(&self) -> u32 {
        self.report.slots.unwrap_or(SLOTS_FALLBACK)
    }
}

/// The engine of the compile child: the same machine code, no pool.
///
/// # Errors
/// Only if wasmtime refuses the configuration itself.
pub fn compile_engine(profile: Profile) -> Result<wasmtime::Engine, EngineError> {
    Ok(wasmtime::Engine::new(&base_config(profile))?)
}

/// Settings that are part of the machine code, so they must be the same in the compile child and in the host.
fn base_config(profile: Profile) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .memory_reservation(profile.memory_reservation())
        .memory_guard_size(32 << 20)
        // A pooled memory can't move; said here too, so that both sides agree.
        .memory_may_move(false)
        .memory_init_cow(true)
        // Above the first memory of a Python or JavaScript component, which would else be copied at each start.
        .memory_guaranteed_dense_image_size(64 << 20)
        // Registering unwind tables is quadratic in the number of loaded components (wasmtime #10084).
        .native_unwind_info(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // The rest of the stack is for host functions, which run on the guest's fiber and stay shallow.
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        // The pool takes the stack that was used longest ago, so that without it a guest that recurses would dirty one
        // stack after the other, and each would stay as large as it ever was.
        .async_stack_zeroing(true);
    config
}

fn pool_config(profile: Profile, slots: u32, pagemap_scan: bool) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_SLOT))
        .total_memories(slots)
        .total_tables(slots.saturating_mul(TABLES_PER_SLOT))
        .total_stacks(slots)
        .max_memory_size(usize::try_from(profile.memory_reservation()).unwrap_or(usize::MAX))
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memories_per_module(4)
        .max_tables_per_module(4)
        .max_core_instances_per_component(30)
        .max_memories_per_component(8)
        .max_tables_per_component(12)
        .max_unused_warm_slots(WARM_SLOTS_MAX.min(slots))
        .linear_memory_keep_resident(KEEP_RESIDENT_MEMORY)
        .table_keep_resident(KEEP_RESIDENT_TABLE)
        .async_stack_keep_resident(KEEP_RESIDENT_STACK)
        .pagemap_scan(if pagemap_scan { Enabled::Yes } else { Enabled::No });
    pool
}

fn slots_granted(profile: Profile, facts: &SystemFacts, advice: &mut Vec<String>) -> u32 {
    let Some(maps) = facts.max_map_count else {
        return SLOTS_FALLBACK;
    };
    let by_maps = u32::try_from(maps.saturating_sub(MAPS_RESERVED) / MAPS_PER_SLOT).unwrap_or(u32::MAX);
    if by_maps < profile.slots_max() {
        let needed = u64::from(profile.slots_max()) * MAPS_PER_SLOT + MAPS_RESERVED;
        advice.push(format!(
            "vm.max_map_count is {maps}, which is enough for {by_maps} live instances; \
             `sysctl -w vm.max_map_count={needed}` would allow {}",
            profile.slots_max()
        ));
    }
    if facts.overcommit_memory == Some(2) {
        advice.push(
            "vm.overcommit_memory is 2, so the kernel may refuse the pool's reservations; set it to 0 or 1"
                .to_owned(),
        );
    }
    let slots = by_maps.min(profile.slots_max());
    advice.extend(resource_advice(slots, facts));
    slots
}

/// What else bounds the instances in flight, where that is less than the pool has room for.
fn resource_advice(slots: u32, facts: &SystemFacts) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(memory) = facts
        .memory
        .filter(|memory| *memory < u64::from(slots) * BYTES_PER_INSTANCE)
    {
        advice.push(format!(
            "{} MiB of memory are enough for {} live instances of a small actor, and the pool has {slots} slots; \
             more memory would allow them, `--instances` fewer slots",
            memory >> 20,
            memory / BYTES_PER_INSTANCE
        ));
    }
    if let Some(files) = facts.open_files.filter(|files| *files < OPEN_FILES_WANTED) {
        advice.push(format!(
            "this process may open {files} files, and each connection and each loaded component is one; \
             `ulimit -Hn {OPEN_FILES_WANTED}` (LimitNOFILE={OPEN_FILES_WANTED} of the service) would allow as many as the host takes"
        ));
    }
    advice
}

fn pagemap_advice(facts: &SystemFacts) -> String {
    if facts.pagemap_scan {
        "memory of this process may be swapped out, so instances are reset the slow way; turn swap off \
         (`swapoff -a`, or memory.swap.max=0 for the service's cgroup)"
            .to_owned()
    } else {
        "this kernel can't list dirty pages (PAGEMAP_SCAN, Linux 6.7 or newer), so instances are reset the slow way"
            .to_owned()
    }
}

/// Ticks from a thread of its own: a tokio task would be held up by the very guests it is to interrupt.
///
/// The thread ends when the engine is dropped.
fn spawn_epoch_ticker(engine: &wasmtime::Engine) -> Result<(), EngineError> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("weft-epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(EPOCH_TICK);
            }
        })
        .map(drop)
        .map_err(|error| EngineError(error.into()))
}

fn fingerprint(engine: &wasmtime::Engine) -> String {
    struct Sha(sha2::Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            sha2::Digest::update(&mut self.0, bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Sha(sha2::Digest::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let hash: [u8; 32] = sha2::Digest::finalize(hasher.0).into();
    crate::digest::hex(&hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(max_map_count: Option<u64>) -> SystemFacts {
        SystemFacts {
            max_map_count,
            ..SystemFacts::read()
        }
    }

    #[test]
    fn a_stock_kernel_grants_at_least_nine_thousand_slots() {
        let mut advice = Vec::new();
        let slots = slots_granted(Profile::Fast, &facts(Some(65_530)), &mut advice);
        assert!((9_000..=10_800).contains(&slots), "{slots}");
        assert!(advice[0].contains("sysctl -w vm.max_map_count="), "{advice:?}");
    }

    #[test]
    fn a_raised_map_count_grants_a_hundred_thousand_dense_slots_without_advice() {
        let mut facts = facts(Some(1 << 20));
        facts.overcommit_memory = Some(0);
        (facts.memory, facts.open_files) = (Some(16 << 30), Some(20_000));
        let mut advice = Vec::new();
        assert_eq!(slots_granted(Profile::Dense, &facts, &mut advice), 100_000);
        assert_eq!(slots_granted(Profile::Fast, &facts, &mut advice), 20_000);
        assert!(advice.is_empty(), "{advice:?}");
    }

    #[test]
    fn too_little_memory_and_too_few_open_files_are_told_with_what_they_are_enough_for() {
        let mut facts = facts(Some(1 << 20));
        (facts.memory, facts.open_files) = (Some(1 << 30), Some(1_024));
        let advice = resource_advice(100_000, &facts);
        assert!(
            advice[0].contains("enough for 26214 live instances"),
            "{advice:?}"
        );
        assert!(advice[1].contains("may open 1024 files"), "{advice:?}");
        (facts.memory, facts.open_files) = (None, None);
        assert!(resource_advice(100_000, &facts).is_empty());
    }

    #[test]
    fn a_pool_that_cannot_be_had_becomes_smaller_instead_of_an_error() {
        // 4 GiB a slot: 20,000 of them at once with few maps can't be had, whatever the kernel.
        let engine = Engine::new(Profile::Fast, Some(64), &facts(Some(6_000))).unwrap();
        assert!(engine.report().slots.is_none_or(|slots| slots <= 64));
    }

    #[test]
    fn profiles_have_artifacts_of_their_own() {
        let fast = compile_engine(Profile::Fast).unwrap();
        let dense = compile_engine(Profile::Dense).unwrap();
        assert_ne!(fingerprint(&fast), fingerprint(&dense));
        assert_eq!(
            fingerprint(&fast),
            fingerprint(&compile_engine(Profile::Fast).unwrap())
        );
    }
}
