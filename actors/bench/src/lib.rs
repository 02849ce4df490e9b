//! Reads stores many times inside one invocation, and tells how long that took: `cargo xtask bench` calls it.

wit_bindgen::generate!({
    world: "weft:bench/bench",
    path: [
        "../../wit/deps/keyvalue.wit",
        "../../wit/deps/weft-sql.wit",
        "wit",
    ],
    generate_all,
});

use std::time::Instant;

use exports::weft::bench::measure::Guest;
use wasi::keyvalue::batch;
use wasi::keyvalue::store::{self, Bucket};
use weft::sql::database::{self, Transaction};
use weft::sql::types::Value;

struct Bench;

export!(Bench);

/// A row's value, but for its number: 100 bytes, as a small record has.
const VALUE_LEN: usize = 100;
/// Rows in one batch of writes.
const BATCH_LEN: u32 = 500;
const SELECT: &str = "select value from rows where key = $1";

impl Guest for Bench {
    fn fill(n: u32) -> u32 {
        let bucket = bucket();
        let schema =
            "create table if not exists rows (key text primary key, value text not null) without rowid";
        database::execute(schema, &[]).expect("the table can be made");
        let insert = "insert or replace into rows values ($1, $2)";
        for start in (0..n).step_by(BATCH_LEN as usize) {
            let numbers = start..n.min(start + BATCH_LEN);
            let pairs: Vec<_> = numbers.map(|row| (key(row), value(row).into_bytes())).collect();
            batch::set_many(&bucket, &pairs).expect("the store takes a batch");
            let transaction = database::begin().expect("the database takes a transaction");
            for (key, value) in pairs {
                let value = String::from_utf8(value).expect("a value is text");
                transaction
                    .execute(insert, &[Value::Text(key), Value::Text(value)])
                    .expect("the database takes a row");
            }
            Transaction::commit(transaction).expect("the database commits");
        }
        n
    }

    fn fill_keys(n: u32) -> u32 {
        let bucket = bucket();
        for start in (0..n).step_by(BATCH_LEN as usize) {
            let numbers = start..n.min(start + BATCH_LEN);
            let pairs: Vec<_> = numbers.map(|row| (key(row), value(row).into_bytes())).collect();
            batch::set_many(&bucket, &pairs).expect("the store takes a batch");
        }
        n
    }

    fn gets(rows: Vec<u32>) -> u64 {
        let bucket = bucket();
        let keys: Vec<_> = rows.into_iter().map(key).collect();
        let start = Instant::now();
        for key in &keys {
            let value = bucket.get(key).expect("the store answers");
            assert_eq!(value.map(|value| value.len()), Some(VALUE_LEN), "{key}");
        }
        nanos(start, Instant::now())
    }

    fn sets(rows: Vec<u32>) -> u64 {
        let bucket = bucket();
        let pairs: Vec<_> = rows
            .into_iter()
            .map(|row| (key(row), value(row).into_bytes()))
            .collect();
        let start = Instant::now();
        for (key, value) in &pairs {
            bucket.set(key, value).expect("the store takes a value");
        }
        nanos(start, Instant::now())
    }

    fn ones(n: u32) -> u64 {
        let start = Instant::now();
        for _ in 0..n {
            let found = database::query("select 1", &[])
                .expect("the database answers")
                .rows;
            assert_eq!(found.len(), 1, "one row");
        }
        nanos(start, Instant::now())
    }

    fn selects(rows: Vec<u32>) -> u64 {
        let keys: Vec<_> = rows.into_iter().map(|row| [Value::Text(key(row))]).collect();
        let start = Instant::now();
        for key in &keys {
            let found = database::query(SELECT, key).expect("the database answers").rows;
            let value = found.first().and_then(|row| row.first());
            assert!(
                matches!(value, Some(Value::Text(text)) if text.len() == VALUE_LEN),
                "{key:?}"
            );
        }
        nanos(start, Instant::now())
    }
}

fn bucket() -> Bucket {
    store::open("default").expect("the link has a bucket")
}

fn key(row: u32) -> String {
    format!("row-{row:08}")
}

fn value(row: u32) -> String {
    format!("{row:0VALUE_LEN$}")
}

fn nanos(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}
