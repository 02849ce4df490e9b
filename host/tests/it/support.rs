//! Starting hosts and talking to them.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The guests that `cargo xtask actors` builds. A guest that no test runs is a dead constant, which does not compile.
pub(crate) mod guests {
    pub(crate) const BLOB: &str = "blob";
    pub(crate) const CALLEE: &str = "callee";
    pub(crate) const CALLER: &str = "caller";
    pub(crate) const CHOOSER: &str = "chooser";
    pub(crate) const CONFIG: &str = "config";
    pub(crate) const ECHO: &str = "echo";
    pub(crate) const FAULT: &str = "fault";
    pub(crate) const FETCH: &str = "fetch";
    pub(crate) const FOREIGN_JS: &str = "foreign-js";
    pub(crate) const FOREIGN_PYTHON: &str = "foreign-python";
    pub(crate) const HELLO: &str = "hello";
    pub(crate) const HELLO_JS: &str = "hello-js";
    pub(crate) const HELLO_PYTHON: &str = "hello-python";
    pub(crate) const HOSTILE: &str = "hostile";
    pub(crate) const KV: &str = "kv";
    pub(crate) const KV2: &str = "kv2";
    pub(crate) const LOGGER: &str = "logger";
    pub(crate) const MEMO: &str = "memo";
    pub(crate) const MESSENGER: &str = "messenger";
    pub(crate) const POSTGRES: &str = "postgres";
    pub(crate) const REPLY: &str = "reply";
    pub(crate) const SECRET: &str = "secret";
    pub(crate) const SQL: &str = "sql";
    pub(crate) const WATCHER: &str = "watcher";
}

