//! Messaging, with and without JetStream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use weft_capabilities::messaging::{Delivery, Listen, Subscription};
use weft_capabilities::{Message, Messaging, MessagingError, Scope, conformance};
use weft_nats::{JetStreamMessaging, NatsMessaging, NatsOptions, StreamOptions};
use weft_servers::{Nats, Proxy};

use super::LONG;

fn scope() -> Scope {
    Scope::scoped("default", "shop")
}

fn core(server: &Nats) -> NatsMessaging {
    NatsMessaging::open(&NatsOptions::new(server.url())).unwrap()
}

fn kept_with(server: &Nats, stream: StreamOptions) -> JetStreamMessaging {
    JetStreamMessaging::open(&NatsOptions::new(server.url()), stream).unwrap()
}

fn kept(server: &Nats) -> JetStreamMessaging {
    kept_with(server, StreamOptions::default())
}

fn in_group(pattern: &str) -> Listen {
    Listen::to(pattern).in_group("g")
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let next = timeout(LONG, subscription.next()).await;
    next.expect("a message does not come")
        .expect("the subscription ended")
}

/// Tries until it is done. Whatever fails meanwhile has to say that the server is away.
async fn once_it_answers<T>(mut attempt: impl AsyncFnMut() -> Result<T, MessagingError>) -> T {
    let tries = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(MessagingError::Unavailable(_)) => sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    timeout(LONG, tries).await.expect("it never answers again")
}

