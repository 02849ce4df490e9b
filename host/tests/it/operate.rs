//! What operators and scripts rely on: signals, probes, logs, metrics, traces, the other commands.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use weft_observability::test_collector::TestCollector;

use crate::support::guests::{ECHO, FAULT, HELLO, KV, REPLY};
use crate::support::{
    AppFile, PATIENCE, Weft, empty, get, guest, http1, over_unix, request, send, wait_until, weft,
};

#[tokio::test]
async fn the_ready_line_tells_where_everything_is() {
    let weft = Weft::start(&[HELLO], &[]);
    assert_eq!(weft.ready["ready"], true);
    assert_eq!(weft.ready["profile"], "fast");
    let socket = weft.ready["admin"]
        .as_str()
        .unwrap()
        .strip_prefix("unix:")
        .unwrap();
    assert_eq!(
        std::fs::metadata(socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let status: Value = serde_json::from_str(&over_unix(socket.as_ref(), "/v1/host")).unwrap();
    assert_eq!(status["state"], "ready");
}

#[tokio::test]
async fn sigterm_finishes_what_runs_and_exits_0() {
    let mut weft = Weft::start(&[FAULT], &[]);
    let running = get(weft.http, "/sleep?ms=1000");
    let stop = async {
        weft.wait_until_live(1).await;
        weft.signal("-TERM");
        wait_until("it is not ready", || weft.log().contains("draining")).await;
        let ready = loop {
            let ready = get(weft.monitor, "/ready").await;
            if ready.status != 200 {
                break ready;
            }
        };
        assert_eq!((ready.status, ready.text()), (503, "draining\n"));
        assert_eq!(get(weft.monitor, "/live").await.status, 200);
    };
    let (answer, ()) = tokio::join!(running, stop);
    assert_eq!(answer.status, 200);
    assert_eq!(weft.wait().code(), Some(0));
    assert!(!weft.data.path().join("admin.sock").exists());
}

/// Whether a request ends without an answer.
async fn is_cut(weft: &Weft, path: &str) -> bool {
    let mut connection = http1(weft.http).await;
    let answer = connection
        .sender
        .send_request(request("GET", path).body(empty()).unwrap());
    answer.await.is_err()
}

#[tokio::test]
async fn a_drain_ends_what_does_not_finish_in_time() {
    let mut weft = Weft::start(&[FAULT], &["--drain-timeout", "300ms"]);
    let running = is_cut(&weft, "/sleep?ms=20000");
    let stop = async {
        weft.wait_until_live(1).await;
        weft.signal("-INT");
    };
    let (cut, ()) = tokio::join!(running, stop);
    assert!(cut);
    assert_eq!(weft.wait().code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_quits_at_once() {
    let mut weft = Weft::start(&[FAULT], &[]);
    let running = is_cut(&weft, "/sleep?ms=20000");
    let stop = async {
        weft.wait_until_live(1).await;
        weft.signal("-TERM");
        weft.wait_for_log("draining").await;
        weft.signal("-TERM");
    };
    let (cut, ()) = tokio::join!(running, stop);
    assert!(cut);
    assert_eq!(weft.wait().code(), Some(1));
}

#[tokio::test]
async fn the_monitor_answers_probes_and_tells_numbers() {
    let weft = Weft::start(&[HELLO, FAULT], &[]);
    assert_eq!(get(weft.monitor, "/live").await.status, 200);
    assert_eq!(get(weft.monitor, "/ready").await.status, 200);
    weft.get("/hello/plain").await;
    weft.get("/fault/trap").await;
    weft.get("/nobody").await;
    let metrics = get(weft.monitor, "/metrics").await;
    for expected in [
        "http_server_request_duration_seconds_count{",
        "weft_actor=\"default/hello/hello\"",
        "weft_outcome=\"trap\"",
        "weft_invocation_queue_duration_seconds",
        "weft_instance_memory_peak_bytes",
        "weft_pool_slots",
    ] {
        assert!(
            metrics.text().contains(expected),
            "`{expected}` is missing in {}",
            metrics.text()
        );
    }
}

#[tokio::test]
async fn a_trace_goes_through_the_host_into_the_guest_and_out_over_otlp() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let weft = Weft::start_with(&[ECHO], &[], &env, Arc::new(tempfile::tempdir().unwrap()));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = request("GET", "/headers")
        .header("traceparent", parent)
        .body(empty())
        .unwrap();
    let seen = send(weft.http, traced).await;
    let span = collector
        .wait_for_span("GET", PATIENCE)
        .await
        .expect("no span came");
    assert_eq!(
        format!("{:032x}", span.trace_id),
        "0af7651916cd43dd8448eb211c80319c"
    );
    assert_eq!(
        format!("{:016x}", span.parent_span_id.unwrap()),
        "b7ad6b7169203331"
    );
    let inside = format!(
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-{:016x}-01",
        span.span_id
    );
    assert!(
        seen.text().contains(&inside),
        "`{inside}` is missing in {}",
        seen.text()
    );
}

#[tokio::test]
async fn without_an_exporter_a_trace_is_passed_on_as_it_came() {
    let weft = Weft::start(&[ECHO], &[]);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = request("GET", "/headers")
        .header("traceparent", parent)
        .body(empty())
        .unwrap();
    let seen = send(weft.http, traced).await;
    assert!(
        seen.text().contains(&format!("traceparent: {parent}")),
        "{}",
        seen.text()
    );
}

#[tokio::test]
async fn weft_logs_prints_and_follows_what_an_actor_wrote() {
    let weft = Weft::start(&[FAULT, HELLO], &[]);
    weft.get("/fault/log?n=3&len=10").await;
    let data = weft.data.path().to_str().unwrap();
    let args = [
        "logs",
        "--data",
        data,
        "--actor",
        "default/fault/fault",
        "--tail",
        "2",
    ];
    let output = crate::support::weft(&args);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);

    let mut follower = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args([
            "logs",
            "-f",
            "--tail",
            "0",
            "--output",
            "json",
            "--data",
            data,
            "--actor",
            "default/fault/fault",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // It is attached once a line arrives; until then lines are written.
    let first = std::thread::spawn(move || lines.next().unwrap().unwrap());
    while !first.is_finished() {
        weft.get("/fault/log?n=1&len=10").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let line: Value = serde_json::from_str(&first.join().unwrap()).unwrap();
    assert_eq!(line["actor"], "default/fault/fault");
    let _ = follower.kill();
    let _ = follower.wait();
}

#[test]
fn logs_without_a_host_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let output = weft(&["logs", "--data", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8(output.stderr).unwrap().contains("weft up"));
}

#[tokio::test]
async fn a_command_does_not_wait_for_ever_for_a_host_that_is_stopped() {
    let weft = Weft::start(&[HELLO], &[]);
    weft.signal("-STOP");
    let output = weft.try_cli(&["get", "apps"]).await;
    weft.signal("-CONT");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert!(error.contains("is its process stopped"), "{error}");
    assert_eq!(weft.get("/plain").await.status, 200);
}

#[tokio::test]
async fn the_admin_api_over_tcp_wants_the_token() {
    let weft = Weft::start(&[HELLO], &["--admin", "127.0.0.1:0"]);
    let admin = weft.ready["admin_tcp"]
        .as_str()
        .unwrap()
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    let ask = |token: &str| {
        let request = http::Request::get("/v1/host").header("host", "localhost");
        send(
            admin,
            request
                .header("authorization", format!("Bearer {token}"))
                .body(empty())
                .unwrap(),
        )
    };
    assert_eq!(ask("guess").await.status, 401);
    let token = std::fs::read_to_string(weft.data.path().join("admin.token")).unwrap();
    assert_eq!(ask(token.trim()).await.status, 200);
}

#[test]
fn inspect_tells_what_a_component_needs_and_whether_it_is_served() {
    let output = weft(&["inspect", guest(HELLO).to_str().unwrap(), "--output", "json"]);
    let inspection: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&inspection["serves_http"], &inspection["runs_here"]),
        (&true.into(), &true.into())
    );
    assert!(
        inspection["exports"][0]
            .as_str()
            .unwrap()
            .starts_with("wasi:http/incoming-handler@0.2.")
    );
    let output = weft(&["inspect", guest(REPLY).to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("weft:test/reply") && text.contains("nothing that answers HTTP"),
        "{text}"
    );
}

#[tokio::test]
async fn inspect_tells_which_providers_there_are_for_each_import() {
    let kv = guest(KV);
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv: {{ component: {}, links: {{ wasi:keyvalue: {{ provider: values }} }} }}
providers:
  values: {{ capability: key-value, backend: redb }}
  scratch: {{ capability: key-value, backend: memory }}
  tables: {{ capability: sql, backend: sqlite }}
",
        kv.display()
    ));
    let host = Weft::app(&app, &[]);
    let of = |args: &[&str]| {
        let output = weft(&[&["inspect", kv.to_str().unwrap()][..], args].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let alone = of(&[]);
    assert!(
        alone.contains("wasi:keyvalue/store@0.2.0-draft")
            && alone.contains("by a link to a provider of key-value\n"),
        "{alone}"
    );
    let data = host.data.path().to_str().unwrap();
    let asked = of(&["--data", data]);
    let named = "a provider of key-value: default/store/scratch (memory), default/store/values (redb)\n";
    assert!(asked.contains(named) && !asked.contains("tables"), "{asked}");
    let asked: Value = serde_json::from_str(&of(&["--data", data, "--output", "json"])).unwrap();
    let imports = asked["imports"].as_array().unwrap();
    let store = imports
        .iter()
        .find(|import| import["name"] == "wasi:keyvalue/store@0.2.0-draft")
        .unwrap();
    assert_eq!(store["capability"], "key-value");
    assert_eq!(store["providers"][1]["backend"], "redb");
}

#[test]
fn doctor_and_completions_answer() {
    let output = weft(&["doctor", "--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["engine"]["slots"].as_u64().unwrap() > 0);
    let dense = weft(&["doctor", "--profile", "dense"]);
    assert!(
        String::from_utf8(dense.stdout)
            .unwrap()
            .contains("profile              dense")
    );
    assert!(
        String::from_utf8(weft(&["completions", "bash"]).stdout)
            .unwrap()
            .contains("_weft")
    );
}

#[tokio::test]
async fn the_dense_profile_serves_too() {
    let weft = Weft::start(&[HELLO], &["--profile", "dense"]);
    assert_eq!(weft.ready["profile"], "dense");
    assert_eq!(weft.get("/plain").await.status, 200);
}
