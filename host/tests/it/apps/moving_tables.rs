//! Tables on their way to other databases, while they are written: the shop's orders above all.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::{Value, json};
use weft_capabilities::{Sql, SqlValue};
use weft_postgres::{PostgresOptions, PostgresSql};
use weft_servers::{Postgres, Redis};

use super::shop::manifest;
use super::{Load, again, component};
use crate::support::guests::SQL;
use crate::support::{AppFile, Weft, over_unix, wait_until};

const CLIENTS: usize = 4;

/// On Postgres orders of the same goods run side by side, and none has to be tried again.
fn on_postgres(server: &Postgres) -> String {
    format!(
        "postgres, config: {{ url: \"{}\", isolation: read-committed }}",
        server.url()
    )
}

fn shop_on(server: &Postgres) -> AppFile {
    let ledger = format!("backend: {}", on_postgres(server));
    AppFile::new(&manifest("pricing").replace("backend: sqlite", &ledger))
}

fn path(app: &AppFile) -> String {
    app.path().to_str().unwrap().to_owned()
}

/// A shop without a load on it.
async fn open() -> Weft {
    super::shop::open(&[]).await
}

/// The receipts that customers were given, by where they are.
#[derive(Default)]
struct Receipts(RefCell<BTreeMap<String, Value>>);

impl Receipts {
    /// An order of three rugs. `false` if the host has gone.
    async fn order(&self, weft: &Weft) -> bool {
        let lines = json!([{ "product": "rug", "quantity": 3 }]);
        let body = json!({ "customer": "Ada", "lines": lines }).to_string();
        let Some(placed) = weft.try_send("POST", "/api/orders", body).await else {
            return false;
        };
        assert_eq!(placed.status, 201, "{}", placed.text());
        let at = placed.header("location").to_owned();
        self.0.borrow_mut().insert(at, placed.json());
        true
    }

    fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Each is there as it was given, and what was sold is what was ordered.
    async fn are_there(&self, weft: &Weft) {
        let receipts = self.0.borrow().clone();
        for (path, receipt) in &receipts {
            let found = weft.get(path).await;
            assert_eq!(found.status, 200, "{path}: {}", found.text());
            assert_eq!(found.json(), *receipt);
        }
        let sales = weft.get("/api/sales").await.json();
        for product in sales["sold"].as_array().unwrap() {
            assert_eq!(product["counted"], product["summed"], "{sales}");
        }
    }
}

/// What a statement says in the database itself.
async fn number(server: &Postgres, statement: &str) -> u64 {
    let database = PostgresSql::open(&PostgresOptions::new(server.url())).unwrap();
    let rows = database.query(statement, Vec::new(), None).await.unwrap();
    let SqlValue::Integer(number) = rows.rows[0][0] else {
        panic!("{rows:?}");
    };
    u64::try_from(number).unwrap()
}

fn provider(weft: &Weft, name: &str) -> Value {
    let socket = weft.data.path().join("admin.sock");
    let answer: Value = serde_json::from_str(&over_unix(&socket, "/v1/providers")).unwrap();
    let mut providers = answer["providers"].as_array().unwrap().iter();
    providers
        .find(|provider| provider["name"] == name)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn the_shop_moves_whole_while_orders_flow_and_each_order_is_there_once() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let on_redis = |database: u32| format!("redis, config: {{ url: \"{}/{database}\" }}", redis.url());
    let moved_with = |goods: u32, pictures: u32| {
        manifest("pricing")
            .replace(
                "goods: { capability: key-value, backend: redb",
                &format!("goods: {{ capability: key-value, backend: {}", on_redis(goods)),
            )
            .replace(
                "pictures: { capability: key-value, backend: redb",
                &format!(
                    "pictures: {{ capability: key-value, backend: {}",
                    on_redis(pictures)
                ),
            )
            .replace("backend: memory", &format!("backend: {}", on_redis(3)))
            .replace("backend: sqlite", &format!("backend: {}", on_postgres(&postgres)))
    };
    let weft = open().await;
    let products = weft.get("/api/products").await.json();
    let picture = format!("/images/{}", products["products"][0]["image"].as_str().unwrap());
    let picture_bytes = weft.get(&picture).await.body;

    // The move of one would delete what the other writes.
    let together = AppFile::new(&moved_with(1, 1));
    let refused = weft.try_cli(&["deploy", &path(&together), "--copy"]).await;
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("in one place"), "{why}");

    let moved = AppFile::new(&moved_with(1, 2));
    let receipts = Receipts::default();
    let visit = async |client: usize, turn: usize| match client {
        0 => {
            assert_eq!(
                weft.get("/api/products").await.json()["products"],
                products["products"]
            );
        }
        1 => assert_eq!(weft.get(&picture).await.status, 200),
        2 if turn.is_multiple_of(2) => assert_eq!(weft.get("/api/orders").await.status, 200),
        _ => assert!(receipts.order(&weft).await),
    };
    Load::during(CLIENTS + 2, visit, async |load| {
        load.more(100).await;
        weft.cli(&["deploy", &path(&moved), "--copy"]).await;
        load.more(100).await;
    })
    .await;
    for (name, backend) in [
        ("default/shop/goods", "redis"),
        ("default/shop/pictures", "redis"),
        ("default/shop/spare", "redis"),
        ("default/shop/ledger", "postgres"),
    ] {
        assert_eq!(provider(&weft, name)["backend"], backend, "{name}");
    }
    receipts.are_there(&weft).await;
    assert!(weft.get(&picture).await.body == picture_bytes);
    let orders = receipts.count() as u64;
    assert_eq!(number(&postgres, "SELECT count(*) FROM orders").await, orders);
    assert_eq!(
        number(&postgres, "SELECT count(*) FROM order_lines").await,
        orders
    );
    assert_eq!(
        number(&postgres, "SELECT quantity FROM sold WHERE product = 'rug'").await,
        3 * orders
    );
    // What SQLite held its rows to, Postgres does too.
    assert_eq!(
        number(
            &postgres,
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'order_lines'::regclass AND contype <> 'n'"
        )
        .await,
        4
    );
    let weft = again(weft.kill());
    receipts.are_there(&weft).await;
}

