//! The tables of a simulated network and its one queue, in which each message has its time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Faults;
use crate::subject::Subject;
use crate::transport::replies::{Arrived, Replies};
use crate::transport::{Handler, Subscriber};

/// The part of hosts that reach nobody, themselves neither.
pub(super) const CUT: usize = usize::MAX;

pub(super) struct Server {
    pub(super) host: usize,
    pub(super) open: AtomicBool,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) places: Arc<Semaphore>,
}

/// A message on its way.
pub(super) enum Flight {
    Request {
        server: Arc<Server>,
        from: usize,
        subject: Subject,
        token: u64,
        payload: Bytes,
    },
    Reply {
        to: usize,
        token: u64,
        arrived: Arrived,
    },
    Message {
        to: usize,
        subscriber: Arc<Subscriber>,
        payload: Bytes,
    },
}

impl Flight {
    pub(super) fn reply(to: usize, token: u64, reply: Bytes) -> Self {
        let arrived = Arrived::Reply(reply);
        Self::Reply { to, token, arrived }
    }

    pub(super) fn no_responders(to: usize, token: u64) -> Self {
        let arrived = Arrived::NoResponders;
        Self::Reply { to, token, arrived }
    }

    fn to(&self) -> usize {
        match self {
            Self::Request { server, .. } => server.host,
            Self::Reply { to, .. } | Self::Message { to, .. } => *to,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Request { payload, .. } | Self::Message { payload, .. } => payload.len(),
            Self::Reply {
                arrived: Arrived::Reply(payload),
                ..
            } => payload.len(),
            Self::Reply { .. } => 0,
        }
    }

    /// A second one of the same; that nobody serves is not said twice.
    fn again(&self) -> Option<Self> {
        Some(match self {
            Self::Request {
                server,
                from,
                subject,
                token,
                payload,
            } => Self::Request {
                server: server.clone(),
                from: *from,
                subject: subject.clone(),
                token: *token,
                payload: payload.clone(),
            },
            Self::Reply { to, token, arrived } => match arrived {
                Arrived::Reply(reply) => Self::reply(*to, *token, reply.clone()),
                _ => return None,
            },
            Self::Message {
                to,
                subscriber,
                payload,
            } => Self::Message {
                to: *to,
                subscriber: subscriber.clone(),
                payload: payload.clone(),
            },
        })
    }
}

struct Host {
    replies: Replies,
    /// What it runs for others; none once it crashed.
    tasks: Option<JoinSet<()>>,
    connected: bool,
    stopped: bool,
    part: usize,
    traffic: (u64, u64),
    /// What came while it was stopped.
    held: Vec<(usize, Flight)>,
}

struct Queued {
    from: usize,
    flight: Flight,
}

pub(super) struct Network {
    pub(super) rng: StdRng,
    pub(super) faults: Faults,
    pub(super) sent: (u64, u64),
    hosts: Vec<Host>,
    /// By time, and then in the order of sending.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    flights: BTreeMap<u64, Queued>,
    next: u64,
    /// When the last message from one host to another arrives.
    last: BTreeMap<(usize, usize), Instant>,
    servers: BTreeMap<Subject, Vec<Arc<Server>>>,
    subscribers: BTreeMap<Subject, Vec<(usize, Arc<Subscriber>)>>,
}

impl Network {
    pub(super) fn new(rng: StdRng, faults: Faults) -> Self {
        Self {
            rng,
            faults,
            sent: (0, 0),
            hosts: Vec::new(),
            due: BinaryHeap::new(),
            flights: BTreeMap::new(),
            next: 0,
            last: BTreeMap::new(),
            servers: BTreeMap::new(),
            subscribers: BTreeMap::new(),
        }
    }

    pub(super) fn join(&mut self, replies: Replies) -> usize {
        self.hosts.push(Host {
            replies,
            tasks: Some(JoinSet::new()),
            connected: true,
            stopped: false,
            part: 0,
            traffic: (0, 0),
            held: Vec::new(),
        });
        self.hosts.len() - 1
    }

    /// Sends or loses; whether something was sent.
    pub(super) fn send(&mut self, from: usize, flight: Flight) -> bool {
        if !self.is_connected(from) {
            return false;
        }
        self.sent.0 += 1;
        self.sent.1 += flight.len() as u64;
        if !matches!(flight, Flight::Message { .. }) {
            self.count(from, flight.len());
        }
        if self.rng.random_bool(self.faults.duplication)
            && let Some(again) = flight.again()
        {
            self.enqueue(from, again);
        }
        if self.rng.random_bool(self.faults.loss) {
            return true;
        }
        self.enqueue(from, flight);
        true
    }

