//! Log lines.

use serde_json::Value;
use tracing_subscriber::Layer;
use weft_observability::test_collector::TestCollector;
use weft_observability::{LogFormat, Telemetry, TelemetryConfig, TraceContext, set_parent};

use crate::{Lines, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_json_line_has_the_ids_of_the_span_that_it_comes_from() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let (telemetry, dispatch, lines) = start(
        &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint)],
        LogFormat::Json,
    )
    .unwrap();
    let parent = TraceContext::root(true);
    let ids = tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::info_span!(target: "weft_test", "request", actor = "a\"b");
        set_parent(&span, &parent);
        tracing::info!(target: "weft_test", answer = 42, "outside");
        span.in_scope(|| tracing::warn!(target: "guest", "inside }}"));
        weft_observability::context_of(&span).unwrap()
    });
    telemetry.shutdown().await;

    let text = lines.text();
    let parsed: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [outside, inside] = &parsed[..] else {
        panic!("{text}")
    };
    assert_eq!(outside["level"], "INFO");
    assert_eq!(outside["target"], "weft_test");
    assert_eq!(outside["fields"]["message"], "outside");
    assert_eq!(outside["fields"]["answer"], 42);
    assert!(outside["timestamp"].is_string());
    assert!(outside.get("trace_id").is_none());
    assert_eq!(inside["target"], "guest");
    assert_eq!(inside["fields"]["message"], "inside }");
    assert_eq!(inside["span"]["actor"], "a\"b");
    assert_eq!(inside["trace_id"], format!("{:032x}", parent.trace_id));
    assert_eq!(inside["span_id"], format!("{:016x}", ids.span_id));
}

#[test]
fn the_filter_comes_on_top_of_the_base() {
    for (filter, expected) in [
        ("", &["weft info", "guest info"][..]),
        ("debug", &["weft info", "weft debug", "guest info"]),
        ("warn", &[]),
        ("guest=off", &["weft info"]),
        ("hyper=debug", &["weft info", "guest info", "hyper debug"]),
    ] {
        let (_telemetry, dispatch, lines) = start(&[("WEFT_LOG", filter)], LogFormat::Text).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(target: "weft_host", "weft info");
            tracing::debug!(target: "weft_host", "weft debug");
            tracing::info!(target: "guest", "guest info");
            tracing::debug!(target: "hyper", "hyper debug");
            tracing::warn!(target: "opentelemetry_sdk", "sdk warn");
            tracing::warn!(target: "opentelemetry-otlp", "otlp warn");
        });
        let text = lines.text();
        let said: Vec<_> = text
            .lines()
            .map(|line| line.split_once(": ").unwrap().1)
            .collect();
        assert_eq!(said, expected, "{filter}");
    }
}

#[test]
fn the_extra_layer_sees_what_is_logged_and_nothing_else() {
    let (lines, ours) = (Lines::default(), Lines::default());
    let extra = ours.clone();
    let config = TelemetryConfig {
        service_version: "1.2.3",
        host_id: "host-1".to_owned(),
        lattice: "test".to_owned(),
        log_format: LogFormat::Text,
        extra_layer: Some(
            tracing_subscriber::fmt::layer()
                .with_writer(move || extra.clone())
                .boxed(),
        ),
    };
    let lookup = |name: &str| (name == "WEFT_LOG").then(|| "warn".to_owned());
    let (_telemetry, dispatch) = Telemetry::build_with(config, &lookup, move || lines.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::warn!(target: "weft_host", "seen");
        tracing::info!(target: "weft_host", "not seen");
    });
    assert!(ours.text().contains("seen"));
    assert!(!ours.text().contains("not seen"));
}
