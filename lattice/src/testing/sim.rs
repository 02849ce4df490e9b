//! A network with faults, for many hosts in one process on paused time.
//!
//! Owns what happens to a message on its way: loss, delay, duplication, reordering, cuts, crashes and stops. It decides
//! by a seed alone, so a run is repeated by its seed, if nothing else in it is random: one thread, paused time, and no
//! order taken from a hash map.
//!
//! It is like NATS where that matters: who serves is looked up when a message is sent, nobody is an answer, and the two
//! ends of a cut don't notice it.

mod network;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::network::{CUT, Flight, Network, Server};
use crate::subject::Subject;
use crate::transport::replies::Replies;
use crate::transport::{
    Handler, PAYLOAD_LEN_MAX, Served, Serving, Subscription, Transport, TransportError, check_len,
    subscription,
};

/// What happens to messages. The default is nothing but a short delay.
#[derive(Debug, Clone)]
pub struct Faults {
    /// The share of messages that are lost.
    pub loss: f64,
    /// The share of messages that come twice.
    pub duplication: f64,
    /// How long a message takes, each for itself.
    pub delay: Range<Duration>,
    /// Whether messages from one host to another keep their order.
    pub ordered: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplication: 0.0,
            delay: Duration::from_micros(50)..Duration::from_micros(500),
            ordered: true,
        }
    }
}

/// A simulated lattice. Clones are the same. It needs a runtime with one thread and paused time.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    network: Mutex<Network>,
    /// Something is to be delivered sooner than before.
    sooner: Arc<Notify>,
    /// Delivers; ends with the simulation.
    _driver: Mutex<JoinSet<()>>,
}

/// A host's connection to a [`Sim`].
#[derive(Clone)]
pub struct SimTransport {
    sim: Sim,
    host: usize,
    replies: Replies,
}

impl Sim {
    /// A lattice without hosts, whose chances come from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let sooner = Arc::new(Notify::new());
        let wake = sooner.clone();
        Self(Arc::new_cyclic(|shared: &Weak<Shared>| {
            let shared = shared.clone();
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                // While it waits it does not keep the simulation alive.
                while let Some(next) = shared.upgrade().map(|shared| Sim(shared).deliver_due()) {
                    let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
                    tokio::select! {
                        biased;
                        () = wake.notified() => {}
                        () = tokio::time::sleep_until(next) => {}
                    }
                }
            });
            Shared {
                network: Mutex::new(Network::new(StdRng::seed_from_u64(seed), faults)),
                sooner,
                _driver: Mutex::new(driver),
            }
        }))
    }

    /// Joins a host, or a new run of one that crashed.
    pub fn join(&self) -> SimTransport {
        let replies = Replies::default();
        SimTransport {
            sim: self.clone(),
            host: self.lock().join(replies.clone()),
            replies,
        }
    }

    /// Other faults from now on; what is on its way stays as it is.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Cuts the network into parts, as a cluster of servers that is split: messages between two of them are lost, also those on their way, and nobody is told.
    /// A host that is in none of them is in a part with the others of that kind.
    pub fn partition(&self, parts: &[Vec<&SimTransport>]) {
        let mut network = self.lock();
        network.heal();
        for (at, part) in parts.iter().enumerate() {
            for transport in part {
                network.set_part(transport.host, at + 1);
            }
        }
    }

    /// Cuts a host off from everybody, and from itself: as a host whose line to the server is dead.
    pub fn cut(&self, transport: &SimTransport) {
        self.lock().set_part(transport.host, CUT);
    }

    /// Ends all cuts.
    pub fn heal(&self) {
        self.lock().heal();
    }

    /// How many messages were sent so far, those that were lost too, and their bytes.
    pub fn sent(&self) -> (u64, u64) {
        self.lock().sent
    }

    /// How many messages a host sent and got so far, and their bytes. A message to several is sent once.
    pub fn traffic_of(&self, transport: &SimTransport) -> (u64, u64) {
        self.lock().traffic_of(transport.host)
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, from: usize, flight: Flight) {
        if self.lock().send(from, flight) {
            self.0.sooner.notify_one();
        }
    }

    /// Delivers what is due; when the next is.
    fn deliver_due(&self) -> Option<Instant> {
        loop {
            // Not held while it is delivered, as what is woken may send.
            let due = self.lock().take_due();
            match due {
                Ok(flight) => self.deliver(flight),
                Err(next) => return next,
            }
        }
    }

    fn deliver(&self, flight: Flight) {
        match flight {
            Flight::Reply { to, token, arrived } => {
                let replies = self.lock().replies(to);
                if let Some(replies) = replies {
                    replies.arrive(token, arrived);
                }
            }
            Flight::Message {
                subscriber, payload, ..
            } => {
                subscriber.send(payload);
            }
            Flight::Request {
                server,
                from,
                subject,
                token,
                payload,
            } => self.run(&server, from, &subject, token, payload),
        }
    }

    fn run(&self, server: &Arc<Server>, from: usize, subject: &Subject, token: u64, payload: Bytes) {
        // What is on its way to who just stopped serving is lost, as with NATS.
        if !server.open.load(Ordering::Relaxed) {
            return;
        }
        let (sim, host) = (self.clone(), server.host);
        let answer = move |reply: Option<Bytes>| {
            if let Some(reply) = reply {
                sim.send(host, Flight::reply(from, token, reply));
            }
        };
        let Ok(place) = server.places.clone().try_acquire_owned() else {
            return answer(server.handler.shed_on(subject.as_str(), payload));
        };
        let handled = server.handler.handle_on(subject.as_str(), payload);
        self.lock().spawn(host, async move {
            let reply = handled.await;
            drop(place);
            answer(reply);
        });
    }
}

