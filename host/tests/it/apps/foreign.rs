//! Components in other languages, with the interfaces that components of wasmCloud 1.x import.

use std::sync::Arc;

use weft_servers::Postgres;

use super::component;
use crate::support::guests::{FOREIGN_JS, FOREIGN_PYTHON};
use crate::support::{AppFile, Weft};

/// An app of one guest, which listens to what it says itself.
fn app(guest: &str, server: &Postgres) -> AppFile {
    let (component, url) = (component(guest), server.url());
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: foreign
actors:
  guest:
    component: {component}
    secrets: {{ api-key: env:WEFT_SECRET_KEY }}
    links:
      wasi:keyvalue: {{ provider: store }}
      wasi:keyvalue#other: {{ provider: other }}
      wasi:blobstore: {{ provider: objects }}
      wasmcloud:messaging: {{ provider: events }}
      wasmcloud:postgres: {{ provider: tables }}
providers:
  store: {{ capability: key-value, backend: redb }}
  other: {{ capability: key-value, backend: memory }}
  objects: {{ capability: blob-store, backend: memory }}
  events: {{ capability: messaging, backend: lattice }}
  tables: {{ capability: sql, backend: postgres, config: {{ url: \"{url}\" }} }}
routes:
  - actor: guest
subscriptions:
  - {{ provider: events, subject: foreign, actor: guest }}
"
    ))
}

async fn uses_all(guest: &str, none: &str, secret: &str, said: &str) {
    let server = Postgres::start();
    let data = Arc::new(tempfile::tempdir().unwrap());
    let env = [("WEFT_SECRET_KEY", "a secret")];
    let weft = Weft::up(&[app(guest, &server).path()], &[], &env, data);
    let expected = format!(
        "key-value: kept 3 {none}\nblob-store: object\n{secret}messaging: said\npostgres: n 7\nlinks: {none}"
    );
    let reply = weft.get("/").await;
    assert_eq!(reply.text(), expected);
    loop {
        let heard = weft.get("/heard").await;
        match heard.text() {
            "nothing" => continue,
            text => return assert_eq!(text, said),
        }
    }
}

#[tokio::test]
async fn a_component_in_python_uses_what_those_of_wasmcloud_use() {
    uses_all(FOREIGN_PYTHON, "None", "secrets: a secret\n", "said in Python").await;
}

#[tokio::test]
async fn a_component_in_javascript_uses_what_those_of_wasmcloud_use() {
    uses_all(FOREIGN_JS, "undefined", "", "said in JavaScript").await;
}
