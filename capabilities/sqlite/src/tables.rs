//! What is in the file, for who copies it.
//!
//! SQLite tells a schema by pragmas; only checks, and whether a column compares or conflicts in a way of its own, have to be
//! read out of the statement that made the table.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::sql::tables::{
    Column, Dialect, IndexOf, Kind, Reference, Schema, SqlTables, Table, TablesError, Token, quoted, tokens,
};
use weft_capabilities::sql::{Sql, SqlError, SqlValue};

use crate::SqliteSql;

/// What SQLite itself keeps in a file begins so.
const OWN: &str = "sqlite_";

/// A row of a pragma, by which columns are taken one after the other.
struct Row(std::vec::IntoIter<SqlValue>);

impl Row {
    fn text(&mut self) -> String {
        match self.0.next() {
            Some(SqlValue::Text(text)) => text,
            _ => String::new(),
        }
    }

    fn number(&mut self) -> i64 {
        match self.0.next() {
            Some(SqlValue::Integer(number)) => number,
            Some(SqlValue::Boolean(truth)) => truth.into(),
            _ => 0,
        }
    }

    fn maybe(&mut self) -> Option<String> {
        match self.0.next() {
            Some(SqlValue::Text(text)) => Some(text),
            _ => None,
        }
    }
}

impl SqliteSql {
    async fn rows(&self, text: &str, params: Vec<SqlValue>) -> Result<Vec<Row>, SqlError> {
        let rows = Sql::query(self, text, params, None).await?.rows;
        Ok(rows.into_iter().map(|row| Row(row.into_iter())).collect())
    }

    async fn pragma(&self, pragma: &str, of: &str) -> Result<Vec<Row>, SqlError> {
        self.rows(&format!("PRAGMA {pragma}({})", quoted(of)), Vec::new())
            .await
    }

    async fn number(&self, text: &str, params: Vec<SqlValue>) -> Result<Option<i64>, SqlError> {
        let row = self.rows(text, params).await?.pop();
        Ok(match row.and_then(|mut row| row.0.next()) {
            Some(SqlValue::Integer(number)) => Some(number),
            _ => None,
        })
    }

    /// Whether a table has numbers that are never given again; they are in a table of SQLite's own.
    async fn has_sequence(&self, table: &Table) -> Result<bool, SqlError> {
        let any = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'";
        if self.number(any, Vec::new()).await? != Some(1) {
            return Ok(false);
        }
        let text = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = $1 COLLATE NOCASE";
        let name = vec![SqlValue::Text(table.name.clone())];
        let made = self.rows(text, name).await?.pop();
        let made = made.map(|mut row| row.text()).unwrap_or_default();
        Ok(tokens(&made).iter().any(|token| token.is("AUTOINCREMENT")))
    }

    async fn table(&self, name: String, made: &str) -> Result<Table, SqlError> {
        let mut table = Table::default();
        let mut key = Vec::new();
        for mut row in self.pragma("table_xinfo", &name).await? {
            let (_, column, declared) = (row.number(), row.text(), row.text());
            let (not_null, default, at, hidden) = (row.number(), row.maybe(), row.number(), row.number());
            if at > 0 {
                key.push((at, column.clone()));
            }
            table.columns.push(Column {
                name: column,
                kind: kind(&declared),
                declared,
                // A key may be without a value here, which nobody means.
                not_null: not_null != 0 || at > 0,
                default,
                numbered: false,
                computed: hidden > 1,
            });
        }
        key.sort();
        table.key = key.into_iter().map(|(_, column)| column).collect();
        let is_stored_by_it = self.indexes(&name, &mut table).await?;
        if let [key] = table.key.as_slice() {
            let is_key = |column: &&mut Column| column.name == *key;
            if let Some(column) = table.columns.iter_mut().find(is_key) {
                column.numbered = is_stored_by_it && column.declared.eq_ignore_ascii_case("INTEGER");
            }
        }
        self.references(&name, &mut table).await?;
        read_made(made, &mut table);
        if table.key.is_empty()
            && table
                .columns
                .iter()
                .any(|column| column.name.eq_ignore_ascii_case("rowid"))
        {
            table
                .others
                .push("a column rowid without a primary key".to_owned());
        }
        table.name = name;
        Ok(table)
    }

