//! Joining the lattice, taking part, and leaving it.
//!
//! Owns the connections and their order: they are there before this host says that it lives, and it says that it
//! leaves before they go. A connection that is lost is made again by the transport; what was joined stays joined.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_compose::HostName;
use weft_lattice::artifact::Artifacts;
use weft_lattice::envelope::Standing;
use weft_lattice::membership::{Membership, MembershipError};
use weft_lattice::rpc::{Client, Server, Stamps};
use weft_lattice::stream::Streams;
use weft_lattice::subject::{Address, Subject, SubjectError};
use weft_lattice::transport::nats::{NatsError, NatsTransport, Role};
use weft_lattice::transport::{Served as Serving, Transport, TransportError};
use weft_observability::HostMetrics;
use weft_observability::metrics::{ConnectionReport, MeshReport};

use super::copies;
use super::details::Details;
use super::group::{Neighbour, View};
use super::service::{ADDRESS, HOST_NAMESPACE, HOST_TARGET, HostService, Served};
use super::{Member, Mesh, place_of};
use crate::admin;
use crate::artifact::Components;
use crate::cli::chain;
use crate::reconcile::Progress;

/// The first wait before a connection is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// A server that is back is found within this.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long another controller has to say that it is there.
const CONTROLLER_ANSWERS: Duration = Duration::from_secs(1);
/// How long the server may take to send this host no more of what clients ask, and what they asked to be answered; the
/// rest of the drain waits for what takes longer.
const CLIENTS_END: Duration = Duration::from_secs(1);
/// How often what this host says of itself is looked at again.
const DETAILS_EACH: Duration = Duration::from_secs(1);

/// This host's part in the lattice.
pub(super) struct Joined {
    /// This run.
    pub address: Address,
    /// When it joined.
    pub(super) since: Instant,
    membership: Membership,
    server: Server,
    client: Client,
    streams: Streams,
    artifacts: Artifacts,
    transports: [NatsTransport; 3],
    /// Clients that see no hosts are served for as long as these are held.
    clients: Mutex<Vec<Serving>>,
}

impl Joined {
    /// What metrics tell of it.
    fn report(&self, mesh: &Mesh) -> MeshReport {
        let connections = std::iter::zip(Role::ALL, &self.transports).map(|(role, transport)| {
            let stats = transport.stats();
            ConnectionReport {
                name: role.as_str(),
                connected: stats.connected,
                lost: stats.disconnects,
                refused: stats.refused + stats.send_timeouts,
                slow: stats.slow_consumers,
                denied: stats.server_errors,
                strays: stats.strays + stats.unanswerable,
                round_trip: stats.round_trip,
                batches: stats.batches,
                batched: stats.batched,
            }
        });
        let (members, calls, served) = (self.membership.stats(), self.client.stats(), self.server.stats());
        let (streams, artifacts) = (self.streams.stats(), self.artifacts.stats());
        MeshReport {
            connections: connections.collect(),
            members: [
                ("alive", members.alive),
                ("suspect", members.suspect),
                ("leaving", members.leaving),
            ],
            blind: members.blind,
            calls: calls.calls,
            retries: calls.retries + calls.resent,
            ejections: calls.ejected,
            served: [
                ("started", served.started),
                ("repeated", served.repeated),
                ("late", served.late),
                ("shed", served.shed),
                ("cancelled", served.cancelled),
                ("malformed", served.malformed),
                ("draining", served.refused_draining),
            ],
            running: served.running,
            streams: streams.open,
            stream_bytes: streams.received,
            stream_resets: streams.resets,
            fetched: [("ok", artifacts.fetched), ("failed", artifacts.failed)],
            artifact_bytes: artifacts.served_bytes,
            single_copies: mesh.single_copies.load(Relaxed),
            fronts: mesh.fronts.report(),
            tools: mesh.tools.report(),
            answers_kept: mesh.rests.count(),
        }
    }

