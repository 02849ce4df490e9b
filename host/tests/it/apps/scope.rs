//! Links into other apps: who may make them, and what becomes of one that is allowed no more.

use super::component;
use crate::support::guests::{CALLEE, CALLER, KV, MESSENGER};
use crate::support::{AppFile, Weft};

/// An app with what others may want: an actor, a store and messages, with `allow` beside each.
fn offers(allow: &str) -> String {
    let callee = component(CALLEE);
    format!(
        "
apiVersion: weft/v1
name: offers
actors:
  callee: {{ component: {callee}, links: {{ test:call: {{ actor: callee }} }}{allow} }}
providers:
  values: {{ capability: key-value, backend: memory{allow} }}
  events: {{ capability: messaging, backend: lattice{allow} }}
"
    )
}

/// The app `NAME` of `namespace` that uses them.
fn wants(namespace: &str, name: &str) -> AppFile {
    let (caller, kv, messenger) = (component(CALLER), component(KV), component(MESSENGER));
    AppFile::new(&format!(
        "
apiVersion: weft/v1
namespace: {namespace}
name: {name}
actors:
  caller: {{ component: {caller}, links: {{ test:call: {{ actor: default/offers/callee }} }} }}
  kv: {{ component: {kv}, links: {{ wasi:keyvalue: {{ provider: default/offers/values }} }} }}
  reader:
    component: {messenger}
    links: {{ wasmcloud:messaging: {{ provider: own }}, wasi:keyvalue: {{ provider: counts }} }}
providers:
  own: {{ capability: messaging, backend: lattice }}
  counts: {{ capability: key-value, backend: memory }}
routes:
  - {{ actor: caller, path: /call, stripPrefix: true }}
  - {{ actor: kv, path: /kv, stripPrefix: true }}
subscriptions:
  - {{ provider: default/offers/events, subject: a, actor: reader, shared: true }}
"
    ))
}

async fn refusal(weft: &Weft, args: &[&str]) -> String {
    let output = weft.try_cli(args).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "`weft {}` was done", args.join(" "));
    error
}

#[tokio::test]
async fn an_app_uses_anothers_actors_and_providers_only_where_they_allow_it() {
    let offered = AppFile::new(&offers(""));
    let weft = Weft::app(&offered, &[]);
    let wanted = wants("default", "wants");
    let deploy = wanted.path();
    let deploy = ["deploy", deploy.to_str().unwrap()];
    let error = refusal(&weft, &deploy).await;
    for (line, user, target) in [
        ("app.yaml:6:", "default/wants/caller", "default/offers/callee"),
        ("app.yaml:7:", "default/wants/kv", "default/offers/values"),
        ("app.yaml:18:", "default/wants/reader", "default/offers/events"),
    ] {
        let told = format!(
            "{user} can't be linked to {target}: it is another app's, which does not let this one; add `default/wants` to \
             the `allowFrom` of {target}"
        );
        assert!(error.contains(&told) && error.contains(line), "{told}\n{error}");
    }

    // An app by its name, and all of another namespace.
    offered.write(&offers(", allowFrom: [wants, press/*]"));
    let path = offered.path();
    let offer = ["deploy", path.to_str().unwrap()];
    weft.cli(&offer).await;
    weft.cli(&deploy).await;
    assert_eq!(weft.get("/call/mix").await.text(), "same\n");
    assert_eq!(weft.send("PUT", "/kv/b/key", "v").await.status, 200);
    let error = refusal(
        &weft,
        &["deploy", wants("other", "wants").path().to_str().unwrap()],
    )
    .await;
    assert!(error.contains("add `other/wants` to the `allowFrom`"), "{error}");
    weft.cli(&["delete", "app", "wants"]).await;
    weft.cli(&["deploy", wants("press", "news").path().to_str().unwrap()])
        .await;
    assert_eq!(weft.get("/call/mix").await.text(), "same\n");
}

#[tokio::test]
async fn a_link_that_is_allowed_no_more_is_a_condition_and_its_calls_are_denied() {
    let offered = AppFile::new(&offers(", allowFrom: [default/wants]"));
    let weft = Weft::app(&offered, &[]);
    weft.cli(&["deploy", wants("default", "wants").path().to_str().unwrap()])
        .await;
    assert_eq!(weft.get("/call/mix").await.text(), "same\n");
    assert_eq!(weft.send("PUT", "/kv/b/key", "v").await.status, 200);

    offered.write(&offers(""));
    let path = offered.path();
    let offer = ["deploy", path.to_str().unwrap()];
    weft.cli(&offer).await;
    let denied = weft.get("/call/mix").await;
    assert_eq!(denied.problem(), (500, "denied".to_owned()));
    let denied = weft.get("/kv/b/key").await;
    assert_eq!((denied.status, denied.text()), (403, "access-denied\n"));
    let conditions = weft.cli(&["get", "conditions"]).await;
    for subject in [
        "link default/wants/caller test:call",
        "link default/wants/kv wasi:keyvalue",
        "subscription of default/wants/reader to a of default/offers/events",
    ] {
        assert!(conditions.contains(subject), "{subject}: {conditions}");
    }
    assert!(
        conditions.contains("add `default/wants` to the `allowFrom`"),
        "{conditions}"
    );
    let links = weft.cli(&["get", "links", "default/wants/kv"]).await;
    assert!(links.contains("false") && links.contains("allowFrom"), "{links}");
    // Nor can it be made again by hand.
    let put = [
        "link",
        "put",
        "default/wants/kv",
        "wasi:keyvalue",
        "--to",
        "default/offers/values",
    ];
    assert!(refusal(&weft, &put).await.contains("`allowFrom`"));
    weft.cli(&[&put[..5], &["default/wants/counts"]].concat()).await;
    assert_eq!(weft.send("PUT", "/kv/b/key", "v").await.status, 200);

    offered.write(&offers(", allowFrom: [default/*]"));
    weft.cli(&offer).await;
    assert_eq!(weft.get("/call/mix").await.text(), "same\n");
    let again = weft.try_cli(&["get", "conditions"]).await;
    assert_eq!(String::from_utf8_lossy(&again.stderr).trim(), "no conditions");
}
