//! Outside providers whose processes a host starts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use weft_servers::Nats;

use super::component;
use crate::apps::secrets::put_by;
use crate::support::guests::KV;
use crate::support::{AppFile, PATIENCE, Weft, get, wait_until, weft};

/// The folder of a host's programs.
struct Programs(tempfile::TempDir);

impl Programs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Ids of the processes that name this folder, and have all of `words` in their command line.
    fn running(&self, words: &[&str]) -> Vec<u32> {
        let folder = self.path();
        running(&[&[folder][..], words].concat())
    }
}

fn running(words: &[&str]) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let is_it = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        !line.is_empty() && words.iter().all(|word| line.contains(word))
    };
    ids.filter(is_it).collect()
}

/// The example of a provider in Rust, which is built with the tests.
fn example() -> PathBuf {
    let weft = Path::new(env!("CARGO_BIN_EXE_weft"));
    weft.with_file_name("examples").join("memory")
}

fn host(nats: &Nats, args: &[&str]) -> Weft {
    let args = [&["--controller"][..], args].concat();
    Weft::host(&nats.url(), "h1", &args, Arc::new(tempfile::tempdir().unwrap()))
}

/// An app on a provider of the command `command`, started by `h1`.
fn app(command: &str) -> AppFile {
    app_by(command, "host: h1, env: { RUST_LOG: info }")
}

/// The same with `more` of who starts it, and with what environment.
fn app_by(command: &str, more: &str) -> AppFile {
    AppFile::new(&manifest(command, more))
}

fn manifest(command: &str, more: &str) -> String {
    let kv = component(KV);
    format!(
        "
apiVersion: weft/v1
name: store
actors:
  kv: {{ component: {kv}, links: {{ wasi:keyvalue: {{ provider: values }} }} }}
providers:
  values: {{ capability: key-value, backend: outside, command: {command}, {more} }}
routes:
  - actor: kv
"
    )
}

async fn deploy(host: &Weft, app: &AppFile) {
    host.cli(&["deploy", app.path().to_str().unwrap()]).await;
}

async fn wait_until_served(host: &Weft) {
    let served = async {
        while host.send("PUT", "/b/key", "v").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let served = tokio::time::timeout(PATIENCE, served).await;
    assert!(served.is_ok(), "{}", host.log());
}

async fn condition(host: &Weft, text: &str) {
    let told = async {
        while !host
            .cli(&["get", "conditions", "--output", "json"])
            .await
            .contains(text)
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await;
    assert!(told.is_ok(), "{text}: {}", host.log());
}

async fn process(host: &Weft) -> Value {
    let answer = host.cli(&["get", "providers", "--output", "json"]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["providers"][0]["process"].clone()
}

#[tokio::test]
async fn a_host_starts_the_process_of_a_provider_again_when_it_ends_and_ends_it_when_it_stops() {
    let (nats, programs) = (Nats::start(""), Programs::new());
    programs.put("carts", std::fs::read(example()).unwrap());
    let host = host(&nats, &["--allow-commands", programs.path()]);
    deploy(&host, &app("[carts]")).await;
    wait_until_served(&host).await;
    assert_eq!(process(&host).await["ends"], 0);
    // What it says stands in the log, with its name.
    let name = "default/store/values";
    let log = host.log();
    let told = |line: &str| line.contains("serves") && line.contains(name) && line.contains("stderr");
    assert!(log.lines().any(told), "{log}");

    let of_program =
        |id: &u32| std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.ends_with("carts"));
    let first = programs.running(&[]).into_iter().find(of_program).unwrap();
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &first.to_string()])
        .status();
    assert!(killed.unwrap().success());
    host.wait_for_log("exit code 137 (signal 9)").await;
    wait_until_served(&host).await;
    assert_eq!(process(&host).await["ends"], 1);
    let metrics = get(host.monitor, "/metrics").await.text().to_owned();
    for (metric, value) in [
        ("weft_provider_process_up", 1),
        ("weft_provider_process_ends_total", 1),
    ] {
        let series = format!("{metric}{{weft_provider=\"{name}\"}} {value}\n");
        assert!(metrics.contains(&series), "{series}{metrics}");
    }

    host.stop();
    assert_eq!(programs.running(&[]), [0_u32; 0], "it outlives its host");
}

