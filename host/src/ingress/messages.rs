//! Messages in: what actors subscribed to, as calls of their handlers.
//!
//! Owns the subscriptions of this host, which [`crate::reconcile`] makes those that are wanted, and the task of each. A
//! message is a root call like a request: it is admitted, measured, traced and bounded as one ([`handle`]). No place is
//! taken where messages are read: one that finds none waits on its own, and what waits has a bound.
//!
//! A subscription that is wanted no more ends in order: it takes no new message, and those that it has accepted run, on
//! the snapshot in which their actor was there. One that changes is replaced by one that listens already.

mod handle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use weft_capabilities::messaging::{Listen, Messaging, MessagingError, Subscription};
use weft_compose::SubscriptionRecord;
use weft_observability::Sampler;
use weft_observability::metrics::MessageOutcome;

use super::invoke::GuestTasks;
use crate::component::description::Description;
use crate::link::scope_of;
use crate::state::State;

/// What an actor exports to handle messages.
pub const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
/// The function of it.
const FUNCTION: &str = "handle-message";

/// Messages of one subscription that are handled at once, at most: fewer if its actor has less concurrency. Each holds its
/// body, which has up to a megabyte.
const HANDLED_AT_ONCE_MAX: usize = 256;
/// Subscriptions that are begun at once: each is a question to a server.
const SUBSCRIBE_AT_ONCE: usize = 16;
/// How long a backend has to begin one; then it is tried again, and others are served meanwhile.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(10);

/// Whether a component handles messages.
pub fn handles(component: &Description) -> bool {
    component.position(HANDLER, FUNCTION).is_some()
}

/// What all subscriptions of a host share.
pub struct Shared {
    /// Actors and links, as of now.
    pub state: Arc<ArcSwap<State>>,
    /// Where handlers run.
    pub tasks: GuestTasks,
    /// Decides which messages are traced.
    pub sampler: Sampler,
    /// Cancelled when this host takes no more work.
    pub drain: CancellationToken,
}

/// A subscription that is to be, and the backend that is to be asked.
pub struct Wanted {
    /// Who listens to what.
    pub record: Arc<SubscriptionRecord>,
    /// Where.
    pub broker: Arc<dyn Messaging>,
}

/// A snapshot that a subscription ends with: the last one that has its actor.
type Ended = Option<Arc<State>>;

struct Running {
    wanted: Wanted,
    end: watch::Sender<Ended>,
    /// Ends by itself if the backend is closed.
    task: JoinHandle<()>,
}

/// The subscriptions of a host, by the keys of their records.
pub struct Subscriptions {
    shared: Arc<Shared>,
    running: BTreeMap<String, Running>,
}

impl Subscriptions {
    /// None yet.
    pub fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            running: BTreeMap::new(),
        }
    }

    /// Makes those that run the wanted ones; which could not be begun, and why. `before` is the snapshot that was there
    /// until now.
    pub async fn apply(
        &mut self,
        wanted: BTreeMap<String, Wanted>,
        before: &Arc<State>,
    ) -> Vec<(Arc<SubscriptionRecord>, String)> {
        let gone = self.running.extract_if(.., |key, _| !wanted.contains_key(key));
        let gone: Vec<Running> = gone.map(|(_, running)| running).collect();
        let missing = wanted
            .into_iter()
            .filter(|(key, wanted)| !self.running.get(key).is_some_and(|running| running.is(wanted)));
        let begun = missing.map(|(key, wanted)| async move {
            let begun = subscribe(&wanted).await;
            (key, wanted, begun)
        });
        let begun: Vec<_> = stream::iter(begun.collect::<Vec<_>>())
            .buffer_unordered(SUBSCRIBE_AT_ONCE)
            .collect()
            .await;
        let mut failed = Vec::new();
        for (key, wanted, begun) in begun {
            match begun {
                // The one that it replaces ends after it has begun, so that no message falls between.
                Ok(subscription) => {
                    let running = self.run(wanted, subscription);
                    if let Some(replaced) = self.running.insert(key, running) {
                        replaced.end(before);
                    }
                }
                Err(reason) => failed.push((wanted.record, reason)),
            }
        }
        gone.into_iter().for_each(|gone| gone.end(before));
        failed
    }

    fn run(&self, wanted: Wanted, subscription: Subscription) -> Running {
        let (end, ended) = watch::channel(None);
        let task = run(self.shared.clone(), wanted.clone(), subscription, ended);
        let tasks = &self.shared.tasks;
        Running {
            task: tasks.tracker.spawn_on(task, &tasks.shared),
            wanted,
            end,
        }
    }
}

