//! Components on disk and in a registry: pushed, listed, dropped, pulled.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::{Value, json};
use weft_servers::Registry;

use crate::support::guests::{ECHO, FAULT, HELLO};
use crate::support::{AppFile, Weft, guest, weft};

/// A command's output, which worked.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .trim()
        .to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn on(host: &Weft, args: &[&str]) -> Output {
    weft(&[args, &["--data", host.data.path().to_str().unwrap()]].concat())
}

fn path(name: &str) -> String {
    guest(name).display().to_string()
}

/// `weft` as a user without a docker configuration but that in `folder`.
fn as_user(folder: &Path, env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command
        .args(args)
        .env("DOCKER_CONFIG", folder)
        .envs(env.iter().copied());
    command.output().unwrap()
}

fn listed(host: &Weft) -> Value {
    serde_json::from_str(&done(&on(host, &["artifacts", "--output", "json"]))).unwrap()
}

#[tokio::test]
async fn a_pushed_component_is_deployed_by_its_digest_and_what_nothing_deploys_can_be_dropped() {
    let host = Weft::up(&[], &[], &[], Arc::new(tempfile::tempdir().unwrap()));
    let digest = done(&on(&host, &["push", &path(HELLO)]));
    let other = done(&on(&host, &["push", &path(ECHO)]));
    // Once more is nothing new.
    assert_eq!(done(&on(&host, &["push", &path(HELLO)])), digest);
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1\nname: hello\nactors:\n  hello: {{ component: \"{digest}\" }}\nroutes:\n  - {{ path: /, actor: hello }}\n"
    ));
    let file = app.path().display().to_string();
    done(&on(&host, &["deploy", &file]));
    assert_eq!(host.get("/").await.status, 200);

    let all = listed(&host);
    let pinned = |digest: &str| {
        let artifacts = all["artifacts"].as_array().unwrap();
        artifacts
            .iter()
            .find(|artifact| artifact["digest"] == digest)
            .unwrap()["pinned_by"]
            .clone()
    };
    assert_eq!(pinned(&digest), json!(["default/hello/hello"]));
    assert_eq!(pinned(&other), json!([]));
    assert_eq!(all["unpinned_bytes_max"], 4_u64 << 30);

    let would = on(&host, &["artifacts", "gc", "--dry-run"]);
    assert!(done(&would).contains(&other) && !done(&would).contains(&digest));
    assert_eq!(listed(&host)["artifacts"].as_array().unwrap().len(), 2);
    assert!(done(&on(&host, &["artifacts", "gc"])).contains(&other));
    assert_eq!(listed(&host)["artifacts"].as_array().unwrap().len(), 1);
    assert_eq!(host.get("/").await.status, 200);
    done(&on(&host, &["delete", "app", "hello"]));
    done(&on(&host, &["artifacts", "gc"]));
    let refused = on(&host, &["deploy", &file]);
    assert!(
        !refused.status.success() && said(&refused).contains("hello"),
        "{}",
        said(&refused)
    );
}

#[tokio::test]
async fn the_components_of_the_revision_before_are_kept_and_deployed_again() {
    let host = Weft::up(&[], &[], &[], Arc::new(tempfile::tempdir().unwrap()));
    let digests = [HELLO, ECHO, FAULT].map(|name| done(&on(&host, &["push", &path(name)])));
    let deploy = |digest: &str| {
        let app = AppFile::new(&format!(
            "apiVersion: weft/v1\nname: hello\nactors:\n  hello: {{ component: \"{digest}\" }}\nroutes:\n  - {{ path: /, actor: hello }}\n"
        ));
        on(&host, &["deploy", app.path().to_str().unwrap()])
    };
    let kept = || -> Vec<(String, Value)> {
        let answer = done(&on(&host, &["get", "artifacts", "--output", "json"]));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let artifacts = answer["artifacts"].as_array().unwrap();
        let told = |artifact: &Value| {
            assert_eq!(artifact["hosts"], json!([host.ready["host"]]));
            (
                artifact["digest"].as_str().unwrap().to_owned(),
                artifact["pinned_by"].clone(),
            )
        };
        artifacts.iter().map(told).collect()
    };
    let [first, second, third] = &digests;
    for digest in [first, second, third] {
        done(&deploy(digest));
    }
    // What a change replaced is in use until its last invocation has ended.
    crate::support::wait_until("the first one goes", || {
        done(&on(&host, &["artifacts", "gc"]));
        kept().len() == 2
    })
    .await;
    let pins = |digest: &str| {
        kept()
            .into_iter()
            .find(|(kept, _)| kept == digest)
            .map(|(_, pins)| pins)
    };
    assert_eq!(pins(third), Some(json!(["default/hello/hello"])));
    assert_eq!(pins(second), Some(json!(["default/hello/hello (revision 2)"])));
    done(&deploy(second));
    assert_eq!(pins(third), Some(json!(["default/hello/hello (revision 3)"])));
    let gone = deploy(first);
    assert!(!gone.status.success(), "{}", said(&gone));
    // By what it is called, or who needs it.
    let one = done(&on(&host, &["get", "artifacts", &second[..20]]));
    assert!(one.contains(second) && !one.contains(third), "{one}");
    let both = done(&on(&host, &["get", "artifacts", "hello/hello"]));
    assert!(both.contains(second) && both.contains(third), "{both}");
}

