//! Second copies of what is deployed, made again when the host that had one has gone.
//!
//! Owns, on the controller, which host has the second copy of each component. How one is made is in
//! [`super::artifacts`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weft_lattice::artifact::ArtifactDigest;
use weft_lattice::membership::Member;
use weft_lattice::subject::Address;

use super::Mesh;
use crate::digest::Digest;
use crate::reconcile::Progress;

/// Before copies are looked at: hosts that start or stop do so several at a time.
const SETTLE: Duration = Duration::from_secs(2);
/// Until what could not be copied is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Keeps a second copy of each component that is deployed on another host until `stop`.
pub(super) async fn keep(
    mesh: &Mesh,
    mut members: broadcast::Receiver<Member>,
    mut progress: watch::Receiver<Progress>,
    stop: &CancellationToken,
) {
    let mut copies = BTreeMap::<ArtifactDigest, Address>::new();
    let work = async {
        loop {
            sleep(SETTLE).await;
            let wanted = deployed(&progress.borrow_and_update());
            let there = mesh.sources();
            copies.retain(|digest, host| wanted.contains(digest) && there.contains(host));
            let mut alone = 0_u64;
            for digest in wanted {
                if copies.contains_key(&digest) {
                    continue;
                }
                match mesh.copy(digest, &there).await {
                    Ok(Some(host)) => {
                        copies.insert(digest, host);
                    }
                    Ok(None) => alone += 1,
                    Err(reason) => {
                        alone += 1;
                        tracing::warn!(artifact = %digest, reason, "no second host has a component: it is tried again");
                    }
                }
            }
            mesh.single_copies.store(alone, Relaxed);
            let again = async {
                match alone {
                    0 => std::future::pending().await,
                    _ => sleep(AGAIN).await,
                }
            };
            tokio::select! {
                changed = members.recv() => if let Err(broadcast::error::RecvError::Closed) = changed { return },
                changed = progress.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    };
    let _ = stop.run_until_cancelled(work).await;
}

/// The components that records name, those of the revisions before too.
fn deployed(progress: &Progress) -> BTreeSet<ArtifactDigest> {
    let run = progress.desired.actors.values().map(|actor| &actor.component);
    let before = progress
        .desired
        .apps
        .values()
        .filter_map(|app| app.before.as_ref());
    let before = before.flat_map(|before| before.components.values());
    let digests = run
        .chain(before)
        .filter_map(|component| component.parse::<Digest>().ok());
    digests.map(ArtifactDigest::from).collect()
}
