//! What is in the database, for who copies it: the tables of the schema that statements without one name go to.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::sql::tables::{
    Column, Dialect, IndexOf, Kind, Reference, Schema, SqlTables, Table, TablesError, listed, quoted,
};
use weft_capabilities::sql::{Sql, SqlError, SqlValue};

use crate::PostgresSql;

/// What has rows, by its number.
const RELATIONS: &str = "SELECT c.oid, c.relname, c.relkind = 'r' AND NOT c.relispartition
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY c.oid";
/// Columns of a relation.
const COLUMNS: &str = "SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid), a.attidentity <> '', a.attgenerated <> ''
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum";
/// Constraints of a relation, with a row for each of their columns.
const CONSTRAINTS: &str =
    "SELECT con.conname, con.contype::text, a.attname, fa.attname, fc.relname, con.confdeltype::text,
        con.confupdtype::text, pg_get_constraintdef(con.oid), con.condeferrable
    FROM pg_catalog.pg_constraint con
    LEFT JOIN LATERAL unnest(con.conkey, con.confkey) WITH ORDINALITY AS k (here, there, at) ON TRUE
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.here
    LEFT JOIN pg_catalog.pg_attribute fa ON fa.attrelid = con.confrelid AND fa.attnum = k.there
    LEFT JOIN pg_catalog.pg_class fc ON fc.oid = con.confrelid
    WHERE con.conrelid = $1
    ORDER BY con.oid, k.at";
/// Indexes of a relation that stand for no constraint, with a row for each of their columns.
const INDEXES: &str = "SELECT ic.relname, a.attname, i.indisunique,
        am.amname = 'btree' AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts
            AND NOT (0 <> ANY (i.indoption::int2[]))
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
    JOIN pg_catalog.pg_am am ON am.oid = ic.relam
    LEFT JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (here, at) ON TRUE
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.here
    WHERE i.indrelid = $1
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint con WHERE con.conindid = i.indexrelid)
    ORDER BY i.indexrelid, k.at";
/// Triggers of a relation that someone made.
const TRIGGERS: &str =
    "SELECT tgname FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname";

/// A row, by which columns are taken one after the other.
struct Row(std::vec::IntoIter<SqlValue>);

