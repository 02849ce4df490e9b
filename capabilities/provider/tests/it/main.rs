//! Outside providers on a real server, with rights for their own subject alone: in Rust with this crate, and in Python
//! with nothing of Weft.
#![cfg(test)]

mod python;
mod rust;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use weft_capabilities::{KeyValue, conformance};
use weft_lattice::rpc::{Client, Place, Stamps};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::nats::{Auth, NatsSettings, NatsTransport, Role};
use weft_remote::{Remote, RemoteKeyValue};
use weft_servers::Nats;

/// How many stores a suite opens at most.
const STORES: usize = 16;

fn name(n: usize) -> String {
    format!("default/test/p{n}")
}

fn password(user: &str) -> Auth {
    Auth::Password {
        user: user.to_owned(),
        password: "x".to_owned(),
    }
}

/// A server with a host, and a provider that may serve `p0` to `p15`, as `docs/wire.md` says it.
fn server() -> Nats {
    let own = |n| format!(r#""weft.one.p.default.test.p{n} weft", "weft.one.p.default.test.p{n}.* weft""#);
    let own: Vec<_> = (0..STORES).map(own).collect();
    Nats::start(&format!(
        r#"authorization {{ users: [
            {{ user: host, password: x, permissions: {{
                subscribe: ["weft.one.>", "_INBOX_host.>"],
                publish: ["weft.one.>", "_INBOX_host.>"],
                allow_responses: {{ max: 1, expires: "30s" }} }} }},
            {{ user: provider, password: x, permissions: {{
                subscribe: [{}, "_INBOX_p0.>", "_INBOX_orders.>"],
                publish: ["_INBOX_p0.>", "_INBOX_orders.>"],
                allow_responses: {{ max: 1, expires: "30s" }} }} }}
        ] }}"#,
        own.join(", ")
    ))
}

/// The calling side: a host.
struct Host {
    client: Client,
    subjects: Subjects,
    transport: NatsTransport,
}

impl Host {
    async fn join(nats: &Nats) -> Self {
        Self::join_as(nats, password("host")).await
    }

    async fn join_as(nats: &Nats, auth: Auth) -> Self {
        let settings = NatsSettings {
            auth,
            ..NatsSettings::new(vec![nats.url()], "host", Role::Calls)
        };
        let transport = NatsTransport::connect(&settings).await.unwrap();
        let subjects = Subjects::new("one").unwrap();
        let client = Client::new(
            Arc::new(transport.clone()),
            subjects.clone(),
            Address::new("host", rand::random()).unwrap(),
            Place::default(),
            Stamps::starting_at(1),
            1,
        );
        Self {
            client,
            subjects,
            transport,
        }
    }

    fn remote(&self, name: &str) -> Remote {
        let remote = Remote::new(
            self.client.clone(),
            ["default", "test", name],
            "default/test/user",
            || None,
        );
        remote.set_outside(&self.subjects).unwrap();
        remote
    }

    fn store(&self, n: usize) -> Arc<dyn KeyValue> {
        Arc::new(RemoteKeyValue::new(self.remote(&format!("p{n}"))))
    }

    /// Runs the suite on the stores that are served.
    async fn conforms(&self) {
        let next = AtomicUsize::new(0);
        conformance::key_value(|| {
            let n = next.fetch_add(1, Ordering::Relaxed);
            assert!(n < STORES, "the suite opens more stores than are served");
            self.store(n)
        })
        .await;
    }
}
