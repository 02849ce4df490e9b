//! What the shop sells, in a key-value store.
//!
//! Each answer names the provider that gave it and its revision, as the platform tells them in the configuration, so
//! that a catalog can be watched while it moves from one store to another.

wit_bindgen::generate!({
    world: "shop:catalog/catalog",
    path: [
        "../../wit/deps/config-rc1.wit",
        "../../wit/deps/keyvalue.wit",
        "../../compose/apps/shop/wit",
        "wit",
    ],
    additional_derives: [Clone, PartialEq],
    generate_all,
});

mod product;

use exports::shop::api::catalog::{Error, Found, Guest, Listing, Product};
use wasi::config::store as config;
use wasi::keyvalue::batch;
use wasi::keyvalue::store::{self, Bucket};

struct Catalog;

export!(Catalog);

/// The name by which an actor opens the bucket that its link is for.
const BUCKET: &str = "default";
/// What the platform names the provider under.
const SOURCE_KEY: &str = "weft.link.wasi:keyvalue";
/// What one page can show; a list is built in memory.
const PRODUCTS_LEN_MAX: usize = 500;

impl Guest for Catalog {
    fn get(id: String) -> Result<Found, Error> {
        let value = bucket()?.get(&id).map_err(failed)?;
        Ok(Found {
            product: value.map(|value| product::decoded(&id, &value)).transpose()?,
            source: source()?,
        })
    }

    fn list() -> Result<Listing, Error> {
        let bucket = bucket()?;
        let ids = ids(&bucket)?;
        let values = batch::get_many(&bucket, &ids).map_err(failed)?;
        let products = values
            .into_iter()
            // One that was removed after the keys were read is `None`.
            .flatten()
            .map(|(id, value)| product::decoded(&id, &value));
        Ok(Listing {
            products: products.collect::<Result<_, _>>()?,
            source: source()?,
        })
    }

    fn put(product: Product) -> Result<String, Error> {
        product::check(&product)?;
        bucket()?
            .set(&product.id, &product::encoded(&product))
            .map_err(failed)?;
        source()
    }
}

fn bucket() -> Result<Bucket, Error> {
    store::open(BUCKET).map_err(failed)
}

/// In their order, each once: a store may tell a key twice while keys are added.
fn ids(bucket: &Bucket) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor).map_err(failed)?;
        ids.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() || ids.len() >= PRODUCTS_LEN_MAX {
            break;
        }
    }
    ids.sort();
    ids.dedup();
    ids.truncate(PRODUCTS_LEN_MAX);
    Ok(ids)
}

fn source() -> Result<String, Error> {
    let source = config::get(SOURCE_KEY)
        .map_err(|error| Error::Unavailable(format!("the configuration can't be read: {error}")))?;
    Ok(source.unwrap_or_else(|| "unknown".to_owned()))
}

fn failed(error: store::Error) -> Error {
    Error::Unavailable(format!("the store of products failed: {error}"))
}
