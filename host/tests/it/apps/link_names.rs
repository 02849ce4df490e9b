//! Links of one interface by several names, chosen by `wasmcloud:bus/lattice`.

use futures::future::join_all;

use super::{component, kv_app};
use crate::support::guests::{CHOOSER, MESSENGER};
use crate::support::{AppFile, Weft, get, weft};

/// An app whose `chooser` has two links of each kind: the default one and `cache`.
fn app(limits: &str) -> AppFile {
    let [chooser, messenger, pricing, sale] = [CHOOSER, MESSENGER, "pricing", "pricing-sale"].map(component);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: choice
actors:
  chooser:
    component: {chooser}
    limits: {{ {limits} }}
    links:
      wasi:keyvalue: {{ provider: store }}
      wasi:keyvalue#cache: {{ provider: scratch }}
      wasi:blobstore: {{ provider: pictures }}
      wasi:blobstore#cache: {{ provider: thumbs }}
      weft:sql: {{ provider: books }}
      weft:sql#cache: {{ provider: archive }}
      wasmcloud:messaging: {{ provider: events }}
      wasmcloud:messaging#cache: {{ provider: alarms }}
      shop:api/pricing: {{ actor: pricing }}
      shop:api/pricing#cache: {{ actor: sale }}
  pricing: {{ component: {pricing} }}
  sale: {{ component: {sale} }}
  hearer:
    component: {messenger}
    links:
      wasmcloud:messaging: {{ provider: alarms }}
      wasi:keyvalue: {{ provider: store }}
providers:
  store: {{ capability: key-value, backend: redb }}
  scratch: {{ capability: key-value, backend: memory }}
  pictures: {{ capability: blob-store, backend: memory }}
  thumbs: {{ capability: blob-store, backend: memory }}
  books: {{ capability: sql, backend: sqlite }}
  archive: {{ capability: sql, backend: sqlite }}
  events: {{ capability: messaging, backend: lattice }}
  alarms: {{ capability: messaging, backend: lattice }}
routes:
  - {{ actor: chooser }}
  - {{ actor: hearer, path: /hearer, stripPrefix: true }}
subscriptions:
  - {{ provider: alarms, subject: fire, actor: hearer }}
"
    ))
}

async fn answer(weft: &Weft, path: &str) -> String {
    let reply = weft.get(path).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.text().to_owned()
}

async fn put(weft: &Weft, path: &str) {
    let reply = weft.send("PUT", path, "").await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
}

#[tokio::test]
async fn imports_of_each_kind_go_to_the_link_whose_name_was_chosen() {
    let weft = Weft::app(&app(""), &[]);
    put(&weft, "/value/a?value=kept").await;
    put(&weft, "/value/a?value=cached&link=cache").await;
    for (link, expected) in [("", "kept"), ("?link=cache", "cached"), ("?link=default", "kept")] {
        assert_eq!(
            answer(&weft, &format!("/value/a{link}")).await,
            expected,
            "{link}"
        );
    }
    assert_eq!(
        answer(&weft, "/value/a?link=cache&old=1").await,
        "cached",
        "version 1.0.0 of the interface"
    );

    put(&weft, "/object/o?value=large").await;
    put(&weft, "/object/o?value=small&link=cache").await;
    // The value was made while the default link was the one.
    put(&weft, "/object/p?value=early&link=cache&order=early").await;
    assert_eq!(answer(&weft, "/object/o").await, "large");
    assert_eq!(answer(&weft, "/object/o?link=cache").await, "small");
    assert_eq!(answer(&weft, "/object/p?link=cache").await, "early");
    assert_eq!(weft.get("/object/p").await.status, 500, "it went to both stores");

    answer(&weft, "/sql?link=cache&query=CREATE%20TABLE%20t%20(n%20INTEGER)").await;
    answer(&weft, "/sql?link=cache&query=SELECT%20n%20FROM%20t").await;
    let elsewhere = weft.get("/sql?query=SELECT%20n%20FROM%20t").await;
    assert!(elsewhere.text().contains("no such table"), "{}", elsewhere.text());

    assert_eq!(answer(&weft, "/rule").await, "quantity-discount");
    assert_eq!(answer(&weft, "/rule?link=cache").await, "summer-sale");

    assert_eq!(weft.send("POST", "/say/fire?body=small", "").await.status, 200);
    let said = weft.send("POST", "/say/fire?body=large&link=cache", "").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let mut heard = String::new();
    while !heard.starts_with('1') {
        heard = answer(&weft, "/hearer/heard/large").await;
    }
    assert!(answer(&weft, "/hearer/heard/small").await.starts_with('0'));
}

