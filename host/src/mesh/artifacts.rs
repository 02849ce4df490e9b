//! Components that come from other hosts, and go to them.
//!
//! Owns whom to ask: some that are near, then the controllers, which have all that is deployed, and then all others, as the
//! controller may have gone and one of them has the second copy.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_lattice::artifact::ArtifactDigest;
use weft_lattice::envelope::Standing;
use weft_lattice::rpc::Place;
use weft_lattice::subject::Address;

use super::Mesh;
use super::group::Neighbour;
use crate::artifact::{Fetch, FetchFailure};
use crate::digest::Digest;

/// Hosts that are asked before the controller: a component that is used is on most of them.
const NEAR_MAX: usize = 3;
/// Hosts that are asked to take a second copy while somebody waits for a push.
const TAKERS_MAX: usize = 8;

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
            let sources = mesh.sources();
            joined.artifacts().fetch(digest.into(), &sources).await?;
            Ok(())
        }
        .boxed()
    }
}

impl Mesh {
    /// The other hosts, in the order in which to ask them for a component.
    pub(super) fn sources(&self) -> Vec<Address> {
        let (members, own) = (self.members(), self.address());
        let others = members
            .iter()
            .filter(|member| Some(member.host.address.as_str()) != own.as_deref())
            .filter(|member| matches!(member.standing, Standing::Alive | Standing::Leaving));
        in_order(others.map(|member| &member.host), &self.place())
    }

    /// Has a second host take a component, so that the loss of one loses nothing. `None` if this host is alone; else
    /// the name of the other.
    ///
    /// # Errors
    /// No other host took it, as text for people.
    pub async fn replicate(&self, digest: Digest) -> Result<Option<String>, String> {
        let mut others = self.sources();
        others.truncate(TAKERS_MAX);
        let taken = self.copy(digest.into(), &others).await?;
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

fn in_order<'h>(hosts: impl Iterator<Item = &'h Neighbour>, place: &Place) -> Vec<Address> {
    let mut hosts: Vec<_> = hosts.collect();
    hosts.sort_by_key(|host| (host.place.region != place.region, host.place.zone != place.zone));
    let (controllers, others): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|host| host.controller);
    let (near, rest) = others.split_at(others.len().min(NEAR_MAX));
    let all = near.iter().chain(&controllers).chain(rest);
    all.map(|host| host.address.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hosts_are_asked_some_near_ones_first_and_controllers_before_the_rest() {
        let host = |name: &str, region: &str| Neighbour {
            name: name.to_owned(),
            address: Address::new(name, 1).unwrap(),
            place: Place {
                region: region.to_owned(),
                zone: String::new(),
            },
            controller: name == "c",
        };
        let hosts = [
            host("c", "us"),
            host("far1", "us"),
            host("a", "eu"),
            host("b", "eu"),
            host("d", "eu"),
            host("e", "eu"),
        ];
        let place = hosts[2].place.clone();
        let order: Vec<_> = in_order(hosts.iter(), &place)
            .iter()
            .map(|address| address.host().to_owned())
            .collect();
        assert_eq!(order, ["a", "b", "d", "c", "e", "far1"]);
    }
}
