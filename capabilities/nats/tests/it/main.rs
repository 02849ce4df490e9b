//! The backends against real servers.
#![cfg(test)]

mod blob_store;
mod key_value;
mod login;
mod messaging;

use std::time::Duration;

use weft_capabilities::{Bucket, KeyValueError};
use weft_nats::{BucketOptions, NatsKeyValue, NatsOptions};
use weft_servers::Nats;

/// A bound for what has to become so.
const LONG: Duration = Duration::from_secs(60);

fn open(options: &NatsOptions) -> NatsKeyValue {
    NatsKeyValue::open(options, BucketOptions::default()).unwrap()
}

fn open_at(url: impl Into<String>) -> NatsKeyValue {
    open(&NatsOptions::new(url))
}

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

async fn bare(server: &Nats) -> async_nats::Client {
    async_nats::connect(server.url()).await.unwrap()
}

/// Asks JetStream's API.
async fn ask(client: &async_nats::Client, subject: &str, question: serde_json::Value) -> serde_json::Value {
    let answer = client.request(format!("$JS.API.{subject}"), question.to_string().into());
    serde_json::from_slice(&answer.await.unwrap().payload).unwrap()
}

/// Tries until it is done. Whatever fails meanwhile has to say that the server is away.
async fn once_it_answers<T>(mut attempt: impl AsyncFnMut() -> Result<T, KeyValueError>) -> T {
    let tries = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(KeyValueError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    tokio::time::timeout(LONG, tries)
        .await
        .expect("it never answers again")
}