#[tokio::test]
async fn a_process_dies_with_a_host_that_is_killed_and_all_that_it_started_too() {
    let (nats, programs) = (Nats::start(""), Programs::new());
    programs.put(
        "stubborn",
        "#!/bin/sh\ntrap '' TERM\nsleep \"$1\" &\nwhile :; do sleep 1; done\n",
    );
    let host = host(&nats, &["--allow-commands", programs.path()]);
    let age = format!("86400.{}", std::process::id());
    deploy(&host, &app(&format!("[stubborn, '{age}']"))).await;
    wait_until("it runs", || !running(&["sleep", &age]).is_empty()).await;
    host.kill();
    wait_until("nothing of it is left", || {
        programs.running(&[]).is_empty() && running(&["sleep", &age]).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_process_that_is_wanted_no_more_ends_within_its_time_whatever_it_does() {
    let (nats, programs) = (Nats::start(""), Programs::new());
    programs.put("stubborn", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n");
    let host = host(&nats, &["--allow-commands", programs.path()]);
    deploy(&host, &app("[stubborn]")).await;
    wait_until("it runs", || !programs.running(&["stubborn"]).is_empty()).await;
    host.cli(&["delete", "app", "store"]).await;
    wait_until("it has ended", || programs.running(&["stubborn"]).is_empty()).await;
    // Nor is anything left as a zombie, whose command line is empty.
    wait_until("it has no child", || host.children("").is_empty()).await;
}

#[tokio::test]
async fn a_process_that_ends_again_and_again_is_a_condition_with_its_exit_code() {
    let (nats, programs) = (Nats::start(""), Programs::new());
    programs.put("broken", "#!/bin/sh\necho \"no such $1\" >&2\nexit 7\n");
    let host = host(&nats, &["--allow-commands", programs.path()]);
    deploy(&host, &app("[broken, table]")).await;
    condition(&host, "its process ends again and again: exit code 7").await;
    host.wait_for_log("no such table").await;
    assert!(process(&host).await["ends"].as_u64().unwrap() >= 5);
}

#[tokio::test]
async fn no_manifest_starts_a_process_that_the_operator_does_not_allow() {
    let (nats, programs) = (Nats::start(""), Programs::new());
    let first = host(&nats, &[]);
    deploy(&first, &app("[carts]")).await;
    condition(&first, "start it with --allow-commands DIR").await;
    drop(first);
    // One that is not there, or that may not be run, is no program either.
    let nats = Nats::start("");
    std::fs::write(programs.0.path().join("carts"), "#!/bin/sh\n").unwrap();
    let host = host(&nats, &["--allow-commands", programs.path()]);
    deploy(&host, &app("[carts]")).await;
    condition(&host, "is no program: put it there, and make it executable").await;
}

/// A program that runs until it is told to end, and then ends well.
const WAITER: &str = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.1; done\n";

#[tokio::test]
async fn each_host_with_all_of_the_labels_runs_a_process_and_no_other_does() {
    let nats = Nats::start("");
    let labels: [&[&str]; 3] = [
        &["--controller", "--label", "disk=hdd", "--label", "rack=7"],
        &["--label", "disk=ssd", "--label", "rack=7"],
        &["--label", "disk=ssd"],
    ];
    let hosts: Vec<_> = labels
        .iter()
        .enumerate()
        .map(|(at, labels)| {
            let programs = Programs::new();
            programs.put("waiter", WAITER);
            let args = [labels, &["--allow-commands", programs.path()][..]].concat();
            let data = Arc::new(tempfile::tempdir().unwrap());
            (
                Weft::host(&nats.url(), &format!("h{}", at + 1), &args, data),
                programs,
            )
        })
        .collect();
    let run = || {
        let runs = hosts
            .iter()
            .map(|(_, programs)| !programs.running(&["waiter"]).is_empty());
        runs.collect::<Vec<_>>()
    };
    let file = app_by("[waiter]", "hostLabels: { disk: ssd }");
    deploy(&hosts[0].0, &file).await;
    wait_until("two of them run", || run() == [false, true, true]).await;
    // A host tells what it has applied once it has applied all.
    let told = async {
        while !process(&hosts[1].0).await["pid"].is_u64() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, told).await.is_ok());
    assert!(process(&hosts[0].0).await.is_null());

    file.write(&manifest("[waiter]", "hostLabels: { disk: ssd, rack: 7 }"));
    deploy(&hosts[0].0, &file).await;
    wait_until("one of them runs", || run() == [false, true, false]).await;
    file.write(&manifest("[waiter]", "host: h3"));
    deploy(&hosts[0].0, &file).await;
    wait_until("that which is named runs", || run() == [false, false, true]).await;
}

#[tokio::test]
async fn a_process_has_its_secrets_and_nothing_else_does_and_a_new_version_starts_it_anew() {
    // With what an address has to escape.
    let (first, second) = ("s3cret/of: carts", "s3cond/of: carts");
    let (nats, programs, files) = (Nats::start(""), Programs::new(), tempfile::tempdir().unwrap());
    let key = files.path().join("root.key");
    let key = key.to_str().unwrap();
    assert!(
        weft(&["secret", "key", "new", "--root-key", key])
            .status
            .success()
    );
    std::fs::write(files.path().join("pin"), "f1le-pin\n").unwrap();
    programs.put(
        "carts",
        "#!/bin/sh
trap 'exit 0' TERM
echo \"token $CARTS_TOKEN at $CARTS_URL\"
echo \"$CARTS_PIN\" >&2
env > told.new
mv told.new told
while :; do sleep 0.1; done
",
    );
    let folder = files.path().to_str().unwrap();
    let args = [
        "--allow-commands",
        programs.path(),
        "--root-key",
        key,
        "--secret-files",
        folder,
    ];
    let host = host(&nats, &args);
    let env = "host: h1, env: { CARTS_TOKEN: '${secret:token}', CARTS_URL: 'carts://shop:${secret:token}@db/', \
               CARTS_PIN: '${file:pin}', CARTS_TEXT: '$${secret:token}' }";
    let file = app_by("[carts]", env);
    deploy(&host, &file).await;
    condition(&host, "the secret default/store/token is not there: put it by").await;

    let told = || std::fs::read_to_string(programs.0.path().join("told")).unwrap_or_default();
    let put = async |value: &str| {
        let put = put_by("store/token", value, &["--nats", &nats.url()]).await;
        assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
        let line = format!("CARTS_TOKEN={value}\n");
        wait_until("it has the value", || told().contains(&line)).await;
    };
    put(first).await;
    for line in [
        "CARTS_URL=carts://shop:s3cret%2Fof%3A%20carts@db/\n",
        "CARTS_PIN=f1le-pin\n",
        "CARTS_TEXT=${secret:token}\n",
    ] {
        assert!(told().contains(line), "{line}{}", told());
    }
    let before = process(&host).await["pid"].clone();
    host.wait_for_log("token *** at carts://shop:***@db/").await;
    let used = host.cli(&["secret", "list"]).await;
    assert!(used.contains("default/store/values"), "{used}");

    put(second).await;
    host.wait_for_log("a secret of a provider's process has a new value")
        .await;
    let after = process(&host).await;
    assert!(after["pid"] != before && after["ends"] == 0, "{before} {after}");

    // A file is looked at by itself.
    std::fs::write(files.path().join("pin"), "n3w-pin\n").unwrap();
    wait_until("it has the file's value", || {
        told().contains("CARTS_PIN=n3w-pin\n")
    })
    .await;
    let last = process(&host).await;
    assert!(last["pid"] != after["pid"] && last["ends"] == 0, "{after} {last}");

    let shown = [
        host.cli(&["get", "providers", "--output", "json"]).await,
        host.cli(&["get", "app", "store", "--output", "json"]).await,
        get(host.monitor, "/metrics").await.text().to_owned(),
        host.log(),
    ];
    for text in shown {
        for value in [first, second, "s3cret%2F", "s3cond%2F", "f1le-pin", "n3w-pin"] {
            assert!(!text.contains(value), "{value}: {text}");
        }
    }
    // What runs goes on without its secret.
    host.cli(&["secret", "delete", "store/token"]).await;
    assert_eq!(
        process(&host).await["pid"],
        last["pid"],
        "it ended with its secret"
    );
    host.stop();
    assert_eq!(programs.running(&[]), [0_u32; 0]);
}
