//! Many actors on one host: components that are loaded when they are called and let go when they are cold.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::join_all;
use tempfile::TempDir;

use crate::support::guests::{CALLEE, CALLER, CONFIG, FAULT, HELLO};
use crate::support::{AppFile, PATIENCE, Weft, get, guest};

/// The value of the series at `/metrics` that starts so.
async fn metric(weft: &Weft, series: &str) -> u64 {
    let text = get(weft.monitor, "/metrics").await;
    let line = text.text().lines().find(|line| line.starts_with(series));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{series} is not in\n{}", text.text()))
}

const LOADED: &str = "weft_component_loaded ";
const LOADS: &str = "weft_component_loads_total{weft_outcome=\"ok\"} ";
const FAILED: &str = "weft_component_loads_total{weft_outcome=\"failed\"} ";
const EVICTED_IDLE: &str = "weft_component_evictions_total{weft_reason=\"idle\"} ";
const EVICTED_BOUND: &str = "weft_component_evictions_total{weft_reason=\"bound\"} ";

async fn wait_for_metric(weft: &Weft, series: &str, wanted: impl Fn(u64) -> bool) {
    let holds = async {
        while !wanted(metric(weft, series).await) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {series}"));
}

/// A host that serves what is deployed in a data folder.
fn again(data: Arc<TempDir>, args: &[&str]) -> Weft {
    Weft::up(&[], args, &[], data)
}

/// A data folder in which these guests are deployed, each below its name, by a host that has stopped.
fn deployed(guests: &[&str]) -> Arc<TempDir> {
    let actor = |name: &&str| format!("  {name}: {{ component: {} }}\n", guest(name).display());
    let route = |name: &&str| format!("  - {{ actor: {name}, path: /{name}, stripPrefix: true }}\n");
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1\nname: app\nactors:\n{}routes:\n{}",
        guests.iter().map(actor).collect::<String>(),
        guests.iter().map(route).collect::<String>(),
    ));
    Weft::app(&app, &[]).stop()
}

/// The files of a folder of the data folder, also of the folders in it, that have this extension.
fn files(data: &TempDir, folder: &str, extension: &str) -> Vec<PathBuf> {
    let list = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = list(data.path().join(folder)).flat_map(|path| {
        if path.is_dir() {
            list(path).collect()
        } else {
            vec![path]
        }
    });
    below
        .filter(|path| path.extension().is_some_and(|own| own == extension))
        .collect()
}

