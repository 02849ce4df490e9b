//! A database as actors and other hosts get it: supervised.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::{Executed, Rows, Sql, SqlError, SqlTransaction, SqlValue};

use super::health::Health;

/// A database whose circuit is open while it does not answer.
pub(super) struct Guarded {
    /// The database itself.
    pub(super) database: Arc<dyn Sql>,
    /// Whether it answers.
    pub(super) health: Arc<Health>,
}

impl Guarded {
    fn check(&self) -> Result<(), SqlError> {
        self.health
            .refusal()
            .map_or(Ok(()), |message| Err(SqlError::Unavailable { message }))
    }

    fn told<T>(&self, result: Result<T, SqlError>) -> Result<T, SqlError> {
        self.health.note(&result);
        result
    }
}

impl Sql for Guarded {
    fn query<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        async move {
            self.check()?;
            self.told(self.database.query(statement, params, deadline).await)
        }
        .boxed()
    }

    fn execute<'a>(
        &'a self,
        statement: &'a str,
        params: Vec<SqlValue>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        async move {
            self.check()?;
            self.told(self.database.execute(statement, params, deadline).await)
        }
        .boxed()
    }

    fn begin(&self, deadline: Option<Instant>) -> BoxFuture<'_, Result<Box<dyn SqlTransaction>, SqlError>> {
        async move {
            self.check()?;
            self.told(self.database.begin(deadline).await)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.database.close()
    }
}
