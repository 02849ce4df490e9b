//! How little stack a read needs on its caller's thread, which may be a guest's fiber.
#![cfg(test)]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use weft_capabilities::sql::{Sql, SqlValue};
use weft_sqlite::{SqliteOptions, SqliteSql};

/// A third of what a host leaves its guests' host functions (some 500 KiB).
const STACK_LEN: usize = 160 << 10;

/// What recurses most while it runs, within the limits on statements: patterns, JSON, and many tables, views and
/// sorts in one.
fn worst() -> Vec<(String, Vec<SqlValue>)> {
    let text = |text: String| SqlValue::Text(text);
    let deep_json = format!("{}{}", "[".repeat(990), "]".repeat(990));
    let joins: String = (0..20).map(|n| format!(", t AS t{n}")).collect();
    vec![
        (
            "SELECT a FROM v40 WHERE a = $1".to_owned(),
            vec![SqlValue::Integer(1)],
        ),
        (
            "SELECT $1 LIKE $2".to_owned(),
            vec![text("ab".repeat(200)), text("%b".repeat(240))],
        ),
        (
            "SELECT $1 GLOB $2".to_owned(),
            vec![text("ab".repeat(200)), text("*b".repeat(240))],
        ),
        (
            "SELECT json_extract(json($1), '$[0]')".to_owned(),
            vec![text(deep_json.clone())],
        ),
        (
            "SELECT count(*) FROM json_tree($1)".to_owned(),
            vec![text(deep_json)],
        ),
        (format!("SELECT count(*) FROM t{joins} ORDER BY 1"), Vec::new()),
        (
            "SELECT printf('%.900f %s', 1e300, $1)".to_owned(),
            vec![text("x".repeat(1_000))],
        ),
        (
            format!("SELECT {}1{}", "abs(".repeat(60), ")".repeat(60)),
            Vec::new(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_its_callers_thread_needs_little_stack() {
    let folder = tempfile::tempdir().unwrap();
    let database = SqliteSql::open(
        &folder.path().join("a.sqlite"),
        SqliteOptions {
            readers: 1,
            ..Default::default()
        },
    );
    let database = database.unwrap();
    let run = async |statement: String| {
        Sql::execute(&database, &statement, Vec::new(), None)
            .await
            .unwrap()
    };
    run("CREATE TABLE t (a INTEGER, b TEXT)".to_owned()).await;
    run("INSERT INTO t VALUES (1, 'x')".to_owned()).await;
    run("CREATE VIEW v0 AS SELECT a FROM t".to_owned()).await;
    for view in 1..=40 {
        run(format!(
            "CREATE VIEW v{view} AS SELECT a FROM v{} GROUP BY a",
            view - 1
        ))
        .await;
    }
    for (statement, params) in worst() {
        // Prepared by a first call, on a thread of the backend's own.
        let expected = Sql::query(&database, &statement, params.clone(), None).await;
        let Ok(expected) = expected else {
            panic!("{statement}: {expected:?}")
        };
        let inline = std::thread::scope(|scope| {
            let on_small_stack = || {
                let mut query = pin!(Sql::query(&database, &statement, params, None));
                query.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            };
            std::thread::Builder::new()
                .stack_size(STACK_LEN)
                .spawn_scoped(scope, on_small_stack)
                .unwrap()
                .join()
                .unwrap()
        });
        let Poll::Ready(Ok(rows)) = inline else {
            panic!("{statement}: it did not run on its caller's thread")
        };
        assert_eq!(rows, expected);
    }
}
