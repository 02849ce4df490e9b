//! The client against servers on this machine.
#![cfg(test)]

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use weft_http::{
    AllowList, Allowed, HostPattern, HttpClient, HttpError, Options, Policy, Resolve, ResponseBody, Verdict,
};

/// Resolves every name to the same addresses, and counts.
struct Fixed(Vec<IpAddr>, AtomicU32);

impl Resolve for Fixed {
    fn resolve(&self, _host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let addresses = self.0.clone();
        async move { Ok(addresses) }.boxed()
    }
}

fn resolving_to(addresses: &[&str]) -> Arc<Fixed> {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Arc::new(Fixed(addresses, AtomicU32::new(0)))
}

fn client() -> HttpClient {
    HttpClient::with_resolver(resolving_to(&["127.0.0.1"]), Vec::new())
}

fn allow(host: HostPattern, private: bool) -> AllowList {
    AllowList(vec![Allowed {
        scheme: None,
        host,
        port: None,
        private,
    }])
}

fn anywhere() -> AllowList {
    allow(HostPattern::Any, true)
}

fn public_only() -> AllowList {
    allow(HostPattern::Any, false)
}

fn short() -> Options {
    let short = Duration::from_millis(100);
    Options {
        connect_timeout: short,
        first_byte_timeout: short,
        between_bytes_timeout: short,
    }
}

async fn send(
    client: &HttpClient,
    policy: &dyn Policy,
    uri: &str,
) -> Result<Response<ResponseBody>, HttpError> {
    get(client, policy, uri, Options::default()).await
}

async fn get(
    client: &HttpClient,
    policy: &dyn Policy,
    uri: &str,
    options: Options,
) -> Result<Response<ResponseBody>, HttpError> {
    let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
    client.send(policy, request, options).await
}

async fn text(response: Response<ResponseBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A server that gives each connection to `talk`, and counts them.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start<F>(talk: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU32::new(0));
        let count = connections.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut talking = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                talking.spawn(talk(stream));
            }
        });
        Self {
            address,
            connections,
            _tasks: tasks,
        }
    }

    /// Answers each request with `answer`, and keeps the connection.
    async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            while head(&mut stream).await {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await
    }

    fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    fn uri(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.address.port())
    }
}

/// Reads a request's head. `false` at the connection's end.
async fn head(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => seen.push(byte),
            Err(_) => return false,
        }
    }
    true
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn sends_a_request_with_its_body_and_gives_the_response() {
    let server = Server::start(|stream| async {
        let echo = service_fn(|request: Request<hyper::body::Incoming>| async {
            let seen = format!(
                "{} {} {:?}",
                request.method(),
                request.uri(),
                request.headers()["host"]
            );
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let answer = format!("{seen} {}", String::from_utf8_lossy(&body));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(answer)))
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), echo)
            .await
            .unwrap();
    })
    .await;
    let port = server.address.port();
    let request = Request::post(format!("http://Shop.test:{port}/a?b=c"))
        .header("host", "other.test")
        .header("connection", "close")
        .body(Full::<Bytes>::from("body"));
    let response = client()
        .send(&anywhere(), request.unwrap(), Options::default())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        text(response).await,
        format!("POST /a?b=c \"shop.test:{port}\" body")
    );
}

#[tokio::test]
async fn denies_what_no_entry_allows_before_anything_is_resolved() {
    let resolver = resolving_to(&["127.0.0.1"]);
    let client = HttpClient::with_resolver(resolver.clone(), Vec::new());
    let policy = allow(HostPattern::Name("shop.test".to_owned()), true);
    for uri in [
        "http://other.test/",
        "http://shop.test.other.test/",
        "http://127.0.0.1/",
    ] {
        let error = send(&client, &policy, uri).await.err().unwrap();
        assert!(matches!(error, HttpError::HttpRequestDenied), "{uri}: {error}");
    }
    assert_eq!(resolver.1.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn denies_addresses_that_are_not_public_unless_named() {
    let server = Server::answering(HELLO).await;
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "name.test",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "127.1",
        "2130706433",
    ] {
        let error = send(&client(), &public_only(), &server.uri(host))
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error, HttpError::DestinationIpProhibited),
            "{host}: {error}"
        );
    }
    assert_eq!(server.connections(), 0);
    let named = allow(HostPattern::Addresses("127.0.0.0/8".parse().unwrap()), false);
    let response = send(&client(), &named, &format!("http://127.0.0.1:{port}/"))
        .await
        .unwrap();
    assert_eq!(text(response).await, "hello");
    let named = allow(HostPattern::Name("name.test".to_owned()), true);
    assert!(send(&client(), &named, &server.uri("name.test")).await.is_ok());
}

