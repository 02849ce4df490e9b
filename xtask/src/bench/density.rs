//! Ten thousand deployed actors on one host, and instances in flight on it.
//!
//! What is printed stands against what the design asks for, and an instance in flight beside one in bare wasmtime. The
//! program `weft-bench` sends the requests that are held open.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::process::{get, get_text, memory_kib};
use super::{Row, Subjects, in_process, median};
use crate::sh;

/// Apps, and actors of each: what one transaction of the control store takes has to fit an app.
const APPS: usize = 100;
const ACTORS: usize = 100;
/// What the actors run, in turn.
const GUESTS: [&str; 4] = ["hello", "echo", "fault", "logger"];
/// Changes of one actor, and first calls, that are measured.
const CHANGES: usize = 7;
const FIRST_CALLS: usize = 50;
/// Instances in bare wasmtime: as many as a stock kernel takes.
const BARE_INSTANCES: usize = 9_000;
/// How long held instances wait: longer than it takes to fill the host.
const HELD: Duration = Duration::from_secs(90);
/// How long to wait for the host to be full, or for one to start.
const LIMIT: Duration = Duration::from_secs(80);
const DEPLOY_LIMIT: Duration = Duration::from_secs(120);
/// Kibibytes that the design allows for a deployed actor, and for an instance in flight.
const ACTOR_KIB_MAX: f64 = 50.0;
const INSTANCE_KIB_MAX: f64 = 40.0;

/// A host on a data folder, killed when dropped.
struct Host<'a> {
    subjects: &'a Subjects,
    data: &'a Path,
    child: Child,
    http: SocketAddr,
    monitor: SocketAddr,
    slots: u64,
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Host<'a> {
    fn start(subjects: &'a Subjects, data: &'a Path, args: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(&subjects.weft)
            .args(["up", "--output", "json", "--http", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start weft")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("weft has no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).context("weft did not start")?;
        let address = |name: &str| {
            let url = ready[name].as_str().unwrap_or_default();
            url.trim_start_matches("http://")
                .parse()
                .with_context(|| format!("weft told no address of {name}"))
        };
        Ok(Self {
            http: address("http")?,
            monitor: address("monitor")?,
            slots: ready["engine"]["slots"].as_u64().unwrap_or_default(),
            subjects,
            data,
            child,
        })
    }

    fn resident_kib(&self) -> anyhow::Result<f64> {
        memory_kib(&self.child, "status", "VmRSS:")
    }

    fn deploy(&self, manifest: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.subjects.weft);
        command.arg("deploy").arg(manifest).arg("--data").arg(self.data);
        sh::read(DEPLOY_LIMIT, &mut command).map(drop)
    }

    /// The value of the series at `/metrics` that starts so.
    fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = get_text(self.monitor, "/metrics")?;
        let line = text.lines().find(|line| line.starts_with(series));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.with_context(|| format!("no {series}"))
    }
}

