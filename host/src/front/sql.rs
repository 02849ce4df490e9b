//! `weft:sql`, over whatever database the actor is linked to.
//!
//! Owns the mapping of values and errors. A transaction is a resource of the instance: it is rolled back when the
//! guest drops it, and when the invocation ends.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};
use weft_capabilities::sql::{ConstraintKind, Rows, Sql, SqlError, SqlTransaction, SqlValue};
use weft_compose::Capability;
use weft_observability::metrics::Operation;

use super::operation::observed;
use crate::invocation::Call;
use crate::link::Import;
use crate::store::InstanceState;

/// The interfaces' versions that are served.
pub const VERSIONS: &[&str] = &["0.1.0"];

#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
enum Value {
    #[component(name = "null")]
    Null,
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "real")]
    Real(f64),
    #[component(name = "text")]
    Text(String),
    #[component(name = "blob")]
    Blob(Vec<u8>),
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct ResultSet {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
enum Constraint {
    #[component(name = "unique")]
    Unique,
    #[component(name = "not-null")]
    NotNull,
    #[component(name = "foreign-key")]
    ForeignKey,
    #[component(name = "check")]
    Check,
    #[component(name = "other")]
    Other,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Violation {
    kind: Constraint,
    message: String,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "syntax")]
    Syntax(String),
    #[component(name = "constraint")]
    Constraint(Violation),
    #[component(name = "busy")]
    Busy,
    #[component(name = "deadline-exceeded")]
    DeadlineExceeded,
    #[component(name = "too-large")]
    TooLarge(String),
    #[component(name = "denied")]
    Denied(String),
    #[component(name = "unavailable")]
    Unavailable(String),
    #[component(name = "may-have-committed")]
    MayHaveCommitted,
    #[component(name = "other")]
    Other(String),
}

/// What a guest's `transaction` stands for. It is taken out while a statement runs.
struct Transaction(Option<Box<dyn SqlTransaction>>);

type Context<'a> = StoreContextMut<'a, InstanceState>;
type Answer<'a, T> = Box<dyn Future<Output = wasmtime::Result<(Result<T, Error>,)>> + Send + 'a>;

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let mut database = linker.instance(&format!("weft:sql/database@{version}"))?;
        database.resource(
            "transaction",
            ResourceType::host::<Transaction>(),
            |mut context: Context<'_>, rep| {
                context
                    .data_mut()
                    .table()
                    .delete(Resource::<Transaction>::new_own(rep))?;
                Ok(())
            },
        )?;
        database.func_wrap_async("query", query)?;
        database.func_wrap_async("execute", execute)?;
        database.func_wrap_async("begin", begin)?;
        database.func_wrap_async("[method]transaction.query", query_within)?;
        database.func_wrap_async("[method]transaction.execute", execute_within)?;
        database.func_wrap_async("[static]transaction.commit", commit)?;
        database.func_wrap_async("[static]transaction.rollback", rollback)?;
    }
    Ok(())
}

/// The database that the running actor is linked to.
fn linked(context: &Context<'_>) -> (Arc<Call>, Result<Arc<dyn Sql>, SqlError>) {
    let call = context.data().call().clone();
    let database = database(&call, Import::SQL);
    (call, database)
}

/// The database that an import of it goes to.
pub(super) fn database(call: &Call, import: Import) -> Result<Arc<dyn Sql>, SqlError> {
    let links = call.links(import);
    let database = links.sql.as_ref().map(|link| link.database.clone());
    database.ok_or_else(|| match links.denies(Capability::Sql) {
        true => SqlError::Denied {
            what: "a database of another app, which does not let this one".to_owned(),
        },
        false => SqlError::Unavailable {
            message: "this actor is linked to no database".to_owned(),
        },
    })
}

fn query<'a>(context: Context<'a>, (statement, params): (String, Vec<Value>)) -> Answer<'a, ResultSet> {
    let (call, database) = linked(&context);
    Box::new(async move {
        let asked = async {
            database?
                .query(&statement, values(params), Some(call.deadline))
                .await
        };
        let rows = observed(&call, Operation::SqlQuery, asked).await;
        Ok((rows.map(ResultSet::from).map_err(Error::from),))
    })
}

fn execute<'a>(context: Context<'a>, (statement, params): (String, Vec<Value>)) -> Answer<'a, u64> {
    let (call, database) = linked(&context);
    Box::new(async move {
        let asked = async {
            database?
                .execute(&statement, values(params), Some(call.deadline))
                .await
        };
        let executed = observed(&call, Operation::SqlExecute, asked).await;
        Ok((executed.map(|done| done.rows_affected).map_err(Error::from),))
    })
}