/// Kills the host when its log says that the move of the orders came to a step, while customers order.
async fn killed_at(step: &str) {
    let server = Postgres::start();
    let weft = open().await;
    let receipts = Receipts::default();
    let client = async |_: usize| while receipts.order(&weft).await {};
    let app = shop_on(&server);
    let kill = async {
        wait_until("enough is ordered", || receipts.count() >= 60).await;
        let manifest = path(&app);
        let args = ["deploy", &manifest, "--copy"];
        // It ends with the host.
        let deploy = weft.try_cli(&args);
        let killed = async {
            let is_there = || {
                let log = weft.log();
                let mut lines = log.lines();
                lines.any(|line| line.contains("the move goes on") && line.contains(step))
            };
            wait_until(&format!("the move is {step}"), is_there).await;
            weft.signal("-KILL");
        };
        tokio::join!(deploy, killed);
    };
    tokio::join!(join_all((0..CLIENTS).map(client)), kill);
    let weft = again(weft.kill());
    wait_until("the move has ended", || {
        let provider = provider(&weft, "default/shop/ledger");
        provider["backend"] == "postgres" && provider["move"].is_null()
    })
    .await;
    receipts.are_there(&weft).await;
    let (told, untold) = (receipts.count() as u64, CLIENTS as u64);
    let there = number(&server, "SELECT count(*) FROM orders").await;
    assert!((told..=told + untold).contains(&there), "{there} of {told}");
    assert!(receipts.order(&weft).await);
    assert_eq!(number(&server, "SELECT count(*) FROM orders").await, there + 1);
}

#[tokio::test]
async fn a_host_that_is_killed_while_it_copies_tables_goes_on_and_loses_no_order() {
    killed_at("copying").await;
}

#[tokio::test]
async fn a_host_that_is_killed_while_statements_are_held_goes_on_and_loses_no_order() {
    killed_at("holding").await;
    killed_at("draining").await;
}

#[tokio::test]
async fn a_host_that_is_killed_when_its_tables_have_switched_goes_on_and_loses_no_order() {
    killed_at("switched").await;
}

fn tables_on(backend: &str) -> AppFile {
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

async fn run(weft: &Weft, path: &str, sql: &str) -> Value {
    let reply = weft.send("POST", path, json!({ "sql": sql }).to_string()).await;
    assert_eq!(reply.status, 200, "{sql}: {}", reply.text());
    reply.json()
}

/// Why a deploy with `--copy` was refused.
async fn refused(weft: &Weft, app: &AppFile) -> String {
    let output = weft.try_cli(&["deploy", &path(app), "--copy"]).await;
    assert_eq!(output.status.code(), Some(3));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn what_the_new_database_can_not_have_is_named_and_the_old_one_stays_in_use() {
    let server = Postgres::start();
    let (old, new) = (tables_on("sqlite"), tables_on(&on_postgres(&server)));
    let weft = Weft::app(&old, &[]);
    for statement in [
        "CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, age INTEGER)",
        "INSERT INTO people (name, age) VALUES ('Ada', 36), ('Bob', 'old')",
        "CREATE TRIGGER grow AFTER INSERT ON people BEGIN UPDATE people SET age = age + 1; END",
    ] {
        run(&weft, "/execute", statement).await;
    }
    let why = refused(&weft, &new).await;
    assert!(why.contains("the trigger grow of the table people"), "{why}");
    run(&weft, "/execute", "DROP TRIGGER grow").await;
    let why = refused(&weft, &new).await;
    assert!(why.contains("the column age of the table people"), "{why}");
    assert_eq!(provider(&weft, "default/tables/tables")["backend"], "sqlite");
    assert_eq!(provider(&weft, "default/tables/tables")["move"]["step"], "failed");
    run(&weft, "/execute", "UPDATE people SET age = 40 WHERE name = 'Bob'").await;
    // The tables were made there by the try before.
    weft.cli(&["deploy", &path(&new), "--copy", "--replace"]).await;
    run(
        &weft,
        "/execute",
        "INSERT INTO people (name, age) VALUES ('Eve', 20)",
    )
    .await;
    let people = json!([[1, "Ada", 36], [2, "Bob", 40], [3, "Eve", 20]]);
    let all = "SELECT id, name, age FROM people ORDER BY id";
    assert_eq!(run(&weft, "/query", all).await["rows"], people);
    assert_eq!(number(&server, "SELECT count(*) FROM people").await, 3);

    // And back, over what was left there.
    let why = refused(&weft, &old).await;
    assert!(why.contains("--replace"), "{why}");
    weft.cli(&["deploy", &path(&old), "--copy", "--replace"]).await;
    drop(server);
    assert_eq!(run(&weft, "/query", all).await["rows"], people);
    run(&weft, "/execute", "INSERT INTO people (name) VALUES ('Zoe')").await;
    let last = run(&weft, "/query", "SELECT id FROM people WHERE name = 'Zoe'").await;
    assert_eq!(last["rows"], json!([[4]]));
    let weft = again(weft.kill());
    assert_eq!(
        run(&weft, "/query", "SELECT count(*) FROM people").await["rows"],
        json!([[4]])
    );
}
