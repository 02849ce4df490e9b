//! Messages between actors, by `wasmcloud:messaging@0.2.0`, and subscriptions as what calls them.

use std::fmt::Write as _;

use futures::future::join_all;
use serde_json::Value;
use weft_servers::Nats;

use super::{Load, again, component};
use crate::support::guests::{HELLO, MESSENGER};
use crate::support::{AppFile, PATIENCE, Weft, full, get, request as request_to, send, weft};

/// An app `post` whose `sender` is served at `/` and listens to nothing, and `actors` beside it, each with limits;
/// `subscriptions` are `subject: orders.*, actor: a`.
fn post(actors: &[(&str, &str)], subscriptions: &[&str]) -> String {
    let guest = component(MESSENGER);
    let links = "{ wasmcloud:messaging: { provider: events }, wasi:keyvalue: { provider: counts } }";
    let mut text = "apiVersion: weft/v1\nname: post\nactors:\n".to_owned();
    for (actor, limits) in [("sender", "{}")].iter().chain(actors) {
        writeln!(
            text,
            "  {actor}: {{ component: {guest}, limits: {limits}, links: {links} }}"
        )
        .unwrap();
    }
    text += "providers:
  events: { capability: messaging, backend: lattice }
  counts: { capability: key-value, backend: redb }
routes:
  - { actor: sender }
";
    if !subscriptions.is_empty() {
        text += "subscriptions:\n";
    }
    for subscription in subscriptions {
        let provider = match subscription.contains("provider:") {
            true => "",
            false => "provider: events, ",
        };
        writeln!(text, "  - {{ {provider}{subscription} }}").unwrap();
    }
    text
}

fn with(actors: &[(&str, &str)], subscriptions: &[&str]) -> AppFile {
    AppFile::new(&post(actors, subscriptions))
}

