//! The shop of `compose/apps/shop`: an app of five actors, whose store and code are changed while it serves.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use weft_observability::test_collector::TestCollector;

use super::{Load, again};
use crate::support::{AppFile, Reply, Weft, full, guest, request, send};

/// The example's own manifest, with another component behind `pricing` if one is named.
pub(super) fn manifest(pricing: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose/apps/shop/app.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let guests = guest("storefront");
    let guests = guests.parent().unwrap().display().to_string();
    text.replace("../../../target/guests", &guests)
        .replace("pricing.wasm", &format!("{pricing}.wasm"))
}

/// A shop with goods on its shelves.
pub(super) async fn open(env: &[(&str, &str)]) -> Weft {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[AppFile::new(&manifest("pricing")).path()], &[], env, data);
    let seeded = weft.send("POST", "/api/seed", "").await;
    assert_eq!(seeded.status, 200, "{}", seeded.text());
    weft
}

async fn post(weft: &Weft, path: &str, body: Value) -> Reply {
    weft.send("POST", path, body.to_string()).await
}

fn cart() -> Value {
    json!([{ "product": "rug", "quantity": 3 }, { "product": "scarf", "quantity": 10 }])
}

#[tokio::test]
async fn an_order_survives_a_restart_and_a_kill() {
    let weft = open(&[]).await;
    let placed = post(
        &weft,
        "/api/orders",
        json!({ "customer": "Ada", "lines": cart() }),
    )
    .await;
    assert_eq!(placed.status, 201, "{}", placed.text());
    let (path, receipt) = (placed.header("location").to_owned(), placed.json());
    assert_eq!(receipt["total_cents"], 115_065, "{receipt}");
    let products = weft.get("/api/products").await.json();
    let picture = format!("/images/{}", products["products"][0]["image"].as_str().unwrap());
    let picture_bytes = weft.get(&picture).await.body;
    assert!(!picture_bytes.is_empty());

    let weft = again(weft.stop());
    assert_eq!(weft.get(&path).await.json(), receipt);
    let weft = again(weft.kill());
    assert_eq!(weft.get(&path).await.json(), receipt);
    assert_eq!(weft.get("/api/products").await.json(), products);
    assert!(weft.get(&picture).await.body == picture_bytes);
}

#[tokio::test]
async fn the_trace_of_an_order_has_each_call_and_what_it_asked_of_which_store() {
    let collector = TestCollector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let weft = open(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ])
    .await;
    let body = json!({ "customer": "Ada", "lines": cart() }).to_string();
    let traced = request("POST", "/api/orders").header(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    );
    let placed = send(weft.http, traced.body(full(body)).unwrap()).await;
    assert_eq!(placed.status, 201, "{}", placed.text());

    let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    let of_trace = || {
        let spans = collector.spans().into_iter();
        spans.filter(|span| span.trace_id == trace_id).collect::<Vec<_>>()
    };
    // Spans are sent as they end, and the request's ends last.
    crate::support::wait_until("the request's span came", || {
        of_trace().iter().any(|span| span.name == "POST")
    })
    .await;
    let spans = of_trace();
    let parent = |id: Option<u64>| spans.iter().find(|span| Some(span.span_id) == id);
    let seen: BTreeSet<(String, String)> = spans
        .iter()
        .filter_map(|span| Some((parent(span.parent_span_id)?.name.clone(), span.name.clone())))
        .collect();
    for (caller, callee) in [
        ("POST", "shop:api/catalog@0.1.0/get"),
        ("shop:api/catalog@0.1.0/get", "key-value get"),
        ("POST", "shop:api/pricing@0.1.0/quote"),
        ("POST", "shop:api/orders@0.1.0/place"),
        ("shop:api/orders@0.1.0/place", "sql begin"),
        ("shop:api/orders@0.1.0/place", "sql execute"),
        ("shop:api/orders@0.1.0/place", "sql commit"),
    ] {
        let edge = (caller.to_owned(), callee.to_owned());
        assert!(seen.contains(&edge), "{edge:?} is missing in {seen:#?}");
    }
    let roots: Vec<_> = spans
        .iter()
        .filter(|span| parent(span.parent_span_id).is_none())
        .map(|span| span.name.as_str())
        .collect();
    assert_eq!(roots, ["POST"], "a span has no place in the trace");
}

