//! The copy of the control store on a host that is no controller.
//!
//! Owns the file that the copy is kept in, so that the host serves what it served before when it starts without the
//! others, and the calls that keep it up to date.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_lattice::control::{Replica, replica};
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::Call;

use super::Mesh;
use super::service::{HOST_TARGET, RECORDS};

/// Changes that come close together are written once.
const WRITE_AFTER: Duration = Duration::from_millis(500);

/// The copy that was kept in `path`; an empty one if there is none or it can't be read, as it is only a copy.
pub fn kept(path: &Path) -> Replica {
    match std::fs::read(path) {
        Ok(bytes) => Replica::from_bytes(&bytes.into()).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the copy of the records can't be read: it is made anew");
            Replica::default()
        }),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "the copy of the records can't be read: it is made anew");
            }
            Replica::default()
        }
    }
}

/// Keeps `copy` up to date, and the file at `path`, until `stop`.
pub async fn follow(mesh: Arc<Mesh>, copy: Replica, path: PathBuf, stop: CancellationToken) {
    let changed = Notify::new();
    let write = async {
        loop {
            changed.notified().await;
            tokio::time::sleep(WRITE_AFTER).await;
            write(&copy, &path).await;
        }
    };
    let call = |body: Bytes, wait: Duration| call(mesh.clone(), body, wait).boxed();
    let mut told = String::new();
    let failed = |error: &str| {
        // Once for each reason, and not each second.
        if told != error {
            tracing::warn!(
                error,
                "the records can't be brought up to date: this host goes on with those it has"
            );
            error.clone_into(&mut told);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = replica::follow(&copy, call, || changed.notify_one(), failed) => {}
        () = write => {}
    }
}

async fn call(mesh: Arc<Mesh>, body: Bytes, wait: Duration) -> Result<Bytes, Failure> {
    let unknown = || Failure::not_started(FailureKind::Unavailable, "no controller is known");
    let reach = mesh
        .controller()
        .and_then(|group| group.reach())
        .ok_or_else(unknown)?;
    let call = Call {
        target: HOST_TARGET.to_owned(),
        interface: RECORDS.to_owned(),
        function: "follow".to_owned(),
        body,
        deadline: tokio::time::Instant::now() + wait,
        hops: 0,
        trace: None,
        caller: mesh.name.to_string(),
        idempotent: true,
        patient: true,
        stream: None,
    };
    let answer = reach.client.call(&reach.targets, call).await?;
    Ok(answer.body)
}

async fn write(copy: &Replica, path: &Path) {
    let (bytes, to) = (copy.to_bytes(), path.to_owned());
    let written = tokio::task::spawn_blocking(move || crate::artifact::write_whole(&to, &bytes)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(path = %path.display(), %error, "the copy of the records can't be written");
    }
}