    /// What serves clients that see no hosts; none after the first time.
    fn take_clients(&self) -> Vec<Serving> {
        std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What calls the others.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What fetches components from them.
    pub(super) fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// What messages of apps go over: as streams do, so that calls are not held up.
    pub(super) fn for_messages(&self) -> NatsTransport {
        let [_, _, bulk] = &self.transports;
        bulk.clone()
    }

    /// Whether calls can be made now, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.transports.iter().all(NatsTransport::is_connected)
    }
}

/// Why a host could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The connection was lost again.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A name can't be part of a subject.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// What is served can't be.
    #[error(transparent)]
    Serve(#[from] weft_lattice::rpc::ServeError),
    /// Membership.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// There is one already.
    #[error(
        "the lattice has a controller already, {0}: start this host without --controller, or stop that one"
    )]
    SecondController(String),
}

/// What a host that joins brings with it.
pub struct Links {
    /// What it does for the others.
    pub service: Arc<HostService>,
    /// How far it has come.
    pub progress: watch::Receiver<Progress>,
    /// Components of this host.
    pub components: Arc<Components>,
    /// Where it serves HTTP.
    pub http: String,
    /// Where numbers go.
    pub metrics: HostMetrics,
}

impl Mesh {
    /// Joins once.
    ///
    /// # Errors
    /// [`JoinError`]
    pub async fn join(self: &Arc<Self>, links: &Links) -> Result<(), JoinError> {
        let (name, settings) = (self.name.as_str(), &self.settings);
        let connect = |role| async move { NatsTransport::connect(&settings.nats(name, role)).await };
        let (control, calls, bulk) =
            tokio::try_join!(connect(Role::Control), connect(Role::Calls), connect(Role::Bulk))?;
        let shared = |transport: &NatsTransport| -> Arc<dyn Transport> { Arc::new(transport.clone()) };
        let subjects = settings.subjects.clone();
        let address = Address::new(name, rand_u64())?;
        calls.batch(subjects.answers(address.as_str())?).await?;
        let stamps = Stamps::starting_at(0);
        let streams = Streams::start(shared(&bulk), subjects.clone(), &address).await?;
        let client = Client::new(
            shared(&calls),
            subjects.clone(),
            address.clone(),
            self.place(),
            stamps,
            rand_u64(),
        );
        let _ = links.service.address.set(address.to_string());
        let service = Arc::new(Served(links.service.clone()));
        let server = Server::new(address.clone(), stamps, service, Some(streams.clone()));
        let artifacts = Artifacts::new(
            shared(&bulk),
            subjects.clone(),
            address.clone(),
            links.components.clone(),
        );
        let mut serving = vec![
            artifacts.serve().await?,
            server.serve_control(&calls, &subjects).await?,
            server.serve(&calls, &subjects, HOST_NAMESPACE).await?,
        ];
        if settings.controller {
            let subject = subjects.controller();
            self.refuse_second(&client, subject.clone()).await?;
            serving.push(server.serve_scoped(&calls, subject, HOST_NAMESPACE).await?);
        }
        let clients = Mutex::new(server.serve_clients(&calls, &subjects).await?);
        let membership = Membership::start(
            shared(&control),
            subjects,
            address.clone(),
            &self.place().region,
            settings.controller,
            self.details(links).to_bytes(),
        )
        .await?;
        let joined = Arc::new(Joined {
            address,
            since: Instant::now(),
            membership,
            server,
            client,
            streams,
            artifacts,
            transports: [control, calls, bulk],
            clients,
        });
        let mesh = Arc::downgrade(self);
        links.metrics.observe_mesh(move || {
            let mesh = mesh.upgrade()?;
            Some(mesh.joined.load_full()?.report(&mesh))
        });
        self.joined.store(Some(joined.clone()));
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!(
            lattice = settings.lattice,
            address = %joined.address,
            "joined the lattice"
        );
        let keeper = Keeper {
            mesh: self.clone(),
            joined,
            serving,
            namespaces: Vec::new(),
            is_new: true,
            has_namesake: false,
        };
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        Ok(())
    }