#[tokio::test]
async fn the_catalog_moves_between_stores_under_load_and_no_request_fails() {
    let weft = open(&[]).await;
    let name = |source: &str| format!("from {}", source.split('@').next().unwrap());
    let put = async |id: &str, name: &str| {
        let body = json!({ "name": name, "price_cents": 100 }).to_string();
        let reply = weft.send("PUT", &format!("/api/products/{id}"), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["source"].as_str().unwrap().to_owned()
    };
    let link = async |to: &str| {
        let args = [
            "link",
            "put",
            "default/shop/catalog",
            "wasi:keyvalue",
            "--to",
            to,
            "--bucket",
            "products",
        ];
        weft.cli(&args).await;
    };
    assert_eq!(put("sign", "from goods").await, "goods@1");
    link("spare").await;
    assert_eq!(put("sign", "from spare").await, "spare@1");
    link("goods").await;

    let kept = RefCell::new(Vec::new());
    let sources = RefCell::new(BTreeSet::new());
    let visit = async |client: usize, turn: usize| {
        if client == 0 {
            let id = format!("new-{turn}");
            if put(&id, "new").await == "goods@1" {
                kept.borrow_mut().push(id);
            }
            return;
        }
        let reply = weft.get("/api/products/sign").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        let source = answer["source"].as_str().unwrap();
        assert_eq!(answer["product"]["name"], name(source), "{answer}");
        sources.borrow_mut().insert(source.to_owned());
    };
    Load::during(4, visit, async |load| {
        for _ in 0..3 {
            for to in ["spare", "goods"] {
                load.more(20).await;
                link(to).await;
            }
        }
        load.more(20).await;
    })
    .await;
    assert_eq!(
        sources.into_inner().into_iter().collect::<Vec<_>>(),
        ["goods@1", "spare@1"]
    );
    let kept = kept.into_inner();
    assert!(!kept.is_empty());
    for id in kept {
        let reply = weft.get(&format!("/api/products/{id}")).await;
        assert_eq!(reply.status, 200, "{id} was acknowledged and is gone");
    }
}

/// Whether an answer has the prices of the rule that it names, and of no other.
fn agrees(answer: &Value) -> bool {
    let of_lines = |key: &str| -> Vec<_> {
        let lines = answer["lines"].as_array().unwrap().iter();
        lines.map(|line| line[key].as_u64().unwrap()).collect()
    };
    let expected = match answer["rule"].as_str().unwrap() {
        // 3 of 249.00 and 10 of 49.00.
        "quantity-discount" => (vec![5, 10], vec![70_965, 44_100], 115_065),
        "summer-sale" => (vec![20, 20], vec![59_760, 39_200], 98_960),
        other => panic!("no such rule: {other}"),
    };
    answer["subtotal_cents"] == 123_700
        && (of_lines("percent_off"), of_lines("total_cents")) == (expected.0, expected.1)
        && answer["total_cents"] == expected.2
}

#[tokio::test]
async fn another_pricing_goes_live_under_load_and_no_answer_is_of_both() {
    let weft = open(&[]).await;
    let app = AppFile::new("");
    let deploy = async |pricing: &str| {
        app.write(&manifest(pricing));
        weft.cli(&["deploy", app.path().to_str().unwrap()]).await;
    };
    let rules = RefCell::new(BTreeSet::new());
    let visit = async |client: usize, _: usize| {
        let (path, body, status) = if client == 0 {
            ("/api/orders", json!({ "customer": "Ada", "lines": cart() }), 201)
        } else {
            ("/api/quotes", json!({ "lines": cart() }), 200)
        };
        let reply = post(&weft, path, body).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        let answer = reply.json();
        assert!(agrees(&answer), "{answer}");
        rules
            .borrow_mut()
            .insert(answer["rule"].as_str().unwrap().to_owned());
    };
    let rule = async || {
        weft.get("/api/rule").await.json()["rule"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    Load::during(4, visit, async |load| {
        for (pricing, name) in [
            ("pricing-sale", "summer-sale"),
            ("pricing", "quantity-discount"),
            ("pricing-sale", "summer-sale"),
        ] {
            load.more(20).await;
            deploy(pricing).await;
            assert_eq!(rule().await, name, "a deploy has returned before it was served");
        }
        load.more(20).await;
    })
    .await;
    assert_eq!(
        rules.into_inner().into_iter().collect::<Vec<_>>(),
        ["quantity-discount", "summer-sale"]
    );
    let sales = weft.get("/api/sales").await.json();
    for product in sales["sold"].as_array().unwrap() {
        assert_eq!(product["counted"], product["summed"], "{sales}");
    }
}
