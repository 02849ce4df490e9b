//! Regions: two clusters with a gateway between them, and a leaf node below one of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weft_lattice::membership::{Membership, Standing};
use weft_lattice::rpc::{Place, Ring};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};

use super::LONG;
use super::cluster::Cluster;
use super::server::{Mode, Proxy, Server, free_ports};
use crate::hosts::Host;

/// Servers of three regions. Those of `edge` are a leaf node of `west`.
struct World {
    east: Cluster,
    west: Cluster,
    edge: Server,
}

impl World {
    async fn start() -> Self {
        let [e0, e1, w0, w1, leaves] = free_ports();
        let gateway = |own: &str, port: u16| {
            let of = |name: &str, ports: [u16; 2]| {
                let [a, b] = ports.map(|port| format!("\"nats://127.0.0.1:{port}\""));
                format!("{{ name: {name}, urls: [{a}, {b}] }}")
            };
            let (east, west) = (of("east", [e0, e1]), of("west", [w0, w1]));
            // A server with gateways and leaf nodes has to have an account for itself.
            let account = "accounts { SYS {} }\nsystem_account: SYS";
            format!(
                "{account}\ngateway {{ name: {own}, listen: \"127.0.0.1:{port}\", gateways: [{east}, {west}] }}\n"
            )
        };
        let east = Cluster::start::<2>("east", |at| gateway("east", [e0, e1][at])).await;
        let west = Cluster::start::<2>("west", |at| {
            let leaves = format!("leafnodes {{ listen: \"127.0.0.1:{leaves}\" }}\n");
            gateway("west", [w0, w1][at]) + if at == 0 { &leaves } else { "" }
        })
        .await;
        let remote = format!("{{ url: \"nats://127.0.0.1:{leaves}\" }}");
        let edge = Server::start(&format!("server_name: edge\nleafnodes {{ remotes: [{remote}] }}"));
        for (cluster, other) in [(&east, "west"), (&west, "east")] {
            for server in &cluster.servers {
                server
                    .until_it_says("/gatewayz", &format!("\"{other}\": {{"))
                    .await;
            }
        }
        edge.until_it_says("/leafz", "\"leafnodes\": 1").await;
        Self { east, west, edge }
    }
}

/// A host and its view of the others.
struct Member {
    host: Host,
    membership: Membership,
}

async fn member(transport: NatsTransport, name: &str, region: &str, zone: &str) -> Member {
    let place = Place {
        region: region.to_owned(),
        zone: zone.to_owned(),
    };
    let host = Host::start_in(transport.clone(), name, place).await;
    let subjects = Subjects::new("one").unwrap();
    let (address, details) = (host.address.clone(), Bytes::new());
    let membership = Membership::start(Arc::new(transport), subjects, address, region, false, details);
    Member {
        membership: membership.await.unwrap(),
        host,
    }
}

/// Waits until each of `members` sees just these, alive.
async fn until_they_see_each_other(members: &[&Member]) {
    let all: BTreeSet<Address> = members.iter().map(|member| member.host.address.clone()).collect();
    let seen = |member: &Member| -> BTreeSet<Address> {
        let known = member.membership.members().into_iter();
        known
            .filter(|known| known.standing == Standing::Alive)
            .map(|known| known.address)
            .collect()
    };
    for _ in 0..600 {
        if members.iter().all(|member| seen(member) == all) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let views: Vec<_> = members
        .iter()
        .map(|member| (&member.host.address, seen(member)))
        .collect();
    panic!("they see {views:#?}");
}

/// Calls until one is answered from `ring`, and says how many were not answered before. The others end in time all the
/// same.
async fn until_answered_from(ring: Ring, caller: &Member, targets: &weft_lattice::rpc::Targets) -> u32 {
    let mut failed = 0;
    for _ in 0..600 {
        let call = caller.host.call(targets, "echo", "where", Duration::from_secs(1));
        match call.await {
            Ok(answer) if answer.ring == ring => return failed,
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) => failed += 1,
        }
    }
    panic!("no answer from {ring:?}");
}

#[tokio::test]
async fn calls_stay_in_their_region_and_go_to_another_when_it_has_no_host() {
    let world = World::start().await;
    let proxy = Proxy::to(world.west.servers[1].port).await;
    let cut = NatsSettings::new(vec![format!("nats://{}", proxy.address)], "w2", Role::Calls);
    let cut = NatsTransport::connect(&cut).await.unwrap();
    let east = [
        member(world.east.join(0, "e1").await, "e1", "east", "a").await,
        member(world.east.join(1, "e2").await, "e2", "east", "b").await,
    ];
    let west = [
        member(world.west.join(0, "w1").await, "w1", "west", "a").await,
        member(cut, "w2", "west", "b").await,
    ];
    let edge = [
        member(world.edge.join("l1").await, "l1", "edge", "a").await,
        member(world.edge.join("l2").await, "l2", "edge", "b").await,
    ];
    let regions = [&east, &west, &edge];
    until_they_see_each_other(&[&east[0], &east[1], &west[0], &west[1], &edge[0], &edge[1]]).await;

    // The second of each region runs the target, and the first calls it.
    let callees = [&east[1].host, &west[1].host, &edge[1].host];
    for [caller, _] in regions {
        for callee in callees {
            caller.host.until_answered_by(callee).await;
        }
    }
    for [caller, callee] in regions {
        let targets = caller.host.targets(&callees);
        for _ in 0..30 {
            let answer = caller.host.call(&targets, "echo", "x", LONG).await.unwrap();
            assert_eq!(
                (answer.host, answer.ring),
                (callee.host.address.clone(), Ring::Region)
            );
        }
    }

    // A host that is there, but can't be heard: its line is dead, and nobody is told.
    let from_west = west[0].host.targets(&callees);
    proxy.set(Mode::Drop);
    let lost = until_answered_from(Ring::Far, &west[0], &from_west).await;
    eprintln!("{lost} calls were not answered before they left the region");
    // Its client finds another server of its cluster by itself, and then calls stay in the region again.
    until_answered_from(Ring::Region, &west[0], &from_west).await;

    // A host that crashes.
    let from_east = east[0].host.targets(&callees);
    let [caller, crashes] = east;
    drop(crashes);
    let lost = until_answered_from(Ring::Far, &caller, &from_east).await;
    eprintln!("{lost} calls were not answered when their region had no host any more");
    for _ in 0..30 {
        let answer = caller.host.call(&from_east, "echo", "x", LONG).await.unwrap();
        assert_eq!(answer.ring, Ring::Far);
    }
    // All come to know of it, in every region.
    until_they_see_each_other(&[&caller, &west[0], &west[1], &edge[0], &edge[1]]).await;
}
