//! Components by their digest: on disk, described, and loaded.
//!
//! Owns the folder of artifacts, and which components are loaded. A component that is deployed is compiled and described
//! once; its machine code is mapped at its first call and let go when it was not called for long, or when too many are
//! loaded. What several actors run is loaded once. It must not know actors. Read [`crate::component::lazy`] for what a
//! call waits for.
//!
//! [`kept`] has what stays on disk, [`exchange`] what other hosts fetch and this one fetches from them.
//!
//! Beside `<sha256>.wasm` there is `<sha256>.json`, its [`Description`], under a line with a code that only this host can
//! make: what it says of types decides which links are made.

mod exchange;
mod kept;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_observability::HostMetrics;
use weft_observability::metrics::Eviction;

pub use self::kept::{Artifact, BYTES_MAX, Pins};
use crate::cli::chain;
use crate::component::aot::authenticate;
use crate::component::description::Description;
use crate::component::lazy::{LazyComponent, Loaded};
use crate::component::{ComponentBytes, ComponentError, LoadedComponent, Loader};
use crate::digest::{Digest, hex};
use crate::engine::Engine;
use crate::system::SystemFacts;

/// Components that are loaded at once, if the kernel grants it: each has four mappings of those that the pool leaves,
/// and an open file.
const LOADED_MAX: usize = 1_024;
/// The part of the open files that loaded components may have; connections have the most.
const OPEN_FILES_SHARE: u64 = 8;
/// How often it is looked for what is cold, and how exactly the time of a last call is known.
const TICK_MAX: Duration = Duration::from_secs(1);
/// Digests beyond those in use that are remembered before the list is cleaned, which looks at all of it.
const SLOTS_SLACK: usize = 256;

/// How long someone who needs a component waits for it to come from another host. Whoever needs it tries again; the
/// fetch goes on meanwhile.
const FETCH_WAIT: Duration = Duration::from_secs(2);

/// Why a component did not come from another host.
pub type FetchFailure = Box<dyn std::error::Error + Send + Sync>;

/// Brings components from other hosts.
pub trait Fetch: Send + Sync + 'static {
    /// Makes sure that the component is kept here. Dropping the future ends the wait and not the fetch.
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<(), FetchFailure>>;
}

/// How long components stay loaded.
#[derive(Debug, Clone, Copy)]
pub struct Residency {
    /// One that was not called for so long is let go.
    pub idle: Duration,
    /// The most that are loaded at once; above it, the one whose last call is longest ago is let go.
    pub loaded_max: usize,
}

impl Residency {
    /// Ten minutes: who calls an actor more seldom does not mind the fraction of a millisecond that loading takes.
    pub const IDLE: Duration = Duration::from_secs(600);

    /// As many as `facts` leave room for.
    pub fn of(facts: &SystemFacts, idle: Duration) -> Self {
        let files = facts.open_files.unwrap_or(u64::MAX) / OPEN_FILES_SHARE;
        Self {
            idle,
            loaded_max: usize::try_from(files).map_or(LOADED_MAX, |files| files.clamp(1, LOADED_MAX)),
        }
    }

    fn tick(&self) -> Duration {
        (self.idle / 4).clamp(Duration::from_millis(10), TICK_MAX)
    }
}

/// The components of a host.
pub struct Components {
    loader: Loader,
    folder: PathBuf,
    key: [u8; 32],
    residency: Residency,
    metrics: HostMetrics,
    known: Mutex<Known>,
    /// Those with machine code; what nothing deploys any more may still be among them.
    loaded: Mutex<Vec<Weak<LazyComponent>>>,
    clock: Arc<AtomicU32>,
    /// Loads that calls have asked for.
    loads: TaskTracker,
    runtime: Handle,
    stop: CancellationToken,
    /// Bytes of what no record names.
    bytes_max: AtomicU64,
    /// How many there are on disk, and their bytes, for metrics.
    kept: [AtomicU64; 2],
    pins: OnceLock<Box<dyn Fn() -> Pins + Send + Sync>>,
    fetch: OnceLock<Arc<dyn Fetch>>,
    this: Weak<Self>,
}

#[derive(Default)]
struct Known {
    slots: HashMap<Digest, Arc<Slot>>,
    /// The list is cleaned when it is this long.
    clean_at: usize,
}

/// A component in use, if it still is; locked while it is made, so that it is made once.
type Slot = tokio::sync::Mutex<Weak<LazyComponent>>;

