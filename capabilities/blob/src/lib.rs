//! Blob stores that outlive their process: a folder of this machine, and the object stores of clouds.
//!
//! Owns how names and bytes are kept. It must not know who asks.
//!
//! Read next: [`name`], then [`fs`] and [`cloud`].

pub mod cloud;
pub mod fs;
pub mod name;
mod staging;

pub use crate::cloud::{CloudBlobStore, CloudOptions, Service};
pub use crate::fs::{FsBlobStore, FsOptions};
