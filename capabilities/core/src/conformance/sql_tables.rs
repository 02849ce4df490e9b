//! The rules of [`SqlTables`], in SQL that SQLite and Postgres both read.

use std::sync::Arc;

use bytes::Bytes;

use super::SqlDialect;
use crate::sql::tables::{Planned, SqlTables, Table, TablesError, plan};
use crate::sql::{Sql, SqlValue};

/// Runs every rule, each on databases of its own. `open` gives an empty one.
///
/// # Panics
/// With the rule that the backend breaks.
pub async fn sql_tables(open: impl Fn() -> Arc<dyn Sql>, dialect: SqlDialect) {
    tables_are_made_as_they_were(&*open(), &*open(), dialect).await;
    pages_have_each_row_once(&*open(), dialect).await;
    rows_are_found_written_and_deleted_by_key(&*open(), dialect).await;
    rows_without_a_key_are_told_too(&*open(), dialect).await;
    numbers_go_on_where_they_were(&*open(), &*open(), dialect).await;
    what_is_only_tried_leaves_nothing(&*open(), &*open(), dialect).await;
    what_is_computed_or_triggered_is_named(&*open()).await;
}

fn of(database: &dyn Sql) -> &dyn SqlTables {
    database.tables().unwrap()
}

async fn run(database: &dyn Sql, statement: &str) {
    let done = database.execute(statement, Vec::new(), None).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// The tables of a database, as they are read and written.
async fn planned(database: &dyn Sql) -> Vec<Planned> {
    let schema = of(database).schema().await.unwrap();
    plan(&schema, &schema).unwrap()
}

async fn table(database: &dyn Sql, name: &str) -> Table {
    let mut planned = planned(database).await.into_iter();
    planned.find(|planned| planned.table.name == name).unwrap().table
}

fn text(value: &str) -> SqlValue {
    SqlValue::Text(value.to_owned())
}

async fn tables_are_made_as_they_were(old: &dyn Sql, new: &dyn Sql, dialect: SqlDialect) {
    let SqlDialect { blob, integer, .. } = dialect;
    for statement in [
        "CREATE TABLE parents (name TEXT PRIMARY KEY, grade BIGINT NOT NULL DEFAULT 3 CHECK (grade > 0))".to_owned(),
        format!(
            "CREATE TABLE \"odd \"\"name\" (parent TEXT NOT NULL REFERENCES parents (name) ON DELETE CASCADE,
                at BIGINT, share DOUBLE PRECISION, is_open BOOLEAN, picture {blob}, amount NUMERIC, n {integer} UNIQUE,
                PRIMARY KEY (parent, at), UNIQUE (share, n))"
        ),
        "CREATE INDEX odd_by_share ON \"odd \"\"name\" (share, at)".to_owned(),
        "CREATE UNIQUE INDEX odd_once ON \"odd \"\"name\" (is_open, at)".to_owned(),
    ] {
        run(old, &statement).await;
    }
    let schema = of(old).schema().await.unwrap();
    let planned = plan(&schema, &of(new).schema().await.unwrap()).unwrap();
    let names: Vec<_> = planned
        .iter()
        .map(|planned| planned.table.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["parents", "odd \"name"],
        "what is referred to comes first"
    );
    of(new).create(&planned, true).await.unwrap();
    let sorted = |mut schema: crate::sql::tables::Schema| {
        for table in &mut schema.tables {
            table.uniques.sort();
            table.indexes.sort_by(|one, other| one.name.cmp(&other.name));
        }
        schema
    };
    assert_eq!(
        sorted(of(new).schema().await.unwrap()),
        sorted(schema),
        "a schema that was made is the one that it was made of"
    );
    run(new, "INSERT INTO parents (name) VALUES ('a')").await;
    let refused = new
        .execute("INSERT INTO parents VALUES ('b', 0)", Vec::new(), None)
        .await;
    assert!(refused.is_err(), "the check was lost");
}

async fn pages_have_each_row_once(database: &dyn Sql, dialect: SqlDialect) {
    let integer = dialect.integer;
    run(
        database,
        &format!("CREATE TABLE t (a {integer}, b TEXT, c TEXT, PRIMARY KEY (a, b))"),
    )
    .await;
    for a in 0..7 {
        for b in ["", "B", "a", "é", "ab"] {
            let values = vec![SqlValue::Integer(a), text(b), text("c")];
            let insert = "INSERT INTO t VALUES ($1, $2, $3)";
            database.execute(insert, values, None).await.unwrap();
        }
    }
    let table = table(database, "t").await;
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = of(database).page(&table, cursor.as_deref(), 4).await.unwrap();
        assert!(page.rows.len() <= 4);
        seen.extend(page.rows.iter().map(|row| format!("{row:?}")));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 35);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 35, "a row came twice");
}