#[tokio::test]
async fn what_an_invocation_chose_is_not_seen_by_those_beside_it() {
    let weft = Weft::app(&app("concurrency: 64"), &[]);
    let all = (0..48).map(async |number| {
        let (links, expected) = match number % 3 {
            0 => ("cache,default,cache,default", "1,1,2,2"),
            1 => ("default,default,default", "1,2,3"),
            _ => ("cache,cache,default", "1,2,1"),
        };
        let sums = answer(&weft, &format!("/weave/k{number}?links={links}&pause=3")).await;
        assert_eq!(sums, expected, "{links}");
    });
    join_all(all).await;
}

#[tokio::test]
async fn what_an_invocation_chose_is_not_seen_by_the_next_of_its_instance() {
    let weft = Weft::app(&app("reuse: 1000"), &[]);
    for round in 0..5 {
        put(&weft, &format!("/value/a?value={round}&link=cache")).await;
        assert_eq!(answer(&weft, "/value/a").await, "none");
        assert_eq!(answer(&weft, "/value/a?link=cache").await, round.to_string());
    }
    let metrics = get(weft.monitor, "/metrics").await;
    let reused = metrics.text().lines().any(|line| {
        line.starts_with("weft_instance_reused_total") && line.contains("chooser") && !line.ends_with(" 0")
    });
    assert!(reused, "no instance served two invocations");
}

