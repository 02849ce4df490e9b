//! What a host says of itself to the others, beside that it lives.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The details of one host, as JSON. Fields that are not known are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Its name, which stays over restarts.
    pub name: String,
    /// What an operator says of it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it serves HTTP.
    #[serde(default)]
    pub http: String,
    /// The version of Weft that it runs.
    #[serde(default)]
    pub version: String,
    /// The moment of the control store that it has applied.
    #[serde(default)]
    pub applied: u64,
    /// How many things are not as wanted there.
    #[serde(default)]
    pub conditions: usize,
}

impl Details {
    /// As bytes.
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Of bytes; one that says something else is known by its address alone.
    pub fn of(bytes: &[u8], host: &str) -> Self {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Self {
            name: host.to_owned(),
            ..Self::default()
        })
    }
}
