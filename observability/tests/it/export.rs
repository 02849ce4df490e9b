//! OTLP, as a receiver gets it.

use std::time::{Duration, Instant};

use http::HeaderValue;
use weft_observability::attributes::{METRICS, WEFT_POOL_SLOTS, WEFT_TLS_RELOAD};
use weft_observability::metrics::{
    AppPlacesReport, CacheResult, CallPath, CompileOutcome, ConnectionReport, Eviction, MeshReport,
    MessageOutcome, ObjectBytes, Operation, OperationOutcome, PoolState, ProcessReport, ProviderReport,
    QuotaReport, ShedReason, StateReport,
};
use weft_observability::test_collector::{SpanKind, TestCollector};
use weft_observability::{InvocationRecord, LogFormat, Outcome, TraceContext, context_of, set_parent};

use crate::start;

const WAIT_MAX: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_span_continues_the_trace_that_came_in_and_its_ids_go_on() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let (telemetry, dispatch, _) = start(
        &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint)],
        LogFormat::Text,
    )
    .unwrap();
    let came_in = TraceContext {
        state: Some(HeaderValue::from_static("a=1,b=2")),
        ..TraceContext::root(true)
    };
    assert!(telemetry.sampler().decide(Some(&came_in)));
    assert!(!telemetry.sampler().decide(Some(&TraceContext::root(false))));

    let goes_on = tracing::dispatcher::with_default(&dispatch, || {
        let server = tracing::info_span!(
            target: "weft_test",
            "request",
            otel.name = "GET /x",
            otel.kind = "server",
            weft.actor = "default/hello/hello",
        );
        set_parent(&server, &came_in);
        let goes_on = context_of(&server).unwrap();
        server.in_scope(|| {
            tracing::info_span!(target: "weft_test", "call")
                .in_scope(|| tracing::info!(target: "weft_test", "an event"));
            tracing::info_span!(target: "hyper", "a library's own").in_scope(|| ());
            tracing::info!(target: "guest", "a guest's line is a log line, no event of the span");
        });
        goes_on
    });
    telemetry.shutdown().await;

    let server = collector.wait_for_span("GET /x", WAIT_MAX).await.unwrap();
    assert_eq!(server.kind, SpanKind::Server);
    assert_eq!(
        (server.trace_id, server.parent_span_id),
        (came_in.trace_id, Some(came_in.span_id))
    );
    assert_eq!(server.attributes["weft.actor"], "default/hello/hello");
    assert_eq!(
        goes_on,
        TraceContext {
            span_id: server.span_id,
            ..came_in
        }
    );
    let call = collector.wait_for_span("call", WAIT_MAX).await.unwrap();
    assert_eq!(
        (call.trace_id, call.parent_span_id),
        (server.trace_id, Some(server.span_id))
    );
    assert_eq!(call.events, ["an event"]);
    assert!(server.events.is_empty(), "{:?}", server.events);
    assert_eq!(collector.spans().len(), 2, "only our own spans are exported");
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "weft");
    assert_eq!(resource["service.version"], "1.2.3");
    assert_eq!(resource["service.instance.id"], "host-1");
    assert_eq!(resource["service.namespace"], "test");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_arrives_and_the_last_numbers_are_sent_at_shutdown() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc"),
    ];
    let (telemetry, _dispatch, _) = start(&variables, LogFormat::Text).unwrap();
    let metrics = telemetry.metrics().clone();
    let actor = metrics.actor("default/hello/hello");
    metrics.observe_active_requests(|| 1);
    metrics.observe_pool(|| PoolState {
        limit: 10,
        live: 2,
        warm_memories: 5,
        warm_bytes: 4096,
        kept: 1,
    });
    metrics.observe_places(|| {
        vec![AppPlacesReport {
            app: "default/hello".into(),
            root_reserved: 1,
            root_used: 1,
            nested_reserved: 1,
            nested_used: 0,
        }]
    });
    metrics.observe_providers(
        || {
            vec![ProviderReport {
                provider: "default/shop/carts".into(),
                up: true,
                circuit_open: false,
                held: false,
                downs: 0,
                refused: 0,
            }]
        },
        || 0,
    );
    metrics.observe_processes(|| {
        vec![ProcessReport {
            provider: "default/shop/carts".into(),
            runs: true,
            ends: 0,
        }]
    });
    metrics.observe_quotas(|| {
        vec![QuotaReport {
            namespace: "press".into(),
            refused: [("messages", 0), ("object-bytes", 0)],
        }]
    });
    metrics.observe_tasks(|| 5);
    metrics.observe_connections(|| 1);
    metrics.observe_certificates(|each| each("example.com", std::time::SystemTime::now()));
    metrics.component_compiled(CompileOutcome::Ok, Duration::from_secs(1));
    metrics.component_loaded(Duration::from_millis(1));
    metrics.component_load(true);
    metrics.component_evicted(Eviction::Idle);
    metrics.observe_components_loaded(|| 1);
    metrics.observe_artifacts(|| (2, 4096));
    metrics.artifact_dropped();
    metrics.artifact_cache(CacheResult::Miss);
    metrics.request_rejected("no-route");
    metrics.reconciled(true, Duration::from_millis(1));
    metrics.committed(true, Duration::from_millis(1));
    metrics.observe_state(StateReport::default);
    metrics.observe_mesh(|| {
        Some(MeshReport {
            connections: vec![ConnectionReport {
                round_trip: Some(Duration::from_millis(1)),
                ..ConnectionReport::default()
            }],
            ..MeshReport::default()
        })
    });
    assert!(collector.wait_for_metric(WEFT_POOL_SLOTS, WAIT_MAX).await);

    let time = Duration::from_micros(700);
    let record = InvocationRecord {
        outcome: Outcome::Trap,
        queue: time,
        start: Some(time),
        cpu: time,
        total: time,
        peak_memory: Some(1 << 17),
    };
    actor.record(&record);
    actor.record_http(&http::Method::GET, 500, time);
    actor.shed(ShedReason::PoolFull);
    actor.call(CallPath::Local, Outcome::Ok);
    actor.instance_reused();
    actor.messages(1, MessageOutcome::Handled);
    actor.changes(1, MessageOutcome::Handled);
    actor.object_bytes(ObjectBytes::Read, 64);
    actor.operation(Operation::KeyValueGet, OperationOutcome::Ok, time);
    telemetry.shutdown().await;

    let missing: Vec<_> = METRICS
        .iter()
        .filter(|name| !collector.metric_names().contains(**name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let duration = format!("{:?}", collector.metric("weft.invocation.duration").unwrap());
    for part in [
        "\"trap\"",
        "\"default/hello/hello\"",
        "count: 1",
        "sum: Some(0.0007)",
        "explicit_bounds: [5e-5, 0.0001,",
    ] {
        assert!(duration.contains(part), "{part} is not in {duration}");
    }
}

/// A gRPC receiver takes 4 MiB a message, and one that is refused would take all later ones with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_a_thousand_actors_are_sent_in_parts_that_a_receiver_takes() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let (telemetry, _dispatch, _) = start(
        &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &endpoint)],
        LogFormat::Text,
    )
    .unwrap();
    let actors: Vec<_> = (0..1_000)
        .map(|n| {
            telemetry.metrics().actor(&format!(
                "a-namespace-of-some-length/an-app-of-some-length/actor-{n}"
            ))
        })
        .collect();
    for actor in &actors {
        for status in [200, 404, 500] {
            actor.record_http(&http::Method::GET, status, Duration::from_millis(1));
        }
        for outcome in Outcome::ALL {
            let (queue, cpu, total) = (Duration::ZERO, Duration::ZERO, Duration::from_millis(1));
            actor.record(&InvocationRecord {
                outcome,
                queue,
                start: Some(cpu),
                cpu,
                total,
                peak_memory: Some(1),
            });
        }
    }
    telemetry.shutdown().await;
    assert!(
        collector.wait_for_metric(WEFT_TLS_RELOAD, WAIT_MAX).await,
        "the last metric came"
    );
}

#[tokio::test]
async fn shutdown_keeps_its_bound_when_the_receiver_never_answers() {
    // Accepts connections, as the kernel does for a listener, and says nothing.
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let (telemetry, dispatch, lines) =
        start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)], LogFormat::Text).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        drop(tracing::info_span!(target: "weft_test", "lost").entered())
    });
    let _logs = tracing::dispatcher::set_default(&dispatch);
    let begun = Instant::now();
    telemetry.shutdown().await;
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(7), "{waited:?}");
    assert!(lines.text().contains("the last spans"), "{}", lines.text());
}
