//! Apps: actors that call each other and reach stores, databases and the network through links that change while they
//! serve.

mod bare;
mod blob_store;
mod calls;
mod crash;
mod foreign;
mod http_client;
mod key_value;
mod link_names;
mod messages;
mod moving;
mod moving_objects;
mod moving_tables;
mod postgres;
mod quotas;
mod refused;
mod scope;
pub(crate) mod secrets;
mod servers;
mod shop;
mod sql;
mod supervised;
mod watches;

use std::cell::Cell;
use std::sync::Arc;

use futures::future::join_all;

use crate::support::guests::{CONFIG, KV};
use crate::support::{AppFile, Weft, guest, wait_until};

/// What a manifest names a guest by.
fn component(name: &str) -> String {
    guest(name).display().to_string()
}

/// A host that serves what is deployed in a data folder already.
fn again(data: Arc<tempfile::TempDir>) -> Weft {
    Weft::up(&[], &[], &[], data)
}

/// An app of the guest `kv` on a backend of key-value, served at `/`.
fn kv_app(backend: &str) -> AppFile {
    let kv = component(KV);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv:
    component: {kv}
    links:
      wasi:keyvalue: {{ provider: values }}
providers:
  values: {{ capability: key-value, backend: {backend} }}
routes:
  - actor: kv
"
    ))
}

/// Clients that ask again and again while something changes.
#[derive(Default)]
struct Load {
    over: Cell<bool>,
    answers: Cell<usize>,
}

impl Load {
    /// Runs so many clients until `change` has ended. A client is called with its number and how often it was called.
    async fn during<V: Future<Output = ()>>(
        clients: usize,
        visit: impl Fn(usize, usize) -> V,
        change: impl AsyncFnOnce(&Self),
    ) {
        let (load, visit) = (Self::default(), &visit);
        let client = async |client: usize| {
            let mut turn = 0;
            while !load.over.get() {
                visit(client, turn).await;
                load.answers.set(load.answers.get() + 1);
                turn += 1;
            }
        };
        let change = async {
            change(&load).await;
            load.over.set(true);
        };
        tokio::join!(join_all((0..clients).map(client)), change);
    }

    /// Waits until so many more answers have come.
    async fn more(&self, answers: usize) {
        let wanted = self.answers.get() + answers;
        wait_until("more answers came", || self.answers.get() >= wanted).await;
    }
}

#[tokio::test]
async fn an_actor_reads_its_configuration_by_each_name_of_the_interface_and_where_its_links_go() {
    let config = component(CONFIG);
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: settings
actors:
  reader:
    component: {config}
    config: {{ greeting: \"hello, world\" }}
    links:
      wasi:keyvalue: {{ provider: values }}
  bare: {{ component: {config} }}
providers:
  values: {{ capability: key-value, backend: memory }}
routes:
  - {{ actor: reader, path: / }}
  - {{ actor: bare, path: /bare, stripPrefix: true }}
"
    ));
    let weft = Weft::app(&app, &[]);
    let by_each_name = |value: &str| {
        format!("store draft{value}\nruntime draft{value}\nstore rc.1{value}\nstore 2024-09-27{value}\n")
    };
    assert_eq!(weft.get("/greeting").await.text(), by_each_name(": hello, world"));
    assert_eq!(weft.get("/nothing").await.text(), by_each_name(" is not set"));
    assert_eq!(
        weft.get("/").await.text(),
        "greeting=hello, world\nweft.link.wasi:keyvalue=values@1\n"
    );
    assert_eq!(
        weft.get("/bare/").await.text(),
        "",
        "an actor saw what is another's"
    );
    assert_eq!(
        weft.get("/bare/greeting").await.text(),
        by_each_name(" is not set")
    );
}
