//! Pictures of what the shop sells: made small in Wasm, then kept in a key-value store.

wit_bindgen::generate!({
    world: "shop:images/images",
    path: ["../../wit/deps/keyvalue.wit", "../../compose/apps/shop/wit", "wit"],
    generate_all,
});

mod thumbnail;

use exports::shop::api::images::{Error, Guest, Picture};
use sha2::{Digest as _, Sha256};
use wasi::keyvalue::store::{self, Bucket};

struct Images;

export!(Images);

/// The name by which an actor opens the bucket that its link is for.
const BUCKET: &str = "default";
/// A card on the page is at most 320 points wide, on a screen of two pixels a point.
const KEPT_EDGE_MAX: u32 = 640;
/// 128 bits: no two pictures have the same id by chance.
const ID_BYTES_LEN: usize = 16;

impl Guest for Images {
    fn thumbnail(bytes: Vec<u8>, max_edge: u32) -> Result<Vec<u8>, String> {
        thumbnail::of(&bytes, max_edge)
    }

    fn put(bytes: Vec<u8>) -> Result<String, Error> {
        let kept = thumbnail::of(&bytes, KEPT_EDGE_MAX).map_err(Error::Invalid)?;
        let id = id(&kept);
        bucket()?.set(&id, &kept).map_err(failed)?;
        Ok(id)
    }

    fn get(id: String) -> Result<Option<Picture>, Error> {
        let found = bucket()?.get(&id).map_err(failed)?;
        Ok(found.map(|bytes| Picture {
            media_type: thumbnail::media_type(&bytes).to_owned(),
            bytes,
        }))
    }
}

fn id(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest[..ID_BYTES_LEN]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn bucket() -> Result<Bucket, Error> {
    store::open(BUCKET).map_err(failed)
}

fn failed(error: store::Error) -> Error {
    Error::Unavailable(format!("the store of pictures failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_picture_has_the_same_id() {
        assert_eq!(id(b""), "e3b0c44298fc1c149afbf4c8996fb924");
        assert_ne!(id(b"one"), id(b"other"));
    }
}