impl Row {
    fn maybe(&mut self) -> Option<String> {
        match self.0.next() {
            Some(SqlValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn text(&mut self) -> String {
        self.maybe().unwrap_or_default()
    }

    fn truth(&mut self) -> bool {
        matches!(self.0.next(), Some(SqlValue::Boolean(true)))
    }
}

impl PostgresSql {
    async fn rows(&self, text: &str, params: Vec<SqlValue>) -> Result<Vec<Row>, SqlError> {
        let rows = Sql::query(self, text, params, None).await?.rows;
        Ok(rows.into_iter().map(|row| Row(row.into_iter())).collect())
    }

    async fn table(&self, name: String, id: SqlValue) -> Result<Table, SqlError> {
        let mut table = Table::default();
        let of = || vec![id.clone()];
        for mut row in self.rows(COLUMNS, of()).await? {
            let (name, declared, type_name) = (row.text(), row.text(), row.text());
            let (not_null, expression) = (row.truth(), row.maybe());
            let (is_identity, computed) = (row.truth(), row.truth());
            let is_serial = |text: &String| text.starts_with("nextval(");
            let numbered = is_identity || expression.as_ref().is_some_and(is_serial);
            table.columns.push(Column {
                name,
                kind: kind(&type_name),
                declared,
                not_null,
                default: expression.filter(|_| !numbered),
                numbered,
                computed,
            });
        }
        self.constraints(of(), &mut table).await?;
        self.indexes(of(), &mut table).await?;
        for mut row in self.rows(TRIGGERS, of()).await? {
            table.others.push(format!("the trigger {}", row.text()));
        }
        // A number that is no key has no counterpart elsewhere.
        for column in &table.columns {
            if column.numbered && table.key != [column.name.as_str()] {
                table
                    .others
                    .push(format!("the numbering of the column {}", column.name));
            }
        }
        table.name = name;
        Ok(table)
    }

    async fn constraints(&self, of: Vec<SqlValue>, table: &mut Table) -> Result<(), SqlError> {
        let mut last = String::new();
        for mut row in self.rows(CONSTRAINTS, of).await? {
            let (name, what, column) = (row.text(), row.text(), row.text());
            let (to, to_table) = (row.maybe(), row.text());
            let (on_delete, on_update) = (row.text(), row.text());
            let (written, is_deferrable) = (row.text(), row.truth());
            let is_new = last != name;
            last.clone_from(&name);
            if is_new && is_deferrable {
                table
                    .others
                    .push(format!("the constraint {name}, which can be deferred,"));
            }
            match what.as_str() {
                "p" => table.key.push(column),
                "u" => {
                    if is_new {
                        table.uniques.push(Vec::new());
                    }
                    if let Some(columns) = table.uniques.last_mut() {
                        columns.push(column);
                    }
                }
                "f" => {
                    if is_new {
                        table.references.push(Reference {
                            columns: Vec::new(),
                            table: to_table,
                            to: Vec::new(),
                            on_delete: follows(&on_delete),
                            on_update: follows(&on_update),
                        });
                    }
                    if let Some(reference) = table.references.last_mut() {
                        reference.columns.push(column);
                        reference.to.extend(to);
                    }
                }
                "c" if is_new => {
                    let inner = written
                        .strip_prefix("CHECK (")
                        .and_then(|rest| rest.strip_suffix(')'));
                    match inner {
                        Some(inner) => table.checks.push(inner.to_owned()),
                        None => table.others.push(format!("the check {name}")),
                    }
                }
                // What must have a value is told with the columns.
                "c" | "n" => {}
                _ if is_new => table.others.push(format!("the constraint {name}")),
                _ => {}
            }
        }
        Ok(())
    }

    async fn indexes(&self, of: Vec<SqlValue>, table: &mut Table) -> Result<(), SqlError> {
        for mut row in self.rows(INDEXES, of).await? {
            let (name, column, unique, is_plain) = (row.text(), row.text(), row.truth(), row.truth());
            let other = format!("the index {name}");
            match table.indexes.last_mut() {
                _ if !is_plain => {
                    if !table.others.contains(&other) {
                        table.others.push(other);
                    }
                }
                Some(index) if index.name == name => index.columns.push(column),
                _ => table.indexes.push(IndexOf {
                    name,
                    columns: vec![column],
                    unique,
                }),
            }
        }
        Ok(())
    }
}

fn kind(type_name: &str) -> Kind {
    match type_name {
        "int2" | "int4" | "int8" => Kind::Integer,
        "float4" | "float8" => Kind::Real,
        "text" | "varchar" => Kind::Text,
        "bytea" => Kind::Blob,
        "bool" => Kind::Boolean,
        "numeric" => Kind::Numeric,
        _ => Kind::Other,
    }
}

fn follows(letter: &str) -> String {
    match letter {
        "r" => "RESTRICT",
        "c" => "CASCADE",
        "n" => "SET NULL",
        "d" => "SET DEFAULT",
        _ => "NO ACTION",
    }
    .to_owned()
}

impl SqlTables for PostgresSql {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn schema(&self) -> BoxFuture<'_, Result<Schema, TablesError>> {
        async move {
            let (mut tables, mut views) = (Vec::new(), Vec::new());
            for mut row in self.rows(RELATIONS, Vec::new()).await? {
                let id = row.0.next().unwrap_or(SqlValue::Null);
                let (name, is_table) = (row.text(), row.truth());
                match is_table {
                    true => tables.push(self.table(name, id).await?),
                    false => views.push(name),
                }
            }
            Ok(Schema {
                dialect: Dialect::Postgres,
                tables,
                views,
            })
        }
        .boxed()
    }

    /// Whoever writes to a table has a lock on it until its transaction has ended, and this one waits for all of them.
    fn fence(&self) -> BoxFuture<'_, Result<(), TablesError>> {
        async move {
            let mut names = Vec::new();
            for mut row in self.rows(RELATIONS, Vec::new()).await? {
                let (_, name, is_table) = (row.0.next(), row.text(), row.truth());
                names.extend(is_table.then_some(name));
            }
            if names.is_empty() {
                return Ok(());
            }
            let mut transaction = Sql::begin(self, None).await?;
            let lock = format!("LOCK TABLE {} IN SHARE MODE", listed(&names));
            transaction.execute(&lock, Vec::new()).await?;
            transaction.rollback().await?;
            Ok(())
        }
        .boxed()
    }

    fn last_number<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<Option<i64>, TablesError>> {
        async move {
            let Some(column) = table.numbered() else {
                return Ok(None);
            };
            let of = vec![
                SqlValue::Text(quoted(&table.name)),
                SqlValue::Text(column.name.clone()),
            ];
            let sequence = "SELECT pg_get_serial_sequence($1, $2)";
            let Some(sequence) = self
                .rows(sequence, of)
                .await?
                .pop()
                .and_then(|mut row| row.maybe())
            else {
                return Ok(None);
            };
            let last = format!("SELECT last_value, is_called FROM {sequence}");
            let row = self.rows(&last, Vec::new()).await?.pop();
            Ok(row.and_then(|mut row| match (row.0.next(), row.truth()) {
                (Some(SqlValue::Integer(last)), true) => Some(last),
                _ => None,
            }))
        }
        .boxed()
    }

    fn set_last_number<'a>(&'a self, table: &'a Table, last: i64) -> BoxFuture<'a, Result<(), TablesError>> {
        async move {
            let Some(column) = table.numbered().filter(|_| last > 0) else {
                return Ok(());
            };
            let params = vec![
                SqlValue::Text(quoted(&table.name)),
                SqlValue::Text(column.name.clone()),
                SqlValue::Integer(last),
            ];
            let set = "SELECT setval(pg_get_serial_sequence($1, $2)::regclass, $3)";
            Sql::query(self, set, params, None).await?;
            Ok(())
        }
        .boxed()
    }

    fn reading(&self, kind: Kind, column: &str) -> String {
        match kind {
            Kind::Integer => format!("{column}::int8"),
            Kind::Real => format!("{column}::float8"),
            Kind::Text | Kind::Other => format!("{column}::text"),
            // As short as the other side writes it.
            Kind::Numeric => format!("trim_scale({column})::text"),
            Kind::Blob | Kind::Boolean => column.to_owned(),
        }
    }

    fn row_name(&self) -> (&'static str, &'static str) {
        ("s.ctid", "$1::tid")
    }

    fn misfit(&self, value: &SqlValue) -> Option<&'static str> {
        match value {
            SqlValue::Text(text) if text.contains('\0') => {
                Some("a text with a NUL, which Postgres does not take")
            }
            _ => None,
        }
    }

    fn overriding(&self) -> &'static str {
        "OVERRIDING SYSTEM VALUE"
    }
}
