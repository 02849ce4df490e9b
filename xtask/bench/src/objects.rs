//! A read of an object of 64 MiB on a server of S3's protocol: the guest `bench` reads it as a stream; the yardstick
//! fetches as many bytes from the same server by a bare HTTP client, on a connection that it keeps. As in a host, the provider is
//! opened on another runtime than the guest runs on.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use wasmtime::{Result, ensure};
use weft_compose::Capability;
use weft_servers::S3;

use crate::capabilities::{INTERFACE, link, nanos, open};
use crate::rounds::{Pairs, round, us};
use crate::weft::{Providers, Target, Weft};

const MIB: u32 = 64;
/// The object that the yardstick fetches.
const BARE: &str = "bare";

pub(crate) async fn measure(weft: &Weft, own: &Handle, data: &Path, rounds: usize) -> Result<Value> {
    let folder = data.join("bench");
    std::fs::create_dir_all(&folder)?;
    let server = S3::start();
    let config = [
        ("bucket", S3::BUCKET),
        ("endpoint", &server.url()),
        ("accessKeyId", S3::ID),
        ("secretAccessKey", S3::KEY),
    ];
    let providers = {
        let _own = own.enter();
        Providers::from([open("objects", Capability::BlobStore, "s3", &config, &folder)?])
    };
    let guests = vec![("bench-objects", weft.load("bench-objects").await?)];
    let links = [link("bench-objects", "wasi:blobstore", "objects")?];
    let state = weft.state(guests, &links, &providers)?;
    let target = |name| Target::new(&state, "bench-objects", (INTERFACE, name));
    let filled: u32 = target("fill")?.call((MIB,)).await?;
    ensure!(filled == MIB, "the guest wrote {filled} MiB");

    let bytes = vec![7; (MIB as usize) << 20];
    std::fs::write(server.folder().join(S3::BUCKET).join(BARE), bytes)?;
    let port = weft_servers::free_port();
    let _open = server.without_key_at(port);
    let (read, bare) = (target("read")?, Bare::connect(port).await?);
    let mut pairs = Pairs::default();
    for _ in 0..rounds {
        pairs.add(
            round(async || Ok(vec![us(bare.read().await?) / 1e3])).await?,
            round(async || Ok(vec![us(read.call((MIB,)).await?) / 1e3])).await?,
        );
    }
    for provider in providers.values() {
        provider.close().await;
    }
    Ok(json!({ "s3_read_ms": pairs.report() }))
}

struct Bare {
    sender: Mutex<SendRequest<Empty<Bytes>>>,
    _connection: JoinSet<()>,
}

impl Bare {
    async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // How it ends, the request tells.
            let _ = connection.await;
        });
        Ok(Self {
            sender: Mutex::new(sender),
            _connection: task,
        })
    }

    /// The nanoseconds of one read.
    async fn read(&self) -> Result<u64> {
        let request = http::Request::get(format!("/{}/{BARE}", S3::BUCKET))
            .header("host", "127.0.0.1")
            .body(Empty::new())?;
        let started = Instant::now();
        let mut sender = self.sender.lock().await;
        sender.ready().await?;
        let mut response = sender.send_request(request).await?;
        ensure!(response.status() == 200, "the server said {}", response.status());
        let mut len = 0;
        while let Some(frame) = response.frame().await {
            len += frame?.data_ref().map_or(0, Bytes::len);
        }
        ensure!(len == (MIB as usize) << 20, "{len} bytes came");
        nanos(started)
    }
}
