//! The functions of `weft:provider/sql`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_capabilities::{Sql, SqlError, SqlTransaction, SqlValue};
use weft_lattice::envelope::Failure;

use super::kept::{NotTaken, Taken, What};
use super::{Called, Shared};
use crate::SQL;
use crate::cbor::encode;
use crate::shape::IDLE;

/// A statement, its parameters, and for how many milliseconds it may run.
type Statement = (String, Vec<SqlValue>, Option<u64>);

/// A transaction, and a statement in it.
type StatementIn = (Bytes, String, Vec<SqlValue>);

pub(super) async fn run(
    shared: &Shared,
    database: &dyn Sql,
    called: &Called<'_>,
) -> Result<Vec<u8>, Failure> {
    Ok(match called.function {
        "query" => {
            let (statement, params, within): Statement = called.args()?;
            encode(&(database.query(&statement, params, called.until(within)).await,))
        }
        "execute" => {
            let (statement, params, within): Statement = called.args()?;
            let done = database.execute(&statement, params, called.until(within)).await;
            encode(&(done.map(|done| done.rows_affected),))
        }
        "begin" => {
            let (id, within): (Bytes, Option<u64>) = called.args()?;
            encode(&(begin(shared, database, called, &id, within).await,))
        }
        "query-in" => {
            let (id, statement, params): StatementIn = called.args()?;
            encode(&(query_in(shared, called, &id, &statement, params).await,))
        }
        "execute-in" => {
            let (id, statement, params): StatementIn = called.args()?;
            encode(&(execute_in(shared, called, &id, &statement, params).await,))
        }
        "commit" => {
            let (id,): (Bytes,) = called.args()?;
            encode(&(commit(shared, called, &id).await,))
        }
        "rollback" => {
            let (id,): (Bytes,) = called.args()?;
            encode(&(rollback(shared, called, &id).await,))
        }
        _ => return Err(called.unknown(SQL)),
    })
}

impl Called<'_> {
    /// When a statement that may run for `within` milliseconds ends: no later than the call.
    fn until(&self, within: Option<u64>) -> Option<Instant> {
        let end = self.deadline.into_std();
        within.map(|ms| {
            Instant::now()
                .checked_add(Duration::from_millis(ms))
                .unwrap_or(end)
                .min(end)
        })
    }

    fn transaction<'k>(
        &self,
        shared: &'k Shared,
        id: &[u8],
    ) -> Result<Taken<'k, Box<dyn SqlTransaction>>, SqlError> {
        shared.kept.take(id, self.owner).map_err(|error| match error {
            NotTaken::Gone => gone(),
            NotTaken::Busy => SqlError::Busy,
        })
    }
}

fn gone() -> SqlError {
    SqlError::RolledBack { reason: IDLE }
}

async fn begin(
    shared: &Shared,
    database: &dyn Sql,
    called: &Called<'_>,
    id: &[u8],
    within: Option<u64>,
) -> Result<String, SqlError> {
    // It outlives this call.
    let until = within.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
    let transaction = What::Transaction(Some(database.begin(until).await?));
    match id.try_into() {
        Ok(id) if shared.kept.keep_as(id, called.owner, transaction) => Ok(shared.run.as_ref().to_owned()),
        _ => Err(SqlError::Busy),
    }
}

async fn query_in(
    shared: &Shared,
    called: &Called<'_>,
    id: &[u8],
    statement: &str,
    params: Vec<SqlValue>,
) -> Result<weft_capabilities::Rows, SqlError> {
    let mut taken = called.transaction(shared, id)?;
    let transaction = taken.lent.as_mut().ok_or_else(gone)?;
    let rows = transaction.query(statement, params).await;
    taken.give_back();
    rows
}

async fn execute_in(
    shared: &Shared,
    called: &Called<'_>,
    id: &[u8],
    statement: &str,
    params: Vec<SqlValue>,
) -> Result<u64, SqlError> {
    let mut taken = called.transaction(shared, id)?;
    let transaction = taken.lent.as_mut().ok_or_else(gone)?;
    let done = transaction.execute(statement, params).await;
    taken.give_back();
    done.map(|done| done.rows_affected)
}

async fn commit(shared: &Shared, called: &Called<'_>, id: &[u8]) -> Result<(), SqlError> {
    let transaction = called.transaction(shared, id)?.into_inner().ok_or_else(gone)?;
    transaction.commit().await
}

/// One that is not there is rolled back already. One in which a statement runs ends with that.
async fn rollback(shared: &Shared, called: &Called<'_>, id: &[u8]) -> Result<(), SqlError> {
    match shared.kept.take_away(id, called.owner) {
        Some(What::Transaction(Some(transaction))) => transaction.rollback().await,
        _ => Ok(()),
    }
}
