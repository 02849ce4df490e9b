//! The lattice within one process: a hub that hosts join.
//!
//! Owns the table of who serves and who listens. A request runs in the caller's task: there is no task, no queue and no
//! copy of the payload on its way. What a network would do is kept: a request to a host that leaves has no reply.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture, Either};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Handler, PAYLOAD_LEN_MAX, Served, Serving, Subscriber, Subscription, Transport, TransportError,
    check_len, subscription,
};
use crate::subject::Subject;

/// A lattice within this process. Clones are the same lattice.
#[derive(Clone, Default)]
pub struct Hub(Arc<RwLock<Table>>);

#[derive(Default)]
struct Table {
    servers: HashMap<Subject, Vec<Arc<Server>>>,
    subscribers: HashMap<Subject, Vec<(CancellationToken, Subscriber)>>,
}

struct Server {
    handler: Arc<dyn Handler>,
    places: Arc<Semaphore>,
    /// Of the host that serves.
    left: CancellationToken,
}

/// A host's connection to a [`Hub`].
#[derive(Clone)]
pub struct MemoryTransport {
    hub: Hub,
    left: CancellationToken,
    /// Whose turn it is among those who serve a subject.
    turn: Arc<AtomicUsize>,
}

impl Hub {
    /// A lattice without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins a host.
    pub fn join(&self) -> MemoryTransport {
        MemoryTransport {
            hub: self.clone(),
            left: CancellationToken::new(),
            turn: Arc::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryTransport {
    /// Cuts this host off, as if its machine had died: what it runs for others ends without a reply.
    pub fn leave(&self) {
        self.left.cancel();
        let mut table = self.hub.write();
        table.servers.retain(|_, servers| {
            servers.retain(|server| !server.left.is_cancelled());
            !servers.is_empty()
        });
        table.subscribers.retain(|_, subscribers| {
            subscribers.retain(|(left, _)| !left.is_cancelled());
            !subscribers.is_empty()
        });
    }

    fn check(&self, subject: &Subject, payload: &Bytes) -> Result<(), TransportError> {
        if self.left.is_cancelled() {
            return Err(TransportError::Disconnected);
        }
        check_len(subject, payload, PAYLOAD_LEN_MAX)
    }

    fn server(&self, subject: &Subject) -> Option<Arc<Server>> {
        let table = self.hub.read();
        let wide = || table.servers.iter().find(|(wide, _)| wide.covers(subject));
        let servers = table
            .servers
            .get(subject)
            .or_else(|| wide().map(|(_, servers)| servers))?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        servers.get(turn % servers.len().max(1)).cloned()
    }
}

impl Server {
    /// The reply, or nothing for ever if there is none or the host leaves.
    async fn answer(self: Arc<Self>, subject: &Subject, payload: Bytes) -> Bytes {
        let reply = match self.places.try_acquire() {
            Err(_) => self.handler.shed_on(subject.as_str(), payload),
            Ok(_place) => {
                let left = pin!(self.left.cancelled());
                let handled = self.handler.handle_on(subject.as_str(), payload);
                match future::select(handled, left).await {
                    Either::Left((reply, _)) => reply,
                    Either::Right(_) => None,
                }
            }
        };
        match reply {
            Some(reply) => reply,
            None => future::pending().await,
        }
    }
}

impl Transport for MemoryTransport {
    fn request(
        &self,
        subject: &Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        if let Err(error) = self.check(subject, &payload) {
            return future::err(error).boxed();
        }
        let Some(server) = self.server(subject) else {
            return future::err(TransportError::NoResponders(subject.clone())).boxed();
        };
        let subject = subject.clone();
        async move {
            match tokio::time::timeout(timeout, server.answer(&subject, payload)).await {
                Ok(reply) if reply.len() > PAYLOAD_LEN_MAX => Err(TransportError::TooLarge {
                    subject,
                    len: reply.len(),
                    len_max: PAYLOAD_LEN_MAX,
                    may_have_started: true,
                }),
                Ok(reply) => Ok(reply),
                Err(_) => Err(TransportError::Timeout {
                    subject,
                    may_have_started: true,
                }),
            }
        }
        .boxed()
    }

    fn serve(
        &self,
        subject: Subject,
        serving: Serving,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Served, TransportError>> {
        future::ready(self.serve_now(subject, serving, handler)).boxed()
    }

    fn publish(&self, subject: &Subject, payload: Bytes) -> BoxFuture<'static, Result<(), TransportError>> {
        let sent = self.check(subject, &payload).map(|()| {
            self.hub.publish(subject, &payload);
            if let Some(wide) = subject.wide() {
                self.hub.publish(&wide, &payload);
            }
        });
        future::ready(sent).boxed()
    }

    fn subscribe(
        &self,
        subject: Subject,
        queue_len: usize,
    ) -> BoxFuture<'static, Result<Subscription, TransportError>> {
        future::ready(self.subscribe_now(subject, queue_len)).boxed()
    }

    fn payload_len_max(&self) -> usize {
        PAYLOAD_LEN_MAX
    }
}

impl MemoryTransport {
    fn serve_now(
        &self,
        subject: Subject,
        serving: Serving,
        handler: Arc<dyn Handler>,
    ) -> Result<Served, TransportError> {
        let mut table = self.hub.write();
        // Looked at under the lock, so that who leaves meanwhile finds it, or is found.
        if self.left.is_cancelled() {
            return Err(TransportError::Disconnected);
        }
        let server = Arc::new(Server {
            handler,
            places: Arc::new(Semaphore::new(serving.concurrency.min(Semaphore::MAX_PERMITS))),
            left: self.left.clone(),
        });
        table
            .servers
            .entry(subject.clone())
            .or_default()
            .push(server.clone());
        Ok(Served::new(Unserve {
            hub: self.hub.clone(),
            subject,
            server,
        }))
    }

    fn subscribe_now(&self, subject: Subject, queue_len: usize) -> Result<Subscription, TransportError> {
        let mut table = self.hub.write();
        if self.left.is_cancelled() {
            return Err(TransportError::Disconnected);
        }
        let (subscriber, subscription) = subscription(queue_len);
        let subscribers = table.subscribers.entry(subject).or_default();
        subscribers.retain(|(_, subscriber)| subscriber.is_heard());
        subscribers.push((self.left.clone(), subscriber));
        Ok(subscription)
    }
}

impl Hub {
    /// Gives `payload` to those who subscribed to `subject` as it is written.
    fn publish(&self, subject: &Subject, payload: &Bytes) {
        let all_listen = self.read().subscribers.get(subject).is_none_or(|subscribers| {
            // Not `all`, which would stop at the first that is gone.
            subscribers.iter().fold(true, |listen, (_, subscriber)| {
                subscriber.send(payload.clone()) && listen
            })
        });
        if !all_listen {
            self.forget_gone(subject);
        }
    }

    fn forget_gone(&self, subject: &Subject) {
        let mut table = self.write();
        if let Some(subscribers) = table.subscribers.get_mut(subject) {
            subscribers.retain(|(_, subscriber)| subscriber.is_heard());
            if subscribers.is_empty() {
                table.subscribers.remove(subject);
            }
        }
    }
}

/// Ends serving when it is dropped.
struct Unserve {
    hub: Hub,
    subject: Subject,
    server: Arc<Server>,
}

impl Drop for Unserve {
    fn drop(&mut self) {
        let mut table = self.hub.write();
        if let Some(servers) = table.servers.get_mut(&self.subject) {
            servers.retain(|server| !Arc::ptr_eq(server, &self.server));
            if servers.is_empty() {
                table.servers.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::subject::Subjects;

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers with its name; a request `wait` is never answered.
    struct Named(&'static str, AtomicU32);

    struct Running(Arc<Named>);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Handler for Arc<Named> {
        fn handle(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
            let named = self.clone();
            async move {
                named.1.fetch_add(1, Ordering::Relaxed);
                let _running = Running(named.clone());
                Some(match request.as_ref() {
                    b"wait" => future::pending().await,
                    b"large" => Bytes::from(vec![0; PAYLOAD_LEN_MAX + 1]),
                    _ => Bytes::from_static(named.0.as_bytes()),
                })
            }
            .boxed()
        }

        fn shed(&self, _: Bytes) -> Option<Bytes> {
            Some(Bytes::from_static(b"shed"))
        }
    }

    fn named(name: &'static str) -> Arc<Named> {
        Arc::new(Named(name, AtomicU32::new(0)))
    }

    fn subject() -> Subject {
        Subjects::new("test").unwrap().call("h1", "default").unwrap()
    }

    fn serve(host: &MemoryTransport, handler: &Arc<Named>, concurrency: usize) -> Served {
        host.serve_now(subject(), Serving { concurrency }, Arc::new(handler.clone()))
            .unwrap()
    }

    async fn request(host: &MemoryTransport, payload: &'static str) -> Result<Bytes, TransportError> {
        host.request(&subject(), Bytes::from_static(payload.as_bytes()), SECOND)
            .await
    }

    #[tokio::test]
    async fn a_request_reaches_whoever_serves_and_nobody_after_that() {
        let hub = Hub::new();
        let (a, b) = (hub.join(), hub.join());
        assert_eq!(
            request(&a, "x").await,
            Err(TransportError::NoResponders(subject()))
        );
        let served = serve(&b, &named("b"), 1);
        assert_eq!(request(&a, "x").await.unwrap(), "b");
        drop(served);
        assert_eq!(
            request(&a, "x").await,
            Err(TransportError::NoResponders(subject()))
        );
    }

    #[tokio::test]
    async fn those_who_serve_one_subject_share_its_requests() {
        let hub = Hub::new();
        let (a, b) = (hub.join(), hub.join());
        let _served = (serve(&a, &named("a"), 1), serve(&b, &named("b"), 1));
        let replies = future::join_all((0..4).map(|_| request(&a, "x"))).await;
        let of_b = replies
            .iter()
            .filter(|reply| reply.as_ref().unwrap() == "b")
            .count();
        assert_eq!(of_b, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_beyond_the_places_is_shed_and_a_caller_that_goes_frees_one() {
        let hub = Hub::new();
        let (host, handler) = (hub.join(), named("a"));
        let _served = serve(&host, &handler, 1);
        let mut waits = request(&host, "wait").boxed();
        assert!((&mut waits).now_or_never().is_none());
        assert_eq!(request(&host, "x").await.unwrap(), "shed");
        drop(waits);
        assert_eq!(handler.1.load(Ordering::Relaxed), 0);
        assert_eq!(request(&host, "x").await.unwrap(), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn no_reply_in_time_says_that_it_may_have_started() {
        let hub = Hub::new();
        let (host, handler) = (hub.join(), named("a"));
        let _served = serve(&host, &handler, 1);
        assert!(request(&host, "wait").await.unwrap_err().may_have_started());
        assert_eq!(handler.1.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_leaves_is_heard_of_no_more() {
        let hub = Hub::new();
        let (a, b) = (hub.join(), hub.join());
        let handler = named("b");
        let _served = serve(&b, &handler, 1);
        let mut listens = b.subscribe_now(subject(), 1).unwrap();
        let mut waits = request(&a, "wait").boxed();
        assert!((&mut waits).now_or_never().is_none());
        b.leave();
        assert!(waits.await.unwrap_err().may_have_started());
        assert_eq!(handler.1.load(Ordering::Relaxed), 0);
        assert_eq!(
            request(&a, "x").await,
            Err(TransportError::NoResponders(subject()))
        );
        assert_eq!(request(&b, "x").await, Err(TransportError::Disconnected));
        assert_eq!(listens.next().await, None);
        assert!(b.subscribe_now(subject(), 1).is_err());
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_on_both_ways() {
        let hub = Hub::new();
        let host = hub.join();
        let _served = serve(&host, &named("a"), 1);
        let long = Bytes::from(vec![0; PAYLOAD_LEN_MAX + 1]);
        let error = host.request(&subject(), long, SECOND).await.unwrap_err();
        assert!(matches!(
            error,
            TransportError::TooLarge {
                may_have_started: false,
                ..
            }
        ));
        let error = request(&host, "large").await.unwrap_err();
        assert!(matches!(
            error,
            TransportError::TooLarge {
                may_have_started: true,
                ..
            }
        ));
    }

    #[tokio::test]
    async fn all_subscribers_get_what_is_published_until_they_are_full() {
        let hub = Hub::new();
        let (a, b) = (hub.join(), hub.join());
        let mut wide = a.subscribe_now(subject(), 3).unwrap();
        let mut narrow = b.subscribe_now(subject(), 1).unwrap();
        let gone = b.subscribe_now(subject(), 1).unwrap();
        drop(gone);
        for payload in ["1", "2", "3"] {
            a.publish(&subject(), Bytes::from_static(payload.as_bytes()))
                .await
                .unwrap();
        }
        assert_eq!(
            (wide.next().await.unwrap(), wide.next().await.unwrap()),
            ("1".into(), "2".into())
        );
        assert_eq!(
            (narrow.next().await.unwrap(), narrow.lost()),
            (Bytes::from("1"), 2)
        );
        assert_eq!(wide.lost(), 0);
        assert_eq!(hub.read().subscribers[&subject()].len(), 2);
    }
}
