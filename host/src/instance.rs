//! The instance that serves an invocation: a new one or, for an actor that asks for it, one that has served before.
//!
//! Owns the step from an invocation to an instance, and what becomes of the instance afterwards. Instances are kept by
//! the thread that they served on, where their memory is in the cache. It must not know what is called.
//!
//! An instance is kept only after it has ended well and given back all that belonged to the invocation; see
//! [`InstanceState::end`]. What its own memory holds, the next invocation sees: docs/serving.md tells authors.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use wasmtime::Store;
use wasmtime::component::Instance;
use wasmtime_wasi_http::p2::bindings::Proxy;
use weft_compose::Limits;

use crate::component::LoadedComponent;
use crate::component::lazy::InUse;
use crate::invocation::Call;
use crate::state::State;
use crate::store::{InstanceState, new_store};

/// Per cent of the pool that reusable instances may take, so that those that wait leave room for those that run.
const KEPT_SHARE_PERCENT: u32 = 10;
/// An instance that has grown past this is ended: many that wait would hold memory that others need.
const KEPT_MEMORY_MAX: u64 = 64 << 20;
/// How often instances that waited for too long are ended.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// An instance in its store, within one invocation.
pub struct LiveInstance {
    /// Its store.
    pub store: Store<InstanceState>,
    instance: Option<Instance>,
    http: Option<Proxy>,
    served: u32,
    // Taken when it is kept for the first time.
    place: Option<KeptPlace>,
}

impl LiveInstance {
    /// For the target of `call`, which runs `component`: one that was kept, or a store without an instance yet.
    pub fn of(call: &Arc<Call>, component: &LoadedComponent) -> Self {
        let actor = &call.target().actor;
        if let Some(mut live) = actor.kept.as_ref().and_then(|kept| kept.take(call.state.id())) {
            call.actor.metrics.instance_reused();
            live.store.data_mut().begin(call.clone());
            live.store.set_epoch_deadline(1);
            return live;
        }
        Self {
            store: new_store(component.pre.engine(), call.clone()),
            instance: None,
            http: None,
            served: 0,
            place: None,
        }
    }

    /// The instance, which is made unless it was kept.
    ///
    /// # Errors
    /// If the pool is exhausted, or the component fails in its start.
    pub async fn instantiate(&mut self, component: &LoadedComponent) -> wasmtime::Result<Instance> {
        if let Some(instance) = self.instance {
            return Ok(instance);
        }
        let instance = component.pre.instantiate_async(&mut self.store).await?;
        self.instance = Some(instance);
        Ok(instance)
    }

    /// The instance's HTTP handler, and the store to call it in.
    ///
    /// # Errors
    /// As [`instantiate`](Self::instantiate), or if it exports none.
    pub async fn http(&mut self, component: InUse) -> wasmtime::Result<(&Proxy, &mut Store<InstanceState>)> {
        let instance = self.instantiate(&component).await?;
        let Self { store, http, .. } = self;
        let http = match http {
            Some(http) => http,
            None => {
                let Some(indices) = &component.http else {
                    wasmtime::bail!("{} exports no HTTP handler", component.digest);
                };
                http.insert(indices.load(&mut *store, &instance)?)
            }
        };
        Ok((http, store))
    }

    /// Keeps the instance for the next invocation if its actor asks for it, and if it may serve one. Only for one whose
    /// invocation ended well.
    pub fn keep(mut self) {
        if self.store.data().call().target().actor.kept.is_none() {
            return;
        }
        let call = self.store.data().call().clone();
        let Some(kept) = &call.target().actor.kept else {
            return;
        };
        self.served += 1;
        if self.place.is_none() {
            self.place = kept.places.take();
        }
        let state = self.store.data_mut();
        let may_serve = self.served < kept.served_max
            && self.place.is_some()
            && state.memory.used() <= KEPT_MEMORY_MAX
            && state.end();
        if may_serve {
            kept.put(self, call.state.id());
        }
    }
}

/// Places for instances that are reused, over all actors of a host. They count from the first time that they are kept
/// to their end.
#[derive(Clone)]
pub struct KeptPlaces(Arc<Count>);

struct Count {
    used: AtomicU32,
    max: u32,
}

struct KeptPlace(Arc<Count>);

impl KeptPlaces {
    /// The reusable instances' share of a pool with `slots`.
    pub fn of_pool(slots: u32) -> Self {
        Self(Arc::new(Count {
            used: AtomicU32::new(0),
            max: (slots / 100 * KEPT_SHARE_PERCENT).max(1),
        }))
    }

    /// Reusable instances that live now.
    pub fn used(&self) -> u32 {
        self.0.used.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<KeptPlace> {
        let place = KeptPlace(self.0.clone());
        let before = self.0.used.fetch_add(1, Ordering::Relaxed);
        (before < self.0.max).then_some(place)
    }
}

impl Drop for KeptPlace {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The instances of one actor that wait for their next invocation.
pub struct Kept {
    served_max: u32,
    idle_max: Duration,
    places: KeptPlaces,
    shards: Box<[Shard]>,
}

/// What the threads of one number keep, the longest idle first. On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<VecDeque<Idle>>);

struct Idle {
    live: LiveInstance,
    since: Instant,
    /// The snapshot that it served in: what it holds of links is of that one.
    state: u64,
}

impl Kept {
    /// For an actor with these limits; `None` unless it asks for reuse.
    pub fn new(limits: &Limits, places: KeptPlaces) -> Option<Self> {
        // A serving thread and a shared one for each core.
        let shards = 2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (limits.reuse > 1).then(|| Self {
            served_max: limits.reuse,
            idle_max: limits.reuse_idle,
            places,
            shards: (0..shards).map(|_| Shard::default()).collect(),
        })
    }

    /// The one that this thread kept last, or else one of another thread.
    fn take(&self, state: u64) -> Option<LiveInstance> {
        let own = own_shard(self.shards.len());
        let (before, from) = self.shards.split_at(own);
        from.iter().chain(before).find_map(|shard| {
            let idle = shard
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_back()?;
            (idle.state == state && idle.since.elapsed() <= self.idle_max).then_some(idle.live)
        })
    }

    fn put(&self, live: LiveInstance, state: u64) {
        let idle = Idle {
            live,
            since: Instant::now(),
            state,
        };
        self.shards[own_shard(self.shards.len())]
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(idle);
    }

    /// Ends those that have waited for too long at `now`, and those of other snapshots.
    fn sweep(&self, now: Instant, state: u64) {
        for shard in &self.shards {
            let mut idle = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (keep, end) = std::mem::take(&mut *idle).into_iter().partition(|idle| {
                idle.state == state && now.saturating_duration_since(idle.since) <= self.idle_max
            });
            *idle = keep;
            drop(idle);
            // Outside of the lock, as it gives memory back.
            drop::<VecDeque<_>>(end);
        }
    }
}

/// Ends idle instances of all actors when their time is over, until `stop`.
pub async fn sweep(state: Arc<ArcSwap<State>>, stop: CancellationToken) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let state = state.load_full();
        let now = Instant::now();
        for kept in state
            .actors()
            .iter()
            .filter_map(|state| state.actor.kept.as_ref())
        {
            kept.sweep(now, state.id());
        }
    }
}

/// Threads are numbered as they come.
fn own_shard(shards: usize) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| number % shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reusable_instances_have_a_share_of_the_pool_and_no_more() {
        let places = KeptPlaces::of_pool(100);
        let held: Vec<_> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!((held.len(), places.used()), (10, 10));
        drop(held);
        assert_eq!(places.used(), 0);
    }
}
