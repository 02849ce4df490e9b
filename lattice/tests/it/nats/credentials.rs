//! Who may connect, and to what.

use std::time::Duration;

use bytes::Bytes;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use weft_lattice::subject::Subjects;
use weft_lattice::transport::nats::{Auth, NatsError, NatsSettings, NatsTransport, Tls};
use weft_lattice::transport::{Transport, TransportError};

use super::server::Server;

async fn connects(settings: &NatsSettings) -> bool {
    match NatsTransport::connect(settings).await {
        Ok(transport) => transport.round_trip().await.is_ok(),
        Err(NatsError::Connect { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn with(server: &Server, auth: Auth) -> NatsSettings {
    NatsSettings {
        auth,
        ..server.settings("h1")
    }
}

#[tokio::test]
async fn a_token_a_password_and_an_nkey_let_in_and_others_don_t() {
    let server = Server::start("authorization { token: secret }");
    assert!(connects(&with(&server, Auth::Token("secret".to_owned()))).await);
    assert!(!connects(&with(&server, Auth::Token("other".to_owned()))).await);
    assert!(!connects(&server.settings("h1")).await);

    let server = Server::start("authorization { user: weft, password: secret }");
    let password = |password: &str| Auth::Password {
        user: "weft".to_owned(),
        password: password.to_owned(),
    };
    assert!(connects(&with(&server, password("secret"))).await);
    assert!(!connects(&with(&server, password("other"))).await);

    let (user, other) = (KeyPair::new_user(), KeyPair::new_user());
    let server = Server::start(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    ));
    assert!(connects(&with(&server, Auth::Nkey(user.seed().unwrap()))).await);
    assert!(!connects(&with(&server, Auth::Nkey(other.seed().unwrap()))).await);
    assert!(!connects(&with(&server, Auth::Nkey("nonsense".to_owned()))).await);
}

#[tokio::test]
async fn credentials_that_are_none_are_told_by_their_file() {
    let server = Server::start("");
    let path = server.folder.path().join("user.creds");
    let auth = || Auth::Credentials(path.clone());
    let text = |error: NatsError| error.to_string();
    let missing = NatsTransport::connect(&with(&server, auth()))
        .await
        .err()
        .map(text)
        .unwrap();
    assert!(missing.contains("user.creds"), "{missing}");
    std::fs::write(&path, "nonsense").unwrap();
    let nonsense = NatsTransport::connect(&with(&server, auth()))
        .await
        .err()
        .map(text)
        .unwrap();
    assert!(nonsense.contains("user.creds"), "{nonsense}");
}

/// A certificate authority, and what it signs.
fn write_certificates(folder: &std::path::Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn over_tls_both_sides_show_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let at = |name: &str| folder.path().join(name);
    let config = |verify: bool| {
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {verify} }}",
            at("server.pem"),
            at("server.key"),
            at("ca.pem"),
        )
    };
    let settings = |server: &Server, authority: bool, certificate: bool| NatsSettings {
        tls: Tls {
            required: true,
            first: false,
            authorities: if authority { vec![at("ca.pem")] } else { Vec::new() },
            certificate: certificate.then(|| (at("client.pem"), at("client.key"))),
        },
        ..server.settings("h1")
    };
    let server = Server::start(&config(false));
    assert!(connects(&settings(&server, true, false)).await);
    // Signed by nobody that the system knows.
    assert!(!connects(&settings(&server, false, false)).await);
    let server = Server::start(&config(true));
    assert!(connects(&settings(&server, true, true)).await);
    assert!(!connects(&settings(&server, true, false)).await);
    // A server without TLS is not talked to when it is required.
    let server = Server::start("");
    assert!(!connects(&settings(&server, true, false)).await);
}

/// Of `user`, with the inbox that `inbox` has a right to.
fn of_user(server: &Server, user: &str, inbox: &str) -> NatsSettings {
    NatsSettings {
        auth: Auth::Password {
            user: user.to_owned(),
            password: "x".to_owned(),
        },
        inbox: format!("_INBOX_{inbox}"),
        ..server.settings(user)
    }
}