impl SimTransport {
    /// Ends this host as a crash does: what it runs for others is dropped where it is, and nothing reaches it or comes
    /// from it any more. What runs of the host elsewhere, whoever started it ends.
    pub fn crash(&self) {
        let tasks = self.sim.lock().crash(self.host);
        drop(tasks);
    }

    /// Stops this host, as SIGSTOP does: what is for it waits.
    pub fn stop(&self) {
        self.sim.lock().set_stopped(self.host, true);
    }

    /// Goes on with a stopped host: what waited arrives, late.
    pub fn resume(&self) {
        self.sim.lock().set_stopped(self.host, false);
        self.sim.0.sooner.notify_one();
    }

    /// Whether the host knows that it has no connection: what it sends is refused, and what is for it is lost.
    pub fn set_connected(&self, connected: bool) {
        self.sim.lock().set_connected(self.host, connected);
        if !connected {
            self.replies.connection_lost();
        }
    }

    /// Requests of this host that wait for a reply.
    pub fn waiting(&self) -> usize {
        self.replies.len()
    }

    fn check(&self, subject: &Subject, payload: &Bytes) -> Result<(), TransportError> {
        if !self.sim.lock().is_connected(self.host) {
            return Err(TransportError::Disconnected);
        }
        check_len(subject, payload, PAYLOAD_LEN_MAX)
    }
}

impl Transport for SimTransport {
    fn request(
        &self,
        subject: &Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let entered = self
            .check(subject, &payload)
            .and_then(|()| self.replies.enter(subject));
        let waiting = match entered {
            Ok(waiting) => waiting,
            Err(error) => return future::err(error).boxed(),
        };
        let server = self.sim.lock().server(subject);
        let (from, token) = (self.host, waiting.token());
        self.sim.send(
            from,
            match server {
                None => Flight::no_responders(from, token),
                Some(server) => Flight::Request {
                    server,
                    from,
                    subject: subject.clone(),
                    token,
                    payload,
                },
            },
        );
        let subject = subject.clone();
        async move {
            let replied = tokio::time::timeout(timeout, waiting).await;
            replied.unwrap_or(Err(TransportError::Timeout {
                subject,
                may_have_started: true,
            }))
        }
        .boxed()
    }

    fn serve(
        &self,
        subject: Subject,
        serving: Serving,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Served, TransportError>> {
        let server = Arc::new(Server {
            host: self.host,
            open: AtomicBool::new(true),
            handler,
            places: Arc::new(Semaphore::new(serving.concurrency.min(Semaphore::MAX_PERMITS))),
        });
        let mut network = self.sim.lock();
        if !network.is_connected(self.host) {
            return future::err(TransportError::Disconnected).boxed();
        }
        network.serve(subject.clone(), server.clone());
        let sim = self.sim.clone();
        let guard = Unserve { sim, subject, server };
        future::ok(Served::new(guard)).boxed()
    }

    fn publish(&self, subject: &Subject, payload: Bytes) -> BoxFuture<'static, Result<(), TransportError>> {
        let sent = self.check(subject, &payload).map(|()| {
            let listening = {
                let mut network = self.sim.lock();
                network.count(self.host, payload.len());
                network.subscribers(subject)
            };
            for (to, subscriber) in listening {
                self.sim.send(
                    self.host,
                    Flight::Message {
                        to,
                        subscriber,
                        payload: payload.clone(),
                    },
                );
            }
        });
        future::ready(sent).boxed()
    }

    fn subscribe(
        &self,
        subject: Subject,
        queue_len: usize,
    ) -> BoxFuture<'static, Result<Subscription, TransportError>> {
        let mut network = self.sim.lock();
        if !network.is_connected(self.host) {
            return future::err(TransportError::Disconnected).boxed();
        }
        let (subscriber, subscription) = subscription(queue_len);
        network.subscribe(subject, self.host, subscriber);
        future::ok(subscription).boxed()
    }

    fn payload_len_max(&self) -> usize {
        PAYLOAD_LEN_MAX
    }
}

/// Ends serving when it is dropped.
struct Unserve {
    sim: Sim,
    subject: Subject,
    server: Arc<Server>,
}

impl Drop for Unserve {
    fn drop(&mut self) {
        self.server.open.store(false, Ordering::Relaxed);
        self.sim.lock().unserve(&self.subject, &self.server);
    }
}
