//! What a get and a set cost through the trait, beside the bare client asking JetStream the same:
//! `cargo run --release --example nats_overhead -p weft-nats`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use weft_capabilities::{Bucket, KeyValue};
use weft_nats::{BucketOptions, NatsKeyValue, NatsOptions};
use weft_servers::Nats;

/// Operations of one turn, one after the other, as one invocation would do them.
const OPERATIONS: usize = 100;
const TURNS: usize = 50;
const ROUNDS: usize = 7;

/// The median time of an operation, and operations a second.
fn figures(mut turns: Vec<Duration>) -> (f64, f64) {
    let all: Duration = turns.iter().sum();
    turns.sort_unstable();
    let each = |time: Duration, turns: usize| time.as_secs_f64() * 1e6 / (OPERATIONS * turns) as f64;
    (each(turns[turns.len() / 2], 1), 1e6 / each(all, turns.len()))
}

#[expect(clippy::print_stdout, reason = "it is what the example is for")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Nats::start_with_jetstream("");
    let bare = async_nats::connect(server.url()).await?;
    let store = NatsKeyValue::open(&NatsOptions::new(server.url()), BucketOptions::default())?;
    let bucket = Bucket::scoped("default", "shop", "items");
    let keys: Vec<_> = (0..OPERATIONS).map(|n| format!("item-{n:05}")).collect();
    let value = vec![7_u8; 100];
    store.set(&bucket, "first", value.clone().into()).await?;
    let mut ratios = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..TURNS {
            let since = Instant::now();
            for key in &keys {
                let subject = format!("$KV.weft.bare.{key}");
                black_box(bare.request(subject, value.clone().into()).await?);
            }
            times[0].push(since.elapsed());
            let since = Instant::now();
            for key in &keys {
                store.set(&bucket, key, value.clone().into()).await?;
            }
            times[1].push(since.elapsed());
            let since = Instant::now();
            for key in &keys {
                let subject = format!("$JS.API.DIRECT.GET.KV_weft.$KV.weft.bare.{key}");
                black_box(bare.request(subject, "".into()).await?);
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
    // What a delete and a page cost, by how many keys there are.
    for len in [1_000, 10_000, 50_000] {
        let bucket = Bucket::scoped("default", "shop", &len.to_string());
        for from in (0..len).step_by(1_000) {
            let entries = (from..from + 1_000).map(|n| (format!("item-{n:06}"), value.clone().into()));
            store.set_many(&bucket, entries.collect()).await?;
        }
        let since = Instant::now();
        black_box(store.list_keys(&bucket, None, 1_000).await?);
        let page = since.elapsed();
        let since = Instant::now();
        for n in 0..100 {
            store.delete(&bucket, &format!("item-{n:06}")).await?;
        }
        println!(
            "{len} keys: a page {page:.1?}, a delete {:.1?}",
            since.elapsed() / 100
        );
    }
    Ok(())
}
