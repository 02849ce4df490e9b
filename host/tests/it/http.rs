//! HTTP in: protocols, bodies, bounds on clients.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt as _;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::guests::{ECHO, HELLO, HELLO_JS, HELLO_PYTHON};
use crate::support::{PATIENCE, Reply, Weft, empty, full, http1, http2, request, send};

#[tokio::test]
async fn serves_components_of_rust_javascript_and_python() {
    let weft = Weft::start(&[HELLO, HELLO_JS, HELLO_PYTHON], &[]);
    for (path, text) in [
        ("/hello/plain", "Hello from Weft"),
        ("/hello-js", "Hello from JavaScript"),
        ("/hello-python", "Hello from Python"),
    ] {
        let reply = weft.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {} {}", reply.text(), weft.log());
        assert!(reply.text().contains(text), "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_page_is_served_at_the_root() {
    let weft = Weft::start(&[HELLO], &[]);
    let reply = weft.get("/").await;
    assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
    assert!(reply.text().contains("Hello from Weft"));
}

#[tokio::test]
async fn several_components_are_served_below_their_names_as_if_at_the_root() {
    let weft = Weft::start(&[HELLO, ECHO], &[]);
    let reply = weft.get("/echo/headers?x=1").await;
    assert!(reply.text().contains("path: /headers?x=1"), "{}", reply.text());
    assert!(
        reply.text().contains("x-forwarded-prefix: /echo"),
        "{}",
        reply.text()
    );
    let reply = weft.get("/nobody").await;
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (404, "no-route")
    );
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let weft = Weft::start(&[HELLO], &[]);
    let mut connection = http1(weft.http).await;
    for _ in 0..100 {
        let request = request("GET", "/plain").body(empty()).unwrap();
        let reply = Reply::read(connection.sender.send_request(request).await.unwrap()).await;
        assert_eq!((reply.status, reply.text()), (200, "Hello from Weft!\n"));
    }
}

fn with_trailers() -> Request<http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>> {
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("42"))]);
    let frames = [
        Frame::data(Bytes::from_static(b"body")),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(futures::stream::iter(frames.map(Ok))).boxed_unsync();
    request("POST", "http://weft.test/")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http2_without_tls() {
    let weft = Weft::start(&[ECHO], &[]);
    let mut sender = http2(weft.http).await;
    let reply = Reply::read(sender.send_request(with_trailers()).await.unwrap()).await;
    assert_eq!(reply.text(), "body");
    assert_eq!(reply.trailers.unwrap()["x-sum"], "42");
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let weft = Weft::start(&[ECHO], &[]);
    let mut sender = http2(weft.http).await;
    let (mut tx, body) = futures::channel::mpsc::channel::<io::Result<Frame<Bytes>>>(1);
    let request = request("POST", "http://weft.test/")
        .body(StreamBody::new(body).boxed_unsync())
        .unwrap();
    tx.send(Ok(Frame::data(Bytes::from_static(b"0")))).await.unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    for round in 1..=20_u8 {
        // Each piece comes back before the next one is sent.
        let frame = tokio::time::timeout(PATIENCE, response.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), (round - 1).to_string());
        tx.send(Ok(Frame::data(Bytes::from(round.to_string()))))
            .await
            .unwrap();
    }
}

/// A body of `count` mebibytes that is made as it is sent.
fn mebibytes(count: usize) -> http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error> {
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    let frames = std::iter::repeat_n(chunk, count).map(|chunk| Ok(Frame::data(chunk)));
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

#[tokio::test]
async fn an_upload_of_a_gigabyte_passes_in_bounded_memory() {
    let weft = Weft::start(&[ECHO], &[]);
    weft.get("/headers").await;
    let before = weft.memory_kib("VmHWM");
    let reply = send(
        weft.http,
        request("POST", "/count").body(mebibytes(1_000)).unwrap(),
    )
    .await;
    assert_eq!((reply.status, reply.text().trim()), (200, "1048576000"));
    let grown = weft.memory_kib("VmHWM") - before;
    assert!(grown < 32 << 10, "resident memory grew by {grown} KiB");
}

#[tokio::test]
async fn an_upload_to_an_actor_that_reads_slowly_waits_in_bounded_memory_until_the_deadline() {
    let weft = Weft::start(&[ECHO], &["--timeout", "2s"]);
    weft.get("/headers").await;
    let before = weft.memory_kib("VmHWM");
    let reply = send(
        weft.http,
        request("POST", "/slow-read?ms=20")
            .body(mebibytes(1_000))
            .unwrap(),
    )
    .await;
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (504, "deadline")
    );
    let grown = weft.memory_kib("VmHWM") - before;
    assert!(grown < 32 << 10, "resident memory grew by {grown} KiB");
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_the_actor_sees_it() {
    let weft = Weft::start(&[ECHO], &["--max-body", "1KiB"]);
    let reply = send(
        weft.http,
        request("POST", "/count").body(full(vec![0; 1_025])).unwrap(),
    )
    .await;
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (413, "body-too-large")
    );
    let reply = send(
        weft.http,
        request("POST", "/count").body(full(vec![0; 1_024])).unwrap(),
    )
    .await;
    assert_eq!((reply.status, reply.text().trim()), (200, "1024"));
}

