//! What the environment variables do, and what is said when one is wrong.

use weft_observability::{LogFormat, TraceContext};

use crate::start;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");

#[tokio::test]
async fn a_bad_variable_stops_the_start_with_an_error_that_names_it() {
    for (variable, value) in [
        ("WEFT_LOG", "weft_host=loud"),
        ("WEFT_LOG", "[["),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://not a host"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "often"),
    ] {
        let Err(error) = start(&[ENDPOINT, (variable, value)], LogFormat::Text) else {
            panic!("{variable}={value} was accepted");
        };
        assert!(error.to_string().contains(variable), "{error}");
        assert!(error.to_string().contains(value), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_traced_when_traces_are_not_exported() {
    for variables in [
        &[][..],
        &[("OTEL_TRACES_SAMPLER", "always_on")],
        &[ENDPOINT, ("OTEL_SDK_DISABLED", "true")],
        &[
            ENDPOINT,
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        &[
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ],
    ] {
        let (telemetry, dispatch, _) = start(variables, LogFormat::Text).unwrap();
        assert!(
            !telemetry.sampler().decide(Some(&TraceContext::root(true))),
            "{variables:?}"
        );
        tracing::dispatcher::with_default(&dispatch, || {
            let span = tracing::info_span!(target: "weft_test", "a");
            weft_observability::set_parent(&span, &TraceContext::root(true));
            assert_eq!(weft_observability::context_of(&span), None);
        });
        assert!(
            telemetry
                .prometheus_text()
                .contains("service_instance_id=\"host-1\"")
        );
        telemetry.shutdown().await;
    }
}

#[test]
fn metrics_are_there_without_a_runtime_and_exporting_them_is_not() {
    assert!(start(&[], LogFormat::Text).is_ok());
    let error = start(&[ENDPOINT], LogFormat::Text).err().unwrap();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}
