//! Manifests that the host refuses because of what is in the components, with the place and the remedy.

use std::path::PathBuf;
use std::sync::Arc;

use super::{again, component, kv_app};
use crate::support::guests::{CALLEE, CALLER, HELLO, KV};
use crate::support::{AppFile, Weft, weft};

/// The error of `weft up` with these manifests on a data folder.
fn refusal(files: &[PathBuf], data: &std::path::Path) -> String {
    let mut args = vec!["up", "--http", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    args.extend(files.iter().map(|file| file.to_str().unwrap()));
    let output = weft(&args);
    assert!(output.stdout.is_empty(), "it said that it was ready");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    error
}

fn refused(app: &AppFile, expected: &[&str]) {
    let error = refusal(&[app.path()], tempfile::tempdir().unwrap().path());
    for text in expected {
        assert!(error.contains(text), "`{text}` is missing in: {error}");
    }
}

/// A component that takes `acme:billing/ledger`.
fn importer() -> Vec<u8> {
    let text = r#"(component
        (import "acme:billing/ledger@1.0.0" (instance
            (export "post" (func (param "amount" u32) (result u64)))
        ))
    )"#;
    wat::parse_str(text).unwrap()
}

/// A component that gives `interface` with one function.
fn exporter(interface: &str, function: &str, amount: &str) -> Vec<u8> {
    let core = if amount == "u64" { "i64" } else { "i32" };
    let text = format!(
        r#"(component
            (core module $m (func (export "f") (param {core}) (result i64) i64.const 0))
            (core instance $i (instantiate $m))
            (func $f (param "amount" {amount}) (result u64) (canon lift (core func $i "f")))
            (instance $ledger (export "{function}" (func $f)))
            (export "{interface}" (instance $ledger))
        )"#
    );
    wat::parse_str(text).unwrap()
}

/// `books`, which imports a ledger, linked to `ledger`.
fn books(ledger: &[u8]) -> AppFile {
    let app = AppFile::new(
        "apiVersion: weft/v1
name: billing
actors:
  books:
    component: books.wasm
    links:
      acme:billing/ledger: { actor: ledger }
  ledger:
    component: ledger.wasm
",
    );
    app.beside("books.wasm", importer());
    app.beside("ledger.wasm", ledger);
    app
}

#[test]
fn an_import_and_an_export_have_to_agree_and_both_are_shown() {
    let at = "app.yaml:7:";
    refused(
        &books(&exporter("acme:billing/ledger@1.0.0", "post", "u64")),
        &[
            at,
            "books can't be linked to default/billing/ledger",
            "`post` of acme:billing/ledger@1.0.0",
            "func(amount: u32) -> u64 where it is imported",
            "func(amount: u64) -> u64 where it is exported",
        ],
    );
    refused(
        &books(&exporter("acme:billing/ledger@1.0.0", "pay", "u32")),
        &[at, "the function `post`", "does not have"],
    );
    refused(
        &books(&exporter("acme:billing/till@1.0.0", "post", "u32")),
        &[
            at,
            "it imports acme:billing/ledger@1.0.0, and the target exports acme:billing/till@1.0.0",
        ],
    );
    refused(
        &books(&exporter("acme:billing/ledger@2.0.0", "post", "u32")),
        &[at, "the target exports acme:billing/ledger@2.0.0"],
    );
}

#[test]
fn an_export_that_agrees_is_linked() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let app = books(&exporter("acme:billing/ledger@1.0.0", "post", "u32"));
    let weft = Weft::up(&[app.path()], &[], &[], data);
    assert_eq!(weft.ready["ready"], true);
}

#[test]
fn all_that_is_wrong_with_the_links_is_told_at_once() {
    let (caller, callee, hello, kv) = (
        component(CALLER),
        component(CALLEE),
        component(HELLO),
        component(KV),
    );
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1
name: wrong
actors:
  unlinked: {{ component: {caller} }}
  storeless: {{ component: {kv} }}
  lost:
    component: {caller}
    links:
      test:call: {{ actor: default/elsewhere/callee }}
  mistaken:
    component: {caller}
    links:
      test:call: {{ actor: page }}
  page: {{ component: {hello} }}
  silent:
    component: {callee}
    links:
      test:call: {{ actor: silent }}
routes:
  - actor: silent
"
    ));
    refused(
        &app,
        &[
            "app.yaml:4:3: actor `unlinked` imports test:call/echo, and nothing is linked to it",
            "app.yaml:5:3: actor `storeless` imports wasi:keyvalue/store@0.2.0-draft",
            "add `wasi:keyvalue: { provider: NAME }` to its links",
            "app.yaml:9:",
            "the actor default/elsewhere/callee, which lost is linked to, is not deployed",
            "app.yaml:13:",
            "mistaken can't be linked to default/wrong/page: it imports test:call/echo",
            "app.yaml:20:",
            "default/wrong/silent exports no wasi:http/incoming-handler",
        ],
    );
}

#[tokio::test]
async fn what_a_manifest_alone_shows_is_told_with_its_line_before_a_component_is_read() {
    let kv = component(KV);
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1
name: wrong
actors:
  kv:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: vales }}
providers:
  values: {{ capability: key-value, backend: redbb }}
routes:
  - actor: kw
"
    ));
    refused(
        &app,
        &[
            "app.yaml:7:34: this app has no provider `vales`; did you mean `values`?",
            " 7 |       wasi:keyvalue: { provider: vales }",
            "app.yaml:9:",
            "did you mean `redb`?",
            "app.yaml:11:",
            "did you mean `kv`?",
        ],
    );
}

#[tokio::test]
async fn a_route_is_one_apps() {
    let hello = component(HELLO);
    let other = AppFile::new(&format!(
        "apiVersion: weft/v1
name: other
actors:
  page: {{ component: {hello} }}
routes:
  - {{ actor: page, path: /page }}
  - actor: page
"
    ));
    let first = kv_app("memory");
    let data = Arc::new(tempfile::tempdir().unwrap());
    let error = refusal(&[first.path(), other.path()], data.path());
    assert!(
        error.contains("app.yaml:7:") && error.contains("is taken by the app default/store"),
        "{error}"
    );
    // The first of the two was deployed, the second not in part.
    let weft = again(data);
    assert_eq!(weft.send("PUT", "/bucket/key", "v").await.status, 200);
    assert_eq!(weft.get("/page/plain").await.status, 404);
}

#[tokio::test]
async fn a_refused_deploy_touches_nothing_that_runs() {
    let app = kv_app("redb");
    let weft = Weft::app(&app, &[]);
    assert_eq!(weft.send("PUT", "/bucket/key", "v").await.status, 200);
    let caller = component(CALLER);
    app.write(&format!(
        "apiVersion: weft/v1
name: store
actors:
  kv: {{ component: {caller} }}
routes:
  - actor: kv
"
    ));
    let output = weft.try_cli(&["deploy", app.path().to_str().unwrap()]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(
        error.contains("app.yaml:4:3: actor `kv` imports test:call/echo, and nothing is linked to it"),
        "{error}"
    );
    assert_eq!(weft.get("/bucket/key").await.text(), "v");
    let weft = again(weft.kill());
    assert_eq!(weft.get("/bucket/key").await.text(), "v");
}
