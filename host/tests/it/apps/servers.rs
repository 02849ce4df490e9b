//! Actors on Redis, NATS and Postgres: servers of their own, started here.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use weft_servers::{Azure, Nats, Postgres, Redis, S3};

use super::{component, kv_app, shop};
use crate::support::guests::{BLOB, SQL};
use crate::support::{AppFile, Weft};

fn on_redis(server: &Redis) -> String {
    format!("redis, config: {{ url: \"{}\" }}", server.url())
}

fn on_postgres(server: &Postgres) -> String {
    format!("postgres, config: {{ url: \"{}\" }}", server.url())
}

#[tokio::test]
async fn a_store_on_redis_outlives_its_host() {
    let server = Redis::start();
    let weft = Weft::app(&kv_app(&on_redis(&server)), &[]);
    assert_eq!(weft.send("PUT", "/one/a", "1").await.status, 200);
    assert_eq!(
        weft.send("POST", "/incr/n?by=5&bucket=one", "")
            .await
            .text()
            .trim(),
        "5"
    );
    drop(weft);
    let weft = Weft::app(&kv_app(&on_redis(&server)), &[]);
    assert_eq!(weft.get("/one/a").await.text(), "1");
    assert_eq!(
        weft.send("POST", "/incr/n?by=1&bucket=one", "")
            .await
            .text()
            .trim(),
        "6"
    );
    assert_eq!(server.cli(&["get", "weft:{default/store/one}:v:a"]).trim(), "1");
}

#[tokio::test]
async fn a_store_on_nats_outlives_its_host_and_its_server() {
    let mut server = Nats::start_with_jetstream("authorization { user: weft, password: secret }");
    let port = server.port();
    let app = kv_app(&format!(
        "nats, config: {{ url: \"nats://weft:secret@127.0.0.1:{port}\", bucket: carts, timeoutMs: 10000 }}"
    ));
    let weft = Weft::app(&app, &[]);
    assert_eq!(weft.send("PUT", "/one/a", "1").await.status, 200);
    assert_eq!(
        weft.send("POST", "/incr/n?by=5&bucket=one", "")
            .await
            .text()
            .trim(),
        "5"
    );
    drop(weft);
    server.kill();
    server.restart();
    let weft = Weft::app(&app, &[]);
    assert_eq!(weft.get("/one/a").await.text(), "1");
    assert_eq!(
        weft.send("POST", "/incr/n?by=1&bucket=one", "")
            .await
            .text()
            .trim(),
        "6"
    );
}

#[tokio::test]
async fn tables_on_postgres_outlive_their_host() {
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
  tables: {{ capability: sql, backend: {} }}
routes:
  - actor: sql
",
        on_postgres(&server)
    ));
    let post = async |weft: &Weft, path: &str, statement: &str| {
        let reply = weft
            .send("POST", path, json!({ "sql": statement }).to_string())
            .await;
        assert_eq!(reply.status, 200, "{statement}: {}", reply.text());
        reply.json()
    };
    let weft = Weft::app(&app, &[]);
    post(
        &weft,
        "/execute",
        "CREATE TABLE t (n NUMERIC(10, 2), at TIMESTAMPTZ)",
    )
    .await;
    post(
        &weft,
        "/execute",
        "INSERT INTO t VALUES (1.5, '2024-02-29 12:00:00+02')",
    )
    .await;
    drop(weft);
    let weft = Weft::app(&app, &[]);
    let rows = post(&weft, "/query", "SELECT n, at FROM t").await["rows"].clone();
    assert_eq!(rows, json!([["1.50", "2024-02-29 10:00:00+00"]]));
}

#[tokio::test]
async fn objects_on_s3_outlive_their_host_and_pass_through_it_in_bounded_memory() {
    let server = S3::start();
    let config = format!(
        "s3, config: {{ bucket: {}, endpoint: \"{}\", accessKeyId: {}, secretAccessKey: {} }}",
        S3::BUCKET,
        server.url(),
        S3::ID,
        S3::KEY
    );
    objects_outlive_their_host(&config, 64, 48).await;
    let key = server
        .folder()
        .join(S3::BUCKET)
        .join("apps/default/objects/c/o/o");
    assert_eq!(std::fs::read_to_string(key).unwrap(), "kept");
}

