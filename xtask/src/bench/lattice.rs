//! Two hosts and a nats-server on this machine: what a call, a request and a body cost that go to the other host.
//!
//! The yardsticks run beside it on the same server: bare request and reply of async-nats, in two processes too, by
//! `lattice-calls`; and the same request to the host that runs the actor.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::process::{free_address, get, get_text, memory_kib};
use super::{Row, Subjects, http, median};
use crate::sh;

const START_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
const EXAMPLE_LIMIT: Duration = Duration::from_secs(600);
/// Calls one after the other, in one invocation of the caller.
const CALLS: u32 = 2_000;
/// Operations on a store, one after the other, in one invocation.
const OPERATIONS: u32 = 1_000;
/// What is read from a blob store in files of one host, in MiB.
const OBJECT_MIB: u32 = 64;
const LENS: [usize; 3] = [16, 1 << 10, 64 << 10];
/// What goes up and comes back as one body.
const STREAM_LEN: usize = 200 << 20;

/// Ends with this process.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Lattice {
    // In this order: the hosts end before their server does.
    hosts: Vec<Ends>,
    http: Vec<SocketAddr>,
    url: String,
    _nats: Ends,
}

impl Lattice {
    /// `h1`, which has the control store, and `h2`.
    fn start(subjects: &Subjects) -> anyhow::Result<Self> {
        let scratch = subjects.scratch.join("lattice");
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch)?;
        let address = free_address()?;
        let nats = subjects.nats.as_ref().context("nats-server was not set up")?;
        let mut server = Command::new(nats);
        server.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]);
        let nats = Ends(quiet(&mut server)?);
        wait_for("nats-server", || TcpStream::connect(address).is_ok())?;
        let url = format!("nats://{address}");
        let (mut hosts, mut http) = (Vec::new(), Vec::new());
        for name in ["h1", "h2"] {
            let address = free_address()?;
            let mut host = Command::new(&subjects.weft);
            host.args([
                "host",
                "--nats",
                &url,
                "--name",
                name,
                "--http",
                &address.to_string(),
            ]);
            host.arg("--data").arg(scratch.join(name));
            if name == "h1" {
                host.arg("--controller");
            }
            hosts.push(Ends(quiet(&mut host)?));
            wait_for(name, || TcpStream::connect(address).is_ok())?;
            http.push(address);
        }
        Ok(Self {
            hosts,
            http,
            url,
            _nats: nats,
        })
    }

    fn weft(&self, subjects: &Subjects, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&subjects.weft);
        command.args(args).args(["--nats", &self.url]);
        sh::read(COMMAND_LIMIT, &mut command)
    }

    /// What a function of a guest that measures answers, a number.
    fn call(&self, subjects: &Subjects, actor: &str, function: &str, args: &str) -> anyhow::Result<f64> {
        let name = format!("weft:bench/measure.{function}");
        let text = self.weft(subjects, &["call", actor, &name, args])?;
        text.trim()
            .parse()
            .with_context(|| format!("{name} answered {text}"))
    }

    /// The address of a host's run.
    fn address_of(&self, subjects: &Subjects, host: &str) -> anyhow::Result<String> {
        let text = self.weft(subjects, &["get", "hosts", "--output", "json"])?;
        let hosts: Value = serde_json::from_str(&text)?;
        let hosts = hosts["hosts"].as_array().into_iter().flatten();
        let mut found = hosts.filter(|seen| seen["name"] == host);
        let address = found.next().and_then(|seen| seen["address"].as_str());
        Ok(address
            .with_context(|| format!("no address of {host} in {text}"))?
            .to_owned())
    }

    /// The caller on `h1`; all that it and clients call on `h2`.
    fn deploy(&self, subjects: &Subjects) -> anyhow::Result<()> {
        let guest = |name| subjects.guest(name).display().to_string();
        let text = format!(
            "\
apiVersion: weft/v1
name: far
actors:
  caller:
    component: {}
    limits: {{ timeout: 2m, cpuTime: 1m }}
    links:
      test:call: {{ actor: callee }}
  callee:
    component: {}
    links:
      test:call/echo: {{ actor: callee }}
  hello: {{ component: {} }}
  echo: {{ component: {} }}
  bench:
    component: {}
    limits: {{ timeout: 2m, cpuTime: 1m }}
    links:
      wasi:keyvalue: {{ provider: keys }}
      weft:sql: {{ provider: rows }}
  objects-near:
    component: {objects}
    limits: {{ timeout: 2m, cpuTime: 1m }}
    links:
      wasi:blobstore: {{ provider: objects }}
  objects-far:
    component: {objects}
    limits: {{ timeout: 2m, cpuTime: 1m }}
    links:
      wasi:blobstore: {{ provider: objects }}
providers:
  # Their files are on h1, which has the control store.
  keys: {{ capability: key-value, backend: redb }}
  rows: {{ capability: sql, backend: sqlite }}
  objects: {{ capability: blob-store, backend: fs }}
routes:
  - {{ actor: caller, path: /caller, stripPrefix: true }}
  - {{ actor: hello, path: / }}
  - {{ actor: echo, path: /echo, stripPrefix: true }}
",
            guest("caller"),
            guest("callee"),
            guest("hello"),
            guest("echo"),
            guest("bench"),
            objects = guest("bench-objects"),
        );
        let app = subjects.scratch.join("far.yaml");
        fs::write(&app, text)?;
        self.weft(subjects, &["deploy", &app.display().to_string()])?;
        for (actor, host) in [
            ("caller", "h1"),
            ("callee", "h2"),
            ("hello", "h2"),
            ("echo", "h2"),
            ("bench", "h2"),
            ("objects-near", "h1"),
            ("objects-far", "h2"),
        ] {
            self.weft(subjects, &["actor", "place", actor, "--host", host])?;
        }
        for address in &self.http {
            wait_for("the app", || get(*address, "/plain").is_ok())?;
        }
        wait_for("the callee", || {
            get_text(self.http[0], "/caller/mix").is_ok_and(|text| text.contains("same"))
        })
    }
}

pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let lattice = Lattice::start(subjects)?;
    lattice.deploy(subjects)?;
    let rounds = subjects.rounds();

    eprintln!("Measuring calls over NATS to native code and to an actor, beside bare async-nats");
    let mut program = Command::new(&subjects.calls);
    program.args([&lattice.url, "default", &lattice.address_of(subjects, "h2")?]);
    let text = sh::read(EXAMPLE_LIMIT, &mut program)?;
    let mut raw = serde_json::Map::new();
    for len in LENS {
        let bare = figures(&text, len, "bare")?;
        let ways = [
            ("weft", "native code", 0.8),
            ("actor", "an actor, a fresh instance each", 0.5),
        ];
        for (way, what, share) in ways {
            let Figures {
                p50,
                p99,
                rate,
                ratios,
            } = figures(&text, len, way)?;
            rows.push(Row {
                what: format!("call over NATS to {what}, {len} B, p50"),
                weft: format!("{p50:.0} us, p99 {p99:.0}"),
                yardstick: format!("bare async-nats {:.0} us, p99 {:.0}", bare.p50, bare.p99),
                ratio: Some(ratios[0]),
                reach: "at most 1.25 times",
                met: Some(ratios[0] <= 1.25),
            });
            rows.push(Row {
                what: "the same, calls a second".to_owned(),
                weft: format!("{:.1}k/s", rate / 1e3),
                yardstick: format!("bare async-nats {:.1}k/s", bare.rate / 1e3),
                ratio: Some(ratios[1]),
                reach: if way == "weft" {
                    "at least 0.8 times"
                } else {
                    "at least 0.5 times"
                },
                met: Some(ratios[1] >= share),
            });
            raw.insert(
                format!("{way}_{len}"),
                json!({
                    "bare_p50_us": bare.p50, "bare_p99_us": bare.p99, "bare_rate": bare.rate,
                    "p50_us": p50, "p99_us": p99, "rate": rate,
                }),
            );
        }
        eprintln!("Measuring calls from actor to actor over NATS, {len} B, {rounds} rounds");
        let calls = if len > 10_000 { CALLS / 10 } else { CALLS };
        let mut times = Vec::new();
        for _ in 0..rounds {
            let answer = get_text(lattice.http[0], &format!("/caller/repeat?n={calls}&len={len}"))?;
            let nanos = answer
                .lines()
                .filter_map(|line| line.trim().parse::<f64>().ok())
                .next_back();
            times.push(
                nanos.with_context(|| format!("the caller answered {answer}"))? / f64::from(calls) / 1e3,
            );
        }
        let each = median(times);
        rows.push(Row {
            what: format!("actor to actor over NATS, {len} B, one at a time"),
            weft: format!("{each:.0} us"),
            yardstick: format!("bare async-nats {:.0} us", bare.p50),
            ratio: Some(each / bare.p50),
            reach: "",
            met: None,
        });
        raw.insert(format!("pair_{len}"), json!({ "us": each }));
    }

    let stores = stores(&lattice, subjects, figures(&text, LENS[0], "bare")?.p50, rows)?;
    raw.insert("stores".to_owned(), stores);

    eprintln!("Measuring HTTP that is forwarded to the other host, {rounds} rounds");
    let (mut direct, mut forwarded) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (address, rates) in [(lattice.http[1], &mut direct), (lattice.http[0], &mut forwarded)] {
            rates.push(http::rate(subjects, address, 32)?);
        }
    }
    let ratio = median(std::iter::zip(&forwarded, &direct).map(|(a, b)| a / b).collect());
    let (direct, forwarded) = (median(direct), median(forwarded));
    rows.push(Row {
        what: "HTTP hello by way of another host, 32 connections".to_owned(),
        weft: format!("{:.1}k/s", forwarded / 1e3),
        yardstick: format!("where it runs {:.1}k/s", direct / 1e3),
        ratio: Some(ratio),
        reach: "",
        met: None,
    });

    eprintln!("Measuring a body of 200 MB up to the other host and back");
    let hosts = &lattice.hosts;
    let resident = |field| -> anyhow::Result<Vec<f64>> {
        hosts
            .iter()
            .map(|host| Ok(memory_kib(&host.0, "status", field)? / 1024.0))
            .collect()
    };
    let before = resident("VmRSS:")?;
    let begin = Instant::now();
    let came = echoed(lattice.http[0])?;
    let seconds = begin.elapsed().as_secs_f64();
    anyhow::ensure!(came == STREAM_LEN, "{came} bytes came back");
    let peak = resident("VmHWM:")?;
    let grown = std::iter::zip(&peak, &before)
        .map(|(peak, before)| peak - before)
        .fold(0.0, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = STREAM_LEN as f64 / 1e6 / seconds;
    rows.push(Row {
        what: "200 MB to an actor on another host and back".to_owned(),
        weft: format!("{rate:.0} MB/s each way, memory +{grown:.0} MiB"),
        yardstick: String::new(),
        ratio: None,
        reach: "in bounded memory",
        met: Some(grown <= 32.0),
    });
    raw.insert(
        "http".to_owned(),
        json!({ "direct": direct, "forwarded": forwarded }),
    );
    raw.insert(
        "stream".to_owned(),
        json!({ "mb_per_s": rate, "grown_mib": grown }),
    );
    Ok(Value::Object(raw))
}