    /// Asks whether another host answers as the one that has the control store: of two, each would take some changes.
    /// Where nobody answers in time there is none; if it wakes later, both say so ([`Mesh::fault`]).
    async fn refuse_second(&self, client: &Client, subject: Subject) -> Result<(), JoinError> {
        let mut find = admin::lattice::call(HOST_TARGET, self.name.as_str());
        find.interface = ADDRESS.to_owned();
        find.deadline = tokio::time::Instant::now() + CONTROLLER_ANSWERS;
        let Ok(found) = client.call(&client.at_subject(subject), find).await else {
            return Ok(());
        };
        // Also if it has this host's name: the run before has let the data folder go, and so answers no more.
        let address = String::from_utf8_lossy(&found.body).into_owned();
        Err(JoinError::SecondController(address))
    }

    /// Takes part until `stop`: joins, if this host has not yet, for as long as it takes.
    pub async fn run(self: Arc<Self>, links: Links, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        loop {
            let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(keeper) = keeper {
                let members = keeper.joined.membership.changes();
                let copies = async {
                    if self.settings.controller {
                        copies::keep(&self, members, links.progress.clone(), &stop).await;
                    }
                };
                tokio::join!(keeper.run(&links, &stop), copies);
                return;
            }
            match self.join(&links).await {
                Ok(()) => continue,
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(error, "failed to join the lattice: it is tried again");
                    *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
            }
        }
    }

    /// Takes no call any more, and says so; returns when those that run have ended and their callers know.
    pub async fn drain(&self, limit: Duration) -> bool {
        let Some(joined) = self.joined.load_full() else {
            return true;
        };
        // Clients are not told that this host leaves: none of theirs comes any more, before one is refused for that.
        let clients = joined.take_clients().into_iter().map(Serving::finish);
        let _ = tokio::time::timeout(CLIENTS_END, futures::future::join_all(clients)).await;
        joined.membership.set_standing(Standing::Leaving);
        joined.server.drain(limit).await
    }

    fn details(&self, links: &Links) -> Details {
        let progress = links.progress.borrow();
        Details {
            name: self.name.to_string(),
            labels: self.settings.labels.clone(),
            http: links.http.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            applied: progress.applied.0,
            conditions: progress.all_conditions().len(),
        }
    }
}

/// What takes part, once this host has joined.
pub(super) struct Keeper {
    mesh: Arc<Mesh>,
    joined: Arc<Joined>,
    /// Calls are served for as long as these are held.
    serving: Vec<Serving>,
    namespaces: Vec<String>,
    /// Whether nothing was taken over yet.
    is_new: bool,
    /// Whether another host has this one's name.
    has_namesake: bool,
}

