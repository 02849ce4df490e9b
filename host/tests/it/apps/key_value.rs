//! `wasi:keyvalue` in both drafts, on each embedded backend; and what apps see of each other on Redis.

use std::fmt::Write as _;

use futures::future::join_all;
use weft_servers::Redis;

use super::{Load, component, kv_app};
use crate::support::guests::{KV, KV2};
use crate::support::{AppFile, Weft};

/// Both drafts on both backends, each with a store of its own, at `/DRAFT-BACKEND`.
fn all() -> AppFile {
    let mut text = "apiVersion: weft/v1\nname: stores\nactors:\n".to_owned();
    let (mut providers, mut routes) = ("providers:\n".to_owned(), "routes:\n".to_owned());
    for (actor, guest, backend) in [
        ("kv-memory", KV, "memory"),
        ("kv-redb", KV, "redb"),
        ("kv2-memory", KV2, "memory"),
        ("kv2-redb", KV2, "redb"),
    ] {
        let guest = component(guest);
        write!(
            text,
            "  {actor}:\n    component: {guest}\n    links:\n      wasi:keyvalue: {{ provider: {actor} }}\n"
        )
        .unwrap();
        writeln!(
            providers,
            "  {actor}: {{ capability: key-value, backend: {backend} }}"
        )
        .unwrap();
        writeln!(
            routes,
            "  - {{ actor: {actor}, path: /{actor}, stripPrefix: true }}"
        )
        .unwrap();
    }
    AppFile::new(&format!("{text}{providers}{routes}"))
}

/// What both drafts do alike, at a path.
async fn does_what_a_store_does(weft: &Weft, at: &str) {
    let get = async |path: &str| {
        let reply = weft.get(&format!("{at}{path}")).await;
        (reply.status, reply.text().to_owned())
    };
    let done = async |method: &str, path: &str, body: &str| {
        let reply = weft.send(method, &format!("{at}{path}"), body.to_owned()).await;
        assert_eq!(reply.status, 200, "{method} {at}{path}: {}", reply.text());
        reply.text().trim_end().to_owned()
    };
    let none = (404, "no such key\n".to_owned());
    let value = |text: &str| (200, text.to_owned());

    assert_eq!(get("/one/a").await, none);
    done("PUT", "/one/a", "1").await;
    done("PUT", "/two/a", "2").await;
    done("PUT", "/one/empty", "").await;
    assert_eq!(get("/one/a").await, value("1"));
    assert_eq!(get("/two/a").await, value("2"), "buckets are apart");
    assert_eq!(get("/one/empty").await, value(""));
    assert_eq!(weft.send("HEAD", &format!("{at}/one/a"), "").await.status, 200);
    assert_eq!(weft.send("HEAD", &format!("{at}/one/b"), "").await.status, 404);
    done("DELETE", "/one/a", "").await;
    done("DELETE", "/one/a", "").await;
    assert_eq!(get("/one/a").await, none);
    assert_eq!(get("/two/a").await, value("2"));

    assert_eq!(done("POST", "/incr/count?by=5&bucket=one", "").await, "5");
    let counts = (0..20).map(|_| done("POST", "/incr/count?bucket=one", ""));
    let mut counts: Vec<u32> = join_all(counts)
        .await
        .iter()
        .map(|sum| sum.parse().unwrap())
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, (6..=25).collect::<Vec<_>>(), "an increment was lost");
    done("PUT", "/one/word", "not a number").await;
    let reply = weft.send("POST", &format!("{at}/incr/word?bucket=one"), "").await;
    assert_eq!(reply.status, 500, "{}", reply.text());

    done("PUT", "/many?bucket=three&keys=x,y", "v").await;
    assert_eq!(
        get("/many?bucket=three&keys=y,z,x").await,
        value("y=v\nnone\nx=v")
    );
    done("DELETE", "/many?bucket=three&keys=x,z", "").await;
    assert_eq!(get("/many?bucket=three&keys=x,y").await, value("none\ny=v"));
}

/// A listing comes in pages, and is whole.
async fn lists_all_keys_in_pages(weft: &Weft, at: &str) {
    let keys: Vec<_> = (0..2_500).map(|number| format!("k{number:04}")).collect();
    for some in keys.chunks(500) {
        let path = format!("{at}/many?bucket=long&keys={}", some.join(","));
        assert_eq!(weft.send("PUT", &path, "v").await.status, 200);
    }
    let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let reply = weft.get(&format!("{at}/list?bucket=long{cursor}")).await;
        let (last, page) = match reply.text().split_once("cursor: ") {
            Some((page, last)) => (Some(last.to_owned()), page),
            None => (None, reply.text()),
        };
        found.extend(page.lines().map(str::to_owned));
        pages += 1;
        match last {
            Some(last) => cursor = format!("&cursor={last}"),
            None => break,
        }
    }
    found.sort();
    assert_eq!(found, keys);
    assert_eq!(pages, 3);
    assert_eq!(weft.get(&format!("{at}/list?bucket=nothing")).await.text(), "");
}

