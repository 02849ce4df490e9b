//! What a `SELECT 1` costs through the trait, beside the bare client with a prepared statement:
//! `cargo run --release --example postgres_overhead -p weft-postgres`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_postgres::NoTls;
use weft_capabilities::sql::Sql;
use weft_postgres::{PostgresOptions, PostgresSql};
use weft_servers::Postgres;

/// Statements of one turn, one after the other, as one invocation would run them.
const OPERATIONS: u32 = 100;
const TURNS: usize = 50;
const ROUNDS: usize = 7;

/// The median time of a statement in microseconds, and statements a second.
fn figures(mut turns: Vec<Duration>) -> (f64, f64) {
    let all: f64 = turns.iter().map(Duration::as_secs_f64).sum();
    turns.sort_unstable();
    let p50 = turns[turns.len() / 2].as_secs_f64() * 1e6 / f64::from(OPERATIONS);
    let rate = f64::from(OPERATIONS) * turns.len() as f64 / all;
    (p50, rate)
}

/// As in a host: the database is opened on a runtime of many threads, and used on one of a single thread.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = Builder::new_multi_thread().enable_all().build()?;
    let callers = Builder::new_current_thread().enable_all().build()?;
    callers.block_on(measure(own.handle()))
}

#[expect(clippy::print_stdout, reason = "it is what the example is for")]
async fn measure(own: &Handle) -> Result<(), Box<dyn std::error::Error>> {
    let server = Postgres::start();
    let config: tokio_postgres::Config = server.url().parse()?;
    let stream = TcpStream::connect(("127.0.0.1", server.port())).await?;
    stream.set_nodelay(true)?;
    let (bare, driver) = config.connect_raw(stream, NoTls).await?;
    let mut drivers = tokio::task::JoinSet::new();
    drivers.spawn(driver);
    let prepared = bare.prepare("SELECT 1").await?;
    let database = {
        let _own = own.enter();
        PostgresSql::open(&PostgresOptions::new(server.url()))?
    };
    let mut ratios = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (mut bares, mut throughs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let since = Instant::now();
            for _ in 0..OPERATIONS {
                black_box(bare.query(&prepared, &[]).await?);
            }
            bares.push(since.elapsed());
            let since = Instant::now();
            for _ in 0..OPERATIONS {
                black_box(Sql::query(&database, "SELECT 1", Vec::new(), None).await?);
            }
            throughs.push(since.elapsed());
        }
        let (bare, through) = (figures(bares), figures(throughs));
        // The first round is for warming up.
        if round == 0 {
            continue;
        }
        let (p50, rate) = (through.0 / bare.0, through.1 / bare.1);
        println!(
            "select 1: p50 {:.1} us bare, {:.1} us through the trait: {p50:.2} times; rate {rate:.2} times",
            bare.0, through.0
        );
        ratios.0.push(p50);
        ratios.1.push(rate);
    }
    let median = |mut ratios: Vec<f64>| {
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    println!(
        "median ratios: p50 {:.2}, rate {:.2}",
        median(ratios.0),
        median(ratios.1)
    );
    Ok(())
}
