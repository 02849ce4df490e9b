//! Listeners and connections of the monitor and the admin API.
//!
//! Owns their bounds in number and time. A server goes on while the host drains, so that the drain can be watched, and
//! ends when all else has.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::access::Sender;
use crate::ingress::io::TimedIo;
use crate::panics;
use crate::shutdown::Shutdown;

/// Connections of one server: operators, probes and scrapers are few, and what follows the log keeps one each.
const CONNECTIONS_MAX: usize = 64;
/// From the first byte to the last of a request's head, and how long an idle connection is kept.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD_LEN_MAX: usize = 64 << 10;
/// How long a client may leave what it is sent unread.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// How long an answer may go on once the server ends; a host waits twice as long for all servers.
const END_MAX: Duration = Duration::from_secs(1);
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

type Stream = Either<TcpStream, UnixStream>;

impl Listener {
    /// The next client, and who it is if the kernel says so.
    async fn accept(&self) -> io::Result<(Stream, Option<Sender>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A client that has gone already shows when it is read from.
                let _ = stream.set_nodelay(true);
                Ok((Either::Left(stream), None))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let sender = Sender::peer(stream.peer_cred()?);
                Ok((Either::Right(stream), Some(sender)))
            }
        }
    }
}

/// Serves `router` until the host ends.
pub(super) fn serve(listener: Listener, router: Router, shutdown: &Shutdown) {
    let (servers, end) = (shutdown.servers.clone(), shutdown.end.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async move {
        loop {
            let accepted = tokio::select! {
                () = end.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, sender)) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let router = router.clone().layer(Extension(sender));
                        servers.spawn(connection(stream, router, end.clone(), place));
                    }
                    Err(_) => refuse(&stream),
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection of an operator");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown
        .servers
        .spawn(panics::essential("a listener for operators", accept));
}

async fn connection(stream: Stream, router: Router, end: CancellationToken, _place: OwnedSemaphorePermit) {
    let io = TokioIo::new(TimedIo::new(stream, HEAD_MAX, WRITE_STALL_MAX));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .max_buf_size(HEAD_LEN_MAX)
            .serve_connection(io, TowerToHyperService::new(router))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = end.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(END_MAX, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of an operator ended early");
    }
}

/// As far as it fits into the socket's buffer: the accept loop waits for no client.
fn refuse(stream: &Stream) {
    let _ = match stream {
        Either::Left(stream) => stream.try_write(REFUSAL),
        Either::Right(stream) => stream.try_write(REFUSAL),
    };
}
