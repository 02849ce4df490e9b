//! Misuses key-value stores, databases and configuration. Each tells what the host said.

use crate::wasi::config::store as config;
use crate::wasi::keyvalue::batch;
use crate::wasi::keyvalue::store::{Bucket, Error, open};
use crate::weft::sql::database;

fn bucket() -> Result<Bucket, Error> {
    open("default")
}

/// Short: an error may repeat what it was given.
fn told(result: Result<String, impl std::fmt::Debug>) -> String {
    let text = result.unwrap_or_else(|error| format!("error: {error:?}"));
    text.chars().take(200).chain(['\n']).collect()
}

pub fn large_value(len: usize) -> String {
    let value = vec![b'v'; len];
    told(
        bucket()
            .and_then(|bucket| bucket.set("large", &value))
            .map(|()| "set".to_owned()),
    )
}

/// Sets `n` keys, a thousand at a time, then lists all, then removes them.
pub fn many_keys(n: usize) -> String {
    let keys: Vec<String> = (0..n).map(|at| format!("key-{at:06}")).collect();
    let work = || {
        let bucket = bucket()?;
        for keys in keys.chunks(1_000) {
            let entries: Vec<_> = keys.iter().map(|key| (key.clone(), vec![b'v'; 10])).collect();
            batch::set_many(&bucket, &entries)?;
        }
        let (mut listed, mut cursor) = (0, None);
        loop {
            let page = bucket.list_keys(cursor.as_deref())?;
            listed += page.keys.len();
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        for keys in keys.chunks(1_000) {
            batch::delete_many(&bucket, keys)?;
        }
        Ok::<_, Error>(format!("{listed} keys"))
    };
    told(work())
}

/// Writes under names that a store might stumble over, and tells which came back.
pub fn odd_names() -> String {
    let long = "k".repeat(1 << 20);
    let names = [
        "",
        "\0",
        "a\0b",
        "../../etc/passwd",
        "\u{1b}[2J",
        "a/b",
        "\u{ffff}",
        &long,
    ];
    let work = || {
        let bucket = bucket()?;
        let mut kept = Vec::new();
        for name in names {
            let set = bucket.set(name, b"v");
            let back = bucket.get(name).ok().flatten();
            kept.push(match set {
                Ok(()) if back.as_deref() == Some(b"v") => "kept",
                Ok(()) => "lost",
                Err(_) => "refused",
            });
            let _ = bucket.delete(name);
        }
        Ok::<_, Error>(kept.join(" "))
    };
    told(work())
}

pub fn endless_statement() -> String {
    let endless = "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t";
    told(database::query(endless, &[]).map(|rows| format!("{} rows", rows.rows.len())))
}

/// Asks for more rows than any memory holds.
pub fn large_result() -> String {
    let large = "with recursive t(n) as (select 1 union all select n + 1 from t) \
                 select n, hex(zeroblob(1000)) from t";
    told(database::query(large, &[]).map(|rows| format!("{} rows", rows.rows.len())))
}

pub fn large_setting(len: usize) -> String {
    let key = "k".repeat(len);
    told(config::get(&key).map(|value| format!("{value:?}")))
}
