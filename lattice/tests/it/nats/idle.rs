//! What hosts that do nothing cost, as their server counts it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weft_lattice::membership::Membership;
use weft_lattice::subject::Subjects;
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};

use super::long_or;
use super::server::{Server, number};
use crate::artifact::{Holder, holder};
use crate::hosts::Host;

/// A host with the connections and all the parts that a real one has.
struct Whole {
    membership: Membership,
    _host: Host,
    _holder: Holder<NatsTransport>,
}

async fn whole(server: &Server, name: &str) -> Whole {
    let connect = async |role| {
        let settings = NatsSettings {
            role,
            ..NatsSettings::new(vec![format!("nats://127.0.0.1:{}", server.port)], name, role)
        };
        NatsTransport::connect(&settings).await.unwrap()
    };
    let host = Host::start(connect(Role::Calls).await, "one", name).await;
    let subjects = Subjects::new("one").unwrap();
    // What a host of some actors says of itself.
    let details = Bytes::from_static(&[b'x'; 100]);
    let control = Arc::new(connect(Role::Control).await);
    let membership = Membership::start(control, subjects, host.address.clone(), "eu", false, details);
    Whole {
        membership: membership.await.unwrap(),
        _holder: holder(connect(Role::Bulk).await, name).await,
        _host: host,
    }
}

/// Messages and bytes that went to and from each host, by its name.
fn counted(server: &Server) -> BTreeMap<String, (u64, u64)> {
    let text = server.says("/connz");
    let mut hosts = BTreeMap::new();
    for connection in text.split("\"cid\": ").skip(1) {
        let (_, name) = connection.split_once("\"name\": \"weft ").unwrap();
        let host = name.split(' ').next().unwrap().to_owned();
        let both = |what: &str| {
            number(connection, &format!("in_{what}")) + number(connection, &format!("out_{what}"))
        };
        let sum: &mut (u64, u64) = hosts.entry(host).or_default();
        *sum = (sum.0 + both("msgs"), sum.1 + both("bytes"));
    }
    hosts
}

#[tokio::test]
async fn three_idle_hosts_cost_few_messages() {
    let server = Server::start("");
    let mut hosts = Vec::new();
    for name in ["h1", "h2", "h3"] {
        hosts.push(whole(&server, name).await);
    }
    // All know each other, one tells, and since ten seconds the others need no echo.
    for _ in 0..600 {
        let all = hosts.iter().all(|host| host.membership.stats().alive == 3);
        let digesters = hosts
            .iter()
            .filter(|host| host.membership.stats().digester)
            .count();
        if all && digesters == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(12)).await;
    let (begin, before) = (Instant::now(), counted(&server));
    tokio::time::sleep(long_or(Duration::from_secs(60), Duration::from_secs(6))).await;
    let (seconds, after) = (begin.elapsed().as_secs_f64(), counted(&server));
    assert_eq!(after.len(), 3);
    let mut sum = (0.0, 0.0);
    for (name, (messages, bytes)) in &after {
        let (messages_before, bytes_before) = before[name];
        let a_second = |after: u64, before: u64| (after - before) as f64 / seconds;
        let (messages, bytes) = (
            a_second(*messages, messages_before),
            a_second(*bytes, bytes_before),
        );
        eprintln!("{name}: {messages:.2} messages and {bytes:.0} bytes a second to and from it");
        sum = (sum.0 + messages, sum.1 + bytes);
    }
    eprintln!(
        "a host: {:.2} messages and {:.0} bytes a second",
        sum.0 / 3.0,
        sum.1 / 3.0
    );
    // A heartbeat of each, which the digester hears, and a digest that all do: 3.3, and one more or less in the time that is
    // looked at.
    assert!(
        sum.0 / 3.0 <= 4.0 && sum.1 / 3.0 <= 2_000.0,
        "{sum:?} for three hosts"
    );
}