#[tokio::test]
async fn an_outside_provider_reaches_its_own_subject_and_no_other() {
    let server = Server::start(
        r#"authorization { users: [
            { user: host, password: x },
            { user: provider, password: x, permissions: {
                subscribe: ["weft.one.p.default.shop.carts weft", "_INBOX_provider.>"],
                publish: ["_INBOX_provider.>"],
                allow_responses: { max: 1, expires: "30s" } } }
        ] }"#,
    );
    let join = async |user| {
        NatsTransport::connect(&of_user(&server, user, user))
            .await
            .unwrap()
    };
    let (host, provider) = (join("host").await, join("provider").await);
    let subjects = Subjects::new("one").unwrap();
    let own = subjects.provider("default", "shop", "carts").unwrap();
    let handler = std::sync::Arc::new(Fixed);
    let serving = weft_lattice::transport::Serving { concurrency: 8 };
    let _served = provider
        .serve(own.clone(), serving, handler.clone())
        .await
        .unwrap();
    let second = Duration::from_secs(2);
    assert_eq!(
        host.request(&own, Bytes::new(), Duration::from_secs(20))
            .await
            .unwrap(),
        "x"
    );

    let other = subjects.provider("default", "shop", "orders").unwrap();
    let _refused = provider.serve(other.clone(), serving, handler).await;
    let asked = host.request(&other, Bytes::new(), second).await;
    assert_eq!(asked, Err(TransportError::NoResponders(other)));
    // It may not call, and not listen to others.
    let _host_serves = host
        .serve(
            subjects.control("h1").unwrap(),
            serving,
            std::sync::Arc::new(Fixed),
        )
        .await
        .unwrap();
    let asked = provider
        .request(&subjects.control("h1").unwrap(), Bytes::new(), second)
        .await;
    assert!(asked.is_err());
    let mut beats = provider
        .subscribe(subjects.heartbeats("eu").unwrap(), 8)
        .await
        .unwrap();
    host.publish(&subjects.heartbeat("eu", "h1").unwrap(), Bytes::new())
        .await
        .unwrap();
    host.round_trip().await.unwrap();
    provider.round_trip().await.unwrap();
    assert!(futures::FutureExt::now_or_never(beats.next()).is_none());
    assert!(provider.stats().server_errors >= 3);
}

#[tokio::test]
async fn hosts_of_a_lattice_reach_no_other_and_read_no_inbox_but_their_own() {
    let user = |user: &str, lattice: &str| {
        let own = format!("[\"weft.{lattice}.>\", \"_INBOX_{user}.>\"]");
        format!(
            "{{ user: {user}, password: x, permissions: {{ subscribe: {own}, publish: {own}, allow_responses: {{ max: 1, expires: \"30s\" }} }} }}\n"
        )
    };
    let users = [user("h1", "one"), user("h2", "one"), user("other", "two")].concat();
    let server = Server::start(&format!("authorization {{ users: [\n{users}] }}"));
    let join = async |user| {
        NatsTransport::connect(&of_user(&server, user, user))
            .await
            .unwrap()
    };
    let (h1, h2, other) = (join("h1").await, join("h2").await, join("other").await);
    let subjects = Subjects::new("one").unwrap();
    let (control, heartbeats) = (
        subjects.control("h1").unwrap(),
        subjects.heartbeats("eu").unwrap(),
    );
    let serving = weft_lattice::transport::Serving { concurrency: 8 };
    let fixed = || std::sync::Arc::new(Fixed);
    let _served = h1.serve(control.clone(), serving, fixed()).await.unwrap();
    // A host of the same lattice is answered.
    let second = Duration::from_secs(2);
    let asked = h2.request(&control, Bytes::new(), Duration::from_secs(20)).await;
    assert_eq!(asked.unwrap(), "x");
    // One of another lattice may not ask, not listen, not speak and not serve.
    assert!(other.request(&control, Bytes::new(), second).await.is_err());
    let mut heard = other.subscribe(heartbeats.clone(), 8).await.unwrap();
    let mut beats = h2.subscribe(heartbeats, 8).await.unwrap();
    let beat = subjects.heartbeat("eu", "h1").unwrap();
    other.publish(&beat, Bytes::from_static(b"forged")).await.unwrap();
    other.round_trip().await.unwrap();
    h1.publish(&beat, Bytes::from_static(b"own")).await.unwrap();
    let _refused = other
        .serve(subjects.control("h2").unwrap(), serving, fixed())
        .await;
    h1.round_trip().await.unwrap();
    h2.round_trip().await.unwrap();
    other.round_trip().await.unwrap();
    let first = tokio::time::timeout(second, beats.next()).await.unwrap();
    assert_eq!(first.unwrap(), "own");
    assert!(futures::FutureExt::now_or_never(heard.next()).is_none());
    let nobody = subjects.control("h2").unwrap();
    let asked = h1.request(&nobody, Bytes::new(), second).await;
    assert_eq!(asked, Err(TransportError::NoResponders(nobody)));
    assert!(other.stats().server_errors >= 4);
    // Nor does one read what others of its lattice are answered.
    let others = of_user(&server, "h2", "h1");
    assert!(NatsTransport::connect(&others).await.is_err());
}

struct Fixed;

impl weft_lattice::transport::Handler for Fixed {
    fn handle(&self, _: Bytes) -> futures::future::BoxFuture<'static, Option<Bytes>> {
        Box::pin(async { Some(Bytes::from_static(b"x")) })
    }

    fn shed(&self, _: Bytes) -> Option<Bytes> {
        None
    }
}
