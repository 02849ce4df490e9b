//! Ten times the requests that an actor can serve: what is served, how fast the rest is refused, who else notices.

use std::time::Duration;

use serde_json::Value;

use super::host::Host;
use super::{Finding, Subjects};

/// The flooded actor waits so long, ten at a time: 500 a second.
const FLOODED_PATH: &str = "/flooded/sleep?ms=20";
const FLOOD_PER_S: &str = "5000";
/// Each is answered within some milliseconds or waits in the actor's queue.
const FLOOD_CONNECTIONS: &str = "256";
const BESIDE_PATH: &str = "/beside/plain";
const BESIDE_PER_S: &str = "100";
const BESIDE_CONNECTIONS: &str = "8";
/// How long the other actor is measured alone, before and after.
const ALONE_S: u64 = 10;
/// After which all is as before.
const RECOVERY: Duration = Duration::from_secs(2);

/// Who waits is refused in time, too: within the 50 ms that a refusal may take.
const MANIFEST: &str = "\
apiVersion: weft/v1
name: overload
actors:
  flooded:
    component: GUESTS/fault.wasm
    limits: { concurrency: 10, queue: 10, queueWait: 40ms }
  beside: { component: GUESTS/hello.wasm }
routes:
  - { actor: flooded, path: /flooded, stripPrefix: true }
  - { actor: beside, path: /beside, stripPrefix: true }
";

pub(super) fn run(subjects: &Subjects, seconds: u64) -> anyhow::Result<Vec<Finding>> {
    eprintln!("Overload: {seconds} s");
    let host = Host::start(
        subjects,
        "overload",
        &[subjects.manifest("overload.yaml", MANIFEST)?],
    )?;
    let load = |path: &str, rate: &str, seconds: u64, connections: &str| {
        let args = ["open", &host.http, path, rate, &seconds.to_string(), connections];
        subjects.load(Duration::from_secs(seconds), &args)
    };
    let beside = |seconds| load(BESIDE_PATH, BESIDE_PER_S, seconds, BESIDE_CONNECTIONS);
    beside(2)?;
    let idle = host.holdings()?;
    let before = beside(ALONE_S)?;
    let (flood, during) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| load(FLOODED_PATH, FLOOD_PER_S, seconds, FLOOD_CONNECTIONS));
        let during = beside(seconds);
        (flood.join(), during)
    });
    let flood = flood.map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
    let during = during?;
    std::thread::sleep(RECOVERY);
    let settled = host.holdings()?;
    let after = beside(ALONE_S)?;

    let goodput = number(&flood, "200", "count") / seconds as f64;
    let refused_ms = number(&flood, "503", "p999_us") / 1e3;
    let p99_ms = |load: &Value| number(load, "200", "p99_us") / 1e3;
    let p50_ms = |load: &Value| number(load, "200", "p50_us") / 1e3;
    let ratio = p99_ms(&during) / p99_ms(&before);
    let others = ["200", "503"]
        .iter()
        .map(|status| number(&flood, status, "count"))
        .sum::<f64>();
    let odd = (FLOOD_PER_S.parse::<f64>()? * seconds as f64 - others) as i64;
    let beside_failed = [&before, &during, &after]
        .iter()
        .map(|load| {
            load["unanswered"].as_u64().unwrap_or(1)
                + load["statuses"].as_object().map_or(1, |all| all.len() as u64 - 1)
        })
        .sum::<u64>();
    let quiet = settled.live_slots == 0 && settled.places == 0 && settled.tasks <= idle.tasks;
    Ok(vec![
        Finding::new(
            "overload: served of 500/s possible",
            format!("{goodput:.0}/s"),
            "at least 450/s",
            goodput >= 450.0,
        ),
        Finding::new(
            "overload: refused (503), p99.9",
            format!(
                "{refused_ms:.1} ms of {:.0}/s",
                number(&flood, "503", "count") / seconds as f64
            ),
            "under 50 ms",
            refused_ms < 50.0,
        ),
        Finding::new("overload: neither 200 nor 503", odd.to_string(), "none", odd == 0),
        Finding::new(
            "overload: another actor, p99",
            format!(
                "{:.2} ms before, {:.2} ms during",
                p99_ms(&before),
                p99_ms(&during)
            ),
            format!("at most 1.5 times (is {ratio:.2})"),
            ratio <= 1.5,
        ),
        Finding::new(
            "overload: another actor, failed",
            beside_failed.to_string(),
            "none",
            beside_failed == 0,
        ),
        Finding::new(
            "overload: 2 s after, live, places, tasks",
            format!(
                "{}, {}, {} (idle: {})",
                settled.live_slots, settled.places, settled.tasks, idle.tasks
            ),
            "as before",
            quiet,
        ),
        Finding::new(
            "overload: another actor after it, p50",
            format!("{:.2} ms before, {:.2} ms after", p50_ms(&before), p50_ms(&after)),
            "at most 1.5 times",
            p50_ms(&after) <= 1.5 * p50_ms(&before),
        ),
    ])
}

fn number(load: &Value, status: &str, figure: &str) -> f64 {
    load["statuses"][status][figure].as_f64().unwrap_or(0.0)
}
