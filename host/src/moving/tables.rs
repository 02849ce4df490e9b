//! Tables from one database to another.
//!
//! Owns the comparison of two databases by key and content, so that a copy that is made again writes only what differs, and
//! what the new one has and the old one has not is deleted. Nobody can tell which rows a statement changes, so all is
//! compared again while nothing is written; what was copied before makes that short. It must not know why anything is copied.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use weft_capabilities::sql::tables::{Planned, SqlTables, Table, TablesError, plan};
use weft_capabilities::sql::{ConstraintKind, SqlError, SqlValue};

use super::copy::Copied;

/// Rows that are compared at once.
const PAGE_LEN: usize = 250;

/// The tables that are copied, those that others refer to first.
///
/// # Errors
/// [`TablesError::Refused`] names what can't be made in the new database.
pub async fn planned(from: &dyn SqlTables, to: &dyn SqlTables) -> Result<Vec<Planned>, TablesError> {
    plan(&from.schema().await?, &to.schema().await?).map_err(TablesError::Refused)
}

/// Looks whether the tables of `from` can be made in `to`; gives one of them that has rows there, if there is one.
///
/// # Errors
/// [`TablesError`]
pub async fn first_in_use(from: &dyn SqlTables, to: &dyn SqlTables) -> Result<Option<String>, TablesError> {
    let planned = planned(from, to).await?;
    to.create(&planned, false).await?;
    for planned in planned.iter().filter(|planned| !planned.create) {
        if !to.is_empty(&planned.table).await? {
            return Ok(Some(planned.table.name.clone()));
        }
    }
    Ok(None)
}

/// Makes the tables of `to` what they are in `from`, while those are written to: what is unique or referred to may not be so
/// yet, and what has no key is left for the end.
///
/// # Errors
/// [`TablesError`]; what was copied stays.
pub async fn copy_while_used(
    from: &dyn SqlTables,
    to: &dyn SqlTables,
    copied: &Copied,
) -> Result<(), TablesError> {
    Copy {
        from,
        to,
        copied,
        is_still: false,
    }
    .all()
    .await
}

/// The same, while nothing is written; what both have then is the same.
///
/// # Errors
/// [`TablesError`]; what was copied stays.
pub async fn copy_while_still(
    from: &dyn SqlTables,
    to: &dyn SqlTables,
    copied: &Copied,
) -> Result<(), TablesError> {
    let copy = Copy {
        from,
        to,
        copied,
        is_still: true,
    };
    match copy.all().await {
        // A value that is unique went from one row to another.
        Err(error) if is_in_the_way(&error) => {
            let planned = planned(from, to).await?;
            for planned in planned.iter().rev() {
                to.clear(&planned.table).await?;
            }
            copy.all().await.map_err(|error| match is_in_the_way(&error) {
                true => TablesError::Refused(format!("the new database does not take all rows: {error}")),
                false => error,
            })
        }
        done => done,
    }
}

fn is_in_the_way(error: &TablesError) -> bool {
    use ConstraintKind as C;
    matches!(
        error,
        TablesError::Sql(SqlError::Constraint {
            kind: C::Unique | C::ForeignKey,
            ..
        })
    )
}

struct Copy<'c> {
    from: &'c dyn SqlTables,
    to: &'c dyn SqlTables,
    copied: &'c Copied,
    /// Nobody writes to the old database.
    is_still: bool,
}

