//! A transaction: a session that is its caller's alone, until it ends or its time is up.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use weft_capabilities::sql::{Executed, Rows, SqlError, SqlTransaction, SqlValue, check_statement};

use crate::connect::Connector;
use crate::session::{Effect, Failure, Lease, Output};

const TIME_UP: &str = "its time was up";
const FAILED: &str = "a statement failed";
const LEFT: &str = "a statement's caller left";
const LOST: &str = "the connection was lost";

/// The caller's handle. Dropped, the transaction is rolled back.
pub(crate) struct Transaction {
    /// `None` once the transaction has ended.
    lease: Arc<Mutex<Option<Lease>>>,
    ended: Arc<OnceLock<&'static str>>,
    deadline: Instant,
    _alarm: AbortOnDropHandle<()>,
}

impl Transaction {
    /// Begins one on `lease`, which `connector` ends at `deadline`, whatever its caller does.
    pub(crate) async fn begin(
        mut lease: Lease,
        begin: &str,
        deadline: Instant,
        connector: &Connector,
    ) -> Result<Self, SqlError> {
        lease
            .own(begin, deadline)
            .await
            .map_err(|failure| match failure {
                Failure::Told(error) | Failure::Cut(error) => error,
                Failure::Lost if Instant::now() >= deadline => SqlError::DeadlineExceeded,
                Failure::Lost => SqlError::Unavailable {
                    message: LOST.to_owned(),
                },
            })?;
        let lease = Arc::new(Mutex::new(Some(lease)));
        let ended = Arc::new(OnceLock::new());
        let alarm = {
            let (lease, ended) = (lease.clone(), ended.clone());
            async move {
                tokio::time::sleep_until(deadline.into()).await;
                // A statement that runs ends by the same deadline.
                let lease = lease.lock().await.take();
                ended.get_or_init(|| TIME_UP);
                drop(lease);
            }
        };
        Ok(Self {
            lease,
            ended,
            deadline,
            _alarm: AbortOnDropHandle::new(connector.spawn(alarm)),
        })
    }

    async fn call(&mut self, text: &str, params: Vec<SqlValue>, effect: Effect) -> Result<Output, SqlError> {
        check_statement(text, &params)?;
        // What is refused here never reaches the server, and so does not fail the transaction.
        crate::statement::check(text)?;
        let mut slot = self.lease.lock().await;
        // Taken for as long as it runs: if the caller leaves, the transaction ends.
        let mut lease = slot.take().ok_or_else(|| self.rolled_back())?;
        // The alarm may not have come to it yet. Dropping the lease ends the transaction.
        if Instant::now() >= self.deadline {
            self.ended.get_or_init(|| TIME_UP);
            return Err(self.rolled_back());
        }
        match lease.run(text, &params, effect, self.deadline).await {
            Ok(output) => {
                *slot = Some(lease);
                Ok(output)
            }
            Err(Failure::Told(error) | Failure::Cut(error)) => {
                self.ended.get_or_init(|| FAILED);
                Err(error)
            }
            Err(Failure::Lost) => {
                let time_is_up = Instant::now() >= self.deadline;
                self.ended.get_or_init(|| if time_is_up { TIME_UP } else { LOST });
                Err(self.rolled_back())
            }
        }
    }

    fn rolled_back(&self) -> SqlError {
        let reason = self.ended.get().copied().unwrap_or(LEFT);
        SqlError::RolledBack { reason }
    }

    async fn commit(self) -> Result<(), SqlError> {
        let lease = self.lease.lock().await.take();
        let mut lease = lease.ok_or_else(|| self.rolled_back())?;
        match lease.own("COMMIT", self.deadline).await {
            Ok(()) => {
                lease.ended();
                Ok(())
            }
            Err(Failure::Told(error)) => {
                lease.ended();
                Err(error)
            }
            Err(Failure::Cut(_) | Failure::Lost) => Err(SqlError::MayHaveCommitted),
        }
    }

    async fn rollback(self) -> Result<(), SqlError> {
        let lease = self.lease.lock().await.take();
        // Without one it is what was asked for.
        let Some(mut lease) = lease else { return Ok(()) };
        match lease.own("ROLLBACK", self.deadline).await {
            Ok(()) => {
                lease.ended();
                Ok(())
            }
            // A connection that ends takes its transaction with it; one that does not is given back by way of another
            // rollback.
            Err(_) => Ok(()),
        }
    }
}

impl SqlTransaction for Transaction {
    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        async move {
            match self.call(statement, params, Effect::Rows).await? {
                Output::Rows(rows) => Ok(rows),
                Output::Executed(_) => Ok(Rows::default()),
            }
        }
        .boxed()
    }

    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        async move {
            match self.call(statement, params, Effect::Changes).await? {
                Output::Executed(executed) => Ok(executed),
                Output::Rows(_) => Ok(Executed { rows_affected: 0 }),
            }
        }
        .boxed()
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        (*self).commit().boxed()
    }

    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        (*self).rollback().boxed()
    }
}
