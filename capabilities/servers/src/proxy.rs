//! A network between a client and a server that can be cut: nothing passes any more, and nobody is told.

use std::net::Ipv4Addr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A way to a port of this machine. Its connections end when it is dropped.
pub struct Proxy {
    port: u16,
    open: watch::Sender<bool>,
    resets: watch::Sender<()>,
    accepts: AbortHandle,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A way to `port`.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(true);
        let (resets, reset) = watch::channel(());
        let mut tasks = JoinSet::new();
        let accepts = tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                // What was ended before is not this connection's.
                let mut reset = reset.clone();
                reset.mark_unchanged();
                connections.spawn(connect(client, port, is_open.clone(), reset));
            }
        });
        Self {
            port: own,
            open,
            resets,
            accepts,
            _tasks: tasks,
        }
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets nothing pass, without a word: connections stay as they are.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Ends all connections; new ones can be made.
    pub fn reset(&self) {
        self.resets.send_replace(());
    }

    /// Lets everything pass again, what was on its way first.
    pub fn heal(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn connect(
    client: TcpStream,
    port: u16,
    mut is_open: watch::Receiver<bool>,
    mut reset: watch::Receiver<()>,
) {
    // While it is cut, a new connection is made with this end, and goes no further.
    if is_open.wait_for(|open| *open).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    drop(client.set_nodelay(true));
    drop(server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::select! {
        () = pass(client_reads, server_writes, is_open.clone()) => {}
        () = pass(server_reads, client_writes, is_open) => {}
        _ = reset.changed() => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let len = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => 0,
            Ok(len) => len,
        };
        if is_open.wait_for(|open| *open).await.is_err() || len == 0 {
            return;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
