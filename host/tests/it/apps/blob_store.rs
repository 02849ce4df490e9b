//! `wasi:blobstore`, on each embedded backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;

use super::component;
use crate::support::guests::BLOB;
use crate::support::{AppFile, Reply, Weft};

/// What the memory of a host may grow by while objects of 64 MiB pass through it: the instances, and parts.
const GROWTH_KIB_MAX: u64 = 24 << 10;

/// An app with an actor for each backend, at `/BACKEND`.
fn app(name: &str, providers: &[(&str, &str)]) -> AppFile {
    let blob = component(BLOB);
    let mut text = format!("apiVersion: weft/v1\nname: {name}\nactors:\n");
    for (actor, provider) in providers {
        text += &format!(
            "  {actor}:\n    component: {blob}\n    links:\n      wasi:blobstore: {{ provider: {provider} }}\n"
        );
    }
    text += "providers:\n";
    for backend in ["memory", "fs"] {
        if providers.iter().any(|(_, provider)| provider == &backend) {
            text +=
                &format!("  {backend}: {{ capability: blob-store, backend: {backend}, allowFrom: [two] }}\n");
        }
    }
    text += "routes:\n";
    for (actor, _) in providers {
        text += &format!("  - {{ actor: {actor}, path: /{actor}, stripPrefix: true }}\n");
    }
    AppFile::new(&text)
}

fn both() -> Weft {
    Weft::app(&app("stores", &[("memory", "memory"), ("fs", "fs")]), &[])
}

async fn ok(weft: &Weft, method: &str, path: &str, body: impl Into<bytes::Bytes>) -> String {
    let reply = weft.send(method, path, body).await;
    assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
    reply.text().to_owned()
}

async fn refused(weft: &Weft, method: &str, path: &str) -> String {
    let reply = weft.send(method, path, "").await;
    assert!(
        matches!(reply.status, 404 | 500),
        "{method} {path}: {}",
        reply.status
    );
    reply.text().to_owned()
}

fn escaped(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test]
async fn does_on_each_backend_what_a_blob_store_does() {
    let weft = both();
    for at in ["/memory", "/fs"] {
        let path = |path: &str| format!("{at}{path}");
        assert_eq!(
            ok(&weft, "GET", &path("/container?container=c"), "").await,
            "none"
        );
        let missing = refused(&weft, "GET", &path("/list?container=c")).await;
        assert_eq!(missing, "no such container: create it first");
        assert_eq!(ok(&weft, "POST", &path("/container?container=c"), "").await, "c");
        let again = refused(&weft, "POST", &path("/container?container=c")).await;
        assert_eq!(again, "the container exists already");
        assert!(
            ok(&weft, "GET", &path("/container?container=c"), "")
                .await
                .starts_with("c 1")
        );

        // Whichever way round a component does it, as there are some of each.
        for order in ["early", "late", "whole"] {
            let object = path(&format!("/object?container=c&name={order}"));
            ok(&weft, "PUT", &format!("{object}&order={order}"), "0123456789").await;
            assert_eq!(weft.get(&object).await.text(), "0123456789");
            for (range, part) in [
                ("start=2&end=4", "234"),
                ("start=9&end=100", "9"),
                ("start=10", ""),
            ] {
                assert_eq!(weft.get(&format!("{object}&{range}")).await.text(), part);
                assert_eq!(weft.get(&format!("{object}&{range}&list=1")).await.text(), part);
            }
            let beyond = refused(&weft, "GET", &format!("{object}&start=11&end=12")).await;
            assert!(beyond.contains("not within the 10 bytes"), "{beyond}");
            if order != "whole" {
                ok(&weft, "PUT", &format!("{object}&order={order}&abort=1"), "never").await;
                assert_eq!(weft.get(&object).await.text(), "0123456789");
            }
        }
        ok(&weft, "PUT", &path("/object?container=c&name=empty"), "").await;
        assert_eq!(weft.get(&path("/object?container=c&name=empty")).await.text(), "");

        let info = ok(&weft, "GET", &path("/info?container=c&name=late"), "").await;
        assert!(info.starts_with("c/late 10 1"), "{info}");
        let gone = refused(&weft, "GET", &path("/info?container=c&name=gone")).await;
        assert_eq!(gone, "no such object");
        let mut names: Vec<_> = ok(&weft, "GET", &path("/list?container=c&len=3"), "")
            .await
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        assert_eq!(names, ["early", "empty", "late", "whole"]);
        let skipped = ok(&weft, "GET", &path("/list?container=c&skip=3"), "").await;
        assert!(
            skipped.starts_with("skipped 3 false\n") && skipped.lines().count() == 2,
            "{skipped}"
        );

        ok(&weft, "POST", &path("/container?container=d"), "").await;
        ok(
            &weft,
            "POST",
            &path("/copy?container=c&name=late&to-container=d&to=copy"),
            "",
        )
        .await;
        ok(
            &weft,
            "POST",
            &path("/move?container=c&name=early&to-container=d&to=moved"),
            "",
        )
        .await;
        assert_eq!(
            weft.get(&path("/object?container=d&name=copy")).await.text(),
            "0123456789"
        );
        assert_eq!(
            weft.get(&path("/object?container=d&name=moved")).await.text(),
            "0123456789"
        );
        assert_eq!(
            weft.get(&path("/object?container=c&name=early")).await.status,
            404
        );

        ok(&weft, "DELETE", &path("/object?container=c&name=late"), "").await;
        ok(&weft, "DELETE", &path("/object?container=c&names=whole,gone"), "").await;
        assert_eq!(ok(&weft, "GET", &path("/list?container=c"), "").await, "empty");
        ok(&weft, "POST", &path("/clear?container=c"), "").await;
        assert_eq!(ok(&weft, "GET", &path("/list?container=c"), "").await, "");
        ok(&weft, "DELETE", &path("/container?container=d"), "").await;
        assert_eq!(
            ok(&weft, "GET", &path("/container?container=d"), "").await,
            "none"
        );
    }
    let metrics = crate::support::get(weft.monitor, "/metrics").await;
    for operation in [
        "create-container",
        "read",
        "write",
        "list-objects",
        "copy-object",
        "clear",
    ] {
        let series =
            format!("weft_capability=\"blob-store\",weft_operation=\"{operation}\",weft_outcome=\"ok\"");
        assert!(metrics.text().contains(&series), "no metric of {operation}");
    }
    for operation in ["read", "write"] {
        let series = format!("weft_capability=\"blob-store\",weft_operation=\"{operation}\",weft_actor=");
        let lines = metrics.text().lines();
        let mut bytes = lines.filter(|line| line.starts_with("weft_capability_io_bytes_total{"));
        assert!(
            bytes.any(|line| line.contains(&series)),
            "no bytes of {operation}"
        );
    }
}

