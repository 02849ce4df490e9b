//! What is told of buckets.
#![cfg(test)]

use weft_capabilities::{Bucket, KeyValue, conformance};
use weft_redis::{RedisKeyValue, RedisOptions};
use weft_servers::Redis;

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_told_by_app_among_keys_of_others() {
    let server = Redis::start();
    let store = RedisKeyValue::open(&RedisOptions::new(server.url())).unwrap();
    server.cli(&["zadd", "weft:{default/shop/}a}:k", "0", "not ours"]);
    server.cli(&["set", "weft:{default/shop/b}:k", "not ours either"]);
    conformance::tells_its_buckets(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_buckets_are_told_each_once() {
    let server = Redis::start();
    let store = RedisKeyValue::open(&RedisOptions::new(server.url())).unwrap();
    for n in 0..3_000 {
        let bucket = Bucket::scoped("default", "shop", &n.to_string());
        store.set(&bucket, "k", "v".into()).await.unwrap();
    }
    let told = store.buckets(Some(("default", "shop"))).await.unwrap();
    assert_eq!(told.len(), 3_000);
}