#[tokio::test]
async fn a_start_loads_nothing_and_the_first_calls_load_a_component_once() {
    let weft = again(deployed(&[HELLO]), &[]);
    assert_eq!((metric(&weft, LOADED).await, metric(&weft, LOADS).await), (0, 0));
    let shown = weft.cli(&["get", "actors", "--output", "json"]).await;
    assert!(shown.contains("\"loaded\": false"), "{shown}");
    let replies = join_all((0..50).map(|_| weft.get("/hello/plain"))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!((metric(&weft, LOADED).await, metric(&weft, LOADS).await), (1, 1));
}

#[tokio::test]
async fn a_cold_component_is_let_go_while_a_call_of_it_runs_on_and_comes_back_at_the_next() {
    let weft = again(deployed(&[FAULT]), &["--unload-after", "40ms"]);
    let running = weft.get("/fault/sleep?ms=2000");
    let cold = wait_for_metric(&weft, EVICTED_IDLE, |evicted| evicted > 0);
    let (reply, ()) = tokio::join!(running, cold);
    assert_eq!(reply.status, 200);
    wait_for_metric(&weft, LOADED, |loaded| loaded == 0).await;
    assert_eq!(weft.get("/fault/ok").await.status, 200);
    assert!(metric(&weft, LOADS).await >= 2);
}

/// What a host gives back after a peak rests on this: the pool of wasmtime 48 keeps the pages of unused slots otherwise.
#[tokio::test]
async fn what_unused_slots_hold_is_kept_for_the_next_instance_and_goes_with_the_component() {
    const HELD: &str = "weft_pool_memories_warm_size_bytes ";
    let data = deployed(&[HELLO]);
    for (unload_after, goes) in [("1h", false), ("40ms", true)] {
        let weft = again(data.clone(), &["--unload-after", unload_after]);
        let replies = join_all((0..50).map(|_| weft.get("/hello/plain"))).await;
        assert!(replies.iter().all(|reply| reply.status == 200));
        if goes {
            wait_for_metric(&weft, LOADED, |loaded| loaded == 0).await;
        }
        wait_for_metric(&weft, HELD, |bytes| (bytes == 0) == goes).await;
        weft.stop();
    }
}

#[tokio::test]
async fn of_too_many_loaded_components_the_one_that_was_called_longest_ago_is_let_go() {
    let weft = again(
        deployed(&[HELLO, CONFIG, FAULT]),
        &["--loaded-components", "2", "--unload-after", "1h"],
    );
    for path in ["/hello/plain", "/config/", "/fault/ok"] {
        assert_eq!(weft.get(path).await.status, 200, "{path}");
    }
    assert_eq!(metric(&weft, LOADED).await, 2);
    assert_eq!(metric(&weft, EVICTED_BOUND).await, 1);
    assert_eq!(weft.get("/hello/plain").await.status, 200);
    assert_eq!((metric(&weft, LOADED).await, metric(&weft, LOADS).await), (2, 4));
}

#[tokio::test]
async fn a_component_that_cant_be_loaded_is_unavailable_not_tried_at_each_call_and_back_once_mended() {
    let data = deployed(&[HELLO]);
    let taken = tempfile::tempdir().unwrap();
    let wasm = files(&data, "artifacts", "wasm");
    fs::copy(&wasm[0], taken.path().join("kept")).unwrap();
    let code = files(&data, "aot", "cwasm");
    wasm.iter()
        .chain(&code)
        .for_each(|path| fs::remove_file(path).unwrap());

    let weft = again(data, &[]);
    assert_eq!(
        weft.get("/hello/plain").await.problem(),
        (503, "unavailable".to_owned())
    );
    weft.wait_for_log("failed to load a component").await;
    assert!(
        weft.log().contains("failed to read the component"),
        "{}",
        weft.log()
    );
    let failed = metric(&weft, FAILED).await;
    let replies = join_all((0..20).map(|_| weft.get("/hello/plain"))).await;
    assert!(replies.iter().all(|reply| reply.status == 503));
    assert!(
        metric(&weft, FAILED).await <= failed + 5,
        "each call tried to load it again"
    );
    fs::copy(taken.path().join("kept"), &wasm[0]).unwrap();
    let mended = async {
        while weft.get("/hello/plain").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, mended).await.unwrap();
}

#[tokio::test]
async fn links_are_resolved_without_loading_and_what_others_wrote_of_a_component_is_not_believed() {
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: app
actors:
  front:
    component: {}
    links:
      test:call: {{ actor: back }}
  back:
    component: {}
    links:
      test:call: {{ actor: back }}
routes:
  - actor: front
",
        guest(CALLER).display(),
        guest(CALLEE).display(),
    ));
    let data = Weft::app(&app, &[]).stop();
    let weft = again(data, &[]);
    assert_eq!(metric(&weft, LOADED).await, 0);
    assert_eq!(metric(&weft, "weft_condition_count ").await, 0);
    assert_eq!(
        weft.send("POST", "/text", "over the link").await.text(),
        "over the link\n"
    );
    assert_eq!(metric(&weft, LOADED).await, 2);

    let data = weft.stop();
    for path in files(&data, "artifacts", "json") {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"v\":1", "\"v\":1 ")).unwrap();
    }
    let weft = again(data, &[]);
    weft.wait_for_log("wrong authentication code").await;
    assert_eq!(metric(&weft, "weft_condition_count ").await, 0);
    assert_eq!(weft.send("POST", "/text", "again").await.text(), "again\n");
}
