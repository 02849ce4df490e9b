//! What a get costs through the trait, beside the bare crate: `cargo run --release --example redb_overhead -p weft-redb`.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, TableDefinition};
use weft_capabilities::{Bucket, KeyValue};
use weft_redb::{RedbKeyValue, RedbOptions};

const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
const TURNS: u32 = 200_000;
const ROUNDS: u32 = 5;

#[expect(clippy::print_stdout, reason = "it is what the example is for")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let bucket = Bucket::scoped("default", "shop", "items");
    let path = folder.path().join("a.redb");
    let store = RedbKeyValue::open(&path, RedbOptions::default())?;
    let keys: Vec<_> = (0..1_000).map(|n| format!("item-{n:05}")).collect();
    let entries = keys
        .iter()
        .map(|key| (key.clone(), Bytes::from(vec![7; 100])))
        .collect();
    store.set_many(&bucket, entries).await?;
    let stored: Vec<_> = keys.iter().map(|key| bucket.key(key)).collect::<Result<_, _>>()?;
    store.close().await;

    let turns = |n: u32| (n as usize * 7) % keys.len();
    let per_turn = |since: Instant| since.elapsed().as_nanos() / u128::from(TURNS);
    for _ in 0..ROUNDS {
        let bare = Database::create(&path)?;
        let since = Instant::now();
        for n in 0..TURNS {
            let table = bare.begin_read()?.open_table(KEYS)?;
            black_box(
                table
                    .get(stored[turns(n)].as_slice())?
                    .map(|value| value.value().to_vec()),
            );
        }
        let transaction_each = per_turn(since);
        let table = bare.begin_read()?.open_table(KEYS)?;
        let since = Instant::now();
        for n in 0..TURNS {
            black_box(
                table
                    .get(stored[turns(n)].as_slice())?
                    .map(|value| value.value().to_vec()),
            );
        }
        let one_transaction = per_turn(since);
        drop(table);
        drop(bare);

        let store = RedbKeyValue::open(&path, RedbOptions::default())?;
        let store: &dyn KeyValue = &store;
        let since = Instant::now();
        for n in 0..TURNS {
            black_box(store.get(&bucket, &keys[turns(n)]).await?);
        }
        let through = per_turn(since);
        println!(
            "get: bare {transaction_each} ns, bare in one transaction {one_transaction} ns, trait {through} ns"
        );
    }
    Ok(())
}
