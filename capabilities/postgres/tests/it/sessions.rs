//! What one user of a connection leaves on it, and that the next sees nothing of it.

use weft_capabilities::sql::{Sql, SqlError, SqlValue};
use weft_postgres::{PostgresOptions, PostgresSql};
use weft_servers::Postgres;

use crate::{open, run};

/// A function that does `commands`, one after the other, and gives 1.
async fn function(admin: &dyn Sql, name: &str, commands: &[&str]) {
    let mut body = String::new();
    for command in commands {
        body.push_str(&format!("EXECUTE '{}'; ", command.replace('\'', "''")));
    }
    let make = format!(
        "CREATE FUNCTION {name}() RETURNS INTEGER LANGUAGE plpgsql AS $$ BEGIN {body} RETURN 1; END $$"
    );
    run(admin, &make).await;
}

/// All users of it have the same connection, one after the other.
fn of_one_connection(server: &Postgres) -> PostgresSql {
    let options = PostgresOptions {
        connections: 1,
        ..PostgresOptions::new(server.url())
    };
    PostgresSql::open(&options).unwrap()
}

async fn ask(database: &dyn Sql, statement: &str) -> SqlValue {
    let rows = database.query(statement, Vec::new(), None).await;
    let mut rows = rows.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    rows.rows.remove(0).remove(0)
}

/// What the next user sees: settings, whom it acts as, a table, what it listens to, cursors, sequences; and which connection
/// it is.
async fn seen(database: &dyn Sql) -> Vec<SqlValue> {
    let mut seen = Vec::new();
    for statement in [
        "SELECT pg_backend_pid()",
        "SELECT count(*) FROM orders",
        "SHOW statement_timeout",
        "SHOW search_path",
        "SHOW DateStyle",
        "SHOW TimeZone",
        "SELECT current_user::text",
        "SELECT session_user::text",
        "SELECT count(*) FROM pg_listening_channels()",
        "SELECT count(*) FROM pg_cursors",
    ] {
        seen.push(ask(database, statement).await);
    }
    seen
}

/// One user of a connection made a table in the place of another's, set settings past the filter (`U&"set\005fconfig"`,
/// `UPDATE pg_settings`) and kept locks, and the next user of it had them all.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_one_user_of_a_connection_leaves_is_there_for_the_next() {
    let server = Postgres::start();
    let admin = open(&server.url());
    let database = of_one_connection(&server);
    run(
        &admin,
        "CREATE TABLE orders (id BIGINT GENERATED ALWAYS AS IDENTITY)",
    )
    .await;
    run(&admin, "INSERT INTO orders DEFAULT VALUES").await;
    run(&admin, "CREATE SCHEMA evil").await;
    let commands = [
        "SET statement_timeout = 0",
        "SET search_path = evil",
        "SET ROLE pg_monitor",
        "LISTEN gossip",
        "DEALLOCATE ALL",
    ];
    function(&admin, "leave", &commands).await;
    let before = seen(&database).await;
    assert_eq!(before[2], SqlValue::Text("1min".to_owned()));
    let free = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    for statement in [
        "CREATE TEMP TABLE orders (id BIGINT)",
        "CREATE TABLE pg_temp.orders (id BIGINT)",
        "CREATE TEMP VIEW orders AS SELECT 1 AS id WHERE false",
        "SELECT 7::bigint AS id INTO TEMP orders WHERE false",
        "SELECT pg_advisory_lock(7)::text",
        "SELECT (7::bigint).pg_advisory_lock::text",
        "UPDATE pg_settings SET setting = 'evil' WHERE name = 'search_path'",
        "UPDATE \"pg_settings\" SET setting = '0' WHERE name = 'statement_timeout'",
        "SELECT U&\"set\\005fconfig\"('statement_timeout', '0', false)",
        "SELECT U&\"set\\005fconfig\"('role', 'pg_monitor', false)",
        "SELECT U&\"set\\005fconfig\"('session_authorization', 'pg_monitor', false)",
        "SELECT U&\"set\\005fconfig\"('DateStyle', 'German', false)",
        "SELECT U&\"set\\005fconfig\"('default_transaction_read_only', 'on', false)",
        // A function written as if it were a part of a value, or a column of one that stands for a table.
        "SELECT ('SELECT to_tsvector(set_' || 'config(''DateStyle'', ''German'', false))').ts_stat::text",
        "SELECT f.ts_stat::text FROM concat('SELECT to_tsvector(set_', 'config(''DateStyle'', ''German'', false))') AS f",
        "SELECT leave()",
        "INSERT INTO orders SELECT WHERE leave() = 2",
        // Locks of a statement that fails stay too.
        "SELECT pg_advisory_lock(7)::text, 1 / (random() * 0)::int",
    ] {
        // What is refused leaves nothing either.
        let first = database.query(statement, Vec::new(), None).await;
        assert_eq!(seen(&database).await, before, "{statement}: {first:?}");
        assert_eq!(ask(&admin, free).await, SqlValue::Integer(0), "{statement}");

        let mut transaction = database.begin(None).await.unwrap();
        let ran = transaction.execute(statement, Vec::new()).await;
        match ran.is_ok() {
            true => transaction.commit().await.unwrap(),
            false => transaction.rollback().await.unwrap(),
        }
        assert_eq!(seen(&database).await, before, "{statement} in a transaction");
        assert_eq!(ask(&admin, free).await, SqlValue::Integer(0), "{statement}");
    }
    let mut transaction = database.begin(None).await.unwrap();
    let insert = "INSERT INTO orders DEFAULT VALUES";
    transaction.execute(insert, Vec::new()).await.unwrap();
    let own = transaction.query("SELECT lastval()", Vec::new()).await.unwrap();
    assert!(matches!(own.rows[0][0], SqlValue::Integer(_)));
    transaction.rollback().await.unwrap();
    let others = database.query("SELECT lastval()", Vec::new(), None).await;
    assert!(matches!(others, Err(SqlError::Syntax { .. })), "{others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_another_put_in_the_place_of_a_prepared_one_is_never_run() {
    let server = Postgres::start();
    let admin = open(&server.url());
    let database = of_one_connection(&server);
    assert_eq!(ask(&database, "SELECT 41 + 1").await, SqlValue::Integer(42));
    let process = ask(&database, "SELECT pg_backend_pid()").await;
    let places: Vec<_> = (0..200).map(|n| format!("PREPARE s{n} AS SELECT 666")).collect();
    let commands = ["DEALLOCATE ALL"];
    let commands: Vec<_> = commands
        .into_iter()
        .chain(places.iter().map(String::as_str))
        .collect();
    function(&admin, "replace_all", &commands).await;
    assert_eq!(ask(&database, "SELECT replace_all()").await, SqlValue::Integer(1));
    assert_eq!(ask(&database, "SELECT 41 + 1").await, SqlValue::Integer(42));
    assert_ne!(ask(&database, "SELECT pg_backend_pid()").await, process);
}
