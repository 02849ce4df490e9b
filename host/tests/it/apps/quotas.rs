//! Quotas of namespaces: what is over one is refused, told and counted.

use serde_json::Value;

use super::component;
use crate::support::guests::{BLOB, MESSENGER};
use crate::support::{AppFile, Weft, get};

/// An app of `namespace` whose actor says messages, below `/NAMESPACE`.
fn talks(namespace: &str) -> AppFile {
    let guest = component(MESSENGER);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
namespace: {namespace}
name: post
actors:
  sender:
    component: {guest}
    links: {{ wasmcloud:messaging: {{ provider: events }}, wasi:keyvalue: {{ provider: counts }} }}
providers:
  events: {{ capability: messaging, backend: lattice }}
  counts: {{ capability: key-value, backend: memory }}
routes:
  - {{ actor: sender, path: /{namespace}, stripPrefix: true }}
"
    ))
}

/// How many of so many messages are said, and what is answered to one that is not.
async fn say(weft: &Weft, namespace: &str, messages: usize) -> (usize, String) {
    let (mut said, mut refused) = (0, String::new());
    for _ in 0..messages {
        let reply = weft.send("POST", &format!("/{namespace}/publish/a"), "b").await;
        match reply.status {
            200 => said += 1,
            _ => refused = reply.text().to_owned(),
        }
    }
    (said, refused)
}