#[tokio::test]
async fn pushes_beyond_the_bound_drop_what_nothing_deploys() {
    let host = Weft::up(
        &[],
        &["--artifact-bytes", "1KiB"],
        &[],
        Arc::new(tempfile::tempdir().unwrap()),
    );
    done(&on(&host, &["push", &path(HELLO)]));
    let kept = done(&on(&host, &["push", &path(ECHO)]));
    let all = listed(&host);
    assert_eq!(all["artifacts"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(all["artifacts"][0]["digest"], kept);
}

#[tokio::test]
async fn a_tag_in_a_registry_is_what_it_was_when_it_was_deployed() {
    let (registry, folder) = (Registry::start(), tempfile::tempdir().unwrap());
    let reference = format!("oci://{}/test/hello:1", registry.address());
    let push = |name: &str| as_user(folder.path(), &[], &["push", &path(name), "--to", &reference]);
    let pinned = done(&push(HELLO));
    assert!(pinned.starts_with(&format!("{reference}@sha256:")), "{pinned}");
    assert_eq!(
        done(&push(HELLO)),
        pinned,
        "the same component was given another name"
    );

    let app = |component: &str| {
        AppFile::new(&format!(
            "apiVersion: weft/v1\nname: hello\nactors:\n  hello: {{ component: \"{component}\" }}\nroutes:\n  - {{ path: /, actor: hello }}\n"
        ))
    };
    let file = app(&reference);
    let host = Weft::up(&[file.path()], &[], &[], Arc::new(tempfile::tempdir().unwrap()));
    assert_eq!(host.get("/").await.status, 200);
    let runs = || {
        let actors = done(&on(&host, &["get", "actors", "--output", "json"]));
        serde_json::from_str::<Value>(&actors).unwrap()["actors"][0]["component"].clone()
    };
    let hello = done(&on(&host, &["push", &path(HELLO)]));
    assert_eq!(runs(), json!(hello));

    // The tag means another one now; what was deployed stays until it is deployed again.
    done(&push(ECHO));
    assert_eq!(runs(), json!(hello));
    done(&on(&host, &["deploy", file.path().to_str().unwrap()]));
    assert_ne!(runs(), json!(hello));
    done(&on(&host, &["deploy", app(&pinned).path().to_str().unwrap()]));
    assert_eq!(runs(), json!(hello));
    assert_eq!(done(&on(&host, &["push", &pinned])), hello);

    // The registry's disk is damaged.
    let hex = hello.strip_prefix("sha256:").unwrap();
    let mut bytes = std::fs::read(registry.blob(hex)).unwrap();
    bytes[100] ^= 1;
    std::fs::write(registry.blob(hex), bytes).unwrap();
    let refused = on(&host, &["push", &pinned]);
    assert!(said(&refused).contains("damaged"), "{}", said(&refused));
}

#[test]
fn what_is_not_there_or_no_reference_is_told_with_the_remedy() {
    let (registry, folder) = (Registry::start(), tempfile::tempdir().unwrap());
    let push = |args: &[&str]| as_user(folder.path(), &[], &[&["push"], args].concat());
    let reference = format!("oci://{}/test/none:1", registry.address());
    let failed = push(&[&reference]);
    for part in [
        reference.as_str(),
        "404",
        "MANIFEST_UNKNOWN",
        "are the repository and the tag right?",
    ] {
        assert!(said(&failed).contains(part), "{}", said(&failed));
    }
    for (wrong, part) in [
        ("oci://x", "names no repository"),
        ("oci://127.0.0.1:1/a:b", "can't be asked"),
    ] {
        let failed = push(&[wrong]);
        assert!(
            !failed.status.success() && said(&failed).contains(part),
            "{}",
            said(&failed)
        );
    }
    let to = format!("oci://{}/a:b@sha256:{}", registry.address(), "0".repeat(64));
    let failed = push(&[&path(HELLO), "--to", &to]);
    assert!(
        said(&failed).contains("needs a tag and no digest"),
        "{}",
        said(&failed)
    );
}

#[test]
fn a_registry_is_asked_as_the_user_of_the_flag_or_of_docker_login() {
    // `me`, with the password `secret:1`.
    let registry = Registry::start_for("me:$2y$04$C9SHuoXlqu3H2Lk/EU9vHOY2g9xGAntY9iIo.tPLRomYgOs3v4tCe");
    let folder = tempfile::tempdir().unwrap();
    let to = format!("oci://{}/mine/hello:1", registry.address());
    let push = |env: &[(&str, &str)], args: &[&str]| {
        as_user(
            folder.path(),
            env,
            &[&["push", &path(HELLO), "--to", &to], args].concat(),
        )
    };
    let nobody = push(&[], &[]);
    assert!(
        said(&nobody).contains("401") && said(&nobody).contains("--registry-user"),
        "{}",
        said(&nobody)
    );
    let wrong = push(&[("WEFT_REGISTRY_PASSWORD", "other")], &["--registry-user", "me"]);
    assert!(
        said(&wrong).contains("401") && !said(&wrong).contains("other"),
        "{}",
        said(&wrong)
    );
    let no_password = push(&[], &["--registry-user", "me"]);
    assert!(
        said(&no_password).contains("WEFT_REGISTRY_PASSWORD"),
        "{}",
        said(&no_password)
    );
    done(&push(
        &[("WEFT_REGISTRY_PASSWORD", "secret:1")],
        &["--registry-user", "me"],
    ));
    // `me:secret:1`, as docker writes it.
    let config = json!({ "auths": { registry.address(): { "auth": "bWU6c2VjcmV0OjE=" } } });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    done(&push(&[], &[]));
}
