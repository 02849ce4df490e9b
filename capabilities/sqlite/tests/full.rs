//! A disk that is full: a file system of some megabytes, in a process that alone sees it.
#![cfg(test)]

use std::path::Path;
use std::process::Command;

use weft_capabilities::sql::{Sql, SqlError, SqlValue};
use weft_sqlite::{SqliteOptions, SqliteSql};

/// Set for the process that has the disk, to where it is.
const DISK: &str = "WEFT_SQLITE_FULL_TEST_DISK";
/// Bytes of a row: some hundreds fill the disk.
const ROW_LEN: i64 = 16 << 10;
/// How often it becomes full, and the bytes that are freed each time: what the log has must fit in the database, too.
const ROUNDS: usize = 3;
const BALLAST_LEN: usize = 4 << 20;

async fn insert(database: &SqliteSql, n: i64) -> Result<(), SqlError> {
    let insert = "INSERT INTO t VALUES ($1, zeroblob($2))";
    let row = vec![SqlValue::Integer(n), SqlValue::Integer(ROW_LEN)];
    Sql::execute(database, insert, row, None).await.map(drop)
}

async fn numbers(database: &SqliteSql) -> Vec<i64> {
    let select = "SELECT n FROM t WHERE length(bytes) = $1 ORDER BY n";
    let rows = Sql::query(database, select, vec![SqlValue::Integer(ROW_LEN)], None).await;
    let number = |row: Vec<SqlValue>| match row[0] {
        SqlValue::Integer(n) => n,
        ref other => panic!("{other:?}"),
    };
    rows.unwrap().rows.into_iter().map(number).collect()
}

fn is_told_as_full(error: &SqlError) -> bool {
    matches!(error, SqlError::Unavailable { message } if message.contains("disk is full"))
}

async fn fill(disk: &Path) {
    let path = disk.join("a.sqlite");
    let ballasts: Vec<_> = (0..ROUNDS).map(|n| disk.join(format!("ballast-{n}"))).collect();
    for ballast in &ballasts {
        std::fs::write(ballast, vec![0; BALLAST_LEN]).unwrap();
    }
    let database = SqliteSql::open(&path, SqliteOptions::default()).unwrap();
    let create = "CREATE TABLE t (n INTEGER PRIMARY KEY, bytes BLOB)";
    Sql::execute(&database, create, Vec::new(), None).await.unwrap();
    let mut answered = Vec::new();
    for ballast in &ballasts {
        let refused = loop {
            let n = i64::try_from(answered.len()).unwrap();
            match insert(&database, n).await {
                Ok(()) => answered.push(n),
                Err(error) => break error,
            }
            assert!(n < 10_000, "the disk was never full");
        };
        assert!(is_told_as_full(&refused), "{refused:?}");
        assert_eq!(numbers(&database).await, answered);

        // A transaction is undone whole, whichever of its statements finds no room.
        let mut transaction = database.begin(None).await.unwrap();
        let fills = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000)
                     INSERT INTO t SELECT -n, zeroblob(16384) FROM c";
        let error = match transaction.execute(fills, Vec::new()).await {
            Ok(_) => transaction.commit().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(is_told_as_full(&error), "{error:?}");
        assert_eq!(numbers(&database).await, answered);

        std::fs::remove_file(ballast).unwrap();
        let n = i64::try_from(answered.len()).unwrap();
        insert(&database, n).await.unwrap();
        answered.push(n);
    }
    Sql::close(&database).await;
    let database = SqliteSql::open(&path, SqliteOptions::default()).unwrap();
    assert_eq!(numbers(&database).await, answered);
}

#[tokio::test]
async fn a_database_whose_disk_is_full_is_read_has_all_that_was_answered_and_takes_writes_when_there_is_room()
{
    if let Some(disk) = std::env::var_os(DISK) {
        return fill(Path::new(&disk)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    // In namespaces of its own, so that this needs no rights, and nothing is left of it.
    let own = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--mount"])
            .args(command);
        unshare
    };
    if !own(&["true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("there is no disk to fill: this system lets nobody mount one in a namespace");
        return;
    }
    let run = "mount -t tmpfs -o size=20m none \"$0\" && exec \"$@\"";
    let mut child = own(&["sh", "-c", run]);
    child
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args([
            "a_database_whose_disk_is_full_is_read_has_all_that_was_answered_and_takes_writes_when_there_is_room",
            "--exact",
            "--nocapture",
        ])
        .env(DISK, folder.path());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
