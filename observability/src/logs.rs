//! Log lines on stderr: text for people, JSON for collectors, with the trace that a line belongs to.
//!
//! Owns the two formats and the filter. Must not know what is logged.

use std::fmt;
use std::io::IsTerminal;

use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry};

use crate::init::LogFormat;

/// The environment variable with the filter.
pub(crate) const FILTER_VAR: &str = "WEFT_LOG";

/// What the filter starts from; directives of [`FILTER_VAR`] come on top. The transports below the exporter
/// would log their own sending. The SDK's errors stay: an operator has to learn that nobody takes the traces.
const FILTER_BASE: &str = "info,hyper=off,hyper_util=off,h2=off,tower=off,tonic=off,rustls=warn,\
                           opentelemetry=error,opentelemetry_sdk=error,opentelemetry-otlp=error";

/// The base filter with the operator's directives on top.
pub(crate) fn filter(directives: Option<&str>) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    match directives.map(str::trim) {
        None | Some("") => EnvFilter::builder().parse(FILTER_BASE),
        Some(directives) => EnvFilter::builder().parse(format!("{FILTER_BASE},{directives}")),
    }
}

/// The layer that writes the lines, without a filter.
pub(crate) fn layer<W>(format: LogFormat, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            layer.with_ansi(colours).boxed()
        }
        LogFormat::Json => layer
            .json()
            .with_current_span(true)
            .with_span_list(false)
            .map_event_format(WithTrace)
            .boxed(),
    }
}

/// Adds `trace_id` and `span_id` to the JSON object of a line, when the line comes from inside a span that is
/// exported.
struct WithTrace<F>(F);

impl<F, S, N> FormatEvent<S, N> for WithTrace<F>
where
    F: FormatEvent<S, N>,
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // The bridge to OpenTelemetry activates its context when a span is entered.
        let ids = opentelemetry::Context::map_current(|context| {
            context.has_active_span().then(|| {
                let span = context.span();
                (span.span_context().trace_id(), span.span_context().span_id())
            })
        });
        let Some((trace_id, span_id)) = ids else {
            return self.0.format_event(ctx, out, event);
        };
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        match line.trim_end().strip_suffix('}') {
            Some(object) => writeln!(
                out,
                "{object},\"trace_id\":\"{trace_id}\",\"span_id\":\"{span_id}\"}}"
            ),
            None => out.write_str(&line),
        }
    }
}