fn begin<'a>(mut context: Context<'a>, (): ()) -> Answer<'a, Resource<Transaction>> {
    let (call, database) = linked(&context);
    Box::new(async move {
        let asked = async { database?.begin(Some(call.deadline)).await };
        Ok((match observed(&call, Operation::SqlBegin, asked).await {
            Ok(transaction) => Ok(context.data_mut().table().push(Transaction(Some(transaction)))?),
            Err(error) => Err(error.into()),
        },))
    })
}

/// The transaction of a handle, for as long as a statement runs. (Guests run one function at a time, so it is there.)
fn take(
    context: &mut Context<'_>,
    handle: &Resource<Transaction>,
) -> wasmtime::Result<Box<dyn SqlTransaction>> {
    let transaction = context.data_mut().table().get_mut(handle)?;
    transaction
        .0
        .take()
        .ok_or_else(|| wasmtime::format_err!("the transaction is in use"))
}

fn query_within<'a>(
    mut context: Context<'a>,
    (handle, statement, params): (Resource<Transaction>, String, Vec<Value>),
) -> Answer<'a, ResultSet> {
    Box::new(async move {
        let call = context.data().call().clone();
        let mut transaction = take(&mut context, &handle)?;
        let asked = transaction.query(&statement, values(params));
        let rows = observed(&call, Operation::SqlQuery, asked).await;
        context.data_mut().table().get_mut(&handle)?.0 = Some(transaction);
        Ok((rows.map(ResultSet::from).map_err(Error::from),))
    })
}

fn execute_within<'a>(
    mut context: Context<'a>,
    (handle, statement, params): (Resource<Transaction>, String, Vec<Value>),
) -> Answer<'a, u64> {
    Box::new(async move {
        let call = context.data().call().clone();
        let mut transaction = take(&mut context, &handle)?;
        let asked = transaction.execute(&statement, values(params));
        let executed = observed(&call, Operation::SqlExecute, asked).await;
        context.data_mut().table().get_mut(&handle)?.0 = Some(transaction);
        Ok((executed.map(|done| done.rows_affected).map_err(Error::from),))
    })
}

fn commit<'a>(mut context: Context<'a>, (handle,): (Resource<Transaction>,)) -> Answer<'a, ()> {
    Box::new(async move {
        let call = context.data().call().clone();
        let transaction = take(&mut context, &handle)?;
        context.data_mut().table().delete(handle)?;
        let done = observed(&call, Operation::SqlCommit, transaction.commit()).await;
        Ok((done.map_err(Error::from),))
    })
}

fn rollback<'a>(mut context: Context<'a>, (handle,): (Resource<Transaction>,)) -> Answer<'a, ()> {
    Box::new(async move {
        let call = context.data().call().clone();
        let transaction = take(&mut context, &handle)?;
        context.data_mut().table().delete(handle)?;
        let done = observed(&call, Operation::SqlRollback, transaction.rollback()).await;
        Ok((done.map_err(Error::from),))
    })
}

fn values(params: Vec<Value>) -> Vec<SqlValue> {
    params
        .into_iter()
        .map(|value| match value {
            Value::Null => SqlValue::Null,
            Value::Boolean(value) => SqlValue::Boolean(value),
            Value::Integer(value) => SqlValue::Integer(value),
            Value::Real(value) => SqlValue::Real(value),
            Value::Text(value) => SqlValue::Text(value),
            Value::Blob(value) => SqlValue::Blob(value.into()),
        })
        .collect()
}

impl From<Rows> for ResultSet {
    fn from(rows: Rows) -> Self {
        let value = |value| match value {
            SqlValue::Null => Value::Null,
            SqlValue::Boolean(value) => Value::Boolean(value),
            SqlValue::Integer(value) => Value::Integer(value),
            SqlValue::Real(value) => Value::Real(value),
            SqlValue::Text(value) => Value::Text(value),
            SqlValue::Blob(value) => Value::Blob(value.into()),
        };
        Self {
            columns: rows.columns,
            rows: rows
                .rows
                .into_iter()
                .map(|row| row.into_iter().map(value).collect())
                .collect(),
        }
    }
}

impl From<SqlError> for Error {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Syntax { message } => Self::Syntax(message),
            SqlError::Constraint { kind, message } => Self::Constraint(Violation {
                kind: match kind {
                    ConstraintKind::Unique => Constraint::Unique,
                    ConstraintKind::NotNull => Constraint::NotNull,
                    ConstraintKind::ForeignKey => Constraint::ForeignKey,
                    ConstraintKind::Check => Constraint::Check,
                    ConstraintKind::Other => Constraint::Other,
                },
                message,
            }),
            SqlError::Busy => Self::Busy,
            SqlError::DeadlineExceeded => Self::DeadlineExceeded,
            SqlError::MayHaveCommitted => Self::MayHaveCommitted,
            error @ SqlError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            error @ SqlError::Denied { .. } => Self::Denied(error.to_string()),
            error @ (SqlError::Unavailable { .. } | SqlError::Closed) => Self::Unavailable(error.to_string()),
            error => Self::Other(error.to_string()),
        }
    }
}
