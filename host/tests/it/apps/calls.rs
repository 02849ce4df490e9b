//! Calls from one actor to another.

use std::sync::Arc;

use futures::future::join_all;
use weft_observability::test_collector::TestCollector;

use super::component;
use crate::support::guests::{CALLEE, CALLER};
use crate::support::{AppFile, PATIENCE, Weft, empty, request, send};

/// `caller`, which is served, linked to `callee`, which is linked to itself.
fn calls(caller_limits: &str, callee_limits: &str) -> AppFile {
    let (caller, callee) = (component(CALLER), component(CALLEE));
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: calls
actors:
  caller:
    component: {caller}
    limits: {{ {caller_limits} }}
    links:
      test:call: {{ actor: callee }}
  callee:
    component: {callee}
    limits: {{ {callee_limits} }}
    links:
      test:call/echo: {{ actor: callee }}
routes:
  - actor: caller
"
    ))
}

fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn values_of_every_type_come_back_as_they_went() {
    let weft = Weft::app(&calls("", ""), &[]);
    assert_eq!(weft.get("/mix").await.text(), "same\n");
    assert_eq!(weft.get("/sum?first=10").await.text(), "12\n");
    assert_eq!(weft.get("/nothing").await.text(), "nothing\n");
    assert_eq!(weft.get("/refuse").await.text(), "refused: no reason\n");
    for text in ["", "naïve \u{1F9F5}\0"] {
        assert_eq!(weft.send("POST", "/text", text).await.text(), format!("{text}\n"));
    }
    for len in [0, 1, 64 << 10, 1 << 20] {
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
        let reply = weft.send("POST", "/bytes", sent.clone()).await;
        assert_eq!(reply.status, 200);
        assert!(
            reply.body == sent,
            "{len} bytes came back as {}",
            reply.body.len()
        );
    }
}

#[tokio::test]
async fn every_call_has_an_instance_of_its_own() {
    let weft = Weft::app(&calls("", ""), &[]);
    for _ in 0..3 {
        assert_eq!(weft.get("/calls-before").await.text(), "0\n");
    }
}

#[tokio::test]
async fn how_a_callee_ends_is_told_as_its_callers_failure_and_the_host_goes_on() {
    let weft = Weft::app(&calls("", "cpuTime: 200ms, memory: 16MiB, timeout: 10s"), &[]);
    for path in ["/trap", "/burn", "/hoard"] {
        let reply = weft.get(path).await;
        assert_eq!(reply.problem(), code(500, "trap"), "{path}");
        assert!(!reply.text().contains("callee"), "{path}: {}", reply.text());
    }
    // The operator is told who failed, and how, under the callee's own name.
    for kind in ["\"cpu\"", "\"memory\"", "the callee was asked to trap"] {
        weft.wait_for_log(kind).await;
    }
    assert_eq!(weft.get("/mix").await.text(), "same\n");
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn a_call_ends_at_the_deadline_of_the_callee_or_of_the_caller_whichever_is_first() {
    for (caller, callee) in [("", "timeout: 200ms"), ("timeout: 200ms", "")] {
        let weft = Weft::app(&calls(caller, callee), &[]);
        let reply = weft.get("/wait?ms=60000").await;
        assert_eq!(reply.problem(), code(504, "deadline"), "{caller}{callee}");
        weft.wait_until_idle().await;
        assert_eq!(weft.get("/wait?ms=1").await.text(), "1\n");
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_whole_chain() {
    let weft = Weft::app(&calls("", ""), &[]);
    let mut connection = crate::support::http1(weft.http).await;
    let waiting = request("GET", "/wait?ms=60000").body(empty()).unwrap();
    {
        let mut answer = std::pin::pin!(connection.sender.send_request(waiting));
        let live = weft.wait_until_live(2);
        let mut live = std::pin::pin!(live);
        // The request is driven for as long as it takes to arrive.
        futures::future::select(&mut answer, &mut live).await;
    }
    drop(connection);
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn a_chain_goes_32_calls_deep_and_no_further() {
    let weft = Weft::app(&calls("", ""), &[]);
    // The first call is that of `caller`, and `n` more follow.
    for n in [0, 1, 31] {
        assert_eq!(weft.get(&format!("/deep?n={n}")).await.text(), format!("{n}\n"));
    }
    for n in [32, 1_000_000] {
        assert_eq!(
            weft.get(&format!("/deep?n={n}")).await.problem(),
            code(500, "denied")
        );
    }
    weft.wait_for_log("a chain of 32 calls").await;
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn an_actor_with_one_place_that_calls_itself_is_answered() {
    let weft = Weft::app(&calls("", "concurrency: 1, queueWait: 200ms"), &[]);
    let circles = (0..4).map(|_| weft.get("/deep?n=1"));
    for reply in join_all(circles).await {
        assert_eq!(reply.problem(), code(503, "unavailable"));
    }
    assert_eq!(weft.get("/deep?n=0").await.text(), "0\n");
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn many_deep_chains_in_a_small_pool_are_all_answered() {
    let weft = Weft::app(&calls("", ""), &["--instances", "16"]);
    for _ in 0..3 {
        let chains = (0..64).map(|n| {
            let path = format!("/deep?n={}", n % 16);
            let weft = &weft;
            async move { weft.get(&path).await }
        });
        for reply in join_all(chains).await {
            assert!(
                reply.status == 200
                    || reply.problem() == code(503, "unavailable")
                    || reply.problem() == code(503, "overloaded"),
                "{} {}",
                reply.status,
                reply.text()
            );
        }
    }
    weft.wait_until_idle().await;
    assert_eq!(weft.get("/deep?n=14").await.text(), "14\n", "the pool lost slots");
}

#[tokio::test]
async fn a_link_that_is_taken_away_fails_the_calls_through_it_until_it_is_back() {
    let weft = Weft::app(&calls("", ""), &[]);
    let link = ["default/calls/caller", "test:call"];
    weft.cli(&[&["link", "delete"], &link[..]].concat()).await;
    assert_eq!(weft.get("/mix").await.problem(), code(500, "not-found"));
    weft.wait_for_log("nothing is linked to test:call/echo").await;
    weft.cli(&[&["link", "put"], &link[..], &["--to", "callee"]].concat())
        .await;
    assert_eq!(weft.get("/mix").await.text(), "same\n");
}

#[tokio::test]
async fn a_chain_of_calls_is_one_trace_with_a_span_for_each_hop() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[calls("", "").path()], &[], &env, data);
    let traced = request("GET", "/deep?n=2").header(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    );
    assert_eq!(send(weft.http, traced.body(empty()).unwrap()).await.status, 200);

    let root = collector.wait_for_span("GET", PATIENCE).await.unwrap();
    let spans = collector.spans();
    let child_of = |parent: u64| spans.iter().find(|span| span.parent_span_id == Some(parent));
    let mut parent = root.span_id;
    for hops in 1..=3 {
        let span = child_of(parent).unwrap();
        assert_eq!(span.name, "test:call/echo/deep");
        assert_eq!(
            format!("{:032x}", span.trace_id),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(span.attributes["weft.actor"], "default/calls/callee");
        assert_eq!(span.attributes["weft.call.hops"], hops.to_string());
        parent = span.span_id;
    }
    assert_eq!(child_of(parent), None);
}
