//! Reads of a store: the guest `bench` makes a hundred of them in one invocation; the yardstick makes the same hundred
//! on the bare crate, with what can be kept open kept open: redb's table, SQLite's prepared statement.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use redb::ReadableDatabase as _;
use rusqlite::Connection;
use serde_json::{Value, json};
use wasmtime::error::Context as _;
use wasmtime::{Result, ensure};
use weft_capabilities::key_value::Bucket;
use weft_compose::Capability;
use weft_compose::record::{LinkTarget, ProviderRecord, VERSION};
use weft_host::provider::Provider;

use crate::rounds::{Pairs, round, us};
use crate::weft::{Link, Providers, Target, Weft, provider_name};

pub(crate) const INTERFACE: &str = "weft:bench/measure";
/// All of them fit into the stores' caches: what is measured is the way there and not the disk.
const ROWS: u32 = 10_000;
const READS: u32 = 100;
const KEYS: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("keys");
const CACHE_BYTES: usize = 16 << 20;

pub(crate) async fn measure(weft: &Weft, data: &Path, rounds: usize) -> Result<Value> {
    let folder = data.join("bench");
    std::fs::create_dir_all(&folder)?;
    let providers = Providers::from([
        open("keys", Capability::KeyValue, "redb", &[], &folder)?,
        open("rows", Capability::Sql, "sqlite", &[], &folder)?,
    ]);
    let links = [
        link("bench", "wasi:keyvalue", "keys")?,
        link("bench", "weft:sql", "rows")?,
    ];
    let guests = vec![("bench", weft.load("bench").await?)];
    let state = weft.state(guests, &links, &providers)?;
    let target = |name| Target::new(&state, "bench", (INTERFACE, name));
    let rows: u32 = target("fill")?.call((ROWS,)).await?;
    ensure!(rows == ROWS, "the guest stored {rows} rows");

    let (gets, selects) = (target("gets")?, target("selects")?);
    let (redb, sqlite) = (Redb::new(&folder)?, Sqlite::new(&folder)?);
    let (mut key_value, mut sql) = (Pairs::default(), Pairs::default());
    let picks = Picks::default();
    for _ in 0..rounds {
        key_value.add(
            round(async || each(redb.read(&picks.next())?)).await?,
            round(async || each(gets.call((picks.next(),)).await?)).await?,
        );
        sql.add(
            round(async || each(sqlite.read(&picks.next())?)).await?,
            round(async || each(selects.call((picks.next(),)).await?)).await?,
        );
    }
    for provider in providers.values() {
        provider.close().await;
    }
    Ok(json!({ "redb_get_us": key_value.report(), "sqlite_select_us": sql.report() }))
}

/// Microseconds that one read took, of the nanoseconds of all.
fn each(nanos: u64) -> Result<Vec<f64>> {
    Ok(vec![us(nanos) / f64::from(READS)])
}

pub(crate) fn open(
    name: &str,
    capability: Capability,
    backend: &str,
    config: &[(&str, &str)],
    folder: &Path,
) -> Result<(weft_compose::ProviderName, Arc<Provider>)> {
    let record = ProviderRecord {
        v: VERSION,
        name: provider_name(name)?,
        revision: 1,
        capability,
        backend: backend.to_owned(),
        config: config
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        allow_from: Vec::new(),
        command: None,
    };
    let provider = Provider::open(&record, folder)?;
    Ok((record.name, Arc::new(provider)))
}

pub(crate) fn link(guest: &'static str, interface: &'static str, provider: &str) -> Result<Link<'static>> {
    let target = LinkTarget::Provider {
        name: provider_name(provider)?,
        bucket: None,
        shared: false,
    };
    Ok((guest, interface, target))
}

/// Row numbers without an order that a store could use.
#[derive(Default)]
struct Picks(Cell<u32>);

impl Picks {
    /// A prime that shares nothing with [`ROWS`], so that every row has its turn.
    const STEP: u32 = 7_919;

    fn next(&self) -> Vec<u32> {
        let picks = (0..READS).map(|_| self.0.replace((self.0.get() + Self::STEP) % ROWS));
        picks.collect()
    }
}

fn key(row: u32) -> String {
    format!("row-{row:08}")
}

fn value(row: u32) -> String {
    format!("{row:0100}")
}

struct Redb {
    keys: redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
    // Behind the table.
    _database: redb::Database,
}

impl Redb {
    fn new(folder: &Path) -> Result<Self> {
        let database = redb::Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(folder.join("bare.redb"))?;
        let writing = database.begin_write()?;
        {
            let mut keys = writing.open_table(KEYS)?;
            for row in 0..ROWS {
                keys.insert(&stored_key(row)?[..], value(row).as_bytes())?;
            }
        }
        writing.commit()?;
        Ok(Self {
            keys: database.begin_read()?.open_table(KEYS)?,
            _database: database,
        })
    }

    /// The nanoseconds of all reads together.
    fn read(&self, rows: &[u32]) -> Result<u64> {
        let keys: Vec<_> = rows.iter().map(|row| stored_key(*row)).collect::<Result<_>>()?;
        let started = Instant::now();
        for key in &keys {
            let value = self.keys.get(&key[..])?.map(|value| value.value().to_vec());
            ensure!(value.is_some_and(|value| value.len() == 100), "a key is missing");
        }
        nanos(started)
    }
}

/// As long as the one that the actor's becomes.
fn stored_key(row: u32) -> Result<Vec<u8>> {
    Ok(Bucket::scoped("bench", "bench", "default").key(&key(row))?)
}

struct Sqlite(Connection);

impl Sqlite {
    fn new(folder: &Path) -> Result<Self> {
        let mut sqlite = Connection::open(folder.join("bare.sqlite3"))?;
        sqlite.execute_batch(
            "pragma journal_mode = wal; \
             create table if not exists rows (key text primary key, value text not null) without rowid",
        )?;
        let writing = sqlite.transaction()?;
        for row in 0..ROWS {
            writing.execute(
                "insert or replace into rows values (?1, ?2)",
                (key(row), value(row)),
            )?;
        }
        writing.commit()?;
        Ok(Self(sqlite))
    }

    /// The nanoseconds of all reads together.
    fn read(&self, rows: &[u32]) -> Result<u64> {
        let keys: Vec<_> = rows.iter().map(|row| key(*row)).collect();
        let mut select = self.0.prepare_cached("select value from rows where key = ?1")?;
        let started = Instant::now();
        for key in &keys {
            let value: String = select.query_row([key], |row| row.get(0))?;
            ensure!(value.len() == 100, "a row is missing");
        }
        nanos(started)
    }
}

pub(crate) fn nanos(since: Instant) -> Result<u64> {
    u64::try_from(since.elapsed().as_nanos()).context("a round took centuries")
}
