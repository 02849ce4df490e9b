//! Postgres, with a user who may do everything.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Process, cache, find, free_port, log_of, wait_for};

/// Postgres refuses to run as root; then it runs as this user, `nobody`.
const NOBODY: u32 = 65_534;

/// A running server with one database, `weft`.
pub struct Postgres {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    args: Vec<String>,
}

impl Postgres {
    /// Who may log in.
    pub const USER: &str = "weft";
    /// That user's password.
    pub const PASSWORD: &str = "secret";

    /// A server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with more settings, as `name=value` each.
    pub fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let copied = Command::new("cp")
            .arg("-a")
            .arg(template())
            .arg(folder.path().join("data"))
            .status();
        assert!(copied.unwrap().success(), "failed to copy an empty data folder");
        let mut server = Self {
            process: None,
            folder,
            port: free_port(),
            args: settings.iter().map(|setting| (*setting).to_owned()).collect(),
        };
        server.restart();
        server
    }

    /// A server that speaks TLS.
    pub fn start_with_tls(certificate: &crate::Certificate) -> Self {
        let mut server = Self::start();
        for (setting, own) in server.take(certificate) {
            server.args.push(format!("{setting}={}", own.display()));
        }
        server.args.push("ssl=on".to_owned());
        server.restart();
        server
    }

    /// Copies a certificate to where the server has its own, for its next start. Gives the settings that name it.
    pub fn take(&self, certificate: &crate::Certificate) -> Vec<(&'static str, PathBuf)> {
        let files = [
            ("ssl_cert_file", &certificate.certificate),
            ("ssl_key_file", &certificate.key),
        ];
        let taken = files.map(|(setting, file)| {
            let own = self.folder.path().join(setting);
            fs::copy(file, &own).unwrap();
            fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
            give(&own);
            (setting, own)
        });
        taken.into()
    }

    /// The address of its database, with user and password.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same by way of another port.
    pub fn url_at(&self, port: u16) -> String {
        format!(
            "postgres://{}:{}@127.0.0.1:{port}/weft",
            Self::USER,
            Self::PASSWORD
        )
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, without a checkpoint: the next start has to recover.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(Signal::QUIT);
        }
    }

    /// Starts it again, where it was and with what it had.
    pub fn restart(&mut self) {
        self.kill();
        let log = File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(program("postgres"));
        command
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string()])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
                "-c",
                "fsync=off",
                "-c",
                "shared_buffers=32MB",
                "-c",
                "max_connections=60",
            ])
            .args(self.args.iter().flat_map(|setting| ["-c", setting]))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        as_nobody(&mut command);
        let mut process = Process::start(&mut command);
        wait_for("Postgres starts", || {
            let log = log_of(self.folder.path());
            assert!(!process.is_over(), "Postgres ended: {log}");
            log.contains("database system is ready to accept connections")
        });
        self.process = Some(process);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn give(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn as_nobody(command: &mut Command) {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// A program of the newest Postgres that is there.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<_> = versions.filter_map(|entry| Some(entry.ok()?.path())).collect();
    versions.sort_by_key(|path| {
        path.file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
    });
    let mut folders: Vec<_> = versions.iter().rev().map(|path| path.join("bin")).collect();
    folders.push(cache().join("postgres/bin"));
    find(name, &folders)
}

/// An empty data folder, which takes seconds to make and so is made once.
fn template() -> PathBuf {
    let version = Command::new(program("postgres"))
        .arg("--version")
        .output()
        .unwrap();
    let version: String = String::from_utf8_lossy(&version.stdout)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let template = cache().join(format!("data-{version}"));
    fs::create_dir_all(cache()).unwrap();
    let lock = File::create(cache().join("data.lock")).unwrap();
    lock.lock().unwrap();
    if template.exists() {
        return template;
    }
    let folder = tempfile::tempdir().unwrap();
    give(folder.path());
    let password = folder.path().join("password");
    fs::write(&password, Postgres::PASSWORD).unwrap();
    let data = folder.path().join("data");
    let run = |command: &mut Command| {
        as_nobody(command);
        let output = command.current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    };
    run(Command::new(program("initdb"))
        .args([
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--auth=scram-sha-256",
        ])
        .args(["--username", Postgres::USER])
        .arg(format!("--pwfile={}", password.display()))
        .arg(&data));
    let mut single = Command::new(program("postgres"));
    single.args(["--single", "-D"]).arg(&data).arg("postgres");
    let statement = folder.path().join("statement");
    fs::write(&statement, "CREATE DATABASE weft\n").unwrap();
    single.stdin(File::open(&statement).unwrap());
    run(&mut single);
    let partial = cache().join("data.partial");
    drop(fs::remove_dir_all(&partial));
    let copied = Command::new("cp").arg("-a").arg(&data).arg(&partial).status();
    assert!(copied.unwrap().success(), "failed to copy an empty data folder");
    fs::rename(&partial, &template).unwrap();
    template
}
