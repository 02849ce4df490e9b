//! Components by their digest: on disk, and loaded.
//!
//! Owns the folder of artifacts and the components that are in use. A component that several actors run is loaded once,
//! and let go when the last of them has gone. It must not know actors.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::component::{ComponentBytes, ComponentError, LoadedComponent, Loader};
use crate::digest::Digest;
use crate::engine::Engine;

/// The components of a host.
pub struct Components {
    loader: Loader,
    folder: PathBuf,
    loaded: Mutex<HashMap<Digest, Arc<Slot>>>,
}

/// A component that is in use, if it still is; locked while it is loaded, so that it is loaded once.
type Slot = tokio::sync::Mutex<Weak<LoadedComponent>>;

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
    /// The component can't be run.
    #[error(transparent)]
    Component(#[from] ComponentError),
}

impl Components {
    /// Components that are kept in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// If the folder can't be made.
    pub fn open(loader: Loader, folder: PathBuf) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&folder)?;
        Ok(Arc::new(Self {
            loader,
            folder,
            loaded: Mutex::default(),
        }))
    }

    /// The engine that they run in.
    pub fn engine(&self) -> &Arc<Engine> {
        self.loader.engine()
    }

    /// Loads a component and keeps it. One that can't be loaded is not kept.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn add(&self, component: ComponentBytes) -> Result<Arc<LoadedComponent>, ArtifactError> {
        let (digest, bytes) = (component.digest, component.bytes.clone());
        let loaded = self.once(digest, || Ok(component)).await?;
        let path = self.path(digest);
        if !path.exists() {
            write_whole(&path, &bytes).map_err(|source| ArtifactError::Write { digest, path, source })?;
        }
        Ok(loaded)
    }

    /// The component of this digest, loaded.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn get(&self, digest: Digest) -> Result<Arc<LoadedComponent>, ArtifactError> {
        let read = || {
            let path = self.path(digest);
            let component = ComponentBytes::read(&path)?;
            if component.digest != digest {
                return Err(ArtifactError::Damaged { digest, path });
            }
            Ok(component)
        };
        self.once(digest, read).await
    }

    /// Whether the component is kept here.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest).exists()
    }

    /// The component in use, or else the one that `read` gives, loaded.
    async fn once(
        &self,
        digest: Digest,
        read: impl FnOnce() -> Result<ComponentBytes, ArtifactError>,
    ) -> Result<Arc<LoadedComponent>, ArtifactError> {
        let slot = self.slot(digest);
        let mut slot = slot.lock().await;
        if let Some(loaded) = slot.upgrade() {
            return Ok(loaded);
        }
        let loaded = Arc::new(self.loader.load(read()?).await?);
        *slot = Arc::downgrade(&loaded);
        Ok(loaded)
    }

    fn slot(&self, digest: Digest) -> Arc<Slot> {
        let mut all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // Of what is neither in use nor being loaded there is nothing to keep.
        all.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|loaded| loaded.strong_count() > 0)
        });
        all.entry(digest).or_default().clone()
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.wasm", digest.to_hex()))
    }
}

/// Written beside, synced, then renamed: a file that is there is whole.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(folder) = path.parent() {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
