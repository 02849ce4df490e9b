//! What hosts that do nothing cost, as their server counts it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Lattice, monitor, monitored, one};
use crate::support::guests::HELLO;

/// Messages and bytes that went to and from each host, by its name.
fn counted(port: u16) -> BTreeMap<String, [u64; 2]> {
    let mut hosts = BTreeMap::<String, [u64; 2]>::new();
    for connection in monitor(port, "/connz")["connections"].as_array().unwrap() {
        let name = connection["name"].as_str().unwrap_or_default();
        let Some(name) = name.strip_prefix("weft ") else {
            continue;
        };
        let host = name.split(' ').next().unwrap().to_owned();
        let both = |what: &str| -> u64 {
            let one = |way| connection[format!("{way}_{what}")].as_u64().unwrap();
            one("in") + one("out")
        };
        let sums = hosts.entry(host).or_default();
        *sums = [sums[0] + both("msgs"), sums[1] + both("bytes")];
    }
    hosts
}

#[tokio::test]
async fn three_idle_hosts_with_an_app_cost_few_messages() {
    let (port, config) = monitored();
    let lattice = Lattice::of_with(3, &config, &[]).await;
    lattice.deploy(&one("hello", HELLO)).await;
    // Since ten seconds after they came, hosts need no echo of their own heartbeats.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let (begin, before) = (Instant::now(), counted(port));
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (seconds, after) = (begin.elapsed().as_secs_f64(), counted(port));
    assert_eq!(after.len(), 3, "{after:?}");
    let mut sums = [0.0, 0.0];
    for (name, counts) in &after {
        let a_second = [0, 1].map(|at| (counts[at] - before[name][at]) as f64 / seconds);
        eprintln!(
            "{name}: {:.2} messages and {:.0} bytes a second to and from it",
            a_second[0], a_second[1]
        );
        sums = [sums[0] + a_second[0], sums[1] + a_second[1]];
    }
    let [messages, bytes] = sums.map(|sum| sum / 3.0);
    eprintln!("a host: {messages:.2} messages and {bytes:.0} bytes a second");
    // What membership costs (3.3 and 0.7 for one more heartbeat in the time that is looked at), and little besides.
    assert!(
        messages <= 4.5 && bytes <= 2_000.0,
        "{messages:.2} messages and {bytes:.0} bytes"
    );
}
