//! The rules of [`Messaging`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::messaging::{
    BODY_LEN_MAX, Delivery, Guarantee, INBOX, Listen, Message, Messaging, MessagingError, Scope, Subscription,
};

/// A bound for what has to become so.
const LONG: Duration = Duration::from_secs(60);
/// How long a request waits for an answer that does not come.
const SHORT: Duration = Duration::from_millis(200);

/// Two ends of one broker, which may be the same: one is published at, the other listens.
type Ends = (Arc<dyn Messaging>, Arc<dyn Messaging>);

/// Runs every rule, each on a broker of its own. `open` gives two ends of one on which nothing was said before.
///
/// # Panics
/// With the rule that the backend breaks.
pub async fn messaging(open: impl AsyncFn() -> Ends) {
    reaches_who_listens_as_it_was_said(open().await).await;
    stands_by_its_wildcards(open().await).await;
    keeps_the_order_of_one_publisher(open().await).await;
    gives_each_group_one(open().await).await;
    keeps_apps_apart(open().await).await;
    gives_an_answer_to_who_asked(open().await).await;
    tells_that_nobody_answers(open().await).await;
    holds_the_limits(open().await).await;
    loses_nothing_that_came_by_ending(open().await).await;
    match open().await.0.guarantee() {
        Guarantee::AtMostOnce => refuses_the_newest_when_the_queue_is_full(open().await).await,
        Guarantee::AtLeastOnce => {
            waits_while_the_queue_is_full(open().await).await;
            delivers_again_what_was_not_handled(open().await).await;
        }
    }
    refuses_all_once_closed(open().await).await;
}

fn scope() -> Scope {
    Scope::scoped("default", "shop")
}

async fn listen(at: &dyn Messaging, scope: &Scope, listen: Listen) -> Subscription {
    at.subscribe(scope, listen).await.unwrap()
}

async fn say(at: &dyn Messaging, scope: &Scope, subject: &str, body: &str) {
    let message = Message::new(subject, Bytes::copy_from_slice(body.as_bytes()));
    at.publish(scope, message).await.unwrap();
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(LONG, subscription.next()).await;
    next.expect("a message does not come")
        .expect("the subscription ended")
}

/// The next message, which is settled as handled.
async fn take(subscription: &mut Subscription) -> Message {
    let delivery = next(subscription).await;
    let message = delivery.message.clone();
    delivery.ack().await.unwrap();
    message
}

async fn bodies(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    for _ in 0..count {
        bodies.push(String::from_utf8(take(subscription).await.body.to_vec()).unwrap());
    }
    bodies
}

async fn reaches_who_listens_as_it_was_said((at, ear): Ends) {
    let scope = scope();
    let mut one = listen(&*ear, &scope, Listen::to("orders.created")).await;
    let mut other = listen(&*ear, &scope, Listen::to("orders.created")).await;
    let said = Message {
        subject: "orders.created".to_owned(),
        body: Bytes::from_iter(0..=255),
        reply_to: Some("orders.answers".to_owned()),
        headers: vec![
            ("traceparent".to_owned(), "00-aa-bb-01".to_owned()),
            ("Color".to_owned(), "blau und grün".to_owned()),
            ("Color".to_owned(), String::new()),
        ],
    };
    at.publish(&scope, said.clone()).await.unwrap();
    say(&*at, &scope, "orders.created", "").await;
    for subscription in [&mut one, &mut other] {
        let delivery = next(subscription).await;
        assert_eq!(delivery.attempt, 1);
        assert_eq!(delivery.message.subject, said.subject);
        assert_eq!(delivery.message.body, said.body);
        assert_eq!(delivery.message.reply_to, said.reply_to);
        for name in ["traceparent", "Color"] {
            assert_eq!(delivery.message.header(name), said.header(name), "{name}");
        }
        delivery.ack().await.unwrap();
        let plain = take(subscription).await;
        assert_eq!(plain.body, "");
        assert_eq!(plain.reply_to, None);
    }
}

