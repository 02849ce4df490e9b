//! Providers: named, configured backends, open on this host.
//!
//! Owns the opening of a backend by its record, and its closing: when the last snapshot that links to it has gone. It
//! must not know who is linked to what.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_capabilities::{KeyValue, MemoryKeyValue, Sql};
use weft_compose::record::ProviderRecord;
use weft_compose::{Capability, ProviderName};
use weft_redb::RedbKeyValue;
use weft_sqlite::SqliteSql;

/// The backend that has no file.
pub const MEMORY: &str = "memory";

/// An open backend.
pub struct Provider {
    /// Its name.
    pub name: ProviderName,
    /// Which revision of its record it is.
    pub revision: u64,
    /// What it serves.
    pub backend: Backend,
}

/// What a provider serves.
#[derive(Clone)]
pub enum Backend {
    /// Keys and values.
    KeyValue(Arc<dyn KeyValue>),
    /// Tables.
    Sql(Arc<dyn Sql>),
}

/// A provider can't be opened. The text names it and what to do.
#[derive(Debug, thiserror::Error)]
#[error("failed to open the provider {name} ({backend})")]
pub struct ProviderError {
    name: ProviderName,
    backend: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Provider {
    /// Opens the backend of `record`, whose files are below `folder`. Blocks while files are read.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub fn open(record: &ProviderRecord, folder: &Path) -> Result<Self, ProviderError> {
        let failed = |source| ProviderError {
            name: record.name.clone(),
            backend: record.backend.clone(),
            source,
        };
        let backend = open(record, folder).map_err(failed)?;
        Ok(Self {
            name: record.name.clone(),
            revision: record.revision,
            backend,
        })
    }

    /// The same open backend under another revision of its record.
    pub fn with_revision(&self, revision: u64) -> Self {
        Self {
            name: self.name.clone(),
            revision,
            backend: self.backend.clone(),
        }
    }

    /// Whether its backend is held elsewhere too: by a snapshot, and so by an invocation that runs on it.
    pub fn is_used(&self) -> bool {
        let holders = match &self.backend {
            Backend::KeyValue(store) => Arc::strong_count(store),
            Backend::Sql(database) => Arc::strong_count(database),
        };
        holders > 1
    }

    /// Ends when all that was accepted is durable.
    pub async fn close(&self) {
        match &self.backend {
            Backend::KeyValue(store) => store.close().await,
            Backend::Sql(database) => database.close().await,
        }
    }
}

fn open(record: &ProviderRecord, folder: &Path) -> Result<Backend, Box<dyn std::error::Error + Send + Sync>> {
    match (record.capability, record.backend.as_str()) {
        (Capability::KeyValue, MEMORY) => Ok(Backend::KeyValue(Arc::new(MemoryKeyValue::default()))),
        (Capability::KeyValue, "redb") => {
            let mut options = weft_redb::RedbOptions::default();
            if let Some(bytes) = cache_bytes(record)? {
                options.cache_bytes = bytes;
            }
            let store = RedbKeyValue::open(&file(record, folder, "redb")?, options)?;
            Ok(Backend::KeyValue(Arc::new(store)))
        }
        (Capability::Sql, "sqlite") => {
            let mut options = weft_sqlite::SqliteOptions::default();
            if let Some(bytes) = cache_bytes(record)? {
                options.cache_kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
            }
            let database = SqliteSql::open(&file(record, folder, "sqlite3")?, options)?;
            Ok(Backend::Sql(Arc::new(database)))
        }
        (capability, backend) => Err(format!("this host has no backend `{backend}` for {capability}").into()),
    }
}

/// `providers/NAMESPACE/APP/NAME.EXTENSION`. Names are labels, so they stay within the folder.
fn file(record: &ProviderRecord, folder: &Path, extension: &str) -> std::io::Result<PathBuf> {
    let name = &record.name;
    let folder = folder.join(name.namespace()).join(name.app());
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{}.{extension}", name.name())))
}

fn cache_bytes(record: &ProviderRecord) -> Result<Option<usize>, String> {
    let Some(text) = record.config.get("cacheMiB") else {
        return Ok(None);
    };
    let mib: usize = text
        .parse()
        .map_err(|_| format!("cacheMiB is `{text}`, expected a whole number"))?;
    Ok(Some(mib.saturating_mul(1 << 20)))
}
