//! Providers: named, configured backends, open on this host.
//!
//! Owns the opening of a backend by its record, and its closing: when the last snapshot that links to it has gone. Each is
//! supervised ([`health`]), and one that keeps data can move to another backend ([`gate`]). It must not know who is
//! linked to what.

pub mod blob_store;
pub mod gate;
pub mod health;
pub mod key_value;
pub mod sql;

mod messaging;
mod nats;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use weft_blob::{CloudBlobStore, CloudOptions, FsBlobStore, FsOptions, Service};
use weft_capabilities::{
    BlobError, BlobStore, Bucket, Container, KeyValue, MemoryBlobStore, MemoryKeyValue, MemoryMessaging,
    Messaging, Sql,
};
use weft_compose::capability::{LATTICE, OUTSIDE, PINNED};
use weft_compose::record::ProviderRecord;
use weft_compose::{Capability, ProviderName};
use weft_nats::{JetStreamMessaging, NatsBlobStore, NatsKeyValue, NatsMessaging};
use weft_postgres::{Isolation, PostgresOptions, PostgresSql};
use weft_redb::RedbKeyValue;
use weft_redis::{Deployment, RedisKeyValue, RedisOptions};
use weft_remote::{Provided, RemoteBlobStore, RemoteKeyValue, RemoteSql};
use weft_sqlite::SqliteSql;

use self::health::Health;
use crate::mesh::{Held, Mesh};
use crate::secret::opened::Used;

/// The backend that has no file.
pub const MEMORY: &str = "memory";

/// How often a server is asked whether it answers, if no call says so before. With hundreds of providers on each of many
/// hosts that is still little beside what they are for.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The same for what is reached over the lattice, whose members know of each other.
const LOOK_ELSEWHERE_EVERY: Duration = Duration::from_secs(60);
/// The bucket or container that is looked into, which has nothing.
const LOOK_BUCKET: &str = "weft-health";

/// An open backend.
pub struct Provider {
    /// Its name.
    pub name: ProviderName,
    /// Which revision of its record it is.
    pub revision: u64,
    /// What it serves.
    pub backend: Backend,
    /// The values that its configuration refers to.
    pub secrets: Used,
    /// What other hosts reach it by, if it is here and they may; those that used it before it moved still do.
    pub provided: Option<Provided>,
    /// Whether it answers, and what can be done to it while it is used.
    pub guard: Guard,
    /// Asks whether it answers, at this pace.
    watch: Option<Arc<AbortOnDropHandle<()>>>,
    pace: Option<Duration>,
    /// Kept while it is used on another host.
    held: Option<Arc<Held>>,
}

/// What stands before a backend. Clones are the same.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Whether it answers.
    pub health: Arc<Health>,
    /// Of what can move: what holds and notes writes.
    pub gate: Option<Gate>,
}

/// What stands before a backend that can move to another.
#[derive(Debug, Clone)]
pub enum Gate {
    /// Before keys and values.
    KeyValue(Arc<key_value::Gate>),
    /// Before tables.
    Sql(Arc<sql::Gate>),
    /// Before objects in containers.
    BlobStore(Arc<blob_store::Gate>),
}

impl Gate {
    /// Begins to note what is written. Once it has returned, every write that was not noted has ended; `false` if those
    /// that run have not in time. Of tables nothing is noted.
    pub async fn note(&self) -> bool {
        match self {
            Self::KeyValue(gate) => gate.note().await,
            Self::BlobStore(gate) => gate.note().await,
            Self::Sql(_) => true,
        }
    }

    /// [`gate::Gate::hold`].
    pub async fn hold(&self) -> bool {
        match self {
            Self::KeyValue(gate) => gate.hold().await,
            Self::BlobStore(gate) => gate.hold().await,
            Self::Sql(gate) => gate.hold().await,
        }
    }

    /// [`gate::Gate::release`].
    pub fn release(&self) {
        match self {
            Self::KeyValue(gate) => gate.release(),
            Self::BlobStore(gate) => gate.release(),
            Self::Sql(gate) => gate.release(),
        }
    }

    /// [`gate::Gate::end`].
    pub fn end(&self) {
        match self {
            Self::KeyValue(gate) => gate.end(),
            Self::BlobStore(gate) => gate.end(),
            Self::Sql(gate) => gate.end(),
        }
    }

    /// Whether writes wait.
    pub fn is_held(&self) -> bool {
        match self {
            Self::KeyValue(gate) => gate.is_held(),
            Self::BlobStore(gate) => gate.is_held(),
            Self::Sql(gate) => gate.is_held(),
        }
    }

