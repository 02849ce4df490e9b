//! Two hosts: one that has providers, and one that uses them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use weft_capabilities::{BlobStore, KeyValue, Sql};
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::{Client, Invocation, Place, Server, Service, Stamps};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};
use weft_lattice::transport::{Served, Transport};
use weft_remote::{Backend, Provided, Remote, RemoteBlobStore, RemoteKeyValue, RemoteSql};
use weft_servers::Nats;

#[derive(Default)]
struct Providers(Mutex<HashMap<String, Provided>>);

impl Service for Providers {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let provided = self.0.lock().unwrap().get(&invocation.target).cloned();
        match provided {
            Some(provided) => provided.call(invocation),
            None => async { Err(Failure::not_started(FailureKind::NotFound, "no such provider")) }.boxed(),
        }
    }

    fn load(&self) -> u32 {
        0
    }
}

/// A host that has providers.
pub(crate) struct Owner {
    pub(crate) address: Address,
    /// What it serves on ends with it.
    _transport: Box<dyn Transport>,
    providers: Arc<Providers>,
    served: (Served, Served),
    message_len_max: usize,
}

impl Owner {
    pub(crate) async fn start(transport: impl Transport) -> Self {
        let subjects = Subjects::new("one").unwrap();
        let address = Address::new("owner", rand::random()).unwrap();
        let providers = Arc::<Providers>::default();
        let stamps = Stamps::starting_at(rand::random());
        let server = Server::new(address.clone(), stamps, providers.clone(), None);
        let served = (
            server.serve(&transport, &subjects, "default").await.unwrap(),
            server.serve_control(&transport, &subjects).await.unwrap(),
        );
        let message_len_max = transport.payload_len_max();
        Self {
            address,
            _transport: Box::new(transport),
            providers,
            served,
            message_len_max,
        }
    }

    /// Serves `backend` as `default/test/NAME`.
    pub(crate) fn provide(&self, name: &str, backend: Backend) -> Provided {
        let provided = Provided::new(backend, self.address.as_str(), self.message_len_max);
        let target = format!("default/test/{name}");
        self.providers.0.lock().unwrap().insert(target, provided.clone());
        provided
    }

    /// As if its process were killed: nothing is answered any more.
    pub(crate) fn kill(self) {
        drop(self.served);
        self.providers.0.lock().unwrap().clear();
    }
}

/// A host that uses providers.
pub(crate) struct User {
    pub(crate) address: Address,
    pub(crate) client: Client,
}

impl User {
    pub(crate) fn start(transport: impl Transport) -> Self {
        let subjects = Subjects::new("one").unwrap();
        let address = Address::new("user", rand::random()).unwrap();
        let stamps = Stamps::starting_at(rand::random());
        let client = Client::new(
            Arc::new(transport),
            subjects,
            address.clone(),
            Place::default(),
            stamps,
            rand::random(),
        );
        Self { address, client }
    }

    pub(crate) fn remote(&self, name: &str) -> Remote {
        Remote::new(
            self.client.clone(),
            ["default", "test", name],
            "default/test/user",
            || None,
        )
    }
}

/// An owner and a user of its providers.
pub(crate) struct Pair {
    pub(crate) owner: Owner,
    pub(crate) user: User,
    /// Kept while they are.
    pub(crate) nats: Option<Nats>,
    next: AtomicU32,
}

impl Pair {
    pub(crate) async fn in_memory() -> Self {
        let hub = weft_lattice::transport::memory::Hub::new();
        Self::of(hub.join(), hub.join(), None).await
    }

    /// On a server with `config`.
    pub(crate) async fn on_nats(config: &str) -> Self {
        let nats = Nats::start(config);
        let (owner, user) = (join(&nats, "owner").await, join(&nats, "user").await);
        Self::of(owner, user, Some(nats)).await
    }

    async fn of(owner: impl Transport, user: impl Transport, nats: Option<Nats>) -> Self {
        Self {
            owner: Owner::start(owner).await,
            user: User::start(user),
            nats,
            next: AtomicU32::new(0),
        }
    }

    pub(crate) fn provide(&self, backend: Backend) -> (Remote, Provided) {
        let name = format!("p{}", self.next.fetch_add(1, Ordering::Relaxed));
        let provided = self.owner.provide(&name, backend);
        let remote = self.user.remote(&name);
        remote.set_host(&self.owner.address).unwrap();
        (remote, provided)
    }

    pub(crate) fn key_value(&self, store: Arc<dyn KeyValue>) -> Arc<dyn KeyValue> {
        Arc::new(RemoteKeyValue::new(self.provide(Backend::KeyValue(store)).0))
    }

    pub(crate) fn blob_store(&self, store: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
        Arc::new(RemoteBlobStore::new(self.provide(Backend::BlobStore(store)).0))
    }

    pub(crate) fn sql(&self, database: Arc<dyn Sql>) -> Arc<dyn Sql> {
        Arc::new(RemoteSql::new(self.provide(Backend::Sql(database)).0))
    }
}

pub(crate) async fn join(nats: &Nats, host: &str) -> NatsTransport {
    let settings = NatsSettings::new(vec![nats.url()], host, Role::Calls);
    NatsTransport::connect(&settings).await.unwrap()
}
