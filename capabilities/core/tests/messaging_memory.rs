//! Messaging within a process keeps the contract.
#![cfg(test)]

use std::sync::Arc;

use weft_capabilities::{MemoryMessaging, Messaging, conformance};

#[tokio::test]
async fn keeps_the_contract() {
    conformance::messaging(async || {
        let broker = Arc::new(MemoryMessaging::new());
        (broker.clone() as Arc<dyn Messaging>, broker as Arc<dyn Messaging>)
    })
    .await;
}
