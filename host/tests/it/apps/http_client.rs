//! Outgoing HTTP: to where a link allows, and nowhere else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::component;
use crate::support::guests::FETCH;
use crate::support::{AppFile, Weft, guest};

/// A server on the loopback interface that answers with the head and body that it was sent; `/away` redirects to the
/// address at which clouds keep credentials. Ends when it is dropped.
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
                    let mut request = [0; 16 << 10];
                    let len = stream.read(&mut request).await.unwrap_or(0);
                    let seen = String::from_utf8_lossy(&request[..len]);
                    let head = if seen.starts_with("GET /away ") {
                        "302 Found\r\nlocation: http://169.254.169.254/latest"
                    } else {
                        "200 OK"
                    };
                    let answer = format!(
                        "HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n{seen}"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self {
            address,
            _accepting: accepting,
        }
    }
}

/// An actor without a link to HTTP, and one for each text of what is allowed, at `/0`, `/1` and so on.
fn app(allowed: &[String]) -> AppFile {
    let fetch = component(FETCH);
    let mut actors = format!("  none:\n    component: {fetch}\n");
    let mut routes = "  - { actor: none, path: /none, stripPrefix: true }\n".to_owned();
    for (number, allow) in allowed.iter().enumerate() {
        actors.push_str(&format!(
            "  to-{number}:\n    component: {fetch}\n    links:\n      wasi:http/outgoing-handler: {{ allow: [\"{allow}\"] }}\n"
        ));
        routes.push_str(&format!(
            "  - {{ actor: to-{number}, path: /{number}, stripPrefix: true }}\n"
        ));
    }
    AppFile::new(&format!(
        "apiVersion: weft/v1\nname: fetch\nactors:\n{actors}routes:\n{routes}"
    ))
}

#[tokio::test]
async fn requests_go_to_where_the_link_allows_and_nowhere_else() {
    let server = Server::start().await;
    let (there, port) = (server.address, server.address.port());
    let other = Server::start().await;
    let app = app(&[
        format!("http://{there}"),
        format!("http://localhost:{port}"),
        format!("http://*:{port}"),
        format!("http://127.0.0.0/8:{port}"),
        format!("https://{there}"),
    ]);
    let weft = Weft::app(&app, &[]);
    let fetch = async |at: &str, url: &str| {
        let reply = weft.get(&format!("/{at}/?url={url}")).await;
        (reply.status, reply.text().trim_end().to_owned())
    };
    let denied = (502, "HttpRequestDenied".to_owned());
    let prohibited = (502, "DestinationIpProhibited".to_owned());
    let url = format!("http://{there}/hello");

    assert_eq!(fetch("none", &url).await, denied);
    let (status, text) = fetch("0", &url).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.starts_with("200\n\nGET /hello HTTP/1.1\r\n"), "{text}");
    assert_eq!(fetch("3", &url).await.0, 200, "its range was named");

    // Another port, another scheme, another name of the same place.
    assert_eq!(fetch("0", &format!("http://{}/", other.address)).await, denied);
    assert_eq!(fetch("0", &format!("https://{there}/")).await, denied);
    assert_eq!(fetch("4", &url).await, denied);
    assert_eq!(fetch("0", &format!("http://localhost:{port}/")).await, denied);

    // What leads to the loopback interface without naming an address of it.
    assert_eq!(fetch("1", &format!("http://localhost:{port}/")).await, prohibited);
    assert_eq!(fetch("2", &url).await, prohibited);
    assert_eq!(fetch("2", &format!("http://localhost:{port}/")).await, prohibited);
    assert_eq!(
        fetch("2", &format!("http://[::ffff:127.0.0.1]:{port}/")).await,
        prohibited
    );

    // A redirect is an answer like any other: nobody follows it for the guest, and the guest may not.
    let (status, text) = fetch("0", &format!("http://{there}/away")).await;
    assert!(status == 200 && text.starts_with("302\n"), "{status} {text}");
    assert_eq!(fetch("0", "http://169.254.169.254/latest").await, denied);

    weft.wait_for_log("allow it with a link of wasi:http/outgoing-handler")
        .await;
}

#[tokio::test]
async fn a_request_takes_its_body_along_and_belongs_to_the_same_trace() {
    let server = Server::start().await;
    let weft = Weft::app(&app(&[format!("http://{}", server.address)]), &[]);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let path = format!("/0/?method=POST&url=http://{}/there", server.address);
    let sent = crate::support::request("POST", &path)
        .header("traceparent", parent)
        .body(crate::support::full("a body"))
        .unwrap();
    let reply = crate::support::send(weft.http, sent).await;
    let text = reply.text();
    assert!(text.contains("POST /there HTTP/1.1"), "{text}");
    assert!(text.contains(&format!("traceparent: {parent}")), "{text}");
}

#[tokio::test]
async fn a_bare_component_reaches_what_the_command_line_allows() {
    let server = Server::start().await;
    let allowed = format!("http://{}", server.address);
    let url = format!("/?url=http://{}/", server.address);
    let data = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[guest(FETCH)], &["--allow-http", &allowed], &[], data);
    assert!(weft.get(&url).await.text().starts_with("200\n"));
    // What was allowed once is not allowed for ever.
    let weft = Weft::up(&[guest(FETCH)], &[], &[], weft.stop());
    assert_eq!(weft.get(&url).await.text(), "HttpRequestDenied\n");
}
