//! Messaging within this process: for tests, and for a host that is alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::oneshot;

use super::{
    Delivery, Guarantee, INBOX, Listen, Message, Messaging, MessagingError, Refused, Scope, Subscriber,
    Subscription, matches, subscription,
};

/// Subscriptions of one backend, at most: each message is compared with all.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;
/// Requests that wait for answers at once, at most.
pub const REQUESTS_MAX: usize = 65_536;

/// Messaging in memory: at most once. A message that finds a queue full is lost there, and counted.
#[derive(Default)]
pub struct MemoryMessaging(Arc<Mutex<Broker>>);

#[derive(Default)]
struct Broker {
    closed: bool,
    /// What the next subscription or request is called.
    next: u64,
    listeners: BTreeMap<u64, Listener>,
    /// By the full subject on which the answer is awaited.
    requests: HashMap<String, oneshot::Sender<Message>>,
    /// Whose turn it is in a group.
    turn: usize,
}

struct Listener {
    pattern: String,
    group: Option<String>,
    subscriber: Subscriber,
}

/// Takes a listener or a request away when it is dropped.
struct Guard<F: FnOnce(&mut Broker) + Send>(Weak<Mutex<Broker>>, Option<F>);

impl MemoryMessaging {
    /// One to which nobody listens.
    pub fn new() -> Self {
        Self::default()
    }

    fn open(&self) -> Result<MutexGuard<'_, Broker>, MessagingError> {
        let broker = lock(&self.0);
        if broker.closed {
            return Err(MessagingError::Closed);
        }
        Ok(broker)
    }

    fn publish_now(&self, scope: &Scope, message: Message) -> Result<(), MessagingError> {
        message.check()?;
        let full = scope.subject(&message.subject)?;
        if let Some(reply_to) = &message.reply_to {
            scope.subject(reply_to)?;
        }
        let mut broker = self.open()?;
        match broker.requests.remove(&full) {
            // Who asked may have gone.
            Some(request) => drop(request.send(message)),
            None => {
                broker.deliver(&full, &message);
            }
        }
        Ok(())
    }

    /// The answer to come, and what forgets the request when it is dropped.
    fn ask(
        &self,
        scope: &Scope,
        mut message: Message,
    ) -> Result<(oneshot::Receiver<Message>, impl Send + use<>), MessagingError> {
        message.check()?;
        let full = scope.subject(&message.subject)?;
        let mut broker = self.open()?;
        if broker.requests.len() >= REQUESTS_MAX {
            return Err(MessagingError::Overloaded);
        }
        let (answer, answered) = oneshot::channel();
        let name = broker.name();
        let inbox = format!("{}.{name}", scope.inbox()?);
        message.reply_to = Some(format!("{INBOX}.{name}"));
        match broker.deliver(&full, &message) {
            Delivered { heard: 0, .. } => {
                return Err(MessagingError::NoResponders {
                    subject: message.subject,
                });
            }
            Delivered { queued: 0, .. } => return Err(MessagingError::Overloaded),
            _ => broker.requests.insert(inbox.clone(), answer),
        };
        let forget = move |broker: &mut Broker| drop(broker.requests.remove(&inbox));
        Ok((answered, Guard(Arc::downgrade(&self.0), Some(forget))))
    }

    fn subscribe_now(&self, scope: &Scope, listen: Listen) -> Result<Subscription, MessagingError> {
        listen.check_group()?;
        let pattern = scope.pattern(&listen.pattern)?;
        let mut broker = self.open()?;
        if broker.listeners.len() >= SUBSCRIPTIONS_MAX {
            return Err(MessagingError::Overloaded);
        }
        let (subscriber, subscription) = subscription(listen.queue_len);
        let name = broker.name();
        let listener = Listener {
            pattern,
            group: listen.group,
            subscriber,
        };
        broker.listeners.insert(name, listener);
        let leave = move |broker: &mut Broker| drop(broker.listeners.remove(&name));
        Ok(subscription.until(Guard(Arc::downgrade(&self.0), Some(leave))))
    }
}

