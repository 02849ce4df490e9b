//! Who may connect, and over what.

use nkeys::KeyPair;
use weft_capabilities::{KeyValue, KeyValueError, Watch};
use weft_nats::{Auth, BucketOptions, NatsKeyValue, NatsOptions, OpenError};
use weft_servers::{Certificate, Nats};

use super::{LONG, bucket, open, open_at};

fn at(server: &Nats, login: &str) -> String {
    format!("nats://{login}127.0.0.1:{}", server.port())
}

async fn is_let_in(options: &NatsOptions) -> bool {
    match open(options).get(&bucket(), "k").await {
        Ok(_) => true,
        Err(KeyValueError::AccessDenied) => false,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn a_password_a_token_and_an_nkey_let_in_and_others_are_denied() {
    let server = Nats::start_with_jetstream("authorization { user: weft, password: \"s/cret\" }");
    for (login, is_right) in [("weft:s%2Fcret@", true), ("weft:wrong@", false), ("", false)] {
        assert_eq!(
            is_let_in(&NatsOptions::new(at(&server, login))).await,
            is_right,
            "{login}"
        );
    }

    let server = Nats::start_with_jetstream("authorization { token: secret }");
    for (login, is_right) in [("secret@", true), ("wrong@", false)] {
        assert_eq!(
            is_let_in(&NatsOptions::new(at(&server, login))).await,
            is_right,
            "{login}"
        );
    }
    let with = |auth| NatsOptions {
        auth,
        ..NatsOptions::new(at(&server, "wrong@"))
    };
    assert!(is_let_in(&with(Auth::Token("secret".to_owned()))).await);

    let (user, other) = (KeyPair::new_user(), KeyPair::new_user());
    let server = Nats::start_with_jetstream(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    ));
    for (seed, is_right) in [
        (user.seed().unwrap(), true),
        (other.seed().unwrap(), false),
        ("nonsense".to_owned(), false),
    ] {
        let options = NatsOptions {
            auth: Auth::Nkey(seed),
            ..NatsOptions::new(server.url())
        };
        assert_eq!(is_let_in(&options).await, is_right);
    }
}

#[tokio::test]
async fn credentials_that_can_not_be_read_are_told_by_their_file() {
    let server = Nats::start_with_jetstream("");
    let options = NatsOptions {
        auth: Auth::Credentials("/nowhere/user.creds".into()),
        ..NatsOptions::new(server.url())
    };
    let error = open(&options).get(&bucket(), "k").await.unwrap_err();
    assert!(
        matches!(&error, KeyValueError::Unavailable(text) if text.contains("/nowhere/user.creds")),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_a_user_may_not_do_is_denied_and_not_waited_for() {
    let server = Nats::start_with_jetstream(
        "authorization { users: [
            { user: reader, password: p, permissions: { publish: [\"$JS.API.>\"], subscribe: [\"_INBOX.>\"] } }
            { user: nobody, password: p, permissions: { publish: [\"other\"], subscribe: [\"_INBOX.>\"] } }
            { user: all, password: p }
        ] }",
    );
    let all = open_at(at(&server, "all:p@"));
    all.set(&bucket(), "k", "v".into()).await.unwrap();
    // Denied by the server's word, as its silence would be told as `Unavailable`.
    let reader = open_at(at(&server, "reader:p@"));
    assert_eq!(reader.get(&bucket(), "k").await.unwrap().unwrap(), "v");
    let error = reader.set(&bucket(), "k", "w".into()).await.unwrap_err();
    assert!(matches!(error, KeyValueError::AccessDenied), "{error:?}");
    let error = open_at(at(&server, "nobody:p@"))
        .get(&bucket(), "k")
        .await
        .unwrap_err();
    assert!(matches!(error, KeyValueError::AccessDenied), "{error:?}");
}

#[tokio::test]
async fn the_rights_that_are_documented_are_enough_to_watch_and_without_them_it_is_denied() {
    let server = Nats::start_with_jetstream(
        "authorization { users: [
            { user: watcher, password: p, permissions: { subscribe: [\"_INBOX.>\"], publish: [
                \"$KV.weft.>\", \"$JS.API.STREAM.*.KV_weft\", \"$JS.API.STREAM.MSG.GET.KV_weft\",
                \"$JS.API.DIRECT.GET.KV_weft.>\", \"$JS.API.CONSUMER.CREATE.KV_weft.>\",
                \"$JS.API.CONSUMER.MSG.NEXT.KV_weft.>\", \"$JS.ACK.KV_weft.>\", \"_INBOX.>\",
            ] } }
            { user: writer, password: p, permissions: { subscribe: [\"_INBOX.>\"], publish: [
                \"$KV.weft.>\", \"$JS.API.STREAM.*.KV_weft\", \"$JS.API.STREAM.MSG.GET.KV_weft\",
                \"$JS.API.DIRECT.GET.KV_weft.>\",
            ] } }
        ] }",
    );
    let (watcher, writer) = (
        open_at(at(&server, "watcher:p@")),
        open_at(at(&server, "writer:p@")),
    );
    let mut changes = watcher.watch(&bucket(), Watch::new("", "g")).await.unwrap();
    writer.set(&bucket(), "k", "v".into()).await.unwrap();
    let change = tokio::time::timeout(LONG, changes.next()).await.unwrap().unwrap();
    assert_eq!(change.key, "k");
    change.ack().await.unwrap();
    let denied = writer.watch(&bucket(), Watch::new("", "g")).await.unwrap_err();
    assert!(matches!(denied, KeyValueError::AccessDenied), "{denied:?}");
}

#[tokio::test]
async fn speaks_tls_to_whom_it_is_told_to_trust_alone() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path());
    let server = Nats::start_with_jetstream(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}",
        certificate.certificate, certificate.key
    ));
    for scheme in ["tls", "nats"] {
        let url = format!("{scheme}://127.0.0.1:{}", server.port());
        let trusting = NatsOptions {
            ca_file: Some(certificate.authority.clone()),
            ..NatsOptions::new(url.clone())
        };
        open(&trusting).set(&bucket(), "k", "v".into()).await.unwrap();
        let error = open_at(url).get(&bucket(), "k").await.unwrap_err();
        assert!(matches!(error, KeyValueError::Unavailable(_)), "{error:?}");
    }
    // One that speaks no TLS is not spoken to where it must be.
    let plain = Nats::start_with_jetstream("");
    let error = open_at(format!("tls://127.0.0.1:{}", plain.port()))
        .get(&bucket(), "k")
        .await
        .unwrap_err();
    assert!(matches!(error, KeyValueError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn says_what_is_wrong_with_a_setting_without_showing_a_secret() {
    let refused = |urls: &[&str], bucket: &str| {
        let options = NatsOptions {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..NatsOptions::new("")
        };
        let bucket = BucketOptions {
            name: bucket.to_owned(),
            ..BucketOptions::default()
        };
        let error = NatsKeyValue::open(&options, bucket).err().unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!format!("{options:?}").contains("secret"));
        error
    };
    assert!(matches!(refused(&[], "weft"), OpenError::NoAddress));
    assert!(matches!(
        refused(&["nats://secret@x", "http://secret@y"], "weft"),
        OpenError::Address { n: 2 }
    ));
    for bucket in ["", "a.b", "a b", "ü"] {
        assert!(
            matches!(refused(&["nats://x"], bucket), OpenError::Name(_)),
            "{bucket}"
        );
    }
}
