//! The backend against a real server.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_capabilities::conformance::{self, SqlDialect};
use weft_capabilities::sql::Sql;
use weft_postgres::{PostgresOptions, PostgresSql};
use weft_servers::Postgres;

fn open(url: &str) -> PostgresSql {
    PostgresSql::open(&PostgresOptions::new(url)).unwrap()
}

async fn run(database: &dyn Sql, statement: &str) -> u64 {
    let executed = database.execute(statement, Vec::new(), None).await.unwrap();
    executed.rows_affected
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = Postgres::start();
    let admin = open(&server.url());
    for n in 0..20 {
        run(&admin, &format!("CREATE SCHEMA s{n}")).await;
    }
    let count = AtomicU32::new(0);
    let open = || -> Arc<dyn Sql> {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(open(&format!("{}?options=-csearch_path%3Ds{n}", server.url())))
    };
    let dialect = SqlDialect {
        blob: "BYTEA",
        integer: "BIGINT",
        transactions_conflict: true,
    };
    conformance::sql(open, dialect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_its_tables_and_takes_others() {
    let server = Postgres::start();
    let admin = open(&server.url());
    for n in 0..20 {
        run(&admin, &format!("CREATE SCHEMA s{n}")).await;
    }
    let count = AtomicU32::new(0);
    let open = || -> Arc<dyn Sql> {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(open(&format!("{}?options=-csearch_path%3Ds{n}", server.url())))
    };
    let dialect = SqlDialect {
        blob: "BYTEA",
        integer: "BIGINT",
        transactions_conflict: true,
    };
    conformance::sql_tables(open, dialect).await;
}

mod faults;
mod sessions;
mod types;
