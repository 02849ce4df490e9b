//! A process is killed in the middle of writing: everything that it had been told is stored is there.
#![cfg(test)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use weft_capabilities::sql::{Sql, SqlValue};
use weft_sqlite::{SqliteOptions, SqliteSql};

/// Set for the process that writes, to the file.
const FILE: &str = "WEFT_SQLITE_KILL_TEST_FILE";
/// Answers after which the writing process is killed.
const ANSWERS: [i64; 3] = [1, 20, 150];

fn open(path: &Path) -> SqliteSql {
    SqliteSql::open(path, SqliteOptions::default()).unwrap()
}

/// Writes rows, by twos in one transaction, and prints the last number once it is answered; until it is killed.
async fn write_until_killed(path: &Path) {
    let database = open(path);
    let create = "CREATE TABLE IF NOT EXISTS t (i INTEGER PRIMARY KEY)";
    database.begin(None).await.unwrap().rollback().await.unwrap();
    Sql::execute(&database, create, Vec::new(), None).await.unwrap();
    let mut out = std::io::stdout();
    for n in 1.. {
        let mut transaction = database.begin(None).await.unwrap();
        for half in [2 * n - 1, 2 * n] {
            let insert = "INSERT INTO t VALUES ($1)";
            transaction
                .execute(insert, vec![SqlValue::Integer(half)])
                .await
                .unwrap();
        }
        transaction.commit().await.unwrap();
        writeln!(out, "answered {n}").unwrap();
    }
}

#[tokio::test]
async fn nothing_answered_is_lost_when_the_process_is_killed() {
    if let Some(path) = std::env::var_os(FILE) {
        return write_until_killed(Path::new(&path)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    for kill_after in ANSWERS {
        let path = folder.path().join(format!("{kill_after}.sqlite"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "nothing_answered_is_lost_when_the_process_is_killed",
                "--exact",
                "--nocapture",
            ])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered = 0;
        for line in lines {
            if let Some(number) = line.unwrap().strip_prefix("answered ") {
                answered = number.parse().unwrap();
            }
            if answered == kill_after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(answered >= kill_after);
        let database = open(&path);
        let rows = Sql::query(&database, "SELECT count(*), max(i) FROM t", Vec::new(), None)
            .await
            .unwrap()
            .rows;
        let [SqlValue::Integer(count), SqlValue::Integer(max)] = rows[0][..] else {
            panic!("{rows:?}")
        };
        assert_eq!(count, max, "there are holes");
        assert_eq!(count % 2, 0, "half a transaction is there");
        assert!(
            count >= 2 * answered,
            "{answered} were answered, {count} rows are there"
        );
    }
}