async fn stands_by_its_wildcards((at, ear): Ends) {
    let scope = scope();
    let mut one = listen(&*ear, &scope, Listen::to("orders.*").in_group("one")).await;
    let mut rest = listen(&*ear, &scope, Listen::to("orders.>").in_group("rest")).await;
    let mut all = listen(&*ear, &scope, Listen::to(">").in_group("all")).await;
    for subject in ["orders", "orders.a", "orders.a.b", "order.a", "orders.c"] {
        say(&*at, &scope, subject, subject).await;
    }
    assert_eq!(bodies(&mut one, 2).await, ["orders.a", "orders.c"]);
    assert_eq!(bodies(&mut rest, 3).await, ["orders.a", "orders.a.b", "orders.c"]);
    assert_eq!(
        bodies(&mut all, 5).await,
        ["orders", "orders.a", "orders.a.b", "order.a", "orders.c"]
    );
}

async fn keeps_the_order_of_one_publisher((at, ear): Ends) {
    let scope = scope();
    let mut hears = listen(&*ear, &scope, Listen::to("a.*").with_queue(200)).await;
    let mut said = Vec::new();
    for n in 0..100 {
        say(&*at, &scope, ["a.b", "a.c"][n % 2], &n.to_string()).await;
        said.push(n.to_string());
    }
    assert_eq!(bodies(&mut hears, 100).await, said);
}

async fn gives_each_group_one((at, ear): Ends) {
    const MESSAGES: usize = 60;
    let scope = scope();
    let member = |group: &str| Listen::to("work").in_group(group).with_queue(2 * MESSAGES);
    let mut members = [
        listen(&*ear, &scope, member("one")).await,
        listen(&*at, &scope, member("one")).await,
    ];
    let mut other = listen(&*ear, &scope, member("two")).await;
    for n in 0..MESSAGES {
        say(&*at, &scope, "work", &n.to_string()).await;
    }
    assert_eq!(bodies(&mut other, MESSAGES).await.len(), MESSAGES);
    let [one, two] = &mut members;
    let mut heard = BTreeMap::<String, u32>::new();
    while heard.len() < MESSAGES {
        let delivery = tokio::select! {
            delivery = next(one) => delivery,
            delivery = next(two) => delivery,
        };
        let body = String::from_utf8(delivery.message.body.to_vec()).unwrap();
        *heard.entry(body).or_default() += 1;
        delivery.ack().await.unwrap();
    }
    assert!(
        heard.values().all(|&times| times == 1),
        "several of a group got one: {heard:?}"
    );

    // Once one has left, the others get all.
    let [mut one, two] = members;
    drop(two);
    let heard = async {
        loop {
            say(&*at, &scope, "work", "later").await;
            tokio::select! {
                delivery = next(&mut one) => return delivery.ack().await.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    };
    tokio::time::timeout(LONG, heard)
        .await
        .expect("who stays hears nothing");
}

async fn keeps_apps_apart((at, ear): Ends) {
    let scopes = [
        scope(),
        Scope::scoped("default", "other"),
        Scope::scoped("other", "shop"),
        Scope::shared(),
    ];
    let mut ears = Vec::new();
    for scope in &scopes {
        ears.push(listen(&*ear, scope, Listen::to("a.*").in_group("g")).await);
    }
    for scope in &scopes {
        say(&*at, scope, "a.b", &scope.to_string()).await;
    }
    for scope in &scopes {
        say(&*at, scope, "a.last", "last").await;
    }
    for (scope, hears) in scopes.iter().zip(&mut ears) {
        assert_eq!(bodies(hears, 2).await, [scope.to_string(), "last".to_owned()]);
    }
    // An answer goes to who asked in the scope that was asked in, and to nobody else.
    for (scope, hears) in scopes.iter().zip(&mut ears) {
        let asks = at.request(scope, Message::new("a.b", "?"), LONG);
        let answers = async {
            let question = take(hears).await;
            let reply_to = question.reply_to.unwrap();
            assert!(reply_to.starts_with(INBOX), "{reply_to}");
            for other in scopes.iter().filter(|other| *other != scope) {
                say(&*ear, other, &reply_to, "of another").await;
            }
            say(&*ear, scope, &reply_to, "right").await;
        };
        let (answer, ()) = tokio::join!(asks, answers);
        assert_eq!(answer.unwrap().body, "right", "{scope}");
    }
    let nowhere = Scope::scoped("a.*", "b");
    for refused in [
        at.publish(&nowhere, Message::new("a", "")).await.unwrap_err(),
        ear.subscribe(&nowhere, Listen::to("a")).await.unwrap_err(),
        ear.subscribe(&scopes[0], Listen::to(format!("{INBOX}.>")))
            .await
            .unwrap_err(),
        ear.subscribe(&Scope::shared(), Listen::to(">"))
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(refused, MessagingError::Denied { .. }), "{refused:?}");
    }
}

async fn gives_an_answer_to_who_asked((at, ear): Ends) {
    let scope = scope();
    let mut hears = listen(&*ear, &scope, Listen::to("twice").in_group("g").with_queue(100)).await;
    let answers = async {
        for _ in 0..50 {
            let question = take(&mut hears).await;
            let twice = [&question.body[..], &question.body].concat();
            let mut answer = Message::new(question.reply_to.unwrap(), twice);
            answer.headers = question.headers;
            ear.publish(&scope, answer).await.unwrap();
        }
    };
    let asked = futures::future::join_all((0..50).map(|n| {
        let mut question = Message::new("twice", format!("{n};"));
        question.headers = vec![("number".to_owned(), n.to_string())];
        at.request(&scope, question, LONG)
    }));
    let (asked, ()) = tokio::join!(asked, answers);
    for (n, answer) in asked.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer.body, format!("{n};{n};"));
        assert_eq!(answer.header("number"), Some(n.to_string().as_str()));
    }
}