impl Keeper {
    async fn run(mut self, links: &Links, stop: &CancellationToken) {
        let mut changes = self.joined.membership.changes();
        let mut details = self.mesh.details(links);
        let mut progress = links.progress.clone();
        let mut again = tokio::time::interval(DETAILS_EACH);
        self.refresh();
        loop {
            self.serve_namespaces(&progress).await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changes.recv() => match changed {
                    Ok(member) => self.changed(&member),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.joined.membership.members().iter().for_each(|member| self.changed(member));
                    }
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                _ = again.tick() => self.mesh.rests.sweep(),
                moved = progress.changed() => if moved.is_err() { break },
            }
            let now = self.mesh.details(links);
            if now != details {
                if let Err(error) = self.joined.membership.set_details(now.to_bytes()) {
                    tracing::warn!(error = chain(&error), "failed to say what this host is");
                }
                details = now;
            }
            self.refresh();
        }
        self.leave().await;
    }

    /// Listens for calls in each namespace that something is deployed in.
    async fn serve_namespaces(&mut self, progress: &watch::Receiver<Progress>) {
        let desired = progress.borrow().desired.clone();
        let mut wanted: Vec<&str> = desired.apps.keys().map(|app| app.namespace()).collect();
        wanted.dedup();
        for namespace in wanted {
            if self.namespaces.iter().any(|known| known == namespace) {
                continue;
            }
            let calls = &self.joined.transports[1];
            let subjects = &self.mesh.settings.subjects;
            match self.joined.server.serve(calls, subjects, namespace).await {
                Ok(serving) => {
                    self.serving.push(serving);
                    self.namespaces.push(namespace.to_owned());
                }
                // Tried again within a second.
                Err(error) => tracing::warn!(namespace, error = chain(&error), "failed to listen for calls"),
            }
        }
    }

    fn changed(&self, member: &weft_lattice::membership::Member) {
        self.joined.client.set_standing(&member.address, member.standing);
        if member.standing == Standing::Gone {
            self.joined.server.peer_gone(&member.address);
            self.joined.streams.peer_gone(&member.address);
            self.mesh.provider_user_gone(&member.address);
        }
    }

    /// Takes over who is there.
    fn refresh(&mut self) {
        let members = self.joined.membership.members().into_iter().map(|member| {
            let details = Details::of(&member.details, member.address.host());
            Member {
                host: Neighbour {
                    name: details.name.clone(),
                    address: member.address,
                    place: weft_lattice::rpc::Place {
                        region: member.region,
                        ..place_of(&details.labels)
                    },
                    controller: member.controller,
                },
                standing: member.standing,
                details,
            }
        });
        let mut members: Vec<Member> = members.collect();
        members.sort_by(|a, b| (&a.host.name, &a.host.address).cmp(&(&b.host.name, &b.host.address)));
        let before = self.mesh.members.load();
        let same = before.len() == members.len()
            && std::iter::zip(before.iter(), &members)
                .all(|(a, b)| a.host == b.host && a.standing == b.standing);
        let is_new = std::mem::take(&mut self.is_new);
        let changed = !same || is_new;
        if changed {
            let own = &self.joined.address;
            let others = members
                .iter()
                .filter(|member| member.host.address != *own && member.standing != Standing::Leaving);
            let mut neighbours: Vec<Neighbour> = others.map(|member| member.host.clone()).collect();
            let controllers = neighbours.iter().filter(|neighbour| neighbour.controller);
            let controllers: std::collections::BTreeSet<HostName> = controllers
                .filter_map(|neighbour| neighbour.name.parse().ok())
                .collect();
            // One that took the name of the controller would be asked for the records in its place.
            let is_it = |name: &str| controllers.iter().any(|controller| controller.as_str() == name);
            neighbours.retain(|neighbour| neighbour.controller || !is_it(&neighbour.name));
            self.mesh.groups.update(Some(View {
                client: self.joined.client.clone(),
                streams: self.joined.streams.clone(),
                neighbours,
            }));
            let group = (!controllers.is_empty())
                .then(|| self.mesh.group(HOST_NAMESPACE, Some(Arc::new(controllers))));
            *self
                .mesh
                .controller
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = group;
        }
        self.mesh.members.store(Arc::new(members));
        let namesake = self.mesh.namesake(&self.joined);
        if let Some(fault) = namesake.as_ref().filter(|_| !self.has_namesake) {
            tracing::error!(fault, "two hosts have one name");
        }
        self.has_namesake = namesake.is_some();
        if changed {
            // At first it sees itself alone.
            if let Some(fault) = self.mesh.control_fault().filter(|_| !is_new) {
                tracing::warn!(fault, "not exactly one host has the control store");
            }
            self.mesh.place_providers();
        }
    }

    /// Says that this host has gone, and closes its connections.
    async fn leave(self) {
        self.joined.membership.set_standing(Standing::Gone);
        // The heartbeat that says so goes out before the connection is closed.
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.mesh.joined.store(None);
        self.mesh.rests.clear();
        self.mesh.groups.update(None);
        drop(self.serving);
        drop(self.joined.take_clients());
        for transport in &self.joined.transports {
            transport.close().await;
        }
    }
}

fn rand_u64() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // Seeded from the system's randomness by the standard library.
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}
