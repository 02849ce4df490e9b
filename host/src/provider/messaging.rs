//! Messages as actors send and hear them: supervised.
//!
//! While the backend does not answer, what an actor says is refused at once. Who listens is passed on all the same: a
//! subscription comes back by itself. Nothing moves, so there is no gate.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::messaging::{Guarantee, Listen, Subscription};
use weft_capabilities::{Message, Messaging, MessagingError, Scope};

use super::health::Health;

/// A backend, and what is known of it.
pub(super) struct Guarded {
    pub(super) broker: Arc<dyn Messaging>,
    pub(super) health: Arc<Health>,
}

impl Guarded {
    fn refused(&self) -> Result<(), MessagingError> {
        let refusal = self.health.refusal();
        refusal.map_or(Ok(()), |reason| Err(MessagingError::Unavailable(reason)))
    }

    fn told<T>(&self, result: Result<T, MessagingError>) -> Result<T, MessagingError> {
        self.health.note(&result);
        result
    }
}

impl Messaging for Guarded {
    fn guarantee(&self) -> Guarantee {
        self.broker.guarantee()
    }

    fn publish<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
    ) -> BoxFuture<'a, Result<(), MessagingError>> {
        async move {
            self.refused()?;
            self.told(self.broker.publish(scope, message).await)
        }
        .boxed()
    }

    fn request<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Message, MessagingError>> {
        async move {
            self.refused()?;
            self.told(self.broker.request(scope, message, timeout).await)
        }
        .boxed()
    }

    fn subscribe<'a>(
        &'a self,
        scope: &'a Scope,
        listen: Listen,
    ) -> BoxFuture<'a, Result<Subscription, MessagingError>> {
        async move { self.told(self.broker.subscribe(scope, listen).await) }.boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), MessagingError>> {
        self.broker.check()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.broker.close()
    }
}
