//! `weft:sql` on SQLite.

use serde_json::{Value, json};

use super::component;
use crate::support::guests::SQL;
use crate::support::{AppFile, Reply, Weft, empty, full, http1, request};

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

fn app(limits: &str) -> AppFile {
    let sql = component(SQL);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: tables
actors:
  sql:
    component: {sql}
    limits: {{ {limits} }}
    links:
      weft:sql: {{ provider: tables }}
providers:
  tables: {{ capability: sql, backend: sqlite }}
routes:
  - actor: sql
"
    ))
}

async fn post(weft: &Weft, path: &str, body: Value) -> Reply {
    weft.send("POST", path, body.to_string()).await
}

/// What a statement gives.
async fn run(weft: &Weft, path: &str, sql: &str, params: Value) -> Value {
    let reply = post(weft, path, json!({ "sql": sql, "params": params })).await;
    assert_eq!(reply.status, 200, "{sql}: {}", reply.text());
    reply.json()
}

async fn execute(weft: &Weft, sql: &str) -> Value {
    run(weft, "/execute", sql, json!([])).await["changed"].clone()
}

async fn rows(weft: &Weft, sql: &str) -> Value {
    run(weft, "/query", sql, json!([])).await["rows"].clone()
}

#[tokio::test]
async fn values_of_each_type_are_kept_as_they_are() {
    let weft = Weft::app(&app(""), &[]);
    execute(&weft, "CREATE TABLE t (a, i INTEGER, r REAL, s TEXT, b BLOB)").await;
    let params = json!([null, i64::MIN, 0.5, "naïve", { "blob": [0, 255] }]);
    let insert = run(
        &weft,
        "/execute",
        "INSERT INTO t VALUES ($1, $2, $3, $4, $5)",
        params.clone(),
    );
    assert_eq!(insert.await, json!({ "changed": 1 }));
    assert_eq!(
        run(&weft, "/query", "SELECT * FROM t WHERE i = $1", json!([i64::MIN])).await,
        json!({ "columns": ["a", "i", "r", "s", "b"], "rows": [params] })
    );
    // SQLite has no booleans.
    let flags = run(
        &weft,
        "/query",
        "SELECT $1 AS yes, $2 AS no",
        json!([true, false]),
    );
    assert_eq!(flags.await, json!({ "columns": ["yes", "no"], "rows": [[1, 0]] }));
    // A parameter may stand in several places, and what looks like SQL in it is a text.
    let text = "'; DROP TABLE t; --";
    let twice = run(&weft, "/query", "SELECT $1, $1", json!([text])).await;
    assert_eq!(twice["rows"], json!([[text, text]]));
    assert_eq!(rows(&weft, "SELECT count(*) FROM t").await, json!([[1]]));
}

#[tokio::test]
async fn a_transaction_is_kept_if_it_is_committed_and_not_otherwise() {
    let weft = Weft::app(&app(""), &[]);
    execute(&weft, "CREATE TABLE t (n INTEGER PRIMARY KEY)").await;
    for (commit, n, kept) in [
        ("1", 1, json!([[1]])),
        ("0", 2, json!([[1]])),
        ("drop", 3, json!([[1]])),
    ] {
        let body = json!([
            { "sql": "INSERT INTO t VALUES ($1)", "params": [n] },
            { "sql": "SELECT count(*) FROM t WHERE n = $1", "params": [n] },
        ]);
        let reply = post(&weft, &format!("/transaction?commit={commit}"), body).await;
        assert_eq!(
            reply.json()[1]["rows"],
            json!([[1]]),
            "it saw its own row: {}",
            reply.text()
        );
        assert_eq!(rows(&weft, "SELECT n FROM t").await, kept, "commit={commit}");
    }
    // One whose second statement fails is dropped by the guest as a whole.
    let body = json!([
        { "sql": "INSERT INTO t VALUES (4)" },
        { "sql": "INSERT INTO t VALUES (1)" },
    ]);
    let reply = post(&weft, "/transaction?commit=1", body).await;
    assert_eq!(
        (reply.status, reply.json()["kind"].as_str()),
        (409, Some("unique"))
    );
    assert_eq!(rows(&weft, "SELECT n FROM t").await, json!([[1]]));
}