/// How many there are for a message, and how many of them have it in their queue now.
#[derive(Default)]
struct Delivered {
    heard: usize,
    queued: usize,
}

impl Broker {
    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn deliver(&mut self, full: &str, message: &Message) -> Delivered {
        let mut delivered = Delivered::default();
        let mut groups: BTreeMap<&str, Vec<&Subscriber>> = BTreeMap::new();
        for listener in self
            .listeners
            .values()
            .filter(|listener| matches(&listener.pattern, full))
        {
            match &listener.group {
                Some(group) => groups.entry(group).or_default().push(&listener.subscriber),
                None => delivered.count(&[&listener.subscriber], message),
            }
        }
        self.turn = self.turn.wrapping_add(1);
        for members in groups.values_mut() {
            let turn = self.turn % members.len();
            members.rotate_left(turn);
            delivered.count(members, message);
        }
        delivered
    }
}

impl Delivered {
    /// Gives a message to the first of `members` that has room.
    fn count(&mut self, members: &[&Subscriber], message: &Message) {
        self.heard += 1;
        let mut delivery = Delivery::once(message.clone());
        for member in members {
            match member.try_send(delivery) {
                Ok(()) => {
                    self.queued += 1;
                    return;
                }
                Err(Refused::Full(refused) | Refused::Gone(refused)) => delivery = *refused,
            }
        }
        if let Some(first) = members.first() {
            first.count_dropped();
        }
    }
}

impl Messaging for MemoryMessaging {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtMostOnce
    }

    fn publish<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
    ) -> BoxFuture<'a, Result<(), MessagingError>> {
        future::ready(self.publish_now(scope, message)).boxed()
    }

    fn request<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Message, MessagingError>> {
        async move {
            let subject = message.subject.clone();
            let (answered, _waits) = self.ask(scope, message)?;
            match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(MessagingError::Closed),
                Err(_) => Err(MessagingError::Timeout { subject }),
            }
        }
        .boxed()
    }

    fn subscribe<'a>(
        &'a self,
        scope: &'a Scope,
        listen: Listen,
    ) -> BoxFuture<'a, Result<Subscription, MessagingError>> {
        future::ready(self.subscribe_now(scope, listen)).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), MessagingError>> {
        future::ready(self.open().map(drop)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let mut broker = lock(&self.0);
        broker.closed = true;
        broker.listeners.clear();
        broker.requests.clear();
        future::ready(()).boxed()
    }
}

impl<F: FnOnce(&mut Broker) + Send> Drop for Guard<F> {
    fn drop(&mut self) {
        if let (Some(broker), Some(leave)) = (self.0.upgrade(), self.1.take()) {
            leave(&mut lock(&broker));
        }
    }
}

fn lock(broker: &Mutex<Broker>) -> MutexGuard<'_, Broker> {
    broker.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_left_of_who_has_gone() {
        let broker = MemoryMessaging::new();
        let scope = Scope::shared();
        let listens = broker.subscribe(&scope, Listen::to("a")).await.unwrap();
        let asks = broker.request(&scope, Message::new("a", "?"), Duration::from_secs(60));
        assert!(asks.now_or_never().is_none());
        assert!(lock(&broker.0).requests.is_empty());
        drop(listens);
        assert!(lock(&broker.0).listeners.is_empty());
    }

    #[tokio::test]
    async fn a_member_of_a_group_that_is_full_is_passed_over() {
        let broker = MemoryMessaging::new();
        let scope = Scope::shared();
        let listen = |queue_len| Listen::to("a").in_group("g").with_queue(queue_len);
        let _narrow = broker.subscribe(&scope, listen(1)).await.unwrap();
        let wide = broker.subscribe(&scope, listen(20)).await.unwrap();
        for _ in 0..20 {
            broker.publish(&scope, Message::new("a", "")).await.unwrap();
        }
        assert_eq!(wide.dropped(), 0);
    }
}
