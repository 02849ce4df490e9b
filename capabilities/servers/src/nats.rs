//! NATS: a server, with whatever configuration.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Process, cache, free_port, log_of, wait_for};

/// A running `nats-server`.
pub struct Nats {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Nats {
    /// A server with `config` beside its address.
    ///
    /// # Panics
    /// If nats-server is missing, or does not start.
    pub fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    /// The same with JetStream, which has over a restart what it had.
    ///
    /// # Panics
    /// As [`Nats::start`].
    pub fn start_with_jetstream(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jetstream");
        let jetstream = format!("jetstream {{ store_dir: \"{}\" }}\n{config}", store.display());
        Self::start_in(folder, &jetstream)
    }

    fn start_in(folder: TempDir, config: &str) -> Self {
        let port = free_port();
        let text = format!("listen: \"127.0.0.1:{port}\"\n{config}\n");
        fs::write(folder.path().join("nats.conf"), text).unwrap();
        let mut server = Self {
            process: None,
            folder,
            port,
        };
        server.restart();
        server
    }

    /// The program, as `cargo xtask setup nats` gets it or WEFT_NATS_SERVER names it.
    ///
    /// # Panics
    /// If it is missing.
    pub fn program() -> PathBuf {
        let named = std::env::var_os("WEFT_NATS_SERVER").map(PathBuf::from);
        let got = || {
            let tools = fs::read_dir(cache().join("tools")).ok()?;
            let programs = tools.filter_map(|tool| Some(tool.ok()?.path().join("nats-server")));
            programs.filter(|program| program.is_file()).max()
        };
        named.or_else(got).expect(
            "nats-server is missing: get it by `cargo xtask setup nats`, or name it in WEFT_NATS_SERVER",
        )
    }

    /// Starts it at the same port; what it knew is lost, but what JetStream has.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(Self::program());
        command
            .arg("-c")
            .arg(self.folder.path().join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(File::create(self.folder.path().join("log")).unwrap());
        let process = self.process.insert(Process::start(&mut command));
        let (port, folder) = (self.port, self.folder.path());
        wait_for("nats-server", || {
            assert!(!process.is_over(), "nats-server ended: {}", log_of(folder));
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(Signal::KILL);
        }
    }

    /// Stops it for a while: connections stay, and nothing answers.
    pub fn freeze(&self) {
        if let Some(process) = &self.process {
            process.freeze();
        }
    }

    /// Goes on after [`Nats::freeze`].
    pub fn thaw(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::CONT);
        }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        log_of(self.folder.path())
    }
}
