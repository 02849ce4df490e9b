//! One invocation in process: the guest `reply` is called with 16 bytes and its instance dropped.
//!
//! Weft adds what an invocation is: admission, identity, memory account, processor-time account, metrics.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use wasmtime::{Result, ensure};

use crate::bare::{Bare, component};
use crate::rounds::{Pairs, ROUND, median};
use crate::weft::{Providers, Target, Weft};

const TEXT: &str = "16 bytes of text";
const FUNCTION: (&str, &str) = ("weft:test/reply@0.1.0", "reply");
const COLD_STARTS: usize = 200;
/// Calls between two looks at the clock.
const BATCH: u32 = 100;

trait Side: Send + Sync + 'static {
    async fn reply(&self) -> Result<String>;
}

impl Side for Bare {
    async fn reply(&self) -> Result<String> {
        self.call((TEXT,)).await
    }
}

impl Side for Target {
    async fn reply(&self) -> Result<String> {
        self.call((TEXT,)).await
    }
}

pub(crate) async fn measure(weft: &Weft, rounds: usize) -> Result<Value> {
    let loaded = weft.load("reply").await?;
    let machine_code = weft.machine_code(loaded.digest);
    let bare = || {
        let component = component(weft.engine.wasmtime(), &machine_code)?;
        Bare::new(&component, FUNCTION, |_| Ok(()))
    };
    let ours = |loaded| {
        let state = weft.state(vec![("reply", loaded)], &[], &Providers::new())?;
        Target::new(&state, "reply", FUNCTION)
    };

    let (bare_side, our_side) = (Arc::new(bare()?), Arc::new(ours(loaded)?));
    let (mut one, mut two) = (Pairs::default(), Pairs::default());
    for _ in 0..rounds {
        one.add(time(1, &bare_side)?, time(1, &our_side)?);
        two.add(time(2, &bare_side)?, time(2, &our_side)?);
    }

    let (mut cold_bare, mut cold_ours) = (Vec::new(), Vec::new());
    for _ in 0..COLD_STARTS {
        let started = Instant::now();
        bare()?.reply().await?;
        cold_bare.push(started.elapsed().as_secs_f64() * 1e6);

        let started = Instant::now();
        ours(weft.load("reply").await?)?.reply().await?;
        cold_ours.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(json!({
        "one_thread_us": one.report(),
        "two_threads_us": two.report(),
        "first_call_from_disk_us": { "bare": median(cold_bare), "weft": median(cold_ours) },
    }))
}

/// Microseconds a call takes on each of so many threads, each with a runtime of its own.
fn time<S: Side>(threads: u32, side: &Arc<S>) -> Result<f64> {
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let side = side.clone();
            std::thread::spawn(move || -> Result<f64> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let started = Instant::now();
                    let mut calls = 0_u32;
                    while started.elapsed() < ROUND {
                        for _ in 0..BATCH {
                            ensure!(side.reply().await? == TEXT, "the guest replied something else");
                        }
                        calls += BATCH;
                    }
                    Ok(f64::from(calls) / started.elapsed().as_secs_f64())
                })
            })
        })
        .collect();
    let mut per_s = 0.0;
    for worker in workers {
        per_s += worker
            .join()
            .map_err(|_| wasmtime::format_err!("a worker panicked"))??;
    }
    Ok(f64::from(threads) * 1e6 / per_s)
}
