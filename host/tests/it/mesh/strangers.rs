//! Messages that no host wrote, on every subject that a host reads, as its server lists them.

use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use weft_lattice::envelope::{ArtifactRequest, Digest, Heartbeat, Request};

use super::{Lattice, monitor, monitored, one};
use crate::support::guests::HELLO;

/// What is as long as a message may be.
const FULL: usize = 1 << 20;

/// Each message of docs/wire.md.
fn vectors() -> Vec<Vec<u8>> {
    let text = include_str!("../../../../docs/wire.md");
    let blocks = text.split("\n```hex ").skip(1);
    let bytes = |block: &str| {
        let (_, rest) = block.split_once('\n').unwrap();
        let (hex, _) = rest.split_once("\n```").unwrap();
        let bytes = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16));
        bytes.collect::<Result<_, _>>().unwrap()
    };
    blocks.map(bytes).collect()
}

/// Bytes that are nothing, and each kind of message spoilt in many ways; none that a host might say of itself.
fn garbage() -> Vec<Bytes> {
    let mut all = vec![
        Bytes::new(),
        Bytes::from_static(&[0xff; 64]),
        vec![0x9b; FULL].into(),
        vec![0x81; FULL].into(),
        Bytes::from_static(&[0xa1, 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ];
    let mut rng = StdRng::seed_from_u64(7);
    let vectors = vectors();
    assert!(vectors.len() > 15, "{} messages in docs/wire.md", vectors.len());
    for whole in vectors {
        for _ in 0..8 {
            let mut spoilt = whole.clone();
            let at = rng.random_range(0..spoilt.len());
            spoilt[at] = rng.random();
            all.push(spoilt.into());
            all.push(whole[..rng.random_range(0..whole.len())].to_vec().into());
        }
        all.push([&whole[..], &whole].concat().into());
    }
    all.retain(|bytes| {
        Heartbeat::decode(bytes).is_err()
            && Digest::decode(bytes).is_err()
            && Request::decode(bytes).is_err()
            && ArtifactRequest::decode(bytes).is_err()
    });
    all
}

/// A subject for each subscription of the host `name`.
fn subjects_of(name: &str, connections: &Value) -> Vec<String> {
    let own = format!("weft {name} ");
    let connections = connections["connections"].as_array().unwrap().iter();
    let own = connections.filter(|connection| {
        let name = connection["name"].as_str().unwrap_or_default();
        format!("{name} ").starts_with(&own)
    });
    let lists = own.flat_map(|connection| connection["subscriptions_list"].as_array().unwrap().clone());
    let subjects = lists.map(|subject| subject.as_str().unwrap().replace('*', "x").replace('>', "x.y"));
    subjects.collect()
}

#[tokio::test]
async fn strangers_messages_on_every_subject_of_a_host_do_it_no_harm() {
    let (port, config) = monitored();
    let lattice = Lattice::of_with(2, &config, &[]).await;
    lattice.deploy(&one("hello", HELLO)).await;
    let subjects = subjects_of("h1", &monitor(port, "/connz?subs=1"));
    // Calls, control, streams, answers, artifacts, membership and the inboxes at least.
    for part in [
        ".call.", ".ctl", ".stream", ".answers", "_INBOX_", ".front.", ".api.",
    ] {
        assert!(
            subjects.iter().any(|subject| subject.contains(part)),
            "{part}: {subjects:?}"
        );
    }
    let stranger = async_nats::connect(lattice.nats.url()).await.unwrap();
    let garbage = garbage();
    for subject in &subjects {
        for (at, message) in garbage.iter().enumerate() {
            if at % 2 == 0 {
                stranger.publish(subject.clone(), message.clone()).await.unwrap();
            } else {
                let reply = format!("_INBOX.stranger.{at}");
                let sent = stranger.publish_with_reply(subject.clone(), reply, message.clone());
                sent.await.unwrap();
            }
        }
        stranger.flush().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for host in &lattice.hosts {
        assert_eq!(host.get("/").await.status, 200);
        assert!(!host.log().contains("panicked"), "{}", host.log());
    }
    lattice.wait_for_members(2).await;
    lattice.cli(&["delete", "app", "hello"]);
    lattice.settle().await;
    assert_eq!(lattice.hosts[1].get("/").await.status, 404);
}
