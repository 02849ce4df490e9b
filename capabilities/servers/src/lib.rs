//! Real servers for tests: each on a free port with a folder of its own, and gone with its handle.
//!
//! Owns where their programs are found. It must not know what they are tested for. Whatever goes wrong is a panic with
//! the remedy, as this runs in tests and benchmarks alone.

#![expect(
    clippy::unwrap_used,
    reason = "it runs in tests, where a panic is a failed test"
)]

mod azure;
mod certificate;
mod nats;
mod postgres;
mod proxy;
mod redis;
mod registry;
mod s3;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use crate::azure::Azure;
pub use crate::certificate::Certificate;
pub use crate::nats::Nats;
pub use crate::postgres::Postgres;
pub use crate::proxy::Proxy;
pub use crate::redis::Redis;
pub use crate::registry::Registry;
pub use crate::s3::{S3, S3At};

/// The longest that a server may take to start or stop on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// A port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits until `is_so`.
///
/// # Panics
/// With `what`, if it does not become so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "{what}: not after {LIMIT:?}");
        thread::sleep(POLL);
    }
}

/// The folder into which `cargo xtask setup` puts what the machine lacks.
fn cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    folder("WEFT_CACHE_DIR")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("weft")))
        .or_else(|| Some(folder("HOME")?.join(".cache/weft")))
        .unwrap_or_default()
}

/// The first of these folders' `program`, after those of `PATH`.
fn find(program: &str, folders: &[PathBuf]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(folders.iter().cloned())
        .map(|folder| folder.join(program))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{program} is missing: get it by `cargo xtask setup servers`"))
}

/// A server's process. Killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        let started = command.spawn();
        Self(started.unwrap_or_else(|error| panic!("failed to start {command:?}: {error}")))
    }

    fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        kill_process(self.pid(), signal).ok();
    }

    /// Stops it, and waits until each of its threads stands still: on a busy machine they run on for a while.
    fn freeze(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.0.id());
        let stands_still = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat"));
            // One that has just ended runs nothing either.
            stat.map_or(true, |stat| stat.contains(") T "))
        };
        wait_for("the process stands still", || {
            let mut threads = fs::read_dir(&threads).unwrap();
            threads.all(|thread| stands_still(thread.unwrap()))
        });
    }

    fn end(&mut self, signal: Signal) {
        if self.is_over() {
            return;
        }
        self.signal(signal);
        // One that was stopped would not hear it.
        self.signal(Signal::CONT);
        let start = Instant::now();
        while !self.is_over() {
            if start.elapsed() > LIMIT {
                drop(self.0.kill());
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(Signal::QUIT);
    }
}

fn log_of(folder: &std::path::Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}
