//! All kinds of load at once, with attackers, clients that leave, deploys and links that move: nothing is left behind.
//!
//! A first while is the warm-up, in which caches fill; what the host holds after it, idle, is what it has to hold at the
//! end, idle again.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::host::{Holdings, Host};
use super::{Finding, Subjects};

const APP: &str = include_str!("soak.yaml");
const ATTACKERS: &str = include_str!("attackers.yaml");
const WARM_UP_S: u64 = 45;
const SAMPLE: Duration = Duration::from_secs(1);
/// Between two changes of what is deployed.
const CHANGE: Duration = Duration::from_secs(7);
/// tokio ends idle blocking threads after 10 s, and the host closes idle connections to others after 30 s.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// Looks at a host that is to be as it was.
const LOOKS_MAX: u32 = 3;
/// By how much the memory of the end may differ from that of the middle.
const MEMORY_SHARE_MAX: f64 = 0.03;

pub(super) fn run(subjects: &Subjects, minutes: u64) -> anyhow::Result<Vec<Finding>> {
    let files = [
        subjects.shop.join("app.yaml"),
        subjects.manifest("soak.yaml", APP)?,
        attackers(subjects, 0)?,
    ];
    let host = Host::start(subjects, "mixed", &files)?;
    host.post("/api/seed", "")?;
    let table = r#"{"sql": "CREATE TABLE soak (id INTEGER PRIMARY KEY, text TEXT)", "params": []}"#;
    host.post("/sql/execute", table)?;
    eprintln!("Mixed load: {WARM_UP_S} s to warm up");
    burst(subjects, &host)?;
    period(subjects, &host, Duration::from_secs(WARM_UP_S), 0)?;
    let start = settle(&host, None)?;
    eprintln!("Mixed load: {minutes} min");
    let (found, resident) = period(subjects, &host, Duration::from_secs(minutes * 60), 1)?;
    let end = settle(&host, Some(&start))?;

    let mut findings = vec![memory(&resident)];
    let mut equal = |what: &str, of: fn(&Holdings) -> u64| {
        let (start, end) = (of(&start), of(&end));
        let figure = format!("{start} before, {end} after");
        findings.push(Finding::new(
            &format!("mixed: {what}, idle"),
            figure,
            "equal",
            start == end,
        ));
    };
    equal("file descriptors", |of| of.files as u64);
    equal("tasks", |of| of.tasks);
    equal("memory maps", |of| of.maps as u64);
    equal("threads", |of| of.threads as u64);
    equal("live slots", |of| of.live_slots);
    equal("places in use", |of| of.places);
    equal("connections", |of| of.connections);
    for (kind, tally) in found.as_object().context("weft-load found nothing")? {
        let (ok, failed) = (
            tally["ok"].as_u64().unwrap_or(0),
            tally["failed"].as_u64().unwrap_or(0),
        );
        let of_users = kind != "attack" && !kind.starts_with("leaves-");
        for failure in tally["failures"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|_| of_users)
        {
            eprintln!("  {kind}: {}", failure.as_str().unwrap_or_default());
        }
        findings.push(Finding::new(
            &format!("mixed: {kind}, failed of visits"),
            format!("{failed} of {} (slowest {} ms)", ok + failed, tally["slowest_ms"]),
            if of_users { "none" } else { "any" },
            ok > 0 && (failed == 0 || !of_users),
        ));
    }
    Ok(findings)
}

/// Takes more slots of the pool at once than it keeps warm. A slot that was used has four mappings more than one that
/// never was, and slots are taken from the warm ones from then on. The pool is in parts, a part for each processor, and
/// each thread takes of one: so guests wait on the threads that serve, and then some compute on those that are for that.
fn burst(subjects: &Subjects, host: &Host) -> anyhow::Result<()> {
    let (rate_per_s, seconds, connections) = ("400", 3, "400");
    for path in ["/calls/wait?ms=1000", "/burn/spin"] {
        let args = [
            "open",
            &host.http,
            path,
            rate_per_s,
            &seconds.to_string(),
            connections,
        ];
        subjects.load(Duration::from_secs(seconds), &args)?;
    }
    Ok(())
}