#[tokio::test]
async fn a_body_over_the_limit_that_announced_no_length_never_reaches_the_actor_whole() {
    let weft = Weft::start(&[ECHO], &["--max-body", "1MiB"]);
    let reply = send(weft.http, request("POST", "/count").body(mebibytes(2)).unwrap()).await;
    assert!(reply.status >= 400, "{} {}", reply.status, reply.text());
}

#[tokio::test]
async fn refuses_what_is_not_served_and_says_so() {
    let weft = Weft::start(&[HELLO], &[]);
    let websocket = request("GET", "/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let reply = send(weft.http, websocket.body(empty()).unwrap()).await;
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (501, "websocket")
    );
    assert!(
        reply.json()["detail"]
            .as_str()
            .unwrap()
            .contains("Server-sent events")
    );

    let no_host = exchange(weft.http, b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(no_host.starts_with("HTTP/1.1 400"), "{no_host}");
    let garbage = exchange(
        weft.http,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS to a plain port\r\n\r\n",
    )
    .await;
    assert!(
        garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"),
        "{garbage}"
    );
    assert_eq!(weft.get("/plain").await.status, 200);
}

/// Sends bytes and reads until the host closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_close(&mut stream).await
}

async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after an answer is a close too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the host did not close");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn ten_thousand_headers_are_answered_431() {
    let weft = Weft::start(&[HELLO], &[]);
    let mut head = b"GET / HTTP/1.1\r\nhost: weft.test\r\n".to_vec();
    for n in 0..10_000 {
        head.extend_from_slice(format!("x{n}: 1\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let answer = exchange(weft.http, &head).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(weft.get("/plain").await.status, 200);
}

#[tokio::test]
async fn a_client_that_sends_its_head_one_byte_at_a_time_is_left_at_the_head_timeout() {
    let weft = Weft::start(&[HELLO], &["--head-timeout", "1s"]);
    let mut stream = TcpStream::connect(weft.http).await.unwrap();
    let started = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nhost: weft.test\r\n".iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() || started.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(weft.get("/plain").await.status, 200);
}

#[tokio::test]
async fn a_connection_of_http2_without_a_request_is_ended_and_one_that_is_used_is_not() {
    let weft = Weft::start(&[ECHO], &["--head-timeout", "1s"]);
    let mut used = http2(weft.http).await;
    let mut idle = TcpStream::connect(weft.http).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat();
    idle.write_all(&opening).await.unwrap();
    let use_it = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let request = request("GET", "http://weft.test/headers").body(empty()).unwrap();
            let reply = Reply::read(used.send_request(request).await.unwrap()).await;
            assert_eq!(reply.status, 200);
        }
        // Longer than any pause, in one response.
        let request = request("GET", "http://weft.test/sse?n=3&ms=2500")
            .body(empty())
            .unwrap();
        let reply = Reply::read(used.send_request(request).await.unwrap()).await;
        assert!(reply.text().contains("data: 2"), "{}", reply.text());
    };
    let ((), _) = tokio::join!(use_it, read_to_close(&mut idle));
}

#[tokio::test]
async fn a_client_that_sends_its_body_one_byte_at_a_time_is_cut_off_and_frees_the_actor() {
    let weft = Weft::start(&[ECHO], &["--concurrency", "1"]);
    let mut stream = TcpStream::connect(weft.http).await.unwrap();
    stream
        .write_all(b"POST /count HTTP/1.1\r\nhost: weft.test\r\ncontent-length: 1000\r\n\r\n")
        .await
        .unwrap();
    let started = Instant::now();
    while started.elapsed() < PATIENCE && stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if weft.live_instances() == 0 && started.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    let lasted = started.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(15)).contains(&lasted),
        "{lasted:?}"
    );
    assert_eq!(weft.get("/headers").await.status, 200);
}

