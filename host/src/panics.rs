//! Panics of the host itself: none is expected, and none goes by unnoticed.
//!
//! Owns what becomes of one. Each is a line of the log and a count. One in a task of a connection or a call ends that
//! connection or call. One in a part that the host can't do without, and that nothing restarts, ends the host with an
//! exit code, after a drain: it would else go on and serve, deaf or for ever as it is. A guest's trap is no panic.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::LazyLock;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use weft_observability::HostMetrics;

/// Threads that the host can't do without: guests would never be interrupted, or nothing be deployed any more.
const ESSENTIAL_THREADS: &[&str] = &["weft-epoch", "weft-control"];

/// The hook is the process's, and so is what it tells.
static FATAL: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// Takes over the process's panic hook. To be called once telemetry is there, before any part of the host starts.
pub fn watch(metrics: HostMetrics) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        tell(panic);
        let thread = std::thread::current();
        if thread
            .name()
            .is_some_and(|name| ESSENTIAL_THREADS.contains(&name))
        {
            FATAL.cancel();
        }
    }));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        thread = thread.name().unwrap_or_default(),
        place = panic.location().map(ToString::to_string),
        backtrace,
        "panicked, which is a defect of weft: {}",
        panic.payload_as_str().unwrap_or("without a word")
    );
}

/// Runs a task that the host can't do without: if it panics, [`fatal`] returns.
pub async fn essential(what: &'static str, task: impl Future<Output = ()>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!("{what} has panicked: this host can't go on");
        FATAL.cancel();
    }
}

/// Returns once a part has panicked that the host can't do without.
pub async fn fatal() {
    FATAL.cancelled().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, as the hook and what it tells are the process's.
    #[tokio::test]
    #[expect(clippy::panic, reason = "it is what is looked at")]
    async fn only_a_part_that_the_host_needs_ends_it() {
        let metrics = HostMetrics::noop();
        watch(metrics);
        let worker = std::thread::Builder::new().name("weft-http-0".to_owned());
        assert!(worker.spawn(|| panic!("a connection's")).unwrap().join().is_err());
        essential("what ends in peace", async {}).await;
        assert!(fatal().now_or_never().is_none());

        essential("the reconciler", async { panic!("a defect") }).await;
        assert!(fatal().now_or_never().is_some());
    }
}
