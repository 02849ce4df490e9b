//! Runs a [`View`] on a transport: one task, which ends with the last clone of what is returned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info};

use super::{Effect, HEARTBEAT, Hears, Member, Standing, View};
use crate::envelope::{DETAILS_LEN_MAX, Digest, Heartbeat};
use crate::subject::{Address, Subject, SubjectError, Subjects};
use crate::transport::{Subscription, Transport, TransportError};

/// Messages of membership that wait: a second's heartbeats of the largest region.
const QUEUE_LEN: usize = 16_384;

/// Changes that a listener may be behind; it then reads the whole view.
const CHANGES_MAX: usize = 1_024;

/// How long a message may take to be sent: it is stale afterwards.
const SEND_WAIT: Duration = Duration::from_millis(500);

/// The view of one host, kept up to date. Clones are the same.
#[derive(Clone)]
pub struct Membership(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    _task: Mutex<JoinSet<()>>,
}

struct Shared {
    view: Mutex<View>,
    changes: broadcast::Sender<Member>,
    /// Something is to be said at once.
    now: Notify,
}

/// Numbers of this moment, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MembershipStats {
    /// Hosts that are alive, this one included.
    pub alive: u64,
    /// Hosts that are suspect.
    pub suspect: u64,
    /// Hosts that leave.
    pub leaving: u64,
    /// Whether this host hears neither itself nor a digest.
    pub blind: bool,
    /// Whether it tells the others of its region.
    pub digester: bool,
}

/// Why a host can't take part.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The region's name can't be part of a subject.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// There is no connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It says too much of itself.
    #[error("a host's details have {0} bytes and may have {DETAILS_LEN_MAX}: say less")]
    Details(usize),
}

struct Driver {
    transport: Arc<dyn Transport>,
    subjects: Subjects,
    shared: Arc<Shared>,
    begin: Instant,
    /// The own heartbeats alone.
    own: Subject,
    all: Subject,
    /// Which are to be listened to; and which are.
    hears: Hears,
    hears_now: Hears,
    heartbeats: Option<Subscription>,
    /// How each host stood when it was told last; those that are gone are not in it.
    stood: BTreeMap<Address, Standing>,
}

