//! How hosts and commands show the NATS server who they are, by their flags and environment.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use weft_servers::{Certificate, Nats};

use crate::support::Weft;

/// `weft get hosts` from a machine that only reaches the server.
fn get_hosts(nats: &Nats, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["get", "hosts", "--nats", &nats.url()]).args(args);
    command.envs(env.iter().copied()).output().unwrap()
}

fn joins(nats: &Nats, args: &[&str], env: &[(&str, &str)]) {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let host = Weft::host_with(&nats.url(), "h1", &[args, &["--controller"]].concat(), env, data);
    let told = get_hosts(nats, args, env);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    assert!(String::from_utf8_lossy(&told.stdout).contains("h1"));
    drop(host);
}

fn refused(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("are the credentials right?"), "{error}");
}

#[test]
fn a_token_goes_by_the_environment_over_tls_on_which_both_sides_show_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let Certificate {
        authority,
        certificate,
        key,
        ..
    } = Certificate::make(folder.path());
    let nats = Nats::start(&format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {authority:?}, verify: true }}
         authorization {{ token: \"opensesame\" }}"
    ));
    let authority = authority.to_str().unwrap();
    let pair = format!("{}:{}", certificate.display(), key.display());
    let env = [("WEFT_NATS_TOKEN", "opensesame")];
    let both = ["--nats-ca", authority, "--nats-cert", &pair];
    joins(&nats, &both, &env);
    refused(&get_hosts(&nats, &both, &[("WEFT_NATS_TOKEN", "other")]));
    refused(&get_hosts(&nats, &both, &[]));
    refused(&get_hosts(&nats, &both[..2], &env));
}

/// A claim about `subject`, signed by `issuer` (NATS JWT, version 2).
fn signed(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let claim = json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "name": "weft",
        "iss": issuer.public_key(), "sub": subject.public_key(), "nats": nats,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!(
        "{}.{}",
        part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })),
        part(&claim)
    );
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn write_credentials(path: &Path, claim: &str, user: &KeyPair) {
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{claim}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_credentials_file_lets_in_and_one_of_another_account_does_not() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let everything = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1,
    });
    let of_operator = signed(&operator, &operator, &json!({ "type": "operator", "version": 2 }));
    let of_account = json!({ "type": "account", "version": 2, "limits": everything });
    let of_account = signed(&operator, &account, &of_account);
    let nats = Nats::start(&format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload {{ {}: {of_account} }}",
        account.public_key()
    ));
    let folder = tempfile::tempdir().unwrap();
    let of_user = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let credentials = |name: &str, account: &KeyPair| {
        let user = KeyPair::new_user();
        let path = folder.path().join(name);
        write_credentials(&path, &signed(account, &user, &of_user), &user);
        path.to_str().unwrap().to_owned()
    };
    let good = credentials("good.creds", &account);
    joins(&nats, &["--nats-creds", &good], &[]);
    joins(&nats, &[], &[("WEFT_NATS_CREDS", &good)]);
    let other = credentials("other.creds", &KeyPair::new_account());
    refused(&get_hosts(&nats, &["--nats-creds", &other], &[]));
}
