//! Visits of all kinds at once, to the apps of `xtask/src/soak/app.yaml` and the shop.
//!
//! Owns the kinds and what each must be answered. Users are served well or the visit has failed; attackers and those
//! who leave expect nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Body, Client, full, request};

/// Longer than any deadline of the soak's actors: a user who waits so long has not been served.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an attacker looks at what it has started.
const ATTACK: Duration = Duration::from_secs(3);
/// Between two visits of one client. The load is to be mixed and steady, and leave the machine some air.
const PAUSE: Duration = Duration::from_millis(10);
const FAILURES_TOLD_MAX: usize = 5;
const KEYS: usize = 500;

/// A kind of visit, and how many clients make it one after the other.
const KINDS: &[(&str, usize)] = &[
    ("hello", 4),
    ("shop", 2),
    ("key-value", 2),
    ("sql", 2),
    ("calls", 2),
    ("upload", 1),
    ("echo", 1),
    ("events", 1),
    ("leaves-download", 1),
    ("leaves-upload", 1),
    ("leaves-call", 1),
    ("attack", 3),
];

/// Paths of the guests `fault` and `hostile`.
const ATTACKS: &[&str] = &[
    "/fault/trap",
    "/fault/spin",
    "/fault/stack",
    "/fault/memory",
    "/fault/handles",
    "/fault/pollables",
    "/fault/no-response",
    "/fault/trap-after-head",
    "/fault/endless-body",
    "/fault/stall-body",
    "/fault/headers?n=10000",
    "/fault/log?n=20000&len=100",
    "/fault/post-response",
    "/fault/subtask-many?n=1000",
    "/hostile/loop",
    "/hostile/memory",
    "/hostile/grows",
    "/hostile/fill",
    "/hostile/recursion",
    "/hostile/handles?of=fields",
    "/hostile/handles?of=streams",
    "/hostile/log-line",
    "/hostile/log-flood",
    "/hostile/headers",
    "/hostile/endless-body",
    "/hostile/stalled-body",
    "/hostile/fetches?url=http://127.0.0.1:9/&n=100",
    "/hostile/trap-mid-body",
    "/hostile/calls-deep?n=100",
    "/hostile/cycle?n=1000000",
    "/hostile/timers",
    "/hostile/kv-large",
    "/hostile/sql-forever",
];

#[derive(Default)]
struct Tally {
    ok: u64,
    failed: u64,
    failures: Vec<String>,
    slowest: Duration,
}

pub(crate) async fn run(address: SocketAddr, duration: Duration) -> Value {
    let until = Instant::now() + duration;
    let tallies: Arc<Mutex<BTreeMap<&str, Tally>>> = Arc::default();
    let mut clients = JoinSet::new();
    for &(kind, count) in KINDS {
        for client in 0..count {
            clients.spawn(visits(address, kind, client, until, tallies.clone()));
        }
    }
    while clients.join_next().await.is_some() {}
    let tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
    let told = tallies.iter().map(|(kind, tally)| {
        let told = json!({
            "ok": tally.ok, "failed": tally.failed, "failures": tally.failures,
            "slowest_ms": u64::try_from(tally.slowest.as_millis()).unwrap_or(u64::MAX),
        });
        ((*kind).to_owned(), told)
    });
    Value::Object(told.collect())
}

