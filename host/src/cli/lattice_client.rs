//! A command that asks a lattice from any machine that reaches its NATS servers: the controller, with the rights of a host,
//! or whichever host takes it, with rights for one namespace.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use wasmtime_wasi_http::Error;
use weft_lattice::envelope::{Failure as CallFailure, FailureKind, Header, HttpRequest, HttpResponse};
use weft_lattice::rpc::{Candidate, Client, Place, Stamps, Targets};
use weft_lattice::stream::Streams;
use weft_lattice::subject::Address;
use weft_lattice::transport::Transport;
use weft_lattice::transport::nats::{NatsTransport, Role};

use super::admin_client::Body;
use super::{Exit, Failure};
use crate::admin::lattice::call;
use crate::mesh::LatticeSettings;
use crate::mesh::group::Reach;
use crate::mesh::http::{HostBody, send};
use crate::mesh::rest::{PARTS, REST, REST_FUNCTION};
use crate::mesh::service::{ADDRESS, HOST_NAMESPACE, HOST_TARGET};

/// How long the controller has to say where it is.
const FIND_MAX: Duration = Duration::from_secs(5);

/// Bytes of a request, where it is one message.
const ASK_LEN_MAX: usize = 960 << 10;
/// How long the next part of an answer may take: a host waits 10 s for something to send.
const PART_ANSWERS: Duration = Duration::from_secs(30);
/// How often it is looked whether the server has refused.
const REFUSAL_LOOKED_FOR: Duration = Duration::from_millis(50);

/// What the answer comes by; to be closed when it is read.
pub(super) struct Asked {
    transport: NatsTransport,
    _reach: Option<Reach>,
}

impl Asked {
    pub(super) async fn close(self) {
        self.transport.close().await;
    }
}

/// Has the controller answer.
pub(super) async fn ask(
    settings: &LatticeSettings,
    request: Request<Full<Bytes>>,
) -> Result<(Asked, Response<HostBody>), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Unreachable, error);
    // What its inbox begins with, so that rights can be given for it.
    let name = "cli".to_owned();
    let transport = NatsTransport::connect(&settings.nats(&name, Role::Calls))
        .await
        .map_err(|error| failed(&error))?;
    let address = Address::new(&name, u64::from(std::process::id())).map_err(|error| failed(&error))?;
    let shared: Arc<dyn Transport> = Arc::new(transport.clone());
    let subjects = settings.subjects.clone();
    let streams = Streams::start(shared.clone(), subjects.clone(), &address)
        .await
        .map_err(|error| failed(&error))?;
    let stamps = Stamps::starting_at(0);
    let client = Client::new(shared, subjects.clone(), address, Place::default(), stamps, 0);
    let subject = subjects.controller();
    let mut find = call(HOST_TARGET, &caller());
    find.interface = ADDRESS.to_owned();
    find.deadline = tokio::time::Instant::now() + FIND_MAX;
    let lattice = &settings.lattice;
    let found = client.call(&client.at_subject(subject), find).await.map_err(|failure: CallFailure| {
        Failure::text(
            Exit::Unreachable,
            format!("no controller answers in the lattice `{lattice}` ({failure}); start one with `weft host --controller`, or name another lattice with --lattice"),
        )
    })?;
    let address = String::from_utf8_lossy(&found.body).into_owned();
    let address = Address::parse(&address).map_err(|error| failed(&error))?;
    let candidate = Candidate {
        address,
        place: Place::default(),
        revision: 0,
    };
    let targets = client
        .targets(HOST_NAMESPACE, &[candidate], Vec::new())
        .map_err(|error| failed(&error))?;
    let reach = Reach {
        client,
        streams,
        targets,
    };
    let request = request.map(|body| body.map_err(|never| -> Error { match never {} }));
    let (response, _) = send(&reach, call(HOST_TARGET, &caller()), false, request)
        .await
        .map_err(|failure| Failure::text(Exit::Failed, failure.to_string()))?;
    let asked = Asked {
        transport,
        _reach: Some(reach),
    };
    Ok((asked, response))
}

