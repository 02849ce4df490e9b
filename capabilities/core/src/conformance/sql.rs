//! The rules of [`Sql`], in SQL that SQLite and Postgres both read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::sql::{
    ConstraintKind, PARAMS_BYTES_MAX, RESULT_ROWS_MAX, Rows, STATEMENT_LEN_MAX, Sql, SqlError, SqlValue,
};

/// Where the backends' SQL differs.
#[derive(Debug, Clone, Copy)]
pub struct SqlDialect {
    /// The type of a column of bytes.
    pub blob: &'static str,
    /// The type of a column of 64-bit numbers.
    pub integer: &'static str,
    /// Whether transactions run side by side, so that one of two that conflict is [`SqlError::Busy`] and is to be tried
    /// again.
    pub transactions_conflict: bool,
}

/// A query that does not end by itself.
const RUNAWAY: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0";
/// Longer than any answer of these tests takes: a bound, not a moment.
const LONG: Duration = Duration::from_secs(60);

/// Runs every rule, each on a database of its own. `open` gives an empty one.
///
/// # Panics
/// With the rule that the backend breaks.
pub async fn sql(open: impl Fn() -> Arc<dyn Sql>, dialect: SqlDialect) {
    values_survive_with_their_types(&*open(), dialect).await;
    parameters_are_values_and_never_text(&*open()).await;
    parameters_go_by_their_numbers(&*open()).await;
    rows_affected_are_counted(&*open()).await;
    broken_constraints_are_typed(&*open()).await;
    a_statement_that_fails_has_no_effect(&*open()).await;
    a_transaction_is_seen_only_once_committed(&*open()).await;
    a_transaction_that_is_dropped_is_rolled_back(&*open()).await;
    a_failed_query_leaves_the_database_usable(&*open()).await;
    no_update_is_lost_among_many_tasks(open(), dialect).await;
    results_have_bounds(&*open()).await;
    a_deadline_ends_a_runaway_query(&*open()).await;
    a_dropped_query_stops(&*open()).await;
    a_transaction_ends_at_its_deadline(&*open()).await;
    statements_can_not_begin_transactions_by_themselves(&*open()).await;
    refuses_all_but_closing_once_closed(&*open()).await;
}

async fn run(database: &dyn Sql, statement: &str) -> u64 {
    database
        .execute(statement, Vec::new(), None)
        .await
        .unwrap()
        .rows_affected
}

async fn ask(database: &dyn Sql, statement: &str) -> Rows {
    database.query(statement, Vec::new(), None).await.unwrap()
}

async fn number(database: &dyn Sql, statement: &str) -> i64 {
    match ask(database, statement).await.rows[0][0] {
        SqlValue::Integer(number) => number,
        ref other => panic!("{statement}: {other:?}"),
    }
}

fn text(value: &str) -> SqlValue {
    SqlValue::Text(value.to_owned())
}

async fn values_survive_with_their_types(database: &dyn Sql, dialect: SqlDialect) {
    let SqlDialect { blob, integer, .. } = dialect;
    run(
        database,
        &format!("CREATE TABLE v (id {integer} PRIMARY KEY, i {integer}, r DOUBLE PRECISION, t TEXT, b {blob}, f BOOLEAN)"),
    )
    .await;
    let rows = vec![
        vec![
            SqlValue::Integer(1),
            SqlValue::Integer(i64::MIN),
            SqlValue::Real(-1.5e300),
            text("grüße, 世界 🌍\n'\"\\"),
            SqlValue::Blob(Bytes::from_iter(0..=255)),
            SqlValue::Boolean(true),
        ],
        vec![
            SqlValue::Integer(2),
            SqlValue::Integer(i64::MAX),
            SqlValue::Real(0.1),
            text(""),
            SqlValue::Blob(Bytes::new()),
            SqlValue::Boolean(false),
        ],
        vec![
            SqlValue::Integer(3),
            SqlValue::Null,
            SqlValue::Null,
            SqlValue::Null,
            SqlValue::Null,
            SqlValue::Null,
        ],
    ];
    for row in &rows {
        let insert = "INSERT INTO v VALUES ($1, $2, $3, $4, $5, $6)";
        database.execute(insert, row.clone(), None).await.unwrap();
    }
    // More than once: a cached statement must give the same.
    for _ in 0..3 {
        let got = ask(database, "SELECT * FROM v ORDER BY id").await;
        assert_eq!(got.columns, ["id", "i", "r", "t", "b", "f"]);
        assert_eq!(got.rows, rows);
    }
}

