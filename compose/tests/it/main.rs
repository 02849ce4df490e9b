//! What the crate does as a whole: texts in, models, records and reports out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad;
mod deploys;
mod docs;
mod fuzz;
mod good;
mod records;