#[tokio::test]
async fn connects_to_the_very_address_that_was_checked() {
    /// Allows one address and no other.
    struct Only(IpAddr);
    impl Policy for Only {
        fn allows(&self, _scheme: &str, _host: &str, _port: u16) -> Verdict {
            Verdict::Public
        }
        fn allows_address(&self, address: IpAddr, _port: u16, _named: bool) -> bool {
            address == self.0
        }
    }
    let server = Server::answering(HELLO).await;
    let resolver = resolving_to(&["127.0.0.2", "127.0.0.1", "169.254.169.254"]);
    let client = HttpClient::with_resolver(resolver.clone(), Vec::new());
    let good = Only("127.0.0.1".parse().unwrap());
    assert!(send(&client, &good, &server.uri("a.test")).await.is_ok());
    // One look-up for the check and the connection: there is no second answer to slip in.
    assert_eq!(resolver.1.load(Ordering::Relaxed), 1);
    let bad = Only("127.0.0.3".parse().unwrap());
    let error = send(&client, &bad, &server.uri("a.test")).await.err().unwrap();
    assert!(matches!(error, HttpError::DestinationIpProhibited));
}

#[tokio::test]
async fn a_kept_connection_is_not_for_a_caller_who_may_not_go_there() {
    let server = Server::answering(HELLO).await;
    let client = client();
    let uri = server.uri("a.test");
    assert_eq!(
        text(send(&client, &anywhere(), &uri).await.unwrap()).await,
        "hello"
    );
    let error = send(&client, &public_only(), &uri).await.err().unwrap();
    assert!(matches!(error, HttpError::DestinationIpProhibited));
    assert_eq!(
        text(send(&client, &anywhere(), &uri).await.unwrap()).await,
        "hello"
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_redirect_is_given_back_and_following_it_is_a_request_like_any_other() {
    let server = Server::answering(
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/meta-data\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let policy = AllowList(vec![
        Allowed {
            scheme: None,
            host: HostPattern::Name("a.test".to_owned()),
            port: None,
            private: true,
        },
        Allowed {
            scheme: None,
            host: HostPattern::Any,
            port: None,
            private: false,
        },
    ]);
    let response = send(&client(), &policy, &server.uri("a.test")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    let location = response.headers()["location"].to_str().unwrap();
    let error = send(&client(), &policy, location).await.err().unwrap();
    assert!(matches!(error, HttpError::DestinationIpProhibited));
}

#[tokio::test]
async fn keeps_connections_and_replaces_those_that_the_server_closed() {
    // Closes each connection after two answers, without saying so.
    let server = Server::start(|mut stream| async move {
        for _ in 0..2 {
            if head(&mut stream).await {
                stream.write_all(HELLO.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let client = client();
    for _ in 0..10 {
        let response = send(&client, &anywhere(), &server.uri("a.test")).await.unwrap();
        assert_eq!(text(response).await, "hello");
    }
    assert!(
        (5..10).contains(&server.connections()),
        "{}",
        server.connections()
    );
}

#[tokio::test]
async fn a_body_that_is_dropped_early_ends_its_connection() {
    let server = Server::answering(HELLO).await;
    let client = client();
    for expected in 1..=3 {
        drop(send(&client, &anywhere(), &server.uri("a.test")).await.unwrap());
        assert_eq!(server.connections(), expected);
    }
}

#[tokio::test]
async fn each_wait_has_its_bound() {
    struct Never;
    impl Resolve for Never {
        fn resolve(&self, _host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            futures::future::pending().boxed()
        }
    }
    let never = HttpClient::with_resolver(Arc::new(Never), Vec::new());
    let error = get(&never, &anywhere(), "http://a.test/", short())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, HttpError::ConnectionTimeout), "{error}");

    let silent = Server::start(|mut stream| async move { while head(&mut stream).await {} }).await;
    let error = get(&client(), &anywhere(), &silent.uri("a.test"), short())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, HttpError::ConnectionReadTimeout), "{error}");

    let stalls = Server::start(|mut stream| async move {
        head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
            .await
            .unwrap();
        futures::future::pending().await
    })
    .await;
    let response = get(&client(), &anywhere(), &stalls.uri("a.test"), short())
        .await
        .unwrap();
    let error = response.into_body().collect().await.err().unwrap();
    assert!(matches!(error, HttpError::ConnectionReadTimeout), "{error}");
}

#[tokio::test]
async fn a_body_that_comes_slowly_and_never_pauses_is_whole() {
    let dribbles = Server::start(|mut stream| async move {
        head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n")
            .await
            .unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            stream.write_all(b"x").await.unwrap();
        }
    })
    .await;
    // Longer than the bound in all, and never between two bytes.
    let response = get(&client(), &anywhere(), &dribbles.uri("a.test"), short())
        .await
        .unwrap();
    assert_eq!(text(response).await.len(), 20);
}

#[tokio::test]
async fn says_what_went_wrong_with_a_server() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let error = send(&client(), &anywhere(), &format!("http://127.0.0.1:{port}/"))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, HttpError::ConnectionRefused), "{error}");

    let none = HttpClient::with_resolver(resolving_to(&[]), Vec::new());
    let error = send(&none, &anywhere(), "http://a.test/").await.err().unwrap();
    assert!(matches!(error, HttpError::DnsError(_)), "{error}");

    let cut = Server::start(|mut stream| async move {
        head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
            .await
            .unwrap();
    })
    .await;
    let response = send(&client(), &anywhere(), &cut.uri("a.test")).await.unwrap();
    let error = response.into_body().collect().await.err().unwrap();
    assert!(matches!(error, HttpError::ConnectionTerminated), "{error}");

    let closes = Server::start(|mut stream| async move { assert!(head(&mut stream).await) }).await;
    let error = send(&client(), &anywhere(), &closes.uri("a.test"))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, HttpError::ConnectionTerminated), "{error}");

    let garbage = Server::answering("SSH-2.0-OpenSSH_9.9\r\n\r\n").await;
    let error = send(&client(), &anywhere(), &garbage.uri("a.test"))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, HttpError::HttpProtocolError(_)), "{error}");

    let large = Server::start(|mut stream| async move {
        head(&mut stream).await;
        let value = "x".repeat(1 << 20);
        drop(
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\na: {value}\r\n\r\n").as_bytes())
                .await,
        );
    })
    .await;
    let error = send(&client(), &anywhere(), &large.uri("a.test"))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, HttpError::HttpResponseHeaderSectionSize),
        "{error}"
    );
}