#[tokio::test]
async fn an_object_of_64_mib_passes_through_a_host_that_has_not_the_memory_for_it() {
    let weft = Weft::app(&app("stores", &[("fs", "fs")]), &[]);
    ok(&weft, "POST", "/fs/container?container=c", "").await;
    // What is loaded once is there by now.
    ok(&weft, "POST", "/fs/fill?container=c&name=small&mib=1", "").await;
    ok(&weft, "GET", "/fs/check?container=c&name=small&mib=1", "").await;
    let before = weft.memory_kib("VmHWM");
    ok(&weft, "POST", "/fs/fill?container=c&name=large&mib=64", "").await;
    assert_eq!(
        ok(&weft, "GET", "/fs/check?container=c&name=large&mib=64", "").await,
        (64 << 20).to_string()
    );
    let whole = weft.get("/fs/object?container=c&name=large").await;
    assert_eq!(whole.body.len(), 64 << 20);
    let grown = weft.memory_kib("VmHWM") - before;
    assert!(grown < GROWTH_KIB_MAX, "the host grew by {grown} KiB");

    let list = refused(&weft, "GET", "/fs/object?container=c&name=large&list=1").await;
    assert!(list.contains("consume it as a stream"), "{list}");
    let held = ok(&weft, "GET", "/fs/hold?container=c&name=large", "").await;
    assert!(held.starts_with("16 reads, then: too many objects"), "{held}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    nested.flatten().collect()
}

#[tokio::test]
async fn no_name_of_an_object_or_a_container_reaches_out_of_the_store() {
    let weft = Weft::app(&app("stores", &[("fs", "fs")]), &[]);
    let around: Vec<_> = files(weft.data.path());
    let names = [
        "../../../../escaped",
        "/etc/escaped",
        "..",
        ".",
        "a/../../escaped",
        "..\\escaped",
        "\0escaped",
        "%2e%2e/escaped",
    ];
    for container in names {
        let container = escaped(container);
        ok(&weft, "POST", &format!("/fs/container?container={container}"), "").await;
        for name in names {
            let path = format!("/fs/object?container={container}&name={}", escaped(name));
            ok(&weft, "PUT", &path, name.to_owned()).await;
        }
        for name in names {
            let path = format!("/fs/object?container={container}&name={}", escaped(name));
            assert_eq!(weft.get(&path).await.text(), name);
        }
    }
    let store = weft
        .data
        .path()
        .join("providers/default/stores/fs.blobs/objects/n.default/a.stores");
    let made: Vec<_> = files(weft.data.path())
        .into_iter()
        .filter(|file| !around.contains(file))
        .collect();
    assert_eq!(made.len(), names.len() * names.len());
    assert!(made.iter().all(|file| file.starts_with(&store)), "{made:?}");
}

#[tokio::test]
async fn two_apps_on_one_store_do_not_see_each_other_s_containers_and_what_is_kept_outlives_the_host() {
    let one = app("one", &[("fs", "fs")]);
    let two = app("two", &[("second", "default/one/fs")]);
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[one.path(), two.path()], &[], &[], data);
    ok(&weft, "POST", "/fs/container?container=c", "").await;
    ok(&weft, "PUT", "/fs/object?container=c&name=o", "one").await;
    assert_eq!(
        ok(&weft, "GET", "/second/container?container=c", "").await,
        "none"
    );
    for container in ["c", "../one/c", "../a.one/c.c", "default/one/c"] {
        let path = format!("/second/object?container={}&name=o", escaped(container));
        assert_eq!(weft.get(&path).await.status, 404, "{container}");
    }
    ok(&weft, "POST", "/second/container?container=c", "").await;
    ok(&weft, "PUT", "/second/object?container=c&name=o", "two").await;
    assert_eq!(weft.get("/fs/object?container=c&name=o").await.text(), "one");
    ok(&weft, "DELETE", "/second/container?container=c", "").await;

    let weft = super::again(weft.kill());
    assert_eq!(weft.get("/fs/object?container=c&name=o").await.text(), "one");
    assert_eq!(
        ok(&weft, "GET", "/second/container?container=c", "").await,
        "none"
    );
}

