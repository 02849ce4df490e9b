//! The admin API itself: its problems, its bounds, who may ask and who is recorded.

use http::Method;
use serde_json::{Value, json};

use super::Shop;
use crate::support::guests::HELLO;
use crate::support::{Reply, Weft, full, guest, http1, request, send};

/// The admin API over TCP.
struct Api<'a> {
    weft: &'a Weft,
    token: String,
}

impl<'a> Api<'a> {
    fn of(weft: &'a Weft) -> Self {
        let token = std::fs::read_to_string(weft.data.path().join("admin.token")).unwrap();
        Self {
            weft,
            token: token.trim().to_owned(),
        }
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<bytes::Bytes>) -> Reply {
        let address = self.weft.ready["admin_tcp"]
            .as_str()
            .unwrap()
            .trim_start_matches("http://");
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", self.token))
            .body(full(body))
            .unwrap();
        send(address.parse().unwrap(), request).await
    }

    async fn problem(&self, method: Method, path: &str, body: impl Into<bytes::Bytes>) -> (u16, Value) {
        let reply = self.send(method, path, body).await;
        assert_eq!(
            reply.header("content-type"),
            "application/problem+json",
            "{reply:?}"
        );
        assert_eq!(reply.json()["status"], reply.status);
        (reply.status, reply.json())
    }
}

#[tokio::test]
async fn the_api_answers_problems_with_a_code() {
    let weft = Weft::start(&[HELLO], &["--admin", "127.0.0.1:0"]);
    let api = Api::of(&weft);
    let digest = format!("sha256:{}", "0".repeat(64));
    let artifact = format!("/v1/artifacts/{digest}");
    let link = r#"{"actor":"hello","interface":"wasi:keyvalue","to":{"name":"a","actor":"b"}}"#;
    for (method, path, body, status, code) in [
        (Method::GET, "/v1/nothing", "", 404, "no-route"),
        (Method::DELETE, "/v1/host", "", 405, "method"),
        (Method::POST, "/v1/deploy", "{", 400, "request"),
        (
            Method::POST,
            "/v1/deploy",
            r#"{"manifest":"","mainfest":""}"#,
            400,
            "request",
        ),
        (Method::POST, "/v1/deploy", r#"{"manifest":""}"#, 422, "manifest"),
        (Method::GET, "/v1/logs?tail=many", "", 400, "request"),
        (Method::GET, "/v1/links?name=nobody", "", 404, "unknown-name"),
        (Method::PUT, artifact.as_str(), "not these bytes", 422, "digest"),
        (Method::PUT, "/v1/artifacts/sha256:0", "", 400, "digest"),
        (Method::DELETE, "/v1/apps/default/shop", "", 404, "not-deployed"),
        (Method::DELETE, "/v1/apps/default/Sh%6Fp", "", 400, "name"),
        (Method::PUT, "/v1/links", link, 400, "target"),
        (
            Method::POST,
            "/v1/call",
            r#"{"actor":"hello","interface":"a","function":"b"}"#,
            400,
            "request",
        ),
    ] {
        let (found, problem) = api.problem(method.clone(), path, body).await;
        assert_eq!(
            (found, problem["code"].as_str()),
            (status, Some(code)),
            "{method} {path}: {problem}"
        );
    }
    // No component, but with the digest that it was announced with.
    let (status, problem) = {
        let empty = "/v1/artifacts/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        api.problem(Method::PUT, empty, "").await
    };
    assert_eq!(
        (status, &problem["code"]),
        (422, &json!("component")),
        "{problem}"
    );

    let document = api.send(Method::GET, "/v1/openapi.json", "").await;
    assert_eq!(document.json()["openapi"], "3.1.0");
    let hello = std::fs::read(guest(HELLO)).unwrap();
    let here = weft.ready["host"].clone();
    let actor = api.send(Method::GET, "/v1/actors", "").await.json()["actors"][0].clone();
    let pushed = api
        .send(
            Method::PUT,
            &format!("/v1/artifacts/{}", actor["component"].as_str().unwrap()),
            hello,
        )
        .await;
    assert_eq!(
        (pushed.status, &pushed.json()["component"]),
        (200, &actor["component"])
    );
    assert_eq!(api.send(Method::GET, "/v1/host", "").await.json()["host"], here);
}

#[test]
fn a_body_that_is_too_long_is_refused_by_its_announcement() {
    use std::io::{Read as _, Write as _};
    let weft = Weft::start(&[HELLO], &[]);
    for (route, len) in [
        ("POST /v1/deploy", (10 << 20) + 1),
        ("PUT /v1/artifacts/sha256:0", 1_u64 << 40),
    ] {
        let digest = "0".repeat(64);
        let route = route.replace("sha256:0", &format!("sha256:{digest}"));
        let socket = weft.data.path().join("admin.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        write!(
            stream,
            "{route} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"too-large\""),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_write_over_tcp_is_the_tokens_whatever_the_sender_says() {
    let shop = Shop::start(&["--admin", "127.0.0.1:0"]);
    let api = Api::of(&shop.weft);
    let body = json!({ "actor": "store", "interface": "wasi:keyvalue", "to": { "provider": "scratch" }, "by": "uid:0" });
    let reply = api.send(Method::PUT, "/v1/links", body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(
        shop.json(&["get", "links", "store"])["links"][0]["by"],
        "token (uid:0)"
    );
}

#[tokio::test]
async fn a_client_that_holds_all_connections_is_told_so_and_blocks_no_one_for_good() {
    let weft = Weft::start(&[HELLO], &[]);
    let mut held = Vec::new();
    let refused = loop {
        assert!(held.len() < 1_000, "connections are not bounded");
        let mut connection = http1(weft.monitor).await;
        let request = request("GET", "/live").body(full("")).unwrap();
        match connection.sender.send_request(request).await {
            Ok(response) if response.status() == 200 => held.push(connection),
            Ok(response) => break response.status().as_u16(),
            // Closed before it was asked.
            Err(_) => break 503,
        }
    };
    assert_eq!((refused, held.len()), (503, 64));
    drop(held);
    while get_live(&weft).await != 200 {}
}

async fn get_live(weft: &Weft) -> u16 {
    let mut connection = http1(weft.monitor).await;
    let request = request("GET", "/live").body(full("")).unwrap();
    connection
        .sender
        .send_request(request)
        .await
        .map_or(503, |response| response.status().as_u16())
}