/// Load for a while, with changes of what is deployed. What was found, and resident memory each second in KiB.
fn period(
    subjects: &Subjects,
    host: &Host,
    duration: Duration,
    round: u64,
) -> anyhow::Result<(Value, Vec<u64>)> {
    std::thread::scope(|scope| {
        let load =
            scope.spawn(|| subjects.load(duration, &["mixed", &host.http, &duration.as_secs().to_string()]));
        let (started, mut resident) = (Instant::now(), Vec::new());
        let mut changes = 0;
        while started.elapsed() < duration && !load.is_finished() {
            resident.push(host.resident_kib()?);
            if started.elapsed() > CHANGE * (changes + 1) {
                changes += 1;
                change(subjects, host, round * 1_000 + u64::from(changes))?;
            }
            std::thread::sleep(SAMPLE);
        }
        let found = load
            .join()
            .map_err(|_| anyhow::anyhow!("the load's thread panicked"))??;
        // As it was at the start.
        host.command(&[
            "link",
            "put",
            "default/shop/catalog",
            "wasi:keyvalue",
            "--to",
            "goods",
        ])?;
        Ok((found, resident))
    })
}

/// One of the changes that operators make.
fn change(subjects: &Subjects, host: &Host, number: u64) -> anyhow::Result<()> {
    let to = |provider| {
        [
            "link",
            "put",
            "default/shop/catalog",
            "wasi:keyvalue",
            "--to",
            provider,
        ]
    };
    match number % 3 {
        0 => host.command(&to("spare")),
        1 => host.command(&to("goods")),
        _ => {
            let file = attackers(subjects, number)?;
            host.command(&["deploy", &file.display().to_string()])
        }
    }?;
    Ok(())
}

/// The attackers, whose limits differ a little between revisions, so that each deploy makes their actors anew.
fn attackers(subjects: &Subjects, revision: u64) -> anyhow::Result<std::path::PathBuf> {
    let text = ATTACKERS.replace("REVISION", &revision.to_string());
    let text = text.replace("cpuTime: 100ms", &format!("cpuTime: {}ms", 100 + revision % 2));
    subjects.manifest("attackers.yaml", &text)
}

/// What the host holds once it is idle: like `wanted`, if that comes to be in time.
fn settle(host: &Host, wanted: Option<&Holdings>) -> anyhow::Result<Holdings> {
    eprintln!("Waiting until the host is idle");
    let is_quiet = |now: &Holdings| now.live_slots == 0 && now.places == 0 && now.connections == 0;
    host.wait(IDLE_LIMIT, is_quiet)?;
    let mut looks = 0;
    loop {
        // Threads and connections that are kept for a while end. Each look takes a thread, and would keep it.
        std::thread::sleep(IDLE_LIMIT / 2);
        let now = host.holdings()?;
        looks += 1;
        if looks == LOOKS_MAX || wanted.is_none_or(|wanted| *wanted == now) {
            return Ok(now);
        }
    }
}

/// Of ten minutes, the fourth to the sixth against the last two; of others the same parts.
fn memory(resident: &[u64]) -> Finding {
    let part = |from: f64, to: f64| {
        let at = |share: f64| (resident.len() as f64 * share) as usize;
        let mut part = resident[at(from)..at(to)].to_vec();
        part.sort_unstable();
        part.get(part.len() / 2)
            .map_or(f64::NAN, |kib| *kib as f64 / 1024.0)
    };
    let (middle, last) = (part(0.4, 0.6), part(0.8, 1.0));
    let difference = last / middle - 1.0;
    Finding::new(
        "mixed: resident memory, median",
        format!("{middle:.1} MiB, {last:.1} MiB at the end"),
        format!("within 3 % (is {:+.1} %)", difference * 100.0),
        difference.abs() <= MEMORY_SHARE_MAX,
    )
}
