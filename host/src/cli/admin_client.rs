//! A client of the admin API over the data folder's socket.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::{Exit, Failure};
use crate::data::admin_socket;

/// The longest line that is taken; the host cuts guests' lines far below.
const LINE_LEN_MAX: usize = 1 << 20;

pub(super) struct AdminClient {
    socket: PathBuf,
    runtime: Runtime,
}

impl AdminClient {
    /// A client of the host whose data folder is `data`.
    pub(super) fn new(data: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, &error))?;
        Ok(Self {
            socket: admin_socket(data),
            runtime,
        })
    }

    /// Gives each line of the answer to `each`, as it comes.
    pub(super) fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
                let socket = self.socket.display();
                Failure::text(
                    Exit::Unreachable,
                    format!("no host answers on {socket} ({error}); start one with `weft up`, or name its data folder with --data"),
                )
            })?;
            let failed = |error: hyper::Error| Failure::new(Exit::Unreachable, &error);
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
            let request = Request::get(path)
                .header("host", "localhost")
                .body(Empty::<Bytes>::new())
                .map_err(|error| Failure::new(Exit::Usage, &error))?;
            let talk = async {
                let response = sender.send_request(request).await.map_err(failed)?;
                let status = response.status();
                if status != StatusCode::OK {
                    return Err(Failure::text(Exit::Failed, format!("the host answered {status}")));
                }
                let mut body = response.into_body();
                let mut buffer = Vec::new();
                while let Some(frame) = body.frame().await {
                    let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
                    buffer.extend_from_slice(&data);
                    while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                        each(&String::from_utf8_lossy(&buffer[..end]))?;
                        buffer.drain(..=end);
                    }
                    if buffer.len() > LINE_LEN_MAX {
                        return Err(Failure::text(Exit::Failed, "the host sent a line that is too long"));
                    }
                }
                Ok(())
            };
            let drive = async {
                // The connection's end shows in what `talk` reads.
                let _ = connection.await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                result = talk => result,
                () = drive => Ok(()),
            }
        })
    }
}
