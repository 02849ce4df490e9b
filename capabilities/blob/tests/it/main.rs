//! The backends against what they are made for.
#![cfg(test)]

mod fs;
mod s3;
