//! What operators tell a running host: deploy, get, call, link, delete; and what needs no host. [`api`] is beneath.

mod api;
mod document;

use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::guests::{CALLEE, CALLER, CONFIG, HELLO, KV};
use crate::support::{Weft, full, guest, send, weft};

/// An app with a call between actors, a store, and one provider of each kind to link to.
fn manifest() -> String {
    format!(
        r#"apiVersion: weft/v1
name: shop
version: "1.2"
actors:
  front:
    component: {caller}
    links:
      test:call/echo: {{ actor: back }}
  back:
    component: {callee}
    limits: {{ timeout: 5s }}
    links:
      test:call/echo: {{ actor: back }}
  store:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: goods }}
  settings:
    component: {config}
    config: {{ colour: green }}
providers:
  goods: {{ capability: key-value, backend: redb }}
  scratch: {{ capability: key-value, backend: memory }}
  ledger: {{ capability: sql, backend: sqlite }}
routes:
  - {{ actor: front, path: / }}
  - {{ actor: store, path: /kv, stripPrefix: true }}
  - {{ actor: settings, path: /settings, stripPrefix: true }}
"#,
        caller = guest(CALLER).display(),
        callee = guest(CALLEE).display(),
        kv = guest(KV).display(),
        config = guest(CONFIG).display(),
    )
}

/// A host that serves the app, and the folder of its manifest.
struct Shop {
    weft: Weft,
    folder: TempDir,
}

impl Shop {
    fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.yaml");
        std::fs::write(&file, manifest()).unwrap();
        let args: Vec<_> = [file.to_str().unwrap()]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let weft = Weft::start(&[], &args);
        Self { weft, folder }
    }

    fn file(&self) -> String {
        self.folder.path().join("app.yaml").to_str().unwrap().to_owned()
    }

    /// What a command prints.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = on(&self.weft, args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let args: Vec<_> = args.iter().copied().chain(["--output", "json"]).collect();
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// What a command says when it fails with `code`.
    #[track_caller]
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = on(&self.weft, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
        stderr(&output)
    }
}

