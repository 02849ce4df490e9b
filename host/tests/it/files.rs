//! What is refused before anything is served: bad components, bad folders, bad settings. Each error names what is
//! wrong and what to do, and has its exit code.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::guests::{FAULT, HELLO, REPLY};
use crate::support::{Weft, get, guest, weft};

/// The exit code and the error of `weft up FILE`.
fn up(file: &Path, args: &[&str]) -> (i32, String) {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap().to_owned();
    let mut all = vec![
        "up",
        file.to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--data",
        &data,
    ];
    all.extend_from_slice(args);
    let output = weft(&all);
    assert!(output.stdout.is_empty(), "it said that it was ready");
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn refused(file: &Path, expected: &[&str]) {
    let (code, error) = up(file, &[]);
    assert_eq!(code, 3, "{error}");
    for text in expected.iter().copied().chain([file.to_str().unwrap()]) {
        assert!(error.contains(text), "`{text}` is missing in: {error}");
    }
}

fn file(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn refuses_what_is_no_component_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| file(dir.path(), name, bytes);
    refused(
        &path("text.wasm", b"hello, world"),
        &["68 65 6c 6c", "expected the bytes 00 61 73 6d 0d 00 01 00"],
    );
    refused(&path("empty.wasm", b""), &["starts with nothing"]);
    refused(
        &path("core.wasm", &wat::parse_str("(module)").unwrap()),
        &["core WebAssembly module", "wasm32-wasip2"],
    );
    refused(&dir.path().join("none.wasm"), &["No such file"]);
    std::fs::create_dir(dir.path().join("dir.wasm")).unwrap();
    refused(&dir.path().join("dir.wasm"), &["directory"]);
}

#[test]
fn refuses_a_component_without_an_end() {
    let (code, error) = up(Path::new("/dev/zero"), &[]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("268435457 bytes or more"), "{error}");
}

#[test]
fn the_exit_code_is_told_where_stderr_is_full() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["get", "apps", "--data", "/nowhere"])
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(5));
}

#[test]
fn refuses_a_component_that_is_cut_short_or_damaged_and_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(guest(HELLO)).unwrap();
    refused(
        &file(dir.path(), "cut.wasm", &whole[..whole.len() / 2]),
        &["not a valid component", "at byte"],
    );
    let mut damaged = whole.clone();
    damaged[whole.len() / 3..whole.len() / 3 + 64].fill(0xff);
    refused(
        &file(dir.path(), "damaged.wasm", &damaged),
        &["not a valid component", "at byte"],
    );
}

#[test]
fn refuses_a_component_with_an_import_that_nothing_provides() {
    let dir = tempfile::tempdir().unwrap();
    let component = wat::parse_str(
        r#"(component
            (import "wasi:http/outgoing-handler@0.3.0" (instance (export "handle" (func))))
        )"#,
    );
    let path = file(dir.path(), "unlinked.wasm", component.unwrap());
    refused(
        &path,
        &[
            "wasi:http/outgoing-handler@0.3.0",
            "build for WASI 0.2",
            "weft inspect",
        ],
    );
}

#[test]
fn refuses_a_component_with_an_import_that_needs_a_link_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let component = wat::parse_str(
        r#"(component
            (import "acme:billing/ledger@1.0.0" (instance (export "post" (func (param "amount" u32)))))
        )"#,
    );
    let path = file(dir.path(), "unlinked.wasm", component.unwrap());
    refused(
        &path,
        &[
            "acme:billing/ledger@1.0.0",
            "nothing is linked",
            "`acme:billing/ledger: { actor: NAME }`",
        ],
    );
}

#[test]
fn refuses_a_component_that_serves_nothing() {
    refused(&guest(REPLY), &["exports no wasi:http/incoming-handler"]);
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_helps() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let output = weft(&[
        "up",
        guest(HELLO).to_str().unwrap(),
        "--http",
        &address,
        "--data",
        data.path().to_str().unwrap(),
    ]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(error.contains(&address) && error.contains("--http"), "{error}");
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = file(dir.path(), "file", "").join("data");
    let hello = guest(HELLO);
    let output = weft(&[
        "up",
        hello.to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--data",
        blocked.to_str().unwrap(),
    ]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(
        error.contains(blocked.to_str().unwrap()) && error.contains("--data"),
        "{error}"
    );
}

#[tokio::test]
async fn a_locked_data_folder_is_refused_and_its_host_goes_on() {
    let running = Weft::start(&[HELLO], &[]);
    let data = running.data.path().to_str().unwrap();
    let output = weft(&[
        "up",
        guest(HELLO).to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--data",
        data,
    ]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(error.contains("in use by another weft process (pid "), "{error}");
    assert_eq!(running.get("/plain").await.status, 200);
}

#[test]
fn all_faults_of_a_configuration_are_told_at_once() {
    let (code, error) = up(
        &guest(HELLO),
        &[
            "--https",
            "127.0.0.1:0",
            "--concurrency",
            "0",
            "--timeout",
            "0s",
            "--connections",
            "0",
            "--head-timeout",
            "0s",
        ],
    );
    assert_eq!(code, 2, "{error}");
    for fault in [
        "--tls",
        "--concurrency",
        "--timeout",
        "--connections",
        "--head-timeout",
        "5 fault(s)",
    ] {
        assert!(error.contains(fault), "{error}");
    }
}

#[test]
fn an_error_is_json_where_json_is_asked_for() {
    for args in [
        &["get", "nothing", "--output=json"][..],
        &["up", "--output", "json", "--http", "here"],
    ] {
        let output = weft(args);
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), error["error"]["code"].as_i64()),
            (Some(2), Some(2))
        );
        assert!(
            error["error"]["message"]
                .as_str()
                .unwrap()
                .contains("invalid value"),
            "{error}"
        );
    }
    let (code, error) = up(Path::new("/nowhere/x.wasm"), &["--output", "json"]);
    let error: serde_json::Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert_eq!((code, error["error"]["code"].as_i64()), (3, Some(3)));
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("/nowhere/x.wasm")
    );
}

