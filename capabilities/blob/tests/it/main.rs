//! The backends against what they are made for.
#![cfg(test)]

mod azure;
mod fs;
mod s3;
