//! Tables on their way from one database to another, which may speak another dialect.
//!
//! Owns what a schema is told as, what of it can be made in another dialect ([`plan()`]), and how rows are read, compared
//! and written by key ([`SqlTables`]). A backend tells its schema, and the little in which its SQL differs. It must not know
//! why anything is copied, or when.

mod ddl;
mod expression;
mod plan;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

pub use self::ddl::statements;
pub use self::expression::{Token, first_word, tokens};
pub use self::plan::{Planned, plan};
use super::{RESULT_BYTES_MAX, Sql, SqlError, SqlValue};

/// Parameters of one statement that writes rows: its text stays far below what a statement may have.
const PARAMS_LEN: usize = 4_000;
/// Rows that one statement deletes.
const DELETE_LEN: usize = 100;
/// Bytes of one statement that writes rows.
const WRITE_BYTES: usize = 2 << 20;

/// What a database's SQL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// Postgres's.
    Postgres,
}

impl Dialect {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "Postgres",
        }
    }
}

/// What values a column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 64-bit numbers, or smaller ones.
    Integer,
    /// Floating-point numbers.
    Real,
    /// Text.
    Text,
    /// Bytes.
    Blob,
    /// Truth values.
    Boolean,
    /// Decimal numbers of any length.
    Numeric,
    /// Something that only its own database knows.
    Other,
}

/// What is in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// What its texts are written in.
    pub dialect: Dialect,
    /// Its tables.
    pub tables: Vec<Table>,
    /// The names of its views, and of whatever else has rows.
    pub views: Vec<String>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns, from left to right.
    pub columns: Vec<Column>,
    /// The columns of its primary key; none if it has no key.
    pub key: Vec<String>,
    /// Columns that are unique together.
    pub uniques: Vec<Vec<String>>,
    /// Plain indexes.
    pub indexes: Vec<IndexOf>,
    /// What it refers to.
    pub references: Vec<Reference>,
    /// Its checks, as expressions of its database.
    pub checks: Vec<String>,
    /// What else it has, in words: triggers, indexes of expressions.
    pub others: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as its database writes it.
    pub declared: String,
    /// What values it has.
    pub kind: Kind,
    /// Whether it must have a value.
    pub not_null: bool,
    /// What it has if nothing is said, as an expression of its database.
    pub default: Option<String>,
    /// Whether the database numbers it.
    pub numbered: bool,
    /// Whether the database computes it.
    pub computed: bool,
}

/// An index on columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexOf {
    /// Its name.
    pub name: String,
    /// Its columns, in its order.
    pub columns: Vec<String>,
    /// Whether it lets each combination in once.
    pub unique: bool,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Columns of this table.
    pub columns: Vec<String>,
    /// The table that is referred to.
    pub table: String,
    /// Its columns; none stands for its key.
    pub to: Vec<String>,
    /// What follows when that row is deleted, as in SQL.
    pub on_delete: String,
    /// What follows when its key changes.
    pub on_update: String,
}

/// Rows of a table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TablePage {
    /// The rows, each with as many values as the table has columns.
    pub rows: Vec<Vec<SqlValue>>,
    /// What to ask the next page with, if more may follow.
    pub cursor: Option<Vec<SqlValue>>,
}

/// Why tables can't be copied.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// What is there can't be in the other database; trying again is of no use.
    #[error("{0}")]
    Refused(String),
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

impl Table {
    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The key of a row.
    pub fn key_of(&self, row: &[SqlValue]) -> Vec<SqlValue> {
        let columns = self.columns.iter().zip(row);
        let value = |name: &String| {
            let mut columns = columns.clone();
            let found = columns.find(|(column, _)| column.name == *name);
            found.map_or(SqlValue::Null, |(_, value)| value.clone())
        };
        self.key.iter().map(value).collect()
    }

    /// The column that the database numbers.
    pub fn numbered(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.numbered)
    }

    fn refused(&self, column: &Column, why: &str) -> TablesError {
        let (table, column) = (&self.name, &column.name);
        TablesError::Refused(format!("the column {column} of the table {table} {why}"))
    }
}

/// A name as SQL has it, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as a list.
pub fn listed(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| quoted(name)).collect();
    quoted.join(", ")
}

/// A database whose tables can be copied. Tables are as [`plan()`] gives them, and rows have their kinds of values.
pub trait SqlTables: Sql {
    /// Which dialect it speaks.
    fn dialect(&self) -> Dialect;

    /// What is in it.
    fn schema(&self) -> BoxFuture<'_, Result<Schema, TablesError>>;

