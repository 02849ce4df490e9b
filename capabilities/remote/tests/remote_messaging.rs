//! Messaging between two hosts of a lattice, with a real server between them.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weft_capabilities::conformance;
use weft_capabilities::messaging::{Listen, Message, Messaging, MessagingError, Scope};
use weft_lattice::subject::Subjects;
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};
use weft_remote::LatticeMessaging;
use weft_servers::Nats;

/// A bound for what has to become so.
const LONG: Duration = Duration::from_secs(60);

async fn connect(server: &Nats, name: &str) -> NatsTransport {
    let settings = NatsSettings::new(vec![server.url()], name, Role::Bulk);
    NatsTransport::connect(&settings).await.unwrap()
}

fn messaging(transport: &NatsTransport, provider: &str) -> LatticeMessaging {
    let transport = transport.clone();
    let subjects = Subjects::new("test").unwrap();
    LatticeMessaging::new(
        move || Some(transport.clone()),
        subjects,
        ["default", "shop", provider],
    )
}

fn scope() -> Scope {
    Scope::scoped("default", "shop")
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = Nats::start("");
    let (a, b) = (connect(&server, "a").await, connect(&server, "b").await);
    let count = AtomicU32::new(0);
    conformance::messaging(async || {
        let provider = format!("p{}", count.fetch_add(1, Ordering::Relaxed));
        let end = |transport| Arc::new(messaging(transport, &provider)) as Arc<dyn Messaging>;
        (end(&a), end(&b))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_providers_of_one_name_in_two_apps_do_not_meet() {
    let server = Nats::start("");
    let transport = connect(&server, "a").await;
    let (one, other) = (messaging(&transport, "one"), messaging(&transport, "other"));
    let mut hears = one.subscribe(&scope(), Listen::to("a")).await.unwrap();
    other.publish(&scope(), Message::new("a", "other")).await.unwrap();
    one.publish(&scope(), Message::new("a", "one")).await.unwrap();
    assert_eq!(hears.next().await.unwrap().message.body, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_all_is_refused_and_then_it_goes_on() {
    let mut server = Nats::start("");
    let scope = scope();
    let (a, b) = (connect(&server, "a").await, connect(&server, "b").await);
    let (at, ear) = (messaging(&a, "p"), messaging(&b, "p"));
    let mut hears = ear
        .subscribe(&scope, Listen::to("a").in_group("g"))
        .await
        .unwrap();
    let asks = at.request(&scope, Message::new("a", "?"), LONG);
    let answers = async {
        let question = hears.next().await.unwrap().message;
        let answer = Message::new(question.reply_to.unwrap(), "!");
        ear.publish(&scope, answer).await.unwrap();
    };
    assert_eq!(tokio::join!(asks, answers).0.unwrap().body, "!");

    server.kill();
    let refused = async {
        loop {
            match at.publish(&scope, Message::new("a", "lost")).await {
                Err(MessagingError::Unavailable(_)) => return,
                // That the connection is gone is noticed a moment later.
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(LONG, refused)
        .await
        .expect("nobody tells that it is away");

    server.restart();
    // Until both have connected again, and who listens is known to the server.
    let again = async {
        loop {
            let asks = at.request(&scope, Message::new("a", "again?"), LONG);
            tokio::select! {
                asked = asks => assert!(
                    matches!(asked, Err(MessagingError::Unavailable(_) | MessagingError::NoResponders { .. })),
                    "{asked:?}"
                ),
                heard = hears.next() => {
                    if heard.unwrap().message.body == "again?" {
                        return;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, again).await.expect("it never goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_ends_while_the_server_is_away() {
    let mut server = Nats::start("");
    let messaging = messaging(&connect(&server, "a").await, "p");
    let mut hears = messaging.subscribe(&scope(), Listen::to("a")).await.unwrap();
    server.kill();
    hears.end();
    let ended = tokio::time::timeout(LONG, hears.next()).await;
    assert!(ended.expect("it waits for the server").is_none());
}

#[tokio::test]
async fn a_host_that_has_not_joined_says_so() {
    let alone = LatticeMessaging::new(|| None, Subjects::new("test").unwrap(), ["default", "shop", "p"]);
    let refused = alone.publish(&scope(), Message::new("a", "")).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "messaging is unavailable: this host has not joined its lattice yet"
    );
}