    /// Whether no index stands for the primary key, as rows are stored by it.
    async fn indexes(&self, name: &str, table: &mut Table) -> Result<bool, SqlError> {
        let mut is_stored_by_it = true;
        for mut row in self.pragma("index_list", name).await? {
            let (_, index, unique) = (row.number(), row.text(), row.number());
            let (origin, partial) = (row.text(), row.number());
            if origin == "pk" {
                is_stored_by_it = false;
                continue;
            }
            let (mut columns, mut is_plain) = (Vec::new(), partial == 0);
            for mut part in self.pragma("index_xinfo", &index).await? {
                let (_, at, column) = (part.number(), part.number(), part.maybe());
                let (descending, collation, is_key) = (part.number(), part.text(), part.number());
                if is_key != 0 {
                    is_plain &= at >= 0 && descending == 0 && collation.eq_ignore_ascii_case("BINARY");
                    columns.extend(column);
                }
            }
            match (is_plain, origin.as_str()) {
                (true, "u") => table.uniques.push(columns),
                (true, _) => table.indexes.push(IndexOf {
                    name: index,
                    columns,
                    unique: unique != 0,
                }),
                (false, _) => table.others.push(format!("the index {index}")),
            }
        }
        Ok(is_stored_by_it)
    }

    async fn references(&self, name: &str, table: &mut Table) -> Result<(), SqlError> {
        let mut last = None;
        for mut row in self.pragma("foreign_key_list", name).await? {
            let (id, _, to_table) = (row.number(), row.number(), row.text());
            let (column, to, on_update, on_delete) = (row.text(), row.maybe(), row.text(), row.text());
            if last != Some(id) {
                last = Some(id);
                table.references.push(Reference {
                    columns: Vec::new(),
                    table: to_table,
                    to: Vec::new(),
                    on_delete,
                    on_update,
                });
            }
            if let Some(reference) = table.references.last_mut() {
                reference.columns.push(column);
                reference.to.extend(to);
            }
        }
        Ok(())
    }
}

/// What values a column has, by its type: SQLite goes by parts of the name, too.
fn kind(declared: &str) -> Kind {
    let name = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if has(&["INT"]) {
        Kind::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Kind::Text
    } else if has(&["BLOB"]) {
        Kind::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Kind::Real
    } else if ["BOOL", "BOOLEAN"].contains(&name.as_str()) {
        Kind::Boolean
    } else if has(&["NUMERIC", "DECIMAL"]) {
        Kind::Numeric
    } else {
        Kind::Other
    }
}

/// Reads out of the statement that made a table what no pragma tells.
fn read_made(made: &str, table: &mut Table) {
    let all = tokens(made);
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(token) = all.get(at) {
        if token.is_sign("(") {
            depth += 1;
        } else if token.is_sign(")") {
            depth = depth.saturating_sub(1);
        }
        let next = all.get(at + 1);
        if depth == 1 && token.is("CHECK") && next.is_some_and(|next| next.is_sign("(")) {
            let inner = inner(&all[at + 1..]);
            table.checks.push(written(inner));
            // Its parentheses are behind it.
            at += inner.len() + 3;
            continue;
        }
        if depth == 1 && token.is("COLLATE") && next.is_some_and(|next| !next.is("BINARY")) {
            table.others.push("a collation".to_owned());
        }
        let conflict = token.is("ON") && next.is_some_and(|next| next.is("CONFLICT"));
        if depth == 1 && conflict {
            table.others.push("what is done ON CONFLICT".to_owned());
        }
        if depth == 1 && token.is("DEFERRABLE") {
            table.others.push("a foreign key that is deferred".to_owned());
        }
        at += 1;
    }
}

/// What is between the first parenthesis and the one that ends it.
fn inner(all: &[Token]) -> &[Token] {
    let mut depth = 0_usize;
    for (at, token) in all.iter().enumerate() {
        if token.is_sign("(") {
            depth += 1;
        } else if token.is_sign(")") {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return all.get(1..at).unwrap_or_default();
            }
        }
    }
    all.get(1..).unwrap_or_default()
}

fn written(all: &[Token]) -> String {
    let parts = all.iter().map(|token| match token {
        Token::Name(name) => quoted(name),
        Token::Word(text) | Token::Text(text) | Token::Number(text) | Token::Sign(text) => text.clone(),
    });
    parts.collect::<Vec<_>>().join(" ")
}