    /// Returns when no statement runs any more that was begun before and writes.
    fn fence(&self) -> BoxFuture<'_, Result<(), TablesError>>;

    /// The last number that the database gave in a table, if it gives any.
    fn last_number<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<Option<i64>, TablesError>>;

    /// Has it go on after a number.
    fn set_last_number<'a>(&'a self, table: &'a Table, last: i64) -> BoxFuture<'a, Result<(), TablesError>>;

    /// How a column's value is read, as an expression; `column` is its name with that of its table.
    fn reading(&self, kind: Kind, column: &str) -> String;

    /// What tells apart the rows of a table without a key, and how it is written as the first parameter.
    fn row_name(&self) -> (&'static str, &'static str);

    /// Why a value can't be in this database, if it can't.
    fn misfit(&self, value: &SqlValue) -> Option<&'static str>;

    /// What stands between the columns and the values of an `INSERT`.
    fn overriding(&self) -> &'static str {
        ""
    }

    /// Makes tables, in one transaction; without `keep` it is only tried.
    fn create<'a>(&'a self, tables: &'a [Planned], keep: bool) -> BoxFuture<'a, Result<(), TablesError>> {
        async move {
            let mut transaction = self.begin(None).await?;
            for planned in tables.iter().filter(|planned| planned.create) {
                for statement in statements(&planned.table, planned.from, self.dialect()) {
                    let done = transaction.execute(&statement, Vec::new()).await;
                    done.map_err(|error| may_be_refused(&planned.table, error))?;
                }
            }
            match keep {
                true => transaction.commit().await?,
                false => transaction.rollback().await?,
            }
            Ok(())
        }
        .boxed()
    }

    /// Whether a table has no row.
    fn is_empty<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<bool, TablesError>> {
        async move {
            let any = format!("SELECT 1 FROM {} LIMIT 1", quoted(&table.name));
            Ok(self.query(&any, Vec::new(), None).await?.rows.is_empty())
        }
        .boxed()
    }

    /// A page of a table, in the order of its key, or of this database's own.
    fn page<'a>(
        &'a self,
        table: &'a Table,
        after: Option<&'a [SqlValue]>,
        limit: usize,
    ) -> BoxFuture<'a, Result<TablePage, TablesError>> {
        async move {
            let keyless = table.key.is_empty();
            let (row_name, row_param) = self.row_name();
            let (mut of_key, mut at) = (of_table(&table.key).join(", "), params(1, table.key.len()));
            let mut columns = self.columns(table);
            if keyless {
                (of_key, at) = (row_name.to_owned(), row_param.to_owned());
                columns.push(format!("CAST({row_name} AS TEXT)"));
            }
            let columns = columns.join(", ");
            let after_key = after.map_or(String::new(), |_| format!("WHERE ({of_key}) > ({at})"));
            let (from, mut limit) = (quoted(&table.name), limit.max(1));
            loop {
                let text =
                    format!("SELECT {columns} FROM {from} AS s {after_key} ORDER BY {of_key} LIMIT {limit}");
                let params = after.map(<[_]>::to_vec).unwrap_or_default();
                let mut rows = match self.query(&text, params, None).await {
                    Ok(rows) => rows.rows,
                    Err(SqlError::TooLarge { .. }) if limit > 1 => {
                        limit = limit.div_ceil(4);
                        continue;
                    }
                    Err(SqlError::TooLarge { .. }) => return Err(too_large(table)),
                    Err(error) => return Err(error.into()),
                };
                let is_over = rows.len() < limit;
                let mut cursor = None;
                for row in &mut rows {
                    if keyless {
                        cursor = row.pop().map(|name| vec![name]);
                    }
                    fit(table, row)?;
                }
                if !keyless {
                    cursor = rows.last().map(|row| table.key_of(row));
                }
                let cursor = cursor.filter(|_| !is_over);
                return Ok(TablePage { rows, cursor });
            }
        }
        .boxed()
    }

    /// Those rows that have one of `keys`.
    fn find<'a>(
        &'a self,
        table: &'a Table,
        keys: &'a [Vec<SqlValue>],
    ) -> BoxFuture<'a, Result<Vec<Vec<SqlValue>>, TablesError>> {
        async move {
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let (columns, from) = (self.columns(table).join(", "), quoted(&table.name));
            let (which, params) = which(table, keys);
            let text = format!("SELECT {columns} FROM {from} AS s WHERE {which}");
            match self.query(&text, params, None).await {
                Ok(mut found) => {
                    found.rows.iter_mut().try_for_each(|row| fit(table, row))?;
                    Ok(found.rows)
                }
                Err(SqlError::TooLarge { .. }) if keys.len() > 1 => {
                    let (first, second) = keys.split_at(keys.len() / 2);
                    let mut rows = self.find(table, first).await?;
                    rows.extend(self.find(table, second).await?);
                    Ok(rows)
                }
                Err(SqlError::TooLarge { .. }) => Err(too_large(table)),
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }

    /// Writes rows, in place of those with the same key.
    fn write<'a>(
        &'a self,
        table: &'a Table,
        rows: &'a [Vec<SqlValue>],
    ) -> BoxFuture<'a, Result<(), TablesError>> {
        async move {
            for row in rows {
                for (column, value) in table.columns.iter().zip(row) {
                    if let Some(why) = self.misfit(value) {
                        let key = shown(&table.key_of(row));
                        let row = if key.is_empty() {
                            key
                        } else {
                            format!(" in the row {key}")
                        };
                        let why = format!("has {why}{row}: change it or delete the row");
                        return Err(table.refused(column, &why));
                    }
                }
            }
            for rows in batches(table, rows) {
                let (statement, params) = insert(table, rows, self.overriding());
                let done = self.execute(&statement, params, None).await;
                done.map_err(|error| may_be_refused(table, error))?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Deletes the rows that have one of `keys`.
    fn delete<'a>(
        &'a self,
        table: &'a Table,
        keys: &'a [Vec<SqlValue>],
    ) -> BoxFuture<'a, Result<(), TablesError>> {
        async move {
            for keys in keys.chunks(DELETE_LEN) {
                let (which, params) = which(table, keys);
                let text = format!("DELETE FROM {} AS s WHERE {which}", quoted(&table.name));
                self.execute(&text, params, None).await?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Deletes all rows.
    fn clear<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<(), TablesError>> {
        async move {
            let text = format!("DELETE FROM {}", quoted(&table.name));
            self.execute(&text, Vec::new(), None).await?;
            Ok(())
        }
        .boxed()
    }

    /// How the columns of a table are read.
    fn columns(&self, table: &Table) -> Vec<String> {
        let columns = table.columns.iter();
        let read = columns.map(|column| self.reading(column.kind, &format!("s.{}", quoted(&column.name))));
        read.collect()
    }
}

fn of_table(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("s.{}", quoted(name))).collect()
}

/// `$first, ...`
fn params(first: usize, count: usize) -> String {
    let all: Vec<_> = (first..first + count).map(|n| format!("${n}")).collect();
    all.join(", ")
}

fn which(table: &Table, keys: &[Vec<SqlValue>]) -> (String, Vec<SqlValue>) {
    let len = table.key.len();
    let each = (0..keys.len()).map(|n| params(n * len + 1, len));
    let text = match len {
        1 => {
            let each: Vec<_> = each.collect();
            format!("{} IN ({})", of_table(&table.key).join(", "), each.join(", "))
        }
        _ => {
            // As SQLite takes no list of rows, and finds these by its index, too.
            let columns = of_table(&table.key);
            let row = |row: String| {
                let parts = columns.iter().zip(row.split(", "));
                let parts: Vec<_> = parts
                    .map(|(column, param)| format!("{column} = {param}"))
                    .collect();
                format!("({})", parts.join(" AND "))
            };
            let rows: Vec<_> = each.map(row).collect();
            balanced(&rows)
        }
    };
    (text, keys.concat())
}

/// Any of some terms, as a tree that is not deep: SQLite bounds the depth of an expression.
fn balanced(terms: &[String]) -> String {
    match terms {
        [] => "FALSE".to_owned(),
        [term] => term.clone(),
        _ => {
            let (first, second) = terms.split_at(terms.len() / 2);
            format!("({} OR {})", balanced(first), balanced(second))
        }
    }
}

/// Rows by as many as one statement takes.
fn batches<'r>(
    table: &Table,
    mut rows: &'r [Vec<SqlValue>],
) -> impl Iterator<Item = &'r [Vec<SqlValue>]> + use<'r> {
    let rows_max = (PARAMS_LEN / table.columns.len().max(1)).max(1);
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |row: &&Vec<SqlValue>| {
            bytes += row.iter().map(SqlValue::len).sum::<usize>();
            bytes <= WRITE_BYTES
        };
        let count = rows.iter().take(rows_max).take_while(fits).count();
        let (batch, rest) = rows.split_at_checked(count.max(1))?;
        rows = rest;
        Some(batch)
    })
}

