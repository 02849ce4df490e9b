//! Providers: named, configured backends, open on this host.
//!
//! Owns the opening of a backend by its record, and its closing: when the last snapshot that links to it has gone. It
//! must not know who is linked to what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use weft_capabilities::{KeyValue, MemoryKeyValue, MemoryMessaging, Messaging, Sql};
use weft_compose::capability::{LATTICE, OUTSIDE};
use weft_compose::record::ProviderRecord;
use weft_compose::{Capability, ProviderName};
use weft_postgres::{Isolation, PostgresOptions, PostgresSql};
use weft_redb::RedbKeyValue;
use weft_redis::{Deployment, RedisKeyValue, RedisOptions};
use weft_remote::{Provided, RemoteKeyValue, RemoteSql};
use weft_sqlite::SqliteSql;

use crate::mesh::{Held, Mesh};

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
    /// What other hosts reach it by, if it is here and they may.
    pub provided: Option<Provided>,
    /// Kept while it is used on another host.
    held: Option<Arc<Held>>,
}

/// What a provider serves.
#[derive(Clone)]
pub enum Backend {
    /// Keys and values.
    KeyValue(Arc<dyn KeyValue>),
    /// Tables.
    Sql(Arc<dyn Sql>),
    /// Messages.
    Messaging(Arc<dyn Messaging>),
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

impl ProviderError {
    /// Of a provider that is a process of its own, on a host without a lattice.
    pub fn no_lattice(record: &ProviderRecord) -> Self {
        Self {
            name: record.name.clone(),
            backend: record.backend.clone(),
            source: "a process outside is reached over a lattice, and this host is in none: start it with `weft host`".into(),
        }
    }
}

impl Provider {
    /// Opens the backend of `record`, whose files are below `folder`. Blocks while files are read; connections to servers
    /// live on the runtime that this is called on.
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
            provided: None,
            held: None,
        })
    }

    /// The provider of `record`, which another host has, or a process that is none.
    ///
    /// # Errors
    /// [`ProviderError`]
    pub fn elsewhere(record: &ProviderRecord, mesh: &Mesh) -> Result<Self, ProviderError> {
        let outside = record.backend == OUTSIDE;
        let (remote, held) = mesh
            .use_provider(&record.name, outside)
            .map_err(|reason| ProviderError {
                name: record.name.clone(),
                backend: record.backend.clone(),
                source: reason.into(),
            })?;
        let backend = match record.capability {
            Capability::KeyValue => Backend::KeyValue(Arc::new(RemoteKeyValue::new(remote))),
            Capability::Sql => Backend::Sql(Arc::new(RemoteSql::new(remote))),
            // Messages are never another host's, and no process outside serves them.
            Capability::Messaging => {
                return Err(ProviderError {
                    name: record.name.clone(),
                    backend: record.backend.clone(),
                    source: "each host has its own way to messages".into(),
                });
            }
        };
        Ok(Self {
            name: record.name.clone(),
            revision: record.revision,
            backend,
            provided: None,
            held: Some(held),
        })
    }

    /// The provider of `record`, which is the lattice itself.
    pub fn in_lattice(record: &ProviderRecord, mesh: &Arc<Mesh>) -> Self {
        Self {
            name: record.name.clone(),
            revision: record.revision,
            backend: Backend::Messaging(Arc::new(mesh.messaging(&record.name))),
            provided: None,
            held: None,
        }
    }

    /// The same, and other hosts may use it.
    #[must_use]
    pub fn served_to(mut self, mesh: &Mesh) -> Self {
        self.provided = Some(mesh.provided(match &self.backend {
            Backend::KeyValue(store) => weft_remote::Backend::KeyValue(store.clone()),
            Backend::Sql(database) => weft_remote::Backend::Sql(database.clone()),
            // Each host has its own way to it.
            Backend::Messaging(_) => return self,
        }));
        self
    }

    /// The same open backend under another revision of its record.
    pub fn with_revision(&self, revision: u64) -> Self {
        Self {
            name: self.name.clone(),
            revision,
            backend: self.backend.clone(),
            provided: self.provided.clone(),
            held: self.held.clone(),
        }
    }

    /// Whether its backend is held elsewhere too: by a snapshot, and so by an invocation that runs on it.
    pub fn is_used(&self) -> bool {
        let holders = match &self.backend {
            Backend::KeyValue(store) => Arc::strong_count(store),
            Backend::Sql(database) => Arc::strong_count(database),
            Backend::Messaging(broker) => Arc::strong_count(broker),
        };
        // The one that other hosts use counts for itself.
        holders > 1 + usize::from(self.provided.is_some())
    }

    /// Ends when all that was accepted is durable.
    pub async fn close(&self) {
        if let Some(provided) = &self.provided {
            provided.release();
        }
        match &self.backend {
            Backend::KeyValue(store) => store.close().await,
            Backend::Sql(database) => database.close().await,
            Backend::Messaging(broker) => broker.close().await,
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
        (Capability::KeyValue, "redis") => {
            let store = RedisKeyValue::open(&redis_options(record)?)?;
            Ok(Backend::KeyValue(Arc::new(store)))
        }
        (Capability::Sql, "postgres") => {
            let database = PostgresSql::open(&postgres_options(record)?)?;
            Ok(Backend::Sql(Arc::new(database)))
        }
        (Capability::Sql, "sqlite") => {
            let mut options = weft_sqlite::SqliteOptions::default();
            if let Some(bytes) = cache_bytes(record)? {
                options.cache_kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
            }
            let database = SqliteSql::open(&file(record, folder, "sqlite3")?, options)?;
            Ok(Backend::Sql(Arc::new(database)))
        }
        // Of a host that is alone.
        (Capability::Messaging, LATTICE) => Ok(Backend::Messaging(Arc::new(MemoryMessaging::new()))),
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

fn redis_options(record: &ProviderRecord) -> Result<RedisOptions, String> {
    let mut options = RedisOptions::new("");
    options.urls = url(record)?.split_whitespace().map(str::to_owned).collect();
    options.deployment = match text(record, "deployment") {
        None | Some("server") => Deployment::Server,
        Some("cluster") => Deployment::Cluster,
        Some("sentinel") => Deployment::Sentinel {
            service: text(record, "service")
                .ok_or("service is missing: it is what the sentinels call it")?
                .to_owned(),
        },
        Some(other) => {
            return Err(format!(
                "deployment is `{other}`, expected server, sentinel or cluster"
            ));
        }
    };
    options.ca_file = text(record, "caFile").map(PathBuf::from);
    if let Some(ms) = number(record, "timeoutMs")? {
        options.timeout = Duration::from_millis(ms);
    }
    Ok(options)
}

fn postgres_options(record: &ProviderRecord) -> Result<PostgresOptions, String> {
    let mut options = PostgresOptions::new(url(record)?);
    options.ca_file = text(record, "caFile").map(PathBuf::from);
    if let Some(connections) = number(record, "connections")? {
        options.connections = usize::try_from(connections).unwrap_or(usize::MAX);
    }
    options.isolation = match text(record, "isolation") {
        None | Some("serializable") => Isolation::Serializable,
        Some("repeatable-read") => Isolation::RepeatableRead,
        Some("read-committed") => Isolation::ReadCommitted,
        Some(other) => {
            return Err(format!(
                "isolation is `{other}`, expected serializable, repeatable-read or read-committed"
            ));
        }
    };
    Ok(options)
}

fn text<'a>(record: &'a ProviderRecord, key: &str) -> Option<&'a str> {
    record.config.get(key).map(String::as_str)
}

fn url(record: &ProviderRecord) -> Result<&str, String> {
    text(record, "url").ok_or_else(|| "url is missing: set it in the provider's config".to_owned())
}

fn number(record: &ProviderRecord, key: &str) -> Result<Option<u64>, String> {
    let Some(text) = text(record, key) else {
        return Ok(None);
    };
    let number = text.parse();
    number
        .map(Some)
        .map_err(|_| format!("{key} is `{text}`, expected a whole number"))
}

fn cache_bytes(record: &ProviderRecord) -> Result<Option<usize>, String> {
    let mib = number(record, "cacheMiB")?;
    Ok(mib.map(|mib| usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1 << 20)))
}