#[tokio::test]
async fn refuses_uris_and_methods_that_are_no_request() {
    for uri in ["/path", "ftp://a.test/", "http://user:password@a.test/"] {
        let error = send(&client(), &anywhere(), uri).await.err().unwrap();
        assert!(
            matches!(error, HttpError::HttpRequestUriInvalid),
            "{uri}: {error}"
        );
    }
    let connect = Request::connect("http://a.test/")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let error = client()
        .send(&anywhere(), connect, Options::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, HttpError::HttpRequestMethodInvalid));
}

/// The path of a request was sent as it came: one that is a whole URI made it a request for another server, to a proxy at the
/// address that was checked.
#[tokio::test]
async fn a_uri_in_the_place_of_a_path_leads_nowhere_else() {
    let (seen, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut request = [0; 4 << 10];
            let len = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..len]).into_owned();
            seen.send(request.lines().next().unwrap_or_default().to_owned())
                .unwrap();
            drop(stream.write_all(HELLO.as_bytes()).await);
        }
    })
    .await;
    let authority = server.address.to_string();
    let sent = async |method: &str, path: &str| {
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(authority.as_str())
            .path_and_query(path)
            .build();
        let Ok(uri) = uri else {
            return Err(HttpError::HttpRequestUriInvalid);
        };
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        client()
            .send(&anywhere(), request, Options::default())
            .await
            .map(drop)
    };
    for path in [
        "http://169.254.169.254/latest",
        "https://evil.test/",
        "evil.test:80",
        "evil.test/",
        "@evil.test/",
        ":80/",
        "*",
    ] {
        let error = sent("GET", path).await.unwrap_err();
        assert!(
            matches!(error, HttpError::HttpRequestUriInvalid),
            "{path}: {error}"
        );
    }
    assert!(lines.try_recv().is_err(), "a request was sent");
    // These are paths at the server that was checked, whatever they look like.
    for (method, path, line) in [
        ("GET", "//evil.test/", "GET //evil.test/ HTTP/1.1"),
        ("GET", "/http://evil.test/", "GET /http://evil.test/ HTTP/1.1"),
        (
            "GET",
            "?q=http://evil.test/",
            "GET /?q=http://evil.test/ HTTP/1.1",
        ),
        ("OPTIONS", "*", "OPTIONS * HTTP/1.1"),
    ] {
        sent(method, path).await.unwrap();
        assert_eq!(lines.recv().await.unwrap(), line);
    }
}