#[tokio::test]
async fn a_name_that_no_link_has_is_an_error_and_changes_nothing() {
    let weft = Weft::app(&app(""), &[]);
    let unknown = weft.get("/value/a?link=nothing").await;
    let told = "this actor has no link `nothing` for wasi:keyvalue/store; it has default, cache";
    assert_eq!((unknown.status, unknown.text()), (500, told));
    weft.wait_for_log("a link was not chosen").await;
    // The older version has no place for an error: the guest ends.
    assert_eq!(weft.get("/value/a?link=gone&old=1").await.status, 500);
    weft.wait_for_log("this actor has no link `gone`").await;

    for (path, status, expected) in [
        ("wasi:config/store?link=cache", 200, "chosen"),
        ("wasi:blobstore/types?link=cache", 200, "chosen"),
        (
            "acme:a/b?link=cache",
            500,
            "this actor imports no acme:a/b that a link could be for",
        ),
        ("a?link=cache", 500, "is not an interface"),
    ] {
        let reply = weft.get(&format!("/choose/{path}")).await;
        assert!(reply.text().contains(expected), "{path}: {}", reply.text());
        assert_eq!(reply.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_link_of_a_name_is_changed_while_it_is_used() {
    let app = app("");
    let weft = Weft::app(&app, &[]);
    put(&weft, "/value/a?value=kept").await;
    assert_eq!(answer(&weft, "/value/a?link=cache").await, "none");
    let change = [
        "link",
        "put",
        "chooser",
        "wasi:keyvalue",
        "--link-name",
        "cache",
        "--to",
        "store",
    ];
    weft.cli(&change).await;
    assert_eq!(answer(&weft, "/value/a?link=cache").await, "kept");
    let links = weft.cli(&["get", "links", "chooser"]).await;
    let line = links
        .lines()
        .find(|line| line.contains("wasi:keyvalue#cache"))
        .unwrap();
    assert!(
        line.contains("provider scratch") || line.contains("declared"),
        "{links}"
    );

    weft.cli(&["link", "delete", "chooser", "wasi:keyvalue#cache"])
        .await;
    let gone = weft.get("/value/a?link=cache").await;
    assert!(gone.text().ends_with("it has default"), "{}", gone.text());
    assert_eq!(answer(&weft, "/value/a").await, "kept");

    weft.cli(&["link", "put", "chooser", "wasi:keyvalue#spare", "--to", "scratch"])
        .await;
    put(&weft, "/value/b?value=1&link=spare").await;
    assert_eq!(answer(&weft, "/value/b?link=spare").await, "1");
    let unchosen = weft
        .try_cli(&["link", "put", "hearer", "wasi:keyvalue#spare", "--to", "scratch"])
        .await;
    let error = String::from_utf8_lossy(&unchosen.stderr).into_owned();
    assert!(error.contains("does not import wasmcloud:bus/lattice"), "{error}");
}

#[tokio::test]
async fn an_actor_that_chooses_may_do_without_a_default_link_and_no_other_has_named_ones() {
    let text = std::fs::read_to_string(app("").path()).unwrap();
    let only = AppFile::new(&text.replace(
        "      wasi:keyvalue: { provider: store }\n      wasi:keyvalue#",
        "      wasi:keyvalue#",
    ));
    let weft = Weft::app(&only, &[]);
    put(&weft, "/value/a?value=1&link=cache").await;
    assert!(weft.get("/value/a").await.text().contains("NoSuchStore"));

    let text = std::fs::read_to_string(kv_app("memory").path()).unwrap();
    let never = AppFile::new(&text.replace("wasi:keyvalue:", "wasi:keyvalue#cache:"));
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    let output = self::weft(&[
        "up",
        never.path().to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--data",
        data,
    ]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in [
        "app.yaml:8:7",
        "can't choose the link wasi:keyvalue#cache by its name",
        "nothing is linked to it",
    ] {
        assert!(error.contains(expected), "`{expected}` is missing in: {error}");
    }
    assert_eq!(output.status.code(), Some(3), "{error}");
}

#[tokio::test]
async fn links_of_one_name_to_different_providers_are_refused_and_made_at_run_time_are_a_condition() {
    let [kv] = ["kv"].map(component);
    let text = |store: &str| {
        format!(
            "
apiVersion: weft/v1
name: pair
actors:
  kv:
    component: {kv}
    links:
      wasi:keyvalue/atomics: {{ provider: values }}
      wasi:keyvalue/batch: {{ provider: values }}
      wasi:keyvalue/store: {{ provider: {store} }}
providers:
  values: {{ capability: key-value, backend: memory }}
  scratch: {{ capability: key-value, backend: memory }}
routes:
  - actor: kv
"
        )
    };
    let differing = AppFile::new(&text("scratch"));
    let weft = Weft::app(&AppFile::new(&text("values")), &[]);
    let refused = weft
        .try_cli(&["deploy", differing.path().to_str().unwrap()])
        .await;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    let told = "`wasi:keyvalue/store` goes elsewhere than `wasi:keyvalue/atomics`";
    assert!(
        !refused.status.success() && error.contains("app.yaml:10:7: ") && error.contains(told),
        "{error}"
    );

    // One after the other they may go elsewhere together.
    let put = async |interface: &str| {
        weft.cli(&["link", "put", "kv", interface, "--to", "scratch"])
            .await;
        let output = weft.try_cli(&["get", "conditions"]).await;
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let conditions = put("wasi:keyvalue/store").await;
    assert!(
        conditions.contains("`wasi:keyvalue/store` goes elsewhere than"),
        "{conditions}"
    );
    put("wasi:keyvalue/atomics").await;
    assert_eq!(put("wasi:keyvalue/batch").await.trim(), "no conditions");
}
