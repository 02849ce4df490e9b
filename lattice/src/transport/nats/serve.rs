//! Serving one subject: requests come in order, run at once, and are answered where they ask to be.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use async_nats::{Message, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::{Counters, NatsTransport, SEND_WAIT};
use crate::transport::{Handler, Serving};

/// What the subject of a reply begins with. Who asks chooses it, so it could be any subject that this host may publish
/// on.
const INBOX: &str = "_INBOX";

/// Where and how answers go.
#[derive(Clone)]
struct Answers {
    client: async_nats::Client,
    counters: Arc<Counters>,
}

/// A task that serves `requests`, what stops it when it is dropped (no new request is taken then, and those that run go
/// on), and what tells that it has ended.
pub(super) fn begin(
    transport: &NatsTransport,
    requests: Subscriber,
    serving: Serving,
    handler: Arc<dyn Handler>,
) -> (
    impl Future<Output = ()> + Send + use<>,
    DropGuard,
    CancellationToken,
) {
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    // Not the transport itself, whose tasks own this one.
    let answers = Answers {
        client: transport.0.client.clone(),
        counters: transport.0.counters.clone(),
    };
    let (stopped, ends) = (stop.clone(), ended.clone().drop_guard());
    let task = async move {
        run(answers, requests, serving, handler, stopped).await;
        drop(ends);
    };
    (task, stop.drop_guard(), ended)
}

async fn run(
    answers: Answers,
    mut requests: Subscriber,
    serving: Serving,
    handler: Arc<dyn Handler>,
    stop: CancellationToken,
) {
    let mut running = JoinSet::new();
    {
        let mut stopped = pin!(stop.cancelled());
        let mut draining = false;
        loop {
            let request = tokio::select! {
                biased;
                () = &mut stopped, if !draining => {
                    // What came already is answered all the same.
                    draining = true;
                    if requests.drain().await.is_err() {
                        break;
                    }
                    continue;
                }
                request = requests.next() => request,
            };
            // Here and not when one ends: that would wake this task for each.
            while running.try_join_next().is_some() {}
            let Some(Message {
                subject,
                reply,
                payload,
                ..
            }) = request
            else {
                break;
            };
            let Some(reply) = reply.filter(|reply| reply.starts_with(INBOX)) else {
                answers.counters.unanswerable.fetch_add(1, Relaxed);
                continue;
            };
            if running.len() >= serving.concurrency {
                answers
                    .give(reply, handler.shed_on(subject.as_str(), payload))
                    .await;
                continue;
            }
            let mut handled = handler.handle_on(subject.as_str(), payload);
            match poll_once(&mut handled).await {
                Poll::Ready(answer) => answers.give(reply, answer).await,
                Poll::Pending => {
                    let answers = answers.clone();
                    running.spawn(async move { answers.give(reply, handled.await).await });
                }
            }
        }
    }
    drop(requests);
    while running.join_next().await.is_some() {}
}

async fn poll_once(handled: &mut BoxFuture<'static, Option<Bytes>>) -> Poll<Option<Bytes>> {
    std::future::poll_fn(|cx| Poll::Ready(handled.as_mut().poll(cx))).await
}

impl Answers {
    async fn give(&self, reply: Subject, answer: Option<Bytes>) {
        let Some(answer) = answer else { return };
        let len = answer.len();
        if self.client.connection_state() != async_nats::connection::State::Connected {
            self.counters.refused.fetch_add(1, Relaxed);
            return;
        }
        match tokio::time::timeout(SEND_WAIT, self.client.publish(reply, answer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, len, "could not send an answer"),
            Err(_) => {
                self.counters.send_timeouts.fetch_add(1, Relaxed);
            }
        }
    }
}