async fn tells_that_nobody_answers((at, ear): Ends) {
    let scope = scope();
    let asked = at.request(&scope, Message::new("nobody", "?"), LONG).await;
    assert!(
        matches!(asked, Err(MessagingError::NoResponders { .. })),
        "{asked:?}"
    );
    let mut hears = listen(&*ear, &scope, Listen::to("somebody")).await;
    let asked = at.request(&scope, Message::new("somebody", "?"), SHORT).await;
    assert!(matches!(asked, Err(MessagingError::Timeout { .. })), "{asked:?}");
    // An answer that comes too late is nobody's.
    let question = take(&mut hears).await;
    say(&*ear, &scope, &question.reply_to.unwrap(), "late").await;
    // And to say something that nobody hears is no fault.
    say(&*at, &scope, "nobody", "").await;
}

async fn holds_the_limits((at, ear): Ends) {
    let scope = scope();
    let mut hears = listen(&*ear, &scope, Listen::to("large")).await;
    let largest = Message::new("large", vec![7; BODY_LEN_MAX]);
    at.publish(&scope, largest.clone()).await.unwrap();
    assert_eq!(take(&mut hears).await.body, largest.body);
    let larger = Message::new("large", vec![7; BODY_LEN_MAX + 1]);
    let refused = at.publish(&scope, larger.clone()).await;
    assert!(
        matches!(refused, Err(MessagingError::TooLarge { .. })),
        "{refused:?}"
    );
    let refused = at.request(&scope, larger, LONG).await;
    assert!(
        matches!(refused, Err(MessagingError::TooLarge { .. })),
        "{refused:?}"
    );

    for subject in ["", "a..b", "a b", "a.*", ">", "a\r\nPUB x"] {
        let refused = at.publish(&scope, Message::new(subject, "")).await;
        assert!(
            matches!(refused, Err(MessagingError::BadSubject { .. })),
            "{subject:?}: {refused:?}"
        );
        let refused = at.request(&scope, Message::new(subject, ""), LONG).await;
        assert!(
            matches!(refused, Err(MessagingError::BadSubject { .. })),
            "{subject:?}: {refused:?}"
        );
        let mut message = Message::new("a", "");
        message.reply_to = Some(subject.to_owned());
        let refused = at.publish(&scope, message).await;
        assert!(
            matches!(refused, Err(MessagingError::BadSubject { .. })),
            "{subject:?}: {refused:?}"
        );
    }
    for pattern in ["", "a..b", "a*", ">.a", "a b"] {
        let refused = ear.subscribe(&scope, Listen::to(pattern)).await;
        assert!(
            matches!(refused, Err(MessagingError::BadSubject { .. })),
            "{pattern:?}: {refused:?}"
        );
    }
    let refused = ear.subscribe(&scope, Listen::to("a").in_group("a.b")).await;
    assert!(
        matches!(refused, Err(MessagingError::BadGroup { .. })),
        "{refused:?}"
    );
    let mut message = Message::new("a", "");
    message.headers = vec![("a".to_owned(), "b\r\nc: d".to_owned())];
    let refused = at.publish(&scope, message).await;
    assert!(
        matches!(refused, Err(MessagingError::BadHeader { .. })),
        "{refused:?}"
    );
}

