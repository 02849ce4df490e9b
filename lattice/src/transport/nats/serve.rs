//! Serving one subject: requests come in order, run at once, and are answered where they ask to be.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use async_nats::{Message, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::NatsTransport;
use super::batches::Outbox;
use super::send::{Sender, Unsent};
use crate::envelope::Batch;
use crate::subject::Subject as To;
use crate::transport::{Handler, Served, Serving};

/// What the subject of a reply begins with. Who asks chooses it, so it could be any subject that this host may publish
/// on.
const INBOX: &str = "_INBOX";

/// Requests that are still taken when serving is to finish: more than may be on their way, or wait to be read. The client
/// forgets a subscription that it is told to end, and what comes then is lost; told to end it after so many, it and the
/// server count the same ones.
const LAST: u64 = 64;
/// How long those are waited for. If they don't come, there is hardly one on its way.
const LAST_WAIT: Duration = Duration::from_millis(300);

/// Where and how answers go.
#[derive(Clone)]
struct Answers {
    sender: Sender,
    /// Those that go together.
    outbox: Arc<Outbox>,
}

/// Where one answer goes.
enum Asker {
    /// To an inbox.
    Inbox(Subject),
    /// To a host's subject for answers, under the number that the host knows the request by.
    Host(To, u64),
}

/// A task that serves `requests`, and what ends it: no new request is taken then, and those that run go on.
pub(super) fn begin(
    transport: &NatsTransport,
    requests: Subscriber,
    serving: Serving,
    handler: Arc<dyn Handler>,
) -> (impl Future<Output = ()> + Send + use<>, Served) {
    let ends = Ends::default();
    // Not the transport itself, whose tasks own this one.
    let answers = Answers {
        sender: transport.0.sender.clone(),
        outbox: transport.0.answers.clone(),
    };
    let (told, ended) = (ends.clone(), CancellationToken::new());
    let served = Served::with_end(ends.stop.drop_guard(), ends.finish, ended.clone());
    let ended = ended.drop_guard();
    let task = async move {
        run(answers, requests, serving, handler, told).await;
        drop(ended);
    };
    (task, served)
}

/// How serving is told to end.
#[derive(Clone, Default)]
struct Ends {
    /// Now.
    stop: CancellationToken,
    /// When what is on its way has come.
    finish: CancellationToken,
}

async fn run(
    answers: Answers,
    mut requests: Subscriber,
    serving: Serving,
    handler: Arc<dyn Handler>,
    ends: Ends,
) {
    let mut taker = Taker {
        answers,
        handler,
        concurrency: serving.concurrency,
        running: JoinSet::new(),
    };
    {
        let (mut stopped, mut finished) = (pin!(ends.stop.cancelled()), pin!(ends.finish.cancelled()));
        let mut last = pin!(sleep(LAST_WAIT));
        let (mut finishing, mut draining, mut taken) = (false, false, 0);
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
                () = &mut finished, if !finishing => {
                    finishing = true;
                    last.as_mut().reset(Instant::now() + LAST_WAIT);
                    if requests.unsubscribe_after(taken + LAST).await.is_err() {
                        break;
                    }
                    continue;
                }
                () = &mut last, if finishing && !draining => {
                    draining = true;
                    if requests.drain().await.is_err() {
                        break;
                    }
                    continue;
                }
                request = requests.next() => request,
            };
            taken += 1;
            let Some(message) = request else {
                break;
            };
            taker.take(message).await;
        }
    }
    drop(requests);
    taker.finish().await;
}

/// Runs what comes and has it answered.
struct Taker {
    answers: Answers,
    handler: Arc<dyn Handler>,
    concurrency: usize,
    running: JoinSet<()>,
}

impl Taker {
    async fn take(&mut self, message: Message) {
        // Here and not when one ends: that would wake this task for each.
        while self.running.try_join_next().is_some() {}
        let (subject, payload) = (message.subject, message.payload);
        let batch = |reply: &Subject| {
            let answers = To::of_answers(subject.as_str(), reply.as_str())?;
            Some((answers, Batch::decode(&payload).ok()?))
        };
        match message.reply {
            Some(reply) if reply.starts_with(INBOX) => {
                self.run(&subject, Asker::Inbox(reply), payload).await;
            }
            Some(reply) if let Some((answers, batch)) = batch(&reply) => {
                for (number, request) in batch.parts {
                    let asker = Asker::Host(answers.clone(), number);
                    self.run(&subject, asker, request).await;
                }
            }
            _ => {
                self.answers.sender.counters.unanswerable.fetch_add(1, Relaxed);
            }
        }
    }

    async fn run(&mut self, subject: &Subject, asker: Asker, request: Bytes) {
        if self.running.len() >= self.concurrency {
            let answer = self.handler.shed_on(subject.as_str(), request);
            self.answers.give(asker, answer).await;
            return;
        }
        let mut handled = self.handler.handle_on(subject.as_str(), request);
        match poll_once(&mut handled).await {
            Poll::Ready(answer) => self.answers.give(asker, answer).await,
            Poll::Pending => {
                let answers = self.answers.clone();
                self.running
                    .spawn(async move { answers.give(asker, handled.await).await });
            }
        }
    }

    /// Waits for what runs, and sends its answers.
    async fn finish(mut self) {
        while self.running.join_next().await.is_some() {}
        self.answers.outbox.flush().await;
    }
}

async fn poll_once(handled: &mut BoxFuture<'static, Option<Bytes>>) -> Poll<Option<Bytes>> {
    std::future::poll_fn(|cx| Poll::Ready(handled.as_mut().poll(cx))).await
}

impl Answers {
    async fn give(&self, asker: Asker, answer: Option<Bytes>) {
        let Some(answer) = answer else { return };
        let len = answer.len();
        let reply = match asker {
            Asker::Inbox(reply) => reply,
            Asker::Host(answers, number) if self.outbox.takes(len) => {
                // As below.
                let _ = self.outbox.put(&answers, number, answer);
                return;
            }
            Asker::Host(answers, number) => format!("{answers}.{number}").into(),
        };
        // Who asked hears of one that is not sent by its deadline.
        if let Err(Unsent::TooLarge) = self.sender.send(reply, None, answer).await {
            warn!(len, "could not send an answer, as it is longer than a message");
        }
    }
}
