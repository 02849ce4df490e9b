//! Changes of keys of a store that another host has: at most once.
//!
//! Owns the task that asks for them, as long as somebody wants them. An answer that is lost is not asked for again, and
//! whatever fails ends the watch: who wants more begins anew.

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_capabilities::key_value::watch::Watcher;
use weft_capabilities::{Change, KeyValueError};

use crate::cbor::encode;
use crate::remote::{Function, NoAnswer, Remote, Run};
use crate::shape::Batch;
use crate::{NEXT_MARGIN, NEXT_WAIT, WATCH};

/// A watch that the run of a provider keeps. Dropped, it ends there too.
pub(crate) struct Watching {
    pub(crate) remote: Remote,
    pub(crate) run: Run,
    pub(crate) id: Bytes,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.remote.end(self.run.clone(), WATCH, "end", self.id.clone());
    }
}

impl Watching {
    /// Hands on what it is told, until nobody wants more or it ends.
    pub(crate) async fn hand_on(self, watcher: Watcher, stop: CancellationToken) {
        let mut lost = 0;
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return,
                told = self.next(lost) => told,
            };
            let Ok(Ok(told)) = told else { return };
            lost += told.lost;
            watcher.count_lost(told.lost);
            for change in told.changes {
                if !watcher.offer(Change::once(change.key, change.value)) {
                    return;
                }
            }
        }
    }

    async fn next(&self, lost: u64) -> Result<Result<Batch, KeyValueError>, NoAnswer> {
        let function = Function {
            interface: WATCH,
            name: "next",
            deadline: Instant::now() + NEXT_WAIT + NEXT_MARGIN,
            reads: false,
            args: encode(&(&self.id, lost)).into(),
        };
        let (told,) = self.remote.call(&self.run, function).await?;
        Ok(told)
    }
}
