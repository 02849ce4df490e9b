//! Objects that actors of several hosts keep in a folder of one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures::future::join_all;
use weft_servers::S3;

use super::moving::{moved, succeeded};
use super::{Lattice, component};
use crate::support::guests::BLOB;
use crate::support::{AppFile, put_until, wait_until};

/// What the memory of a host may grow by while an object of 64 MiB passes through it: the instance, and some messages.
const GROWTH_KIB_MAX: u64 = 40 << 10;

fn app(backend: &str) -> AppFile {
    let blob = component(BLOB);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: objects
actors:
  blob:
    component: {blob}
    limits: {{ timeout: 120s }}
    links:
      wasi:blobstore: {{ provider: objects }}
providers:
  objects: {{ capability: blob-store, backend: {backend} }}
routes:
  - {{ actor: blob, path: / }}
"
    ))
}

#[tokio::test]
async fn a_store_in_a_folder_or_in_memory_is_one_for_the_actors_of_all_hosts() {
    for backend in ["fs", "memory"] {
        let lattice = Lattice::of(2).await;
        lattice.deploy(&app(backend)).await;
        let made = lattice.hosts[1].send("POST", "/container?container=c", "").await;
        assert_eq!((made.status, made.text()), (200, "c"));
        for (at, host) in lattice.hosts.iter().enumerate() {
            let path = format!("/object?container=c&name=from-{at}");
            let put = host.send("PUT", &path, format!("by {at}")).await;
            assert_eq!(put.status, 200, "{}", put.text());
        }
        for host in &lattice.hosts {
            for at in 0..2 {
                let path = format!("/object?container=c&name=from-{at}");
                assert_eq!(host.get(&path).await.text(), format!("by {at}"));
            }
            let none = host.get("/object?container=c&name=none").await;
            assert_eq!((none.status, none.text()), (404, "no such object"));
        }
    }
}

#[tokio::test]
async fn a_large_object_goes_from_host_to_host_and_neither_has_it_in_memory() {
    let lattice = Lattice::of(2).await;
    lattice.deploy(&app("fs")).await;
    let far = &lattice.hosts[1];
    let ok = async |method: &str, path: &str| {
        let reply = far.send(method, path, "").await;
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
        reply.text().to_owned()
    };
    ok("POST", "/container?container=c").await;
    // What is loaded once is there by now.
    ok("POST", "/fill?container=c&name=small&mib=2").await;
    ok("GET", "/check?container=c&name=small&mib=2").await;
    let before: Vec<_> = lattice
        .hosts
        .iter()
        .map(|host| host.memory_kib("VmHWM"))
        .collect();
    let len = (64 << 20).to_string();
    assert_eq!(ok("POST", "/fill?container=c&name=large&mib=64").await, len);
    assert_eq!(ok("GET", "/check?container=c&name=large&mib=64").await, len);
    for (host, before) in lattice.hosts.iter().zip(before) {
        // The kernel counts in steps, so that it may even tell a little less than before.
        let grown = host.memory_kib("VmHWM").saturating_sub(before);
        assert!(grown < GROWTH_KIB_MAX, "a host grew by {grown} KiB");
    }
}

#[tokio::test]
async fn objects_in_a_folder_of_one_host_move_to_a_server_while_all_hosts_write_and_none_is_lost() {
    let server = S3::start();
    let lattice = Lattice::of(2).await;
    lattice.deploy(&app("fs")).await;
    let ok = async |host: usize, method: &str, path: &str, body: String| {
        let reply = lattice.hosts[host].send(method, path, body).await;
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
    };
    ok(0, "POST", "/container?container=c", String::new()).await;
    let (over, count, objects) = (Cell::new(false), Cell::new(0), RefCell::new(BTreeMap::new()));
    let client = async |host: usize| {
        for turn in 0.. {
            let name = format!("{host}-{}", turn % 30);
            // Some are more than a message takes.
            let text = format!("{host}:{turn} ").repeat(if turn % 10 == 0 { 200_000 } else { 10 });
            let path = format!("/object?container=c&name={name}");
            ok(host, "PUT", &path, text.clone()).await;
            objects.borrow_mut().insert(path, text);
            count.set(count.get() + 1);
            if over.get() {
                break;
            }
        }
    };
    let more = async || {
        let wanted = count.get() + 30;
        wait_until("more is written", || count.get() >= wanted).await;
    };
    let change = async {
        more().await;
        let on_s3 = format!(
            "s3, config: {{ bucket: {}, endpoint: \"{}\", accessKeyId: {}, secretAccessKey: {} }}",
            S3::BUCKET,
            server.url(),
            S3::ID,
            S3::KEY
        );
        succeeded(&moved(&lattice, &app(&on_s3), &[]).await);
        more().await;
        over.set(true);
    };
    // Which is begun at the one host by the other, and ends when neither writes to the folder any more.
    let slow = put_until(&lattice.hosts[1], "/object?container=c&name=slow", || over.get());
    let (_, (), slow) = tokio::join!(join_all((0..2).map(client)), change, slow);
    lattice.settle().await;
    for (at, (path, text)) in objects.take().iter().enumerate() {
        let found = lattice.hosts[at % 2].get(path).await;
        assert!(found.text() == text, "{path} has other bytes");
    }
    let container = server.folder().join(S3::BUCKET).join("apps/default/objects/c/o");
    assert!(std::fs::read(container.join("slow")).unwrap() == slow);
    for host in &lattice.hosts {
        let found = host.get("/object?container=c&name=slow").await;
        assert!(found.body == slow, "an object was written in part");
    }
}
