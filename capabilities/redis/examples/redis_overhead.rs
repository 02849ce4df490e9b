//! What a get and a set cost through the trait, beside the bare client:
//! `cargo run --release --example redis_overhead -p weft-redis`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use redis::AsyncCommands as _;
use tokio::runtime::{Builder, Handle};
use weft_capabilities::{Bucket, KeyValue};
use weft_redis::{RedisKeyValue, RedisOptions};
use weft_servers::Redis;

/// Operations of one turn, one after the other, as one invocation would do them.
const OPERATIONS: usize = 100;
const TURNS: usize = 100;
const ROUNDS: usize = 7;

/// The median time of an operation, and operations a second.
fn figures(mut turns: Vec<Duration>) -> (f64, f64) {
    let all: Duration = turns.iter().sum();
    turns.sort_unstable();
    let each = |time: Duration, turns: usize| time.as_secs_f64() * 1e6 / (OPERATIONS * turns) as f64;
    (each(turns[turns.len() / 2], 1), 1e6 / each(all, turns.len()))
}

/// As in a host: the store is opened on a runtime of many threads, and used on one of a single thread.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = Builder::new_multi_thread().enable_all().build()?;
    let callers = Builder::new_current_thread().enable_all().build()?;
    callers.block_on(measure(own.handle()))
}

#[expect(clippy::print_stdout, reason = "it is what the example is for")]
async fn measure(own: &Handle) -> Result<(), Box<dyn std::error::Error>> {
    let server = Redis::start_with(&["--appendonly", "no"]);
    let client = redis::Client::open(server.url())?;
    let bare = client.get_multiplexed_async_connection().await?;
    let store = {
        let _own = own.enter();
        RedisKeyValue::open(&RedisOptions::new(server.url()))?
    };
    let bucket = Bucket::scoped("default", "shop", "items");
    let keys: Vec<_> = (0..OPERATIONS).map(|n| format!("item-{n:05}")).collect();
    let value = vec![7_u8; 100];
    let mut ratios = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..TURNS {
            let since = Instant::now();
            for key in &keys {
                let _: () = bare.clone().set(key, &value).await?;
            }
            times[0].push(since.elapsed());
            let since = Instant::now();
            for key in &keys {
                store.set(&bucket, key, value.clone().into()).await?;
            }
            times[1].push(since.elapsed());
            let since = Instant::now();
            for key in &keys {
                black_box(bare.clone().get::<_, Vec<u8>>(key).await?);
            }
            times[2].push(since.elapsed());
            let since = Instant::now();
            for key in &keys {
                black_box(store.get(&bucket, key).await?);
            }
            times[3].push(since.elapsed());
        }
        let [bare_set, set, bare_get, get] = times.map(figures);
        // The first round is for warming up.
        if round == 0 {
            continue;
        }
        for (n, name, bare, through) in [(0, "set", bare_set, set), (1, "get", bare_get, get)] {
            let (p50, rate) = (through.0 / bare.0, through.1 / bare.1);
            println!(
                "{name}: p50 {:.1} us bare, {:.1} us through the trait, ratios {p50:.2} and {rate:.2} (rate)",
                bare.0, through.0
            );
            ratios[n].push(p50);
        }
    }
    for (name, mut ratios) in ["set", "get"].into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        println!("{name}: median ratio of p50: {:.2}", ratios[ratios.len() / 2]);
    }
    Ok(())
}
