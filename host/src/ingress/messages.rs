//! Messages in: what actors subscribed to, as calls of their handlers.
//!
//! Owns what a subscription asks of its backend; that it runs while it is wanted is [`super::listening`]'s, and [`handle`]
//! is what becomes of one message.

mod handle;

use std::sync::Arc;

use tokio::sync::watch;
use weft_capabilities::messaging::{Delivery, Listen, Messaging, MessagingError, Subscription};
use weft_compose::{ActorName, SubscriptionRecord};
use weft_observability::metrics::MessageOutcome;

use super::listening::{Ended, Listeners, Shared, Source};
use crate::actor::ActorInfo;
use crate::component::description::Description;
use crate::link::scope_of;

/// What an actor exports to handle messages.
pub const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
/// The function of it.
const FUNCTION: &str = "handle-message";

/// Whether a component handles messages.
pub fn handles(component: &Description) -> bool {
    component.position(HANDLER, FUNCTION).is_some()
}

/// The subscriptions of a host.
pub type Subscriptions = Listeners<Wanted>;

/// A subscription that is to be, and the backend that is to be asked.
#[derive(Clone)]
pub struct Wanted {
    /// Who listens to what.
    pub record: Arc<SubscriptionRecord>,
    /// Where.
    pub broker: Arc<dyn Messaging>,
}

impl Source for Wanted {
    type Piece = Delivery;

    fn actor(&self) -> &ActorName {
        &self.record.actor
    }

    fn is(&self, other: &Self) -> bool {
        self.record == other.record && Arc::ptr_eq(&self.broker, &other.broker)
    }

    async fn begin(&self, _: &Arc<Shared>) -> Result<Subscription, String> {
        let Self { record, broker } = self;
        let scope = scope_of(&record.actor, record.shared);
        let listen = Listen::to(&record.subject).in_group(&record.group);
        let begun = broker.subscribe(&scope, listen).await;
        begun.map_err(|error: MessagingError| crate::cli::chain(&error))
    }

    fn line(_: &Delivery) -> Option<&str> {
        None
    }

    async fn handle(self, shared: Arc<Shared>, delivery: Delivery, ended: watch::Receiver<Ended>) {
        handle::handle(shared, self.record, self.broker.guarantee(), delivery, ended).await;
    }

    fn tell_dropped(&self, info: &ActorInfo, lost: u64) {
        info.metrics.messages(lost, MessageOutcome::Dropped);
        if info.may_log_failure() {
            tracing::warn!(
                actor = info.name.as_str(),
                subject = self.record.subject,
                lost,
                "messages were dropped, as more came than the actor handles"
            );
        }
    }
}
