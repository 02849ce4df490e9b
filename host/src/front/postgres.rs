//! `wasmcloud:postgres@0.1.1-draft`, over a provider of SQL on Postgres.
//!
//! Owns the shape that components of wasmCloud were built against: values with a case for each of Postgres's types, and no
//! transactions. `param` owns values on their way in, `value` those on their way out, `batch` where a statement ends.

mod batch;
mod param;
mod value;

use std::fmt;

use wasmtime::component::{HasSelf, Linker};
use weft_capabilities::sql::{Rows, STATEMENT_LEN_MAX, Sql, SqlError, SqlValue};
use weft_observability::metrics::Operation;

use self::wit::wasmcloud::postgres::prepared::{
    Host as Prepared, PreparedStatementExecError, StatementPrepareError,
};
use self::wit::wasmcloud::postgres::query::Host as Query;
use self::wit::wasmcloud::postgres::types::{PgValue, QueryError, ResultRowEntry};
use super::operation::observed;
use super::sql::database;
use crate::invocation::Call;
use crate::link::Import;
use crate::store::InstanceState;

/// The versions that are served.
pub const VERSIONS: &[&str] = &["0.1.1-draft"];
/// Bytes of the statements of a batch: a schema with its first rows, and no dump of a database.
const BATCH_LEN_MAX: usize = 1 << 20;
/// What the token of a prepared statement begins with; the statement follows. So it is good wherever it is brought to, and
/// nothing has to be kept for it here: each connection keeps what it has prepared.
const TOKEN: &str = "statement:";

mod wit {
    wasmtime::component::bindgen!({
        path: "../wit/deps/wasmcloud-postgres.wit",
        inline: "
            package weft:front;

            world postgres {
                import wasmcloud:postgres/query@0.1.1-draft;
                import wasmcloud:postgres/prepared@0.1.1-draft;
            }
        ",
        imports: { default: async },
    });
}

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    type State = HasSelf<InstanceState>;
    wit::wasmcloud::postgres::query::add_to_linker::<_, State>(linker, |state| state)?;
    wit::wasmcloud::postgres::prepared::add_to_linker::<_, State>(linker, |state| state)
}

/// Why a statement has no result.
enum Failure {
    /// A parameter can't be one.
    Param(String),
    /// A value of the result has no case in the interface.
    Value(String),
    /// The database says so.
    Sql(SqlError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param(text) | Self::Value(text) => f.write_str(text),
            Self::Sql(error) => error.fmt(f),
        }
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

impl From<Failure> for QueryError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Param(text) => Self::InvalidParams(text),
            Failure::Sql(error @ (SqlError::Syntax { .. } | SqlError::Denied { .. })) => {
                Self::InvalidQuery(error.to_string())
            }
            failure => Self::Unexpected(failure.to_string()),
        }
    }
}

impl Query for InstanceState {
    async fn query(
        &mut self,
        query: String,
        params: Vec<PgValue>,
    ) -> Result<Vec<Vec<ResultRowEntry>>, QueryError> {
        let call = self.call().clone();
        let asked = async {
            let database = database(&call, Import::POSTGRES)?;
            let rows = database
                .query(&query, values(params)?, Some(call.deadline))
                .await?;
            entries(rows)
        };
        Ok(observed(&call, Operation::SqlQuery, asked).await?)
    }

    async fn query_batch(&mut self, query: String) -> Result<(), QueryError> {
        let call = self.call().clone();
        let asked = async {
            let database = database(&call, Import::POSTGRES)?;
            if query.len() > BATCH_LEN_MAX {
                let (what, len_max) = ("batch", BATCH_LEN_MAX);
                return Err(SqlError::TooLarge { what, len_max }.into());
            }
            all(&*database, &call, &batch::statements(&query)).await
        };
        Ok(observed(&call, Operation::SqlExecute, asked).await?)
    }
}

impl Prepared for InstanceState {
    async fn prepare(&mut self, statement: String) -> Result<String, StatementPrepareError> {
        let refused = |text: String| Err(StatementPrepareError::Unexpected(text));
        if let Err(error) = database(self.call(), Import::POSTGRES_PREPARED) {
            return refused(error.to_string());
        }
        if statement.len() > STATEMENT_LEN_MAX {
            let (what, len_max) = ("statement in bytes", STATEMENT_LEN_MAX);
            return refused(SqlError::TooLarge { what, len_max }.to_string());
        }
        Ok(format!("{TOKEN}{statement}"))
    }

    async fn exec(&mut self, token: String, params: Vec<PgValue>) -> Result<u64, PreparedStatementExecError> {
        let call = self.call().clone();
        let Some(statement) = token.strip_prefix(TOKEN) else {
            return Err(PreparedStatementExecError::UnknownPreparedQuery);
        };
        let asked = async {
            let database = database(&call, Import::POSTGRES_PREPARED)?;
            let done = database
                .execute(statement, values(params)?, Some(call.deadline))
                .await?;
            Ok::<_, Failure>(done.rows_affected)
        };
        let done = observed(&call, Operation::SqlExecute, asked).await;
        done.map_err(|failure| PreparedStatementExecError::QueryError(failure.into()))
    }
}

/// Runs statements, all or none. One by itself is its own transaction, as some can't be in another's.
async fn all(database: &dyn Sql, call: &Call, statements: &[&str]) -> Result<(), Failure> {
    if let [statement] = statements {
        database
            .execute(statement, Vec::new(), Some(call.deadline))
            .await?;
        return Ok(());
    }
    let mut transaction = database.begin(Some(call.deadline)).await?;
    for statement in statements {
        transaction.execute(statement, Vec::new()).await?;
    }
    Ok(transaction.commit().await?)
}

fn values(params: Vec<PgValue>) -> Result<Vec<SqlValue>, Failure> {
    let numbered = params.into_iter().enumerate();
    let values = numbered.map(|(at, value)| {
        param::of(value).map_err(|reason| Failure::Param(format!("parameter ${}: {reason}", at + 1)))
    });
    values.collect()
}

fn entries(rows: Rows) -> Result<Vec<Vec<ResultRowEntry>>, Failure> {
    let Rows { columns, types, rows } = rows;
    if types.len() != columns.len() {
        return Err(Failure::Value(
            "the database does not tell the types of its columns, as Postgres does".to_owned(),
        ));
    }
    let named = || std::iter::zip(&columns, &types);
    let row = |row: Vec<SqlValue>| {
        let entries = std::iter::zip(named(), row).map(|((column, of_type), value)| {
            let value = value::of(of_type, value)
                .map_err(|reason| Failure::Value(format!("column `{column}`: {reason}")))?;
            Ok(ResultRowEntry {
                column_name: column.clone(),
                value,
            })
        });
        entries.collect::<Result<Vec<_>, Failure>>()
    };
    rows.into_iter().map(row).collect()
}