/// An artifact can't be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The folder can't be written.
    #[error("failed to keep the component {digest} in {}; is there space, and may this user write there?", path.display())]
    Write {
        /// The component.
        digest: Digest,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file's bytes are not those that its name says.
    #[error("{} does not hold {digest}: delete it, and deploy the component again", path.display())]
    Damaged {
        /// The component.
        digest: Digest,
        /// The file.
        path: PathBuf,
    },
    /// The folder can't be read.
    #[error("failed to read the folder of components {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not on this host, and no other gave it.
    #[error("the component {digest} is not on this host, and was not had from another; `weft push` it again")]
    Fetch {
        /// The component.
        digest: Digest,
        /// The cause.
        #[source]
        source: FetchFailure,
    },
    /// It is on its way.
    #[error("the component {0} is still being fetched from another host")]
    Fetching(Digest),
    /// The component can't be run.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// Loading it panicked, or the host ended meanwhile.
    #[error("failed to end the load of a component")]
    Broken(#[source] tokio::task::JoinError),
}

impl Components {
    /// Components that are kept in `folder`, which is made if it is not there; `key` is this host's. Called on the
    /// runtime that is to load them.
    ///
    /// # Errors
    /// If the folder can't be made.
    pub fn open(
        loader: Loader,
        folder: PathBuf,
        key: [u8; 32],
        residency: Residency,
        metrics: HostMetrics,
    ) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&folder)?;
        kept::remove_parts(&folder)?;
        let components = Arc::new_cyclic(|this| Self {
            loader,
            folder,
            key,
            residency,
            metrics,
            known: Mutex::default(),
            loaded: Mutex::default(),
            clock: Arc::default(),
            loads: TaskTracker::new(),
            runtime: Handle::current(),
            stop: CancellationToken::new(),
            bytes_max: AtomicU64::new(BYTES_MAX),
            kept: Default::default(),
            pins: OnceLock::new(),
            fetch: OnceLock::new(),
            this: this.clone(),
        });
        components.recount();
        let observed = Arc::downgrade(&components);
        components
            .metrics
            .observe_artifacts(move || observed.upgrade().map_or((0, 0), |components| components.kept()));
        Ok(components)
    }

    /// Asks `fetch` for components that are not here, from now on.
    pub fn fetch_by(&self, fetch: Arc<dyn Fetch>) {
        // A host joins one lattice.
        let _ = self.fetch.set(fetch);
    }

    /// Whether components that are not here may come from other hosts.
    pub fn fetches(&self) -> bool {
        self.fetch.get().is_some()
    }

    /// The engine that they run in.
    pub fn engine(&self) -> &Arc<Engine> {
        self.loader.engine()
    }

    /// Lets go what is cold, until `stop`; then breaks off what is being loaded.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tick = self.residency.tick();
        let idle_ticks = u32::try_from(self.residency.idle.as_nanos() / tick.as_nanos()).unwrap_or(u32::MAX);
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            self.clock.fetch_add(1, Ordering::Relaxed);
            for cold in self.all_loaded() {
                if cold.idle_ticks() > idle_ticks {
                    self.evict(&cold, Eviction::Idle);
                }
            }
        }
        self.stop.cancel();
        self.loads.close();
        self.loads.wait().await;
    }

    /// Compiles a component unless that was done, and keeps it. One that can't be run is not kept.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn add(&self, component: ComponentBytes) -> Result<Arc<LazyComponent>, ArtifactError> {
        let digest = component.digest;
        let slot = self.slot(digest);
        let mut slot = slot.lock().await;
        let found = match self.find(&slot, digest) {
            Some(found) if self.loader.is_compiled(digest) => found,
            found => self.make(&component, found).await?,
        };
        *slot = Arc::downgrade(&found);
        let path = self.path(digest, "wasm");
        if path.exists() {
            self.touch(digest);
        } else {
            write_whole(&path, &component.bytes).map_err(|source| ArtifactError::Write {
                digest,
                path,
                source,
            })?;
            self.keep_bound(digest);
        }
        Ok(found)
    }

    /// The component of this digest. One that is described is not loaded by this.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn get(&self, digest: Digest) -> Result<Arc<LazyComponent>, ArtifactError> {
        let slot = self.slot(digest);
        let mut slot = slot.lock().await;
        let found = match self.find(&slot, digest) {
            Some(found) => found,
            None => self.make(&self.bytes_of(digest).await?, None).await?,
        };
        *slot = Arc::downgrade(&found);
        Ok(found)
    }

    /// Whether the component is kept here.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest, "wasm").exists()
    }

    /// Components that are loaded now.
    pub fn loaded_len(&self) -> usize {
        self.all_loaded().len()
    }

    /// The most that are loaded at once.
    pub fn loaded_max(&self) -> usize {
        self.residency.loaded_max
    }

    /// The component in use, or one that is described and not in use yet.
    fn find(&self, slot: &Weak<LazyComponent>, digest: Digest) -> Option<Arc<LazyComponent>> {
        slot.upgrade().or_else(|| {
            let description = self.described(digest)?;
            Some(Arc::new(self.lazy(digest, description)))
        })
    }

    fn lazy(&self, digest: Digest, description: Description) -> LazyComponent {
        LazyComponent::new(digest, description, self.this.clone(), self.clock.clone())
    }

    /// Loads a component, compiling it if need be, and describes it.
    async fn make(
        &self,
        component: &ComponentBytes,
        found: Option<Arc<LazyComponent>>,
    ) -> Result<Arc<LazyComponent>, ComponentError> {
        let loaded = self.loader.load(component).await;
        self.metrics.component_load(loaded.is_ok());
        let loaded = loaded?;
        let made = match found {
            Some(found) => found,
            None => {
                let description = loaded.describe(self.engine(), component.bytes.len());
                if let Err(error) = self.write_description(component.digest, &description) {
                    tracing::warn!(component = %component.digest, error = chain(&error), "failed to write what a component takes and gives: the next start loads it");
                }
                Arc::new(self.lazy(component.digest, description))
            }
        };
        self.put(&made, Arc::new(loaded));
        Ok(made)
    }

    /// Runs a load that calls wait for; `done` gets what became of it, unless the host stops.
    pub(crate) fn spawn(
        &self,
        load: impl Future<Output = Loaded> + Send + 'static,
        done: impl FnOnce(Loaded) + Send + 'static,
    ) {
        let stop = self.stop.clone();
        let task = async move {
            if let Some(loaded) = stop.run_until_cancelled(load).await {
                done(loaded);
            }
        };
        self.loads.spawn_on(task, &self.runtime);
    }

    /// Loads a component that is described, from its machine code if that is there.
    pub(crate) async fn load(self: Arc<Self>, component: Arc<LazyComponent>) -> Loaded {
        let loaded = self.load_described(&component).await;
        self.metrics.component_load(loaded.is_ok());
        let loaded = Arc::new(loaded.map_err(|error| chain(&error))?);
        self.put(&component, loaded.clone());
        Ok(loaded)
    }

    async fn load_described(
        self: &Arc<Self>,
        component: &Arc<LazyComponent>,
    ) -> Result<LoadedComponent, ArtifactError> {
        let (this, wanted) = (self.clone(), component.clone());
        let read = tokio::task::spawn_blocking(move || {
            match this.loader.load_cached(wanted.digest, &wanted.description)? {
                Some(loaded) => Ok(Ok(loaded)),
                None => Ok(Err(this.read(wanted.digest))),
            }
        });
        match read.await {
            Ok(Ok(Ok(loaded))) => Ok(loaded),
            // Its machine code is gone, or is another engine's.
            Ok(Ok(Err(Ok(bytes)))) => Ok(self.loader.load(&bytes).await?),
            Ok(Ok(Err(Err(error)))) => {
                let bytes = self.fetched(component.digest, error).await?;
                Ok(self.loader.load(&bytes).await?)
            }
            Ok(Err(error)) => Err(error),
            Err(error) => Err(ArtifactError::Broken(error)),
        }
    }

    fn put(&self, component: &Arc<LazyComponent>, loaded: Arc<LoadedComponent>) {
        component.put(loaded);
        {
            let mut all = self.lock_loaded();
            let known = all.iter().any(|other| other.as_ptr() == Arc::as_ptr(component));
            if !known {
                all.push(Arc::downgrade(component));
            }
        }
        let mut all = self.all_loaded();
        while all.len() > self.residency.loaded_max {
            // The list is in the order of their loading, so that of several the first is taken.
            let coldest = (0..all.len())
                .filter(|at| !Arc::ptr_eq(&all[*at], component))
                .max_by_key(|at| (all[*at].idle_ticks(), std::cmp::Reverse(*at)));
            let Some(coldest) = coldest else { return };
            let coldest = all.remove(coldest);
            self.evict(&coldest, Eviction::Bound);
        }
    }

    fn evict(&self, component: &Arc<LazyComponent>, why: Eviction) -> Option<Arc<LoadedComponent>> {
        let evicted = component.evict()?;
        self.metrics.component_evicted(why);
        tracing::debug!(component = %component.digest, reason = why.as_str(), "let a component's machine code go");
        Some(evicted)
    }

    /// Lets go all that are loaded; those that are called are loaded again. With the last that holds one of them, and
    /// its last instance, goes what the pool keeps for its next instances.
    pub fn release(&self) -> Vec<Arc<LoadedComponent>> {
        let all = self.all_loaded();
        all.iter()
            .filter_map(|component| self.evict(component, Eviction::Memory))
            .collect()
    }

    /// Those that are loaded. Forgets the others.
    fn all_loaded(&self) -> Vec<Arc<LazyComponent>> {
        let mut all = self.lock_loaded();
        let mut loaded = Vec::with_capacity(all.len());
        all.retain(|component| {
            let component = component.upgrade().filter(|component| component.is_loaded());
            let is_loaded = component.is_some();
            loaded.extend(component);
            is_loaded
        });
        loaded
    }

    fn lock_loaded(&self) -> MutexGuard<'_, Vec<Weak<LazyComponent>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, digest: Digest) -> Arc<Slot> {
        let mut known = self.lock_known();
        if known.slots.len() >= known.clean_at {
            // Of what is neither in use nor being made there is nothing to keep.
            known.slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|made| made.strong_count() > 0)
            });
            known.clean_at = known.slots.len() * 2 + SLOTS_SLACK;
        }
        known.slots.entry(digest).or_default().clone()
    }

    /// The component's bytes, from another host if they are not here or damaged.
    async fn bytes_of(&self, digest: Digest) -> Result<ComponentBytes, ArtifactError> {
        match self.read(digest) {
            Ok(bytes) => {
                self.touch(digest);
                Ok(bytes)
            }
            Err(error) => self.fetched(digest, error).await,
        }
    }

    /// What could not be read here, for `why`, from another host.
    async fn fetched(&self, digest: Digest, why: ArtifactError) -> Result<ComponentBytes, ArtifactError> {
        let damaged = matches!(why, ArtifactError::Damaged { .. });
        let fetch = self.fetch.get().filter(|_| damaged || !self.has(digest));
        let Some(fetch) = fetch else { return Err(why) };
        if damaged {
            tracing::error!(component = %digest, "a component is damaged on this host's disk: fetching it anew; look at the disk");
            self.remove(digest);
        }
        match tokio::time::timeout(FETCH_WAIT, fetch.fetch(digest)).await {
            Ok(Ok(())) => self.read(digest),
            Ok(Err(source)) => Err(ArtifactError::Fetch { digest, source }),
            Err(_) => Err(ArtifactError::Fetching(digest)),
        }
    }

    fn read(&self, digest: Digest) -> Result<ComponentBytes, ArtifactError> {
        let path = self.path(digest, "wasm");
        let component = ComponentBytes::read(&path)?;
        if component.digest != digest {
            return Err(ArtifactError::Damaged { digest, path });
        }
        Ok(component)
    }

    /// What is written of a component, if this host has written it and would write the same today.
    fn described(&self, digest: Digest) -> Option<Description> {
        let path = self.path(digest, "json");
        let text = fs::read_to_string(&path).ok()?;
        let (code, text) = text.split_once('\n')?;
        if authenticate(&self.key, &path, &mut text.as_bytes()).is_ok_and(|own| hex(&own) == code) {
            let description: Description = serde_json::from_str(text).ok()?;
            return description.is_current().then_some(description);
        }
        tracing::warn!(path = %path.display(), "what is written of a component has a wrong authentication code: making it anew");
        None
    }

    fn write_description(&self, digest: Digest, description: &Description) -> io::Result<()> {
        let path = self.path(digest, "json");
        let text = serde_json::to_string(description)?;
        let code = authenticate(&self.key, &path, &mut text.as_bytes())?;
        write_whole(&path, format!("{}\n{text}", hex(&code)).as_bytes())
    }

    fn path(&self, digest: Digest, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", digest.to_hex()))
    }
}

/// Written beside, synced, then renamed: a file that is there is whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let beside = path.with_added_extension(format!("{}.part", std::process::id()));
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(path)
}

/// What was renamed to `path` is there after a loss of power.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