/// Operations on stores whose files are on the other host, each a call to it, beside `bare` us of a bare request.
fn stores(lattice: &Lattice, subjects: &Subjects, bare: f64, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let rounds = subjects.rounds();
    eprintln!("Measuring stores in files of the other host, {rounds} rounds");
    lattice.call(subjects, "bench", "fill", &OPERATIONS.to_string())?;
    let numbers: Vec<String> = (0..OPERATIONS).map(|row| row.to_string()).collect();
    let numbers = format!("[{}]", numbers.join(", "));
    let kinds = [
        ("gets", "get of 100 B from redb"),
        ("sets", "set of 100 B in redb, with its sync"),
        ("selects", "select of 100 B from SQLite"),
    ];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for ((function, _), times) in std::iter::zip(kinds, &mut times) {
            let nanos = lattice.call(subjects, "bench", function, &numbers)?;
            times.push(nanos / f64::from(OPERATIONS) / 1e3);
        }
    }
    let mut raw = serde_json::Map::new();
    for ((function, what), times) in std::iter::zip(kinds, times) {
        let each = median(times);
        rows.push(Row {
            what: format!("{what} on another host, one at a time"),
            weft: format!("{each:.0} us"),
            yardstick: format!("bare async-nats {bare:.0} us"),
            ratio: Some(each / bare),
            reach: "",
            met: None,
        });
        raw.insert(function.to_owned(), json!({ "us": each, "bare_p50_us": bare }));
    }
    raw.insert("object".to_owned(), object(lattice, subjects, rows)?);
    Ok(Value::Object(raw))
}

