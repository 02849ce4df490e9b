//! A real nats-server, and a proxy in front of it that can lose what goes through it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream as Stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};

/// A server that ends with this.
pub(super) struct Server {
    program: PathBuf,
    pub(super) folder: TempDir,
    pub(super) port: u16,
    monitor: u16,
    process: Option<Child>,
}

/// Ports that are free now; whoever takes one before its server does makes the test fail, not lie.
pub(super) fn free_ports<const N: usize>() -> [u16; N] {
    let taken = [(); N].map(|()| StdListener::bind("127.0.0.1:0").unwrap());
    taken.map(|listener| listener.local_addr().unwrap().port())
}

fn program() -> PathBuf {
    let named = std::env::var_os("WEFT_NATS_SERVER").map(PathBuf::from);
    let cache = || {
        let folder = |name| std::env::var_os(name).map(PathBuf::from);
        let root = folder("WEFT_CACHE_DIR")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("weft")))
            .or_else(|| Some(folder("HOME")?.join(".cache/weft")))?;
        let tools = std::fs::read_dir(root.join("tools")).ok()?;
        let programs = tools.filter_map(|tool| Some(tool.ok()?.path().join("nats-server")));
        programs.filter(|program| program.is_file()).max()
    };
    let program = named.or_else(cache);
    program
        .expect("nats-server is missing: get it by `cargo xtask setup nats`, or name it in WEFT_NATS_SERVER")
}

impl Server {
    /// Starts a server with `config` beside its address.
    pub(super) fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [port, monitor] = free_ports();
        let config = config.replace("FOLDER", &folder.path().display().to_string());
        let text = format!("listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n{config}\n");
        std::fs::write(folder.path().join("nats.conf"), text).unwrap();
        let mut server = Self {
            program: program(),
            folder,
            port,
            monitor,
            process: None,
        };
        server.restart();
        server
    }

    /// Starts it at the same port; what it knew is lost.
    pub(super) fn restart(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let process = Command::new(&self.program)
            .arg("-c")
            .arg(self.folder.path().join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "nats-server ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nats-server does not start: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// What its monitoring says at `path`, such as `/varz`.
    pub(super) fn says(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.monitor)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Waits until its monitoring says `part` at `path`.
    pub(super) async fn until_it_says(&self, path: &str, part: &str) {
        for _ in 0..600 {
            if self.says(path).contains(part) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no {part} in {path}: {}\n{}", self.says(path), self.log());
    }

    pub(super) fn settings(&self, host: &str) -> NatsSettings {
        NatsSettings::new(vec![format!("nats://127.0.0.1:{}", self.port)], host, Role::Calls)
    }

    pub(super) async fn join(&self, host: &str) -> NatsTransport {
        NatsTransport::connect(&self.settings(host)).await.unwrap()
    }
}

/// The number of `field` in what a server's monitoring says, the first if there are several.
pub(super) fn number(text: &str, field: &str) -> u64 {
    let (_, rest) = text
        .split_once(&format!("\"{field}\": "))
        .unwrap_or_else(|| panic!("no {field} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a proxy does with bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Pass,
    /// As a cable that was pulled: nothing arrives, and nobody is told.
    Drop,
    /// As a host that stands still: nothing arrives until later.
    Hold,
}

/// A way to a server that can be cut without a word.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    _accepts: JoinSet<()>,
}

impl Proxy {
    pub(super) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(watch::channel(Mode::Pass).0);
        let mut accepts = JoinSet::new();
        let modes = mode.clone();
        accepts.spawn(async move {
            let mut pumps = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = Stream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                pumps.spawn(pump(from_client, to_server, modes.subscribe()));
                pumps.spawn(pump(from_server, to_client, modes.subscribe()));
            }
        });
        Self {
            address,
            mode,
            _accepts: accepts,
        }
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut bytes = vec![0; 64 << 10];
    let mut broken = false;
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        if mode.wait_for(|mode| *mode != Mode::Hold).await.is_err() {
            return;
        }
        broken |= *mode.borrow() == Mode::Drop;
        // A part of a stream can't be lost and the rest come: what was cut stays cut, until it is connected anew.
        if !broken && to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}