/// The file of a guest.
pub(crate) fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/guests/{name}.wasm"));
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask actors`",
        path.display()
    );
    path
}

/// A manifest on disk, in a folder of its own.
pub(crate) struct AppFile(TempDir);

impl AppFile {
    /// A manifest of this text.
    pub(crate) fn new(text: &str) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        file.write(text);
        file
    }

    /// Gives it another text.
    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("app.yaml")
    }

    /// A file beside it.
    pub(crate) fn beside(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// `weft` with arguments, run to its end.
pub(crate) fn weft(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A running host, killed when dropped.
pub(crate) struct Weft {
    child: Child,
    pub(crate) ready: Value,
    pub(crate) http: SocketAddr,
    pub(crate) monitor: SocketAddr,
    pub(crate) data: Arc<TempDir>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Weft {
    /// A host that serves `guests`, once it is ready.
    pub(crate) fn start(guests: &[&str], args: &[&str]) -> Self {
        Self::start_with(guests, args, &[], Arc::new(tempfile::tempdir().unwrap()))
    }

    /// The same with environment variables, in a given data folder.
    pub(crate) fn start_with(
        guests: &[&str],
        args: &[&str],
        env: &[(&str, &str)],
        data: Arc<TempDir>,
    ) -> Self {
        let files: Vec<_> = guests.iter().map(|name| guest(name)).collect();
        Self::up(&files, args, env, data)
    }

    /// A host that serves an app, in a data folder of its own.
    pub(crate) fn app(file: &AppFile, args: &[&str]) -> Self {
        Self::up(&[file.path()], args, &[], Arc::new(tempfile::tempdir().unwrap()))
    }

    /// A host that was started with `files`, manifests and components, once it is ready.
    pub(crate) fn up(files: &[PathBuf], args: &[&str], env: &[(&str, &str)], data: Arc<TempDir>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.arg("up").args(files).args(args).envs(env.iter().copied());
        Self::spawn(command, data)
    }

    /// A host of a lattice, once it has joined.
    pub(crate) fn host(nats: &str, name: &str, args: &[&str], data: Arc<TempDir>) -> Self {
        Self::host_with(nats, name, args, &[], data)
    }

    /// The same with environment variables.
    pub(crate) fn host_with(
        nats: &str,
        name: &str,
        args: &[&str],
        env: &[(&str, &str)],
        data: Arc<TempDir>,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(["host", "--nats", nats, "--name", name]).args(args);
        command.envs(env.iter().copied());
        Self::spawn(command, data)
    }

    /// A host of a lattice that is told by a file which.
    pub(crate) fn host_by(config: &Path, args: &[&str], data: Arc<TempDir>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(["host", "--config"]).arg(config).args(args);
        Self::spawn(command, data)
    }

    fn spawn(mut command: Command, data: Arc<TempDir>) -> Self {
        command
            .args(["--output", "json", "--http", "127.0.0.1:0", "--data"])
            .arg(data.path());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let log = BufReader::new(child.stderr.take().unwrap());
        let kept = stderr.clone();
        let log = std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if line.is_empty() {
            log.join().unwrap();
            panic!("weft did not start: {}", stderr.lock().unwrap());
        }
        let rest = std::thread::spawn(move || {
            let _ = stdout.read_to_end(&mut Vec::new());
        });
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = |key: &str| {
            ready[key]
                .as_str()
                .unwrap()
                .trim_start_matches("http://")
                .parse()
                .unwrap()
        };
        Self {
            http: address("http"),
            monitor: address("monitor"),
            child,
            data,
            stderr,
            readers: vec![log, rest],
            ready,
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until the log has `text`.
    pub(crate) async fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log has `{text}`"), || self.log().contains(text)).await;
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        get(self.http, path).await
    }

    /// The answer to a request with a body.
    pub(crate) async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        send(self.http, request(method, path).body(full(body)).unwrap()).await
    }

    /// The same, or `None` if the host goes away before all of the answer is there.
    pub(crate) async fn try_send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Option<Reply> {
        try_send(self.http, request(method, path).body(full(body)).unwrap())
            .await
            .ok()
    }

    /// `weft` with arguments, as a client of this host: what it wrote to stdout.
    pub(crate) async fn cli(&self, args: &[&str]) -> String {
        let output = self.try_cli(args).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`weft {}`: {error}", args.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, whatever comes of it. The test goes on meanwhile.
    pub(crate) async fn try_cli(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(args).arg("--data").arg(self.data.path());
        command.stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output());
        run.await.unwrap().unwrap()
    }

    /// Ends it as `kill -9` does. What is left is its data folder.
    pub(crate) fn kill(mut self) -> Arc<TempDir> {
        self.signal("-KILL");
        self.wait();
        self.data.clone()
    }

    /// Ends it in peace. What is left is its data folder.
    pub(crate) fn stop(mut self) -> Arc<TempDir> {
        self.signal("-TERM");
        assert_eq!(self.wait().code(), Some(0));
        self.data.clone()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.readers.drain(..).for_each(|reader| reader.join().unwrap());
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "weft did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A number of the process from `/proc/PID/status` in KiB, such as `VmRSS`.
    pub(crate) fn memory_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    /// Files and sockets that it has open.
    pub(crate) fn open_files(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        files.count()
    }

    /// Processes that it has started and that run, whose arguments name `what`.
    pub(crate) fn children(&self, what: &str) -> Vec<u32> {
        let own = self.child.id().to_string();
        let of_ours = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // After the name in brackets: the state, then the parent.
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1));
            parent == Some(own.as_str()) && arguments.contains(what)
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(of_ours).collect()
    }

    /// Instances that are live now.
    pub(crate) fn live_instances(&self) -> u64 {
        let path = self.data.path().join("admin.sock");
        let status: Value = serde_json::from_str(&over_unix(&path, "/v1/host")).unwrap();
        status["live_instances"].as_u64().unwrap()
    }

    /// Waits until no instance is live.
    pub(crate) async fn wait_until_idle(&self) {
        wait_until("no instance is live", || self.live_instances() == 0).await;
    }

    /// Waits until so many instances are live.
    pub(crate) async fn wait_until_live(&self, count: u64) {
        wait_until(&format!("{count} instances are live"), || {
            self.live_instances() == count
        })
        .await;
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a state, not for a moment.
pub(crate) async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The body of a GET over the admin socket.
pub(crate) fn over_unix(socket: &Path, path: &str) -> String {
    use std::io::Write as _;
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let mut whole = String::new();
    let mut rest = body;
    while let Some((len, after)) = rest.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).unwrap();
        whole.push_str(&after[..len]);
        rest = after[len..].trim_start_matches("\r\n");
    }
    whole
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<http::HeaderMap>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status, and the code of the problem document that a failed call is answered with.
    pub(crate) fn problem(&self) -> (u16, String) {
        let code = self.json()["code"].as_str().unwrap_or_default().to_owned();
        (self.status, code)
    }

    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        Self::try_read(response).await.unwrap()
    }

    async fn try_read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A connection that is driven in the background. Dropped, it is closed.
pub(crate) struct Http1 {
    pub(crate) sender: http1::SendRequest<Body>,
    driver: AbortHandle,
}

impl Drop for Http1 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(crate) async fn http1(address: SocketAddr) -> Http1 {
    try_http1(address).await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the handle aborts it")]
async fn try_http1(address: SocketAddr) -> std::io::Result<Http1> {
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    Ok(Http1 {
        sender,
        driver: tokio::spawn(connection).abort_handle(),
    })
}

/// HTTP/2 with prior knowledge.
#[expect(clippy::disallowed_methods, reason = "it ends with its sender")]
pub(crate) async fn http2(address: SocketAddr) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "weft.test")
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Reply {
    send(address, request("GET", path).body(empty()).unwrap()).await
}

pub(crate) async fn send(address: SocketAddr, request: Request<Body>) -> Reply {
    try_send(address, request).await.expect("the host answers")
}

/// An answer, or why the connection ended before all of it was there.
async fn try_send(address: SocketAddr, request: Request<Body>) -> std::io::Result<Reply> {
    let answer = async {
        let mut connection = try_http1(address).await?;
        let answer = async {
            let response = connection.sender.send_request(request).await?;
            Reply::try_read(response).await
        };
        answer.await.map_err(std::io::Error::other)
    };
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("no answer in time")
}

/// Bytes of a piece of [`put_until`].
const PIECE_LEN: usize = 100_000;

/// Puts a body that goes on, piece by piece, until `is_over`; gives it when it was answered.
pub(crate) async fn put_until(weft: &Weft, path: &str, is_over: impl Fn() -> bool) -> Vec<u8> {
    let mut connection = http1(weft.http).await;
    let (sender, receiver) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(1);
    let body = futures::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    let body = StreamBody::new(body).boxed_unsync();
    let answer = connection
        .sender
        .send_request(request("PUT", path).body(body).unwrap());
    let pieces = async {
        let mut sent = Vec::new();
        for n in 0.. {
            let text = format!("{n} ");
            let piece: Vec<u8> = text.bytes().cycle().take(PIECE_LEN).collect();
            sent.extend_from_slice(&piece);
            sender.send(Ok(Frame::data(piece.into()))).await.unwrap();
            if is_over() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(sender);
        sent
    };
    let (answer, sent) = tokio::join!(answer, pieces);
    let reply = Reply::try_read(answer.unwrap()).await.unwrap();
    assert_eq!(reply.status, 200, "PUT {path}: {}", reply.text());
    sent
}
