//! HTTP hello: wrk on one server at a time, servers in turn.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::process::{Kind, Server};
use super::{Row, Subjects, median};
use crate::sh;

const KINDS: [Kind; 5] = [
    Kind::Native,
    Kind::WasmtimeStock,
    Kind::WasmtimeTuned,
    Kind::Weft,
    Kind::WeftReuse,
];
const CONNECTIONS: [u32; 3] = [1, 32, 128];
const SECONDS: u32 = 4;

/// One run of the load generator.
#[derive(Debug)]
pub(super) struct Load {
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_request: f64,
}

pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let rounds = subjects.rounds();
    let mut results: Vec<Vec<Vec<Load>>> = Vec::new();
    for connections in CONNECTIONS {
        eprintln!("Measuring HTTP hello over {connections} connections, {rounds} rounds");
        let mut by_kind: Vec<Vec<Load>> = KINDS.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (kind, loads) in std::iter::zip(KINDS, &mut by_kind) {
                let server = Server::start(kind, subjects)?;
                loads.push(load(subjects, &server, connections)?);
            }
        }
        let [native, stock, tuned, weft, reuse] = &by_kind[..] else {
            anyhow::bail!("there is a result for each kind");
        };
        for (yardstick, loads) in [
            (Kind::Native, native),
            (Kind::WasmtimeStock, stock),
            (Kind::WasmtimeTuned, tuned),
        ] {
            rows.push(row(connections, yardstick, loads, Kind::Weft, weft));
        }
        rows.push(row(connections, Kind::Native, native, Kind::WeftReuse, reuse));
        results.push(by_kind);
    }
    Ok(to_json(&results))
}

/// Load on a server that is otherwise alone; a short warm-up goes before it.
pub(super) fn load(subjects: &Subjects, server: &Server, connections: u32) -> anyhow::Result<Load> {
    let seconds = if subjects.quick { 1 } else { SECONDS };
    wrk(subjects, server.address, connections, 1)?;
    let before = server.cpu()?;
    let (requests_per_s, p50_us, p99_us, requests) = wrk(subjects, server.address, connections, seconds)?;
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(Load {
        requests_per_s,
        p50_us,
        p99_us,
        cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests,
    })
}

/// Prints what is wanted in a form that needs no guessing. wrk counts in microseconds.
const SCRIPT: &str = "done = function(summary, latency, requests)\n\
  local errors = summary.errors\n\
  io.write(string.format('WEFT %d %d %f %f %d\\n', summary.requests, summary.duration,\n\
    latency:percentile(50), latency:percentile(99),\n\
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))\n\
end\n";

/// Requests a second to what answers at `address`, after a short warm-up.
pub(super) fn rate(subjects: &Subjects, address: SocketAddr, connections: u32) -> anyhow::Result<f64> {
    let seconds = if subjects.quick { 1 } else { SECONDS };
    wrk(subjects, address, connections, 1)?;
    Ok(wrk(subjects, address, connections, seconds)?.0)
}

fn wrk(
    subjects: &Subjects,
    address: SocketAddr,
    connections: u32,
    seconds: u32,
) -> anyhow::Result<(f64, f64, f64, f64)> {
    let script = subjects.scratch.join("wrk.lua");
    std::fs::write(&script, SCRIPT)?;
    let mut command = Command::new(&subjects.wrk);
    command
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
        .arg(script);
    command.arg(format!("http://{address}/plain"));
    let text = sh::read(Duration::from_secs(u64::from(seconds) + 30), &mut command)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("WEFT "))
        .context("wrk printed no result")?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [requests, duration_us, p50, p99, errors] = numbers[..] else {
        anyhow::bail!("failed to read wrk's result: {line}");
    };
    anyhow::ensure!(errors == 0.0, "wrk counted {errors} errors");
    Ok((requests * 1e6 / duration_us, p50, p99, requests))
}

fn row(connections: u32, kind: Kind, yardstick: &[Load], ours: Kind, weft: &[Load]) -> Row {
    let middle = |loads: &[Load], of: fn(&Load) -> f64| median(loads.iter().map(of).collect());
    let figure = |loads: &[Load]| {
        let rate = middle(loads, |load| load.requests_per_s);
        let cpu = middle(loads, |load| load.cpu_us_per_request);
        format!("{:.1}k/s, {cpu:.1} us cpu", rate / 1e3)
    };
    let ratios = std::iter::zip(weft, yardstick).map(|(weft, it)| weft.requests_per_s / it.requests_per_s);
    let ratio = median(ratios.collect());
    let (reach, least) = match (connections, kind, ours) {
        (32, Kind::WasmtimeTuned, _) => ("at least 2 times", Some(2.0)),
        (32, Kind::Native, Kind::WeftReuse) => ("at least 0.4 times", Some(0.4)),
        (32, Kind::Native, _) => ("at least 0.3 times", Some(0.3)),
        _ => ("", None),
    };
    Row {
        what: match ours {
            Kind::WeftReuse => format!("HTTP hello, {connections} connections, instances reused"),
            _ => format!("HTTP hello, {connections} connections"),
        },
        weft: figure(weft),
        yardstick: format!("{} {}", kind.name(), figure(yardstick)),
        ratio: Some(ratio),
        reach,
        met: least.map(|least| ratio >= least),
    }
}

fn to_json(results: &[Vec<Vec<Load>>]) -> Value {
    let rounds = |loads: &Vec<Load>| {
        let each = loads.iter().map(|load| {
            json!({
                "requests_per_s": load.requests_per_s,
                "p50_us": load.p50_us,
                "p99_us": load.p99_us,
                "cpu_us_per_request": load.cpu_us_per_request,
            })
        });
        Value::Array(each.collect())
    };
    let mut all = serde_json::Map::new();
    for (connections, by_kind) in std::iter::zip(CONNECTIONS, results) {
        let kinds =
            std::iter::zip(KINDS, by_kind).map(|(kind, loads)| (kind.name().to_owned(), rounds(loads)));
        all.insert(connections.to_string(), Value::Object(kinds.collect()));
    }
    Value::Object(all)
}