async fn publish(weft: &Weft, subject: &str, body: &str) {
    let reply = weft
        .send("POST", &format!("/publish/{subject}"), body.to_owned())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

async fn request(weft: &Weft, subject: &str, body: &str) -> (u16, String) {
    let reply = weft
        .send("POST", &format!("/request/{subject}"), body.to_owned())
        .await;
    (reply.status, reply.text().to_owned())
}

/// How often a message was handled, and on which subject last, by `/heard/BODY` below where a `messenger` is.
async fn heard(weft: &Weft, path: &str) -> String {
    weft.get(path).await.text().trim_end().to_owned()
}

async fn wait_until_heard(weft: &Weft, path: &str, expected: &str) {
    let wait = async {
        while heard(weft, path).await != expected {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!(
            "{path} is {}, not {expected}: {}",
            heard(weft, path).await,
            weft.log()
        );
    }
}

#[tokio::test]
async fn on_servers_of_nats_messages_reach_who_subscribed_on_another_host_also_after_the_server_was_gone() {
    let mut server = Nats::start_with_jetstream("");
    for backend in ["nats", "jetstream"] {
        let on_server = format!("backend: {backend}, config: {{ url: \"{}\" }}", server.url());
        let reader = post(&[("reader", "{}")], &["subject: orders.*, actor: reader"]);
        let [reader, sender] =
            [reader, post(&[], &[])].map(|text| AppFile::new(&text.replace("backend: lattice", &on_server)));
        let (reader, sender) = (Weft::app(&reader, &[]), Weft::app(&sender, &[]));
        for round in ["first", "second"] {
            // Connections are made, and made again, by themselves.
            let answered = async {
                while request(&sender, "orders.get", "hello").await != (200, "HELLO".to_owned()) {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(PATIENCE, answered).await.unwrap();
            publish(&sender, "orders.created", round).await;
            wait_until_heard(&reader, &format!("/heard/{round}"), "1 orders.created").await;
            if round == "first" {
                server.kill();
                server.restart();
            }
        }
    }
}

#[tokio::test]
async fn what_is_published_reaches_who_subscribed_and_a_request_is_answered() {
    let app = with(
        &[("reader", "{}"), ("worker", "{}")],
        &[
            "subject: orders.*, actor: reader",
            "subject: jobs.>, actor: worker",
        ],
    );
    let weft = Weft::app(&app, &[]);
    publish(&weft, "orders.created", "one").await;
    wait_until_heard(&weft, "/heard/one", "1 orders.created").await;
    publish(&weft, "orders.created.twice", "two").await;
    publish(&weft, "orders", "two").await;
    publish(&weft, "orders.last", "last").await;
    wait_until_heard(&weft, "/heard/last", "1 orders.last").await;
    assert_eq!(
        heard(&weft, "/heard/two").await,
        "0",
        "a subject that does not match was heard"
    );

    assert_eq!(
        request(&weft, "orders.get", "hello").await,
        (200, "HELLO".to_owned())
    );
    // One passes a question on, and another answers it.
    let passed_on = request(&weft, "orders.get", "forward:jobs.today").await;
    assert_eq!(passed_on, (200, "FORWARDED".to_owned()));
    let nobody = request(&weft, "nobody", "?").await;
    assert_eq!(nobody, (502, "nobody listens on `nobody`".to_owned()));
    let late = request(&weft, "orders.get?timeout=50", "fail").await;
    assert_eq!(late, (502, "no answer on `orders.get` in time".to_owned()));
    let wrong = request(&weft, "orders.*", "?").await;
    assert!(
        wrong.1.starts_with("`orders.*` has a wildcard where none can be"),
        "{wrong:?}"
    );

    let listed = weft.cli(&["get", "subscriptions"]).await;
    assert!(
        listed.contains("default/post/reader  orders.*  default/post/events  reader  false   true"),
        "{listed}"
    );
    let listed: Value = serde_json::from_str(
        &weft
            .cli(&["get", "subscriptions", "worker", "--output", "json"])
            .await,
    )
    .unwrap();
    assert_eq!(listed["subscriptions"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["subscriptions"][0]["subject"], "jobs.>");
}

#[tokio::test]
async fn of_a_group_one_handles_each_message_and_each_group_gets_all() {
    let app = with(
        &[("a", "{}"), ("b", "{}"), ("c", "{}")],
        &[
            "subject: work, actor: a, group: workers",
            "subject: work, actor: b, group: workers",
            "subject: work, actor: c",
        ],
    );
    let weft = Weft::app(&app, &[]);
    let bodies: Vec<_> = (0..20).map(|n| format!("n{n}")).collect();
    join_all(bodies.iter().map(|body| publish(&weft, "work", body))).await;
    for body in &bodies {
        wait_until_heard(&weft, &format!("/heard/{body}"), "2 work").await;
    }
    let metrics = get(weft.monitor, "/metrics").await.text().to_owned();
    let handled = |actor: &str| {
        let series = format!(
            "weft_message_count_total{{weft_outcome=\"handled\",weft_actor=\"default/post/{actor}\"}} "
        );
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&series))
            .map_or(0, |count| count.parse::<u32>().unwrap())
    };
    assert_eq!((handled("a") + handled("b"), handled("c")), (20, 20), "{metrics}");
    assert!(handled("a") > 0 && handled("b") > 0);
}

#[tokio::test]
async fn two_apps_on_one_provider_meet_only_where_both_say_shared() {
    let app = post(
        &[("reader", "{}")],
        &[
            "subject: a.*, actor: reader",
            "subject: b.*, actor: reader, shared: true",
        ],
    );
    let events = "backend: lattice";
    let app = AppFile::new(&app.replace(events, &format!("{events}, allowFrom: [other]")));
    let guest = component(MESSENGER);
    let other = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: other
actors:
  apart:
    component: {guest}
    links: {{ wasmcloud:messaging: {{ provider: default/post/events }}, wasi:keyvalue: {{ provider: counts }} }}
  shares:
    component: {guest}
    links: {{ wasmcloud:messaging: {{ provider: default/post/events, shared: true }}, wasi:keyvalue: {{ provider: counts }} }}
providers:
  counts: {{ capability: key-value, backend: memory }}
routes:
  - {{ actor: apart, path: /apart, stripPrefix: true }}
  - {{ actor: shares, path: /shares, stripPrefix: true }}
subscriptions:
  - {{ provider: default/post/events, subject: '*.*', actor: apart }}
"
    ));
    let weft = Weft::app(&app, &[]);
    weft.cli(&["deploy", other.path().to_str().unwrap()]).await;
    for (at, subject, body) in [
        ("/apart", "a.x", "of-other"),
        ("", "a.x", "of-post"),
        ("/shares", "b.x", "shared"),
    ] {
        let reply = weft.send("POST", &format!("{at}/publish/{subject}"), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    wait_until_heard(&weft, "/heard/of-post", "1 a.x").await;
    wait_until_heard(&weft, "/heard/shared", "1 b.x").await;
    wait_until_heard(&weft, "/apart/heard/of-other", "1 a.x").await;
    for path in ["/heard/of-other", "/apart/heard/of-post", "/apart/heard/shared"] {
        assert_eq!(heard(&weft, path).await, "0", "{path}");
    }
}

#[tokio::test]
async fn a_handler_that_fails_harms_nothing_and_is_counted() {
    let app = with(&[("reader", "{}")], &["subject: orders.*, actor: reader"]);
    let weft = Weft::app(&app, &[]);
    for body in ["trap", "fail", "fine"] {
        publish(&weft, "orders.created", body).await;
    }
    wait_until_heard(&weft, "/heard/fine", "1 orders.created").await;
    weft.wait_for_log("a message that traps").await;
    weft.wait_for_log("a message that fails").await;
    let metrics = get(weft.monitor, "/metrics").await.text().to_owned();
    let series = "weft_message_count_total{weft_outcome=\"lost\",weft_actor=\"default/post/reader\"} 2\n";
    assert!(metrics.contains(series), "{metrics}");
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn messages_wait_for_a_place_of_a_full_actor() {
    let limits = "{ concurrency: 1, queue: 0 }";
    let app = with(
        &[("reader", limits)],
        &[
            "subject: orders.*, actor: reader",
            "subject: '*.slow', actor: reader",
        ],
    );
    let weft = Weft::app(&app, &[]);
    // The two subscriptions have one place between them.
    for n in 0..10 {
        publish(&weft, "orders.fast", &format!("slow:{n}")).await;
        publish(&weft, "jobs.slow", &format!("slow:{n}")).await;
    }
    for n in 0..10 {
        let path = format!("/heard/slow:{n}");
        let wait = async {
            while !heard(&weft, &path).await.starts_with("2 ") {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a message was lost");
    }
}

#[tokio::test]
async fn a_subscription_that_changes_under_load_loses_no_message_and_repeats_none() {
    let actors = [("reader", "{}")];
    let app = with(&actors, &["subject: orders.*, actor: reader"]);
    let weft = Weft::app(&app, &[]);
    let texts = [
        post(&actors, &["subject: orders.>, actor: reader"]),
        post(
            &[("reader", "{ timeout: 9s }")],
            &["subject: orders.>, actor: reader"],
        ),
        post(&actors, &["subject: '*.created', actor: reader"]),
        post(
            &actors,
            &[
                "subject: '*.created', actor: reader",
                "subject: orders.created, actor: reader",
            ],
        ),
        post(&actors, &["subject: orders.*, actor: reader"]),
    ];
    let asked = std::cell::RefCell::new(Vec::new());
    // Each is answered by the one that handles it, so that one that is lost or late is seen.
    let ask = |client: usize, turn: usize| {
        let (weft, asked) = (&weft, &asked);
        async move {
            let body = format!("n{client}-{turn}");
            let answer = request(weft, "orders.created", &body).await;
            assert_eq!(answer, (200, body.to_uppercase()), "{}", weft.log());
            asked.borrow_mut().push(body);
        }
    };
    Load::during(4, ask, async |load| {
        for text in &texts {
            app.write(text);
            weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
            load.more(20).await;
        }
    })
    .await;
    for body in asked.take() {
        assert_eq!(heard(&weft, &format!("/heard/{body}")).await, "1 orders.created");
    }
}

#[tokio::test]
async fn a_host_that_stops_first_handles_what_it_has_accepted() {
    let app = with(
        &[("reader", "{ concurrency: 2 }")],
        &["subject: orders.*, actor: reader"],
    );
    let weft = Weft::app(&app, &[]);
    for n in 0..6 {
        publish(&weft, "orders.created", &format!("slow:{}", 200 + n)).await;
    }
    let weft = again(weft.stop());
    for n in 0..6 {
        wait_until_heard(&weft, &format!("/heard/slow:{}", 200 + n), "1 orders.created").await;
    }
}

#[tokio::test]
async fn a_subscription_of_an_actor_that_handles_nothing_is_refused_where_it_is_written() {
    let hello = component(HELLO);
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1
name: post
actors:
  hello: {{ component: {hello} }}
providers:
  events: {{ capability: messaging, backend: lattice }}
subscriptions:
  - {{ provider: events, subject: orders.*, actor: hello }}
"
    ));
    let data = tempfile::tempdir().unwrap();
    let path = app.path();
    let output = weft(&[
        "up",
        "--http",
        "127.0.0.1:0",
        "--data",
        data.path().to_str().unwrap(),
        path.to_str().unwrap(),
    ]);
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "app.yaml:8:51: default/post/hello exports no wasmcloud:messaging/handler@0.2.0";
    assert!(error.contains(expected), "{error}");
}

#[tokio::test]
async fn the_trace_of_who_publishes_goes_on_in_the_handler() {
    let app = with(&[("reader", "{}")], &["subject: orders.*, actor: reader"]);
    let weft = Weft::app(&app, &[]);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = request_to("POST", "/publish/orders.created")
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-00"));
    send(weft.http, request.body(full("trap")).unwrap()).await;
    weft.wait_for_log("a message that traps").await;
    weft.wait_for_log(trace).await;
}
