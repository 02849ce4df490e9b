//! `weft logs`: the log of the running host, or of those of a lattice.

use serde_json::Value;

use super::admin_client::{HostArgs, escaped};
use super::{Failure, Output, print};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weft logs -f\n  weft logs --tail 20 --actor default/hello/hello --output json\n  weft logs -f --actor catalog --nats nats://10.0.0.1:4222      wherever it runs\n  weft logs --host eu-2 --nats nats://10.0.0.1:4222\n\nWith --nats the lines are those of all hosts, each in its order, and say which host they are of; with --namespace too, those\nof its actors alone. A reader that is too slow misses lines, and is told how many."
)]
pub(super) struct Logs {
    /// Go on with new lines as they come.
    #[arg(short, long)]
    follow: bool,
    /// Only lines of this actor; a short name if it is unique.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// At most so many lines of the past, of each host.
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only those of this host of the lattice.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    #[command(flatten)]
    asked: HostArgs,
}

pub(super) fn run(args: &Logs, output: Output) -> Result<(), Failure> {
    let mut path = format!("/v1/logs?follow={}", args.follow);
    if let Some(actor) = &args.actor {
        path.push_str(&format!("&actor={}", escaped(actor)));
    }
    if let Some(tail) = args.tail {
        path.push_str(&format!("&tail={tail}"));
    }
    match &args.host {
        Some(host) => path.push_str(&format!("&host={}", escaped(host))),
        None if args.asked.is_from_afar() => path.push_str("&hosts=true"),
        None => {}
    }
    args.asked.client()?.lines(&path, |line| match output {
        Output::Json => print(line),
        Output::Text => print(&readable(line)),
    })
}

/// `12:00:00 INFO h1 default/hello/hello stdout: text key=value`.
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
    let host = take("logged_by");
    let from = if actor.is_empty() {
        target
    } else {
        format!("{actor} {source}")
    };
    let from = format!("{host} {from}");
    let mut text = format!("{timestamp} {level:5} {}: {message}", from.trim());
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
        let line =
            r#"{"timestamp":"t","level":"INFO","target":"weft","logged_by":"h1","message":"hi","host":"h2"}"#;
        assert_eq!(readable(line), "t INFO  h1 weft: hi host=h2");
        assert_eq!(readable("no json"), "no json");
    }
}
