//! What a select by key costs through the trait, beside bare rusqlite with a cached statement:
//! `cargo run --release --example sqlite_overhead -p weft-sqlite`.

use std::hint::black_box;
use std::time::Instant;

use rusqlite::Connection;
use weft_capabilities::sql::{Sql, SqlValue};
use weft_sqlite::{SqliteOptions, SqliteSql};

const TURNS: u32 = 100_000;
const ROUNDS: u32 = 5;
const SELECT: &str = "SELECT name, price FROM items WHERE id = $1";

#[expect(clippy::print_stdout, reason = "it is what the example is for")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.sqlite");
    let database = SqliteSql::open(&path, SqliteOptions::default())?;
    let create = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price INTEGER)";
    Sql::execute(&database, create, Vec::new(), None).await?;
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                INSERT INTO items SELECT i, 'item ' || i, i * 100 FROM n";
    Sql::execute(&database, fill, Vec::new(), None).await?;
    let bare = Connection::open(&path)?;
    let database: &dyn Sql = &database;
    let id = |n: u32| i64::from(n * 7 % 1_000) + 1;
    let per_turn = |since: Instant| since.elapsed().as_nanos() / u128::from(TURNS);
    for _ in 0..ROUNDS {
        let since = Instant::now();
        for n in 0..TURNS {
            let mut statement = bare.prepare_cached(SELECT)?;
            black_box(statement.query_row([id(n)], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })?);
        }
        let bare = per_turn(since);
        let since = Instant::now();
        for n in 0..TURNS {
            black_box(
                database
                    .query(SELECT, vec![SqlValue::Integer(id(n))], None)
                    .await?,
            );
        }
        println!("select: bare {bare} ns, trait {} ns", per_turn(since));
    }
    Ok(())
}
