//! What tests of this crate and of others need.

pub mod artifacts;
pub mod power_loss;
pub mod scenario;
pub mod sim;
