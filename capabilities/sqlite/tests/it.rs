//! The backend as a host uses it: on a file.
#![cfg(test)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_capabilities::conformance::{self, SqlDialect};
use weft_capabilities::sql::{Sql, SqlError, SqlValue};
use weft_sqlite::{OpenError, SqliteOptions, SqliteSql};

fn open(path: &Path) -> Result<SqliteSql, OpenError> {
    SqliteSql::open(path, SqliteOptions::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let dialect = SqlDialect {
        blob: "BLOB",
        integer: "INTEGER",
        transactions_conflict: false,
    };
    let open = || -> Arc<dyn Sql> {
        let name = count.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(open(&folder.path().join(name)).unwrap())
    };
    conformance::sql(open, dialect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_its_tables_and_takes_others() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let dialect = SqlDialect {
        blob: "BLOB",
        integer: "INTEGER",
        transactions_conflict: false,
    };
    let open = || -> Arc<dyn Sql> {
        let name = count.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(open(&folder.path().join(name)).unwrap())
    };
    conformance::sql_tables(open, dialect).await;
}

async fn run(database: &dyn Sql, statement: &str) -> Result<u64, SqlError> {
    database
        .execute(statement, Vec::new(), None)
        .await
        .map(|executed| executed.rows_affected)
}

async fn ask(database: &dyn Sql, statement: &str) -> Result<Vec<Vec<SqlValue>>, SqlError> {
    database
        .query(statement, Vec::new(), None)
        .await
        .map(|rows| rows.rows)
}

#[tokio::test]
async fn what_was_answered_is_there_after_close_and_after_drop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    run(&open(&path).unwrap(), "CREATE TABLE t (i INTEGER)")
        .await
        .unwrap();
    for n in 0..4 {
        let database = open(&path).unwrap();
        assert_eq!(
            ask(&database, "SELECT count(*) FROM t").await.unwrap(),
            [[SqlValue::Integer(n)]]
        );
        run(&database, "INSERT INTO t VALUES (1)").await.unwrap();
        if n % 2 == 0 {
            Sql::close(&database).await;
        }
    }
}

#[tokio::test]
async fn denies_other_files_settings_and_what_outlives_a_statement() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("a.sqlite")).unwrap();
    run(&database, "CREATE TABLE t (i INTEGER)").await.unwrap();
    let elsewhere = folder.path().join("b.sqlite");
    for statement in [
        format!("ATTACH DATABASE '{}' AS b", elsewhere.display()),
        "DETACH DATABASE main".to_owned(),
        format!("VACUUM INTO '{}'", elsewhere.display()),
        "PRAGMA synchronous = OFF".to_owned(),
        "PRAGMA journal_mode = DELETE".to_owned(),
        "PRAGMA writable_schema = ON".to_owned(),
        "PRAGMA foreign_keys = OFF".to_owned(),
        "SELECT load_extension('x')".to_owned(),
        "CREATE TEMP TABLE x (i INTEGER)".to_owned(),
        "CREATE VIRTUAL TABLE x USING fts5(t)".to_owned(),
        "BEGIN".to_owned(),
    ] {
        for error in [
            ask(&database, &statement).await.err(),
            run(&database, &statement).await.err(),
        ] {
            assert!(
                matches!(error, Some(SqlError::Denied { .. } | SqlError::Syntax { .. })),
                "{statement}: {error:?}"
            );
        }
    }
    assert!(!elsewhere.exists());
    assert_eq!(ask(&database, "PRAGMA table_info(t)").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_statement_follows_a_schema_that_changes_under_it() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("a.sqlite")).unwrap();
    run(&database, "CREATE TABLE t (a INTEGER)").await.unwrap();
    run(&database, "INSERT INTO t VALUES (1)").await.unwrap();
    for columns in 1..10 {
        for _ in 0..10 {
            assert_eq!(ask(&database, "SELECT * FROM t").await.unwrap()[0].len(), columns);
        }
        let add = format!("ALTER TABLE t ADD COLUMN b{columns} TEXT");
        if columns % 2 == 0 {
            run(&database, &add).await.unwrap();
        } else {
            let mut transaction = database.begin(None).await.unwrap();
            transaction.execute(&add, Vec::new()).await.unwrap();
            transaction.commit().await.unwrap();
        }
    }
    run(&database, "DROP TABLE t").await.unwrap();
    assert!(matches!(
        ask(&database, "SELECT * FROM t").await,
        Err(SqlError::Syntax { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_nested_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("a.sqlite")).unwrap();
    let nest = |open: &str, middle: &str, close: &str, depth: usize| {
        format!("SELECT {}{middle}{}", open.repeat(depth), close.repeat(depth))
    };
    for depth in [50, 190, 2_000] {
        for statement in [
            nest("(", "1", ")", depth),
            nest("-", "1", "", depth),
            nest("(SELECT ", "1", ")", depth),
            nest("* FROM (SELECT ", "1", ")", depth),
            nest("1 UNION ALL SELECT ", "1", "", depth),
            nest("abs(", "1", ")", depth),
        ] {
            // Refused or answered: the process is there for the next one.
            drop(ask(&database, &statement).await);
        }
    }
    run(&database, "CREATE VIEW v0 AS SELECT 1 AS a").await.unwrap();
    let mut views = 0;
    for view in 1..2_500 {
        let create = format!("CREATE VIEW v{view} AS SELECT a FROM v{}", view - 1);
        if run(&database, &create).await.is_err() {
            break;
        }
        views = view;
        if view % 250 == 0 {
            drop(ask(&database, &format!("SELECT a FROM v{view}")).await);
        }
    }
    drop(ask(&database, &format!("SELECT a FROM v{views}")).await);
    assert!(views < 2_499, "the number of views has no bound");
    assert_eq!(
        ask(&database, "SELECT 1").await.unwrap(),
        [[SqlValue::Integer(1)]]
    );
}

#[tokio::test]
async fn a_long_read_leaves_its_callers_thread_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("a.sqlite")).unwrap();
    // Short the first time, by its parameter, and so prepared; long the second.
    let count =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) SELECT count(*) FROM n";
    for to in [10, 10, 3_000_000] {
        let mut query = Box::pin(Sql::query(&database, count, vec![SqlValue::Integer(to)], None));
        let at_once = futures::poll!(&mut query).is_ready();
        assert!(!at_once || to == 10, "it ran on its caller's thread to the end");
        if !at_once {
            assert_eq!(query.await.unwrap().rows, [[SqlValue::Integer(to)]]);
        }
    }
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("foreign");
    fs::write(&foreign, "redb".repeat(1_000)).unwrap();
    assert!(matches!(open(&foreign), Err(OpenError::Foreign { .. })));
    assert!(matches!(
        open(&folder.path().join("no/such/folder")),
        Err(OpenError::Sqlite { .. })
    ));
}
