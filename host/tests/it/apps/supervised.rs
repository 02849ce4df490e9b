//! Backends that go away and come back: what is seen of it, and what calls get meanwhile.

use serde_json::Value;
use weft_servers::{Certificate, Nats, Postgres, Redis};

use super::{Load, component, kv_app};
use crate::support::guests::{MESSENGER, SQL};
use crate::support::{AppFile, Weft, get, wait_until};

const VALUES: &str = "default/store/values";

fn redis_at(url: &str) -> AppFile {
    kv_app(&format!("redis, config: {{ url: \"{url}\" }}"))
}

fn sql_app(backend: &str) -> AppFile {
    let sql = component(SQL);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: tables
actors:
  sql:
    component: {sql}
    links:
      weft:sql: {{ provider: tables }}
providers:
  tables: {{ capability: sql, backend: {backend} }}
routes:
  - actor: sql
"
    ))
}

fn postgres_at(url: &str) -> AppFile {
    sql_app(&format!("postgres, config: {{ url: \"{url}\" }}"))
}

/// The first item of `weft get KIND`.
async fn first(weft: &Weft, kind: &str) -> Value {
    let answer = weft.cli(&["get", kind, "--output", "json"]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer[kind][0].clone()
}

async fn wait_for_state(weft: &Weft, state: &str) -> Value {
    let mut provider = Value::Null;
    for _ in 0..600 {
        provider = first(weft, "providers").await;
        if provider["state"] == state {
            return provider;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the provider never was {state}: {provider}\n{}", weft.log());
}

async fn metric(weft: &Weft, name: &str, provider: &str) -> String {
    let text = get(weft.monitor, "/metrics").await.text().to_owned();
    let start = format!("{name}{{weft_provider=\"{provider}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start}")).to_owned()
}

#[tokio::test]
async fn a_store_whose_server_is_gone_is_a_condition_and_is_back_by_itself() {
    let mut server = Redis::start();
    let weft = Weft::app(&redis_at(&server.url()), &[]);
    wait_for_state(&weft, "up").await;
    assert_eq!(metric(&weft, "weft_provider_up", VALUES).await, "1");
    assert_eq!(first(&weft, "apps").await["conditions"], 0);

    // Nobody calls it meanwhile.
    server.kill();
    let provider = wait_for_state(&weft, "down").await;
    assert_ne!(provider["reason"], Value::Null);
    assert!(provider["since"].as_u64().unwrap() > 1_600_000_000, "{provider}");
    let link = first(&weft, "links").await;
    assert!(link["condition"].as_str().unwrap().contains(VALUES), "{link}");
    // The provider and the link to it.
    assert_eq!(first(&weft, "apps").await["conditions"], 2);
    let listed = weft.cli(&["get", "conditions"]).await;
    assert!(listed.contains("link default/store/kv wasi:keyvalue"), "{listed}");
    let table = weft.cli(&["get", "providers"]).await;
    assert!(table.contains("down since"), "{table}");
    for _ in 0..3 {
        let refused = weft.get("/one/a").await;
        assert_eq!(refused.status, 500);
        assert!(refused.text().contains("unavailable"), "{}", refused.text());
    }
    assert_eq!(metric(&weft, "weft_provider_up", VALUES).await, "0");
    assert_eq!(metric(&weft, "weft_provider_circuit_open", VALUES).await, "1");
    assert_eq!(metric(&weft, "weft_provider_refused_total", VALUES).await, "3");

    server.restart();
    wait_for_state(&weft, "up").await;
    assert_eq!(weft.send("PUT", "/one/a", "1").await.status, 200);
    assert_eq!(metric(&weft, "weft_provider_circuit_open", VALUES).await, "0");
    assert_eq!(metric(&weft, "weft_provider_downs_total", VALUES).await, "1");
    assert_eq!(first(&weft, "apps").await["conditions"], 0);
    let log = weft.log();
    assert_eq!(log.matches("the provider does not answer").count(), 1, "{log}");
    assert_eq!(log.matches("the provider answers again").count(), 1, "{log}");
}

#[tokio::test]
async fn a_password_that_is_wrong_is_told_and_keeps_no_host_from_starting() {
    let server = Redis::start_with(&["--requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let weft = Weft::app(&redis_at(&url), &[]);
    let provider = wait_for_state(&weft, "down").await;
    assert!(
        provider["reason"].as_str().unwrap().contains("password"),
        "{provider}"
    );
    assert_eq!(weft.get("/one/a").await.status, 403);
    // The password is mended where it was wrong.
    let app = redis_at(&format!("redis://:right@127.0.0.1:{}", server.port()));
    weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
    assert_eq!(weft.send("PUT", "/one/a", "1").await.status, 200);
    wait_for_state(&weft, "up").await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_a_condition_that_says_so_until_it_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::expired(folder.path());
    let port = weft_servers::free_port();
    let mut server = Redis::start_with_tls(port, &certificate);
    let weft = Weft::app(
        &kv_app(&format!(
            "redis, config: {{ url: \"rediss://127.0.0.1:{port}\", caFile: \"{}\" }}",
            certificate.authority.display()
        )),
        &[],
    );
    let provider = wait_for_state(&weft, "down").await;
    let reason = provider["reason"].as_str().unwrap();
    assert!(reason.contains("certificate expired"), "{reason}");
    certificate.renew();
    server.restart();
    wait_for_state(&weft, "up").await;
    assert_eq!(weft.send("PUT", "/one/a", "1").await.status, 200);
}

#[tokio::test]
async fn a_database_that_is_gone_or_lets_nobody_in_is_a_condition_with_the_servers_reason() {
    let mut server = Postgres::start();
    let weft = Weft::app(&postgres_at(&server.url()), &[]);
    let query = || weft.send("POST", "/query", "{\"sql\": \"SELECT 1 AS n\"}");
    assert_eq!(query().await.status, 200);
    wait_for_state(&weft, "up").await;
    server.kill();
    // The call that meets it has it looked at: calls that were answered spared it the next look.
    assert_ne!(query().await.status, 200);
    let provider = wait_for_state(&weft, "down").await;
    assert!(
        provider["reason"].as_str().unwrap().contains("connect"),
        "{provider}"
    );
    assert_ne!(query().await.status, 200);
    server.restart();
    wait_for_state(&weft, "up").await;
    assert_eq!(query().await.status, 200);

    let wrong = server.url().replace(Postgres::PASSWORD, "wrong");
    weft.cli(&["deploy", postgres_at(&wrong).path().to_str().unwrap()])
        .await;
    let provider = wait_for_state(&weft, "down").await;
    assert!(
        provider["reason"]
            .as_str()
            .unwrap()
            .contains("password authentication failed"),
        "{provider}"
    );
}

/// Providers of messages said nothing of themselves, and were "up" while their server was gone.
#[tokio::test]
async fn a_server_of_messages_that_is_gone_or_lets_nobody_in_is_a_condition_and_is_back_by_itself() {
    let guest = component(MESSENGER);
    for backend in ["nats", "jetstream"] {
        let mut server = Nats::start_with_jetstream("authorization { user: weft, password: secret }");
        let port = server.port();
        let with_password = |password: &str| {
            AppFile::new(&format!(
                "
apiVersion: weft/v1
name: post
actors:
  sender: {{ component: {guest}, links: {{ wasmcloud:messaging: {{ provider: events }}, wasi:keyvalue: {{ provider: words }} }} }}
providers:
  words: {{ capability: key-value, backend: memory }}
  events: {{ capability: messaging, backend: {backend}, config: {{ url: \"nats://weft:{password}@127.0.0.1:{port}\" }} }}
routes:
  - {{ actor: sender }}
"
            ))
        };
        let app = with_password("secret");
        let weft = Weft::app(&app, &[]);
        let publish = || weft.send("POST", "/publish/orders.created", "one");
        wait_for_state(&weft, "up").await;
        assert_eq!(publish().await.status, 200, "{backend}: {}", weft.log());

        server.kill();
        // The call that meets it has it looked at.
        assert_ne!(publish().await.status, 200, "{backend}");
        let provider = wait_for_state(&weft, "down").await;
        assert_ne!(provider["reason"], Value::Null, "{backend}");
        let conditions = weft.cli(&["get", "conditions"]).await;
        for of in [
            "provider default/post/events",
            "link default/post/sender wasmcloud:messaging",
        ] {
            assert!(conditions.contains(of), "{backend}: {conditions}");
        }
        let begun = std::time::Instant::now();
        let refused = publish().await;
        assert!(
            refused.text().contains("unavailable"),
            "{backend}: {}",
            refused.text()
        );
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{backend}");
        let events = "default/post/events";
        assert_eq!(metric(&weft, "weft_provider_up", events).await, "0", "{backend}");
        assert_eq!(
            metric(&weft, "weft_provider_circuit_open", events).await,
            "1",
            "{backend}"
        );

        server.restart();
        wait_for_state(&weft, "up").await;
        assert_eq!(publish().await.status, 200, "{backend}: {}", weft.log());
        assert_eq!(first(&weft, "apps").await["conditions"], 0, "{backend}");

        weft.cli(&["deploy", with_password("wrong").path().to_str().unwrap()])
            .await;
        let provider = wait_for_state(&weft, "down").await;
        let reason = provider["reason"].as_str().unwrap();
        assert!(reason.contains("refuses the user"), "{backend}: {reason}");
        weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
        wait_for_state(&weft, "up").await;
        assert_eq!(publish().await.status, 200, "{backend}: {}", weft.log());
    }
}

/// What was open stayed open until the next start, whatever the new address said.
#[tokio::test]
async fn a_provider_whose_address_changes_is_at_the_new_one_and_no_call_fails() {
    let (one, two) = (Redis::start(), Redis::start());
    let apps = [redis_at(&one.url()), redis_at(&two.url())];
    let weft = Weft::app(&apps[0], &[]);
    let write = async |client: usize, turn: usize| {
        let reply = weft.send("PUT", &format!("/one/{client}-{turn}"), "v").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    Load::during(4, write, async |load| {
        for app in apps.iter().rev().chain(&apps) {
            load.more(50).await;
            weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
        }
        load.more(50).await;
    })
    .await;
    assert_eq!(weft.send("PUT", "/one/last", "v").await.status, 200);
    assert_eq!(two.cli(&["get", "weft:{default/store/one}:v:last"]).trim(), "v");
    // What nobody uses any more is closed.
    let clients = || one.cli(&["client", "list"]).matches(" addr=").count();
    wait_until("the old server has no client but this", || clients() == 1).await;
}

#[tokio::test]
async fn a_backend_that_is_changed_under_load_fails_no_call() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let (redb, on_redis) = (kv_app("redb"), redis_at(&redis.url()));
    let (sqlite, on_postgres) = (sql_app("sqlite"), postgres_at(&postgres.url()));
    let weft = Weft::app(&redb, &[]);
    let write = async |client: usize, turn: usize| {
        let reply = weft.send("PUT", &format!("/one/{client}-{turn}"), "v").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    Load::during(4, write, async |load| {
        for app in [&on_redis, &redb, &on_redis] {
            load.more(30).await;
            weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
        }
        load.more(30).await;
    })
    .await;
    drop(weft);
    let weft = Weft::app(&sqlite, &[]);
    let query = async |_: usize, _: usize| {
        let reply = weft.send("POST", "/query", "{\"sql\": \"SELECT 1 AS n\"}").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    Load::during(4, query, async |load| {
        for app in [&on_postgres, &sqlite, &on_postgres] {
            load.more(30).await;
            weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
        }
        load.more(30).await;
    })
    .await;
}
