//! Secrets: put by people, read by actors and providers, rotated under load, and seen nowhere else.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use weft_observability::test_collector::TestCollector;
use weft_servers::{Postgres, Redis};

use super::{Load, again, component};
use crate::support::guests::{KV, SECRET, SQL};
use crate::support::{AppFile, Weft};

/// `weft secret put` of a host, with the value on stdin.
pub(crate) async fn put(weft: &Weft, name: &str, value: impl AsRef<[u8]>) -> std::process::Output {
    put_by(name, value, &["--data", weft.data.path().to_str().unwrap()]).await
}

/// The same by whatever way `args` say.
pub(crate) async fn put_by(name: &str, value: impl AsRef<[u8]>, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["secret", "put", name]).args(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let value = value.as_ref().to_vec();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // It may refuse before it has read.
        let _ = child.stdin.take().unwrap().write_all(&value);
        child.wait_with_output().unwrap()
    });
    run.await.unwrap()
}

async fn must_put(weft: &Weft, name: &str, value: impl AsRef<[u8]>) -> String {
    let output = put(weft, name, value).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    format!("{}{error}", String::from_utf8_lossy(&output.stdout))
}

/// An app of the guest `secret`, served at `/`.
pub(crate) fn secret_app(reuse: u32) -> AppFile {
    let guest = component(SECRET);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: safe
actors:
  reader:
    component: {guest}
    limits: {{ reuse: {reuse} }}
    secrets:
      password: secret:db-password
      token: env:WEFT_SECRET_TOKEN
      certificate: file:tls/cert
  bare: {{ component: {guest} }}
routes:
  - {{ actor: reader, path: / }}
  - {{ actor: bare, path: /bare, stripPrefix: true }}
"
    ))
}

/// The files of a folder and of those below it, joined.
fn contents(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all.extend(contents(&entry.path()));
        } else if kind.is_file() {
            all.extend(std::fs::read(entry.path()).unwrap());
        }
    }
    all
}

fn has(bytes: &[u8], value: &str) -> bool {
    bytes
        .windows(value.len())
        .any(|window| window == value.as_bytes())
}

#[tokio::test]
async fn an_actor_reveals_the_secrets_that_it_was_given_and_the_next_invocation_sees_what_was_put() {
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("tls")).unwrap();
    std::fs::write(files.path().join("tls/cert"), b"\xff\x00\n").unwrap();
    let app = secret_app(1_000);
    let weft = Weft::up(
        &[],
        &["--secret-files", files.path().to_str().unwrap()],
        &[("WEFT_SECRET_TOKEN", "from the environment")],
        Arc::new(tempfile::tempdir().unwrap()),
    );
    weft.wait_for_log("made the root key").await;
    must_put(&weft, "safe/db-password", "hunter2\n").await;
    weft.cli(&["deploy", app.path().to_str().unwrap()]).await;

    assert_eq!(weft.get("/password").await.text(), "string: hunter2");
    assert_eq!(weft.get("/token").await.text(), "string: from the environment");
    assert_eq!(weft.get("/certificate").await.text(), "bytes: ff000a");
    for path in ["/other", "/db-password", "/bare/password"] {
        let denied = weft.get(path).await;
        assert_eq!((denied.status, denied.text()), (404, "not-found"), "{path}");
    }

    // An instance that is reused, and one that kept a handle.
    assert_eq!(weft.get("/password?held=yes").await.text(), "held");
    must_put(&weft, "db-password", "hunter3").await;
    assert_eq!(weft.get("/password").await.text(), "string: hunter3");

    // A file is looked at again by and by.
    std::fs::write(files.path().join("tls/cert"), "renewed\n").unwrap();
    for _ in 0..600 {
        if weft.get("/certificate").await.text() == "string: renewed" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(weft.get("/certificate").await.text(), "string: renewed");

    // Another start opens what was sealed before.
    let weft = again(weft.stop());
    assert_eq!(weft.get("/password").await.text(), "string: hunter3");
    let missing = weft.get("/token").await;
    assert_eq!(missing.status, 502);
    assert!(
        missing.text().contains("WEFT_SECRET_TOKEN is not set"),
        "{}",
        missing.text()
    );
}