/// Asks JetStream's API.
async fn ask(server: &Nats, subject: &str, question: serde_json::Value) -> serde_json::Value {
    let client = async_nats::connect(server.url()).await.unwrap();
    let answer = client.request(format!("$JS.API.{subject}"), question.to_string().into());
    serde_json::from_slice(&answer.await.unwrap().payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_keeps_the_contract() {
    let servers = Mutex::new(Vec::new());
    conformance::messaging(async || {
        let server = Nats::start("");
        let ends: (Arc<dyn Messaging>, Arc<dyn Messaging>) =
            (Arc::new(core(&server)), Arc::new(core(&server)));
        servers.lock().unwrap().push(server);
        ends
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_keeps_the_contract() {
    let servers = Mutex::new(Vec::new());
    let stream = StreamOptions {
        subjects: vec!["a.*".to_owned()],
        // What was on its way to who left comes after this.
        ack_wait: Duration::from_secs(10),
        ..StreamOptions::default()
    };
    conformance::messaging(async || {
        let server = Nats::start_with_jetstream("");
        let end = || Arc::new(kept_with(&server, stream.clone()));
        let ends: (Arc<dyn Messaging>, Arc<dyn Messaging>) = (end(), end());
        servers.lock().unwrap().push(server);
        ends
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_goes_on_when_the_server_comes_back() {
    let mut server = Nats::start("");
    let (says, hears) = (core(&server), core(&server));
    let mut heard = hears.subscribe(&scope(), Listen::to("a")).await.unwrap();
    server.kill();
    server.restart();
    let came = async {
        loop {
            once_it_answers(async || says.publish(&scope(), Message::new("a", "b")).await).await;
            tokio::select! {
                delivery = next(&mut heard) => return delivery,
                () = sleep(Duration::from_millis(10)) => {}
            }
        }
    };
    let delivery = timeout(LONG, came).await.expect("nothing is heard any more");
    assert_eq!(delivery.message.body, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_loses_no_acknowledged_message_when_its_server_is_killed_under_load() {
    const MESSAGES: usize = 300;
    let mut server = Nats::start_with_jetstream("");
    let (says, hears) = (kept(&server), kept(&server));
    let mut heard = hears.subscribe(&scope(), in_group("work.*")).await.unwrap();
    let saying = async {
        for n in 0..MESSAGES {
            let message = || Message::new("work.a", n.to_string());
            once_it_answers(async || says.publish(&scope(), message()).await).await;
        }
    };
    let hearing = async {
        let (mut counts, mut kills) = (BTreeMap::<usize, u32>::new(), 0);
        while counts.len() < MESSAGES {
            let delivery = next(&mut heard).await;
            let n = std::str::from_utf8(&delivery.message.body)
                .unwrap()
                .parse()
                .unwrap();
            *counts.entry(n).or_default() += 1;
            // One that is not told comes again.
            drop(delivery.ack().await);
            if counts.len() > (kills + 1) * MESSAGES / 4 && kills < 2 {
                kills += 1;
                server.kill();
                server.restart();
            }
        }
        kills
    };
    let ((), kills) = tokio::join!(saying, hearing);
    assert_eq!(kills, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_a_moment_comes_again_after_it_and_not_when_its_time_is_over() {
    let server = Nats::start_with_jetstream("");
    let stream = StreamOptions {
        ack_wait: Duration::from_secs(300),
        ..StreamOptions::default()
    };
    let messaging = kept_with(&server, stream);
    // Where the server counts the time, it is the first one of a group that may come late.
    for group in 0..20 {
        let listen = Listen::to("orders.>").in_group(format!("group-{group}"));
        let mut heard = messaging.subscribe(&scope(), listen).await.unwrap();
        let order = Message::new("orders.created", "a rug");
        messaging.publish(&scope(), order).await.unwrap();
        for _ in 0..2 {
            let (delivery, delay) = (next(&mut heard).await, Duration::from_millis(20));
            let refused = Instant::now();
            delivery.nak(delay, "no stock".to_owned()).await.unwrap();
            let again = next(&mut heard).await;
            assert!(refused.elapsed() >= delay);
            again.nak(Duration::ZERO, "no stock".to_owned()).await.unwrap();
        }
        next(&mut heard).await.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_too_often_is_a_dead_letter_with_its_reason() {
    let server = Nats::start_with_jetstream("");
    let stream = StreamOptions {
        deliveries_max: 3,
        ..StreamOptions::default()
    };
    let messaging = kept_with(&server, stream);
    let mut heard = messaging.subscribe(&scope(), in_group("orders.>")).await.unwrap();
    let mut order = Message::new("orders.created", "a rug");
    order.headers = vec![("traceparent".to_owned(), "00-aa-bb-01".to_owned())];
    messaging.publish(&scope(), order).await.unwrap();
    for attempt in 1..=3 {
        let delivery = next(&mut heard).await;
        assert_eq!(delivery.attempt, attempt);
        delivery
            .nak(Duration::ZERO, format!("no stock\r\nin {attempt}"))
            .await
            .unwrap();
    }
    // The next one comes, and the last one does not come again before it.
    messaging
        .publish(&scope(), Message::new("orders.created", "a lamp"))
        .await
        .unwrap();
    assert_eq!(next(&mut heard).await.message.body, "a lamp");
    let question = serde_json::json!({ "last_by_subj": "weft-dead.weft-app.default.shop.orders.created" });
    let dead = ask(&server, "STREAM.MSG.GET.weft-dead", question).await;
    let decoded = |name: &str| {
        use base64::Engine as _;
        let text = dead["message"][name].as_str().unwrap();
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
    };
    assert_eq!(decoded("data"), "a rug");
    let headers = decoded("hdrs");
    for line in [
        "Weft-Reason: no stockin 3",
        "Weft-Attempts: 3",
        "traceparent: 00-aa-bb-01",
    ] {
        assert!(headers.contains(line), "{line}: {headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_settles_comes_again_and_what_is_being_handled_does_not() {
    let server = Nats::start_with_jetstream("");
    let stream = StreamOptions {
        ack_wait: Duration::from_secs(2),
        ..StreamOptions::default()
    };
    let messaging = kept_with(&server, stream);
    let mut heard = messaging.subscribe(&scope(), in_group("a")).await.unwrap();
    for body in ["dropped", "handled"] {
        messaging
            .publish(&scope(), Message::new("a", body))
            .await
            .unwrap();
    }
    let (dropped, handled) = (next(&mut heard).await, next(&mut heard).await);
    drop(dropped);
    let again = next(&mut heard).await;
    assert_eq!((&again.message.body[..], again.attempt), (&b"dropped"[..], 2));
    // By then the other one's time would be over several times.
    let nothing = timeout(Duration::from_secs(5), next(&mut heard)).await;
    assert!(nothing.is_err(), "what is being handled came again: {nothing:?}");
    again.ack().await.unwrap();
    handled.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_handles_that_left_does_not_come_again_after_a_new_connection() {
    let server = Nats::start_with_jetstream("");
    let stream = StreamOptions {
        ack_wait: Duration::from_secs(3),
        ..StreamOptions::default()
    };
    let proxy = Proxy::to(server.port()).await;
    let options = NatsOptions::new(format!("nats://127.0.0.1:{}", proxy.port()));
    let (leaves, stays) = (
        JetStreamMessaging::open(&options, stream.clone()).unwrap(),
        kept_with(&server, stream),
    );
    let mut heard = leaves.subscribe(&scope(), in_group("a")).await.unwrap();
    stays.publish(&scope(), Message::new("a", "b")).await.unwrap();
    let handled = next(&mut heard).await;
    let mut others = stays.subscribe(&scope(), in_group("a")).await.unwrap();
    drop(heard);
    // The connection that it came by is gone; what handles it does so still.
    proxy.reset();
    let again = timeout(Duration::from_secs(10), next(&mut others)).await;
    assert!(again.is_err(), "what is being handled came again: {again:?}");
    handled.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_answer_is_told_when_messaging_is_closed() {
    let server = Nats::start("");
    let messaging = core(&server);
    let scope = scope();
    let _heard = messaging.subscribe(&scope, Listen::to("a")).await.unwrap();
    let asks = messaging.request(&scope, Message::new("a", "?"), LONG);
    let closes = async {
        sleep(Duration::from_millis(100)).await;
        messaging.close().await;
    };
    let (asked, ()) = timeout(LONG / 4, async { tokio::join!(asks, closes) })
        .await
        .expect("it waits for its own deadline");
    assert!(matches!(asked, Err(MessagingError::Closed)), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_away_finds_what_came_meanwhile() {
    let server = Nats::start_with_jetstream("");
    let messaging = kept(&server);
    drop(messaging.subscribe(&scope(), in_group("a")).await.unwrap());
    messaging.close().await;
    let messaging = kept(&server);
    for n in 0..100 {
        messaging
            .publish(&scope(), Message::new("a", n.to_string()))
            .await
            .unwrap();
    }
    let mut heard = messaging.subscribe(&scope(), in_group("a")).await.unwrap();
    for n in 0..100 {
        let delivery = next(&mut heard).await;
        assert_eq!(delivery.message.body, n.to_string());
        delivery.ack().await.unwrap();
    }
    // What every group has handled is kept no longer.
    let gone = async {
        loop {
            let info = ask(&server, "STREAM.INFO.weft", serde_json::json!({})).await;
            if info["state"]["messages"] == 0 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, gone).await.expect("it is kept for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_can_not_speak_to_the_server() {
    let server = Nats::start_with_jetstream("");
    let messaging = kept(&server);
    let mut heard = messaging.subscribe(&scope(), in_group("a")).await.unwrap();
    for body in ["one", "two"] {
        let mut message = Message::new("a", body);
        // The second would be taken for a repeat of the first.
        message.headers = ["Nats-Msg-Id", "nats-expected-stream", "Weft-Reply-To"]
            .map(|name| (name.to_owned(), "x".to_owned()))
            .into();
        messaging.publish(&scope(), message).await.unwrap();
        let delivery = next(&mut heard).await;
        assert_eq!(delivery.message.body, body);
        assert_eq!(
            (delivery.message.headers.len(), &delivery.message.reply_to),
            (0, &None)
        );
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_full_or_missing_refuses() {
    let server = Nats::start_with_jetstream("");
    let stream = StreamOptions {
        bytes_max: 10_000,
        ..StreamOptions::default()
    };
    let messaging = kept_with(&server, stream);
    let _heard = messaging.subscribe(&scope(), in_group("b")).await.unwrap();
    let refused = async {
        for _ in 0..20 {
            messaging
                .publish(&scope(), Message::new("b", vec![7; 1_000]))
                .await?;
        }
        Ok(())
    };
    let refused: Result<(), _> = refused.await;
    assert!(matches!(refused, Err(MessagingError::Overloaded)), "{refused:?}");
    let refused = messaging
        .publish(&Scope::shared(), Message::new("elsewhere", ""))
        .await;
    assert!(
        matches!(&refused, Err(MessagingError::Unavailable(text)) if text.contains("subjects")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn messaging_with_a_server_that_is_away_fails_at_once() {
    let options = NatsOptions::new(format!("nats://127.0.0.1:{}", weft_servers::free_port()));
    let brokers: [Box<dyn Messaging>; 2] = [
        Box::new(NatsMessaging::open(&options).unwrap()),
        Box::new(JetStreamMessaging::open(&options, StreamOptions::default()).unwrap()),
    ];
    for broker in brokers {
        for refused in [
            broker.publish(&scope(), Message::new("a", "")).await.unwrap_err(),
            broker
                .request(&scope(), Message::new("a", ""), LONG)
                .await
                .unwrap_err(),
            broker.subscribe(&scope(), Listen::to("a")).await.unwrap_err(),
        ] {
            assert!(matches!(refused, MessagingError::Unavailable(_)), "{refused:?}");
        }
        broker.close().await;
    }
}

#[tokio::test]
async fn what_a_user_may_not_listen_to_is_denied() {
    let server = Nats::start(
        "authorization { users: [ { user: u, password: p, permissions: {
            publish: [\">\"], subscribe: [\"_INBOX.>\", \"weft-reply.>\", \"weft-app.default.shop.a\"] } } ] }",
    );
    let url = server.url().replace("nats://", "nats://u:p@");
    let messaging = NatsMessaging::open(&NatsOptions::new(url)).unwrap();
    messaging.subscribe(&scope(), in_group("a")).await.unwrap();
    let refused = messaging.subscribe(&scope(), in_group("b")).await.unwrap_err();
    assert!(matches!(refused, MessagingError::Denied { .. }), "{refused:?}");
}