/// The manifest of one app; `mark` is in the configuration of its first actor.
fn manifest(subjects: &Subjects, app: usize, mark: usize) -> String {
    let mut text = format!("apiVersion: weft/v1\nname: app{app}\nactors:\n");
    let mut routes = "routes:\n".to_owned();
    for actor in 0..ACTORS {
        let guest = subjects.guest(GUESTS[actor % GUESTS.len()]);
        let config = match actor {
            0 => format!(", config: {{ mark: \"{mark}\" }}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "  a{actor}: {{ component: {}{config} }}", guest.display());
        let _ = writeln!(
            routes,
            "  - {{ actor: a{actor}, path: /app{app}/a{actor}, stripPrefix: true }}"
        );
    }
    text + &routes
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let deployed = deployed(subjects, rows)?;
    let bare_kib = in_process::bare_instance_kib(subjects, BARE_INSTANCES)?;
    let mut in_flight = serde_json::Map::new();
    for (profile, wanted) in [("fast", 9_000), ("dense", 100_000)] {
        in_flight.insert(
            profile.to_owned(),
            held(subjects, profile, wanted, bare_kib, rows)?,
        );
    }
    Ok(json!({ "deployed": deployed, "in_flight": in_flight, "bare_kib_each": bare_kib }))
}

fn row(what: String, weft: String, reach: &'static str, met: Option<bool>) -> Row {
    Row {
        what,
        weft,
        yardstick: "-".to_owned(),
        ratio: None,
        reach,
        met,
    }
}

fn deployed(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let apps = if subjects.quick { APPS / 10 } else { APPS };
    let actors = apps * ACTORS;
    eprintln!("Measuring {actors} deployed actors");
    let (data, files) = (
        subjects.scratch.join("density-data"),
        subjects.scratch.join("density-apps"),
    );
    let _ = fs::remove_dir_all(&data);
    fs::create_dir_all(&files)?;
    let file = |app: usize| files.join(format!("{app}.yaml"));
    for app in 0..apps {
        fs::write(file(app), manifest(subjects, app, 0))?;
    }

    let host = Host::start(subjects, &data, &[])?;
    let empty = host.resident_kib()?;
    // The first compiles the components.
    host.deploy(&file(0))?;
    let started = Instant::now();
    for app in 1..apps {
        host.deploy(&file(app))?;
    }
    let deploy_s = started.elapsed().as_secs_f64();

    let (mut change_ms, mut reconcile_ms) = (Vec::new(), Vec::new());
    for mark in 1..=CHANGES {
        fs::write(file(0), manifest(subjects, 0, mark))?;
        let before = host.metric("weft_reconcile_duration_seconds_sum")?;
        let started = Instant::now();
        host.deploy(&file(0))?;
        change_ms.push(millis(started));
        reconcile_ms.push((host.metric("weft_reconcile_duration_seconds_sum")? - before) * 1e3);
    }
    drop(host);

    let started = Instant::now();
    let host = Host::start(subjects, &data, &[])?;
    get(host.http, "/app0/a0/plain")?;
    let start_ms = millis(started);
    let actor_kib = (host.resident_kib()? - empty) / actors as f64;
    drop(host);

    let mut first_ms = Vec::new();
    // One that is loaded is let go at once, so that each call finds its component on disk.
    let host = Host::start(subjects, &data, &["--loaded-components", "1"])?;
    for call in 0..FIRST_CALLS {
        let actor = if call % 2 == 0 { "a0/plain" } else { "a2/ok" };
        let started = Instant::now();
        get(host.http, &format!("/app{}/{actor}", call % apps))?;
        first_ms.push(millis(started));
    }
    let loads = host.metric("weft_component_loads_total{weft_outcome=\"ok\"}")?;
    ensure!(
        loads >= FIRST_CALLS as f64,
        "only {loads} of the calls had to load"
    );

    let (change, reconcile, first) = (median(change_ms), median(reconcile_ms), median(first_ms));
    rows.push(row(
        format!("{actors} deployed actors, at rest"),
        format!("{actor_kib:.1} KiB each"),
        "at most 50 KiB each",
        Some(actor_kib <= ACTOR_KIB_MAX),
    ));
    rows.push(row(
        format!("deploy of {} of them in {} apps", actors - ACTORS, apps - 1),
        format!("{deploy_s:.1} s"),
        "",
        None,
    ));
    rows.push(row(
        "change of one of them, deploy to applied".to_owned(),
        format!("{change:.0} ms, reconciler {reconcile:.0}"),
        "reconciler: about 50 ms",
        Some(reconcile <= 50.0),
    ));
    rows.push(row(
        "start with them to first 200".to_owned(),
        format!("{start_ms:.0} ms"),
        "",
        None,
    ));
    rows.push(row(
        "first call of one that is not loaded, p50".to_owned(),
        format!("{:.0} us by HTTP", first * 1e3),
        "",
        None,
    ));
    Ok(json!({
        "actors": actors, "kib_each": actor_kib, "deploy_s": deploy_s, "change_ms": change,
        "reconcile_ms": reconcile, "start_ms": start_ms, "first_call_ms": first,
    }))
}

/// Root calls have 70 % of the pool: half of the instances here are called by the other half.
fn held(
    subjects: &Subjects,
    profile: &str,
    wanted: u64,
    bare_kib: f64,
    rows: &mut Vec<Row>,
) -> anyhow::Result<Value> {
    let data = subjects.scratch.join("density-held");
    let _ = fs::remove_dir_all(&data);
    let manifest: PathBuf = subjects.scratch.join("density-held.yaml");
    let limits = "limits: { concurrency: 200000, queue: 200000, queueWait: 60s, timeout: 300s }";
    fs::write(
        &manifest,
        format!(
            "apiVersion: weft/v1\nname: held\nactors:\n  front: {{ component: {}, links: {{ test:call: {{ actor: back }} }}, {limits} }}\n  \
             back: {{ component: {}, links: {{ test:call: {{ actor: back }} }}, {limits} }}\nroutes:\n  - {{ actor: front }}\n",
            subjects.guest("caller").display(),
            subjects.guest("callee").display(),
        ),
    )?;
    let host = Host::start(subjects, &data, &["--profile", profile])?;
    host.deploy(&manifest)?;
    get(host.http, "/wait?ms=1")?;
    let wanted = wanted.min(host.slots) / 2 * 2;
    eprintln!("Measuring {wanted} instances in flight, profile {profile}");
    let idle = host.resident_kib()?;
    let mut client = Command::new(&subjects.in_process)
        .arg("hold")
        .arg(format!("{}/wait?ms={}", host.http, HELD.as_millis()))
        .arg((wanted / 2).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start weft-bench")?;
    let started = Instant::now();
    let mut live = 0.0;
    while started.elapsed() < LIMIT && live < wanted as f64 {
        std::thread::sleep(Duration::from_millis(200));
        live = host.metric("weft_pool_slots{weft_pool_state=\"live\"}")?;
    }
    let each = (host.resident_kib()? - idle) / live.max(1.0);
    let _ = client.kill();
    client.wait()?;
    if live == 0.0 {
        bail!("no instance was live");
    }
    let reach = if profile == "fast" {
        "9,000 of at most 40 KiB"
    } else {
        "100,000 of at most 40 KiB where vm.max_map_count is raised"
    };
    let enough = if profile == "fast" { 9_000.0 } else { 100_000.0 };
    rows.push(Row {
        yardstick: format!("bare wasmtime {bare_kib:.1} KiB"),
        ratio: Some(each / bare_kib),
        ..row(
            format!("instances in flight, {profile}"),
            format!("{live:.0}, {each:.1} KiB each"),
            reach,
            Some(live >= enough && each <= INSTANCE_KIB_MAX),
        )
    });
    Ok(json!({ "live": live, "kib_each": each, "slots": host.slots }))
}