/// One client: a visit after the other, over one connection where it is kept.
async fn visits(
    address: SocketAddr,
    kind: &'static str,
    number: usize,
    until: Instant,
    tallies: Arc<Mutex<BTreeMap<&'static str, Tally>>>,
) {
    let mut connection = None;
    let mut round = number * 7;
    while Instant::now() < until {
        round += 1;
        let started = Instant::now();
        let ended = match tokio::time::timeout(PATIENCE, visit(address, kind, round, &mut connection)).await {
            Ok(ended) => ended,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())),
        };
        {
            let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
            let tally = tallies.entry(kind).or_default();
            tally.slowest = tally.slowest.max(started.elapsed());
            match ended {
                Ok(()) => tally.ok += 1,
                Err(error) => {
                    connection = None;
                    tally.failed += 1;
                    if tally.failures.len() < FAILURES_TOLD_MAX {
                        tally.failures.push(format!("{error:#}"));
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn visit(
    address: SocketAddr,
    kind: &str,
    round: usize,
    connection: &mut Option<Client>,
) -> anyhow::Result<()> {
    if matches!(
        kind,
        "attack" | "leaves-download" | "leaves-upload" | "leaves-call"
    ) {
        return disturb(Client::connect(address).await?, kind, round).await;
    }
    let mut kept = connection.take();
    // A host closes connections that it need not keep; that is no failure.
    if let Some(client) = &mut kept
        && !client.is_open().await
    {
        kept = None;
    }
    let client = match kept {
        Some(client) => connection.insert(client),
        None => connection.insert(Client::connect(address).await?),
    };
    match kind {
        "hello" => {
            let path = ["/hello/plain", "/hello/"][round % 2];
            expect(client, "GET", path, Bytes::new(), |status, _| {
                status == 200 || status == 404
            })
            .await
        }
        "shop" => shop(client, round).await,
        "key-value" => {
            let path = format!("/kv/soak/{}", round % KEYS);
            let value = Bytes::from(format!("{round} ").repeat(20));
            expect(client, "PUT", &path, value, |status, _| status == 200).await?;
            expect(client, "GET", &path, Bytes::new(), |status, body| {
                status == 200 && !body.is_empty()
            })
            .await
        }
        "sql" => {
            let id = round % KEYS;
            let put = json!({
                "sql": "INSERT INTO soak (id, text) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = $2",
                "params": [id, format!("row {round}")],
            });
            expect(client, "POST", "/sql/execute", put.to_string(), |status, _| {
                status == 200
            })
            .await?;
            let get = json!({ "sql": "SELECT text FROM soak WHERE id = $1", "params": [id] });
            expect(client, "POST", "/sql/query", get.to_string(), |status, body| {
                status == 200 && body.windows(4).any(|part| part == b"row ")
            })
            .await
        }
        "calls" if round.is_multiple_of(2) => {
            expect(client, "GET", "/calls/mix", Bytes::new(), |_, body| {
                body == "same\n"
            })
            .await
        }
        "calls" => {
            let sent = Bytes::from(vec![b'x'; 16 << 10]);
            expect(client, "POST", "/calls/bytes", sent.clone(), |_, body| {
                *body == sent
            })
            .await
        }
        "upload" => {
            let answer = client.ask(request("POST", "/echo/count", pieces(32))).await?;
            ensure!(
                answer == (200, Bytes::from("1048576\n")),
                "/echo/count answered {answer:?}"
            );
            Ok(())
        }
        "echo" => {
            let (status, body) = client.ask(request("POST", "/echo/", pieces(8))).await?;
            ensure!(
                status == 200 && body.len() == 8 * PIECE,
                "/echo/ answered {status} with {} bytes",
                body.len()
            );
            Ok(())
        }
        _ => {
            expect(
                client,
                "GET",
                "/echo/sse?n=20&ms=10",
                Bytes::new(),
                |status, body| status == 200 && !body.is_empty(),
            )
            .await
        }
    }
}

/// One customer. Its catalog moves to an empty store and back meanwhile, where products are not found.
async fn shop(client: &mut Client, round: usize) -> anyhow::Result<()> {
    const PRODUCTS: [&str; 4] = ["blanket", "cushion", "rug", "towel"];
    let product = PRODUCTS[round % PRODUCTS.len()];
    let lines = json!([{ "product": product, "quantity": round % 12 + 1 }]);
    let served = |status: u16, _: &Bytes| matches!(status, 200..=299 | 404 | 422);
    expect(client, "GET", "/", Bytes::new(), served).await?;
    expect(client, "GET", "/api/products", Bytes::new(), served).await?;
    expect(
        client,
        "GET",
        &format!("/api/products/{product}"),
        Bytes::new(),
        served,
    )
    .await?;
    let quote = json!({ "lines": lines }).to_string();
    expect(client, "POST", "/api/quotes", quote, served).await
}

/// Does harm, or leaves in the middle. Whatever is answered is right.
async fn disturb(mut client: Client, kind: &str, round: usize) -> anyhow::Result<()> {
    let act = async {
        match kind {
            "leaves-download" => {
                let all = client
                    .send(request("GET", "/echo/sse?n=100000&ms=5", full("")))
                    .await?;
                let mut body = all.into_body();
                for _ in 0..round % 10 {
                    let _ = body.frame().await;
                }
            }
            "leaves-upload" => {
                let endless = client.send(request("POST", "/echo/slow-read?ms=5", pieces(10_000)));
                let _ = tokio::time::timeout(Duration::from_millis(50), endless).await;
            }
            "leaves-call" => {
                let late = client.send(request("GET", "/calls/wait?ms=10000", full("")));
                let _ = tokio::time::timeout(Duration::from_millis(50), late).await;
            }
            _ => {
                let path = ATTACKS[round % ATTACKS.len()];
                let mut body = client.send(request("GET", path, full(""))).await?.into_body();
                let mut read = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    read += frame.data_ref().map_or(0, Bytes::len);
                    if read > 1 << 20 {
                        break;
                    }
                }
            }
        }
        hyper::Result::Ok(())
    };
    // An end that the host makes is as good as any.
    let _ = tokio::time::timeout(ATTACK, act).await;
    Ok(())
}

async fn expect(
    client: &mut Client,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
    holds: impl Fn(u16, &Bytes) -> bool,
) -> anyhow::Result<()> {
    let asked = client.ask(request(method, path, full(body))).await;
    let (status, body) = asked.with_context(|| format!("{method} {path}"))?;
    ensure!(
        holds(status, &body),
        "{method} {path} answered {status}: {}",
        String::from_utf8_lossy(&body[..body.len().min(200)])
    );
    Ok(())
}

const PIECE: usize = 32 << 10;

/// A body of so many pieces, whose length is not told before.
fn pieces(count: usize) -> Body {
    let piece = Bytes::from_static(&[b'w'; PIECE]);
    let frames = (0..count).map(move |_| Ok(Frame::data(piece.clone())));
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}