#[tokio::test]
async fn a_transaction_whose_client_has_gone_is_rolled_back_and_the_writer_is_free() {
    let weft = Weft::app(&app(""), &[]);
    execute(&weft, "CREATE TABLE t (n INTEGER)").await;
    let mut connection = http1(weft.http).await;
    let body = json!([{ "sql": "INSERT INTO t VALUES (1)" }]).to_string();
    let held = request("POST", "/transaction?commit=1&ms=60000")
        .body(full(body))
        .unwrap();
    {
        let answer = std::pin::pin!(connection.sender.send_request(held));
        let live = std::pin::pin!(weft.wait_until_live(1));
        futures::future::select(answer, live).await;
    }
    drop(connection);
    weft.wait_until_idle().await;
    execute(&weft, "INSERT INTO t VALUES (2)").await;
    assert_eq!(rows(&weft, "SELECT n FROM t").await, json!([[2]]));
}

#[tokio::test]
async fn an_error_says_whose_fault_it_is() {
    let weft = Weft::app(&app(""), &[]);
    execute(&weft, "CREATE TABLE parent (id INTEGER PRIMARY KEY)").await;
    execute(
        &weft,
        "CREATE TABLE child (id INTEGER UNIQUE, name TEXT NOT NULL, age INTEGER CHECK (age >= 0), \
         parent INTEGER REFERENCES parent (id))",
    )
    .await;
    execute(&weft, "INSERT INTO child VALUES (1, 'one', 1, NULL)").await;
    for (values, kind) in [
        ("(1, 'again', 1, NULL)", "unique"),
        ("(2, NULL, 1, NULL)", "not-null"),
        ("(3, 'three', -1, NULL)", "check"),
        ("(4, 'four', 1, 99)", "foreign-key"),
    ] {
        let body = json!({ "sql": format!("INSERT INTO child VALUES {values}") });
        let reply = post(&weft, "/execute", body).await;
        assert_eq!(
            (reply.status, reply.json()["kind"].as_str()),
            (409, Some(kind)),
            "{}",
            reply.text()
        );
    }
    for (sql, error) in [
        ("SELEC 1", "syntax"),
        ("SELECT * FROM nowhere", "syntax"),
        ("ATTACH 'other.sqlite3' AS other", "denied"),
        ("PRAGMA synchronous = OFF", "denied"),
        // Denied as well, but SQLite tells it like a function that is not there.
        ("SELECT load_extension('x')", "syntax"),
    ] {
        let reply = post(&weft, "/query", json!({ "sql": sql })).await;
        assert_eq!(
            (reply.status, reply.json()["error"].as_str()),
            (409, Some(error)),
            "{sql}: {}",
            reply.text()
        );
    }
    assert_eq!(rows(&weft, "SELECT count(*) FROM child").await, json!([[1]]));
}

#[tokio::test]
async fn a_statement_without_an_end_is_cut_at_the_deadline_and_the_database_is_free() {
    let weft = Weft::app(&app("timeout: 500ms"), &[]);
    execute(&weft, "CREATE TABLE t (n INTEGER)").await;
    for (path, statement) in [
        ("/query", format!("{ENDLESS} SELECT count(*) FROM n")),
        (
            "/execute",
            format!("{ENDLESS} INSERT INTO t SELECT i FROM n WHERE i < 1000 OR i < 0"),
        ),
    ] {
        let reply = post(&weft, path, json!({ "sql": statement })).await;
        // The guest may be told just before its own time is up.
        let told = reply.status == 503 && reply.json()["error"] == "deadline-exceeded";
        assert!(told || reply.status == 504, "{} {}", reply.status, reply.text());
        weft.wait_until_idle().await;
        assert_eq!(rows(&weft, "SELECT count(*) FROM t").await, json!([[0]]));
    }
    assert_eq!(execute(&weft, "INSERT INTO t VALUES (1)").await, json!(1));
}

#[tokio::test]
async fn what_is_no_json_is_refused_by_the_guest_and_the_host_goes_on() {
    let weft = Weft::app(&app(""), &[]);
    assert_eq!(weft.send("POST", "/query", "{").await.status, 400);
    let get = request("GET", "/query").body(empty()).unwrap();
    assert_eq!(crate::support::send(weft.http, get).await.status, 405);
    assert_eq!(rows(&weft, "SELECT 1").await, json!([[1]]));
}