impl Copy<'_> {
    async fn all(&self) -> Result<(), TablesError> {
        // What was begun by a copy that did not end may still be written.
        self.to.fence().await?;
        if self.is_still {
            // So may be what nobody waits for any more.
            self.from.fence().await?;
        }
        let planned = planned(self.from, self.to).await?;
        self.to.create(&planned, true).await?;
        let tables: Vec<_> = planned.into_iter().map(|planned| planned.table).collect();
        // First those that refer to others.
        for table in tables.iter().rev() {
            match table.key.as_slice() {
                [] if self.is_still => self.to.clear(table).await?,
                [] => {}
                _ => self.drop_stale(table).await?,
            }
        }
        for table in &tables {
            if self.is_still || !table.key.is_empty() {
                self.fill(table).await?;
            }
            if self.is_still
                && let Some(last) = self.from.last_number(table).await?
            {
                self.to.set_last_number(table, last).await?;
            }
        }
        Ok(())
    }

    /// Deletes what the new database has and the old one has not.
    async fn drop_stale(&self, table: &Table) -> Result<(), TablesError> {
        let mut cursor: Option<Vec<SqlValue>> = None;
        loop {
            let page = self.to.page(table, cursor.as_deref(), PAGE_LEN).await?;
            let keys: Vec<_> = page.rows.iter().map(|row| table.key_of(row)).collect();
            let found = self.from.find(table, &keys).await?;
            let found: HashSet<_> = found.iter().map(|row| name(&table.key_of(row))).collect();
            let mut stale = keys;
            stale.retain(|key| !found.contains(&name(key)));
            self.tried(self.to.delete(table, &stale).await)?;
            self.copied.changed.fetch_add(stale.len() as u64, Relaxed);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Writes what the new database lacks, or has otherwise.
    async fn fill(&self, table: &Table) -> Result<(), TablesError> {
        let mut cursor: Option<Vec<SqlValue>> = None;
        loop {
            let mut page = self.from.page(table, cursor.as_deref(), PAGE_LEN).await?;
            self.copied.keys.fetch_add(page.rows.len() as u64, Relaxed);
            if !table.key.is_empty() {
                let keys: Vec<_> = page.rows.iter().map(|row| table.key_of(row)).collect();
                let there = self.to.find(table, &keys).await?;
                let there: HashMap<_, _> = there
                    .into_iter()
                    .map(|row| (name(&table.key_of(&row)), row))
                    .collect();
                page.rows
                    .retain(|row| there.get(&name(&table.key_of(row))) != Some(row));
            }
            self.tried(self.to.write(table, &page.rows).await)?;
            self.copied.changed.fetch_add(page.rows.len() as u64, Relaxed);
            let bytes: usize = page.rows.iter().flatten().map(SqlValue::len).sum();
            self.copied.bytes.fetch_add(bytes as u64, Relaxed);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// What is in the way while rows are written is left for when none are.
    fn tried(&self, done: Result<(), TablesError>) -> Result<(), TablesError> {
        match done {
            Err(error) if !self.is_still && is_in_the_way(&error) => Ok(()),
            done => done,
        }
    }
}

/// A key by which rows of both databases are told apart.
fn name(key: &[SqlValue]) -> String {
    format!("{key:?}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_capabilities::Sql;
    use weft_postgres::{PostgresOptions, PostgresSql};
    use weft_servers::Postgres;
    use weft_sqlite::{SqliteOptions, SqliteSql};

    use super::*;

    struct Both {
        old: Arc<dyn Sql>,
        new: Arc<dyn Sql>,
        copied: Copied,
        _folder: tempfile::TempDir,
        _server: Postgres,
    }

    impl Both {
        fn start() -> Self {
            let (folder, server) = (tempfile::tempdir().unwrap(), Postgres::start());
            let old = SqliteSql::open(&folder.path().join("old"), SqliteOptions::default()).unwrap();
            let new = PostgresSql::open(&PostgresOptions::new(server.url())).unwrap();
            Self {
                old: Arc::new(old),
                new: Arc::new(new),
                copied: Copied::default(),
                _folder: folder,
                _server: server,
            }
        }

        async fn run(&self, statement: &str) {
            let done = self.old.execute(statement, Vec::new(), None).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }

        fn tables(&self) -> (&dyn SqlTables, &dyn SqlTables) {
            (self.old.tables().unwrap(), self.new.tables().unwrap())
        }

        async fn copy(&self, is_still: bool) -> Result<(), TablesError> {
            let (from, to) = self.tables();
            match is_still {
                true => copy_while_still(from, to, &self.copied).await,
                false => copy_while_used(from, to, &self.copied).await,
            }
        }

        fn changed(&self) -> u64 {
            self.copied.changed.load(Relaxed)
        }

        async fn are_the_same(&self) {
            let (from, to) = self.tables();
            for planned in planned(from, to).await.unwrap() {
                let mut of_both = Vec::new();
                for database in [from, to] {
                    let page = database.page(&planned.table, None, 10_000).await.unwrap();
                    let mut rows: Vec<_> = page.rows.iter().map(|row| name(row)).collect();
                    rows.sort();
                    of_both.push(rows);
                }
                assert_eq!(of_both[0], of_both[1], "{}", planned.table.name);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn after_a_copy_both_databases_have_the_same_whatever_changed_meanwhile() {
        let both = Both::start();
        for statement in [
            "CREATE TABLE People (Id INTEGER PRIMARY KEY, mail TEXT UNIQUE, share REAL, paid NUMERIC(10, 2), is_in BOOLEAN, face BLOB)",
            "CREATE TABLE notes (person INTEGER NOT NULL REFERENCES people (id), at TEXT, text TEXT, PRIMARY KEY (person, at))",
            "CREATE TABLE visits (person BIGINT, note VARCHAR)",
            "INSERT INTO people WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
             SELECT i, 'mail-' || i, i / 7.0, i / 4.0, i % 2, CAST(i AS BLOB) FROM n",
            "INSERT INTO notes SELECT id, 'é-' || id, 'it''s \"' || id FROM people",
            "INSERT INTO visits SELECT id % 5, NULL FROM people",
        ] {
            both.run(statement).await;
        }
        both.copy(false).await.unwrap();
        assert_eq!(both.changed(), 1_400, "what has no key is left for the end");
        for statement in [
            // What is unique goes from one to another, also to one that comes before.
            "UPDATE people SET mail = NULL WHERE id = 10",
            "UPDATE people SET mail = 'mail-10' WHERE id = 600",
            "UPDATE people SET mail = 'mail-600' WHERE id = 10",
            "DELETE FROM notes WHERE person BETWEEN 100 AND 400",
            "DELETE FROM people WHERE id BETWEEN 100 AND 400",
            "INSERT INTO people (id, mail) VALUES (-5, 'mail-101')",
            "UPDATE notes SET text = NULL WHERE person = 7",
            "DELETE FROM visits WHERE person = 1",
        ] {
            both.run(statement).await;
        }
        both.copy(true).await.unwrap();
        both.are_the_same().await;
        // Once more there is nothing to write but what has no key.
        let before = both.changed();
        both.copy(true).await.unwrap();
        assert_eq!(both.changed() - before, 560);
        let number = "INSERT INTO people (mail) VALUES ('new') RETURNING id";
        let rows = both.new.query(number, Vec::new(), None).await.unwrap();
        assert_eq!(rows.rows, [[SqlValue::Integer(701)]], "numbers go on");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_value_that_the_new_database_can_not_have_is_named_with_table_and_column() {
        let both = Both::start();
        for (column, value, named) in [
            ("a INTEGER", "'x'", "no whole number"),
            ("a TEXT", "CAST(x'ff' AS TEXT)", "not UTF-8"),
            ("a TEXT", "x'00'", "no text"),
            ("a TEXT", "'a' || char(0)", "NUL"),
            ("a BLOB", "'text'", "no bytes"),
            ("a BOOLEAN", "7", "neither true nor false"),
            ("a NUMERIC", "'x'", "no number"),
            ("a TEXT PRIMARY KEY", "NULL", "no value"),
        ] {
            both.run(&format!("CREATE TABLE t ({column})")).await;
            both.run(&format!("INSERT INTO t VALUES ({value})")).await;
            let refused = both.copy(true).await.unwrap_err();
            let TablesError::Refused(why) = &refused else {
                panic!("{column}: {refused}");
            };
            assert!(
                why.contains("the column a of the table t") && why.contains(named),
                "{why}"
            );
            both.run("DROP TABLE t").await;
            both.new.execute("DROP TABLE t", Vec::new(), None).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tables_that_are_there_already_are_filled_and_told_if_they_have_rows() {
        let both = Both::start();
        both.run("CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME)")
            .await;
        both.run("INSERT INTO t VALUES (1, '2024-02-29 10:00:00')").await;
        let (from, to) = both.tables();
        let refused = first_in_use(from, to).await.unwrap_err();
        assert!(
            refused.to_string().contains("the type DATETIME of the column at"),
            "{refused}"
        );
        let by_hand = "CREATE TABLE t (id BIGINT PRIMARY KEY, at TEXT NOT NULL)";
        both.new.execute(by_hand, Vec::new(), None).await.unwrap();
        assert_eq!(first_in_use(from, to).await.unwrap(), None);
        both.copy(true).await.unwrap();
        both.are_the_same().await;
        assert_eq!(first_in_use(from, to).await.unwrap(), Some("t".to_owned()));
    }
}
