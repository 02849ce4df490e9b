//! Objects on their way to other stores, while they are written.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::Value;
use weft_servers::S3;

use super::{Load, again, component};
use crate::support::guests::BLOB;
use crate::support::{AppFile, Weft, over_unix, put_until, wait_until};

const CLIENTS: usize = 4;
/// What an object of a client has: more than one chunk, so that half of one would be seen.
const OBJECT_LEN: usize = 300_000;
/// What the memory of a host may grow by while an object of 128 MiB is moved: two parts of 5 MiB, chunks of both stores, and
/// what the allocator keeps of these.
const GROWTH_KIB_MAX: u64 = 64 << 10;

fn app(backend: &str) -> AppFile {
    let blob = component(BLOB);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: album
actors:
  blob:
    component: {blob}
    limits: {{ timeout: 120s }}
    links:
      wasi:blobstore: {{ provider: pictures }}
providers:
  pictures: {{ capability: blob-store, backend: {backend} }}
routes:
  - actor: blob
"
    ))
}

fn on(server: &S3, more: &str) -> AppFile {
    app(&format!(
        "s3, config: {{ bucket: {}, endpoint: \"{}\", accessKeyId: {}, secretAccessKey: {}{more} }}",
        S3::BUCKET,
        server.url(),
        S3::ID,
        S3::KEY
    ))
}

fn path(app: &AppFile) -> String {
    app.path().to_str().unwrap().to_owned()
}

fn provider(weft: &Weft) -> Value {
    let socket = weft.data.path().join("admin.sock");
    let answer: Value = serde_json::from_str(&over_unix(&socket, "/v1/providers")).unwrap();
    answer["providers"][0].clone()
}

async fn ok(weft: &Weft, method: &str, path: &str, body: impl Into<Bytes>) -> String {
    let reply = weft.send(method, path, body).await;
    assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
    reply.text().to_owned()
}

/// The bytes of an object that say whose they are, at each place.
fn bytes(seed: &str) -> Bytes {
    Bytes::from(seed.bytes().cycle().take(OBJECT_LEN).collect::<Vec<_>>())
}

/// Containers, one of them empty, and many small objects.
async fn fill(weft: &Weft, objects: usize) {
    for container in ["c0", "c1", "c2", "empty"] {
        ok(weft, "POST", &format!("/container?container={container}"), "").await;
    }
    let put = async |client: usize| {
        for n in (client..objects).step_by(CLIENTS) {
            let path = format!("/object?container=c{}&name=n{n}", n % 3);
            ok(weft, "PUT", &path, format!("filled {n}")).await;
        }
    };
    join_all((0..CLIENTS).map(put)).await;
}

async fn is_filled(weft: &Weft, objects: usize) {
    for n in (0..objects).step_by(7) {
        let path = format!("/object?container=c{}&name=n{n}", n % 3);
        assert_eq!(weft.get(&path).await.text(), format!("filled {n}"), "{path}");
    }
    assert_eq!(ok(weft, "GET", "/list?container=empty", "").await, "");
}

/// What clients were told is there: the bytes of each object; none if it is not there.
#[derive(Default)]
struct Acknowledged {
    objects: RefCell<BTreeMap<String, Option<Bytes>>>,
    count: Cell<usize>,
}

impl Acknowledged {
    /// Does what changes `names`, to what they are then. `false` if the host has gone.
    async fn change(
        &self,
        weft: &Weft,
        (method, path): (&str, &str),
        body: Bytes,
        after: &[(&str, Option<Bytes>)],
    ) -> bool {
        // What is not acknowledged may be there or not.
        for (object, _) in after {
            self.objects.borrow_mut().remove(*object);
        }
        let Some(reply) = weft.try_send(method, path, body).await else {
            return false;
        };
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
        for (object, bytes) in after {
            self.objects
                .borrow_mut()
                .insert((*object).to_owned(), bytes.clone());
        }
        self.count.set(self.count.get() + 1);
        true
    }

