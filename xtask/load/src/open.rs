//! A constant rate of arrival.
//!
//! Owns the clock of arrivals. A latency counts from when a request should have been sent, so that a server that stalls
//! is charged for those who would have come meanwhile; connections are kept, and their number is bounded.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Uri;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Client, full, request};

/// No answer of the soak's paths takes longer, unless the host hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The last of a wait is spun through, where a flow is slow enough to have a thread's time: timers have steps of 1 ms.
const TIMER_STEP: Duration = Duration::from_millis(1);
/// Up to this rate.
const EXACT_PER_S_MAX: u64 = 200;

pub(crate) struct Flow {
    pub(crate) address: SocketAddr,
    pub(crate) path: Uri,
    pub(crate) rate_per_s: u64,
    pub(crate) duration: Duration,
    pub(crate) connections: usize,
}

/// What became of the requests: microseconds by status, and how many got no answer.
#[derive(Default)]
struct Ends {
    by_status: BTreeMap<u16, Vec<u32>>,
    unanswered: u64,
}

pub(crate) async fn run(flow: Flow) -> Value {
    let flow = Arc::new(flow);
    let (next, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Ends::default())));
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..flow.connections {
        connections.spawn(connection(flow.clone(), started, next.clone(), ends.clone()));
    }
    while connections.join_next().await.is_some() {}
    let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
    let unanswered = ends.unanswered;
    let statuses = ends
        .by_status
        .iter_mut()
        .map(|(status, micros)| (status.to_string(), told(micros)));
    json!({
        "seconds": flow.duration.as_secs(),
        "statuses": statuses.collect::<serde_json::Map<_, _>>(),
        "unanswered": unanswered,
    })
}

/// One connection: takes the next arrival, waits for its time, sends.
async fn connection(flow: Arc<Flow>, started: Instant, next: Arc<AtomicU64>, ends: Arc<Mutex<Ends>>) {
    let arrivals = flow.rate_per_s * flow.duration.as_secs();
    let mut client = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= arrivals {
            return;
        }
        let due = started + Duration::from_secs(1).mul_f64(number as f64 / flow.rate_per_s as f64);
        wait_until(due, flow.rate_per_s <= EXACT_PER_S_MAX).await;
        let answer = async {
            if client.is_none() {
                client = Client::connect(flow.address).await.ok();
            }
            let asked = client
                .as_mut()?
                .ask(request("GET", flow.path.path_and_query()?.as_str(), full("")));
            asked.await.ok()
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.ok().flatten();
        let micros = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some((status, _)) => ends.by_status.entry(status).or_default().push(micros),
            None => {
                ends.unanswered += 1;
                client = None;
            }
        }
    }
}

async fn wait_until(due: Instant, exact: bool) {
    if !exact {
        return tokio::time::sleep_until(due.into()).await;
    }
    if let Some(early) = due.checked_sub(TIMER_STEP) {
        tokio::time::sleep_until(early.into()).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

fn told(micros: &mut [u32]) -> Value {
    micros.sort_unstable();
    let at = |share: f64| {
        let rank = (micros.len() as f64 * share).ceil() as usize;
        micros.get(rank.max(1) - 1).copied().unwrap_or_default()
    };
    json!({ "count": micros.len(), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_least_that_so_many_do_not_exceed() {
        let mut micros: Vec<u32> = (1..=1_000).rev().collect();
        let told = told(&mut micros);
        assert_eq!(told["p50_us"], 500);
        assert_eq!(told["p99_us"], 990);
        assert_eq!(told["p999_us"], 999);
        assert_eq!(told["max_us"], 1_000);
    }
}
