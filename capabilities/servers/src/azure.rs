//! A server of Azure's protocol for blobs: Azurite, on a folder.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Process, cache, find, free_port, log_of, wait_for};

/// The version that `cargo xtask setup servers` gets.
const VERSION: &str = "3.37.0";
/// The server, below the folder of its packages.
const SERVER: &str = "node_modules/azurite/dist/src/blob/main.js";
/// Makes a container: requests are signed, and Node.js can.
const CONTAINER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/azurite/container.mjs");

/// A running server with one account, its key and one container.
pub struct Azure {
    process: Process,
    folder: TempDir,
    port: u16,
}

impl Azure {
    /// The account that is there.
    pub const ACCOUNT: &str = "weft";
    /// Its key.
    pub const KEY: &str = "dGhlIGtleSBvZiB0aGUgYWNjb3VudA==";
    /// The container that is there.
    pub const CONTAINER: &str = "weft";

    /// A server on a free port.
    pub fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let process = serve(folder.path(), port);
        let server = Self {
            process,
            folder,
            port,
        };
        server.make_container();
        server
    }

    /// `http://127.0.0.1:PORT/ACCOUNT`: addresses have no name for each account.
    pub fn url(&self) -> String {
        format!("{}/{}", self.root(), Self::ACCOUNT)
    }

    /// Ends it; what it has stays.
    pub fn stop(&mut self) {
        // It writes down what it has before it ends.
        self.process.end(Signal::INT);
    }

    /// Serves what it had, at the same address.
    pub fn start_again(&mut self) {
        self.process = serve(self.folder.path(), self.port);
    }

    /// What it was asked, a line a request.
    pub fn log(&self) -> String {
        log_of(self.folder.path())
    }

    fn root(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn make_container(&self) {
        let made = Command::new(node())
            .arg(CONTAINER)
            .args([&self.root(), Self::ACCOUNT, Self::KEY, Self::CONTAINER])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "failed to make a container: {}",
            String::from_utf8_lossy(&made.stderr)
        );
    }
}

fn node() -> PathBuf {
    find("node", &[])
}

fn serve(folder: &Path, port: u16) -> Process {
    let server = cache().join(format!("tools/azurite-{VERSION}")).join(SERVER);
    assert!(
        server.is_file(),
        "{} is missing: get it by `cargo xtask setup servers`",
        server.display()
    );
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let mut command = Command::new(node());
    command
        .arg(server)
        .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
        // It would tell its makers of its use.
        .arg("--disableTelemetry")
        .arg("--location")
        .arg(folder.join("data"))
        .env("AZURITE_ACCOUNTS", format!("{}:{}", Azure::ACCOUNT, Azure::KEY))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut process = Process::start(&mut command);
    wait_for("the Azure server listens", || {
        assert!(!process.is_over(), "the Azure server ended: {}", log_of(folder));
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    process
}
