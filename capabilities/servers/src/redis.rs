//! Redis: a server, a sentinel, or one of a cluster.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Process, cache, find, free_port, log_of, wait_for};

/// A running `redis-server`.
pub struct Redis {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    args: Vec<String>,
}

impl Redis {
    /// A server that keeps what it was told over a restart.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with more arguments, as `--name value` each.
    pub fn start_with(args: &[&str]) -> Self {
        let mut all = vec!["--appendonly", "yes", "--save", ""];
        all.extend_from_slice(args);
        Self::start_of(free_port(), &all)
    }

    /// A server that speaks TLS at `port` too. It reads the certificate's files when it starts.
    pub fn start_with_tls(port: u16, certificate: &crate::Certificate) -> Self {
        Self::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            certificate.certificate.to_str().unwrap(),
            "--tls-key-file",
            certificate.key.to_str().unwrap(),
            "--tls-auth-clients",
            "no",
        ])
    }

    /// A sentinel that watches the server at `port` as `name`, and takes another for it after half a second.
    pub fn start_sentinel(name: &str, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor {name} 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds {name} 500\n\
             sentinel failover-timeout {name} 5000\n"
        );
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap().to_owned();
        let mut sentinel = Self {
            process: None,
            folder,
            port: free_port(),
            args: vec![config, "--sentinel".to_owned()],
        };
        sentinel.restart();
        sentinel
    }

    /// A server that replicates the one at `port`.
    pub fn start_replica(port: u16) -> Self {
        Self::start_with(&[
            "--replicaof",
            &format!("127.0.0.1 {port}"),
            "--repl-diskless-sync-delay",
            "0",
        ])
    }

    fn start_of(port: u16, args: &[&str]) -> Self {
        let mut server = Self {
            process: None,
            folder: tempfile::tempdir().unwrap(),
            port,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        server.restart();
        server
    }

    /// Three servers that make a cluster. Each has a third of the slots.
    pub fn start_cluster() -> Vec<Self> {
        let servers: Vec<_> = (0..3)
            .map(|_| {
                let bus = free_port().to_string();
                Self::start_with(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    "2000",
                ])
            })
            .collect();
        let mut create = Command::new(find("redis-cli", &[cache().join("redis")]));
        create.args(["--cluster", "create"]);
        create.args(servers.iter().map(|server| format!("127.0.0.1:{}", server.port)));
        let output = create.arg("--cluster-yes").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for server in &servers {
            wait_for("the cluster agrees", || {
                server.cli(&["cluster", "info"]).contains("cluster_state:ok")
            });
        }
        servers
    }

    /// What `redis-cli` says to a command.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut cli = Command::new(find("redis-cli", &[cache().join("redis")]));
        cli.args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(args);
        let output = cli.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once, as a crash would.
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

    /// Goes on after [`Redis::freeze`].
    pub fn thaw(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::CONT);
        }
    }

    /// Starts it again, where it was and with what it had.
    pub fn restart(&mut self) {
        self.kill();
        let log = File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(find("redis-server", &[cache().join("redis")]));
        command
            .args(&self.args)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut process = Process::start(&mut command);
        wait_for("Redis starts", || {
            let log = log_of(self.folder.path());
            assert!(!process.is_over(), "Redis ended: {log}");
            log.contains("Ready to accept connections") || log.contains("Sentinel ID is")
        });
        self.process = Some(process);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
    }
}
