//! What a lattice survives: each fault is made, not imagined.

use std::sync::Arc;
use std::time::Duration;

use weft_servers::Nats;

use super::{Lattice, calls, one};
use crate::support::Weft;
use crate::support::guests::HELLO;

#[tokio::test]
async fn a_host_without_nats_serves_what_it_has_says_so_and_takes_part_again() {
    let mut lattice = Lattice::of(2).await;
    lattice.deploy(&one("hello", HELLO)).await;
    lattice.nats.kill();
    for host in &lattice.hosts {
        assert_eq!(host.get("/").await.status, 200);
    }
    let second = &lattice.hosts[1];
    let mut told = String::new();
    for _ in 0..100 {
        told = second.cli(&["get", "hosts", "--output", "json"]).await;
        if told.contains("lost") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(told.contains("the connection to NATS is lost"), "{told}");
    let told = second.try_cli(&["get", "hosts"]).await;
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("h2: the connection to NATS is lost"), "{told}");
    let conditions = second.cli(&["get", "conditions"]).await;
    assert!(
        conditions.contains("the connection to NATS is lost"),
        "{conditions}"
    );
    // A change is refused at once, and not queued.
    let refused = second.try_cli(&["delete", "app", "hello"]).await;
    assert!(!refused.status.success());
    lattice.nats.restart();
    lattice.wait_for_members(2).await;
    let mut deleted = false;
    for _ in 0..100 {
        deleted = lattice.hosts[1]
            .try_cli(&["delete", "app", "hello"])
            .await
            .status
            .success();
        if deleted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(deleted, "{}", lattice.hosts[1].log());
}

#[tokio::test]
async fn a_host_that_starts_without_the_others_serves_what_it_served_before() {
    let mut lattice = Lattice::of(2).await;
    lattice.deploy(&one("hello", HELLO)).await;
    // The copy of the records is written within a second of the change.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let data = lattice.hosts.remove(1).kill();
    let url = lattice.nats.url();
    lattice.nats.kill();
    let again = Weft::host(&url, "h2", &[], data);
    assert_eq!(again.get("/").await.status, 200);
    lattice.nats.restart();
    lattice.hosts.push(again);
    lattice.wait_for_members(2).await;
    lattice.settle().await;
}

#[tokio::test]
async fn hosts_whose_controller_is_gone_serve_on_and_say_so() {
    let mut lattice = Lattice::of(2).await;
    lattice.deploy(&one("hello", HELLO)).await;
    lattice.hosts.remove(0).kill();
    let second = &lattice.hosts[0];
    let mut told = String::new();
    for _ in 0..200 {
        told = String::from_utf8(second.try_cli(&["get", "hosts"]).await.stderr).unwrap();
        if told.contains("nothing can be changed") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        told.contains("h2: no host with the control store is seen"),
        "{told}"
    );
    assert_eq!(second.get("/").await.status, 200);
}

#[tokio::test]
async fn a_host_that_has_no_copy_and_finds_no_controller_says_so_in_a_condition() {
    let nats = Nats::start("");
    let alone = Weft::host(&nats.url(), "h2", &[], Arc::new(tempfile::tempdir().unwrap()));
    let conditions = alone.cli(&["get", "conditions"]).await;
    assert!(
        conditions.contains("lattice") && conditions.contains("start the controller again"),
        "{conditions}"
    );
}

#[tokio::test]
async fn each_call_to_a_host_that_is_killed_is_answered_or_fails_in_time() {
    let mut lattice = Lattice::of(3).await;
    lattice.deploy(&calls()).await;
    lattice.place("caller", "h1").await;
    lattice.place("callee", "h2").await;
    lattice.place("callee", "h3").await;
    let first = &lattice.hosts[0];
    let waiting = async |_: usize| {
        let begin = tokio::time::Instant::now();
        let reply = first.get("/wait?ms=1500").await;
        (reply.status, begin.elapsed())
    };
    let killed = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        first.signal("-0");
    };
    let victim = &lattice.hosts[1];
    let kill = async {
        killed.await;
        victim.signal("-KILL");
    };
    let (ended, ()) = tokio::join!(futures::future::join_all((0..40).map(waiting)), kill);
    for (status, elapsed) in &ended {
        assert!([200, 503, 500, 504].contains(status), "{status}");
        assert!(*elapsed < Duration::from_secs(30), "{elapsed:?}");
    }
    assert!(ended.iter().any(|(status, _)| *status == 200), "{ended:?}");
    // From then on nobody is sent there.
    lattice.hosts.remove(1);
    lattice.wait_for_members(2).await;
    for _ in 0..20 {
        assert_eq!(lattice.hosts[0].get("/mix").await.text(), "same\n");
    }
}

#[tokio::test]
async fn a_host_that_is_gone_for_good_is_replaced_by_one_of_the_same_name() {
    let mut lattice = Lattice::of(2).await;
    lattice.deploy(&one("hello", HELLO)).await;
    lattice.place("hello", "h2").await;
    drop(lattice.hosts.remove(1).kill());
    let fresh = Arc::new(tempfile::tempdir().unwrap());
    lattice
        .hosts
        .push(Weft::host(&lattice.nats.url(), "h2", &[], fresh));
    lattice.wait_for_members(2).await;
    lattice.settle().await;
    for host in &lattice.hosts {
        assert_eq!(host.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn what_is_deployed_is_on_a_second_host_again_when_the_one_that_had_it_is_gone() {
    let mut lattice = Lattice::of(2).await;
    lattice.deploy(&one("hello", HELLO)).await;
    lattice.place("hello", "h1").await;
    // It does not run there, so that it is not fetched by itself.
    let data = Arc::new(tempfile::tempdir().unwrap());
    let third = Weft::host(&lattice.nats.url(), "h3", &[], data);
    let has = async |host: &Weft| {
        let kept = host.cli(&["artifacts", "--output", "json"]).await;
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        !kept["artifacts"].as_array().unwrap().is_empty()
    };
    lattice.hosts.push(third);
    lattice.wait_for_members(3).await;
    lattice.settle().await;
    assert!(has(&lattice.hosts[1]).await && !has(&lattice.hosts[2]).await);
    let all = lattice.hosts[2]
        .cli(&["get", "artifacts", "--output", "json"])
        .await;
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let one = &all["artifacts"].as_array().unwrap()[..1];
    assert_eq!(one[0]["hosts"], serde_json::json!(["h1", "h2"]));
    assert_eq!(one[0]["pinned_by"], serde_json::json!(["default/hello/hello"]));
    assert_eq!(all["unanswered"], serde_json::json!([]));
    lattice.hosts.remove(1).kill();
    for _ in 0..300 {
        if has(&lattice.hosts[1]).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody took it: {}", lattice.hosts[0].log());
}