#[tokio::test]
async fn objects_on_azure_outlive_their_host_and_pass_through_it_in_bounded_memory() {
    let server = Azure::start();
    let config = format!(
        "azure, config: {{ bucket: {}, endpoint: \"{}\", account: {}, accessKey: \"{}\" }}",
        Azure::CONTAINER,
        server.url(),
        Azure::ACCOUNT,
        Azure::KEY
    );
    objects_outlive_their_host(&config, 64, 48).await;
}

#[tokio::test]
async fn objects_on_nats_outlive_their_host_and_pass_through_it_in_bounded_memory() {
    let server = Nats::start_with_jetstream("");
    let config = format!(
        "nats, config: {{ url: \"{}\", prefix: shop, timeoutMs: 10000, objectMiB: 256 }}",
        server.url()
    );
    // It has a chunk ahead and grows by 35 to 53 MiB once, also with 400 MiB.
    objects_outlive_their_host(&config, 128, 80).await;
}

/// A host passes an object of `mib` on, and grows by less than `grown_mib_max`.
async fn objects_outlive_their_host(backend: &str, mib: u64, grown_mib_max: u64) {
    let blob = component(BLOB);
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: objects
actors:
  blob:
    component: {blob}
    links:
      wasi:blobstore: {{ provider: objects }}
providers:
  objects: {{ capability: blob-store, backend: {backend} }}
routes:
  - actor: blob
"
    ));
    let ok = async |weft: &Weft, method: &str, path: &str, body: &'static str| {
        let reply = weft.send(method, path, body).await;
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
    };
    let weft = Weft::app(&app, &[]);
    ok(&weft, "POST", "/container?container=c", "").await;
    ok(&weft, "PUT", "/object?container=c&name=o&order=late", "kept").await;
    ok(&weft, "POST", "/fill?container=c&name=small&mib=1", "").await;
    ok(&weft, "GET", "/check?container=c&name=small&mib=1", "").await;
    let before = weft.memory_kib("VmHWM");
    let large = format!("container=c&name=large&mib={mib}");
    ok(&weft, "POST", &format!("/fill?{large}"), "").await;
    ok(&weft, "GET", &format!("/check?{large}"), "").await;
    let grown = weft.memory_kib("VmHWM") - before;
    assert!(grown < grown_mib_max << 10, "the host grew by {grown} KiB");
    drop(weft);

    let weft = Weft::app(&app, &[]);
    assert_eq!(weft.get("/object?container=c&name=o").await.text(), "kept");
    assert_eq!(
        weft.get("/object?container=c&name=large&start=250&end=252")
            .await
            .body,
        [250, 0, 1].as_slice()
    );
}

/// The example's own manifest; what it says of backends alone is changed.
#[tokio::test]
async fn the_shop_moves_to_redis_and_postgres_by_a_change_of_its_manifest_alone() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let embedded = shop::manifest("pricing");
    let moved = embedded
        .replace("backend: redb", &format!("backend: {}", on_redis(&redis)))
        .replace("backend: sqlite", &format!("backend: {}", on_postgres(&postgres)));
    let (embedded, moved) = (AppFile::new(&embedded), AppFile::new(&moved));
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[embedded.path()], &[], &[], data);
    let order = json!({ "customer": "Ada", "lines": [{ "product": "rug", "quantity": 3 }] }).to_string();
    for file in [embedded.path(), moved.path()] {
        weft.cli(&["deploy", path(&file)]).await;
        assert_eq!(weft.send("POST", "/api/seed", "").await.status, 200);
        let placed = weft.send("POST", "/api/orders", order.clone()).await;
        assert_eq!(placed.status, 201, "{}", placed.text());
        let receipt = weft.get(placed.header("location")).await;
        assert_eq!(receipt.json(), placed.json());
    }
    assert_ne!(redis.cli(&["dbsize"]).trim(), "0", "the shop is not on Redis");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