fn insert(table: &Table, rows: &[Vec<SqlValue>], overriding: &str) -> (String, Vec<SqlValue>) {
    let names: Vec<_> = table.columns.iter().map(|column| column.name.clone()).collect();
    let len = names.len();
    let values: Vec<_> = (0..rows.len())
        .map(|n| format!("({})", params(n * len + 1, len)))
        .collect();
    let mut text = format!(
        "INSERT INTO {} ({}) {overriding} VALUES {}",
        quoted(&table.name),
        listed(&names),
        values.join(", ")
    );
    if !table.key.is_empty() {
        let others = names.iter().filter(|name| !table.key.contains(name));
        let set: Vec<_> = others
            .map(|name| format!("{0} = excluded.{0}", quoted(name)))
            .collect();
        let act = match set.as_slice() {
            [] => "NOTHING".to_owned(),
            set => format!("UPDATE SET {}", set.join(", ")),
        };
        text.push_str(&format!(" ON CONFLICT ({}) DO {act}", listed(&table.key)));
    }
    (text, rows.concat())
}

/// Whether a row's values are of their columns' kinds, in the one form that both databases give them.
fn fit(table: &Table, row: &mut [SqlValue]) -> Result<(), TablesError> {
    for (at, column) in table.columns.iter().enumerate() {
        let Some(value) = row.get_mut(at) else { break };
        let is_key = table.key.contains(&column.name);
        let found = std::mem::replace(value, SqlValue::Null);
        *value = match (column.kind, found) {
            (_, SqlValue::Null) if is_key => Err("no value"),
            (_, SqlValue::Null) => Ok(SqlValue::Null),
            (Kind::Integer, value @ SqlValue::Integer(_))
            | (Kind::Real, value @ SqlValue::Real(_))
            | (Kind::Text | Kind::Other, value @ SqlValue::Text(_))
            | (Kind::Blob, value @ SqlValue::Blob(_))
            | (Kind::Numeric, value @ SqlValue::Text(_))
            | (Kind::Boolean, value @ SqlValue::Boolean(_)) => Ok(value),
            (Kind::Text | Kind::Other, SqlValue::Blob(bytes)) => text(&bytes),
            (Kind::Numeric, SqlValue::Integer(number)) => Ok(SqlValue::Text(number.to_string())),
            (Kind::Numeric, SqlValue::Real(number)) if number.is_finite() => {
                // Never an exponent, as Postgres has it.
                let number = if number == 0.0 { 0.0 } else { number };
                Ok(SqlValue::Text(format!("{number}")))
            }
            (Kind::Integer, _) => Err("a value that is no whole number"),
            (Kind::Real | Kind::Numeric, _) => Err("a value that is no number"),
            (Kind::Text | Kind::Other, _) => Err("a value that is no text"),
            (Kind::Blob, _) => Err("a value that is no bytes"),
            (Kind::Boolean, _) => Err("a value that is neither true nor false"),
        }
        .map_err(|why| {
            let why =
                format!("has {why}, and the new database takes none there: change it or delete the row");
            table.refused(column, &why)
        })?;
    }
    Ok(())
}

