//! Whole lattices under faults, each from one seed, with a checker of what must hold.
//!
//! A scenario returns what it saw, or panics with what is wrong; [`replay`] adds the seed. The same seed gives the same
//! run.

pub mod artifacts;
pub mod calls;
pub mod members;
pub mod streams;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::sim::Faults;

/// Runs `scenario` with `seed` on a thread's own runtime with paused time, and says on a failure how to repeat it.
///
/// # Panics
/// What the scenario checks does not hold.
pub fn replay<F: Future>(name: &str, seed: u64, scenario: impl FnOnce(u64) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can be made");
    let run = AssertUnwindSafe(|| runtime.block_on(scenario(seed)));
    catch_unwind(run).unwrap_or_else(|panic| {
        #[expect(
            clippy::print_stderr,
            reason = "a test's output is where a person looks for the seed"
        )]
        {
            eprintln!("to repeat it: WEFT_SIM_SEED={seed} cargo nextest run -p weft-lattice {name}");
        }
        resume_unwind(panic)
    })
}

/// Chances of a scenario, apart from those of its network.
fn chances(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ 0x5eed)
}

/// From a calm network to one that is worse than any should be.
fn some_faults(rng: &mut StdRng) -> Faults {
    let chance = |rng: &mut StdRng, most: f64| rng.random_range(0.0..1.0_f64).powi(3) * most;
    let shortest = Duration::from_micros(rng.random_range(20..2_000));
    let spread = Duration::from_secs_f64(0.0001 + chance(rng, 3.0));
    Faults {
        loss: chance(rng, 0.3),
        duplication: chance(rng, 0.5),
        delay: shortest..shortest + spread,
        ordered: rng.random_bool(0.5),
    }
}
