//! Many requests at once, held open: what `cargo xtask bench --only density` fills a host with.
//!
//! Over HTTP/2 without TLS, many requests to a connection, so that neither side runs out of sockets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wasmtime::Result;

/// Requests of one connection, below what any server allows.
const STREAMS: usize = 64;
/// Between two connections: 4,000 requests a second. All at once they would queue in the host for longer than an
/// HTTP/2 server waits for the answer to its ping, which comes in behind them.
const PACE: Duration = Duration::from_millis(16);
/// How long the last answer may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Sends `requests` to `url`, `ADDRESS/PATH`, as fast as a host can take them, and counts the answers: those of 200, and
/// the others. None is answered before the last was sent, if the host holds them for long enough.
pub(crate) async fn measure(url: &str, requests: usize) -> Result<Value> {
    let (address, path) = url.split_once('/').unwrap_or((url, ""));
    let address: SocketAddr = address.parse()?;
    let uri = format!("http://{address}/{path}");
    let mut answers = JoinSet::new();
    let mut connections = JoinSet::new();
    let mut left = requests;
    let mut pace = tokio::time::interval(PACE);
    while left > 0 {
        pace.tick().await;
        let sender = connect(address, &mut connections).await?;
        for _ in 0..left.min(STREAMS) {
            answers.spawn(answer(sender.clone(), uri.clone()));
        }
        left = left.saturating_sub(STREAMS);
    }
    let counted = tokio::time::timeout(LIMIT, answers.join_all()).await?;
    let ok = counted.iter().filter(|answered| **answered).count();
    Ok(json!({ "ok": ok, "failed": requests - ok }))
}

async fn connect(address: SocketAddr, connections: &mut JoinSet<()>) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    connections.spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Whether the request is answered 200, with all of its body.
async fn answer(mut sender: SendRequest<Empty<Bytes>>, uri: String) -> bool {
    let answered = async {
        sender.ready().await.ok()?;
        let request = Request::get(uri).body(Empty::new()).ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        response.into_body().collect().await.ok()?;
        Some(status == StatusCode::OK)
    };
    answered.await.unwrap_or(false)
}
