//! Rounds of two sides, and what they come to.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmtime::Result;

/// How long one side runs in one round.
pub(crate) const ROUND: Duration = Duration::from_millis(500);

/// What both sides measured, round by round, in one unit.
#[derive(Clone, Default)]
pub(crate) struct Pairs {
    bare: Vec<f64>,
    weft: Vec<f64>,
}

impl Pairs {
    pub(crate) fn add(&mut self, bare: f64, weft: f64) {
        self.bare.push(bare);
        self.weft.push(weft);
    }

    /// Of times. Ratios and differences are of neighbours, as a machine's speed drifts.
    pub(crate) fn report(&self) -> Value {
        let each = || std::iter::zip(&self.bare, &self.weft);
        json!({
            "bare": median(self.bare.clone()),
            "weft": median(self.weft.clone()),
            "ratio": median(each().map(|(bare, weft)| weft / bare).collect()),
            "more": median(each().map(|(bare, weft)| weft - bare).collect()),
        })
    }
}

/// The median of all that `sample` gives within one round.
pub(crate) async fn round(sample: impl AsyncFn() -> Result<Vec<f64>>) -> Result<f64> {
    // What is cold after the other side's round is warm after the first.
    sample().await?;
    let started = Instant::now();
    let mut all = Vec::new();
    while started.elapsed() < ROUND {
        all.extend(sample().await?);
    }
    Ok(median(all))
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "no measurement lasts as long")]
pub(crate) fn us(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}
