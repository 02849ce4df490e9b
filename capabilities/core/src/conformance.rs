//! What every backend must do, as suites that their tests run.
//!
//! Each check names the rule that it holds; a failing backend panics with it.

#![expect(
    clippy::unwrap_used,
    reason = "a suite that runs in tests, where a panic is a failed check"
)]

mod blob_store;
mod key_value;
mod messaging;
mod sql;
mod sql_tables;
mod watch;

pub use blob_store::{blob_store, tells_its_containers};
pub use key_value::{forgets_values, key_value, tells_its_buckets};
pub use messaging::messaging;
pub use sql::{SqlDialect, sql};
pub use sql_tables::sql_tables;
pub use watch::tells_changes;
