//! Listeners and connections.
//!
//! Owns the accept loops and each connection's task. Nothing in an accept loop waits for anything but the next
//! client: a connection over the bound is answered 503 on its own task and closed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::forwarded::{Peer, TrustedProxies};
use super::handler::Handler;
use super::io::TimedIo;
use super::streams::{Streams, until_stalled};
use super::tls::TlsAcceptor;
use super::workers::Workers;
use crate::panics;

/// Streams of one HTTP/2 connection that are open at once. The default of most servers.
const H2_STREAMS_MAX: u32 = 250;
/// Bytes of the headers of one HTTP/2 request, as counted by RFC 9113.
const H2_HEADER_LIST_MAX: u32 = 64 << 10;
/// How often a silent HTTP/2 client is asked whether it is there, and how long it may take to answer.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// After an error of `accept` that does not go away by itself, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the answer to a connection over the bound may take.
const REFUSAL_MAX: Duration = Duration::from_secs(1);

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
retry-after: 1\r\nconnection: close\r\ncontent-length: 92\r\n\r\n\
{\"status\":503,\"code\":\"connections\",\"detail\":\"this host has as many connections as it takes\"}";

/// What the accept loops of a host share.
pub struct Ingress {
    handler: Arc<Handler>,
    proxies: TrustedProxies,
    builder: Builder<Tasks>,
    workers: Arc<Workers>,
    tasks: TaskTracker,
    /// Cancelled to stop accepting and to end idle connections.
    drain: CancellationToken,
    /// Cancelled to end all connections.
    abort: CancellationToken,
    connections: AtomicU32,
}

/// Runs HTTP/2's streams as tasks of the host.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(until_stalled(future));
    }
}

impl Ingress {
    /// An ingress without listeners.
    pub fn new(
        handler: Arc<Handler>,
        proxies: TrustedProxies,
        workers: Arc<Workers>,
        tasks: TaskTracker,
        drain: CancellationToken,
        abort: CancellationToken,
    ) -> Arc<Self> {
        let mut builder = Builder::new(Tasks(tasks.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(handler.limits.head_timeout)
            .max_buf_size(handler.limits.head_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(H2_HEADER_LIST_MAX)
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT);
        Arc::new(Self {
            handler,
            proxies,
            builder,
            workers,
            tasks,
            drain,
            abort,
            connections: AtomicU32::new(0),
        })
    }

    /// Accepts on `listener` until the host drains.
    pub fn serve(self: &Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let ingress = self.clone();
        let accept = async move {
            loop {
                let accepted = tokio::select! {
                    () = ingress.drain.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, peer)) => ingress.accept(stream, peer, tls.clone()),
                    Err(error) if is_the_clients(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        self.tasks.spawn(panics::essential("a listener", accept));
    }

    /// Connections that are open now.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    fn accept(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        let Some(open) = Open::enter(self) else {
            self.handler.metrics.connection_refused();
            // Over TLS there is no answer before the handshake, which is what is to be saved.
            if tls.is_none() {
                self.tasks.spawn(refuse(stream));
            }
            return;
        };
        // From here on the stream is watched by the thread that serves it.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%peer, %error, "a connection can't be handed over"),
        };
        let ingress = self.clone();
        self.workers.spawn(&self.tasks, move || async move {
            let _open = open;
            let Ok(stream) = TcpStream::from_std(stream) else {
                return;
            };
            let aborted = ingress.abort.clone();
            tokio::select! {
                () = aborted.cancelled() => {}
                () = ingress.connection(stream, peer, tls) => {}
            }
        });
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        // Without it a small answer may wait 40 ms for the client's acknowledgement.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let Some(tls) = tls else {
            return self.http(stream, peer, false).await;
        };
        match tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.http(stream, peer, true).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    async fn http<S>(self: &Arc<Self>, stream: S, address: SocketAddr, secure: bool)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limits = &self.handler.limits;
        let streams: Arc<Streams> = Arc::default();
        let io = TimedIo::new(stream, limits.head_timeout, limits.write_stall);
        let io = TokioIo::new(io.with_streams(streams.clone()));
        let scheme = if secure { "https" } else { "http" };
        let peer = Arc::new(Peer::new(address.ip(), scheme, &self.proxies));
        let handler = &self.handler;
        let service = service_fn(|request: Request<Incoming>| {
            let stream = streams.open(request.version());
            let answer = handler.clone().handle(peer.clone(), secure, request);
            async move { Ok::<_, Infallible>(answer.await?.map(|body| body.of_stream(stream))) }
        });
        let connection = self.builder.serve_connection(io, service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = streams.idle(limits.head_timeout, limits.body_rate_min) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    // It takes neither the word of farewell nor what is left of its streams.
                    () = streams.idle(limits.write_stall, limits.body_rate_min) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, error = error.to_string(), "a connection ended early");
        }
    }
}