/// A large object in a folder of one host, read there and on the other.
fn object(lattice: &Lattice, subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let mib = OBJECT_MIB.to_string();
    lattice.call(subjects, "objects-near", "fill", &mib)?;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..subjects.rounds() {
        for (actor, rates) in [("objects-near", &mut near), ("objects-far", &mut far)] {
            let nanos = lattice.call(subjects, actor, "read", &mib)?;
            rates.push(f64::from(OBJECT_MIB) * 1.048_576e9 / nanos);
        }
    }
    let ratio = median(
        std::iter::zip(&far, &near)
            .map(|(far, near)| far / near)
            .collect(),
    );
    let (near, far) = (median(near), median(far));
    rows.push(Row {
        what: format!("read of an object of {OBJECT_MIB} MiB in a folder of another host"),
        weft: format!("{far:.0} MB/s"),
        yardstick: format!("on that host {near:.0} MB/s"),
        ratio: Some(ratio),
        reach: "",
        met: None,
    });
    Ok(json!({ "near_mb_per_s": near, "far_mb_per_s": far }))
}

/// What a line of `lattice-calls` says.
struct Figures {
    /// In us.
    p50: f64,
    /// In us.
    p99: f64,
    /// Calls a second.
    rate: f64,
    /// Of p50 and of the rate, to those of bare calls.
    ratios: [f64; 2],
}

fn figures(text: &str, len: usize, way: &str) -> anyhow::Result<Figures> {
    let begin = format!("{len:>6} B  {way:5}  ");
    let line = text.lines().find(|line| line.starts_with(&begin));
    let line = line.with_context(|| format!("no line for {len} B {way} in\n{text}"))?;
    let numbers: Vec<f64> = line[begin.len()..]
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [p50, p99, rate, to_p50, _, to_rate] => Ok(Figures {
            p50,
            p99,
            rate,
            ratios: [to_p50, to_rate],
        }),
        _ => bail!("failed to read {line}"),
    }
}

/// Bytes that come back of a body that is sent while it is read.
fn echoed(address: SocketAddr) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(COMMAND_LIMIT))?;
    write!(
        stream,
        "POST /echo/ HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {STREAM_LEN}\r\n\r\n"
    )?;
    let mut writer = stream.try_clone()?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let part = vec![7; 1 << 20];
        for _ in 0..STREAM_LEN / part.len() {
            writer.write_all(&part)?;
        }
        Ok(())
    });
    let (mut count, mut buffer) = (0, vec![0; 1 << 18]);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        // All of the body is sevens; the head and the lengths of its pieces are not.
        count += buffer[..read].iter().filter(|byte| **byte == 7).count();
    }
    match sender.join() {
        Ok(sent) => sent?,
        Err(_) => bail!("the sender panicked"),
    }
    Ok(count)
}

fn quiet(command: &mut Command) -> anyhow::Result<Child> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().context("failed to start a part of the lattice")
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > START_LIMIT {
            bail!("{what} was not ready within {} s", START_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