#[tokio::test]
async fn a_secret_is_listed_by_name_and_version_and_what_is_not_there_is_a_condition() {
    let app = secret_app(1);
    let weft = Weft::up(&[], &[], &[], Arc::new(tempfile::tempdir().unwrap()));
    let refused = put(&weft, "db-password", "x").await;
    assert_eq!(refused.status.code(), Some(3));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("name its app, as in shop/db-password"), "{error}");

    let deployed = weft.try_cli(&["deploy", app.path().to_str().unwrap()]).await;
    let told = String::from_utf8_lossy(&deployed.stderr).into_owned();
    assert!(deployed.status.success(), "{told}");
    assert!(
        told.contains("the secret default/safe/db-password is not there: put it by `weft secret put default/safe/db-password`"),
        "{told}"
    );
    assert!(told.contains("no folder of secrets"), "{told}");
    assert_eq!(weft.get("/password").await.status, 502);

    must_put(&weft, "safe/db-password", "one").await;
    must_put(&weft, "db-password", "two").await;
    assert_eq!(weft.get("/password").await.text(), "string: two");
    let listed: Value =
        serde_json::from_str(&weft.cli(&["secret", "list", "--output", "json"]).await).unwrap();
    let secret = &listed["secrets"][0];
    assert_eq!(secret["name"], "default/safe/db-password");
    assert_eq!(secret["version"], 2);
    assert_eq!(secret["used_by"][0], "default/safe/reader");
    let table = weft.cli(&["get", "secrets"]).await;
    assert!(table.starts_with("NAME") && !table.contains("two"), "{table}");

    let deleted = weft.cli(&["secret", "delete", "db-password"]).await;
    assert!(deleted.contains("- secret default/safe/db-password"), "{deleted}");
    assert_eq!(weft.get("/password").await.status, 502);
    let gone = weft.try_cli(&["secret", "delete", "safe/db-password"]).await;
    assert_eq!(gone.status.code(), Some(3));
}

#[tokio::test]
async fn a_new_root_key_is_taken_while_the_host_runs_and_an_old_one_is_not_needed_after_all_is_sealed_anew() {
    let app = secret_app(1);
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[], &[], &[], data.clone());
    must_put(&weft, "safe/db-password", "kept").await;
    weft.try_cli(&["deploy", app.path().to_str().unwrap()]).await;
    let before = weft.cli(&["secret", "key", "show", "--output", "json"]).await;
    let before: Value = serde_json::from_str(&before).unwrap();

    let file = data.path().join("root.key");
    weft.cli(&["secret", "key", "new"]).await;
    let after = weft.cli(&["secret", "key", "show", "--output", "json"]).await;
    let after: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(after["keys"].as_array().unwrap().len(), 2);
    assert_ne!(after["public"], before["public"]);
    let resealed = weft.cli(&["secret", "reseal"]).await;
    let new = after["keys"][1].as_str().unwrap();
    assert!(
        resealed.contains(&format!("~ secret default/safe/db-password (key {new})")),
        "{resealed}"
    );
    assert!(
        weft.cli(&["secret", "reseal"])
            .await
            .contains("nothing to change")
    );
    assert_eq!(weft.get("/password").await.text(), "string: kept");

    // Without the old key.
    let data = weft.stop();
    let text = std::fs::read_to_string(&file).unwrap();
    let newest = text.lines().last().unwrap();
    std::fs::write(&file, format!("{newest}\n")).unwrap();
    let weft = again(data);
    assert_eq!(weft.get("/password").await.text(), "string: kept");

    // Without any that fits, what is sealed stays closed, and says what to do.
    let data = weft.stop();
    std::fs::remove_file(&file).unwrap();
    let weft = again(data);
    let closed = weft.get("/password").await;
    assert_eq!(closed.status, 502);
    assert!(
        closed.text().contains(&format!("sealed to the root key {new}")),
        "{}",
        closed.text()
    );
    // The right file heals it while the host runs.
    std::fs::write(&file, text).unwrap();
    weft.wait_for_log("opened a secret").await;
    for _ in 0..600 {
        if weft.get("/password").await.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(weft.get("/password").await.text(), "string: kept");
}

fn kv_with_secrets(server: &Redis) -> AppFile {
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv:
    component: {}
    links:
      wasi:keyvalue: {{ provider: values }}
providers:
  values:
    capability: key-value
    backend: redis
    config: {{ url: \"redis://weft:${{secret:redis-password}}@127.0.0.1:{}\" }}
routes:
  - actor: kv
",
        component(KV),
        server.port()
    ))
}

