//! Components without a manifest: what they stand for, and how they live beside apps.

use std::sync::Arc;

use serde_json::json;

use super::{again, kv_app};
use crate::support::guests::{CONFIG, ECHO, HELLO, KV, SQL};
use crate::support::{AppFile, Weft, guest, weft};

#[tokio::test]
async fn a_components_imports_are_linked_to_stores_that_survive_a_restart() {
    let files = [guest(KV), guest(SQL), guest(CONFIG)];
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&files, &[], &[], data);
    assert_eq!(weft.send("PUT", "/kv/bucket/key", "kept").await.status, 200);
    for sql in ["CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (7)"] {
        let body = json!({ "sql": sql }).to_string();
        assert_eq!(weft.send("POST", "/sql/execute", body).await.status, 200);
    }
    assert!(weft.get("/config/key").await.text().contains("is not set"));

    let weft = Weft::up(&files, &[], &[], weft.stop());
    assert_eq!(weft.get("/kv/bucket/key").await.text(), "kept");
    let body = json!({ "sql": "SELECT n FROM t" }).to_string();
    let rows = weft.send("POST", "/sql/query", body).await;
    assert_eq!(rows.json()["rows"], json!([[7]]));
}

/// The manifest that `weft up FILE` stands for.
fn printed(name: &str) -> AppFile {
    let output = weft(&["up", guest(name).to_str().unwrap(), "--print-manifest"]);
    assert_eq!(output.status.code(), Some(0));
    AppFile::new(&String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn the_manifest_that_a_component_stands_for_is_the_same_app() {
    let manifest = printed(KV);
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[guest(KV)], &[], &[], data);
    assert_eq!(weft.send("PUT", "/bucket/key", "kept").await.status, 200);

    let weft = Weft::up(&[manifest.path()], &[], &[], weft.stop());
    assert_eq!(weft.get("/bucket/key").await.text(), "kept");

    // A manifest stays deployed where a bare component is only served while it is named.
    let weft = again(weft.stop());
    assert_eq!(weft.get("/bucket/key").await.text(), "kept");
}

#[test]
fn a_printed_manifest_names_each_provider_and_nothing_that_was_not_imported() {
    let text = |name| std::fs::read_to_string(printed(name).path()).unwrap();
    let (kv, sql, hello) = (text(KV), text(SQL), text(HELLO));
    assert!(kv.contains("redb") && kv.contains("wasi:keyvalue"), "{kv}");
    assert!(sql.contains("sqlite") && sql.contains("weft:sql"), "{sql}");
    assert!(
        !hello.contains("links") && !hello.contains("providers"),
        "{hello}"
    );
}

#[tokio::test]
async fn a_component_is_served_as_long_as_it_is_named_and_an_app_until_it_is_deleted() {
    let app = kv_app("redb");
    app.write(
        &std::fs::read_to_string(app.path())
            .unwrap()
            .replace("- actor: kv", "- { actor: kv, path: /store, stripPrefix: true }"),
    );
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[app.path(), guest(HELLO)], &[], &[], data);
    assert_eq!(weft.get("/plain").await.status, 200);
    assert_eq!(weft.send("PUT", "/store/bucket/key", "kept").await.status, 200);

    // Another component takes the same route.
    let weft = Weft::up(&[guest(ECHO)], &[], &[], weft.stop());
    assert!(weft.get("/headers").await.text().starts_with("method: GET\n"));
    assert_eq!(weft.get("/store/bucket/key").await.text(), "kept");

    let weft = again(weft.stop());
    assert_eq!(weft.get("/headers").await.status, 404);
    assert_eq!(weft.get("/store/bucket/key").await.text(), "kept");
}
