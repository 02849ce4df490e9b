//! Stores, databases, configuration and connections, misused.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Arena, ended};

/// Answers each request with `ok`, but those for `/never` not at all.
struct Server {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut request = [0; 4 << 10];
                    let len = stream.read(&mut request).await.unwrap_or(0);
                    if request[..len].starts_with(b"GET /never ") {
                        // Until the client goes.
                        let _ = stream.read(&mut request).await;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        Self {
            address,
            _accepting: accepting,
        }
    }
}

#[tokio::test]
async fn large_values_many_keys_and_odd_names_are_bounded_by_the_store() {
    let arena = Arena::open().await;
    // In 64 MiB it can't even be made; what can is refused by the store.
    assert_eq!(
        arena.problem("/kv-large?len=100000000").await,
        ended(500, "memory")
    );
    let reply = arena.attack("/kv-large?len=20000000").await;
    assert!(reply.text().contains("too large"), "{}", reply.text());
    let reply = arena.attack("/kv-keys?n=20000").await;
    assert!(
        reply.status == 504 || reply.status == 500 || reply.text() == "20000 keys\n",
        "{}",
        reply.text()
    );
    let reply = arena.attack("/kv-names").await;
    assert_eq!(reply.text(), "refused kept kept kept kept kept kept refused\n");
    assert!(!arena.weft.log().contains('\u{1b}'), "an escape reached the log");
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn a_statement_without_an_end_ends_with_its_call_and_a_result_at_its_bound() {
    let arena = Arena::open().await;
    let reply = arena.attack("/sql-forever").await;
    assert!(
        reply.status == 504 || reply.text().contains("DeadlineExceeded"),
        "{} {}",
        reply.status,
        reply.text()
    );
    let reply = arena.attack("/sql-large").await;
    assert!(reply.text().contains("too large"), "{}", reply.text());
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn a_key_of_a_megabyte_is_no_setting() {
    let arena = Arena::open().await;
    assert_eq!(arena.attack("/config-large").await.text(), "None\n");
}

#[tokio::test]
async fn thousands_of_outgoing_requests_end_with_their_guest_and_leave_connections_for_others() {
    let server = Server::start().await;
    let address = server.address;
    let links = format!(", wasi:http/outgoing-handler: {{ allow: [\"http://{address}\"] }}");
    let arena = Arena::with(&links, &[]).await;
    let few = arena
        .attack(&format!("/fetches?url=http://{address}/&n=50"))
        .await;
    assert_eq!(few.text(), "50 answered, 0 failed, 0 refused \n");
    let (status, code) = arena
        .problem(&format!("/fetches?url=http://{address}/&n=5000"))
        .await;
    assert!(
        status == 500 && (code == "trap" || code == "cpu"),
        "{status} {code}"
    );
    // More than one actor may have on their way at once: those over its share fail, and the others wait in vain.
    let (status, code) = arena
        .problem(&format!("/fetches?url=http://{address}/never&n=700"))
        .await;
    assert!(
        matches!((status, code.as_str()), (504, "deadline") | (500, "cpu")),
        "{status} {code}"
    );
    arena.assert_peak_is_bounded();
}