async fn parameters_are_values_and_never_text(database: &dyn Sql) {
    run(database, "CREATE TABLE p (t TEXT)").await;
    let hostile = "'); DROP TABLE p; --";
    let insert = "INSERT INTO p VALUES ($1)";
    database.execute(insert, vec![text(hostile)], None).await.unwrap();
    let found = database
        .query("SELECT t FROM p WHERE t = $1", vec![text(hostile)], None)
        .await
        .unwrap();
    assert_eq!(found.rows, [[text(hostile)]]);
    let all = database
        .query("SELECT t FROM p WHERE t = $1", vec![text("' OR '1'='1")], None)
        .await
        .unwrap();
    assert!(all.rows.is_empty());
}

async fn parameters_go_by_their_numbers(database: &dyn Sql) {
    run(database, "CREATE TABLE n (a TEXT, b TEXT)").await;
    let insert = "INSERT INTO n VALUES ($2, $1)";
    database
        .execute(insert, vec![text("one"), text("two")], None)
        .await
        .unwrap();
    let twice = "SELECT a, b FROM n WHERE a = $1 AND $1 = a AND b = $2";
    for _ in 0..3 {
        let found = database
            .query(twice, vec![text("two"), text("one")], None)
            .await
            .unwrap();
        assert_eq!(found.rows, [[text("two"), text("one")]]);
    }
    for params in [vec![text("one")], vec![text("one"); 3]] {
        let error = database.execute(insert, params, None).await.unwrap_err();
        assert!(matches!(error, SqlError::Syntax { .. }), "{error}");
    }
}

async fn rows_affected_are_counted(database: &dyn Sql) {
    assert_eq!(run(database, "CREATE TABLE c (i INTEGER)").await, 0);
    assert_eq!(run(database, "INSERT INTO c VALUES (1), (2), (3)").await, 3);
    assert_eq!(run(database, "CREATE TABLE c2 (i INTEGER)").await, 0);
    assert_eq!(run(database, "UPDATE c SET i = i + 1 WHERE i > 1").await, 2);
    assert_eq!(run(database, "DELETE FROM c WHERE i = 99").await, 0);
    let returned = ask(database, "DELETE FROM c RETURNING i").await;
    assert_eq!(returned.rows.len(), 3);
    assert_eq!(number(database, "SELECT count(*) FROM c").await, 0);
}