/// `weft` with arguments, for this host.
fn on(host: &Weft, args: &[&str]) -> Output {
    let data = host.data.path().to_str().unwrap();
    let args: Vec<_> = args.iter().copied().chain(["--data", data]).collect();
    weft(&args)
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone())
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn calls_take_and_give_values_as_people_write_them() {
    let shop = Shop::start(&[]);
    let call =
        |function: &str, args: &str| shop.ok(&["call", "back", &format!("test:call/echo.{function}"), args]);
    assert_eq!(call("sum", "1, [2, 3], some(-4)"), "2");
    assert_eq!(call("sum", "(1, [2, 3], some(-4))"), "2");
    assert_eq!(call("sum", "1, []"), "1");
    assert_eq!(call("text", r#""naïve \"text\"""#), r#""naïve \"text\"""#);
    assert_eq!(call("bytes", "[0, 255]"), "[0, 255]");
    assert_eq!(call("refuse", r#""why""#), r#"err(named("why"))"#);
    assert_eq!(call("deep", "3"), "3");
    assert_eq!(call("nothing", ""), "");
    let everything = "{flag: true, unsigned: (1, 2, 3, 4), signed: (-1, -2, -3, -4), floats: (0.5, -inf), \
                      letter: 'ü', text: \"t\", bytes: [1, 2], point: {x: -3, y: 4}, \
                      shapes: [nothing, circle(1.5), polygon([{x: 0, y: 0}]), named(\"n\")], colour: blue, \
                      rights: {read, execute}, maybe: some(none), outcome: err(\"e\"), done: ok, pairs: [(\"a\", 1)]}";
    assert_eq!(call("mix", everything), everything);
    let answer = shop.json(&[
        "call",
        "default/shop/back",
        "test:call/echo.sum",
        "1, [2]",
        "--timeout",
        "4s",
    ]);
    assert_eq!(
        (&answer["result"], &answer["actor"]),
        (&json!("3"), &json!("default/shop/back"))
    );
    assert_eq!(answer["invocation"].as_str().unwrap().len(), 32);
}

#[test]
fn a_call_that_fails_says_why_and_whether_it_may_have_run() {
    let shop = Shop::start(&[]);
    let fails = |code, function: &str, args: &str| {
        shop.fails(
            code,
            &["call", "back", &format!("test:call/echo.{function}"), args],
        )
    };
    let trap = fails(1, "trap", "");
    assert!(
        trap.contains("the actor failed") && trap.contains("(trap; it may have run)"),
        "{trap}"
    );
    let late = shop.fails(
        1,
        &[
            "call",
            "back",
            "test:call/echo.wait",
            "60000",
            "--timeout",
            "100ms",
        ],
    );
    assert_eq!(
        late,
        "weft: the actor did not answer in time (deadline; it may have run)"
    );

    let unknown = fails(3, "sums", "");
    let expected =
        "weft: test:call/echo has no `sums`; did you mean `sum`?; it has bytes, text, mix, sum, nothing";
    assert!(unknown.starts_with(expected), "{unknown}");
    assert_eq!(
        fails(3, "deep", "\"three\""),
        "weft: the arguments don't fit `deep`: invalid value type at `\"three\"`; it is func(n: u32) -> u32"
    );
    assert!(fails(3, "deep", "1, 2").contains("more param(s) than expected"));
    assert!(fails(3, "deep", "").contains("1 required"));
    assert!(fails(3, "deep", &"(".repeat(100_000)).contains("nesting too deep"));
    let other = shop.fails(3, &["call", "back", "test:other/echo.deep", "1"]);
    assert_eq!(
        other,
        "weft: it exports no test:other/echo; it exports test:call/echo"
    );
    let unknown = shop.fails(3, &["call", "bakc", "test:call/echo.deep", "1"]);
    assert_eq!(unknown, "weft: no actor `bakc` is deployed; did you mean `back`?");
    // With a resource among its parameters.
    let resource = shop.fails(3, &["call", "store", "wasi:http/incoming-handler.handle", "1"]);
    assert_eq!(
        resource,
        "weft: `handle` can't be called: a resource can't cross from one actor to another: hand over plain values in \
         its place"
    );
    assert_eq!(shop.fails(2, &["call", "back", "deep", "1"]).lines().count(), 3);
}

#[tokio::test]
async fn a_link_is_changed_at_run_time_and_shown_as_drift() {
    let shop = Shop::start(&[]);
    let put = |value: &'static str| {
        let request = crate::support::request("PUT", "/kv/a/key")
            .body(full(value))
            .unwrap();
        send(shop.weft.http, request)
    };
    let read = async || shop.weft.get("/kv/a/key").await.text().to_owned();
    let link = |actor: &str| shop.json(&["get", "links", actor])["links"][0].clone();
    assert_eq!(put("in redb").await.status, 200);

    let summary = shop.ok(&["link", "put", "store", "wasi:keyvalue", "--to", "scratch"]);
    assert_eq!(
        summary,
        "~ link store wasi:keyvalue (provider goods -> provider scratch)"
    );
    assert_eq!(read().await, "no such key\n");
    assert_eq!(put("in memory").await.status, 200);
    let shown = link("shop/store");
    assert_eq!((&shown["drift"], &shown["served"]), (&json!(true), &json!(true)));
    assert_eq!(shown["target"]["name"], "default/shop/scratch");
    assert_eq!(shown["declared"]["name"], "default/shop/goods");
    assert!(shown["by"].as_str().unwrap().starts_with("uid:"), "{shown}");
    let table = shop.ok(&["get", "links"]);
    assert!(table.starts_with("ACTOR"), "{table}");
    assert!(table.contains("declared: default/shop/goods"), "{table}");

    // Deploying the same again changes nothing, so the drift stays.
    assert_eq!(shop.ok(&["deploy", &shop.file()]), "nothing to change");
    assert_eq!(read().await, "in memory");
    shop.ok(&["link", "put", "store", "wasi:keyvalue", "--to", "goods"]);
    assert_eq!(read().await, "in redb");
    assert_eq!(link("store")["drift"], false);

    shop.ok(&["link", "delete", "store", "wasi:keyvalue"]);
    let removed = link("store");
    assert_eq!(
        (&removed["target"]["kind"], &removed["served"]),
        (&json!("removed"), &json!(false))
    );
    assert_eq!(read().await, "no-such-store\n");
    let gone = shop.fails(3, &["link", "delete", "store", "wasi:keyvalue"]);
    assert_eq!(gone, "weft: default/shop/store has no link for `wasi:keyvalue`");

    shop.ok(&[
        "link",
        "put",
        "store",
        "wasi:keyvalue",
        "--to",
        "goods",
        "--bucket",
        "one",
        "--shared",
    ]);
    assert_eq!(link("store")["target"]["bucket"], "one");
    shop.ok(&[
        "link",
        "put",
        "store",
        "wasi:http/outgoing-handler",
        "--allow",
        "api.example.com",
    ]);
    let links = shop.json(&["get", "links", "store"]);
    assert_eq!(
        links["links"][0]["target"]["allow"],
        json!(["https://api.example.com"])
    );
    assert_eq!(links["links"][0]["declared"], Value::Null);
    assert!(shop.weft.log().contains("link: done"), "{}", shop.weft.log());
}

#[test]
fn a_link_that_does_not_fit_is_refused_with_both_sides() {
    let shop = Shop::start(&[]);
    let refused = |args: &[&str]| {
        let args: Vec<_> = ["link", "put"].iter().chain(args).copied().collect();
        shop.fails(3, &args)
    };
    assert_eq!(
        refused(&["store", "wasi:keyvalue", "--to", "ledger"]),
        "weft: `wasi:keyvalue` needs key-value, and the provider `default/shop/ledger` serves sql"
    );
    assert_eq!(
        refused(&["store", "wasi:keyvalue", "--to", "sctrach"]),
        "weft: no provider `sctrach` is deployed; did you mean `scratch`?"
    );
    assert_eq!(
        refused(&["stroe", "wasi:keyvalue", "--to", "scratch"]),
        "weft: no actor `stroe` is deployed; did you mean `store`?"
    );
    let kind = refused(&["front", "test:call/echo", "--allow", "https://a.example"]);
    assert!(
        kind.contains("`test:call/echo` can't be linked to addresses of HTTP"),
        "{kind}"
    );
    let export = refused(&["front", "test:call/echo", "--to", "store"]);
    assert!(
        export.contains("default/shop/front can't be linked to default/shop/store"),
        "{export}"
    );
    assert!(
        export.contains("imports test:call/echo") && export.contains("exports wasi:http"),
        "{export}"
    );
    assert!(shop.weft.log().contains("link: refused"), "{}", shop.weft.log());
}

#[tokio::test]
async fn an_app_is_deployed_listed_changed_and_deleted_while_the_host_runs() {
    let weft = Weft::start(&[], &[]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.yaml"), manifest()).unwrap();
    let shop = Shop { weft, folder };
    let file = shop.file();
    assert_eq!(on(&shop.weft, &["get", "apps"]).stdout, b"");

    let plan = shop.ok(&["deploy", &file, "--dry-run"]);
    assert!(plan.contains("app default/shop"), "{plan}");
    assert_eq!(shop.weft.get("/sum?first=1").await.status, 404);
    assert_eq!(shop.ok(&["deploy", &file]), plan);
    assert_eq!(shop.weft.get("/sum?first=1").await.text(), "3\n");
    assert_eq!(shop.ok(&["deploy", &file]), "nothing to change");

    let apps = shop.ok(&["get", "apps"]);
    let row: Vec<_> = apps.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..7], ["default/shop", "1", "1.2", "4", "3", "3", "0"]);
    let actors = shop.json(&["get", "actors"]);
    let names: Vec<_> = actors["actors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|actor| &actor["name"])
        .collect();
    assert_eq!(
        names,
        [
            "default/shop/back",
            "default/shop/front",
            "default/shop/settings",
            "default/shop/store"
        ]
    );
    let back = &shop.json(&["get", "actors", "back"])["actors"][0];
    assert_eq!(
        (&back["revision"], &back["applied_revision"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(back["limits"]["timeout_ms"], 5_000);
    assert_eq!(back["links"][0]["target"]["name"], "default/shop/back");
    let providers = shop.ok(&["get", "providers"]);
    let goods = "default/shop/goods    1         key-value   redb     true  up since ";
    let goods = providers.lines().find(|line| line.starts_with(goods));
    assert!(
        goods.is_some_and(|goods| goods.contains("  default/shop/store")),
        "{providers}"
    );
    let hosts = shop.json(&["get", "hosts"]);
    assert_eq!(hosts["hosts"][0]["host"], shop.weft.ready["host"]);
    assert_eq!(hosts["hosts"][0]["conditions"], 0);
    assert_eq!(stderr(&on(&shop.weft, &["get", "conditions"])), "no conditions");
    assert!(
        shop.fails(3, &["get", "actors", "bck"])
            .contains("did you mean `back`?")
    );

    let changed = manifest().replace("colour: green", "colour: red");
    std::fs::write(&file, changed).unwrap();
    let summary = shop.ok(&["deploy", &file]);
    assert_eq!(
        summary,
        "~ actor settings (config)\n~ app default/shop (revision 2)"
    );
    assert!(shop.weft.get("/settings/colour").await.text().contains("red"));

    let deleted = shop.ok(&["delete", "app", "shop"]);
    assert!(deleted.contains("app default/shop"), "{deleted}");
    assert_eq!(shop.weft.get("/sum?first=1").await.status, 404);
    assert_eq!(
        shop.fails(3, &["delete", "app", "shop"]),
        "weft: no app `shop` is deployed"
    );
    let log = shop.weft.log();
    assert!(
        log.contains("a component was pushed") && log.contains("deletion of an app: done"),
        "{log}"
    );
}

#[test]
fn a_manifest_that_is_refused_changes_nothing_and_shows_the_place() {
    let shop = Shop::start(&[]);
    let file = shop.file();
    let index = || shop.json(&["get", "apps"])["index"].clone();
    let before = index();
    // What only the components show.
    let wrong = manifest().replace(
        "test:call/echo: { actor: back }",
        "test:other/echo: { actor: back }",
    );
    std::fs::write(&file, wrong).unwrap();
    let error = shop.fails(3, &["deploy", &file]);
    assert!(
        error.contains("actor `back` imports test:call/echo, and nothing is linked to it"),
        "{error}"
    );
    assert!(
        error.contains(&format!("{file}:5:3: ")) && error.contains("5 |   front:") && error.contains("^^^"),
        "{error}"
    );
    // What the text shows.
    std::fs::write(&file, manifest().replace("actors:", "actor:")).unwrap();
    let error = shop.fails(3, &["deploy", &file]);
    assert!(error.contains("did you mean `actors`?"), "{error}");
    assert_eq!(index(), before);
}

#[test]
fn a_short_name_that_two_apps_have_is_ambiguous() {
    let shop = Shop::start(&[]);
    let other = manifest()
        .replace("name: shop", "name: blog")
        .replace("path: /", "path: /blog/");
    let other = other.replace("path: /blog/ }", "path: /blog }");
    std::fs::write(shop.file(), other).unwrap();
    shop.ok(&["deploy", &shop.file()]);
    assert_eq!(
        shop.fails(3, &["call", "back", "test:call/echo.deep", "1"]),
        "weft: `back` may be default/blog/back or default/shop/back: write more of the actor's name"
    );
    assert_eq!(shop.ok(&["call", "blog/back", "test:call/echo.deep", "1"]), "1");
    // A target is looked for in the actor's own app first.
    shop.ok(&["link", "put", "blog/store", "wasi:keyvalue", "--to", "scratch"]);
    let link = &shop.json(&["get", "links", "blog/store"])["links"][0];
    assert_eq!(link["target"]["name"], "default/blog/scratch");
}

#[test]
fn manifests_are_validated_without_a_host() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = write("good.yaml", manifest().as_bytes());
    let output = weft(&["validate", &good]);
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = format!("{good}: default/shop is valid: actors 4, providers 3, routes 3\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);

    let whole = std::fs::read(guest(HELLO)).unwrap();
    let cut = write("cut.wasm", &whole[..whole.len() / 2]);
    let bad = write(
        "bad.yaml",
        b"apiVersion: weft/v1\nname: shop\nactors:\n  a: { component: none.wasm }\n",
    );
    let cut = write(
        "cut.yaml",
        format!("apiVersion: weft/v1\nname: a\nactors:\n  a: {{ component: {cut} }}\n").as_bytes(),
    );
    let typo = write("typo.yaml", b"apiVersion: weft/v1\nname: shop\nactor: {}\n");
    let output = weft(&["validate", &good, &bad, &cut, &typo]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let error = stderr(&output);
    for expected in [
        format!("{bad}:4:19: failed to read the component"),
        " 4 |   a: { component: none.wasm }\n   |                   ^^^^^^^^^".to_owned(),
        format!("{cut}: actor `a`: "),
        format!("{typo}:3:1: unknown key `actor`"),
        "did you mean `actors`?".to_owned(),
    ] {
        assert!(error.contains(&expected), "`{expected}` is missing in: {error}");
    }

    let schema: Value = serde_json::from_slice(&weft(&["schema"]).stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn commands_without_a_host_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.yaml");
    std::fs::write(&file, manifest()).unwrap();
    let data = folder.path().to_str().unwrap();
    for args in [
        &["get", "apps"][..],
        &["call", "a", "b:c/d.e"],
        &["link", "delete", "a", "b:c"],
        &["deploy", file.to_str().unwrap()],
        &["delete", "app", "a"],
    ] {
        let args: Vec<_> = args.iter().copied().chain(["--data", data]).collect();
        let output = weft(&args);
        assert_eq!(output.status.code(), Some(5), "{args:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains("start one with `weft up`"),
            "{}",
            stderr(&output)
        );
    }
}
