//! In Python.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use weft_servers::Nats;

use crate::{Host, STORES, name, server};

/// The Python that has nats-py and cbor2.
fn python() -> PathBuf {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    let root = folder("WEFT_CACHE_DIR")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("weft")))
        .or_else(|| Some(folder("HOME")?.join(".cache/weft")));
    let entries = root
        .and_then(|root| std::fs::read_dir(root).ok())
        .into_iter()
        .flatten();
    let python = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("provider-python-") && path.extension().is_none()
        })
        .map(|path| path.join("bin/python"))
        .find(|python| python.exists());
    python.expect("nats-py and cbor2 are missing: get them by `cargo xtask setup provider`")
}

/// The example, as a process that ends with this.
struct Example(Child);

impl Example {
    fn start(nats: &Nats, names: &[String]) -> Self {
        let url = nats.url().replace("nats://", "nats://provider:x@");
        let process = Command::new(python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/provider.py"))
            .args([&url, "one"])
            .args(names)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(process)
    }

    /// The first line that it writes, which says that it serves.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.0.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_in_another_language_keeps_the_contract_with_rights_for_its_own_subjects() {
    let nats = server();
    let names: Vec<_> = (0..STORES).map(name).collect();
    let mut example = Example::start(&nats, &names);
    assert!(example.line().starts_with("serving default/test/p0"));
    Host::join(&nats).await.conforms().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_the_right_to_serve_ends_and_says_so() {
    let nats = server();
    let example = Example::start(&nats, &["default/test/orders".to_owned()]);
    let mut example = example;
    let status = example.0.wait().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(example.0.stderr.as_mut().unwrap(), &mut text).unwrap();
    assert!(
        !status.success() && text.to_lowercase().contains("permissions violation"),
        "{text}"
    );
}