    /// One client's turn: an object is written, again, copied, moved, or deleted; or a container of its own is cleared.
    async fn write(&self, weft: &Weft, client: usize, turn: usize) -> bool {
        let at = |n: usize| format!("container=c{}&name={client}-{}", n % 3, n % 9);
        let object = at(turn);
        match turn % 8 {
            5 => {
                let Some(Some(bytes)) = self.objects.borrow().get(&at(turn - 1)).cloned() else {
                    return true;
                };
                let (method, end) = match turn % 16 {
                    5 => ("copy", Some(bytes.clone())),
                    _ => ("move", None),
                };
                let from = at(turn - 1);
                let to = object
                    .replace("container=", "to-container=")
                    .replace("name=", "to=");
                let path = format!("/{method}?{from}&{to}");
                let after = [(from.as_str(), end), (object.as_str(), Some(bytes))];
                self.change(weft, ("POST", &path), Bytes::new(), &after).await
            }
            6 => {
                let path = format!("/object?{object}");
                self.change(weft, ("DELETE", &path), Bytes::new(), &[(&object, None)])
                    .await
            }
            _ => {
                let bytes = bytes(&format!("{client}:{turn} "));
                let order = ["early", "late", "whole"][turn % 3];
                let path = format!("/object?{object}&order={order}");
                self.change(weft, ("PUT", &path), bytes.clone(), &[(&object, Some(bytes))])
                    .await
            }
        }
    }

    async fn is_there(&self, weft: &Weft) {
        let objects = self.objects.borrow().clone();
        for (object, bytes) in &objects {
            let reply = weft.get(&format!("/object?{object}")).await;
            match bytes {
                Some(bytes) => {
                    assert_eq!(reply.status, 200, "{object}: {}", reply.text());
                    assert!(reply.body == *bytes, "{object} has other bytes");
                }
                None => assert_eq!(reply.text(), "no such object", "{object}"),
            }
        }
    }
}

#[tokio::test]
async fn a_large_object_moves_in_bounded_memory() {
    let server = S3::start();
    let weft = Weft::app(&app("fs"), &[]);
    fill(&weft, 0).await;
    ok(&weft, "POST", "/fill?container=c0&name=large&mib=128", "").await;
    let before = weft.memory_kib("VmHWM");
    weft.cli(&["deploy", &path(&on(&server, "")), "--copy"]).await;
    let grown = weft.memory_kib("VmHWM") - before;
    assert!(grown < GROWTH_KIB_MAX, "the host grew by {grown} KiB");
    let large = ok(&weft, "GET", "/check?container=c0&name=large&mib=128", "").await;
    assert_eq!(large, (128 << 20).to_string());
}

#[tokio::test]
async fn objects_move_to_a_server_and_back_under_load_and_one_that_is_being_written_is_whole() {
    let server = S3::start();
    let (fs, s3) = (app("fs"), on(&server, ""));
    let weft = Weft::app(&fs, &[]);
    fill(&weft, 120).await;
    ok(&weft, "POST", "/fill?container=c0&name=large&mib=64", "").await;
    let acknowledged = Acknowledged::default();
    let write = async |client: usize, turn: usize| {
        assert!(acknowledged.write(&weft, client, turn).await);
    };
    let moved = Cell::new(false);
    let slow = put_until(&weft, "/object?container=c0&name=slow", || moved.get());
    let load = Load::during(CLIENTS, write, async |load| {
        load.more(40).await;
        weft.cli(&["deploy", &path(&s3), "--copy"]).await;
        moved.set(true);
        load.more(40).await;
    });
    let ((), slow) = tokio::join!(load, slow);
    assert_eq!(provider(&weft)["backend"], "s3");
    let there = async |weft: &Weft| {
        is_filled(weft, 120).await;
        acknowledged.is_there(weft).await;
        let large = ok(weft, "GET", "/check?container=c0&name=large&mib=64", "").await;
        assert_eq!(large, (64 << 20).to_string());
        let found = weft.get("/object?container=c0&name=slow").await;
        assert!(found.body == slow, "an object was written in part");
    };
    there(&weft).await;
    let bucket = server.folder().join(S3::BUCKET).join("apps/default/album");
    assert_eq!(std::fs::read(bucket.join("c1/o/n1")).unwrap(), b"filled 1");

    // The folder of before is there still, and is not taken for new.
    let refused = weft.try_cli(&["deploy", &path(&fs), "--copy"]).await;
    let why = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{why}");
    assert!(
        why.contains("objects in the container") && why.contains("--replace"),
        "{why}"
    );
    Load::during(CLIENTS, write, async |load| {
        load.more(20).await;
        weft.cli(&["deploy", &path(&fs), "--copy", "--replace"]).await;
        load.more(20).await;
    })
    .await;
    assert_eq!(provider(&weft)["backend"], "fs");
    drop(server);
    there(&weft).await;
    let weft = again(weft.kill());
    there(&weft).await;
}

