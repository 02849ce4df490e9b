//! A command that asks the controller of a lattice from any machine that reaches its NATS servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use wasmtime_wasi_http::Error;
use weft_lattice::envelope::Failure as CallFailure;
use weft_lattice::rpc::{Candidate, Client, Place, Stamps};
use weft_lattice::stream::Streams;
use weft_lattice::subject::Address;
use weft_lattice::transport::Transport;
use weft_lattice::transport::nats::{NatsTransport, Role};

use super::{Exit, Failure};
use crate::admin::lattice::call;
use crate::mesh::LatticeSettings;
use crate::mesh::group::Reach;
use crate::mesh::http::{HostBody, send};
use crate::mesh::service::{ADDRESS, HOST_NAMESPACE, HOST_TARGET};

/// How long the controller has to say where it is.
const FIND_MAX: Duration = Duration::from_secs(5);

/// What the answer comes by; to be closed when it is read.
pub(super) struct Asked {
    transport: NatsTransport,
    _reach: Reach,
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
    let subject = subjects
        .api_read(HOST_NAMESPACE)
        .map_err(|error| failed(&error))?;
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
        _reach: reach,
    };
    Ok((asked, response))
}

/// Who asks, as records and logs will name them.
fn caller() -> String {
    let user = rustix::process::getuid().as_raw();
    format!("uid:{user} by NATS")
}
