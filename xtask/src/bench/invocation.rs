//! One invocation in process: the example `invocation` measures, this tells.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::{Row, Subjects};
use crate::sh;

const LIMIT: Duration = Duration::from_secs(300);

pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    eprintln!("Measuring invocations in process");
    let data = subjects.scratch.join("invocation-data");
    let _ = fs::remove_dir_all(&data);
    let mut command = Command::new(&subjects.invocation);
    let text = sh::read(LIMIT, command.args([&subjects.weft, &subjects.reply, &data]))?;
    let result: Value =
        serde_json::from_str(&text).context("failed to read what the invocation example printed")?;
    let number = |pointer: &str| {
        result
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    };

    for (what, part, threads, reach) in [
        ("invocation in process, 1 thread", "/one_thread", 1.0, Some(1.15)),
        ("invocation in process, 2 threads", "/two_threads", 2.0, None),
    ] {
        let us = |rate: f64| format!("{:.2} us ({:.0}k/s)", threads * 1e6 / rate, rate / 1e3);
        let ratio = number(&format!("{part}/time_ratio"));
        rows.push(Row {
            what: what.to_owned(),
            weft: us(number(&format!("{part}/weft_per_s"))),
            yardstick: format!("bare wasmtime {}", us(number(&format!("{part}/bare_per_s")))),
            ratio: Some(ratio),
            reach: if reach.is_some() {
                "at most 1.15 times"
            } else {
                "two threads scale"
            },
            met: reach.map(|reach| ratio <= reach),
        });
    }
    let (bare, weft) = (
        number("/first_call_from_disk_us/bare"),
        number("/first_call_from_disk_us/weft"),
    );
    rows.push(Row {
        what: "first call of a component on disk, p50".to_owned(),
        weft: format!("{weft:.0} us"),
        yardstick: format!("bare wasmtime {bare:.0} us"),
        ratio: Some(weft / bare),
        reach: "under 500 us",
        met: Some(weft < 500.0),
    });
    Ok(result)
}