async fn broken_constraints_are_typed(database: &dyn Sql) {
    run(database, "CREATE TABLE a (id INTEGER PRIMARY KEY)").await;
    run(
        database,
        "CREATE TABLE b (id INTEGER PRIMARY KEY, u TEXT UNIQUE, m TEXT NOT NULL, n INTEGER CHECK (n > 0), \
         a INTEGER REFERENCES a (id))",
    )
    .await;
    run(database, "INSERT INTO a VALUES (1)").await;
    run(database, "INSERT INTO b VALUES (1, 'u', 'm', 1, 1)").await;
    for (values, expected) in [
        ("1, 'v', 'm', 1, 1", ConstraintKind::Unique),
        ("2, 'u', 'm', 1, 1", ConstraintKind::Unique),
        ("2, 'v', NULL, 1, 1", ConstraintKind::NotNull),
        ("2, 'v', 'm', 0, 1", ConstraintKind::Check),
        ("2, 'v', 'm', 1, 2", ConstraintKind::ForeignKey),
    ] {
        let insert = format!("INSERT INTO b VALUES ({values})");
        match database.execute(&insert, Vec::new(), None).await {
            Err(SqlError::Constraint { kind, .. }) => assert_eq!(kind, expected, "{values}"),
            other => panic!("{values}: {other:?}"),
        }
    }
    let error = database
        .execute("DELETE FROM a", Vec::new(), None)
        .await
        .unwrap_err();
    let SqlError::Constraint { kind, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(kind, ConstraintKind::ForeignKey);
}

async fn a_statement_that_fails_has_no_effect(database: &dyn Sql) {
    run(database, "CREATE TABLE u (i INTEGER PRIMARY KEY)").await;
    run(database, "INSERT INTO u VALUES (3)").await;
    let insert = "INSERT INTO u VALUES (1), (2), (3)";
    assert!(database.execute(insert, Vec::new(), None).await.is_err());
    assert_eq!(number(database, "SELECT count(*) FROM u").await, 1);
}

async fn a_transaction_is_seen_only_once_committed(database: &dyn Sql) {
    run(database, "CREATE TABLE s (i INTEGER)").await;
    let mut transaction = database.begin(None).await.unwrap();
    transaction
        .execute("INSERT INTO s VALUES ($1)", vec![SqlValue::Integer(1)])
        .await
        .unwrap();
    let inside = transaction.query("SELECT i FROM s", Vec::new()).await.unwrap();
    assert_eq!(inside.rows, [[SqlValue::Integer(1)]]);
    assert_eq!(number(database, "SELECT count(*) FROM s").await, 0);
    transaction.commit().await.unwrap();
    assert_eq!(number(database, "SELECT count(*) FROM s").await, 1);

    let mut transaction = database.begin(None).await.unwrap();
    transaction.execute("DELETE FROM s", Vec::new()).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(number(database, "SELECT count(*) FROM s").await, 1);
}

async fn a_transaction_that_is_dropped_is_rolled_back(database: &dyn Sql) {
    run(database, "CREATE TABLE d (i INTEGER)").await;
    for _ in 0..5 {
        let mut transaction = database.begin(None).await.unwrap();
        transaction
            .execute("INSERT INTO d VALUES (1)", Vec::new())
            .await
            .unwrap();
        drop(transaction);
    }
    assert_eq!(run(database, "INSERT INTO d VALUES (2)").await, 1);
    assert_eq!(number(database, "SELECT count(*) FROM d").await, 1);
}

async fn a_failed_query_leaves_the_database_usable(database: &dyn Sql) {
    for statement in ["SELEC 1", "SELECT * FROM nowhere", "SELECT $1 +", ""] {
        for error in [
            database.query(statement, Vec::new(), None).await.unwrap_err(),
            database.execute(statement, Vec::new(), None).await.unwrap_err(),
        ] {
            assert!(matches!(error, SqlError::Syntax { .. }), "{statement}: {error:?}");
        }
    }
    assert!(
        database
            .execute("CREATE TABLE x (i INTEGER); DROP TABLE x", Vec::new(), None)
            .await
            .is_err()
    );
    assert_eq!(number(database, "SELECT 7").await, 7);
}

async fn no_update_is_lost_among_many_tasks(database: Arc<dyn Sql>, dialect: SqlDialect) {
    run(&*database, "CREATE TABLE l (i INTEGER)").await;
    run(&*database, "INSERT INTO l VALUES (0)").await;
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let database = database.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                if task % 2 == 0 {
                    run(&*database, "UPDATE l SET i = i + 1").await;
                    continue;
                }
                loop {
                    match add_one_in_a_transaction(&*database).await {
                        Err(SqlError::Busy) if dialect.transactions_conflict => {}
                        done => break done.unwrap(),
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(number(&*database, "SELECT i FROM l").await, 80);
}

async fn add_one_in_a_transaction(database: &dyn Sql) -> Result<(), SqlError> {
    let mut transaction = database.begin(None).await?;
    let now = transaction.query("SELECT i FROM l", Vec::new()).await?.rows[0][0].clone();
    let SqlValue::Integer(now) = now else {
        panic!("{now:?}")
    };
    let next = vec![SqlValue::Integer(now + 1)];
    transaction.execute("UPDATE l SET i = $1", next).await?;
    transaction.commit().await
}

async fn results_have_bounds(database: &dyn Sql) {
    let too_large = |error: SqlError| matches!(error, SqlError::TooLarge { .. });
    let count = |to: usize| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {to}) SELECT i FROM n"
        )
    };
    let rows = ask(database, &count(RESULT_ROWS_MAX)).await.rows;
    assert_eq!(rows.len(), RESULT_ROWS_MAX);
    assert!(too_large(
        database
            .query(&count(RESULT_ROWS_MAX + 1), Vec::new(), None)
            .await
            .unwrap_err()
    ));

    run(database, "CREATE TABLE big (t TEXT)").await;
    for _ in 0..3 {
        let value = vec![text(&"x".repeat(3 << 20))];
        database
            .execute("INSERT INTO big VALUES ($1)", value, None)
            .await
            .unwrap();
    }
    assert!(too_large(
        database
            .query("SELECT t FROM big", Vec::new(), None)
            .await
            .unwrap_err()
    ));
    assert_eq!(ask(database, "SELECT t FROM big LIMIT 2").await.rows.len(), 2);
    let long = format!("SELECT 1 -- {}", "x".repeat(STATEMENT_LEN_MAX));
    assert!(too_large(
        database.query(&long, Vec::new(), None).await.unwrap_err()
    ));
    let huge = vec![text(&"x".repeat(PARAMS_BYTES_MAX))];
    assert!(too_large(
        database
            .execute("INSERT INTO big VALUES ($1)", huge, None)
            .await
            .unwrap_err()
    ));
}

