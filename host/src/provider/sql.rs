//! A database as actors and other hosts get it: supervised, and able to move.
//!
//! What may write, and each transaction, runs within the gate ([`super::gate`]); nothing is noted of it, as nobody can tell
//! which rows a statement changes: who moves a database compares its tables.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::OwnedRwLockReadGuard;
use weft_capabilities::{Executed, Rows, Sql, SqlError, SqlTransaction, SqlValue};

use super::gate::{self, HELD, HeldTooLong};

/// What stands before a database.
pub type Gate = gate::Gate<dyn Sql, ()>;

/// The database behind a [`Gate`].
pub(super) struct Guarded(pub(super) Arc<Gate>);

impl Guarded {
    fn check(&self) -> Result<(), SqlError> {
        let refusal = self.0.health.refusal();
        refusal.map_or(Ok(()), |message| Err(SqlError::Unavailable { message }))
    }
}

fn held(_: HeldTooLong) -> SqlError {
    SqlError::Unavailable {
        message: HELD.to_owned(),
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
            let database = self.0.store();
            if database.only_reads(statement) {
                return self.0.told(database.query(statement, params, deadline).await);
            }
            drop(database);
            let _running = self.0.enter().await.map_err(held)?;
            // Not the one from before a hold.
            let database = self.0.store();
            self.0.told(database.query(statement, params, deadline).await)
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
            let _running = self.0.enter().await.map_err(held)?;
            let database = self.0.store();
            self.0.told(database.execute(statement, params, deadline).await)
        }
        .boxed()
    }

    fn begin(&self, deadline: Option<Instant>) -> BoxFuture<'_, Result<Box<dyn SqlTransaction>, SqlError>> {
        async move {
            self.check()?;
            let running = self.0.enter_for_long().await.map_err(held)?;
            let database = self.0.store();
            let inner = self.0.told(database.begin(deadline).await)?;
            let transaction = Transaction {
                inner,
                _database: database,
                _running: running,
            };
            Ok(Box::new(transaction) as Box<dyn SqlTransaction>)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move { self.0.store().close().await }.boxed()
    }
}

/// A transaction, which a hold waits for. Its parts go in this order.
struct Transaction {
    inner: Box<dyn SqlTransaction>,
    /// In use until it has ended.
    _database: Arc<dyn Sql>,
    _running: OwnedRwLockReadGuard<()>,
}

impl SqlTransaction for Transaction {
    fn query<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Rows, SqlError>> {
        self.inner.query(statement, params)
    }

    fn execute<'a>(
        &'a mut self,
        statement: &'a str,
        params: Vec<SqlValue>,
    ) -> BoxFuture<'a, Result<Executed, SqlError>> {
        self.inner.execute(statement, params)
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        self.end(|inner| inner.commit())
    }

    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), SqlError>> {
        self.end(|inner| inner.rollback())
    }
}

impl Transaction {
    /// Ends it; until then it runs.
    fn end(
        self,
        how: impl FnOnce(Box<dyn SqlTransaction>) -> BoxFuture<'static, Result<(), SqlError>>,
    ) -> BoxFuture<'static, Result<(), SqlError>> {
        let Self {
            inner,
            _database,
            _running,
        } = self;
        let ended = how(inner);
        async move {
            let done = ended.await;
            drop((_database, _running));
            done
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weft_capabilities::conformance::{self, SqlDialect};
    use weft_sqlite::{SqliteOptions, SqliteSql};

    use super::super::health::Health;
    use super::*;

    fn open(path: &Path) -> Arc<dyn Sql> {
        Arc::new(SqliteSql::open(path, SqliteOptions::default()).unwrap())
    }

    fn gate(database: Arc<dyn Sql>) -> Arc<Gate> {
        Gate::new(database, Health::new("default/shop/ledger".parse().unwrap()))
    }

    async fn count(database: &dyn Sql) -> SqlValue {
        let rows = database.query("SELECT count(*) FROM t", Vec::new(), None).await;
        rows.unwrap().rows[0][0].clone()
    }

    async fn run(database: &dyn Sql, statement: &str) {
        database.execute(statement, Vec::new(), None).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn behind_its_gate_a_database_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let count = std::sync::atomic::AtomicU32::new(0);
        let open = || -> Arc<dyn Sql> {
            let name = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Arc::new(Guarded(gate(open(&folder.path().join(name.to_string())))))
        };
        let dialect = SqlDialect {
            blob: "BLOB",
            integer: "INTEGER",
            transactions_conflict: false,
        };
        conformance::sql(open, dialect).await;
    }

    #[tokio::test]
    async fn a_hold_waits_for_transactions_and_what_waits_in_it_goes_to_the_new_database() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (open(&folder.path().join("old")), open(&folder.path().join("new")));
        for database in [&old, &new] {
            run(&**database, "CREATE TABLE t (i INTEGER)").await;
        }
        let gate = gate(old.clone());
        let database = Guarded(gate.clone());
        let mut begun = database.begin(None).await.unwrap();
        let hold = gate.hold();
        tokio::pin!(hold);
        assert!(futures::poll!(&mut hold).is_pending());
        let waits = database.execute("INSERT INTO t VALUES (1)", Vec::new(), None);
        let inserted = database.query("INSERT INTO t VALUES (2) RETURNING i", Vec::new(), None);
        let begins = database.begin(None);
        tokio::pin!(waits, inserted, begins);
        begun
            .execute("INSERT INTO t VALUES (0)", Vec::new())
            .await
            .unwrap();
        begun.commit().await.unwrap();
        assert!(hold.await);
        assert!(futures::poll!(&mut waits).is_pending());
        assert!(futures::poll!(&mut inserted).is_pending());
        assert!(futures::poll!(&mut begins).is_pending());
        assert_eq!(count(&database).await, SqlValue::Integer(1), "reads don't wait");
        gate.replace(new.clone());
        gate.release();
        waits.await.unwrap();
        inserted.await.unwrap();
        begins.await.unwrap().rollback().await.unwrap();
        assert_eq!(count(&*old).await, SqlValue::Integer(1));
        assert_eq!(count(&*new).await, SqlValue::Integer(2));
    }
}
