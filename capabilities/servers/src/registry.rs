//! An OCI registry: Docker's, in memory or rather in its folder.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{Process, cache, find, free_port, log_of, wait_for};

/// A running `docker-registry`.
pub struct Registry {
    _process: Process,
    folder: TempDir,
    port: u16,
}

impl Registry {
    /// A registry that takes everything from everybody.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A registry for one user. `line` is of an htpasswd file, with bcrypt.
    pub fn start_for(line: &str) -> Self {
        Self::start_with(line)
    }

    fn start_with(user: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let auth = if user.is_empty() {
            String::new()
        } else {
            fs::write(at("users"), format!("{user}\n")).unwrap();
            format!("auth:\n  htpasswd: {{ realm: test, path: {} }}\n", at("users"))
        };
        let config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\n{auth}http: {{ addr: \"127.0.0.1:{port}\" }}\n",
            at("data")
        );
        fs::write(at("config.yml"), config).unwrap();
        let log = File::create(at("log")).unwrap();
        let mut command = Command::new(find("docker-registry", &[cache().join("docker-registry")]));
        command.args(["serve", &at("config.yml")]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut process = Process::start(&mut command);
        wait_for("docker-registry listens", || {
            assert!(
                !process.is_over(),
                "docker-registry ended: {}",
                log_of(folder.path())
            );
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            _process: process,
            folder,
            port,
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The file in which it keeps the bytes of this digest, 64 hexadecimal digits.
    pub fn blob(&self, hex: &str) -> PathBuf {
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}