impl Membership {
    /// Takes part as the host at `address` in `region`.
    ///
    /// # Errors
    /// [`MembershipError`]
    pub async fn start(
        transport: Arc<dyn Transport>,
        subjects: Subjects,
        address: Address,
        region: &str,
        controller: bool,
        details: Bytes,
    ) -> Result<Self, MembershipError> {
        check(&details)?;
        let own = subjects.heartbeat(region, address.as_str())?;
        let heartbeats = transport.subscribe(own.clone(), QUEUE_LEN).await?;
        let digests = transport.subscribe(subjects.views(), QUEUE_LEN).await?;
        let view = View::new(address, region, controller, details, Duration::ZERO);
        let shared = Arc::new(Shared {
            view: Mutex::new(view),
            changes: broadcast::channel(CHANGES_MAX).0,
            now: Notify::new(),
        });
        let driver = Driver {
            transport,
            own,
            all: subjects.heartbeats(region)?,
            subjects,
            shared: shared.clone(),
            begin: Instant::now(),
            hears: Hears::Own,
            hears_now: Hears::Own,
            heartbeats: Some(heartbeats),
            stood: BTreeMap::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(driver.run(digests));
        let _task = Mutex::new(task);
        Ok(Self(Arc::new(Inner { shared, _task })))
    }

    /// All hosts that are known, without those that are gone.
    pub fn members(&self) -> Vec<Member> {
        self.0.shared.view().members()
    }

    /// What changes from now on. Who is told that it is behind reads [`Membership::members`].
    pub fn changes(&self) -> broadcast::Receiver<Member> {
        self.0.shared.changes.subscribe()
    }

    /// Says something else of this host from now on.
    ///
    /// # Errors
    /// It is too long.
    pub fn set_details(&self, details: Bytes) -> Result<(), MembershipError> {
        check(&details)?;
        self.0.shared.view().set_details(details);
        Ok(())
    }

    /// Says at once that this host leaves and takes no more calls; or with [`Standing::Gone`] that it has left.
    pub fn set_standing(&self, standing: Standing) {
        self.0.shared.view().set_standing(standing);
        self.0.shared.now.notify_one();
    }

    /// Numbers of this moment.
    pub fn stats(&self) -> MembershipStats {
        let view = self.0.shared.view();
        let members = view.members();
        let count = |standing| {
            members
                .iter()
                .filter(|member| member.standing == standing)
                .count() as u64
        };
        MembershipStats {
            alive: count(Standing::Alive),
            suspect: count(Standing::Suspect),
            leaving: count(Standing::Leaving),
            blind: view.is_blind(),
            digester: view.is_digester(),
        }
    }
}

fn check(details: &Bytes) -> Result<(), MembershipError> {
    if details.len() > DETAILS_LEN_MAX {
        return Err(MembershipError::Details(details.len()));
    }
    Ok(())
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    async fn run(mut self, mut digests: Subscription) {
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = self.shared.clone();
        loop {
            let effects = tokio::select! {
                // In order, so that a run that is repeated by its seed is the same.
                biased;
                message = next_of(&mut self.heartbeats) => match message {
                    Some(message) => self.heard(&message),
                    None => return,
                },
                message = digests.next() => match message {
                    Some(message) => self.told(&message),
                    None => return,
                },
                () = shared.now.notified() => self.tick(),
                _ = beat.tick() => self.tick(),
            };
            self.apply(effects).await;
            self.listen().await;
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn tick(&self) -> Vec<Effect> {
        self.shared.view().tick(self.now())
    }

    fn heard(&self, message: &Bytes) -> Vec<Effect> {
        match Heartbeat::decode(message) {
            Ok(beat) => self.shared.view().heard(beat, self.now()),
            Err(error) => {
                debug!(%error, "dropped a message that is no heartbeat");
                Vec::new()
            }
        }
    }

    fn told(&self, message: &Bytes) -> Vec<Effect> {
        match Digest::decode(message) {
            Ok(digest) => self.shared.view().told(digest, self.now()),
            Err(error) => {
                debug!(%error, "dropped a message that is no digest");
                Vec::new()
            }
        }
    }

    async fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Beat(region, beat) => {
                    let subject = self.subjects.heartbeat(&region, beat.address.as_str());
                    self.publish(subject, beat.encode()).await;
                }
                Effect::Tell(digest) => {
                    let subject = self.subjects.view(&digest.region);
                    self.publish(subject, digest.encode()).await;
                }
                Effect::Listen(hears) => {
                    self.hears = hears;
                    self.listen().await;
                }
                Effect::Changed(member) => {
                    self.tell(&member);
                    // Nobody has to listen.
                    let _ = self.shared.changes.send(member);
                }
            }
        }
    }

    /// Tells people how a host stands, if it stands differently.
    fn tell(&mut self, member: &Member) {
        let Member {
            address,
            region,
            standing,
            ..
        } = member;
        let before = match standing {
            Standing::Gone => self.stood.remove(address),
            standing => self.stood.insert(address.clone(), *standing),
        };
        if before == Some(*standing) {
            debug!(host = %address, region, "host says something else of itself");
        } else {
            info!(host = %address, region, ?standing, "host");
        }
    }

    /// Listens as it was decided; the own heartbeats are among all, so that they come once. Without a connection it is tried
    /// again with the next message or second.
    async fn listen(&mut self) {
        if self.hears == self.hears_now {
            return;
        }
        let subject = match self.hears {
            Hears::Nothing => None,
            Hears::Own => Some(&self.own),
            Hears::All => Some(&self.all),
        };
        let heartbeats = match subject {
            None => Ok(None),
            Some(subject) => self
                .transport
                .subscribe(subject.clone(), QUEUE_LEN)
                .await
                .map(Some),
        };
        if let Ok(heartbeats) = heartbeats {
            self.heartbeats = heartbeats;
            self.hears_now = self.hears;
        }
    }

    async fn publish(&self, subject: Result<Subject, SubjectError>, message: Bytes) {
        // A region of another's message may be no name; what is not sent is known by its absence.
        if let Ok(subject) = subject {
            let _ = tokio::time::timeout(SEND_WAIT, self.transport.publish(&subject, message)).await;
        }
    }
}

/// The next message of a subscription, if there is one.
async fn next_of(subscription: &mut Option<Subscription>) -> Option<Bytes> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}
