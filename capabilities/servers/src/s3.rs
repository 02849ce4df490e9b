//! A server of S3's protocol, in this process, on a folder.

use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server with one bucket and one key. Ends with its handle.
pub struct S3 {
    port: u16,
    folder: TempDir,
    service: S3Service,
    _accepts: JoinSet<()>,
}

impl S3 {
    /// The bucket that is there.
    pub const BUCKET: &str = "weft";
    /// The id of the key that it takes.
    pub const ID: &str = "the-id";
    /// The key that it takes.
    pub const KEY: &str = "the-key";

    /// Starts one on a free port. It lives on the runtime that this is called on.
    pub async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join(Self::BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(Self::ID, Self::KEY));
        let service = service.build();
        let (port, accepts) = listen(0, service.clone()).await;
        Self {
            port,
            folder,
            service,
            _accepts: accepts,
        }
    }

    /// The same server at another port, for as long as what is returned is there.
    pub async fn also_at(&self, port: u16) -> JoinSet<()> {
        listen(port, self.service.clone()).await.1
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it keeps what it has: a bucket is a folder, and a key a path below it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

async fn listen(port: u16, service: S3Service) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut accepts = JoinSet::new();
    accepts.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            connections.spawn(async move {
                let connection = Builder::new(TokioExecutor::new());
                // A client that left is no failure of the server's.
                connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    (port, accepts)
}