    /// Whether a move has anything to do with it.
    pub fn is_moving(&self) -> bool {
        match self {
            Self::KeyValue(gate) => gate.is_moving(),
            Self::BlobStore(gate) => gate.is_moving(),
            Self::Sql(gate) => gate.is_moving(),
        }
    }

    /// Puts the backend behind `other` in the place of its own, and gives the old one. `None` if they serve different things.
    fn take_over(&self, other: &Self) -> Option<Backend> {
        match (self, other) {
            (Self::KeyValue(gate), Self::KeyValue(other)) => {
                Some(Backend::KeyValue(gate.replace(other.store())))
            }
            (Self::Sql(gate), Self::Sql(other)) => Some(Backend::Sql(gate.replace(other.store()))),
            (Self::BlobStore(gate), Self::BlobStore(other)) => {
                Some(Backend::BlobStore(gate.replace(other.store())))
            }
            _ => None,
        }
    }

    /// Asks whether the backend answers that is behind it at the time.
    fn watch(
        &self,
        name: &ProviderName,
        health: &Arc<Health>,
        pace: Option<Duration>,
    ) -> BoxFuture<'static, ()> {
        match self {
            // A key that is not there.
            Self::KeyValue(gate) => {
                let bucket = Arc::new(Bucket::scoped(name.namespace(), name.app(), LOOK_BUCKET));
                let gate = gate.clone();
                let look = move || {
                    let (store, bucket) = (gate.store(), bucket.clone());
                    async move { store.exists(&bucket, "health").await.map(drop) }
                };
                health.clone().watch(pace, look).boxed()
            }
            Self::Sql(gate) => {
                let gate = gate.clone();
                let look = move || {
                    let database = gate.store();
                    async move { database.query("SELECT 1", Vec::new(), None).await.map(drop) }
                };
                health.clone().watch(pace, look).boxed()
            }
            // A container that is not there.
            Self::BlobStore(gate) => {
                let (gate, container) = (gate.clone(), look_container(name));
                let look = move || {
                    let (store, container) = (gate.store(), container.clone());
                    async move {
                        match container {
                            Some(container) => store.container_info(&container).await.map(drop),
                            None => Ok(()),
                        }
                    }
                };
                health.clone().watch::<BlobError, _>(pace, look).boxed()
            }
        }
    }
}

