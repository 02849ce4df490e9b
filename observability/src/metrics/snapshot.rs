//! All metrics at one moment, and their two forms: Prometheus text and OTLP.
//!
//! Owns the mapping of names and units between the conventions of both. Must not know where the numbers come
//! from. Pure functions; [`super::push`] does the sending.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::instrument::HistogramValue;

/// What a metric is called and counts.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    /// A number that is counted up and down: sums over hosts make sense.
    UpDownCounter,
    Gauge,
    Histogram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Recorded as whole seconds.
    Seconds,
    /// Recorded as nanoseconds, shown as seconds.
    SecondsOfNanos,
    Bytes,
    /// Things that are counted, in the braces of UCUM: `{request}`.
    Count(&'static str),
}

impl Unit {
    /// The UCUM form.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Seconds | Self::SecondsOfNanos => "s",
            Self::Bytes => "By",
            Self::Count(things) => things,
        }
    }

    fn prometheus_suffix(self) -> &'static str {
        match self {
            Self::Seconds | Self::SecondsOfNanos => "_seconds",
            Self::Bytes => "_bytes",
            Self::Count(_) => "",
        }
    }

    fn show(self, recorded: u64) -> f64 {
        match self {
            // Dividing, as the product with 1e-9 is not the nearest number to 0.00005.
            Self::SecondsOfNanos => recorded as f64 / 1e9,
            _ => recorded as f64,
        }
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Static(&'static str),
    Shared(Arc<str>),
    Int(i64),
    Bool(bool),
}

pub(crate) type Attributes = Vec<(&'static str, Value)>;

/// One metric with all its series.
pub(crate) struct Family {
    pub(crate) description: &'static Description,
    pub(crate) points: Vec<Point>,
}

/// One series.
pub(crate) struct Point {
    pub(crate) attributes: Attributes,
    /// When it began to count.
    pub(crate) since: SystemTime,
    pub(crate) value: PointValue,
}

pub(crate) enum PointValue {
    Number(u64),
    Histogram(HistogramValue),
}

/// The Prometheus text format 0.0.4. `resource` becomes the labels of `target_info`.
pub(crate) fn prometheus_text(families: &[Family], resource: &[(String, String)]) -> String {
    let mut out = String::new();
    write_text(&mut out, families, resource).expect("writing to a string does not fail");
    out
}

/// The name of a metric in Prometheus, without the `_bucket`, `_sum` and `_count` of a histogram.
pub(crate) fn prometheus_name(description: &Description) -> String {
    let total = if description.kind == Kind::Counter {
        "_total"
    } else {
        ""
    };
    format!(
        "{}{}{total}",
        prometheus_word(description.name),
        description.unit.prometheus_suffix()
    )
}

/// Label and metric names have no dots.
fn prometheus_word(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn write_text(out: &mut String, families: &[Family], resource: &[(String, String)]) -> fmt::Result {
    out.push_str("# HELP target_info Target metadata\n# TYPE target_info gauge\ntarget_info{");
    for (i, (name, value)) in resource.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(out, "{comma}{}=\"{}\"", prometheus_word(name), Escaped(value))?;
    }
    out.push_str("} 1\n");
    for family in families.iter().filter(|family| !family.points.is_empty()) {
        let name = prometheus_name(family.description);
        let kind = match family.description.kind {
            Kind::Counter => "counter",
            Kind::UpDownCounter | Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(
            out,
            "# HELP {name} {}\n# TYPE {name} {kind}",
            family.description.help
        )?;
        for point in &family.points {
            write_point(out, &name, family.description.unit, point)?;
        }
    }
    Ok(())
}

fn write_point(out: &mut String, name: &str, unit: Unit, point: &Point) -> fmt::Result {
    let mut labels = String::new();
    for (key, value) in &point.attributes {
        let comma = if labels.is_empty() { "" } else { "," };
        write!(labels, "{comma}{}=\"{value}\"", prometheus_word(key))?;
    }
    let braced = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    match &point.value {
        PointValue::Number(number) => writeln!(out, "{name}{braced} {number}"),
        PointValue::Histogram(histogram) => {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut cumulated = 0;
            for (bound, count) in histogram.bounds.iter().zip(&histogram.buckets) {
                cumulated += count;
                writeln!(
                    out,
                    "{name}_bucket{{{labels}{comma}le=\"{}\"}} {cumulated}",
                    unit.show(*bound)
                )?;
            }
            let count = histogram.count();
            writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
            writeln!(out, "{name}_sum{braced} {}", unit.show(histogram.sum))?;
            writeln!(out, "{name}_count{braced} {count}")
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(text) => Escaped(text).fmt(f),
            Self::Shared(text) => Escaped(text).fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::Bool(truth) => truth.fmt(f),
        }
    }
}

/// A label value: backslash, quote and line feed are escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.0.contains(['\\', '"', '\n']) {
            Cow::Owned(
                self.0
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('\n', "\\n"),
            )
        } else {
            Cow::Borrowed(self.0)
        };
        f.write_str(&text)
    }
}

/// Series in one request, so that it stays well below the 4 MiB that a gRPC receiver takes: a histogram with
/// its attributes is some 500 bytes.
const POINTS_PER_REQUEST_MAX: usize = 4_000;

