//! `GET /v1/logs`: the last lines of the log, and those that come.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::Admin;
use super::problem::Checked;
use crate::logs::LogRecord;

#[derive(serde::Deserialize)]
pub(super) struct LogQuery {
    /// Goes on with new lines until the host drains.
    #[serde(default)]
    follow: bool,
    /// Only lines of this actor.
    actor: Option<String>,
    /// At most so many lines of the past.
    tail: Option<usize>,
}

/// Lines of the log as JSON objects, one a line.
pub(super) async fn read(
    State(admin): State<Admin>,
    Checked(Query(query)): Checked<Query<LogQuery>>,
) -> Response {
    let wanted =
        move |record: &LogRecord| query.actor.is_none() || query.actor.as_deref() == record.actor.as_deref();
    let (kept, next) = admin.logs.follow();
    let kept: Vec<_> = kept.into_iter().filter(&wanted).collect();
    let skipped = query.tail.map_or(0, |tail| kept.len().saturating_sub(tail));
    let past = stream::iter(kept.into_iter().skip(skipped).map(|record| line(&record)));
    let body = if query.follow {
        let drain = admin.shutdown.drain.clone().cancelled_owned();
        let coming = stream::unfold(next, |mut next| async move {
            let record = match next.recv().await {
                Ok(record) => record,
                Err(RecvError::Lagged(missed)) => missed_lines(missed),
                Err(RecvError::Closed) => return None,
            };
            Some((record, next))
        });
        let coming =
            coming.filter(move |record| std::future::ready(wanted(record) || record.actor.is_none()));
        Body::from_stream(past.chain(coming.map(|record| line(&record))).take_until(drain))
    } else {
        Body::from_stream(past)
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn line(record: &LogRecord) -> Result<Bytes, Infallible> {
    Ok(Bytes::from(format!("{}\n", record.json)))
}

fn missed_lines(missed: u64) -> LogRecord {
    let json = json!({ "level": "WARN", "target": "weft", "message": format!("{missed} lines were missed: this reader is too slow") });
    LogRecord {
        actor: None,
        json: json.to_string().into(),
    }
}
