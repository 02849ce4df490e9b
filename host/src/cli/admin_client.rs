//! A client of the admin API: over the data folder's socket, or from afar over the lattice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::request::Builder;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::lattice_args::LatticeArgs;
use super::{Exit, Failure, lattice_client};
use crate::data::admin_socket;
use crate::mesh::LatticeSettings;

/// The longest line that is taken; the host cuts guests' lines far below.
const LINE_LEN_MAX: usize = 1 << 20;
/// Bytes that are sent in one message, where there is nothing longer: NATS servers take 1 MiB unless they are told
/// otherwise, and the rest of the message goes with them.
const PIECE_LEN: usize = 768 << 10;
/// The longest answer that is taken: some hundred bytes for each of 100,000 links.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// How long a host may take for the head of what it is only asked to tell: one that is stopped takes requests all the same.
const TELL_MAX: Duration = Duration::from_secs(15);

/// Which host is asked.
#[derive(Debug, clap::Args)]
pub(super) struct HostArgs {
    /// The data folder of the host.
    #[arg(long, value_name = "DIR", default_value = ".weft", env = "WEFT_DATA")]
    data: PathBuf,
    #[command(flatten)]
    lattice: LatticeArgs,
    /// With --nats: ask as a tool of this namespace. That takes rights for weft.LATTICE.api.read.NAME, and with
    /// api.write.NAME for changes, and reaches nothing else.
    #[arg(long, value_name = "NAME", env = "WEFT_NAMESPACE")]
    namespace: Option<String>,
}

impl HostArgs {
    /// The host that is named by either; `None` if neither is.
    pub(super) fn named(data: Option<&PathBuf>, lattice: &LatticeArgs) -> Option<Self> {
        let is_named = lattice.is_named() || data.is_some();
        is_named.then(|| Self {
            data: data.cloned().unwrap_or_default(),
            lattice: lattice.clone(),
            namespace: None,
        })
    }

    /// Whether a lattice is asked, and not a host on this machine.
    pub(super) fn is_from_afar(&self) -> bool {
        self.lattice.is_named()
    }

    pub(super) fn client(&self) -> Result<AdminClient, Failure> {
        if !self.lattice.is_named() {
            if self.namespace.is_some() {
                let text =
                    "--namespace is for a lattice that is asked from afar: name its NATS server with --nats";
                return Err(Failure::text(Exit::Usage, text));
            }
            return AdminClient::new(&self.data);
        }
        let mut faults = Vec::new();
        let settings = self.lattice.settings(BTreeMap::new(), false, &mut faults);
        match settings.filter(|_| faults.is_empty()) {
            Some(settings) => AdminClient::of(match &self.namespace {
                None => Way::Lattice(Box::new(settings)),
                Some(namespace) => Way::Tool(Box::new(settings), namespace.clone()),
            }),
            None => Err(Failure::text(Exit::Usage, faults.join("\n"))),
        }
    }
}

/// How the host is reached.
enum Way {
    /// By the socket in its data folder.
    Socket(PathBuf),
    /// From afar: the controller of a lattice.
    Lattice(Box<LatticeSettings>),
    /// From afar, with rights for one namespace.
    Tool(Box<LatticeSettings>, String),
}

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub(super) struct AdminClient {
    way: Way,
    runtime: Runtime,
}

impl AdminClient {
    /// A client of the host whose data folder is `data`.
    pub(super) fn new(data: &Path) -> Result<Self, Failure> {
        Self::of(Way::Socket(admin_socket(data)))
    }

