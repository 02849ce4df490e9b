//! What callers see when something goes wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use weft_capabilities::sql::{Sql, SqlError, SqlValue};
use weft_postgres::{OpenError, PostgresOptions, PostgresSql};
use weft_servers::{Certificate, Postgres, Proxy};

use crate::{open, run};

/// A bound for what has to become so.
const LONG: Duration = Duration::from_secs(60);

fn few(url: String, connections: usize) -> PostgresSql {
    let options = PostgresOptions {
        connections,
        ..PostgresOptions::new(url)
    };
    PostgresSql::open(&options).unwrap()
}

async fn number(database: &dyn Sql, statement: &str) -> Result<i64, SqlError> {
    let rows = database.query(statement, Vec::new(), None).await?;
    match rows.rows[0][0] {
        SqlValue::Integer(number) => Ok(number),
        ref other => panic!("{other:?}"),
    }
}

async fn once_it_answers<T>(mut attempt: impl AsyncFnMut() -> Result<T, SqlError>) -> T {
    let tries = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(SqlError::Unavailable { .. } | SqlError::MayHaveCommitted | SqlError::Busy) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    tokio::time::timeout(LONG, tries)
        .await
        .expect("it never answers again")
}

/// Waits until the server runs nothing that sleeps.
async fn nothing_sleeps(admin: &PostgresSql) {
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' \
                  AND pid <> pg_backend_pid()";
    let gone = async {
        while number(admin, sleeps).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, gone)
        .await
        .expect("a statement still runs on the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_statement_is_stopped_on_the_server_at_its_deadline_and_when_its_caller_leaves() {
    let server = Postgres::start();
    let (admin, database) = (open(&server.url()), few(server.url(), 1));
    run(&database, "CREATE TABLE t (i INTEGER)").await;
    for statement in [
        "SELECT pg_sleep(600)",
        "INSERT INTO t SELECT 1 FROM pg_sleep(600)",
    ] {
        let deadline = Some(Instant::now() + Duration::from_millis(50));
        let error = Sql::query(&database, statement, Vec::new(), deadline)
            .await
            .unwrap_err();
        assert!(matches!(error, SqlError::DeadlineExceeded), "{error:?}");
        nothing_sleeps(&admin).await;

        let left = Sql::query(&database, statement, Vec::new(), None);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), left)
                .await
                .is_err()
        );
        nothing_sleeps(&admin).await;

        let mut transaction = database.begin(None).await.unwrap();
        let left = transaction.query(statement, Vec::new());
        assert!(
            tokio::time::timeout(Duration::from_millis(50), left)
                .await
                .is_err()
        );
        nothing_sleeps(&admin).await;
        let error = transaction.commit().await.unwrap_err();
        assert!(matches!(error, SqlError::RolledBack { .. }), "{error:?}");
    }
    // The one connection is of use again.
    assert_eq!(number(&database, "SELECT count(*) FROM t").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_used_up_is_waited_for_until_the_deadline() {
    let server = Postgres::start();
    let database = few(server.url(), 2);
    let first = database.begin(None).await.unwrap();
    let _second = database.begin(None).await.unwrap();
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let error = database.begin(deadline).await.err().unwrap();
    assert!(matches!(error, SqlError::DeadlineExceeded), "{error:?}");
    let mut waits = Box::pin(number(&database, "SELECT 1"));
    assert!(futures::poll!(&mut waits).is_pending());
    first.rollback().await.unwrap();
    assert_eq!(waits.await.unwrap(), 1);
    let all = (0..50).map(|_| number(&database, "SELECT 2"));
    assert!(
        futures::future::join_all(all)
            .await
            .iter()
            .all(|one| matches!(one, Ok(2)))
    );
}

/// The server's process that a statement runs in, which comes from a runtime of its own, as a host has one for each core.
async fn process_for(database: &Arc<PostgresSql>, from: &Runtime) -> i64 {
    once_it_answers(async || {
        let database = database.clone();
        let ask = async move { number(&*database, "SELECT pg_backend_pid()").await };
        from.spawn(ask).await.unwrap()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_gets_a_connection_of_its_own_runtime_while_there_may_be_more() {
    let server = Postgres::start();
    let database = Arc::new(few(server.url(), 2));
    let [first, second, third] = [(); 3].map(|()| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap()
    });
    let (one, two) = (
        process_for(&database, &first).await,
        process_for(&database, &second).await,
    );
    assert_ne!(one, two);
    for _ in 0..5 {
        assert_eq!(process_for(&database, &first).await, one);
        assert_eq!(process_for(&database, &second).await, two);
    }
    assert_eq!(
        process_for(&database, &third).await,
        two,
        "there may be no more, and it was used last"
    );
    // With a runtime its connections end, and leave their places to others.
    second.shutdown_background();
    let freed = async {
        while [one, two].contains(&process_for(&database, &third).await) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, freed)
        .await
        .expect("it gets none of its own");
    assert_eq!(process_for(&database, &first).await, one);
    first.shutdown_background();
    third.shutdown_background();
    database.close().await;
    assert!(matches!(
        number(&*database, "SELECT 1").await,
        Err(SqlError::Closed)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_statement_failed_can_not_be_committed() {
    let server = Postgres::start();
    let database = few(server.url(), 1);
    run(&database, "CREATE TABLE t (i INTEGER PRIMARY KEY)").await;
    let mut transaction = database.begin(None).await.unwrap();
    transaction
        .execute("INSERT INTO t VALUES (1)", Vec::new())
        .await
        .unwrap();
    // What is refused on this side is none of the transaction's business.
    assert!(
        transaction
            .execute("SET search_path = x", Vec::new())
            .await
            .is_err()
    );
    transaction
        .execute("INSERT INTO t VALUES (2)", Vec::new())
        .await
        .unwrap();
    let error = transaction
        .execute("INSERT INTO t VALUES (1)", Vec::new())
        .await
        .unwrap_err();
    assert!(matches!(error, SqlError::Constraint { .. }), "{error:?}");
    let error = transaction.query("SELECT 1", Vec::new()).await.unwrap_err();
    assert!(matches!(error, SqlError::RolledBack { .. }), "{error:?}");
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, SqlError::RolledBack { .. }), "{error:?}");
    assert_eq!(number(&database, "SELECT count(*) FROM t").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_no_acknowledged_write_when_the_server_is_killed_under_load() {
    let mut server = Postgres::start();
    let database = Arc::new(few(server.url(), 4));
    run(&*database, "CREATE TABLE t (task INTEGER, n INTEGER)").await;
    let mut tasks = JoinSet::new();
    for task in 0..6 {
        let database = database.clone();
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            let mut n = 0;
            while acknowledged.len() < 100 {
                n += 1;
                let row = vec![SqlValue::Integer(task), SqlValue::Integer(n)];
                let insert = "INSERT INTO t VALUES ($1, $2)";
                let written = match n % 2 {
                    0 => Sql::execute(&*database, insert, row, None).await.map(drop),
                    _ => in_a_transaction(&*database, insert, row).await,
                };
                match written {
                    Ok(()) => acknowledged.push((task, n)),
                    Err(
                        SqlError::Unavailable { .. }
                        | SqlError::MayHaveCommitted
                        | SqlError::Busy
                        | SqlError::RolledBack { .. },
                    ) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Err(error) => panic!("{error:?}"),
                }
            }
            acknowledged
        });
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.kill();
        server.restart();
        once_it_answers(async || number(&*database, "SELECT count(*) FROM t").await).await;
    }
    let acknowledged = tokio::time::timeout(LONG, tasks.join_all()).await.unwrap();
    for (task, n) in acknowledged.into_iter().flatten() {
        let count = format!("SELECT count(*) FROM t WHERE task = {task} AND n = {n}");
        assert_eq!(number(&*database, &count).await.unwrap(), 1, "{task} {n}");
    }
}

async fn in_a_transaction(database: &dyn Sql, insert: &str, row: Vec<SqlValue>) -> Result<(), SqlError> {
    let mut transaction = database.begin(None).await?;
    transaction.execute(insert, row).await?;
    transaction.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_costs_a_caller_its_deadline_and_heals() {
    let server = Postgres::start();
    let proxy = Proxy::to(server.port()).await;
    let database = few(server.url_at(proxy.port()), 2);
    run(&database, "CREATE TABLE t (i INTEGER)").await;
    proxy.cut();
    for _ in 0..3 {
        let deadline = Some(Instant::now() + Duration::from_millis(50));
        let insert = Sql::execute(&database, "INSERT INTO t VALUES (1)", Vec::new(), deadline);
        let error = tokio::time::timeout(LONG, insert).await.unwrap().unwrap_err();
        let is_typed = matches!(
            error,
            SqlError::MayHaveCommitted | SqlError::DeadlineExceeded | SqlError::Unavailable { .. }
        );
        assert!(is_typed, "{error:?}");
    }
    proxy.heal();
    once_it_answers(async || number(&database, "SELECT count(*) FROM t").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_server_that_is_not_there_are_unavailable_with_the_reason() {
    let server = Postgres::start();
    let wrong = server.url().replace(Postgres::PASSWORD, "wrong");
    let nowhere = server.url_at(weft_servers::free_port());
    for (url, reason) in [
        (wrong, "password authentication failed"),
        (nowhere, "failed to connect"),
    ] {
        let database = open(&url);
        // The second time it was tried a moment ago.
        for _ in 0..2 {
            let error = number(&database, "SELECT 1").await.unwrap_err();
            assert!(matches!(error, SqlError::Unavailable { .. }), "{error:?}");
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.to_string().contains("wrong"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_tls_to_whom_it_is_told_to_trust_alone() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path());
    let server = Postgres::start_with_tls(&certificate);
    let url = format!("{}?sslmode=require", server.url());
    let trusting = PostgresOptions {
        ca_file: Some(certificate.authority.clone()),
        ..PostgresOptions::new(url.clone())
    };
    let database = PostgresSql::open(&trusting).unwrap();
    let mine = "SELECT count(*) FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()";
    assert_eq!(number(&database, mine).await.unwrap(), 1);
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let error = Sql::query(&database, "SELECT pg_sleep(600)", Vec::new(), deadline)
        .await
        .unwrap_err();
    assert!(matches!(error, SqlError::DeadlineExceeded), "{error:?}");

    let error = number(&open(&url), "SELECT 1").await.unwrap_err();
    assert!(matches!(error, SqlError::Unavailable { .. }), "{error:?}");
    let plain = Postgres::start();
    let options = PostgresOptions {
        url: format!("{}?sslmode=require", plain.url()),
        ..trusting
    };
    let error = number(&PostgresSql::open(&options).unwrap(), "SELECT 1")
        .await
        .unwrap_err();
    assert!(matches!(error, SqlError::Unavailable { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_is_told_at_once_and_a_renewed_one_is_taken_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::expired(folder.path());
    let mut server = Postgres::start_with_tls(&certificate);
    let database = PostgresSql::open(&PostgresOptions {
        ca_file: Some(certificate.authority.clone()),
        ..PostgresOptions::new(format!("{}?sslmode=require", server.url()))
    })
    .unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        let error = number(&database, "SELECT 1").await.unwrap_err();
        assert!(matches!(error, SqlError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("certificate expired"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    certificate.renew();
    server.take(&certificate);
    server.restart();
    let one = once_it_answers(async || number(&database, "SELECT 1").await).await;
    assert_eq!(one, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_over_the_limit_is_refused_before_it_is_read() {
    let server = Postgres::start();
    let database = few(server.url(), 1);
    for _ in 0..3 {
        let error = number(&database, "SELECT repeat('x', 50000000)")
            .await
            .unwrap_err();
        assert!(matches!(error, SqlError::TooLarge { .. }), "{error:?}");
        assert_eq!(number(&database, "SELECT 1").await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_follows_a_schema_that_changes_under_it() {
    let server = Postgres::start();
    let database = open(&server.url());
    run(&database, "CREATE TABLE t (a INTEGER)").await;
    run(&database, "INSERT INTO t VALUES (1)").await;
    for columns in 1..6 {
        for _ in 0..3 {
            let rows = Sql::query(&database, "SELECT * FROM t", Vec::new(), None)
                .await
                .unwrap();
            assert_eq!(rows.rows[0].len(), columns);
        }
        run(&database, &format!("ALTER TABLE t ADD COLUMN b{columns} TEXT")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_may_not_do_is_denied() {
    let server = Postgres::start();
    let admin = open(&server.url());
    run(&admin, "CREATE TABLE t (i INTEGER)").await;
    run(&admin, "CREATE ROLE guest LOGIN PASSWORD 'secret'").await;
    let guest = open(&server.url().replace("weft:", "guest:"));
    for statement in ["SELECT * FROM t", "SELECT pg_read_file('/etc/passwd')"] {
        let error = Sql::query(&guest, statement, Vec::new(), None).await.unwrap_err();
        assert!(matches!(error, SqlError::Denied { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn says_what_is_wrong_with_an_address_without_showing_it() {
    for url in [
        "http://u:secret@x",
        "postgres:///db",
        "postgres://u:secret@%2Ftmp/db",
    ] {
        let options = PostgresOptions::new(url);
        let error = PostgresSql::open(&options).err().unwrap();
        assert!(
            matches!(error, OpenError::Address | OpenError::NoHost),
            "{url}: {error:?}"
        );
        assert!(!error.to_string().contains("secret") && !format!("{options:?}").contains("secret"));
    }
}