/// Kills the host when its log says that a move came to a step, while clients write.
async fn killed_at(step: &str) {
    let server = S3::start();
    let weft = Weft::app(&app("fs"), &[]);
    fill(&weft, 200).await;
    let acknowledged = Acknowledged::default();
    let client = async |client: usize| {
        let mut turn = 0;
        while acknowledged.write(&weft, client, turn).await {
            turn += 1;
        }
    };
    let s3 = on(&server, "");
    let kill = async {
        wait_until("enough is written", || acknowledged.count.get() >= 40).await;
        // It ends with the host.
        let manifest = path(&s3);
        let args = ["deploy", &manifest, "--copy"];
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
    // The next run goes on with it, whoever waits for it.
    wait_until("the move has ended", || {
        let provider = provider(&weft);
        provider["backend"] == "s3" && provider["move"].is_null()
    })
    .await;
    is_filled(&weft, 200).await;
    acknowledged.is_there(&weft).await;
    ok(&weft, "PUT", "/object?container=c1&name=after", "v").await;
    let bucket = server.folder().join(S3::BUCKET).join("apps/default/album");
    assert_eq!(std::fs::read(bucket.join("c1/o/after")).unwrap(), b"v");
}

#[tokio::test]
async fn a_host_that_is_killed_while_it_copies_objects_goes_on_and_loses_none() {
    killed_at("copying").await;
}

#[tokio::test]
async fn a_host_that_is_killed_while_writes_of_objects_are_held_goes_on_and_loses_none() {
    killed_at("holding").await;
    killed_at("draining").await;
}

#[tokio::test]
async fn a_host_that_is_killed_when_its_objects_have_switched_goes_on_and_loses_none() {
    killed_at("switched").await;
}

#[tokio::test]
async fn an_object_that_the_new_store_does_not_take_is_named_and_the_old_one_stays_in_use() {
    let server = S3::start();
    let weft = Weft::app(&app("fs"), &[]);
    fill(&weft, 20).await;
    let refused = async |file: &AppFile, more: &str| {
        let mut args = vec!["deploy".to_owned(), path(file), "--copy".to_owned()];
        args.extend((!more.is_empty()).then(|| more.to_owned()));
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let refused = weft.try_cli(&args).await;
        let why = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(3), "{why}");
        assert_eq!(provider(&weft)["backend"], "fs");
        assert_eq!(provider(&weft)["move"]["step"], "failed");
        why
    };
    ok(&weft, "POST", "/fill?container=c1&name=large&mib=2", "").await;
    let why = refused(&on(&server, ", objectMiB: 1"), "").await;
    assert!(
        why.contains("the object \"large\" in the container \"default/album/c1\"")
            && why.contains("too large"),
        "{why}"
    );
    // Of three bytes each in a key, of which S3 has 1,024.
    let long = "%c3%a4".repeat(200);
    ok(&weft, "PUT", &format!("/object?container=c2&name={long}"), "v").await;
    let why = refused(&on(&server, ""), "--replace").await;
    assert!(
        why.contains("in the container \"default/album/c2\"") && why.contains("key of the object"),
        "{why}"
    );
    is_filled(&weft, 20).await;
    ok(&weft, "DELETE", &format!("/object?container=c2&name={long}"), "").await;
    weft.cli(&["deploy", &path(&on(&server, "")), "--copy", "--replace"])
        .await;
    assert_eq!(provider(&weft)["backend"], "s3");
    is_filled(&weft, 20).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_not_moved_to() {
    let server = S3::start();
    let nowhere = on(&server, "");
    drop(server);
    let weft = Weft::app(&app("fs"), &[]);
    fill(&weft, 20).await;
    let refused = weft.try_cli(&["deploy", &path(&nowhere), "--copy"]).await;
    let why = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{why}");
    assert!(why.contains("can't be looked into"), "{why}");
    is_filled(&weft, 20).await;
}