/// Errors of a client that left before it was accepted, which say nothing about this host.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn refuse(mut stream: TcpStream) {
    let _ = tokio::time::timeout(REFUSAL_MAX, async {
        stream.write_all(REFUSAL).await?;
        stream.shutdown().await
    })
    .await;
}

/// One connection among the open ones.
struct Open(Arc<Ingress>);

impl Open {
    fn enter(ingress: &Arc<Ingress>) -> Option<Self> {
        let before = ingress.connections.fetch_add(1, Ordering::Relaxed);
        let open = Self(ingress.clone());
        (before < ingress.handler.limits.connections).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Response;
    use tokio::io::{AsyncReadExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::super::body::ResponseBody;
    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    /// `GET http://a/`, each field by its number in HPACK's table.
    const GET: [u8; 6] = [0x82, 0x84, 0x86, 0x41, 1, b'a'];

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let head = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        [&head[..], payload].concat()
    }

    /// The next frame of a kind: its stream.
    async fn next(connection: &mut DuplexStream, wanted: u8) -> u8 {
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.unwrap();
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            connection.read_exact(&mut vec![0; len as usize]).await.unwrap();
            if head[3] == wanted {
                return head[8];
            }
        }
    }

    /// A client that answered pings and gave its streams no window held an instance for each, for as long as a response may
    /// take; five connections took all the places of an actor.
    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_takes_nothing_is_reset_and_others_of_its_connection_go_on() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let tasks = TaskTracker::new();
        let service = service_fn(|_: Request<Incoming>| async {
            let body = ResponseBody::full(Bytes::from_static(&[b'x'; 100]));
            Ok::<_, Infallible>(Response::new(body))
        });
        let builder = Builder::new(Tasks(tasks.clone()));
        tasks.spawn(async move { drop(builder.serve_connection(TokioIo::new(near), service).await) });
        let started = Instant::now();
        let opening = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            // No window for any stream.
            frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
            frame(HEADERS, 5, 1, &GET),
            frame(HEADERS, 5, 3, &GET),
        ];
        far.write_all(&opening.concat()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        far.write_all(&frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 100]))
            .await
            .unwrap();
        assert_eq!(next(&mut far, DATA).await, 3);
        assert_eq!(next(&mut far, RESET).await, 1);
        let lasted = started.elapsed();
        assert!(
            (Duration::from_secs(60)..Duration::from_secs(65)).contains(&lasted),
            "{lasted:?}"
        );
        let more = [
            frame(HEADERS, 5, 5, &GET),
            frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 100]),
        ];
        far.write_all(&more.concat()).await.unwrap();
        assert_eq!(next(&mut far, DATA).await, 5);
        drop(far);
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_its_streams_have_ended_and_what_they_left_is_taken() {
        const SECOND: Duration = Duration::from_secs(1);
        let streams: Arc<Streams> = Arc::default();
        let started = Instant::now();
        let client = async {
            let stream = streams.open(http::Version::HTTP_2);
            tokio::time::sleep(5 * SECOND).await;
            drop(stream);
            // A slow client is not an idle one.
            for _ in 0..10 {
                tokio::time::sleep(SECOND / 2).await;
                streams.wrote(500);
            }
        };
        tokio::join!(client, streams.idle(SECOND, 240));
        let lasted = started.elapsed();
        assert!((10 * SECOND..13 * SECOND).contains(&lasted), "{lasted:?}");
        let old: Arc<Streams> = Arc::default();
        assert!(old.open(http::Version::HTTP_11).is_none());
        let told = tokio::time::timeout(60 * SECOND, old.idle(SECOND, 240)).await;
        assert!(told.is_err(), "hyper ends what is idle over HTTP/1.1");
    }

    #[test]
    fn the_refusal_announces_its_own_length() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{} bytes",
            body.len()
        );
    }
}
