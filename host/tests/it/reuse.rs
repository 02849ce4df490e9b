//! Instances that serve several invocations, for actors that ask for it.

use futures::future::join_all;

use crate::support::guests::{CALLEE, CALLER, HELLO, MEMO};
use crate::support::{AppFile, Weft, get, guest};

async fn metrics(weft: &Weft) -> String {
    get(weft.monitor, "/metrics").await.text().to_owned()
}

async fn count(weft: &Weft, path: &str) -> u64 {
    let reply = weft.get(path).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().trim().parse().unwrap()
}

#[tokio::test]
async fn without_asking_each_invocation_has_an_instance_of_its_own() {
    let weft = Weft::start(&[MEMO], &[]);
    for _ in 0..5 {
        assert_eq!(count(&weft, "/count").await, 1);
    }
}

#[tokio::test]
async fn an_instance_serves_as_many_invocations_as_it_may_and_no_more() {
    let weft = Weft::start(&[MEMO], &["--reuse", "3"]);
    let mut counts = Vec::new();
    for _ in 0..7 {
        counts.push(count(&weft, "/count").await);
    }
    assert_eq!(counts, [1, 2, 3, 1, 2, 3, 1]);
    assert!(metrics(&weft).await.contains("weft_instance_reused_total"));
}

#[tokio::test]
async fn an_instance_never_serves_two_invocations_at_once() {
    let weft = Weft::start(&[MEMO], &["--reuse", "1000"]);
    let counts = join_all((0..200).map(|_| count(&weft, "/count"))).await;
    let instances = counts.iter().filter(|count| **count == 1).count();
    for number in 1..=counts.iter().copied().max().unwrap() {
        let served = counts.iter().filter(|count| **count == number).count();
        assert!(
            served <= instances,
            "{served} were told {number} by {instances} instances"
        );
    }
}

#[tokio::test]
async fn an_instance_that_trapped_is_not_used_again() {
    let weft = Weft::start(&[MEMO], &["--reuse", "1000"]);
    assert_eq!(count(&weft, "/count").await, 1);
    assert_eq!(weft.get("/trap").await.status, 500);
    assert_eq!(count(&weft, "/count").await, 1);
}

#[tokio::test]
async fn an_instance_that_holds_on_to_its_invocation_is_not_used_again() {
    let weft = Weft::start(&[MEMO], &["--reuse", "1000"]);
    assert_eq!(count(&weft, "/forget").await, 1);
    assert_eq!(count(&weft, "/count").await, 1, "a forgotten handle was kept");
    // Nor is its client kept waiting for the end of the body.
    assert_eq!(count(&weft, "/unfinished").await, 2);
    assert_eq!(count(&weft, "/count").await, 1);
}

#[tokio::test]
async fn an_instance_without_work_ends_with_its_time() {
    let weft = Weft::start(&[MEMO], &["--reuse", "1000", "--reuse-idle", "1ms"]);
    assert_eq!(count(&weft, "/count").await, 1);
    weft.wait_until_idle().await;
    assert_eq!(count(&weft, "/count").await, 1);
}

#[tokio::test]
async fn what_a_guest_prints_belongs_to_the_invocation_that_printed_it() {
    let weft = Weft::start(&[MEMO], &["--reuse", "1000"]);
    for _ in 0..2 {
        count(&weft, "/half-a-line").await;
    }
    weft.wait_for_log("half of invocation 2").await;
    let log = weft.log();
    let invocation = |text: &str| {
        let line = log.lines().find(|line| line.contains(text)).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["fields"]["invocation"].as_str().unwrap().to_owned()
    };
    let (first, second) = (
        invocation("half of invocation 1"),
        invocation("half of invocation 2"),
    );
    assert_ne!(first, second);
    let other_halves = log.lines().filter(|line| line.contains("the other half"));
    assert_eq!(
        other_halves.filter(|line| line.contains(&first)).count(),
        1,
        "{log}"
    );
}

#[tokio::test]
async fn a_change_of_what_is_deployed_ends_the_instances_that_were_kept() {
    let weft = Weft::start(&[MEMO], &["--reuse", "1000"]);
    assert_eq!(count(&weft, "/count").await, 1);
    assert_eq!(count(&weft, "/count").await, 2);
    let hello = guest(HELLO);
    let other = AppFile::new(&format!(
        "apiVersion: weft/v1\nname: other\nactors:\n  hello:\n    component: {}\n",
        hello.display()
    ));
    weft.cli(&["deploy", other.path().to_str().unwrap()]).await;
    assert_eq!(count(&weft, "/count").await, 1);
}

#[tokio::test]
async fn a_callee_that_asks_for_it_serves_many_calls_with_one_instance() {
    let (caller, callee) = (guest(CALLER), guest(CALLEE));
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: calls
actors:
  caller:
    component: {}
    links:
      test:call: {{ actor: callee }}
  callee:
    component: {}
    limits: {{ reuse: 100, reuseIdle: 5m }}
    links:
      test:call/echo: {{ actor: callee }}
routes:
  - actor: caller
",
        caller.display(),
        callee.display()
    ));
    let weft = Weft::app(&app, &[]);
    for _ in 0..10 {
        assert_eq!(weft.get("/sum?first=10").await.text(), "12\n");
    }
    assert!(
        metrics(&weft)
            .await
            .contains("weft_instance_reused_total{weft_actor=\"default/calls/callee\"} 9")
    );
}