#[tokio::test]
async fn both_drafts_do_on_both_backends_what_a_store_does() {
    let weft = Weft::app(&all(), &[]);
    for at in ["/kv-memory", "/kv-redb", "/kv2-memory", "/kv2-redb"] {
        does_what_a_store_does(&weft, at).await;
        lists_all_keys_in_pages(&weft, at).await;
    }
    for at in ["/kv2-memory", "/kv2-redb"] {
        let swap = async |query: &str, body: &'static str| {
            let reply = weft
                .send("POST", &format!("{at}/swap/key?bucket=one{query}"), body)
                .await;
            reply.text().to_owned()
        };
        assert_eq!(swap("", "1").await, "before: none\ntries: 1\n");
        assert_eq!(swap("", "2").await, "before: 1\ntries: 1\n");
        assert_eq!(swap("&meanwhile=other", "3").await, "before: 2\ntries: 2\n");
        assert_eq!(weft.get(&format!("{at}/one/key")).await.text(), "3");
        let down = weft
            .send("POST", &format!("{at}/incr/down?bucket=one&by=-7"), "")
            .await;
        assert_eq!(down.text(), "-7\n");
    }
    // Four stores: what one keeps, none of the others has.
    assert_eq!(weft.send("PUT", "/kv-redb/own/key", "v").await.status, 200);
    for at in ["/kv-memory", "/kv2-memory", "/kv2-redb"] {
        assert_eq!(weft.get(&format!("{at}/own/key")).await.status, 404, "{at}");
    }
}

#[tokio::test]
async fn an_app_that_is_deleted_and_deployed_again_under_load_finds_its_data() {
    let app = kv_app("redb");
    let weft = Weft::app(&app, &[]);
    assert_eq!(weft.send("PUT", "/bucket/key", "kept").await.status, 200);
    let visit = async |client: usize, turn: usize| {
        let reply = weft.send("PUT", &format!("/bucket/{client}-{turn}"), "v").await;
        assert!(
            matches!(reply.status, 200 | 404),
            "{} {}",
            reply.status,
            reply.text()
        );
    };
    Load::during(4, visit, async |load| {
        for _ in 0..5 {
            weft.cli(&["delete", "app", "store"]).await;
            assert_eq!(weft.get("/bucket/key").await.status, 404);
            weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
            assert_eq!(weft.get("/bucket/key").await.text(), "kept");
            load.more(10).await;
        }
    })
    .await;
}

/// An app whose `own` sees the app's keys on a provider, and whose `shared` the keys that all apps share on it.
fn tenant(name: &str, provider: &str, providers: &str) -> AppFile {
    let kv = component(KV);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: {name}
actors:
  own:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: {provider} }}
  shared:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: {provider}, shared: true }}
  fixed:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: {provider}, bucket: fixed }}
{providers}
routes:
  - {{ actor: own, path: /{name}/own, stripPrefix: true }}
  - {{ actor: shared, path: /{name}/shared, stripPrefix: true }}
  - {{ actor: fixed, path: /{name}/fixed, stripPrefix: true }}
"
    ))
}

#[tokio::test]
async fn two_apps_on_one_provider_meet_only_where_both_say_so() {
    meet_only_where_both_say_so("memory").await;
}

#[tokio::test]
async fn two_apps_on_one_redis_meet_only_where_both_say_so() {
    let server = Redis::start();
    meet_only_where_both_say_so(&format!("redis, config: {{ url: \"{}\" }}", server.url())).await;
}

/// Two apps with providers of their own, on the same database of Redis.
#[tokio::test]
async fn two_apps_each_with_a_provider_on_the_same_redis_see_none_of_each_others_keys() {
    let server = Redis::start();
    let providers = format!(
        "providers:\n  values: {{ capability: key-value, backend: redis, config: {{ url: \"{}\" }} }}",
        server.url()
    );
    let apps = ["one", "two"].map(|name| tenant(name, "values", &providers));
    let data = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[apps[0].path(), apps[1].path()], &[], &[], data);
    for path in ["/one/own/b/k", "/one/own/b/l", "/one/fixed/any/k"] {
        assert_eq!(weft.send("PUT", path, "one").await.status, 200);
    }
    for path in ["/two/own/b/k", "/two/own/b/l", "/two/fixed/any/k"] {
        assert_eq!(weft.get(path).await.status, 404, "{path}");
    }
    assert_eq!(weft.get("/two/own/list?bucket=b").await.text(), "");
    // What one writes and deletes is its own, under the same names.
    assert_eq!(weft.send("PUT", "/two/own/b/k", "two").await.status, 200);
    assert_eq!(weft.get("/one/own/b/k").await.text(), "one");
    assert!(weft.send("DELETE", "/two/own/b/k", "").await.status < 300);
    assert_eq!(weft.get("/two/own/b/k").await.status, 404);
    assert_eq!(weft.get("/one/own/b/k").await.text(), "one");
    assert_eq!(weft.get("/one/own/list?bucket=b").await.text(), "k\nl");
}

async fn meet_only_where_both_say_so(backend: &str) {
    let one = tenant(
        "one",
        "values",
        &format!("providers:\n  values: {{ capability: key-value, backend: {backend}, allowFrom: [two] }}"),
    );
    let two = tenant("two", "default/one/values", "");
    let data = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[one.path(), two.path()], &[], &[], data);

    for (path, value) in [("/one/own/b/k", "one"), ("/one/shared/b/k", "shared")] {
        assert_eq!(weft.send("PUT", path, value).await.status, 200);
    }
    assert_eq!(weft.get("/two/own/b/k").await.status, 404);
    assert_eq!(weft.get("/two/shared/b/k").await.text(), "shared");
    assert_eq!(weft.get("/one/own/b/k").await.text(), "one");
    assert_eq!(weft.get("/one/own/list?bucket=b").await.text(), "k");

    // Whatever an actor asks for, it gets the bucket of its link.
    assert_eq!(weft.send("PUT", "/one/fixed/any/k", "fixed").await.status, 200);
    assert_eq!(weft.get("/one/fixed/other/k").await.text(), "fixed");
    assert_eq!(weft.get("/one/own/fixed/k").await.text(), "fixed");
    assert_eq!(weft.get("/one/own/any/k").await.status, 404);
}