#[tokio::test]
async fn clients_that_leave_while_they_write_leave_nothing_and_the_others_go_on() {
    let weft = Weft::app(&app("stores", &[("fs", "fs")]), &[]);
    ok(&weft, "POST", "/fs/container?container=c", "").await;
    let staging = weft.data.path().join("providers/default/stores/fs.blobs/staging");
    let write = async |n: usize| {
        let path = format!("/fs/object?container=c&name={n}");
        ok(&weft, "PUT", &path, vec![b'x'; 1 << 20]).await;
    };
    let leave = async |n: usize| {
        let mut connection = crate::support::http1(weft.http).await;
        let (sender, body) = tokio::sync::mpsc::channel::<std::io::Result<http_body::Frame<bytes::Bytes>>>(1);
        let body = http_body_util::StreamBody::new(tokio_stream(body));
        let request = crate::support::request("PUT", &format!("/fs/object?container=c&name=left-{n}"));
        let request = request.body(http_body_util::BodyExt::boxed_unsync(body)).unwrap();
        let answer = connection.sender.send_request(request);
        let half = async {
            for _ in 0..8 {
                let chunk = bytes::Bytes::from(vec![b'y'; 64 << 10]);
                sender.send(Ok(http_body::Frame::data(chunk))).await.unwrap();
            }
            crate::support::wait_until("it is being written", || !files(&staging).is_empty()).await;
        };
        tokio::select! {
            _ = answer => panic!("an answer before the body's end"),
            () = half => {}
        }
    };
    join_all((0..4).map(leave)).await;
    join_all((0..4).map(write)).await;
    weft.wait_until_idle().await;
    crate::support::wait_until("nothing is being written", || files(&staging).is_empty()).await;
    let mut names: Vec<_> = ok(&weft, "GET", "/fs/list?container=c", "")
        .await
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, ["0", "1", "2", "3"]);
}

/// What a channel gives, as a stream.
fn tokio_stream<T: Send + 'static>(
    receiver: tokio::sync::mpsc::Receiver<T>,
) -> impl futures::Stream<Item = T> + Send {
    futures::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    })
}

#[tokio::test]
async fn an_actor_without_a_link_has_no_store_and_one_with_a_container_has_that_alone() {
    let blob = component(BLOB);
    let file = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: stores
actors:
  fixed:
    component: {blob}
    links:
      wasi:blobstore: {{ provider: memory, bucket: only }}
  free:
    component: {blob}
    links:
      wasi:blobstore: {{ provider: memory }}
providers:
  memory: {{ capability: blob-store, backend: memory }}
routes:
  - {{ actor: fixed, path: /fixed, stripPrefix: true }}
  - {{ actor: free, path: /free, stripPrefix: true }}
"
    ));
    let weft = Weft::app(&file, &[]);
    assert_eq!(
        ok(&weft, "POST", "/fixed/container?container=any", "").await,
        "only"
    );
    ok(&weft, "PUT", "/fixed/object?container=other&name=o", "x").await;
    assert_eq!(weft.get("/free/object?container=only&name=o").await.text(), "x");
    assert_eq!(
        ok(&weft, "GET", "/free/container?container=any", "").await,
        "none"
    );

    weft.cli(&["link", "delete", "free", "wasi:blobstore"]).await;
    let reply: Reply = weft.send("GET", "/free/list?container=only", "").await;
    assert_eq!(
        reply.text(),
        "the store is unavailable: this actor is linked to no blob store"
    );
}