/// Has a host answer, with rights for `namespace` alone: what is sent and what comes are a message each, and there is no
/// other. An answer that is longer, or goes on, is asked for part by part.
pub(super) async fn ask_as_tool(
    settings: &LatticeSettings,
    namespace: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<(Asked, Response<Body>), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Unreachable, error);
    // Whoever has rights for the namespace may read the answers to others who have: they see the same.
    let name = format!("tool_{namespace}");
    let subjects = settings.subjects.clone();
    let writes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let wrong = |error| Failure::text(Exit::Usage, format!("--namespace: {error}"));
    let reads = subjects.api_read(namespace).map_err(wrong)?;
    let subject = match writes {
        true => subjects.api_write(namespace).map_err(wrong)?,
        false => reads.clone(),
    };
    let transport = NatsTransport::connect(&settings.nats(&name, Role::Calls))
        .await
        .map_err(|error| failed(&error))?;
    let address = Address::new("tool", u64::from(std::process::id())).map_err(|error| failed(&error))?;
    let shared: Arc<dyn Transport> = Arc::new(transport.clone());
    let stamps = Stamps::starting_at(0);
    let client = Client::new(shared, subjects, address, Place::default(), stamps, 0);
    request.headers_mut().insert(PARTS, HeaderValue::from_static("1"));
    let target = format!("{namespace}/weft/api");
    let mut asked = call(&target, &caller());
    asked.body = encoded(request).await?;
    let asking = client.at_subject(subject.clone());
    let answered = tokio::select! {
        answered = client.call(&asking, asked) => answered,
        () = refused(&transport) => {
            let text = format!(
                "the NATS server does not let this user publish to `{subject}`: it needs that right{}",
                if writes { " to change something" } else { "" }
            );
            return Err(Failure::text(Exit::Failed, text));
        }
    };
    let answer = answered.map_err(|failure| {
        let exit = match (failure.kind, failure.may_have_started) {
            (FailureKind::Unavailable, false) => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Failure::text(
            exit,
            format!("no answer for the namespace `{namespace}`: {failure}"),
        )
    })?;
    let HttpResponse {
        status,
        headers,
        body,
    } = HttpResponse::decode(&answer.body).map_err(|error| failed(&error))?;
    let parts = Parts {
        asking: client.at_subject(reads),
        client,
        target,
        first: Some(body.unwrap_or_default()),
        rest: rest_of(&headers),
    };
    let parts = stream::try_unfold(parts, |mut parts| async move {
        let part = parts.next().await;
        part.map(|part| part.map(|part| (Frame::data(part), parts)))
    });
    // A box, as what is in the middle of a question can't be moved.
    let body = StreamBody::new(Box::pin(parts)).boxed_unsync();
    let response = Response::builder()
        .status(status)
        .body(body)
        .map_err(|error| failed(&error))?;
    let asked = Asked {
        transport,
        _reach: None,
    };
    Ok((asked, response))
}

/// An answer that comes in parts.
struct Parts {
    client: Client,
    asking: Targets,
    target: String,
    first: Option<Bytes>,
    /// Where the rest is.
    rest: Option<Bytes>,
}

impl Parts {
    async fn next(&mut self) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(rest) = self.rest.take() else {
            return Ok(None);
        };
        let mut asked = call(&self.target, &caller());
        asked.function = REST_FUNCTION.to_owned();
        asked.body = rest;
        asked.deadline = tokio::time::Instant::now() + PART_ANSWERS;
        let answered = self.client.call(&self.asking, asked).await;
        let answer = answered.map_err(|failure| failure.to_string())?;
        let HttpResponse { headers, body, .. } = HttpResponse::decode(&answer.body)?;
        self.rest = rest_of(&headers);
        Ok(Some(body.unwrap_or_default()))
    }
}

fn rest_of(headers: &[Header]) -> Option<Bytes> {
    let rest = headers.iter().find(|(name, _)| name == REST);
    rest.map(|(_, value)| value.clone())
}

/// The request as the arguments of a call.
async fn encoded(request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map_or_else(|never| match never {}, |body| body.to_bytes());
    if body.len() > ASK_LEN_MAX {
        let text = format!(
            "{} bytes don't fit into one message, and rights for one namespace allow no more: at most {ASK_LEN_MAX} do",
            body.len()
        );
        return Err(Failure::text(Exit::Input, text));
    }
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())));
    let request = HttpRequest {
        method: head.method.as_str().to_owned(),
        uri: head.uri.to_string(),
        secure: false,
        headers: headers.collect(),
        body: Some(body),
    };
    let encoded = request.encode();
    encoded.map_err(|error| Failure::new(Exit::Failed, &error))
}

/// Waits until the server has refused something that was sent. It says so to nobody's face: what is not allowed is dropped.
async fn refused(transport: &NatsTransport) {
    while transport.stats().server_errors == 0 {
        tokio::time::sleep(REFUSAL_LOOKED_FOR).await;
    }
}

/// Who asks, as records and logs will name them.
fn caller() -> String {
    let user = rustix::process::getuid().as_raw();
    format!("uid:{user} by NATS")
}
