//! The functions of `weft:provider/key-value`.

use bytes::Bytes;
use weft_capabilities::{Bucket, KeyValue};
use weft_lattice::envelope::Failure;

use super::Called;
use crate::KEY_VALUE;
use crate::cbor::encode;

pub(super) async fn run(store: &dyn KeyValue, called: &Called<'_>) -> Result<Vec<u8>, Failure> {
    Ok(match called.function {
        "get" => {
            let (bucket, key): (Bucket, String) = called.args()?;
            encode(&(store.get(&bucket, &key).await,))
        }
        "set" => {
            let (bucket, key, value): (Bucket, String, Bytes) = called.args()?;
            encode(&(store.set(&bucket, &key, value).await,))
        }
        "delete" => {
            let (bucket, key): (Bucket, String) = called.args()?;
            encode(&(store.delete(&bucket, &key).await,))
        }
        "exists" => {
            let (bucket, key): (Bucket, String) = called.args()?;
            encode(&(store.exists(&bucket, &key).await,))
        }
        "list-keys" => {
            let (bucket, cursor, limit): (Bucket, Option<String>, u64) = called.args()?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            encode(&(store.list_keys(&bucket, cursor.as_deref(), limit).await,))
        }
        "increment" => {
            let (bucket, key, delta): (Bucket, String, i64) = called.args()?;
            encode(&(store.increment(&bucket, &key, delta).await,))
        }
        "compare-and-swap" => {
            let (bucket, key, expected, new): (Bucket, String, Option<Bytes>, Bytes) = called.args()?;
            encode(&(store.compare_and_swap(&bucket, &key, expected, new).await,))
        }
        "get-many" => {
            let (bucket, keys): (Bucket, Vec<String>) = called.args()?;
            encode(&(store.get_many(&bucket, &keys).await,))
        }
        "set-many" => {
            let (bucket, entries): (Bucket, Vec<(String, Bytes)>) = called.args()?;
            encode(&(store.set_many(&bucket, entries).await,))
        }
        "delete-many" => {
            let (bucket, keys): (Bucket, Vec<String>) = called.args()?;
            encode(&(store.delete_many(&bucket, &keys).await,))
        }
        _ => return Err(called.unknown(KEY_VALUE)),
    })
}