    fn enqueue(&mut self, from: usize, flight: Flight) {
        let delay = match &self.faults.delay {
            delay if delay.is_empty() => delay.start,
            delay => self.rng.random_range(delay.clone()),
        };
        let mut at = Instant::now() + delay;
        let last = self.last.entry((from, flight.to())).or_insert(at);
        if self.faults.ordered {
            at = at.max(*last);
        }
        *last = at.max(*last);
        self.due.push(Reverse((at, self.next)));
        self.flights.insert(self.next, Queued { from, flight });
        self.next += 1;
    }

    /// The next that arrives now, or when the next does.
    pub(super) fn take_due(&mut self) -> Result<Flight, Option<Instant>> {
        let now = Instant::now();
        loop {
            let Some(Reverse((at, number))) = self.due.peek().copied() else {
                return Err(None);
            };
            if at > now {
                return Err(Some(at));
            }
            self.due.pop();
            let Some(Queued { from, flight }) = self.flights.remove(&number) else {
                continue;
            };
            let (sender, host) = (self.hosts[from].part, &mut self.hosts[flight.to()]);
            if host.stopped {
                host.held.push((from, flight));
            } else if host.tasks.is_some() && host.connected && host.part == sender && sender != CUT {
                self.count(flight.to(), flight.len());
                return Ok(flight);
            }
        }
    }

    /// Counts a message that a host sends or gets.
    pub(super) fn count(&mut self, host: usize, len: usize) {
        let traffic = &mut self.hosts[host].traffic;
        traffic.0 += 1;
        traffic.1 += len as u64;
    }

    pub(super) fn traffic_of(&self, host: usize) -> (u64, u64) {
        self.hosts[host].traffic
    }

    pub(super) fn replies(&self, host: usize) -> Option<Replies> {
        let host = &self.hosts[host];
        host.tasks.as_ref().map(|_| host.replies.clone())
    }

    pub(super) fn spawn(&mut self, host: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut self.hosts[host].tasks {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    /// What the host ran, to be dropped when the network is not locked.
    pub(super) fn crash(&mut self, host: usize) -> Option<JoinSet<()>> {
        for servers in self.servers.values_mut() {
            servers.retain(|server| server.host != host);
        }
        for subscribers in self.subscribers.values_mut() {
            subscribers.retain(|(listens, _)| *listens != host);
        }
        self.hosts[host].tasks.take()
    }

    pub(super) fn set_stopped(&mut self, host: usize, stopped: bool) {
        self.hosts[host].stopped = stopped;
        let held = std::mem::take(&mut self.hosts[host].held);
        for (from, flight) in held {
            self.due.push(Reverse((Instant::now(), self.next)));
            self.flights.insert(self.next, Queued { from, flight });
            self.next += 1;
        }
    }

    pub(super) fn set_connected(&mut self, host: usize, connected: bool) {
        self.hosts[host].connected = connected;
    }

    pub(super) fn is_connected(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        host.tasks.is_some() && host.connected
    }

    pub(super) fn set_part(&mut self, host: usize, part: usize) {
        self.hosts[host].part = part;
    }

    pub(super) fn heal(&mut self) {
        self.hosts.iter_mut().for_each(|host| host.part = 0);
    }

    pub(super) fn serve(&mut self, subject: Subject, server: Arc<Server>) {
        self.servers.entry(subject).or_default().push(server);
    }

    pub(super) fn unserve(&mut self, subject: &Subject, server: &Arc<Server>) {
        if let Some(servers) = self.servers.get_mut(subject) {
            servers.retain(|other| !Arc::ptr_eq(other, server));
        }
    }

    /// One of those who serve `subject`.
    pub(super) fn server(&mut self, subject: &Subject) -> Option<Arc<Server>> {
        let own = self.servers.get(subject).filter(|servers| !servers.is_empty());
        let wide = || {
            self.servers
                .iter()
                .find(|(wide, servers)| !servers.is_empty() && wide.covers(subject))
        };
        let servers = own.or_else(|| wide().map(|(_, servers)| servers))?;
        let chosen = self.rng.random_range(0..servers.len());
        Some(servers[chosen].clone())
    }

    pub(super) fn subscribe(&mut self, subject: Subject, host: usize, subscriber: Subscriber) {
        let subscribers = self.subscribers.entry(subject).or_default();
        subscribers.retain(|(_, subscriber)| subscriber.is_heard());
        subscribers.push((host, Arc::new(subscriber)));
    }

    pub(super) fn subscribers(&self, subject: &Subject) -> Vec<(usize, Arc<Subscriber>)> {
        let of = |subject: &Subject| self.subscribers.get(subject).into_iter().flatten();
        let wide = subject.wide();
        let all = of(subject).chain(wide.as_ref().into_iter().flat_map(of));
        all.filter(|(_, subscriber)| subscriber.is_heard())
            .cloned()
            .collect()
    }
}
