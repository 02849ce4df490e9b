//! What needs no server: the program `weft-bench` (xtask/bench) measures it, this tells.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::{Row, Subjects};
use crate::sh;

/// The longest part, with its compiling, takes a minute.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs one part, on a data folder of its own.
fn run(subjects: &Subjects, part: &str) -> anyhow::Result<Value> {
    let rounds = subjects.rounds();
    eprintln!("Measuring {part} in process, {rounds} rounds");
    run_with(subjects, part, rounds)
}

/// The KiB that an instance of `callee` takes in bare wasmtime, of as many as wait at once.
pub(super) fn bare_instance_kib(subjects: &Subjects, instances: usize) -> anyhow::Result<f64> {
    eprintln!("Measuring {instances} instances in flight in bare wasmtime");
    Ok(number(&run_with(subjects, "waiting", instances)?, "kib_each"))
}

/// The same with a number of its own.
fn run_with(subjects: &Subjects, part: &str, number: usize) -> anyhow::Result<Value> {
    let data = subjects.scratch.join(format!("{part}-data"));
    let _ = fs::remove_dir_all(&data);
    let mut command = Command::new(&subjects.in_process);
    command.arg(part).args([&subjects.weft, &subjects.guests, &data]);
    let text = sh::read(LIMIT, command.arg(number.to_string()))?;
    serde_json::from_str(&text).context("failed to read what weft-bench printed")
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or(f64::NAN)
}

/// Both sides in microseconds.
fn row(what: String, yardstick: &str, times: &Value) -> Row {
    let us = |side| format!("{:.2} us", number(times, side));
    Row {
        what,
        weft: us("weft"),
        yardstick: format!("{yardstick} {}", us("bare")),
        ratio: Some(number(times, "ratio")),
        reach: "",
        met: None,
    }
}

pub(super) fn invocation(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let result = run(subjects, "invocation")?;
    let one = &result["one_thread_us"];
    rows.push(Row {
        reach: "at most 1.15 times",
        met: Some(number(one, "ratio") <= 1.15),
        ..row("invocation in process, 1 thread".to_owned(), "bare wasmtime", one)
    });
    rows.push(Row {
        reach: "two threads scale",
        ..row(
            "invocation in process, 2 threads".to_owned(),
            "bare wasmtime",
            &result["two_threads_us"],
        )
    });
    let cold = &result["first_call_from_disk_us"];
    rows.push(Row {
        reach: "under 500 us",
        met: Some(number(cold, "weft") < 500.0),
        ratio: Some(number(cold, "weft") / number(cold, "bare")),
        ..row(
            "first call of a component on disk, p50".to_owned(),
            "bare wasmtime",
            cold,
        )
    });
    Ok(result)
}

pub(super) fn calls(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let result = run(subjects, "calls")?;
    for size in result.as_array().context("weft-bench printed no sizes")? {
        let len = match size["len"].as_u64().unwrap_or_default() {
            len @ 0..1_024 => format!("{len} B"),
            len @ 1_024..1_048_576 => format!("{} KiB", len >> 10),
            len => format!("{} MiB", len >> 20),
        };
        let times = &size["us"];
        rows.push(Row {
            reach: "at most 1.3 times",
            met: Some(number(times, "ratio") <= 1.3),
            ..row(format!("actor to actor, {len}, p50"), "bare wasmtime", times)
        });
    }
    Ok(result)
}

pub(super) fn capabilities(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let result = run(subjects, "capabilities")?;
    for (what, yardstick, name) in [
        ("get from redb by an actor", "bare redb", "redb_get_us"),
        (
            "select from SQLite by an actor",
            "bare rusqlite",
            "sqlite_select_us",
        ),
    ] {
        let times = &result[name];
        let more = number(times, "more");
        rows.push(Row {
            reach: "at most 2 us more",
            met: Some(more <= 2.0),
            ..row(format!("{what}, {more:+.2} us"), yardstick, times)
        });
    }
    Ok(result)
}

pub(super) fn servers(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let result = run(subjects, "servers")?;
    for (what, yardstick, name) in [
        ("get from Redis by an actor", "bare redis", "redis_get"),
        ("set in Redis by an actor", "bare redis", "redis_set"),
        (
            "select 1 of Postgres by an actor",
            "bare tokio-postgres",
            "postgres_one",
        ),
    ] {
        let (alone, many) = (&result[name]["alone_us"], &result[name]["many_us"]);
        let ratio = number(alone, "ratio");
        rows.push(Row {
            reach: "at most 1.3 times",
            met: Some(ratio <= 1.3),
            ..row(what.to_owned(), yardstick, alone)
        });
        let rate = |side| format!("{:.1}k/s", 16e3 / number(many, side));
        let ratio = 1.0 / number(many, "ratio");
        rows.push(Row {
            what: "the same, 16 invocations at once".to_owned(),
            weft: rate("weft"),
            yardstick: format!("{yardstick} {}", rate("bare")),
            ratio: Some(ratio),
            reach: "at least 0.8 times",
            met: Some(ratio >= 0.8),
        });
    }
    Ok(result)
}

pub(super) fn objects(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let result = run(subjects, "objects")?;
    let times = &result["s3_read_ms"];
    let mib_per_s = |side| format!("{:.0} MiB/s", 64e3 / number(times, side));
    let ratio = 1.0 / number(times, "ratio");
    rows.push(Row {
        what: "read of 64 MiB from S3 by an actor".to_owned(),
        weft: mib_per_s("weft"),
        yardstick: format!("bare hyper {}", mib_per_s("bare")),
        ratio: Some(ratio),
        reach: "at least 0.8 times",
        met: Some(ratio >= 0.8),
    });
    Ok(result)
}