/// What a provider serves.
#[derive(Clone)]
pub enum Backend {
    /// Keys and values.
    KeyValue(Arc<dyn KeyValue>),
    /// Objects in containers.
    BlobStore(Arc<dyn BlobStore>),
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
    /// Of a provider whose configuration can't be used, for the reason that is told.
    pub fn refused(record: &ProviderRecord, reason: String) -> Self {
        Self {
            name: record.name.clone(),
            backend: record.backend.clone(),
            source: reason.into(),
        }
    }

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
    /// live on the runtime that this is called on, or on those of their callers.
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
        Ok(Self::around(record, backend))
    }

    /// A provider around an open backend. Called on a runtime, where what asks for its health lives.
    pub fn around(record: &ProviderRecord, backend: Backend) -> Self {
        let pace = match record.backend.as_str() {
            // In this process: what there is to know, calls tell.
            backend if PINNED.contains(&backend) => None,
            // Its connection is this host's own, whose condition is the lattice's.
            LATTICE => None,
            _ => Some(LOOK_EVERY),
        };
        Self::guarded(record, backend, pace)
    }

    fn guarded(record: &ProviderRecord, backend: Backend, pace: Option<Duration>) -> Self {
        let name = record.name.clone();
        let health = Health::new(name.clone());
        let (backend, gate, watch) = match backend {
            Backend::KeyValue(store) => {
                let inner = key_value::Gate::new(store, health.clone());
                let guarded = Backend::KeyValue(Arc::new(key_value::Guarded(inner.clone())));
                let gate = Gate::KeyValue(inner);
                let watch = gate.watch(&name, &health, pace);
                (guarded, Some(gate), watch)
            }
            Backend::Sql(database) => {
                let inner = sql::Gate::new(database, health.clone());
                let guarded = Backend::Sql(Arc::new(sql::Guarded(inner.clone())));
                let gate = Gate::Sql(inner);
                let watch = gate.watch(&name, &health, pace);
                (guarded, Some(gate), watch)
            }
            Backend::BlobStore(store) => {
                let inner = blob_store::Gate::new(store, health.clone());
                let guarded = Backend::BlobStore(Arc::new(blob_store::Guarded::new(inner.clone())));
                let gate = Gate::BlobStore(inner);
                let watch = gate.watch(&name, &health, pace);
                (guarded, Some(gate), watch)
            }
            Backend::Messaging(broker) => {
                let guarded = messaging::Guarded {
                    broker: broker.clone(),
                    health: health.clone(),
                };
                let look = move || {
                    let broker = broker.clone();
                    async move { broker.check().await }
                };
                let watch = health.clone().watch(pace, look).boxed();
                (Backend::Messaging(Arc::new(guarded)), None, watch)
            }
        };
        Self {
            name,
            revision: record.revision,
            backend,
            secrets: Used::new(),
            provided: None,
            guard: Guard { health, gate },
            watch: Some(spawned(watch)),
            pace,
            held: None,
        }
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
            Capability::BlobStore => Backend::BlobStore(Arc::new(RemoteBlobStore::new(remote))),
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
            held: Some(held),
            ..Self::guarded(record, backend, Some(LOOK_ELSEWHERE_EVERY))
        })
    }

    /// The provider of `record`, which is the lattice itself.
    pub fn in_lattice(record: &ProviderRecord, mesh: &Arc<Mesh>) -> Self {
        Self::around(record, Backend::Messaging(Arc::new(mesh.messaging(&record.name))))
    }

    /// Whether the backend is on another host, or a process that is none.
    pub fn is_elsewhere(&self) -> bool {
        self.held.is_some()
    }

    /// The same, and other hosts may use it.
    #[must_use]
    pub fn served_to(mut self, mesh: &Mesh) -> Self {
        self.provided = Some(mesh.provided(match &self.backend {
            Backend::KeyValue(store) => weft_remote::Backend::KeyValue(store.clone()),
            Backend::BlobStore(store) => weft_remote::Backend::BlobStore(store.clone()),
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
            secrets: self.secrets.clone(),
            provided: self.provided.clone(),
            guard: self.guard.clone(),
            watch: self.watch.clone(),
            pace: self.pace,
            held: self.held.clone(),
        }
    }

    /// The same to all who have it, on the backend of `target` from now on; and the old backend by itself, to be closed
    /// when the reads that run on it have ended. `None` if either can't move.
    pub fn moved(&self, revision: u64, target: &Self) -> Option<(Self, Self)> {
        let gate = self.guard.gate.as_ref()?;
        let old = gate.take_over(target.guard.gate.as_ref()?)?;
        let moved = Self {
            watch: Some(spawned(gate.watch(&self.name, &self.guard.health, target.pace))),
            pace: target.pace,
            secrets: target.secrets.clone(),
            held: target.held.clone(),
            ..self.with_revision(revision)
        };
        let old = Self {
            backend: old,
            provided: None,
            watch: None,
            ..self.with_revision(self.revision)
        };
        Some((moved, old))
    }

    /// The open backend of a provider that was to be closed, for `record`, which wants it again.
    pub fn again(&self, record: &ProviderRecord) -> Self {
        match self.watch {
            Some(_) => self.with_revision(record.revision),
            // Left by a move, without what stands before it.
            None => Self {
                provided: self.provided.clone(),
                ..Self::around(record, self.backend.clone())
            },
        }
    }

    /// Whether its backend is held elsewhere too: by a snapshot, and so by an invocation that runs on it.
    pub fn is_used(&self) -> bool {
        let holders = match &self.backend {
            Backend::KeyValue(store) => Arc::strong_count(store),
            Backend::BlobStore(store) => Arc::strong_count(store),
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
            Backend::BlobStore(store) => store.close().await,
            Backend::Sql(database) => database.close().await,
            Backend::Messaging(broker) => broker.close().await,
        }
    }
}

/// Connections to servers that a provider of `record` opens on a host, at most. Those of clouds are the host's, which has
/// them for all; what is in this process has none.
pub fn connections(record: &ProviderRecord) -> u64 {
    let len = match record.backend.as_str() {
        "postgres" => postgres_options(record).map_or(0, |options| options.connections),
        // To one server of several addresses; in a cluster to each.
        "redis" => redis_options(record).map_or(0, |options| match options.deployment {
            Deployment::Cluster => options.urls.len().saturating_mul(options.connections),
            _ => options.connections,
        }),
        "nats" | "jetstream" => 1,
        _ => 0,
    };
    len as u64
}

/// The container that is looked for: names of apps are shorter than those of containers.
fn look_container(name: &ProviderName) -> Option<Container> {
    Container::scoped(name.namespace(), name.app(), LOOK_BUCKET).ok()
}

fn spawned(watch: BoxFuture<'static, ()>) -> Arc<AbortOnDropHandle<()>> {
    Arc::new(AbortOnDropHandle::new(Handle::current().spawn(watch)))
}

fn open(record: &ProviderRecord, folder: &Path) -> Result<Backend, Box<dyn std::error::Error + Send + Sync>> {
    match (record.capability, record.backend.as_str()) {
        (Capability::KeyValue, MEMORY) => {
            let mut store = MemoryKeyValue::default();
            if let Some(ttl) = ttl(record)? {
                store = store.forgetting(ttl);
            }
            Ok(Backend::KeyValue(Arc::new(store)))
        }
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
        (Capability::BlobStore, MEMORY) => Ok(Backend::BlobStore(Arc::new(MemoryBlobStore::default()))),
        (Capability::BlobStore, "fs") => {
            let mut options = FsOptions::default();
            if let Some(bytes) = object_bytes(record)? {
                options.object_size_max = bytes;
            }
            let store = FsBlobStore::open(&file(record, folder, "blobs")?, options)?;
            Ok(Backend::BlobStore(Arc::new(store)))
        }
        (Capability::BlobStore, "s3" | "gcs" | "azure") => {
            let folder = file(record, folder, "blobs")?;
            let store = CloudBlobStore::open(&cloud_options(record)?, &folder)?;
            Ok(Backend::BlobStore(Arc::new(store)))
        }
        (Capability::BlobStore, "nats") => {
            let folder = file(record, folder, "blobs")?;
            let store = NatsBlobStore::open(&nats::options(record)?, nats::objects(record)?, &folder)?;
            Ok(Backend::BlobStore(Arc::new(store)))
        }
        (Capability::KeyValue, "nats") => {
            let store = NatsKeyValue::open(&nats::options(record)?, nats::bucket(record)?)?;
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
        (Capability::Messaging, "nats") => {
            let broker = NatsMessaging::open(&nats::options(record)?)?;
            Ok(Backend::Messaging(Arc::new(broker)))
        }
        (Capability::Messaging, "jetstream") => {
            let broker = JetStreamMessaging::open(&nats::options(record)?, nats::stream(record)?)?;
            Ok(Backend::Messaging(Arc::new(broker)))
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
    if let Some(len) = connections_len(record)? {
        options.connections = len;
    }
    options.ttl = ttl(record)?;
    Ok(options)
}

fn postgres_options(record: &ProviderRecord) -> Result<PostgresOptions, String> {
    let mut options = PostgresOptions::new(url(record)?);
    options.ca_file = text(record, "caFile").map(PathBuf::from);
    if let Some(len) = connections_len(record)? {
        options.connections = len;
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

fn cloud_options(record: &ProviderRecord) -> Result<CloudOptions, String> {
    let owned = |key| text(record, key).map(str::to_owned);
    let needed = |key| owned(key).ok_or_else(|| format!("{key} is missing: set it in the provider's config"));
    let service = match record.backend.as_str() {
        "gcs" => Service::Google {
            key_file: owned("keyFile").map(PathBuf::from),
        },
        "azure" => Service::Azure {
            account: needed("account")?,
            access_key: owned("accessKey"),
        },
        _ => Service::S3 {
            region: owned("region").unwrap_or_else(|| "us-east-1".to_owned()),
            access: match owned("accessKeyId") {
                Some(id) => Some((id, needed("secretAccessKey")?)),
                None => None,
            },
        },
    };
    let mut options = CloudOptions::new(service, needed("bucket")?);
    options.endpoint = owned("endpoint");
    options.prefix = owned("prefix").unwrap_or_default();
    options.ca_file = owned("caFile").map(PathBuf::from);
    if let Some(bytes) = object_bytes(record)? {
        options.object_size_max = bytes;
    }
    Ok(options)
}

fn object_bytes(record: &ProviderRecord) -> Result<Option<u64>, String> {
    let mib = number(record, "objectMiB")?;
    Ok(mib.map(|mib| mib.saturating_mul(1 << 20)))
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

/// How long a value is kept.
fn ttl(record: &ProviderRecord) -> Result<Option<Duration>, String> {
    Ok(number(record, "ttlSeconds")?.map(Duration::from_secs))
}

fn connections_len(record: &ProviderRecord) -> Result<Option<usize>, String> {
    let len = number(record, "connections")?;
    Ok(len.map(|len| usize::try_from(len).unwrap_or(usize::MAX)))
}

fn cache_bytes(record: &ProviderRecord) -> Result<Option<usize>, String> {
    let mib = number(record, "cacheMiB")?;
    Ok(mib.map(|mib| usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1 << 20)))
}
