//! What a client does beside its calls: cancels, and asking silent hosts whether they live.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::client::Shared;
use super::peer::Peer;
use crate::envelope::{Control, ControlReply, InvocationId};
use crate::transport::TransportError;

/// How often hosts are looked at. A host that stops is asked at the third look, and passed over three later: within a
/// second.
const LOOK: Duration = Duration::from_millis(100);

/// Calls wait at a host, and nothing was heard of it for so long: it is asked whether it lives.
const QUIET_MAX_MS: u64 = 250;

/// How long a host has for the answer, which no guest has a part in.
const ANSWER_WAIT: Duration = Duration::from_millis(350);

/// A host that is passed over is asked so often whether it is back.
const BACK_EACH_MS: u64 = 1_000;

/// Questions and cancels that are on their way at once.
const UNDER_WAY_MAX: usize = 1_024;

pub(super) async fn run(shared: Arc<Shared>, mut cancels: mpsc::Receiver<(Arc<Peer>, InvocationId)>) {
    let mut under_way = FuturesUnordered::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let room = under_way.len() < UNDER_WAY_MAX;
        tokio::select! {
            // In order, so that a run that is repeated by its seed is the same.
            biased;
            Some(()) = under_way.next() => {}
            cancel = cancels.recv(), if room => {
                let Some((peer, id)) = cancel else { return };
                shared.counters.cancels.fetch_add(1, Relaxed);
                under_way.push(ask(shared.clone(), peer, Some(id)));
            }
            _ = look.tick() => {
                let now = shared.stamps.now_ms();
                let peers = shared.peers().into_iter().filter(|peer| peer.is_to_be_asked(now));
                for peer in peers.take(UNDER_WAY_MAX.saturating_sub(under_way.len())) {
                    under_way.push(ask(shared.clone(), peer, None));
                }
            }
        }
    }
}

async fn ask(shared: Arc<Shared>, peer: Arc<Peer>, cancel: Option<InvocationId>) {
    let Some(control) = &peer.control else { return };
    let question = Control { cancel }.encode();
    let answer = shared.transport.request(control, question, ANSWER_WAIT).await;
    match answer {
        Ok(answer) => {
            if let Ok(answer) = ControlReply::decode(&answer) {
                peer.heard(answer.load, answer.leaving, shared.stamps.now_ms());
            }
        }
        Err(TransportError::Timeout { .. } | TransportError::NoResponders(_)) => {
            if cancel.is_none() && peer.eject() {
                shared.counters.ejected.fetch_add(1, Relaxed);
            }
        }
        // That says nothing about the peer.
        Err(_) => {}
    }
}

impl Peer {
    /// Whether to ask it now; that is noted.
    fn is_to_be_asked(&self, now_ms: u64) -> bool {
        if self.control.is_none() {
            return false;
        }
        let since = now_ms.saturating_sub(self.asked_at(now_ms));
        if self.is_ejected() {
            return since >= BACK_EACH_MS && self.note_asked(now_ms);
        }
        let quiet = self.quiet_ms(now_ms).is_some_and(|quiet| quiet >= QUIET_MAX_MS);
        quiet && since >= QUIET_MAX_MS && self.note_asked(now_ms)
    }
}