/// The OTLP requests, with cumulative numbers. One is enough but for hundreds of actors.
pub(crate) fn otlp_requests(
    families: Vec<Family>,
    resource: &[(String, String)],
    scope: (&str, &str),
    now: SystemTime,
) -> Vec<ExportMetricsServiceRequest> {
    let attributes: Vec<_> = resource
        .iter()
        .map(|(key, value)| key_value(key, any_value::Value::StringValue(value.clone())))
        .collect();
    let (name, version) = scope;
    let request = |families: Vec<Family>| ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: attributes.clone(),
                ..Default::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: name.to_owned(),
                    version: version.to_owned(),
                    ..Default::default()
                }),
                metrics: families
                    .into_iter()
                    .map(|family| otlp_metric(family, now))
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    in_parts(families, POINTS_PER_REQUEST_MAX)
        .into_iter()
        .map(request)
        .collect()
}

/// Cuts a list of families, within a family where need be, so that no part has more than `points_max` points.
fn in_parts(families: Vec<Family>, points_max: usize) -> Vec<Vec<Family>> {
    let mut parts = vec![];
    let (mut part, mut points_in_part) = (vec![], 0);
    for Family {
        description,
        mut points,
    } in families
    {
        while !points.is_empty() {
            let rest = points.split_off(points.len().min(points_max - points_in_part));
            points_in_part += points.len();
            part.push(Family { description, points });
            points = rest;
            if points_in_part == points_max {
                parts.push(std::mem::take(&mut part));
                points_in_part = 0;
            }
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn otlp_metric(family: Family, now: SystemTime) -> Metric {
    let Description {
        name,
        kind,
        unit,
        help,
    } = *family.description;
    let cumulative = AggregationTemporality::Cumulative as i32;
    let points = family.points.into_iter();
    let data = match kind {
        Kind::Histogram => {
            let data_points = points
                .filter_map(|point| otlp_histogram(point, unit, now))
                .collect();
            metric::Data::Histogram(opentelemetry_proto::tonic::metrics::v1::Histogram {
                data_points,
                aggregation_temporality: cumulative,
            })
        }
        Kind::Counter | Kind::UpDownCounter => metric::Data::Sum(Sum {
            data_points: points.filter_map(|point| otlp_number(point, now)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: kind == Kind::Counter,
        }),
        Kind::Gauge => metric::Data::Gauge(Gauge {
            data_points: points.filter_map(|point| otlp_number(point, now)).collect(),
        }),
    };
    Metric {
        name: name.to_owned(),
        description: help.to_owned(),
        unit: unit.as_str().to_owned(),
        data: Some(data),
        ..Default::default()
    }
}

fn otlp_number(point: Point, now: SystemTime) -> Option<NumberDataPoint> {
    let PointValue::Number(number) = point.value else {
        return None;
    };
    Some(NumberDataPoint {
        attributes: otlp_attributes(point.attributes),
        start_time_unix_nano: unix_nanos(point.since),
        time_unix_nano: unix_nanos(now),
        value: Some(number_data_point::Value::AsInt(
            i64::try_from(number).unwrap_or(i64::MAX),
        )),
        ..Default::default()
    })
}

fn otlp_histogram(point: Point, unit: Unit, now: SystemTime) -> Option<HistogramDataPoint> {
    let PointValue::Histogram(histogram) = point.value else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: otlp_attributes(point.attributes),
        start_time_unix_nano: unix_nanos(point.since),
        time_unix_nano: unix_nanos(now),
        count: histogram.count(),
        sum: Some(unit.show(histogram.sum)),
        explicit_bounds: histogram.bounds.iter().map(|bound| unit.show(*bound)).collect(),
        bucket_counts: histogram.buckets,
        ..Default::default()
    })
}

fn otlp_attributes(attributes: Attributes) -> Vec<KeyValue> {
    let value = |value| match value {
        Value::Static(text) => any_value::Value::StringValue(text.to_owned()),
        Value::Shared(text) => any_value::Value::StringValue(text.as_ref().to_owned()),
        Value::Int(number) => any_value::Value::IntValue(number),
        Value::Bool(truth) => any_value::Value::BoolValue(truth),
    };
    attributes
        .into_iter()
        .map(|(key, v)| key_value(key, value(v)))
        .collect()
}

fn key_value(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}

fn unix_nanos(time: SystemTime) -> u64 {
    let nanos = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    static DESCRIPTION: Description = Description {
        name: "a",
        kind: Kind::Counter,
        unit: Unit::Count("{a}"),
        help: "",
    };

    #[test]
    fn parts_have_every_point_once_and_none_is_too_large() {
        let point = |number| Point {
            attributes: vec![],
            since: SystemTime::UNIX_EPOCH,
            value: PointValue::Number(number),
        };
        for (sizes, parts_expected) in [
            (&[][..], 0),
            (&[0, 0], 0),
            (&[1], 1),
            (&[9, 1], 1),
            (&[10, 1], 2),
            (&[3, 25, 0, 2], 3),
            (&[31], 4),
        ] {
            let mut next = 0..;
            let families = sizes
                .iter()
                .map(|size| Family {
                    description: &DESCRIPTION,
                    points: next.by_ref().take(*size).map(point).collect(),
                })
                .collect();
            let parts = in_parts(families, 10);
            assert_eq!(parts.len(), parts_expected, "{sizes:?}");
            let mut numbers = vec![];
            for part in parts {
                let before = numbers.len();
                for family in part {
                    assert!(!family.points.is_empty(), "{sizes:?}");
                    numbers.extend(family.points.into_iter().map(|point| match point.value {
                        PointValue::Number(number) => number,
                        PointValue::Histogram(_) => panic!("a histogram"),
                    }));
                }
                assert!(numbers.len() - before <= 10, "{sizes:?}");
            }
            assert!(
                numbers.into_iter().eq(0..sizes.iter().sum::<usize>() as u64),
                "{sizes:?}"
            );
        }
    }
}
