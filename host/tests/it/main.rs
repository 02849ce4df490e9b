//! Weft as its users meet it: the binary, real components, real connections.
//!
//! Each test starts its own host on a free port with a data folder of its own. The guests are built by
//! `cargo xtask actors`, which `cargo xtask test` does first.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod apps;
mod artifacts;
mod density;
mod faults;
mod files;
mod fuzz;
mod hostile;
mod http;
mod mesh;
mod operate;
mod overload;
mod reuse;
mod support;
