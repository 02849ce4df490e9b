//! What was acknowledged is there after `kill -9` in the middle of writes.

use std::cell::RefCell;

use futures::future::join_all;
use serde_json::{Value, json};

use super::{again, kv_app, shop};
use crate::support::{Weft, wait_until};

const CLIENTS: usize = 8;

/// Lets clients write until so many writes are acknowledged and kills the host in the middle of the next ones; what was
/// acknowledged. A client is called with its number and how often it was called.
async fn killed_while_writing<T, W: Future<Output = Option<T>>>(
    weft: &Weft,
    acknowledged_min: usize,
    write: impl Fn(usize, usize) -> W,
) -> Vec<T> {
    let acknowledged = RefCell::new(Vec::new());
    let client = async |client: usize| {
        let mut turn = 0;
        while let Some(done) = write(client, turn).await {
            acknowledged.borrow_mut().push(done);
            turn += 1;
        }
    };
    let kill = async {
        let enough = || acknowledged.borrow().len() >= acknowledged_min;
        wait_until("enough is written", enough).await;
        weft.signal("-KILL");
    };
    tokio::join!(join_all((0..CLIENTS).map(client)), kill);
    acknowledged.into_inner()
}

#[tokio::test]
async fn keys_that_were_acknowledged_survive_a_kill_in_the_middle_of_writes() {
    let weft = Weft::app(&kv_app("redb"), &[]);
    let acknowledged = killed_while_writing(&weft, 200, async |client, turn| {
        let path = format!("/bucket/{client}-{turn}");
        let reply = weft.try_send("PUT", &path, format!("{client}:{turn}")).await?;
        assert_eq!(reply.status, 200, "{}", reply.text());
        Some((path, format!("{client}:{turn}")))
    })
    .await;
    let weft = again(weft.kill());
    for (path, value) in acknowledged {
        assert_eq!(weft.get(&path).await.text(), value, "{path}");
    }
}

#[tokio::test]
async fn orders_that_were_acknowledged_survive_a_kill_and_none_is_there_in_part() {
    let weft = shop::open(&[]).await;
    let acknowledged = killed_while_writing(&weft, 60, async |client, turn| {
        let quantity = turn % 12 + 1;
        let body = json!({
            "customer": format!("customer {client}"),
            "lines": [
                { "product": "rug", "quantity": quantity },
                { "product": "scarf", "quantity": 1 },
            ],
        });
        let reply = weft.try_send("POST", "/api/orders", body.to_string()).await?;
        assert_eq!(reply.status, 201, "{}", reply.text());
        Some(reply.json())
    })
    .await;
    let weft = again(weft.kill());
    for receipt in &acknowledged {
        let path = format!("/api/orders/{}", receipt["id"].as_str().unwrap());
        assert_eq!(weft.get(&path).await.json(), *receipt);
    }
    let sales = weft.get("/api/sales").await.json();
    for product in sales["sold"].as_array().unwrap() {
        assert_eq!(product["counted"], product["summed"], "{sales}");
    }
    // Orders that nobody was told of may be there too, whole.
    let sold = |product: &str| {
        let mut sold = sales["sold"].as_array().unwrap().iter();
        let sold = sold.find(|sold| sold["product"] == product);
        sold.and_then(|sold| sold["counted"].as_u64()).unwrap()
    };
    let of = |receipt: &Value, line: usize| receipt["lines"][line]["quantity"].as_u64().unwrap();
    assert!(sold("rug") >= acknowledged.iter().map(|receipt| of(receipt, 0)).sum());
    assert!(sold("scarf") >= acknowledged.len() as u64);
}