async fn loses_nothing_that_came_by_ending((at, ear): Ends) {
    let scope = scope();
    let mut ends = listen(&*ear, &scope, Listen::to("work").in_group("g")).await;
    let mut mark = listen(&*ear, &scope, Listen::to("mark")).await;
    for n in 0..5 {
        say(&*at, &scope, "work", &n.to_string()).await;
    }
    // What is said later has come, so that this has too, but for a backend that is asked for each message.
    say(&*at, &scope, "mark", "").await;
    take(&mut mark).await;
    let mut heard = Vec::new();
    if at.guarantee() == Guarantee::AtLeastOnce {
        heard = bodies(&mut ends, 3).await;
    }
    ends.end();
    while let Some(delivery) = tokio::time::timeout(LONG, ends.next()).await.unwrap() {
        heard.push(String::from_utf8(delivery.message.body.to_vec()).unwrap());
        delivery.ack().await.unwrap();
    }
    drop(ends);
    // What is kept comes to the next one of the group.
    if heard.len() < 5 && at.guarantee() == Guarantee::AtLeastOnce {
        let mut next = listen(&*ear, &scope, Listen::to("work").in_group("g")).await;
        heard.extend(bodies(&mut next, 5 - heard.len()).await);
    }
    heard.sort();
    assert_eq!(heard, ["0", "1", "2", "3", "4"]);
}

async fn refuses_the_newest_when_the_queue_is_full((at, ear): Ends) {
    let scope = scope();
    let mut hears = listen(&*ear, &scope, Listen::to("a").with_queue(4)).await;
    for n in 0..20 {
        say(&*at, &scope, "a", &n.to_string()).await;
    }
    let dropped = async {
        while hears.dropped() < 16 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, dropped)
        .await
        .expect("what is lost is not counted");
    assert_eq!(bodies(&mut hears, 4).await, ["0", "1", "2", "3"]);
    assert_eq!(hears.dropped(), 16);
    say(&*at, &scope, "a", "again").await;
    assert_eq!(bodies(&mut hears, 1).await, ["again"]);
}

async fn waits_while_the_queue_is_full((at, ear): Ends) {
    let scope = scope();
    let mut hears = listen(&*ear, &scope, Listen::to("a").in_group("g").with_queue(4)).await;
    for n in 0..20 {
        say(&*at, &scope, "a", &n.to_string()).await;
    }
    let mut heard = bodies(&mut hears, 20).await;
    heard.sort_by_key(|body| body.parse::<u32>().unwrap());
    assert_eq!(heard, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(hears.dropped(), 0);
}

async fn delivers_again_what_was_not_handled((at, ear): Ends) {
    let scope = scope();
    let mut hears = listen(&*ear, &scope, Listen::to("a").in_group("g")).await;
    say(&*at, &scope, "a", "first").await;
    let delivery = next(&mut hears).await;
    assert_eq!(delivery.attempt, 1);
    delivery.nak(Duration::ZERO, "not now").await.unwrap();
    let again = next(&mut hears).await;
    assert_eq!((&again.message.body[..], again.attempt), (&b"first"[..], 2));
    again.ack().await.unwrap();
    // What was handled comes no more, also not to the next one of the group, which begins where this one ended.
    drop(hears);
    say(&*at, &scope, "a", "second").await;
    let mut hears = listen(&*ear, &scope, Listen::to("a").in_group("g")).await;
    let delivery = next(&mut hears).await;
    // Who left may have been given it in that moment, which counts as an attempt.
    assert_eq!(delivery.message.body, "second");
    delivery.ack().await.unwrap();
}

async fn refuses_all_once_closed((at, ear): Ends) {
    let scope = scope();
    let mut hears = listen(&*ear, &scope, Listen::to("a")).await;
    at.check().await.unwrap();
    at.close().await;
    ear.close().await;
    ear.close().await;
    assert!(tokio::time::timeout(LONG, hears.next()).await.unwrap().is_none());
    for refused in [
        at.publish(&scope, Message::new("a", "")).await.unwrap_err(),
        at.request(&scope, Message::new("a", ""), LONG).await.unwrap_err(),
        ear.subscribe(&scope, Listen::to("a")).await.unwrap_err(),
        at.check().await.unwrap_err(),
    ] {
        assert!(matches!(refused, MessagingError::Closed), "{refused:?}");
    }
}
