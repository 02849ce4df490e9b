//! How far the other hosts are, asked of them: heartbeats tell it too, seconds later, and writes wait meanwhile.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::timeout;
use weft_lattice::control::Index;
use weft_lattice::envelope::Standing;

use super::Mover;
use crate::admin::lattice::call;
use crate::mesh::http::{send, whole};
use crate::mesh::service::HOST_TARGET;
use crate::mesh::{Member, Mesh};

/// The longest wait for one host's answer: it is asked again.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

impl Mover {
    /// Whether every host that is there has applied a moment of the control store.
    pub(super) async fn is_applied(&self, index: Index) -> bool {
        let own = self.progress.borrow().applied >= index;
        let Some(mesh) = self.mesh.as_ref().filter(|_| own) else {
            return own;
        };
        if mesh.fault().is_some() {
            // Nobody is seen, which is not to say that nobody is there.
            return false;
        }
        let (address, members) = (mesh.address(), mesh.members());
        let others = members.iter().filter(|member| {
            Some(member.host.address.as_str()) != address.as_deref() && member.standing != Standing::Gone
        });
        let asked = others.map(async |member| {
            member.details.applied >= index.0
                || matches!(timeout(ANSWER_WAIT, applied(mesh, member)).await, Ok(Some(at)) if at >= index.0)
        });
        join_all(asked).await.into_iter().all(|has| has)
    }
}

async fn applied(mesh: &Mesh, member: &Member) -> Option<u64> {
    let reach = mesh.host(&member.host.name.parse().ok()?).reach()?;
    let request = Request::get(format!("/v1/hosts?name={}", member.host.name));
    let request = request
        .header("host", "localhost")
        .body(whole(Bytes::new()))
        .ok()?;
    let asked = send(&reach, call(HOST_TARGET, mesh.name.as_str()), false, request).await;
    let body = asked.ok()?.0.into_body().collect().await.ok()?.to_bytes();
    let answer: Value = serde_json::from_slice(&body).ok()?;
    let host = answer["hosts"].as_array()?.first()?;
    // Another run under the same name is not asked for this one's.
    (host["lattice"]["address"] == member.host.address.as_str()).then(|| host["applied_index"].as_u64())?
}
