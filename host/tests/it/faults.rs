//! Guests that fail or mean harm: each harms only its own invocation.

use std::time::Duration;

use http_body_util::BodyExt as _;

use crate::support::guests::{FAULT, HELLO, LOGGER};
use crate::support::{PATIENCE, Weft, empty, http1, request, wait_until};

/// The code of the problem document that `path` is answered with, and its status.
async fn problem(weft: &Weft, path: &str) -> (u16, String) {
    let reply = weft.get(path).await;
    let document = reply.json();
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(document["status"], reply.status);
    (reply.status, document["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_trap_is_explained_to_the_operator_and_not_to_the_caller() {
    let weft = Weft::start(&[FAULT], &[]);
    let reply = weft.get("/trap").await;
    assert_eq!(reply.status, 500);
    assert!(
        !reply.text().contains("deep_in_the_guest") && !reply.text().contains("wasm"),
        "{}",
        reply.text()
    );
    let invocation = reply.json()["invocation"].as_str().unwrap().to_owned();
    weft.wait_for_log(&invocation).await;
    assert!(weft.log().contains("deep_in_the_guest"), "{}", weft.log());
    assert_eq!(weft.get("/ok").await.status, 200);
}

#[tokio::test]
async fn an_endless_loop_ends_with_its_processor_time_while_others_are_served() {
    let weft = Weft::start(&[FAULT, HELLO], &["--cpu-time", "300ms"]);
    let spin = problem(&weft, "/fault/spin");
    let others = async {
        for _ in 0..50 {
            assert_eq!(weft.get("/hello/plain").await.status, 200);
        }
    };
    let (spun, ()) = tokio::join!(spin, others);
    assert_eq!(spun, (500, "cpu".to_owned()));
}

#[tokio::test]
async fn a_memory_bomb_ends_at_its_limit() {
    let weft = Weft::start(&[FAULT], &["--memory", "32MiB"]);
    assert_eq!(problem(&weft, "/memory").await, (500, "memory".to_owned()));
    let resident = weft.memory_kib("VmHWM");
    assert!(resident < 160 << 10, "{resident} KiB");
}

#[tokio::test]
async fn endless_recursion_and_a_flood_of_handles_are_traps() {
    let weft = Weft::start(&[FAULT], &[]);
    assert_eq!(problem(&weft, "/stack").await, (500, "trap".to_owned()));
    assert_eq!(problem(&weft, "/handles").await.0, 500);
    assert_eq!(weft.get("/ok").await.status, 200);
}

#[tokio::test]
async fn a_guest_without_an_answer_is_a_bad_gateway() {
    let weft = Weft::start(&[FAULT], &[]);
    assert_eq!(
        problem(&weft, "/no-response").await,
        (502, "refused-by-guest".to_owned())
    );
}

#[tokio::test]
async fn a_guest_that_answers_too_late_is_ended() {
    let weft = Weft::start(&[FAULT], &["--timeout", "200ms"]);
    assert_eq!(
        problem(&weft, "/sleep?ms=60000").await,
        (504, "deadline".to_owned())
    );
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn a_trap_before_the_head_is_on_its_way_is_a_clean_failure() {
    let weft = Weft::start(&[FAULT], &[]);
    assert_eq!(problem(&weft, "/trap-after-head").await, (500, "trap".to_owned()));
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_guest() {
    let weft = Weft::start(&[FAULT], &[]);
    for path in ["/endless-body", "/stall-body", "/sleep?ms=60000"] {
        let mut connection = http1(weft.http).await;
        let answer = connection
            .sender
            .send_request(request("GET", path).body(empty()).unwrap());
        let answer = tokio::time::timeout(Duration::from_millis(300), answer).await;
        weft.wait_until_live(1).await;
        drop((answer, connection));
        weft.wait_until_idle().await;
    }
}

#[tokio::test]
async fn a_stream_ends_at_its_own_deadline() {
    let weft = Weft::start(&[FAULT], &["--stream-timeout", "300ms"]);
    let mut connection = http1(weft.http).await;
    let request = request("GET", "/stall-body").body(empty()).unwrap();
    let response = connection.sender.send_request(request).await.unwrap();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect())
        .await
        .unwrap();
    assert!(body.is_err(), "a cut body looked whole");
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn calls_over_the_limit_wait_and_those_over_the_queue_are_shed() {
    let weft = Weft::start(
        &[FAULT],
        &["--concurrency", "1", "--queue", "1", "--queue-wait", "10s"],
    );
    let running = weft.get("/sleep?ms=1500");
    let waiting = async {
        weft.wait_until_live(1).await;
        weft.get("/ok").await
    };
    let shed = async {
        let path = weft.data.path().join("admin.sock");
        let has_waiting = || crate::support::over_unix(&path, "/v1/actors").contains("\"waiting\":1");
        wait_until("a call waits", has_waiting).await;
        weft.get("/ok").await
    };
    let (running, waiting, shed) = tokio::join!(running, waiting, shed);
    assert_eq!((running.status, waiting.status), (200, 200));
    assert_eq!(
        (shed.status, shed.json()["code"].as_str().unwrap()),
        (503, "overloaded")
    );
    assert_eq!(shed.header("retry-after"), "1");
}

#[tokio::test]
async fn a_full_pool_sheds_instead_of_failing() {
    let weft = Weft::start(&[FAULT], &["--instances", "2", "--queue", "0"]);
    let running = weft.get("/sleep?ms=1000");
    let shed = async {
        weft.wait_until_live(1).await;
        weft.get("/ok").await
    };
    let (running, shed) = tokio::join!(running, shed);
    assert_eq!((running.status, shed.status), (200, 503));
}

#[tokio::test]
async fn a_guest_has_no_network_no_environment_and_no_files() {
    let weft = Weft::start(&[FAULT], &[]);
    let reply = weft.get("/outgoing?url=http://127.0.0.1:1/").await;
    assert!(
        reply.text().contains("denied") && reply.text().contains("HttpRequestDenied"),
        "{}",
        reply.text()
    );
    let reply = weft.get("/env").await;
    assert!(
        !reply.text().contains(|c: char| c.is_ascii_digit() && c != '0'),
        "{}",
        reply.text()
    );
    assert_eq!(weft.get("/random").await.status, 200);
}

#[tokio::test]
async fn a_log_flood_is_cut_and_said_to_be() {
    let weft = Weft::start(&[FAULT], &[]);
    assert_eq!(weft.get("/log?n=100000&len=100").await.status, 200);
    weft.wait_for_log("log cut").await;
    assert!(weft.log().len() < 2 << 20, "{} bytes", weft.log().len());
}

#[tokio::test]
async fn guest_lines_carry_the_actor_and_the_level() {
    let weft = Weft::start(&[LOGGER, FAULT], &[]);
    assert_eq!(weft.get("/logger/logging").await.status, 200);
    assert_eq!(weft.get("/fault/log?n=1&len=5").await.status, 200);
    wait_until("all lines are there", || {
        let log = weft.log();
        let has = |source: &str, level: &str| {
            log.lines()
                .any(|line| line.contains(source) && line.contains(level) && line.contains("default/"))
        };
        has("wasi:logging", "ERROR")
            && has("wasi:logging", "WARN")
            && has("stdout", "INFO")
            && has("stderr", "WARN")
    })
    .await;
}

#[tokio::test]
async fn a_guest_may_work_on_after_its_answer() {
    let weft = Weft::start(&[FAULT], &[]);
    assert_eq!(weft.get("/post-response").await.status, 200);
    weft.wait_for_log("after the response").await;
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn ten_thousand_response_headers_fail_in_the_guest_alone() {
    let weft = Weft::start(&[FAULT], &[]);
    let mut connection = http1(weft.http).await;
    let request = request("GET", "/headers?n=10000").body(empty()).unwrap();
    // The client may refuse such a head, the guest may be refused its headers; the host lives on.
    let _ = tokio::time::timeout(PATIENCE, connection.sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(weft.get("/ok").await.status, 200);
}

#[tokio::test]
async fn many_timers_at_once_are_bounded_by_the_guests_handles() {
    let weft = Weft::start(&[FAULT], &[]);
    assert_eq!(weft.get("/subtask-many?n=100").await.status, 200);
    assert_eq!(weft.get("/subtask-many?n=100000").await.status, 500);
    assert_eq!(weft.get("/ok").await.status, 200);
}
