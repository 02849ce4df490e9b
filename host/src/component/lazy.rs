//! A component that actors run, loaded when it is first called and let go when it has not been for long.
//!
//! Owns the step from a digest and a description to machine code, once for all callers at a time, and what callers get
//! while it fails. It must not know actors, nor where components are kept: [`crate::artifact`] loads and evicts.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::watch;

use super::LoadedComponent;
use super::description::Description;
use crate::artifact::Components;
use crate::digest::Digest;
use crate::invocation::{CallError, ErrorKind};

/// The first time for which a failed load is not tried again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest: who has mended something sees it taken within half a minute.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A component of deployed actors.
pub struct LazyComponent {
    /// The name of its bytes.
    pub digest: Digest,
    /// What it takes and gives.
    pub description: Description,
    loader: Weak<Components>,
    loaded: ArcSwapOption<LoadedComponent>,
    /// The tick of its last call.
    used: AtomicU32,
    /// The tick that it is now, of all components; seldom written, so that reading it costs nothing.
    clock: Arc<AtomicU32>,
    loading: Mutex<Loading>,
}

#[derive(Default)]
enum Loading {
    #[default]
    Not,
    Runs(watch::Receiver<Option<Loaded>>),
    Failed {
        wait: Duration,
        until: Instant,
        reason: Arc<str>,
    },
}

/// What became of a load; the reason of a failure is for the operator.
pub(crate) type Loaded = Result<Arc<LoadedComponent>, Arc<str>>;

/// Why a component could not be had for a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to load the component {digest}: {reason}")]
pub struct LoadError {
    digest: Digest,
    reason: Arc<str>,
}

impl From<LoadError> for CallError {
    fn from(error: LoadError) -> Self {
        Self::refused(ErrorKind::Unavailable, Some(wasmtime::Error::new(error)))
    }
}

/// A loaded component, for as long as it takes to make an instance of it; the instance itself keeps what it runs. To be
/// dropped before the instance is called: the first few of a thread cost no reference count.
pub struct InUse(Guard<Option<Arc<LoadedComponent>>>);

impl Deref for InUse {
    type Target = LoadedComponent;

    fn deref(&self) -> &LoadedComponent {
        self.0.as_deref().expect("made of a component that is loaded")
    }
}

impl LazyComponent {
    /// A component that is not loaded yet, which `loader` will load at its first call.
    pub(crate) fn new(
        digest: Digest,
        description: Description,
        loader: Weak<Components>,
        clock: Arc<AtomicU32>,
    ) -> Self {
        Self {
            digest,
            description,
            loader,
            loaded: ArcSwapOption::empty(),
            used: AtomicU32::new(clock.load(Ordering::Relaxed)),
            clock,
            loading: Mutex::default(),
        }
    }

    /// A component that stays loaded for as long as this lives.
    pub fn pinned(component: LoadedComponent, description: Description) -> Arc<Self> {
        let this = Self::new(component.digest, description, Weak::new(), Arc::default());
        this.loaded.store(Some(Arc::new(component)));
        Arc::new(this)
    }

    /// The component, if it is loaded. It counts as a use.
    pub fn if_loaded(&self) -> Option<InUse> {
        let loaded = self.loaded.load();
        loaded.as_ref()?;
        let now = self.clock.load(Ordering::Relaxed);
        // Written once a tick and not once a call, which would pull the line from core to core.
        if self.used.load(Ordering::Relaxed) != now {
            self.used.store(now, Ordering::Relaxed);
        }
        Some(InUse(loaded))
    }

    /// The component, loaded if it is not yet. Callers that come while it is loaded wait for the same load, which goes
    /// on when they leave; a caller's own deadline bounds its wait.
    ///
    /// # Errors
    /// If it can't be loaded; for a while after that, without another try.
    pub async fn get(self: &Arc<Self>) -> Result<InUse, LoadError> {
        if let Some(loaded) = self.if_loaded() {
            return Ok(loaded);
        }
        let failed = |reason| LoadError {
            digest: self.digest,
            reason,
        };
        let mut running = self.join().map_err(failed)?;
        let loaded = match running.wait_for(Option::is_some).await {
            Ok(loaded) => loaded.clone(),
            Err(_) => None,
        };
        match loaded {
            Some(Ok(loaded)) => Ok(InUse(Guard::from_inner(Some(loaded)))),
            Some(Err(reason)) => Err(failed(reason)),
            None => Err(failed("the load was broken off, as the host stops".into())),
        }
    }

    /// The load that runs, started if none does.
    fn join(self: &Arc<Self>) -> Result<watch::Receiver<Option<Loaded>>, Arc<str>> {
        let mut loading = self.lock();
        // Another caller's load may have ended since this one looked.
        if let Some(loaded) = self.loaded.load_full() {
            return Ok(watch::channel(Some(Ok(loaded))).1);
        }
        match &*loading {
            // One whose task has gone without a word can't be waited for.
            Loading::Runs(running) if running.has_changed().is_ok() => return Ok(running.clone()),
            Loading::Failed { until, reason, .. } if Instant::now() < *until => return Err(reason.clone()),
            _ => {}
        }
        let Some(loader) = self.loader.upgrade() else {
            return Err("the host stops".into());
        };
        let wait = match &*loading {
            Loading::Failed { wait, .. } => (*wait * 2).min(RETRY_MAX),
            _ => RETRY_MIN,
        };
        let (done, running) = watch::channel(None);
        *loading = Loading::Runs(running.clone());
        drop(loading);
        let this = self.clone();
        loader.spawn(loader.clone().load(self.clone()), move |loaded| {
            let mut loading = this.lock();
            *loading = match &loaded {
                Ok(_) => Loading::Not,
                Err(reason) => {
                    tracing::error!(component = %this.digest, reason = &**reason, retry_ms = wait.as_millis() as u64, "failed to load a component: its calls are answered unavailable");
                    Loading::Failed {
                        wait,
                        until: Instant::now() + wait,
                        reason: reason.clone(),
                    }
                }
            };
            drop(loading);
            done.send_replace(Some(loaded));
        });
        Ok(running)
    }

    /// Puts a component in place. `false` if one was there.
    pub(crate) fn put(&self, component: Arc<LoadedComponent>) -> bool {
        self.used
            .store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        self.loaded.swap(Some(component)).is_none()
    }

    /// Lets the machine code go, and gives it if there was some; what runs of it goes on.
    pub(crate) fn evict(&self) -> Option<Arc<LoadedComponent>> {
        self.loaded.swap(None)
    }

    /// Whether it is loaded now. Not a use.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load().is_some()
    }

    /// Ticks since its last call.
    pub(crate) fn idle_ticks(&self) -> u32 {
        let now = self.clock.load(Ordering::Relaxed);
        now.wrapping_sub(self.used.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Loading> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