impl Clone for Wanted {
    fn clone(&self) -> Self {
        Self {
            record: self.record.clone(),
            broker: self.broker.clone(),
        }
    }
}

impl Running {
    fn is(&self, wanted: &Wanted) -> bool {
        self.wanted.record == wanted.record
            && Arc::ptr_eq(&self.wanted.broker, &wanted.broker)
            && !self.task.is_finished()
    }

    fn end(self, before: &Arc<State>) {
        self.end.send_replace(Some(before.clone()));
    }
}

async fn subscribe(wanted: &Wanted) -> Result<Subscription, String> {
    let Wanted { record, broker } = wanted;
    let scope = scope_of(&record.actor, record.shared);
    let listen = Listen::to(&record.subject).in_group(&record.group);
    match tokio::time::timeout(SUBSCRIBE_MAX, broker.subscribe(&scope, listen)).await {
        Ok(begun) => begun.map_err(|error: MessagingError| crate::cli::chain(&error)),
        Err(_) => Err(format!(
            "{} did not answer within {} s",
            record.provider,
            SUBSCRIBE_MAX.as_secs()
        )),
    }
}

/// Hands messages over until the subscription has ended and all that it accepted is done.
async fn run(
    shared: Arc<Shared>,
    wanted: Wanted,
    mut subscription: Subscription,
    mut ended: watch::Receiver<Ended>,
) {
    let Wanted { record, broker } = &wanted;
    let mut handling = JoinSet::new();
    let (mut is_ending, mut dropped) = (false, 0);
    loop {
        let lost = subscription.dropped() - dropped;
        if lost > 0 {
            dropped += lost;
            shared.tell_dropped(record, lost);
        }
        let has_room = handling.len() < shared.handled_at_once(record);
        let over = async {
            tokio::select! {
                () = shared.drain.cancelled() => {}
                _ = ended.changed() => {}
            }
        };
        let delivery = tokio::select! {
            biased;
            () = shared.tasks.abort.cancelled() => return,
            () = over, if !is_ending => {
                is_ending = true;
                subscription.end();
                continue;
            }
            Some(_) = handling.join_next() => continue,
            delivery = subscription.next(), if has_room => delivery,
        };
        let Some(delivery) = delivery else { break };
        let (shared, record, guarantee) = (shared.clone(), record.clone(), broker.guarantee());
        let handled = handle::handle(shared, record, guarantee, delivery, ended.clone());
        handling.spawn(handled);
    }
    while handling.join_next().await.is_some() {}
}

impl Shared {
    fn handled_at_once(&self, record: &SubscriptionRecord) -> usize {
        let state = self.state.load();
        let actor = state.find(&record.actor).map(|at| &state.actor(at).actor.info);
        let concurrency = actor.map_or(1, |info| info.limits.concurrency as usize);
        concurrency.min(HANDLED_AT_ONCE_MAX)
    }

    fn tell_dropped(&self, record: &SubscriptionRecord, lost: u64) {
        let state = self.state.load();
        let Some(at) = state.find(&record.actor) else {
            return;
        };
        let info = &state.actor(at).actor.info;
        info.metrics.messages(lost, MessageOutcome::Dropped);
        if info.may_log_failure() {
            tracing::warn!(
                actor = info.name.as_str(),
                subject = record.subject,
                lost,
                "messages were dropped, as more came than the actor handles"
            );
        }
    }
}