#[tokio::test]
async fn a_namespace_says_no_more_than_its_quota_and_others_are_not_touched() {
    let weft = Weft::app(&talks("press"), &[]);
    weft.cli(&["deploy", talks("free").path().to_str().unwrap()])
        .await;
    assert_eq!(say(&weft, "press", 50).await.0, 50);
    weft.cli(&["quota", "put", "press", "--messages-per-s", "1"])
        .await;
    let (said, refused) = say(&weft, "press", 50).await;
    // One at once, and one for each second that passes meanwhile.
    assert!((1..25).contains(&said), "{said}");
    assert!(
        refused.contains("overloaded: the actors of the namespace press"),
        "{refused}"
    );
    assert_eq!(say(&weft, "free", 50).await.0, 50);

    let listed = weft.cli(&["get", "quotas", "--output", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let quota = &listed["quotas"][0];
    assert_eq!(
        (&quota["namespace"], &quota["messages_per_s"]),
        (&"press".into(), &1.into())
    );
    assert_eq!(quota["refused"]["messages"], 50 - said);
    let metrics = get(weft.monitor, "/metrics").await.text().to_owned();
    let series = format!(
        "weft_quota_refused_total{{weft_namespace=\"press\",weft_quota=\"messages\"}} {}\n",
        50 - said
    );
    assert!(metrics.contains(&series), "{series}{metrics}");
    let conditions = weft.cli(&["get", "conditions"]).await;
    assert!(
        conditions.contains("quota press") && conditions.contains("may say 1 messages a second"),
        "{conditions}"
    );

    weft.cli(&["quota", "delete", "press"]).await;
    assert_eq!(say(&weft, "press", 50).await.0, 50);
    let again = weft.try_cli(&["quota", "delete", "press"]).await;
    let error = String::from_utf8(again.stderr).unwrap();
    assert!(error.contains("the namespace `press` has no quota"), "{error}");
}

#[tokio::test]
async fn a_namespace_writes_no_more_bytes_of_objects_than_its_quota_and_what_was_begun_is_finished() {
    let guest = component(BLOB);
    let keeps = |namespace: &str| {
        AppFile::new(&format!(
            "
apiVersion: weft/v1
namespace: {namespace}
name: album
actors:
  blob:
    component: {guest}
    links: {{ wasi:blobstore: {{ provider: pictures }} }}
providers:
  pictures: {{ capability: blob-store, backend: fs }}
routes:
  - {{ actor: blob, path: /{namespace}, stripPrefix: true }}
"
        ))
    };
    let weft = Weft::app(&keeps("press"), &[]);
    weft.cli(&["deploy", keeps("free").path().to_str().unwrap()])
        .await;
    let send = async |method: &str, path: &str| {
        let reply = weft.send(method, path, "a picture").await;
        (reply.status, reply.text().to_owned())
    };
    for namespace in ["press", "free"] {
        let path = format!("/{namespace}/container?container=c");
        assert_eq!(send("POST", &path).await.0, 200);
    }
    weft.cli(&["quota", "put", "press", "--object-bytes-per-s", "50KiB"])
        .await;
    // It takes what twenty seconds give, and is whole all the same.
    let (status, told) = send("POST", "/press/fill?container=c&name=large&mib=1").await;
    assert_eq!(status, 200, "{told}");
    let (status, told) = send("GET", "/press/check?container=c&name=large&mib=1").await;
    assert_eq!(status, 200, "{told}");
    for (method, path) in [
        ("PUT", "/press/object?container=c&name=next"),
        (
            "POST",
            "/press/copy?container=c&name=large&to-container=c&to=next",
        ),
    ] {
        let (status, told) = send(method, path).await;
        assert_eq!(status, 500, "{method} {path}: {told}");
        assert!(told.contains("overloaded"), "{told}");
    }
    // What adds no bytes goes on, and so does who has no quota.
    let moved = send(
        "POST",
        "/press/move?container=c&name=large&to-container=c&to=moved",
    )
    .await;
    assert_eq!(moved.0, 200, "{}", moved.1);
    assert_eq!(send("GET", "/press/list?container=c").await.1, "moved");
    assert_eq!(send("PUT", "/free/object?container=c&name=next").await.0, 200);
    let metrics = get(weft.monitor, "/metrics").await.text().to_owned();
    let series = "weft_quota_refused_total{weft_namespace=\"press\",weft_quota=\"object-bytes\"} 2\n";
    assert!(metrics.contains(series), "{series}{metrics}");
    let conditions = weft.cli(&["get", "conditions"]).await;
    assert!(
        conditions.contains("may write 51200 bytes of objects a second"),
        "{conditions}"
    );
    weft.cli(&["quota", "delete", "press"]).await;
    assert_eq!(send("PUT", "/press/object?container=c&name=next").await.0, 200);
}

#[tokio::test]
async fn a_quota_is_there_after_a_restart_and_one_of_nothing_is_refused() {
    let weft = Weft::up(&[], &[], &[], std::sync::Arc::new(tempfile::tempdir().unwrap()));
    for (args, expected) in [
        (&["press"][..], "at least one of"),
        (&["press", "--connections", "0"], "a quota is at least 1"),
        (&["Press", "--connections", "1"], "a namespace is 1 to 63"),
    ] {
        let refused = weft.try_cli(&[&["quota", "put"][..], args].concat()).await;
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    weft.cli(&[
        "quota",
        "put",
        "press",
        "--object-bytes-per-s",
        "10MiB",
        "--connections",
        "3",
    ])
    .await;
    let weft = Weft::up(&[], &[], &[], weft.kill());
    let listed = weft.cli(&["get", "quotas"]).await;
    assert!(
        listed.contains("press") && listed.contains("10485760"),
        "{listed}"
    );
}

#[tokio::test]
async fn the_providers_of_a_namespace_open_as_many_connections_as_its_quota_gives() {
    let pools = |first: u32| {
        AppFile::new(&format!(
            "
apiVersion: weft/v1
name: pools
providers:
  first: {{ capability: sql, backend: postgres, config: {{ url: 'postgres://u@127.0.0.1:1/d', connections: {first} }} }}
  second: {{ capability: sql, backend: postgres, config: {{ url: 'postgres://u@127.0.0.1:1/d', connections: 8 }} }}
  third: {{ capability: key-value, backend: memory }}
"
        ))
    };
    let weft = Weft::up(&[], &[], &[], std::sync::Arc::new(tempfile::tempdir().unwrap()));
    weft.cli(&["quota", "put", "default", "--connections", "10"])
        .await;
    weft.cli(&["deploy", pools(4).path().to_str().unwrap()]).await;
    let conditions = weft.cli(&["get", "conditions"]).await;
    assert!(
        conditions.contains("provider default/pools/second")
            && conditions.contains(
                "it needs 8 connections, and of the 10 that the quota of default gives each host 4"
            ),
        "{conditions}"
    );
    weft.cli(&["deploy", pools(2).path().to_str().unwrap()]).await;
    let conditions = weft.try_cli(&["get", "conditions"]).await;
    let conditions = String::from_utf8(conditions.stdout).unwrap();
    assert!(!conditions.contains("connections, and of"), "{conditions}");
    // What is open stays open when the quota is lowered, and that is told.
    weft.cli(&["quota", "put", "default", "--connections", "9"]).await;
    let conditions = weft.cli(&["get", "conditions"]).await;
    assert!(
        conditions.contains("its providers may have 10 connections on this host, and their quota is 9"),
        "{conditions}"
    );
}
