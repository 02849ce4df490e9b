//! Registries that want a token, keep bytes elsewhere, or lie.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const WASM: &[u8] = b"\0asm\x0d\0\x01\0";

/// Where it is, where it keeps bytes, and what it was asked, with the authorization.
#[derive(Clone)]
struct Fake {
    own: SocketAddr,
    store: SocketAddr,
    manifest: String,
    leads_to: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let authorization = request.headers().get(AUTHORIZATION);
    let authorization = authorization.map_or("-", |value| value.to_str().unwrap());
    let line = format!("{} {authorization}", request.uri());
    fake.asked.lock().unwrap().push(line);
    let path = request.uri().path();
    if path == "/token" {
        return r#"{"access_token": "t0"}"#.into_response();
    }
    if path == "/elsewhere" {
        return WASM.into_response();
    }
    if authorization != "Bearer t0" {
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", fake.own);
        let challenge = HeaderValue::from_str(&challenge).unwrap();
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if path.contains("/manifests/") {
        return fake.manifest.into_response();
    }
    let to = HeaderValue::from_str(&fake.leads_to.lock().unwrap()).unwrap();
    (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, to)]).into_response()
}

async fn fake(servers: &mut JoinSet<()>, manifest: &serde_json::Value) -> Fake {
    let [own, store] = [listener().await, listener().await];
    let addresses = [&own, &store].map(|listener| listener.local_addr().unwrap());
    let fake = Fake {
        own: addresses[0],
        store: addresses[1],
        manifest: manifest.to_string(),
        leads_to: Arc::new(Mutex::new(format!("http://{}/elsewhere", addresses[1]))),
        asked: Arc::default(),
    };
    for listener in [own, store] {
        let router = Router::new().fallback(answer).with_state(fake.clone());
        servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    }
    fake
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn manifest(layers: &serde_json::Value) -> serde_json::Value {
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers })
}

fn layer(media_type: &str, size: u64) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": Digest::of(WASM), "size": size })
}

fn registries() -> Registries {
    Registries {
        credentials: Credentials::named("me".to_owned(), "c".to_owned()),
        plain: Vec::new(),
    }
}

async fn pulled(fake: &Fake) -> Result<ComponentBytes, String> {
    let reference = format!("oci://{}/a/b:x", fake.own).parse().unwrap();
    let pulled = pull(&reference, &registries()).await;
    pulled.map_err(|error| crate::cli::chain(&error))
}

#[tokio::test]
async fn a_token_is_had_where_the_registry_says_and_goes_to_no_other_host() {
    let mut servers = JoinSet::new();
    let fake = fake(&mut servers, &manifest(&json!([layer(LAYER, 8)]))).await;
    assert_eq!(pulled(&fake).await.unwrap().bytes, WASM);
    let digest = Digest::of(WASM);
    assert_eq!(
        *fake.asked.lock().unwrap(),
        [
            "/v2/a/b/manifests/x -".to_owned(),
            "/token?service=s&scope=repository%3Aa%2Fb%3Apull Basic bWU6Yw==".to_owned(),
            "/v2/a/b/manifests/x Bearer t0".to_owned(),
            format!("/v2/a/b/blobs/{digest} Bearer t0"),
            "/elsewhere -".to_owned(),
        ]
    );
}

#[tokio::test]
async fn what_is_no_component_or_longer_than_it_says_is_refused() {
    for (layers, said) in [
        (json!([]), "has no layer"),
        (
            json!([layer("application/vnd.oci.image.layer.v1.tar", 8)]),
            "v1.tar",
        ),
        (json!([layer(LAYER, 8), layer(LAYER, 8)]), "2 layers"),
        (json!([layer(LAYER, 7)]), "more than the 7 bytes"),
        (json!([layer(LAYER, 1 << 40)]), "a component may have"),
        (
            json!([{ "mediaType": LAYER, "digest": "sha256:00", "size": 8 }]),
            "not a digest",
        ),
    ] {
        let mut servers = JoinSet::new();
        let fake = fake(&mut servers, &manifest(&layers)).await;
        let error = pulled(&fake).await.unwrap_err();
        assert!(error.contains(said), "{layers}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_that_never_ends_or_leads_nowhere_is_an_error() {
    let mut servers = JoinSet::new();
    let fake = fake(&mut servers, &manifest(&json!([layer(LAYER, 8)]))).await;
    for to in ["", "ftp://127.0.0.1/x"] {
        to.clone_into(&mut fake.leads_to.lock().unwrap());
        let error = pulled(&fake).await.unwrap_err();
        assert!(
            error.contains("307") || error.contains("not over TLS"),
            "{to}: {error}"
        );
    }
    // The same place again and again.
    let here = format!("http://{}/v2/again", fake.store);
    here.clone_into(&mut fake.leads_to.lock().unwrap());
    let error = pulled(&fake).await.unwrap_err();
    assert!(error.contains("401") || error.contains("307"), "{error}");
}