fn text(bytes: &Bytes) -> Result<SqlValue, &'static str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(SqlValue::Text(text.to_owned())),
        Err(_) => Err("a text that is not UTF-8"),
    }
}

fn shown(key: &[SqlValue]) -> String {
    let value = |value: &SqlValue| match value {
        SqlValue::Integer(number) => number.to_string(),
        SqlValue::Text(text) => text.clone(),
        other => format!("{other:?}"),
    };
    let values: Vec<_> = key.iter().map(value).collect();
    values.join(", ")
}

fn too_large(table: &Table) -> TablesError {
    TablesError::Refused(format!(
        "a row of the table {} has more than {} MiB: change it or delete it",
        table.name,
        RESULT_BYTES_MAX >> 20
    ))
}

/// An error of the new database, which may be one that no other try mends. What is unique or referred to may be so in a
/// moment, as tables are read one after the other.
fn may_be_refused(table: &Table, error: SqlError) -> TablesError {
    use super::ConstraintKind as C;
    let is_final = match &error {
        SqlError::Constraint { kind, .. } => !matches!(kind, C::Unique | C::ForeignKey),
        SqlError::Syntax { .. } | SqlError::Denied { .. } | SqlError::TooLarge { .. } => true,
        _ => false,
    };
    match is_final {
        true => TablesError::Refused(format!(
            "the table {} can't be made or filled in the new database: {error}; make it there yourself, as its users need \
             it, or change what is in it",
            table.name
        )),
        false => error.into(),
    }
}