async fn rows_are_found_written_and_deleted_by_key(database: &dyn Sql, dialect: SqlDialect) {
    let SqlDialect { blob, integer, .. } = dialect;
    run(
        database,
        &format!(
            "CREATE TABLE t (a {integer}, b TEXT, r DOUBLE PRECISION, y {blob}, t BOOLEAN, n NUMERIC, PRIMARY KEY (a, b))"
        ),
    )
    .await;
    let table = table(database, "t").await;
    let bytes = |bytes: &'static [u8]| SqlValue::Blob(Bytes::from_static(bytes));
    let row = |a: i64, r: f64, n: &str| {
        let key = [SqlValue::Integer(a), text("it's \"é\"")];
        let rest = [
            SqlValue::Real(r),
            bytes(&[0, 255]),
            SqlValue::Boolean(true),
            text(n),
        ];
        [key.as_slice(), rest.as_slice()].concat()
    };
    let mut rows = vec![
        row(i64::MAX, 0.1, "1.5"),
        row(i64::MIN, 1e300, "-3"),
        row(0, -0.5, "0"),
    ];
    rows.push([row(1, 0.0, "0")[..2].to_vec(), vec![SqlValue::Null; 4]].concat());
    let tables = of(database);
    tables.write(&table, &rows).await.unwrap();
    let keys: Vec<_> = rows.iter().map(|row| table.key_of(row)).collect();
    let sorted = |mut rows: Vec<Vec<SqlValue>>| {
        rows.sort_by_key(|row| format!("{row:?}"));
        rows
    };
    assert_eq!(
        sorted(tables.find(&table, &keys).await.unwrap()),
        sorted(rows.clone()),
        "values survive"
    );
    rows[0] = row(i64::MAX, 0.2, "2");
    tables.write(&table, &rows[..1]).await.unwrap();
    assert_eq!(
        tables.find(&table, &keys[..1]).await.unwrap(),
        rows[..1],
        "a row takes the place of its key's"
    );
    assert!(tables.find(&table, &[]).await.unwrap().is_empty());
    tables.delete(&table, &keys[..2]).await.unwrap();
    assert_eq!(
        sorted(tables.find(&table, &keys).await.unwrap()),
        sorted(rows[2..].to_vec())
    );
    assert!(!tables.is_empty(&table).await.unwrap());
    tables.clear(&table).await.unwrap();
    assert!(tables.is_empty(&table).await.unwrap());
    // More than one statement takes.
    let many: Vec<_> = (0..3_000).map(|a| row(a, 0.5, "7")).collect();
    tables.write(&table, &many).await.unwrap();
    tables.fence().await.unwrap();
    assert_eq!(tables.page(&table, None, 5_000).await.unwrap().rows.len(), 3_000);
}

async fn rows_without_a_key_are_told_too(database: &dyn Sql, dialect: SqlDialect) {
    let integer = dialect.integer;
    run(database, &format!("CREATE TABLE t (a {integer})")).await;
    let table = table(database, "t").await;
    let rows: Vec<_> = (0..10).map(|n| vec![SqlValue::Integer(n / 2)]).collect();
    of(database).write(&table, &rows).await.unwrap();
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = of(database).page(&table, cursor.as_deref(), 3).await.unwrap();
        seen.extend(page.rows);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    seen.sort_by_key(|row| format!("{row:?}"));
    assert_eq!(seen, rows);
}

async fn numbers_go_on_where_they_were(old: &dyn Sql, new: &dyn Sql, dialect: SqlDialect) {
    let numbered = match dialect.transactions_conflict {
        true => "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        false => "INTEGER PRIMARY KEY AUTOINCREMENT",
    };
    run(old, &format!("CREATE TABLE t (id {numbered}, a TEXT)")).await;
    for _ in 0..3 {
        run(old, "INSERT INTO t (a) VALUES ('a')").await;
    }
    run(old, "DELETE FROM t WHERE id = 3").await;
    let planned = plan(&of(old).schema().await.unwrap(), &of(new).schema().await.unwrap());
    let planned = planned.unwrap();
    let table = &planned[0].table;
    of(new).create(&planned, true).await.unwrap();
    assert_eq!(of(new).last_number(table).await.unwrap(), None);
    let rows = of(old).page(table, None, 10).await.unwrap().rows;
    of(new).write(table, &rows).await.unwrap();
    let last = of(old).last_number(table).await.unwrap();
    assert_eq!(
        last,
        Some(3),
        "the number of a row that is gone is not given again"
    );
    of(new).set_last_number(table, 3).await.unwrap();
    run(new, "INSERT INTO t (a) VALUES ('b')").await;
    let rows = new
        .query("SELECT id FROM t WHERE a = 'b'", Vec::new(), None)
        .await;
    assert_eq!(rows.unwrap().rows, [[SqlValue::Integer(4)]]);
}

async fn what_is_only_tried_leaves_nothing(old: &dyn Sql, new: &dyn Sql, dialect: SqlDialect) {
    let integer = dialect.integer;
    run(old, &format!("CREATE TABLE t (a {integer} PRIMARY KEY)")).await;
    let planned = plan(&of(old).schema().await.unwrap(), &of(new).schema().await.unwrap());
    let mut planned = planned.unwrap();
    of(new).create(&planned, false).await.unwrap();
    assert!(of(new).schema().await.unwrap().tables.is_empty());
    planned[0].table.checks.push("no_such_column > 0".to_owned());
    let refused = of(new).create(&planned, false).await.unwrap_err();
    assert!(
        matches!(&refused, TablesError::Refused(why) if why.contains("the table t")),
        "{refused}"
    );
}

async fn what_is_computed_or_triggered_is_named(database: &dyn Sql) {
    for statement in [
        "CREATE TABLE t (a BIGINT PRIMARY KEY, b BIGINT GENERATED ALWAYS AS (a + 1) STORED)",
        "CREATE INDEX half ON t (a) WHERE a > 0",
        "CREATE VIEW seen AS SELECT a FROM t",
    ] {
        run(database, statement).await;
    }
    let schema = of(database).schema().await.unwrap();
    assert_eq!(schema.views, ["seen"]);
    let [table] = schema.tables.as_slice() else {
        panic!("{schema:?}");
    };
    assert!(table.columns[1].computed && !table.columns[0].computed);
    assert_eq!(table.others, ["the index half"]);
}