/// Redis takes several passwords for a user, so that there is always one that is good.
#[tokio::test]
async fn a_password_of_redis_is_rotated_under_load_and_no_call_fails() {
    // Of what has a meaning in an address.
    let (first, second) = ("p@ss:w/rd?#1", "an%ther o&e");
    let server = Redis::start();
    let allowed = server.cli(&[
        "acl",
        "setuser",
        "weft",
        "on",
        &format!(">{first}"),
        "~*",
        "+@all",
    ]);
    assert_eq!(allowed.trim(), "OK");
    let app = kv_with_secrets(&server);
    let weft = Weft::up(&[], &[], &[], Arc::new(tempfile::tempdir().unwrap()));
    must_put(&weft, "store/redis-password", first).await;
    weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
    assert_eq!(weft.send("PUT", "/one/a", "1").await.status, 200);

    let visit = async |client: usize, turn: usize| {
        let key = format!("/one/{client}");
        let written = weft.send("PUT", &key, turn.to_string()).await;
        assert_eq!(written.status, 200, "{}", written.text());
        let read = weft.get(&key).await;
        assert_eq!((read.status, read.text()), (200, &*turn.to_string()));
    };
    Load::during(8, visit, async |load| {
        load.more(100).await;
        server.cli(&["acl", "setuser", "weft", &format!(">{second}")]);
        must_put(&weft, "redis-password", second).await;
        load.more(100).await;
        server.cli(&["acl", "setuser", "weft", &format!("<{first}")]);
        load.more(100).await;
    })
    .await;
    // Whoever still had the old password could not come back.
    server.cli(&["client", "kill", "user", "weft"]);
    let healed = async {
        for _ in 0..600 {
            if weft.get("/one/a").await.status == 200 {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        false
    };
    assert!(healed.await, "the new password is not used: {}", weft.log());
}

#[tokio::test]
async fn a_role_of_postgres_is_exchanged_under_load_and_no_call_fails() {
    let server = Postgres::start();
    let sql = component(SQL);
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: tables
actors:
  sql:
    component: {sql}
    links:
      weft:sql: {{ provider: tables }}
providers:
  tables:
    capability: sql
    backend: postgres
    config: {{ url: \"${{secret:address}}\", connections: 4 }}
routes:
  - actor: sql
"
    ));
    let weft = Weft::up(&[], &[], &[], Arc::new(tempfile::tempdir().unwrap()));
    must_put(&weft, "tables/address", server.url()).await;
    weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
    let execute = async |statement: &str| {
        let body = serde_json::json!({ "sql": statement }).to_string();
        let done = weft.send("POST", "/execute", body).await;
        assert_eq!(done.status, 200, "{statement}: {}", done.text());
    };
    execute("CREATE TABLE t (n BIGINT)").await;
    execute("CREATE ROLE next LOGIN PASSWORD 'new' SUPERUSER").await;
    let visit = async |_: usize, _: usize| execute("INSERT INTO t VALUES (1)").await;
    Load::during(6, visit, async |load| {
        load.more(50).await;
        let next = format!("postgres://next:new@127.0.0.1:{}/weft", server.port());
        must_put(&weft, "address", next).await;
        load.more(50).await;
    })
    .await;
    let body = serde_json::json!({ "sql": "SELECT current_user" }).to_string();
    let user = weft.send("POST", "/query", body).await;
    assert!(user.text().contains("next"), "{}", user.text());
}

#[tokio::test]
async fn a_value_is_in_no_log_answer_metric_or_file_also_when_it_is_wrong() {
    let (right, wrong, typed) = ("s3cret-right-9f2", "s3cret-wrong-7c1", "s3cret-typed-5d0");
    let server = Redis::start();
    server.cli(&[
        "acl",
        "setuser",
        "weft",
        "on",
        &format!(">{right}"),
        "~*",
        "+@all",
    ]);
    let app = kv_with_secrets(&server);
    let clear = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: clear
providers:
  values: {{ capability: key-value, backend: redis, config: {{ url: \"redis://weft:{typed}@127.0.0.1:1\" }} }}
  odd: {{ capability: key-value, backend: redis, config: {{ url: \"redis://h\", deployment: \"${{secret:odd}}\" }} }}
"
    ));
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let env = [
        ("WEFT_LOG", "trace"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let weft = Weft::up(&[], &[], &env, Arc::new(tempfile::tempdir().unwrap()));
    let mut said = String::new();
    said += &must_put(&weft, "store/redis-password", right).await;
    said += &must_put(&weft, "clear/odd", wrong).await;
    said += &weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
    let deployed = weft.try_cli(&["deploy", clear.path().to_str().unwrap()]).await;
    said += &String::from_utf8_lossy(&deployed.stdout);
    said += &String::from_utf8_lossy(&deployed.stderr);
    assert!(said.contains("deployment is"), "{said}");
    assert_eq!(weft.send("PUT", "/one/a", "1").await.status, 200);

    said += &must_put(&weft, "redis-password", wrong).await;
    let mut failed = weft.get("/one/a").await;
    for _ in 0..600 {
        if failed.status == 403 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        failed = weft.get("/one/a").await;
    }
    assert_eq!((failed.status, failed.text()), (403, "access-denied\n"));
    for kind in [
        "apps",
        "actors",
        "providers",
        "links",
        "hosts",
        "conditions",
        "secrets",
    ] {
        for output in ["text", "json"] {
            said += &weft.cli(&["get", kind, "--output", output]).await;
        }
    }
    let metrics = crate::support::get(weft.monitor, "/metrics").await;
    assert!(
        metrics.text().contains("weft_secret_count 2"),
        "{}",
        metrics.text()
    );
    said += metrics.text();
    said += &weft.cli(&["logs"]).await;
    said += &weft.log();
    // The host sends what it has of spans before it ends.
    let data = weft.stop();
    let spans = collector.spans();
    assert!(
        spans.iter().any(|span| span.name == "GET"),
        "the calls were not traced: {spans:?}"
    );
    said.extend(spans.iter().map(|span| span.raw.as_str()));
    for value in [right, wrong] {
        assert!(!said.contains(value), "{value} is told");
    }
    // One in clear is the manifest's, and so in the control store; but it is not shown.
    assert!(!said.contains(typed), "{typed} is told");
    assert!(said.contains("redis://weft:***@127.0.0.1:1"), "{said}");
    assert!(said.contains("${secret:redis-password}"), "{said}");
    let disk = contents(data.path());
    assert!(
        has(&disk, "db-password") || has(&disk, "redis-password"),
        "the files were not read"
    );
    for value in [right, wrong] {
        assert!(!has(&disk, value), "{value} is on disk in clear");
    }
}
