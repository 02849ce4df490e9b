//! A server as a process: how it is started, asked, weighed and stopped; and what start and memory come to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{Row, Subjects, http, median};

const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_micros(500);
const STARTS: usize = 15;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Native,
    WasmtimeStock,
    WasmtimeTuned,
    Weft,
    WeftReuse,
    Shop,
    Arena,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native hyper",
            Self::WasmtimeStock => "wasmtime serve",
            Self::WasmtimeTuned => "wasmtime serve tuned",
            Self::Weft => "weft",
            Self::WeftReuse => "weft with reuse",
            Self::Shop => "weft with the shop",
            Self::Arena => "weft with an attacker",
        }
    }

    /// What answers 200 to a `GET`.
    fn path(self) -> &'static str {
        match self {
            Self::Shop => "/",
            Self::Arena => "/hello/plain",
            _ => "/plain",
        }
    }

    fn command(self, subjects: &Subjects, address: SocketAddr) -> anyhow::Result<Command> {
        let address = address.to_string();
        let command = match self {
            Self::Native => {
                let mut command = Command::new(&subjects.native);
                command.arg(address);
                command
            }
            Self::WasmtimeStock | Self::WasmtimeTuned => {
                let program = subjects.wasmtime.as_ref();
                let mut command = Command::new(program.context("wasmtime was not set up")?);
                command.args(["serve", "-S", "cli=y", "--addr", &address]);
                if self == Self::WasmtimeTuned {
                    command.args(["-O", "pooling-memory-keep-resident=131072,pooling-table-keep-resident=16384,pooling-pagemap-scan=y"]);
                }
                command.arg(subjects.guest("hello"));
                command
            }
            Self::Weft | Self::WeftReuse | Self::Shop | Self::Arena => {
                let (file, data) = match self {
                    Self::Shop => (subjects.shop.join("app.yaml"), "shop-data"),
                    Self::Arena => (subjects.arena(), "arena-data"),
                    _ => (subjects.guest("hello"), "data"),
                };
                let mut command = Command::new(&subjects.weft);
                command.arg("up").arg(file).args(["--http", &address, "--data"]);
                command.arg(subjects.scratch.join(data));
                if self == Self::WeftReuse {
                    command.args(["--reuse", "1000000"]);
                }
                command
            }
        };
        Ok(command)
    }
}

/// A server that answers. Killed when dropped.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
    /// From the start of the process to its first answer.
    pub(super) start: Duration,
}

impl Server {
    pub(super) fn start(kind: Kind, subjects: &Subjects) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut command = kind.command(subjects, address)?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("failed to start {}", kind.name()))?;
        let mut server = Self {
            child,
            address,
            start: Duration::ZERO,
        };
        while get(address, kind.path()).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended with {status} before it answered", kind.name());
            }
            if started.elapsed() > START_LIMIT {
                bail!(
                    "{} did not answer within {} s",
                    kind.name(),
                    START_LIMIT.as_secs()
                );
            }
            std::thread::sleep(POLL);
        }
        server.start = started.elapsed();
        Ok(server)
    }

    /// Processor time of the process so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in brackets may hold anything; the fields are counted after it.
        let (_, fields) = stat.rsplit_once(')').context("failed to read /proc/PID/stat")?;
        let field = |n: usize| {
            fields
                .split_whitespace()
                .nth(n)
                .and_then(|field| field.parse::<u64>().ok())
        };
        let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
        // USER_HZ is 100 on every Linux that this runs on.
        Ok(Duration::from_millis(
            ticks.context("failed to read /proc/PID/stat")? * 10,
        ))
    }

    /// Resident memory in MiB.
    pub(super) fn resident_mib(&self) -> anyhow::Result<f64> {
        self.mib("status", "VmRSS:")
    }

    /// The same, but for each page that processes share only this one's share of it.
    pub(super) fn proportional_mib(&self) -> anyhow::Result<f64> {
        self.mib("smaps_rollup", "Pss:")
    }

    fn mib(&self, file: &str, field: &str) -> anyhow::Result<f64> {
        Ok(memory_kib(&self.child, file, field)? / 1024.0)
    }
}

/// A field of a file about a process's memory.
pub(super) fn memory_kib(child: &Child, file: &str, field: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/{file}", child.id()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.with_context(|| format!("no {field}"))?;
    Ok(kib.trim().trim_end_matches(" kB").parse()?)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that was free a moment ago.
pub(super) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// One request; an error unless it is answered 200.
pub(super) fn get(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    get_text(address, path).map(drop)
}

/// The same, for its body.
pub(super) fn get_text(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, START_LIMIT)?;
    stream.set_read_timeout(Some(START_LIMIT))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        bail!("answered {line}");
    }
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest)?;
    Ok(String::from_utf8_lossy(&rest).into_owned())
}

/// Start to first answer, and resident memory idle and after load.
pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    let starts = if subjects.quick { 5 } else { STARTS };
    let kinds = [Kind::WasmtimeStock, Kind::Weft];
    let mut times = [Vec::new(), Vec::new()];
    // Both have compiled the component by then.
    for kind in kinds {
        drop(Server::start(kind, subjects)?);
    }
    eprintln!("Measuring {starts} starts");
    for _ in 0..starts {
        for (kind, times) in std::iter::zip(kinds, &mut times) {
            times.push(Server::start(kind, subjects)?.start.as_secs_f64() * 1e3);
        }
    }
    let [wasmtime, weft] = times.map(median);
    rows.push(Row {
        what: "process start to first 200, p50".to_owned(),
        weft: format!("{weft:.1} ms"),
        yardstick: format!("wasmtime serve {wasmtime:.1} ms"),
        ratio: Some(weft / wasmtime),
        reach: "at most 30 ms",
        met: Some(weft <= 30.0),
    });

    let mut memory = serde_json::Map::new();
    eprintln!("Measuring memory");
    for kind in [Kind::Native, Kind::WasmtimeTuned, Kind::Weft] {
        let server = Server::start(kind, subjects)?;
        let idle = server.resident_mib()?;
        http::load(subjects, &server, 32)?;
        memory.insert(
            kind.name().to_owned(),
            json!({ "idle": idle, "after_load": server.resident_mib()? }),
        );
    }
    let mib = |kind: Kind, when: &str| memory[kind.name()][when].as_f64().unwrap_or(f64::NAN);
    for (what, when) in [
        ("resident memory, one actor, idle", "idle"),
        ("resident memory after load", "after_load"),
    ] {
        let (weft, wasmtime) = (mib(Kind::Weft, when), mib(Kind::WasmtimeTuned, when));
        rows.push(Row {
            what: what.to_owned(),
            weft: format!("{weft:.1} MiB"),
            yardstick: format!("wasmtime serve tuned {wasmtime:.1} MiB"),
            ratio: Some(weft / wasmtime),
            reach: "at most 64 MB for an app of 12",
            met: None,
        });
    }
    Ok(json!({ "start_ms": { "wasmtime serve": wasmtime, "weft": weft }, "resident_mib": memory }))
}
