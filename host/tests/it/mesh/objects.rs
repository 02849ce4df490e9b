//! Objects that actors of several hosts keep in a folder of one.

use super::{Lattice, component};
use crate::support::AppFile;
use crate::support::guests::BLOB;

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
        let grown = host.memory_kib("VmHWM") - before;
        assert!(grown < GROWTH_KIB_MAX, "a host grew by {grown} KiB");
    }
}