impl SqlTables for SqliteSql {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema, TablesError>> {
        async move {
            let text = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid";
            let mut schema = Schema {
                dialect: Dialect::Sqlite,
                tables: Vec::new(),
                views: Vec::new(),
            };
            let mut triggers = Vec::new();
            for mut row in self.rows(text, Vec::new()).await? {
                let (what, name, of, made) = (row.text(), row.text(), row.text(), row.text());
                match what.as_str() {
                    _ if name.starts_with(OWN) => {}
                    "table" => schema.tables.push(self.table(name, &made).await?),
                    "view" => schema.views.push(name),
                    "trigger" => triggers.push((of, name)),
                    _ => {}
                }
            }
            for (of, name) in triggers {
                let mut tables = schema.tables.iter_mut();
                if let Some(table) = tables.find(|table| table.name.eq_ignore_ascii_case(&of)) {
                    table.others.push(format!("the trigger {name}"));
                }
            }
            Ok(schema)
        }
        .boxed()
    }

    /// All writes go through one thread, one after the other.
    fn fence(&self) -> BoxFuture<'_, Result<(), TablesError>> {
        async move { Ok(Sql::begin(self, None).await?.rollback().await?) }.boxed()
    }

    fn last_number<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<Option<i64>, TablesError>> {
        async move {
            let Some(column) = table.numbered() else {
                return Ok(None);
            };
            let max = format!(
                "SELECT max({}) FROM {}",
                quoted(&column.name),
                quoted(&table.name)
            );
            let mut last = self.number(&max, Vec::new()).await?;
            if self.has_sequence(table).await? {
                let given = "SELECT seq FROM sqlite_sequence WHERE name = $1 COLLATE NOCASE";
                let name = vec![SqlValue::Text(table.name.clone())];
                last = last.max(self.number(given, name).await?);
            }
            Ok(last)
        }
        .boxed()
    }

    fn set_last_number<'a>(&'a self, table: &'a Table, last: i64) -> BoxFuture<'a, Result<(), TablesError>> {
        async move {
            if !self.has_sequence(table).await? {
                // It goes on after the largest that is there.
                return Ok(());
            }
            let params = vec![SqlValue::Text(table.name.clone()), SqlValue::Integer(last)];
            let update = "UPDATE sqlite_sequence SET seq = $2 WHERE name = $1 COLLATE NOCASE";
            let updated = Sql::execute(self, update, params.clone(), None).await?;
            if updated.rows_affected == 0 {
                let insert = "INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)";
                Sql::execute(self, insert, params, None).await?;
            }
            Ok(())
        }
        .boxed()
    }

    /// A text is read as its bytes, which SQLite does not hold to UTF-8, and what is of another type than its column says so.
    fn reading(&self, kind: Kind, column: &str) -> String {
        match kind {
            Kind::Text | Kind::Other => format!(
                "CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) WHEN 'blob' THEN 0 ELSE {column} END"
            ),
            Kind::Numeric => format!("CASE typeof({column}) WHEN 'text' THEN x'' ELSE {column} END"),
            _ => column.to_owned(),
        }
    }

    fn row_name(&self) -> (&'static str, &'static str) {
        ("s.rowid", "CAST($1 AS INTEGER)")
    }

    fn misfit(&self, value: &SqlValue) -> Option<&'static str> {
        match value {
            SqlValue::Real(number) if number.is_nan() => Some("a value that is no number (NaN)"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_out_of_the_statement_that_made_a_table() {
        let mut table = Table::default();
        let made = "CREATE TABLE \"check\" (a INT CHECK (a > (1)), b TEXT DEFAULT 'CHECK (x)', c INT NOT NULL, CHECK(b <> \
                    'it''s' AND length(c) > 1))";
        read_made(made, &mut table);
        assert_eq!(table.checks, ["a > ( 1 )", "b <> 'it''s' AND length ( c ) > 1"]);
        assert!(table.others.is_empty(), "{:?}", table.others);
        read_made(
            "CREATE TABLE t (a TEXT COLLATE NOCASE UNIQUE ON CONFLICT REPLACE)",
            &mut table,
        );
        assert_eq!(table.others, ["a collation", "what is done ON CONFLICT"]);
    }
}