async fn a_deadline_ends_a_runaway_query(database: &dyn Sql) {
    // The second time it is a cached statement.
    for _ in 0..2 {
        let deadline = Instant::now() + Duration::from_millis(50);
        let ended = tokio::time::timeout(LONG, database.query(RUNAWAY, Vec::new(), Some(deadline))).await;
        assert!(matches!(ended, Ok(Err(SqlError::DeadlineExceeded))), "{ended:?}");
        assert!(Instant::now() >= deadline);
    }
    assert_eq!(number(database, "SELECT 1").await, 1);
    run(database, "CREATE TABLE after_runaway (i INTEGER)").await;
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let insert = format!("INSERT INTO after_runaway {RUNAWAY}");
    let ended = tokio::time::timeout(LONG, database.execute(&insert, Vec::new(), deadline)).await;
    assert!(matches!(ended, Ok(Err(SqlError::DeadlineExceeded))), "{ended:?}");
    assert_eq!(run(database, "INSERT INTO after_runaway VALUES (1)").await, 1);
}

async fn a_dropped_query_stops(database: &dyn Sql) {
    run(database, "CREATE TABLE stopped (i INTEGER)").await;
    // More of them than any backend has connections: one that went on would hold its place for ever.
    for _ in 0..20 {
        let some_time = Duration::from_millis(5);
        let query = database.query(RUNAWAY, Vec::new(), None);
        assert!(tokio::time::timeout(some_time, query).await.is_err());
        let insert = format!("INSERT INTO stopped {RUNAWAY}");
        let execute = database.execute(&insert, Vec::new(), None);
        assert!(tokio::time::timeout(some_time, execute).await.is_err());
    }
    let usable = async {
        assert_eq!(number(database, "SELECT count(*) FROM stopped").await, 0);
        assert_eq!(run(database, "INSERT INTO stopped VALUES (1)").await, 1);
    };
    tokio::time::timeout(LONG, usable)
        .await
        .expect("dropped statements still run");
}

async fn a_transaction_ends_at_its_deadline(database: &dyn Sql) {
    run(database, "CREATE TABLE t (i INTEGER)").await;
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut transaction = database.begin(Some(deadline)).await.unwrap();
    transaction
        .execute("INSERT INTO t VALUES (1)", Vec::new())
        .await
        .unwrap();
    // Held, not used: others get their turn all the same.
    assert_eq!(run(database, "INSERT INTO t VALUES (2)").await, 1);
    tokio::time::sleep_until(deadline.into()).await;
    assert!(
        transaction
            .execute("INSERT INTO t VALUES (3)", Vec::new())
            .await
            .is_err()
    );
    assert!(transaction.commit().await.is_err());
    assert_eq!(number(database, "SELECT sum(i) FROM t").await, 2);
}

async fn statements_can_not_begin_transactions_by_themselves(database: &dyn Sql) {
    for statement in ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s"] {
        assert!(
            database.execute(statement, Vec::new(), None).await.is_err(),
            "{statement} was run"
        );
        assert!(
            database.query(statement, Vec::new(), None).await.is_err(),
            "{statement} was run"
        );
    }
    let mut transaction = database.begin(None).await.unwrap();
    assert!(transaction.execute("COMMIT", Vec::new()).await.is_err());
}

async fn refuses_all_but_closing_once_closed(database: &dyn Sql) {
    database.close().await;
    database.close().await;
    assert!(matches!(
        database.query("SELECT 1", Vec::new(), None).await,
        Err(SqlError::Closed)
    ));
    assert!(matches!(
        database.execute("SELECT 1", Vec::new(), None).await,
        Err(SqlError::Closed)
    ));
    assert!(matches!(database.begin(None).await, Err(SqlError::Closed)));
}
