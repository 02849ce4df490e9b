//! Secrets of a lattice: sealed where they are typed, open only on hosts that have the root key.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::{Lattice, Weft};
use crate::apps::secrets::{put_by, secret_app};
use crate::support::weft;

const VALUE: &str = "s3cret-of-the-lattice";

#[tokio::test]
async fn a_secret_that_is_put_from_afar_passes_the_broker_sealed_and_opens_where_the_key_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lattice.key");
    let file = file.to_str().unwrap();
    let made = weft(&["secret", "key", "new", "--root-key", file, "--output", "json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    // The server writes down each message.
    let lattice = Lattice::of_with(2, "debug: true\ntrace: true", &["--root-key", file]).await;
    let url = lattice.nats.url();
    let put = put_by("safe/db-password", VALUE, &["--nats", &url]).await;
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let app = secret_app(1);
    lattice.cli(&["deploy", app.path().to_str().unwrap()]);
    for host in &lattice.hosts {
        for _ in 0..600 {
            if host.get("/password").await.status == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(host.get("/password").await.text(), format!("string: {VALUE}"));
    }
    // By the public half alone, on a machine that trusts nothing that it is told; by way of any host.
    let public = made["public"].as_str().unwrap();
    let data = lattice.hosts[1].data.path().to_str().unwrap().to_owned();
    let put = put_by(
        "db-password",
        "second",
        &["--data", &data, "--public-key", public],
    )
    .await;
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let log = lattice.nats.log();
    assert!(log.contains("db-password"), "the messages were not written down");
    assert!(!log.contains(VALUE), "the value passed the broker in clear");

    // What is sealed to another lattice's key is refused by who could not open it.
    let other = weft_secrets::Keyring::add(&folder.path().join("other.key")).unwrap();
    let other = other.newest().unwrap().recipient().to_string();
    let refused = put_by("db-password", "x", &["--nats", &url, "--public-key", &other]).await;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{error}");
    assert!(error.contains("which is not among this host's"), "{error}");
}

#[test]
fn a_root_key_is_made_before_its_host_has_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let made = weft(&["secret", "key", "new", "--data", data.to_str().unwrap()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(data.join("root.key").is_file());
}

#[tokio::test]
async fn a_host_without_the_key_says_so_and_takes_it_once_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lattice.key");
    let made = weft(&["secret", "key", "new", "--root-key", file.to_str().unwrap()]);
    assert!(made.status.success());
    let mut lattice = Lattice::of_with(1, "", &["--root-key", file.to_str().unwrap()]).await;
    let url = lattice.nats.url();
    let bare = Weft::host(&url, "h2", &[], Arc::new(tempfile::tempdir().unwrap()));
    lattice.hosts.push(bare);
    lattice.wait_for_members(2).await;
    let put = put_by("safe/db-password", VALUE, &["--nats", &url]).await;
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let app = secret_app(1);
    lattice.cli(&["deploy", app.path().to_str().unwrap()]);
    let bare = &lattice.hosts[1];
    bare.wait_for_log("which is not among this host's").await;
    assert_eq!(lattice.hosts[0].get("/password").await.status, 200);
    assert_eq!(bare.get("/password").await.status, 502);
    std::fs::copy(&file, bare.data.path().join("root.key")).unwrap();
    for _ in 0..600 {
        if bare.get("/password").await.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(bare.get("/password").await.text(), format!("string: {VALUE}"));
}