    fn of(way: Way) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, &error))?;
        Ok(Self { way, runtime })
    }

    /// What the host answers to a `GET`.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, Bytes::new())
    }

    /// What the host answers to a JSON body.
    pub(super) fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(method, path, body.to_string().into())
    }

    /// Sends bytes as they are; in pieces where messages are short.
    pub(super) fn put(&self, path: &str, bytes: Bytes) -> Result<Value, Failure> {
        let total = bytes.len();
        if !matches!(self.way, Way::Tool(..)) || total <= PIECE_LEN {
            return self.json(Method::PUT, path, bytes);
        }
        let mut answer = Value::Null;
        for at in (0..total).step_by(PIECE_LEN) {
            let end = total.min(at + PIECE_LEN);
            let range = format!("bytes {at}-{}/{total}", end - 1);
            let request = Request::builder().header(CONTENT_RANGE, range);
            answer = self.json_of(request.method(Method::PUT).uri(path), bytes.slice(at..end))?;
        }
        Ok(answer)
    }

    /// Whether something is there.
    pub(super) fn has(&self, path: &str) -> Result<bool, Failure> {
        self.exchange(
            Method::HEAD,
            path,
            Bytes::new(),
            async |response| match response.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                status => Err(Failure::text(Exit::Failed, format!("the host answered {status}"))),
            },
        )
    }

    /// Gives each line of the answer to `each`, as it comes.
    pub(super) fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.exchange(Method::GET, path, Bytes::new(), async |response| {
            if response.status() != StatusCode::OK {
                return Err(refused(response.status(), &whole(response).await?));
            }
            let mut body = response.into_body();
            let mut buffer = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(broke_off)?.into_data() else {
                    continue;
                };
                buffer.extend_from_slice(&data);
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    // An empty one says that the host is still there.
                    if end > 0 {
                        each(&String::from_utf8_lossy(&buffer[..end]))?;
                    }
                    buffer.drain(..=end);
                }
                if buffer.len() > LINE_LEN_MAX {
                    return Err(Failure::text(
                        Exit::Failed,
                        "the host sent a line that is too long",
                    ));
                }
            }
            Ok(())
        })
    }

    fn json(&self, method: Method, path: &str, body: Bytes) -> Result<Value, Failure> {
        self.json_of(Request::builder().method(method).uri(path), body)
    }

    fn json_of(&self, request: Builder, body: Bytes) -> Result<Value, Failure> {
        self.exchange_of(request, body, async |response| {
            let status = response.status();
            let answer = whole(response).await?;
            if status.is_success() {
                Ok(answer)
            } else {
                Err(refused(status, &answer))
            }
        })
    }

    fn exchange<T>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        read: impl AsyncFnOnce(Response<Body>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.exchange_of(Request::builder().method(method).uri(path), body, read)
    }

    fn exchange_of<T>(
        &self,
        request: Builder,
        body: Bytes,
        read: impl AsyncFnOnce(Response<Body>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let request = request
            .header("host", "localhost")
            .body(Full::new(body))
            .map_err(|error| Failure::new(Exit::Usage, &error))?;
        match &self.way {
            Way::Socket(socket) => self.runtime.block_on(over_socket(socket, request, read)),
            Way::Lattice(settings) => self.runtime.block_on(async {
                let (asked, response) = lattice_client::ask(settings, request).await?;
                let read = read(response.map(|body| body.map_err(Into::into).boxed_unsync())).await;
                asked.close().await;
                read
            }),
            Way::Tool(settings, namespace) => self.runtime.block_on(async {
                let (asked, response) = lattice_client::ask_as_tool(settings, namespace, request).await?;
                let read = read(response).await;
                asked.close().await;
                read
            }),
        }
    }
}

async fn over_socket<T>(
    socket: &Path,
    request: Request<Full<Bytes>>,
    read: impl AsyncFnOnce(Response<Body>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
                let socket = socket.display();
                Failure::text(
                    Exit::Unreachable,
                    format!("no host answers on {socket} ({error}); start one with `weft up`, or name its data folder with --data"),
                )
            })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let tell_max = match *request.method() {
        Method::GET | Method::HEAD => TELL_MAX,
        // A change waits for what it needs, such as a component that is compiled.
        _ => Duration::MAX,
    };
    let talk = async {
        let response = tokio::time::timeout(tell_max, sender.send_request(request)).await;
        let response = response.map_err(|_| hangs(socket))?.map_err(broken)?;
        read(response.map(|body| body.map_err(Into::into).boxed_unsync())).await
    };
    let drive = async {
        // The connection's end shows in what `talk` reads.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        result = talk => result,
        never = drive => never,
    }
}

fn hangs(socket: &Path) -> Failure {
    let text = format!(
        "the host on {} does not answer within {} s: is its process stopped, or its disk stuck?",
        socket.display(),
        TELL_MAX.as_secs()
    );
    Failure::text(Exit::Unreachable, text)
}

fn broken(error: hyper::Error) -> Failure {
    Failure::new(Exit::Unreachable, &error)
}

fn broke_off(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    Failure::text(Exit::Unreachable, format!("the host's answer broke off: {error}"))
}

/// The whole answer as JSON.
async fn whole(response: Response<Body>) -> Result<Value, Failure> {
    let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
    let body = body.map_err(broke_off)?;
    let unreadable = |error: serde_json::Error| {
        Failure::text(
            Exit::Failed,
            format!("the host's answer is not JSON ({error}): is it another version of weft?"),
        )
    };
    serde_json::from_slice(&body.to_bytes()).map_err(unreadable)
}

/// What a problem document says.
fn refused(status: StatusCode, problem: &Value) -> Failure {
    let detail = problem["detail"].as_str().unwrap_or("it gives no reason");
    if problem["code"] == "draining" {
        return Failure::text(Exit::Unreachable, detail);
    }
    let mut text = detail.to_owned();
    if let Some(may_have_started) = problem["may_have_started"].as_bool() {
        let code = problem["code"].as_str().unwrap_or_default();
        let started = if may_have_started {
            "it may have run"
        } else {
            "it has not run"
        };
        text = format!("{detail} ({code}; {started})");
    }
    let exit = match status.as_u16() {
        401 | 403 | 408 | 500.. => Exit::Failed,
        _ => Exit::Input,
    };
    Failure::text(exit, text)
}

/// `text` as the value of a query's parameter.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_end_neither_the_parameter_nor_the_line() {
        assert_eq!(escaped("default/shop/catalog"), "default/shop/catalog");
        assert_eq!(escaped("a&b=c d\n#é"), "a%26b%3Dc%20d%0A%23%C3%A9");
    }
}
