//! Components that come from other hosts, and go to them.
//!
//! Owns whom to ask: those that are near first, and at last the controller, which has all that is deployed.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_lattice::artifact::ArtifactDigest;
use weft_lattice::envelope::Standing;
use weft_lattice::subject::Address;

use super::Mesh;
use crate::artifact::{Fetch, FetchFailure};
use crate::digest::Digest;

/// Hosts that are asked before the controller: a component that is used is on most of them.
const NEAR_MAX: usize = 3;

/// Fetches from the other hosts.
pub struct FromOthers(pub Arc<Mesh>);

impl Fetch for FromOthers {
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<(), FetchFailure>> {
        let mesh = self.0.clone();
        async move {
            let joined = mesh
                .joined
                .load_full()
                .ok_or("this host has not joined the lattice yet")?;
            let sources = mesh.sources(NEAR_MAX);
            joined.artifacts().fetch(digest.into(), &sources).await?;
            Ok(())
        }
        .boxed()
    }
}

impl Mesh {
    /// Other hosts that may have a component: at most `near_max` that are near, and the controllers.
    pub(super) fn sources(&self, near_max: usize) -> Vec<Address> {
        let (members, own, place) = (self.members(), self.address(), self.place());
        let others = members
            .iter()
            .filter(|member| Some(member.host.address.as_str()) != own.as_deref())
            .filter(|member| matches!(member.standing, Standing::Alive | Standing::Leaving));
        let mut near: Vec<_> = others.collect();
        near.sort_by_key(|member| {
            let host = &member.host;
            (host.place.region != place.region, host.place.zone != place.zone)
        });
        let controllers = near.iter().filter(|member| member.host.controller);
        let controllers: Vec<_> = controllers.map(|member| member.host.address.clone()).collect();
        let near = near
            .iter()
            .filter(|member| !member.host.controller)
            .take(near_max);
        near.map(|member| member.host.address.clone())
            .chain(controllers)
            .collect()
    }

    /// Has a second host take a component, so that the loss of one loses nothing. `None` if this host is alone; else
    /// the name of the other.
    ///
    /// # Errors
    /// No other host took it, as text for people.
    pub async fn replicate(&self, digest: Digest) -> Result<Option<String>, String> {
        let taken = self.copy(digest.into(), &self.sources(NEAR_MAX)).await?;
        Ok(taken.map(|host| host.host().to_owned()))
    }

    /// Has the first of `others` take a component that can; `None` if there are none.
    pub(super) async fn copy(
        &self,
        digest: ArtifactDigest,
        others: &[Address],
    ) -> Result<Option<Address>, String> {
        let Some(joined) = self.joined.load_full() else {
            return Err("this host has not joined the lattice yet".to_owned());
        };
        let mut refused = Vec::new();
        for other in others {
            match joined.artifacts().replicate(digest, other).await {
                Ok(()) => return Ok(Some(other.clone())),
                Err(error) => refused.push(error.to_string()),
            }
        }
        if refused.is_empty() {
            return Ok(None);
        }
        Err(refused.join("; "))
    }
}