#[tokio::test]
async fn a_connection_over_the_bound_is_answered_503_and_the_next_one_served() {
    let weft = Weft::start(&[HELLO], &["--connections", "1"]);
    let held = TcpStream::connect(weft.http).await.unwrap();
    crate::support::wait_until("the connection is counted", || {
        let path = weft.data.path().join("admin.sock");
        crate::support::over_unix(&path, "/v1/host").contains("\"connections\":1")
    })
    .await;
    let mut refused = TcpStream::connect(weft.http).await.unwrap();
    let answer = read_to_close(&mut refused).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after"),
        "{answer}"
    );
    drop(held);
    crate::support::wait_until("the connection is gone", || {
        let path = weft.data.path().join("admin.sock");
        crate::support::over_unix(&path, "/v1/host").contains("\"connections\":0")
    })
    .await;
    assert_eq!(weft.get("/plain").await.status, 200);
}

#[tokio::test]
async fn forwarded_headers_count_only_from_named_proxies() {
    let forged = || {
        request("GET", "/headers")
            .header("x-forwarded-for", "6.6.6.6")
            .body(empty())
            .unwrap()
    };
    let weft = Weft::start(&[ECHO], &[]);
    let seen = send(weft.http, forged()).await;
    assert!(
        seen.text().contains("x-forwarded-for: 127.0.0.1") && !seen.text().contains("6.6.6.6"),
        "{}",
        seen.text()
    );
    let weft = Weft::start(&[ECHO], &["--trusted-proxy", "127.0.0.0/8"]);
    let seen = send(weft.http, forged()).await;
    assert!(
        seen.text().contains("x-forwarded-for: 6.6.6.6, 127.0.0.1"),
        "{}",
        seen.text()
    );
}

mod tls {
    use std::path::Path;
    use std::sync::Arc;

    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rustls::pki_types::{CertificateDer, ServerName};

    use super::*;
    use crate::support::wait_until;

    fn write_pair(dir: &Path, file: &str, name: &str) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        std::fs::write(dir.join(format!("{file}.key")), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(dir.join(format!("{file}.pem")), made.cert.pem()).unwrap();
        made.cert.der().clone()
    }

    /// The certificate that is shown for `name`, and the protocol that is agreed on.
    async fn connect(
        address: SocketAddr,
        name: &str,
        trusted: &[CertificateDer<'static>],
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    #[tokio::test]
    async fn certificates_are_chosen_by_name_and_taken_anew_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let a = write_pair(dir.path(), "a", "a.test");
        let b = write_pair(dir.path(), "b", "b.test");
        let pair = |name: &str| format!("{0}/{name}.pem:{0}/{name}.key", dir.path().display());
        let args = ["--https", "127.0.0.1:0", "--tls", &pair("a"), "--tls", &pair("b")];
        let weft = Weft::start(&[ECHO], &args);
        let https: SocketAddr = weft.ready["https"].as_str().unwrap()["https://".len()..]
            .parse()
            .unwrap();

        let both = [a.clone(), b];
        connect(https, "a.test", &both).await.unwrap();
        let stream = connect(https, "b.test", &both).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let reply = async {
            let request = Request::get("https://b.test/headers").body(empty()).unwrap();
            Reply::read(sender.send_request(request).await.unwrap()).await
        };
        let reply = tokio::select! {
            reply = reply => reply,
            ended = connection => panic!("the connection ended: {ended:?}"),
        };
        assert!(reply.text().contains("scheme: https"), "{}", reply.text());
        assert!(
            reply.text().contains("x-forwarded-proto: https"),
            "{}",
            reply.text()
        );

        let renewed = write_pair(dir.path(), "a", "a.test");
        let started = Instant::now();
        while connect(https, "a.test", std::slice::from_ref(&renewed))
            .await
            .is_err()
        {
            assert!(started.elapsed() < PATIENCE, "the new certificate was not taken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(
            connect(https, "a.test", &[a]).await.is_err(),
            "the old certificate is still shown"
        );

        std::fs::write(dir.path().join("a.pem"), "damaged").unwrap();
        wait_until("the damage is told", || {
            weft.log().contains("kept the old certificate")
        })
        .await;
        connect(https, "a.test", &[renewed]).await.unwrap();
    }
}
