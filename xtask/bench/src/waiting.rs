//! What an instance in flight takes in bare wasmtime: the guest `callee`, which waits, in thousands of stores at once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use wasmtime::error::Context as _;
use wasmtime::{Result, ensure};

use crate::bare::{Bare, component};
use crate::calls::refuse;
use crate::weft::Weft;

const GUEST: &str = "callee";
const INTERFACE: &str = "test:call/echo";
/// How long the guests wait: they are dropped before.
const WAIT: Duration = Duration::from_secs(600);
/// Started one after the other, each is at its wait after its first poll.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) async fn measure(weft: &Weft, instances: usize) -> Result<Value> {
    let loaded = weft.load(GUEST).await?;
    let component = component(weft.engine.wasmtime(), &weft.machine_code(loaded.digest))?;
    let callee = Arc::new(Bare::new(&component, (INTERFACE, "wait"), refuse)?);
    callee.call::<_, u32>((1_u32,)).await?;
    let before = resident_kib()?;
    let mut waiting = JoinSet::new();
    for _ in 0..instances {
        let callee = callee.clone();
        let millis = u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX);
        waiting.spawn(async move { callee.call::<_, u32>((millis,)).await });
    }
    tokio::time::sleep(SETTLE).await;
    let pool = weft.engine.wasmtime().pooling_allocator_metrics();
    let live = pool.map_or(0, |pool| pool.component_instances());
    ensure!(
        live == instances as u64,
        "{live} of {instances} instances are live"
    );
    let resident = resident_kib()? - before;
    waiting.shutdown().await;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    Ok(json!({ "live": live, "kib_each": resident / live as f64 }))
}

/// What this process has in memory.
fn resident_kib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.context("the kernel tells no resident memory")
}
