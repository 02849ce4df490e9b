//! `weft logs`: the log of the running host.

use std::path::PathBuf;

use serde_json::Value;

use super::admin_client::AdminClient;
use super::{Failure, Output, print};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft logs -f\n  weft logs --tail 20 --actor default/hello/hello --output json"
)]
pub(super) struct Logs {
    /// Go on with new lines as they come.
    #[arg(short, long)]
    follow: bool,
    /// Only lines of this actor, by its full name.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// At most so many lines of the past.
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// The data folder of the host.
    #[arg(long, value_name = "DIR", default_value = ".weft", env = "WEFT_DATA")]
    data: PathBuf,
}

pub(super) fn run(args: &Logs, output: Output) -> Result<(), Failure> {
    let mut path = format!("/v1/logs?follow={}", args.follow);
    if let Some(actor) = &args.actor {
        // A name has only letters, digits, hyphens and slashes; anything else matches none.
        let safe: String = actor
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-/".contains(*c))
            .collect();
        path.push_str(&format!("&actor={safe}"));
    }
    if let Some(tail) = args.tail {
        path.push_str(&format!("&tail={tail}"));
    }
    AdminClient::new(&args.data)?.lines(&path, |line| match output {
        Output::Json => print(line),
        Output::Text => print(&readable(line)),
    })
}

/// `12:00:00 INFO default/hello/hello stdout: text key=value`.
fn readable(line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return line.to_owned();
    };
    let mut take = |key: &str| match fields.remove(key) {
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let (timestamp, level, message) = (take("timestamp"), take("level"), take("message"));
    let (target, actor, source) = (take("target"), take("actor"), take("source"));
    let from = if actor.is_empty() {
        target
    } else {
        format!("{actor} {source}")
    };
    let mut text = format!("{timestamp} {level:5} {}: {message}", from.trim_end());
    for (key, value) in fields {
        text.push_str(&format!(
            " {key}={}",
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_readable_and_complete() {
        let line = r#"{"timestamp":"t","level":"INFO","target":"guest","actor":"a/b/c","source":"stdout","message":"hi","n":1}"#;
        assert_eq!(readable(line), "t INFO  a/b/c stdout: hi n=1");
        assert_eq!(readable("no json"), "no json");
    }
}
