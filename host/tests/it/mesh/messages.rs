//! Messages from host to host.

use super::{Lattice, component};
use crate::support::guests::MESSENGER;
use crate::support::{AppFile, PATIENCE};

/// `sender`, served at `/`, and `reader`, which handles `orders.*`.
fn post() -> AppFile {
    let guest = component(MESSENGER);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: post
actors:
  sender: &messenger
    component: {guest}
    links: {{ wasmcloud:messaging: {{ provider: events }}, wasi:keyvalue: {{ provider: counts }} }}
  reader: *messenger
providers:
  events: {{ capability: messaging, backend: lattice }}
  counts: {{ capability: key-value, backend: memory }}
routes:
  - {{ actor: sender }}
subscriptions:
  - {{ provider: events, subject: orders.*, actor: reader }}
"
    ))
}

impl Lattice {
    async fn publish(&self, host: usize, body: &str) {
        let reply = self.hosts[host]
            .send("POST", "/publish/orders.created", body.to_owned())
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    async fn wait_until_heard(&self, body: &str, expected: &str) {
        let path = format!("/heard/{body}");
        let heard = async || self.hosts[0].get(&path).await.text().to_owned();
        let wait = async {
            while heard().await != expected {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let logs: Vec<_> = self.hosts.iter().map(|host| host.log()).collect();
            panic!(
                "{path} is {}, not {expected}\n{}",
                heard().await,
                logs.join("\n---\n")
            );
        }
    }
}

#[tokio::test]
async fn what_one_host_publishes_another_handles_and_one_of_all_that_run_the_actor() {
    let mut lattice = Lattice::of(3).await;
    lattice.deploy(&post()).await;
    lattice.place("sender", "h1").await;
    lattice.place("reader", "h2").await;
    lattice.publish(0, "one").await;
    lattice.wait_until_heard("one", "1 orders.created").await;
    let answered = lattice.hosts[0]
        .send("POST", "/request/orders.get", "hello")
        .await;
    assert_eq!((answered.status, answered.text()), (200, "HELLO"));

    // Each message once, however many hosts run it, and while they come and go.
    lattice.place("reader", "h3").await;
    for n in 0..20 {
        lattice.publish(0, &format!("n{n}")).await;
    }
    for n in 0..20 {
        lattice
            .wait_until_heard(&format!("n{n}"), "1 orders.created")
            .await;
    }
    let leaving = lattice.hosts.pop().unwrap();
    for n in 20..40 {
        lattice.publish(0, &format!("n{n}")).await;
    }
    tokio::task::spawn_blocking(move || leaving.stop()).await.unwrap();
    for n in 40..60 {
        lattice.publish(0, &format!("n{n}")).await;
    }
    for n in 20..60 {
        lattice
            .wait_until_heard(&format!("n{n}"), "1 orders.created")
            .await;
    }
}
