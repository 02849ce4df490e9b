//! The last lines of the log, for `weft logs`.
//!
//! Owns a bounded buffer of structured lines, fed as a tracing layer, and the followers of it. What is older is in
//! whatever reads stderr; this is for the operator who asks a running host.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Bytes of lines that are kept.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// Lines that a follower may lag behind before it misses some.
const FOLLOWER_LAG_MAX: usize = 1_024;

/// The last lines of the log; a cheap handle.
#[derive(Clone)]
pub struct LogBuffer(Arc<Shared>);

struct Shared {
    kept: Mutex<Kept>,
    followers: broadcast::Sender<LogRecord>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<LogRecord>,
    bytes: usize,
}

/// One line.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// The actor it is about, if it is about one.
    pub actor: Option<Arc<str>>,
    /// The line as a JSON object, without a line end.
    pub json: Arc<str>,
}

impl Default for LogBuffer {
    fn default() -> Self {
        let followers = broadcast::Sender::new(FOLLOWER_LAG_MAX);
        Self(Arc::new(Shared {
            kept: Mutex::default(),
            followers,
        }))
    }
}

impl LogBuffer {
    /// The layer that feeds it.
    pub fn layer(&self) -> LogLayer {
        LogLayer(self.clone())
    }

    /// The kept lines, oldest first, and those to come: no line is in both, none is missing between.
    pub fn follow(&self) -> (Vec<LogRecord>, broadcast::Receiver<LogRecord>) {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.lines.iter().cloned().collect(), self.0.followers.subscribe())
    }

    fn push(&self, record: LogRecord) {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += record.json.len();
        kept.lines.push_back(record.clone());
        while kept.bytes > BUFFER_BYTES_MAX {
            let Some(oldest) = kept.lines.pop_front() else {
                break;
            };
            kept.bytes -= oldest.json.len();
        }
        // Under the lock, so that `follow` sees each line once. Without followers there is no one to tell.
        let _ = self.0.followers.send(record);
    }
}

/// Feeds a [`LogBuffer`].
pub struct LogLayer(LogBuffer);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        fields
            .0
            .insert("timestamp".to_owned(), jiff::Timestamp::now().to_string().into());
        fields
            .0
            .insert("level".to_owned(), event.metadata().level().as_str().into());
        fields
            .0
            .insert("target".to_owned(), event.metadata().target().into());
        event.record(&mut fields);
        let actor = fields.0.get("actor").and_then(Value::as_str).map(Arc::from);
        self.0.push(LogRecord {
            actor,
            json: Value::Object(fields.0).to_string().into(),
        });
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn logged(buffer: &LogBuffer, lines: usize) {
        let subscriber = tracing_subscriber::registry().with(buffer.layer());
        tracing::subscriber::with_default(subscriber, || {
            for line in 0..lines {
                tracing::info!(target: "guest", actor = "default/a/a", line, "{}", "x".repeat(1_000));
            }
        });
    }

    #[test]
    fn keeps_the_newest_lines_within_its_bound() {
        let buffer = LogBuffer::default();
        logged(&buffer, 10_000);
        let (kept, _) = buffer.follow();
        assert!(kept.iter().map(|record| record.json.len()).sum::<usize>() <= BUFFER_BYTES_MAX);
        let last: Value = serde_json::from_str(&kept.last().unwrap().json).unwrap();
        assert_eq!(last["line"], 9_999);
        assert_eq!(kept.last().unwrap().actor.as_deref(), Some("default/a/a"));
    }

    #[test]
    fn a_follower_gets_each_line_once() {
        let buffer = LogBuffer::default();
        logged(&buffer, 3);
        let (kept, mut next) = buffer.follow();
        logged(&buffer, 2);
        assert_eq!(kept.len(), 3);
        assert!(next.try_recv().is_ok() && next.try_recv().is_ok() && next.try_recv().is_err());
    }
}