/// A server of HTTP/1.1 and HTTP/2 over TLS for `name.test`, and its certificate.
async fn tls_server(versions: &[&str]) -> (Server, rustls::pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["name.test".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = versions
        .iter()
        .map(|version| version.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let version = service_fn(|request: Request<hyper::body::Incoming>| async move {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(format!(
                    "{:?}",
                    request.version()
                ))))
            });
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stream = TokioIo::new(stream);
            if http2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(stream, version).await);
            } else {
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(stream, version)
                        .await,
                );
            }
        }
    })
    .await;
    (server, certificate)
}

#[tokio::test]
async fn speaks_tls_and_the_newest_version_that_the_server_does() {
    for (versions, expected) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let (server, root) = tls_server(versions).await;
        let client = HttpClient::with_resolver(resolving_to(&["127.0.0.1"]), vec![root]);
        let uri = format!("https://name.test:{}/", server.address.port());
        for _ in 0..3 {
            let response = send(&client, &anywhere(), &uri).await.unwrap();
            assert_eq!(text(response).await, format!("{expected:?}"));
        }
        assert_eq!(server.connections(), 1, "{expected:?}");
        drop(server);
        client.close().await;
    }
}

#[tokio::test]
async fn refuses_a_host_that_can_not_prove_its_name() {
    let (server, root) = tls_server(&["h2"]).await;
    let port = server.address.port();
    let other = rcgen::generate_simple_self_signed(["other.test".to_owned()])
        .unwrap()
        .cert
        .der()
        .clone();
    for (trusted, host) in [
        (other, "name.test"),
        (root.clone(), "other.test"),
        (root, "127.0.0.1"),
    ] {
        let client = HttpClient::with_resolver(resolving_to(&["127.0.0.1"]), vec![trusted]);
        let error = send(&client, &anywhere(), &format!("https://{host}:{port}/"))
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error, HttpError::TlsCertificateError(_)),
            "{host}: {error}"
        );
    }
    let plain = Server::answering(HELLO).await;
    let root = rcgen::generate_simple_self_signed(["name.test".to_owned()])
        .unwrap()
        .cert
        .der()
        .clone();
    let client = HttpClient::with_resolver(resolving_to(&["127.0.0.1"]), vec![root]);
    let uri = format!("https://name.test:{}/", plain.address.port());
    let error = get(&client, &anywhere(), &uri, short()).await.err().unwrap();
    assert!(
        matches!(
            error,
            HttpError::TlsProtocolError(_) | HttpError::ConnectionTimeout
        ),
        "{error}"
    );
}
