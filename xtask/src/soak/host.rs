//! A host that load is put on: started, asked, weighed, changed and stopped.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Subjects;
use crate::sh;

const ASK_LIMIT: Duration = Duration::from_secs(30);
/// Deploying compiles what is new.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// Killed when dropped.
pub(super) struct Host {
    child: Child,
    weft: PathBuf,
    data: PathBuf,
    pub(super) http: String,
    monitor: String,
}

/// What a process and its host have at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holdings {
    pub(super) files: usize,
    pub(super) threads: usize,
    pub(super) maps: usize,
    pub(super) tasks: u64,
    pub(super) live_slots: u64,
    pub(super) places: u64,
    pub(super) connections: u64,
}

impl Host {
    /// Starts a host in a data folder of its own, which is emptied, and waits until it is ready.
    pub(super) fn start(subjects: &Subjects, name: &str, files: &[PathBuf]) -> anyhow::Result<Self> {
        let data = subjects.scratch.join(format!("{name}-data"));
        let _ = fs::remove_dir_all(&data);
        let log = File::create(subjects.scratch.join(format!("{name}.log")))?;
        let mut command = Command::new(&subjects.weft);
        command.args([
            "up",
            "--output",
            "json",
            "--http",
            "127.0.0.1:0",
            "--monitor",
            "127.0.0.1:0",
            // What is deployed and never called would else be let go after ten minutes, with its file and its maps.
            "--unload-after",
            "1h",
            "--data",
        ]);
        command.arg(&data).args(files);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {}", subjects.weft.display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the host has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let _ = child.kill();
            bail!(
                "the host did not start: see {name}.log in {}",
                subjects.scratch.display()
            );
        };
        let address = |key: &str| {
            let url = ready[key].as_str().with_context(|| format!("no {key}"))?;
            anyhow::Ok(url.trim_start_matches("http://").to_owned())
        };
        Ok(Self {
            http: address("http")?,
            monitor: address("monitor")?,
            weft: subjects.weft.clone(),
            data,
            child,
        })
    }

    /// `weft` with arguments, as a client of this host.
    pub(super) fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.weft);
        sh::read(COMMAND_LIMIT, command.args(args).arg("--data").arg(&self.data))
    }

    /// A request whose answer has to be 2xx.
    pub(super) fn post(&self, path: &str, body: &str) -> anyhow::Result<()> {
        let text = ask(&self.http, "POST", path, body)?;
        if !text.starts_with("HTTP/1.1 2") {
            bail!("{path} answered {text}");
        }
        Ok(())
    }

    /// Resident memory in KiB.
    pub(super) fn resident_kib(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.proc("status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("no {field} in /proc/PID/status"))
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    /// What it holds now. What the system knows is taken first, as the host may still hold the connection over which the
    /// rest is asked; to answer takes a task, every time alike.
    pub(super) fn holdings(&self) -> anyhow::Result<Holdings> {
        let files = fs::read_dir(self.proc("fd"))?.count();
        let threads = fs::read_dir(self.proc("task"))?.count();
        let maps = fs::read_to_string(self.proc("maps"))?.lines().count();
        let metrics = ask(&self.monitor, "GET", "/metrics", "")?;
        let sum = |name: &str, part: &str| -> u64 {
            let lines = metrics.lines().filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
                    && line.contains(part)
            });
            let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            values.sum::<f64>() as u64
        };
        Ok(Holdings {
            files,
            threads,
            maps,
            tasks: sum("weft_task_count", ""),
            live_slots: sum("weft_pool_slots", "\"live\""),
            places: sum("weft_app_places", "\"used\""),
            connections: sum("weft_http_connections", ""),
        })
    }

    /// Waits until `holds` of what it holds, for at most `limit`; what it holds then.
    pub(super) fn wait(
        &self,
        limit: Duration,
        holds: impl Fn(&Holdings) -> bool,
    ) -> anyhow::Result<Holdings> {
        let started = Instant::now();
        loop {
            let now = self.holdings()?;
            if holds(&now) || started.elapsed() > limit {
                return Ok(now);
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole answer to one request.
fn ask(address: &str, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ASK_LIMIT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