/// How often a look into the cache of machine code ended so.
async fn cached(weft: &Weft, result: &str) -> u64 {
    let metrics = get(weft.monitor, "/metrics").await;
    let mut lines = metrics
        .text()
        .lines()
        .filter(|line| line.starts_with("weft_artifact_cache"));
    let line = lines.find(|line| line.contains(&format!("\"{result}\"")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

fn machine_code(data: &Path) -> PathBuf {
    let folder = std::fs::read_dir(data.join("aot"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .find(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .unwrap()
}

#[tokio::test]
async fn machine_code_is_kept_and_a_damaged_file_is_compiled_again_and_never_run() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let start = || Weft::start_with(&[HELLO], &[], &[], data.clone());
    let first = start();
    assert_eq!(cached(&first, "miss").await, 1);
    drop(first);
    let second = start();
    assert_eq!(second.get("/plain").await.status, 200);
    assert_eq!(
        (cached(&second, "hit").await, cached(&second, "miss").await),
        (1, 0)
    );
    drop(second);

    let path = machine_code(data.path());
    let good = std::fs::read(&path).unwrap();
    let flipped = {
        let mut bytes = good.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    for bad in [&flipped[..], &good[..good.len() / 2], b""] {
        std::fs::write(&path, bad).unwrap();
        let weft = start();
        assert_eq!(weft.get("/plain").await.status, 200);
        weft.wait_for_log("authentication code is wrong").await;
        drop(weft);
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
}

#[tokio::test]
async fn what_stands_in_the_place_of_machine_code_is_replaced_whatever_it_is() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    // Another component's machine code, to be put in this one's place.
    drop(Weft::start_with(&[FAULT], &[], &[], data.clone()));
    let other = machine_code(data.path());
    drop(Weft::start_with(&[HELLO], &[], &[], data.clone()));
    let folder = other.parent().unwrap().to_owned();
    let all = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let own = all
        .filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .find(|path| *path != other)
        .unwrap();
    let good = std::fs::read(&own).unwrap();
    let code = own.with_extension("mac");
    let copy = || {
        std::fs::copy(&other, &own).unwrap();
        std::fs::copy(other.with_extension("mac"), &code).unwrap();
    };
    let instead_by_folder = |path: &Path| {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
    };
    let pipe = || {
        std::fs::remove_file(&own).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&own).status().unwrap();
        assert!(made.success());
    };
    let harms: [&dyn Fn(); 5] = [
        &copy,
        &|| instead_by_folder(&own),
        &|| instead_by_folder(&code),
        &|| std::fs::remove_file(&code).unwrap(),
        &pipe,
    ];
    for harm in harms {
        harm();
        let weft = Weft::start_with(&[HELLO], &[], &[], data.clone());
        // It is loaded when it is first called.
        assert_eq!(weft.get("/plain").await.text(), "Hello from Weft!\n");
        assert_eq!(cached(&weft, "corrupt").await, 1);
        drop(weft);
        assert_eq!(std::fs::read(&own).unwrap(), good);
    }
}

#[tokio::test]
async fn machine_code_of_another_build_is_not_looked_at() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let start = || Weft::start_with(&[HELLO], &[], &[], data.clone());
    drop(start());
    let folder = machine_code(data.path()).parent().unwrap().to_owned();
    std::fs::rename(&folder, folder.with_file_name("0123456789abcdef")).unwrap();
    let weft = start();
    assert_eq!((cached(&weft, "miss").await, cached(&weft, "hit").await), (1, 0));
    assert_eq!(weft.get("/plain").await.status, 200);
}

#[tokio::test]
async fn machine_code_that_another_host_compiled_is_not_run() {
    let (theirs, ours) = (
        Arc::new(tempfile::tempdir().unwrap()),
        Arc::new(tempfile::tempdir().unwrap()),
    );
    drop(Weft::start_with(&[HELLO], &[], &[], theirs.clone()));
    drop(Weft::start_with(&[HELLO], &[], &[], ours.clone()));
    let foreign = machine_code(theirs.path());
    let own = machine_code(ours.path());
    std::fs::copy(&foreign, &own).unwrap();
    std::fs::copy(foreign.with_extension("mac"), own.with_extension("mac")).unwrap();
    let weft = Weft::start_with(&[HELLO], &[], &[], ours);
    assert_eq!(weft.get("/plain").await.status, 200);
    weft.wait_for_log("authentication code is wrong").await;
}
