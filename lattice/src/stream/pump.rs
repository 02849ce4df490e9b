//! The two tasks of a host's streams: one hands out what comes, one sends what needs no order.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::Shared;
use crate::envelope::Frame;
use crate::subject::Subject;
use crate::transport::{Subscription, Transport};

/// How often streams are looked at, for signs of life.
const LOOK: Duration = Duration::from_secs(1);

/// Hands each frame to its stream, which never waits: what a stream may hold is bounded by its credit.
pub(super) async fn receive(shared: Arc<Shared>, mut frames: Subscription) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // In order, so that a run that is repeated by its seed is the same.
            biased;
            frame = frames.next() => {
                let Some(frame) = frame else { return };
                hand_out(&shared, &frame);
            }
            _ = look.tick() => {
                let now = Instant::now();
                shared.ends().iter().for_each(|end| end.look(now));
            }
        }
    }
}

fn hand_out(shared: &Shared, frame: &Bytes) {
    let Ok(frame) = Frame::decode(frame) else {
        shared.strays.fetch_add(1, Relaxed);
        return;
    };
    // Not held while the stream takes it over.
    let end = shared.table().get(&(frame.stream, frame.side.other())).cloned();
    match end {
        Some(end) => end.arrived(frame.number, frame.kind),
        None => {
            shared.strays.fetch_add(1, Relaxed);
        }
    }
}

pub(super) async fn send(transport: Arc<dyn Transport>, mut signs: mpsc::Receiver<(Subject, Bytes)>) {
    while let Some((subject, frame)) = signs.recv().await {
        // One that is not sent is said again, or shows by silence.
        let _ = transport.publish(&subject, frame).await;
    }
}
