//! Every instrument of a host, and the one call per finished request and invocation that feeds them.
//!
//! Owns what is recorded and how cheaply. Must not know who asks: the host tells numbers, words and closures.
//! Names are in [`crate::attributes`].
//!
//! `host.rs` and `actor.rs` hold the instruments, `description.rs` says what each means, `operation.rs` and
//! `outcome.rs` are the words of their attributes, `instrument.rs` the numbers in memory; `snapshot.rs` and
//! `push.rs` take them out.

mod actor;
mod description;
mod host;
mod http_series;
mod instrument;
mod mesh;
mod operation;
mod outcome;
mod provider;
pub(crate) mod push;
mod quota;
pub(crate) mod snapshot;

use std::time::Duration;

pub use actor::{ActorMetrics, InvocationRecord};
pub use host::{ACTORS_MAX, APPS_MAX, AppPlacesReport, HostMetrics, PoolState, StateReport};
pub use mesh::{ConnectionReport, MeshReport};
pub use operation::{CallPath, ObjectBytes, Operation, OperationOutcome};
pub use outcome::{CacheResult, CompileOutcome, Eviction, MessageOutcome, Outcome, ShedReason};
pub use provider::{PROVIDERS_MAX, ProcessReport, ProviderReport};
pub use quota::{NAMESPACES_MAX, QuotaReport};

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::actor::tests::invocation;
    use super::snapshot::{Kind, prometheus_name, prometheus_text};
    use super::*;
    use crate::attributes::*;

    const README: &str = include_str!("../README.md");

    /// Metrics in which everything has happened once; the caller holds the actor, as its series end with it.
    fn everything() -> (HostMetrics, Arc<ActorMetrics>) {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/hello/hello");
        Outcome::ALL
            .into_iter()
            .for_each(|outcome| actor.record(&invocation(outcome)));
        actor.record_http(&http::Method::GET, 200, Duration::from_micros(110));
        ShedReason::ALL.into_iter().for_each(|reason| actor.shed(reason));
        for path in CallPath::ALL {
            Outcome::ALL
                .into_iter()
                .for_each(|outcome| actor.call(path, outcome));
        }
        for operation in Operation::ALL {
            OperationOutcome::ALL
                .into_iter()
                .for_each(|outcome| actor.operation(operation, outcome, Duration::from_micros(7)));
        }
        [false, true]
            .into_iter()
            .for_each(|dropped| actor.log_lines(1, dropped));
        actor.instance_reused();
        ObjectBytes::ALL
            .into_iter()
            .for_each(|way| actor.object_bytes(way, 64));
        MessageOutcome::ALL
            .into_iter()
            .for_each(|outcome| actor.messages(1, outcome));
        MessageOutcome::ALL
            .into_iter()
            .for_each(|outcome| actor.changes(1, outcome));
        CompileOutcome::ALL
            .into_iter()
            .for_each(|outcome| metrics.component_compiled(outcome, Duration::from_secs(1)));
        metrics.component_loaded(Duration::from_millis(2));
        CacheResult::ALL
            .into_iter()
            .for_each(|result| metrics.artifact_cache(result));
        [false, true]
            .into_iter()
            .for_each(|ok| metrics.component_load(ok));
        Eviction::ALL
            .into_iter()
            .for_each(|why| metrics.component_evicted(why));
        metrics.observe_components_loaded(|| 4);
        metrics.observe_artifacts(|| (2, 4096));
        metrics.artifact_dropped();
        metrics.connection_refused();
        metrics.request_rejected("no-route");
        [false, true].into_iter().for_each(|ok| metrics.tls_reloaded(ok));
        metrics.observe_active_requests(|| 7);
        metrics.observe_pool(|| PoolState {
            limit: 1000,
            live: 3,
            warm_memories: 50,
            warm_bytes: 4096,
            kept: 5,
        });
        metrics.observe_places(|| {
            vec![AppPlacesReport {
                app: "default/hello".into(),
                root_reserved: 3,
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
                    downs: 1,
                    refused: 2,
                }]
            },
            || 3,
        );
        metrics.observe_processes(|| {
            vec![ProcessReport {
                provider: "default/shop/carts".into(),
                runs: true,
                ends: 2,
            }]
        });
        metrics.observe_quotas(|| {
            vec![QuotaReport {
                namespace: "press".into(),
                refused: [("messages", 3), ("object-bytes", 1)],
            }]
        });
        metrics.observe_tasks(|| 40);
        metrics.observe_connections(|| 12);
        metrics.observe_certificates(|each| {
            each("example.com", SystemTime::UNIX_EPOCH + Duration::from_secs(99))
        });
        for ok in [false, true] {
            metrics.reconciled(ok, Duration::from_millis(3));
            metrics.committed(ok, Duration::from_millis(1));
        }
        metrics.observe_state(|| StateReport {
            desired_index: 9,
            applied_index: 8,
            actors: 5,
            providers: 2,
            links: 6,
            secrets: 3,
            conditions: 1,
        });
        metrics.observe_mesh(|| {
            Some(MeshReport {
                connections: vec![ConnectionReport {
                    name: "calls",
                    connected: true,
                    lost: 1,
                    refused: 2,
                    slow: 0,
                    denied: 1,
                    strays: 2,
                    round_trip: Some(Duration::from_micros(250)),
                    batches: 1,
                    batched: 9,
                }],
                members: [("alive", 3), ("suspect", 0), ("leaving", 1)],
                served: [
                    "started",
                    "repeated",
                    "late",
                    "shed",
                    "cancelled",
                    "malformed",
                    "draining",
                ]
                .map(|outcome| (outcome, 4)),
                fetched: [("ok", 2), ("failed", 0)],
                fronts: [("ok", 1), ("failed", 0)],
                tools: [("ok", 1), ("failed", 0)],
                ..MeshReport::default()
            })
        });
        (metrics, actor)
    }

    #[test]
    fn every_metric_that_has_a_name_is_emitted() {
        let (metrics, _actor) = everything();
        let families = metrics.snapshot();
        let emitted: BTreeSet<_> = families
            .iter()
            .filter(|family| !family.points.is_empty())
            .map(|family| family.description.name)
            .collect();
        assert_eq!(emitted, METRICS.iter().copied().collect());
        assert_eq!(families.len(), METRICS.len(), "a metric is emitted twice");
        let text = prometheus_text(&families, &[]);
        for family in &families {
            let line = format!("\n# TYPE {} ", prometheus_name(family.description));
            assert!(text.contains(&line), "{line:?} is not in\n{text}");
        }
    }

    /// README.md is what operators read: a row of its table for each metric, with the right unit and
    /// attributes.
    #[test]
    fn the_readme_lists_every_metric_as_it_is_emitted() {
        let rows: BTreeMap<_, _> = README
            .lines()
            .filter_map(|line| {
                let cells: Vec<_> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
                let name = cells[0].trim_end_matches('`');
                METRICS
                    .contains(&name)
                    .then(|| (name.to_owned(), cells[1..].join(" | ")))
            })
            .collect();
        let (metrics, _actor) = everything();
        for family in metrics.snapshot() {
            let description = family.description;
            let row = rows
                .get(description.name)
                .unwrap_or_else(|| panic!("no row for {}", description.name));
            let kind = match description.kind {
                Kind::Counter => "counter",
                Kind::UpDownCounter => "up-down counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let start = format!(
                "`{}` | {kind} | {} | ",
                prometheus_name(description),
                description.unit.as_str()
            );
            let rest = row
                .strip_prefix(&start)
                .unwrap_or_else(|| panic!("{row:?} does not begin with {start:?}"));
            let keys: BTreeSet<_> = family
                .points
                .iter()
                .flat_map(|point| point.attributes.iter().map(|(key, _)| *key))
                .collect();
            let documented: BTreeSet<_> = rest
                .split('|')
                .next()
                .unwrap()
                .split('`')
                .filter(|word| word.contains('.'))
                .collect();
            assert_eq!(documented, keys, "attributes of {}", description.name);
        }
        assert_eq!(rows.len(), METRICS.len());
    }

    /// The words that operators filter by are closed sets, and none is kept from them.
    #[test]
    fn the_readme_names_every_word_of_a_closed_set() {
        let keys = [
            WEFT_OUTCOME,
            WEFT_CALL_PATH,
            WEFT_CAPABILITY,
            WEFT_OPERATION,
            WEFT_STATE,
            WEFT_POOL_STATE,
            WEFT_CALL_KIND,
            WEFT_PLACE_STATE,
            WEFT_CACHE_RESULT,
        ];
        let (metrics, _actor) = everything();
        let points = metrics.snapshot().into_iter().flat_map(|family| family.points);
        let words: BTreeSet<_> = points
            .flat_map(|point| point.attributes)
            .filter(|(key, _)| keys.contains(key))
            .map(|(_, value)| value.to_string())
            .collect();
        assert!(words.contains(Outcome::NotFound.as_str()));
        for word in words {
            assert!(
                README.contains(&format!("`{word}`")),
                "{word} is not in README.md"
            );
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = HostMetrics::default();
        let actor = metrics.actor("default/he\"llo\\/\n");
        actor.record_http(&http::Method::GET, 404, Duration::from_micros(50));
        actor.record_http(&http::Method::GET, 404, Duration::from_millis(300));
        metrics.artifact_cache(CacheResult::Hit);
        let text = prometheus_text(
            &metrics.snapshot(),
            &[("service.name".to_owned(), "weft".to_owned())],
        );
        for lines in [
            "# HELP target_info Target metadata\n\
             # TYPE target_info gauge\n\
             target_info{service_name=\"weft\"} 1\n",
            "# HELP http_server_request_duration_seconds Duration of HTTP server requests.\n\
             # TYPE http_server_request_duration_seconds histogram\n",
            "http_server_request_duration_seconds_bucket{http_request_method=\"GET\",\
             http_response_status_code=\"404\",weft_actor=\"default/he\\\"llo\\\\/\\n\",le=\"0.00005\"} 1\n",
            "le=\"0.25\"} 1\n",
            "le=\"0.5\"} 2\n",
            "le=\"+Inf\"} 2\n",
            "\"} 0.30005\n",
            "# TYPE weft_artifact_cache_total counter\n\
             weft_artifact_cache_total{weft_cache_result=\"hit\"} 1\n",
            "\nweft_http_connections_refused_total 0\n",
        ] {
            assert!(text.contains(lines), "{lines:?} is not in\n{text}");
        }
        assert!(
            !text.contains("weft_pool_slots"),
            "nobody said how to ask the pool"
        );
    }
}
