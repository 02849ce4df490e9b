//! A server of S3's protocol: `s3s-fs`, on a folder.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{Process, cache, find, free_port, log_of, wait_for};

/// The version that `cargo xtask setup servers` gets.
const VERSION: &str = "0.14.1";

/// A running server with one bucket and one key.
pub struct S3 {
    _process: Process,
    folder: TempDir,
    port: u16,
}

/// The same server at another address. Ends with its handle.
pub struct S3At {
    _process: Process,
}

impl S3 {
    /// The bucket that is there.
    pub const BUCKET: &str = "weft";
    /// The id of the key that it takes.
    pub const ID: &str = "the-id";
    /// The key that it takes.
    pub const KEY: &str = "the-key";

    /// A server on a free port.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data").join(Self::BUCKET)).unwrap();
        let port = free_port();
        Self {
            _process: serve(folder.path(), port, true),
            folder,
            port,
        }
    }

    /// Serves the same at another port.
    pub fn also_at(&self, port: u16) -> S3At {
        S3At {
            _process: serve(self.folder.path(), port, true),
        }
    }

    /// Serves the same at another port, to whoever asks.
    pub fn without_key_at(&self, port: u16) -> S3At {
        S3At {
            _process: serve(self.folder.path(), port, false),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it keeps what it has: a bucket is a folder, and a key a path below it.
    pub fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }
}

fn serve(folder: &Path, port: u16, with_key: bool) -> Process {
    let program = find("s3s-fs", &[cache().join(format!("tools/s3s-fs-{VERSION}/bin"))]);
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let mut command = Command::new(program);
    command
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(
            with_key
                .then_some(["--access-key", S3::ID, "--secret-key", S3::KEY])
                .into_iter()
                .flatten(),
        )
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut process = Process::start(&mut command);
    wait_for("the S3 server listens", || {
        assert!(!process.is_over(), "the S3 server ended: {}", log_of(folder));
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    process
}
