//! Running one statement: parameters in, rows out.

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Row, Statement};
use weft_capabilities::sql::{BoundedRows, Executed, Rows, SqlError, SqlValue};

use crate::connection::{Connection, Stop, explain};
use crate::job::{Effect, Output};

/// Why a statement did not end.
pub(crate) enum Failed {
    Sqlite(rusqlite::Error),
    Refused(SqlError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<SqlError> for Failed {
    fn from(error: SqlError) -> Self {
        Self::Refused(error)
    }
}

impl Failed {
    pub(crate) fn explain(self, stop: Option<Stop>) -> SqlError {
        match self {
            Self::Sqlite(error) => explain(error, stop),
            Self::Refused(error) => error,
        }
    }
}

/// What is known of a prepared statement for as long as the schema stays: asking SQLite for it costs as much as a small
/// read does.
pub(crate) struct Shape {
    /// For each parameter, which of the given values it is, from 1.
    params: Vec<usize>,
    columns: Vec<String>,
    /// Which columns are declared as booleans.
    booleans: Vec<bool>,
}

impl Shape {
    pub(crate) fn of(statement: &Statement<'_>) -> Result<Self, SqlError> {
        let (columns, booleans) = columns(statement);
        Ok(Self {
            params: params_of(statement)?,
            columns,
            booleans,
        })
    }
}

/// Runs a read whose shape is known.
pub(crate) fn read(
    statement: &mut Statement<'_>,
    params: &[SqlValue],
    shape: &Shape,
) -> Result<Output, Failed> {
    bind_as(statement, params, &shape.params)?;
    let mut rows = statement.raw_query();
    let mut result = BoundedRows::new(shape.columns.clone());
    while let Some(row) = rows.next()? {
        let values = values(row, &shape.booleans, &mut result)?;
        result.push(values)?;
    }
    Ok(Output::Rows(result.finish()))
}

/// Runs a statement to its end for what `effect` asks.
pub(crate) fn run(
    connection: &Connection,
    statement: &mut Statement<'_>,
    params: &[SqlValue],
    effect: Effect,
) -> Result<Output, Failed> {
    if statement.column_count() == 0
        && statement.readonly()
        && statement.expanded_sql().is_none_or(|s| s.is_empty())
    {
        return Err(empty().into());
    }
    bind(statement, params)?;
    match effect {
        Effect::Rows => Ok(Output::Rows(rows(statement)?)),
        Effect::Changes => {
            let before = connection.sqlite.total_changes();
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            // `changes` alone is that of an earlier statement, if this one made none; the total counts those that
            // triggers and foreign keys make as well.
            let changed = connection.sqlite.total_changes() != before;
            let rows_affected = if changed { connection.sqlite.changes() } else { 0 };
            Ok(Output::Executed(Executed { rows_affected }))
        }
    }
}

fn empty() -> SqlError {
    SqlError::Syntax {
        message: "it is empty".to_owned(),
    }
}

fn bind(statement: &mut Statement<'_>, params: &[SqlValue]) -> Result<(), Failed> {
    let numbers = params_of(statement)?;
    bind_as(statement, params, &numbers)
}

fn params_of(statement: &Statement<'_>) -> Result<Vec<usize>, SqlError> {
    let number = |index| {
        // `$1` is a name to SQLite, whose own numbers go by first use.
        let number = match statement.parameter_name(index) {
            None => Some(index),
            Some(name) => name
                .strip_prefix(['$', '?'])
                .and_then(|number| number.parse().ok()),
        };
        number
            .filter(|&number| number > 0)
            .ok_or_else(|| wrong_params("parameters are written $1, $2 and so on".to_owned()))
    };
    (1..=statement.parameter_count()).map(number).collect()
}

/// Binds `params`, of which `numbers` says for each parameter of the statement which one it is.
fn bind_as(statement: &mut Statement<'_>, params: &[SqlValue], numbers: &[usize]) -> Result<(), Failed> {
    for (index, number) in std::iter::zip(1.., numbers) {
        if let Some(value) = params.get(number - 1) {
            statement.raw_bind_parameter(index, to_sqlite(value))?;
        }
    }
    let params_used = numbers.iter().copied().max().unwrap_or(0);
    if params_used != params.len() {
        let message = format!(
            "it has parameters up to ${params_used}, and {} were given",
            params.len()
        );
        return Err(wrong_params(message).into());
    }
    Ok(())
}

fn wrong_params(message: String) -> SqlError {
    SqlError::Syntax { message }
}

fn to_sqlite(value: &SqlValue) -> ToSqlOutput<'_> {
    match value {
        SqlValue::Null => ToSqlOutput::Owned(Value::Null),
        SqlValue::Boolean(value) => ToSqlOutput::Owned(Value::Integer((*value).into())),
        SqlValue::Integer(value) => ToSqlOutput::Owned(Value::Integer(*value)),
        SqlValue::Real(value) => ToSqlOutput::Owned(Value::Real(*value)),
        SqlValue::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        SqlValue::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
    }
}

fn rows(statement: &mut Statement<'_>) -> Result<Rows, Failed> {
    let mut rows = statement.raw_query();
    let mut begun = None;
    while let Some(row) = rows.next()? {
        // Only known now: the first step may have prepared the statement again, for a schema with other columns.
        let (result, booleans) = begun.get_or_insert_with(|| {
            let (columns, booleans) = columns(row.as_ref());
            (BoundedRows::new(columns), booleans)
        });
        let values = values(row, booleans, result)?;
        result.push(values)?;
    }
    drop(rows);
    let result = begun.map_or_else(|| BoundedRows::new(columns(statement).0), |(result, _)| result);
    Ok(result.finish())
}

fn values(row: &Row<'_>, booleans: &[bool], result: &mut BoundedRows) -> Result<Vec<SqlValue>, Failed> {
    let mut values = Vec::with_capacity(booleans.len());
    for (index, &boolean) in booleans.iter().enumerate() {
        let value = row.get_ref(index)?;
        result.admit(match value {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
            _ => 0,
        })?;
        values.push(match value {
            ValueRef::Null => SqlValue::Null,
            ValueRef::Integer(value @ (0 | 1)) if boolean => SqlValue::Boolean(value == 1),
            ValueRef::Integer(value) => SqlValue::Integer(value),
            ValueRef::Real(value) => SqlValue::Real(value),
            // SQLite takes any bytes for text, by a cast.
            ValueRef::Text(text) => SqlValue::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => SqlValue::Blob(Bytes::copy_from_slice(bytes)),
        });
    }
    Ok(values)
}

/// The names of a statement's columns, and which of those are declared as booleans.
fn columns(statement: &Statement<'_>) -> (Vec<String>, Vec<bool>) {
    let mut names = Vec::with_capacity(statement.column_count());
    let mut booleans = Vec::with_capacity(statement.column_count());
    for column in statement.columns() {
        names.push(column.name().to_owned());
        let declared = column.decl_type().unwrap_or_default();
        booleans.push(declared.eq_ignore_ascii_case("boolean") || declared.eq_ignore_ascii_case("bool"));
    }
    (names, booleans)
}
