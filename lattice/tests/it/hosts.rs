//! Hosts with a small service, on any transport.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::{
    Answer, Call, Candidate, Client, Invocation, Place, Server, Service, Stamps, Targets,
};
use weft_lattice::stream::{Binder, Duplex, Streams};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::{Served, Transport};

/// Answers with what it was sent. `sleep` takes as long as the body says, `pause` a moment, `large` answers with as much as it says,
/// `copy` sends back what comes on the stream.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) executed: AtomicU32,
    /// Calls that began after their caller's deadline, which the body of `stamped` tells.
    pub(crate) late: AtomicU32,
    pub(crate) begin: Option<Instant>,
    pub(crate) bodies: Mutex<BTreeMap<Bytes, u32>>,
}

fn number(body: &[u8]) -> u64 {
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

impl Echo {
    fn enter(&self, body: &Bytes) {
        self.executed.fetch_add(1, Ordering::Relaxed);
        *self.bodies.lock().unwrap().entry(body.clone()).or_default() += 1;
    }
}

async fn copy(duplex: Duplex) -> Result<Bytes, Failure> {
    let Duplex {
        mut reader,
        mut writer,
    } = duplex;
    let failed = |error: weft_lattice::stream::StreamError| {
        Failure::started(FailureKind::Unavailable, error.to_string())
    };
    let mut len = 0;
    while let Some(data) = reader.read().await.map_err(failed)? {
        len += data.len();
        writer.write(data).await.map_err(failed)?;
    }
    writer.finish().await.map_err(failed)?;
    Ok(len.to_string().into())
}

struct Shared(Arc<Echo>);

impl Service for Shared {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        self.0.enter(&invocation.body);
        let body = invocation.body;
        match invocation.function.as_str() {
            "sleep" => async move {
                tokio::time::sleep(Duration::from_millis(number(&body))).await;
                Ok(body)
            }
            .boxed(),
            "pause" => async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(body)
            }
            .boxed(),
            "stamped" => {
                let deadline = Duration::from_millis(number(&body));
                if self.0.begin.is_some_and(|begin| begin.elapsed() > deadline) {
                    self.0.late.fetch_add(1, Ordering::Relaxed);
                }
                async move { Ok(body) }.boxed()
            }
            "large" => async move { Ok(vec![0; usize::try_from(number(&body)).unwrap()].into()) }.boxed(),
            "copy" => copy(
                invocation
                    .stream
                    .expect("a stream comes with it")
                    .accept()
                    .unwrap(),
            )
            .boxed(),
            _ => async move { Ok(body) }.boxed(),
        }
    }

    fn load(&self) -> u32 {
        0
    }
}

pub(crate) struct Host {
    pub(crate) address: Address,
    pub(crate) place: Place,
    pub(crate) client: Client,
    pub(crate) server: Server,
    pub(crate) streams: Streams,
    pub(crate) echo: Arc<Echo>,
    pub(crate) served: (Served, Served),
}

impl Host {
    pub(crate) async fn start(transport: impl Transport + Clone, lattice: &str, name: &str) -> Self {
        Self::start_with(transport, lattice, name, Echo::default()).await
    }

    /// A host of the lattice `one` that is somewhere.
    pub(crate) async fn start_in(transport: impl Transport + Clone, name: &str, place: Place) -> Self {
        let address = Address::new(name, rand::random()).unwrap();
        Self::start_at(transport, "one", address, place, Echo::default()).await
    }

    pub(crate) async fn start_with(
        transport: impl Transport + Clone,
        lattice: &str,
        name: &str,
        echo: Echo,
    ) -> Self {
        let address = Address::new(name, rand::random()).unwrap();
        Self::start_at(transport, lattice, address, Place::default(), echo).await
    }

    pub(crate) async fn start_at(
        transport: impl Transport + Clone,
        lattice: &str,
        address: Address,
        place: Place,
        echo: Echo,
    ) -> Self {
        let subjects = Subjects::new(lattice).unwrap();
        let stamps = Stamps::starting_at(rand::random());
        let shared: Arc<dyn Transport> = Arc::new(transport.clone());
        let answers = subjects.answers(address.as_str()).unwrap();
        transport.batch(answers).await.unwrap();
        let streams = Streams::start(shared.clone(), subjects.clone(), &address)
            .await
            .unwrap();
        let echo = Arc::new(echo);
        let service = Arc::new(Shared(echo.clone()));
        let server = Server::new(address.clone(), stamps, service, Some(streams.clone()));
        let served = (
            server.serve(&transport, &subjects, "default").await.unwrap(),
            server.serve_control(&transport, &subjects).await.unwrap(),
        );
        let client = Client::new(
            shared,
            subjects,
            address.clone(),
            place.clone(),
            stamps,
            rand::random(),
        );
        Self {
            address,
            place,
            client,
            server,
            streams,
            echo,
            served,
        }
    }

    /// These hosts, as this one calls them.
    pub(crate) fn targets(&self, hosts: &[&Host]) -> Targets {
        let candidates: Vec<_> = hosts
            .iter()
            .map(|host| Candidate {
                address: host.address.clone(),
                place: host.place.clone(),
                revision: 1,
            })
            .collect();
        self.client.targets("default", &candidates, vec![(1, 1)]).unwrap()
    }

    /// Calls `host` until it answers: servers tell each other in their own time who serves what.
    pub(crate) async fn until_answered_by(&self, host: &Host) {
        let targets = self.targets(&[host]);
        let mut last = None;
        for _ in 0..600 {
            match self.call(&targets, "echo", "ready", Duration::from_secs(1)).await {
                Ok(_) => return,
                Err(failure) => last = Some(failure),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} does not answer {}: {last:?}", host.address, self.address);
    }

    pub(crate) async fn call(
        &self,
        targets: &Targets,
        function: &str,
        body: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Answer, Failure> {
        self.client
            .call(targets, call(function, body.into(), ttl, None))
            .await
    }
}

pub(crate) fn call(function: &str, body: Bytes, ttl: Duration, stream: Option<Binder>) -> Call {
    Call {
        target: "default/test/echo".to_owned(),
        interface: "test:echo/echo".to_owned(),
        function: function.to_owned(),
        body,
        deadline: Instant::now() + ttl,
        hops: 0,
        trace: None,
        caller: "default/test/caller".to_owned(),
        idempotent: false,
        patient: false,
        stream,
    }
}
