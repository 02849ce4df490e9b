//! Stores that are servers: the guest `bench` makes a hundred operations in one invocation; the yardstick makes the same
//! hundred by the bare client, on the same thread. One invocation at a time, and several at once.
//!
//! Both have as many connections: one of Redis, which all share; of Postgres one for each that is at work, as what shares one
//! either waits or, on the bare side, has its statements in one pipe. As in a host, providers are opened on another runtime
//! than guests run on.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use redis::AsyncTypedCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls, Statement};
use wasmtime::{Result, ensure};
use weft_compose::Capability;
use weft_servers::{Postgres, Redis};

use crate::capabilities::{INTERFACE, link, nanos, open};
use crate::rounds::{Pairs, round, us};
use crate::weft::{Providers, Target, Weft};

const ROWS: u32 = 10_000;
const OPERATIONS: u32 = 100;
/// Invocations at once, and as many users of the bare connections.
const AT_ONCE: usize = 16;
/// Connections to Postgres on each side.
const CONNECTIONS: usize = AT_ONCE;

pub(crate) async fn measure(weft: &Weft, own: &Handle, data: &Path, rounds: usize) -> Result<Value> {
    let folder = data.join("bench");
    std::fs::create_dir_all(&folder)?;
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let (redis_url, postgres_url) = (redis.url(), postgres.url());
    let connections = CONNECTIONS.to_string();
    let providers = {
        let _own = own.enter();
        Providers::from([
            open(
                "keys",
                Capability::KeyValue,
                "redis",
                &[("url", &redis_url)],
                &folder,
            )?,
            open(
                "rows",
                Capability::Sql,
                "postgres",
                &[("url", &postgres_url), ("connections", &connections)],
                &folder,
            )?,
        ])
    };
    let links = [
        link("bench", "wasi:keyvalue", "keys")?,
        link("bench", "weft:sql", "rows")?,
    ];
    let guests = vec![("bench", weft.load("bench").await?)];
    let state = weft.state(guests, &links, &providers)?;
    let target = |name| Target::new(&state, "bench", (INTERFACE, name)).map(Arc::new);
    let filled: u32 = target("fill-keys")?.call((ROWS,)).await?;
    ensure!(filled == ROWS, "the guest stored {filled} rows");
    let (gets, sets, ones) = (target("gets")?, target("sets")?, target("ones")?);
    let bare = Arc::new(Bare::connect(&redis, &postgres).await?);

    let rows: Arc<[u32]> = (0..OPERATIONS).map(|n| n * 7_919 % ROWS).collect();
    let mut all = Vec::new();
    for kind in [Kind::Get, Kind::Set, Kind::One] {
        let target = match kind {
            Kind::Get => &gets,
            Kind::Set => &sets,
            Kind::One => &ones,
        };
        let call = |_: usize| {
            let (target, rows) = (target.clone(), rows.to_vec());
            async move {
                match kind {
                    Kind::Get | Kind::Set => target.call((rows,)).await,
                    Kind::One => target.call((OPERATIONS,)).await,
                }
            }
        };
        let bare = |user: usize| {
            let (bare, rows) = (bare.clone(), rows.clone());
            async move { bare.run(kind, user, &rows).await }
        };
        let (mut alone, mut many) = (Pairs::default(), Pairs::default());
        for _ in 0..rounds {
            alone.add(
                round(async || each(bare(0).await?)).await?,
                round(async || each(call(0).await?)).await?,
            );
            many.add(
                round(async || each(at_once(bare).await?)).await?,
                round(async || each(at_once(call).await?)).await?,
            );
        }
        all.push(json!({ "alone_us": alone.report(), "many_us": many.report() }));
    }
    for provider in providers.values() {
        provider.close().await;
    }
    Ok(json!({ "redis_get": all[0], "redis_set": all[1], "postgres_one": all[2] }))
}

/// The nanoseconds until all of several have ended, which a task each runs.
async fn at_once<F>(one: impl Fn(usize) -> F) -> Result<u64>
where
    F: Future<Output = Result<u64>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for user in 0..AT_ONCE {
        tasks.spawn(one(user));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    nanos(start)
}

/// Microseconds for each of the operations.
fn each(nanos: u64) -> Result<Vec<f64>> {
    Ok(vec![us(nanos) / f64::from(OPERATIONS)])
}

#[derive(Clone, Copy)]
enum Kind {
    Get,
    Set,
    One,
}

struct Bare {
    redis: MultiplexedConnection,
    postgres: Vec<(Client, Statement)>,
    _connections: JoinSet<()>,
}

impl Bare {
    async fn connect(redis: &Redis, postgres: &Postgres) -> Result<Self> {
        let redis = redis::Client::open(redis.url())?;
        let mut redis = redis.get_multiplexed_async_connection().await?;
        for row in 0..ROWS {
            redis.set(key(row), value(row)).await?;
        }
        let config: Config = postgres.url().parse()?;
        let mut tasks = JoinSet::new();
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(("127.0.0.1", postgres.port())).await?;
            stream.set_nodelay(true)?;
            let (client, connection) = config.connect_raw(stream, NoTls).await?;
            tasks.spawn(async move {
                // How it ends, the statement tells.
                let _ = connection.await;
            });
            let one = client.prepare("select 1").await?;
            clients.push((client, one));
        }
        Ok(Self {
            redis,
            postgres: clients,
            _connections: tasks,
        })
    }

    /// The nanoseconds of all operations together.
    async fn run(&self, kind: Kind, user: usize, rows: &[u32]) -> Result<u64> {
        let mut redis = self.redis.clone();
        let (postgres, one) = &self.postgres[user % CONNECTIONS];
        let pairs: Vec<_> = rows.iter().map(|row| (key(*row), value(*row))).collect();
        let start = Instant::now();
        for (key, value) in &pairs {
            match kind {
                Kind::Get => {
                    let found = redis.get(key).await?;
                    ensure!(found.is_some_and(|found| found.len() == 100), "a key is missing");
                }
                Kind::Set => redis.set(key, value).await?,
                Kind::One => {
                    let found = postgres.query(one, &[]).await?;
                    ensure!(found.len() == 1, "a row is missing");
                }
            }
        }
        nanos(start)
    }
}

fn key(row: u32) -> String {
    format!("weft:{{bench/bench/default}}:v:row-{row:08}")
}

fn value(row: u32) -> String {
    format!("{row:0100}")
}
