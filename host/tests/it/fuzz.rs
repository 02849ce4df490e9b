//! The front door, the admin API and the monitor of a real host, given requests that are right but for random damage,
//! and the shapes that other servers fell for. After each batch the host answers, is the same process, and has not panicked.

mod admin;
mod conversation;
#[path = "../../../compose/fuzz/src/damage.rs"]
mod damage;
mod http1;
mod http2;

use std::fmt::Debug;
use std::path::Path;

use futures::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use self::conversation::{check, converse};
use crate::support::guests::{CALLEE, CALLER, ECHO};
use crate::support::{AppFile, Weft, guest};

/// Conversations that go on at once.
const BATCH_LEN: usize = 32;
/// Batches of a test. `PROPTEST_CASES` asks for more, as `cargo xtask soak` does.
const BATCHES: u32 = 6;

/// A host, and what it is talked to with.
struct Fuzzed {
    weft: Weft,
    runtime: Runtime,
    _app: AppFile,
}

impl Fuzzed {
    fn start(args: &[&str]) -> Self {
        let app = AppFile::new(&format!(
            "apiVersion: weft/v1\nname: fuzz\nactors:\n  echo:\n    component: {}\n  callee:\n    component: {}\n    links: {{ test:call/echo: {{ actor: callee }} }}\n  caller:\n    component: {}\n    links: {{ test:call/echo: {{ actor: callee }} }}\nroutes:\n  - {{ actor: echo }}\n",
            guest(ECHO).display(),
            guest(CALLEE).display(),
            guest(CALLER).display(),
        ));
        let args: Vec<_> = ["--head-timeout", "2s"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        Self {
            weft: Weft::app(&app, &args),
            runtime: Runtime::new().unwrap(),
            _app: app,
        }
    }

    /// What a TCP address of the host answers.
    async fn tcp(&self, key: &str, bytes: &[u8]) -> Vec<u8> {
        let address = self.weft.ready[key].as_str().unwrap();
        let address = address.split("//").last().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let answer = converse(stream, bytes).await;
        check(bytes, &answer);
        answer
    }

    /// What the admin socket answers.
    async fn socket(&self, bytes: &[u8]) -> Vec<u8> {
        let stream = UnixStream::connect(self.weft.data.path().join("admin.sock"))
            .await
            .unwrap();
        let answer = converse(stream, bytes).await;
        check(bytes, &answer);
        answer
    }

    /// Answers as before, is the same process, and has not panicked.
    async fn is_well(&self) {
        let status = self
            .socket(b"GET /v1/host HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await;
        let status = String::from_utf8_lossy(&status).into_owned();
        let pid = format!("\"pid\":{}", self.weft.ready["pid"]);
        assert!(
            status.starts_with("HTTP/1.1 200") && status.contains(&pid),
            "{status}"
        );
        assert_eq!(self.weft.get("/headers").await.status, 200);
        let log = self.weft.log();
        let panic = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(panic, None);
    }

    /// Has batches of conversations, each of a value of `inputs`.
    fn batches<T: Debug>(&self, inputs: impl Strategy<Value = T>, talk: impl AsyncFn(&Self, &T)) {
        let cases = std::env::var_os("PROPTEST_CASES").map_or(BATCHES, |_| ProptestConfig::default().cases);
        let config = ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(cases)
        };
        let batch = proptest::collection::vec(inputs, BATCH_LEN);
        let talked = TestRunner::new(config).run(&batch, |batch| {
            self.runtime.block_on(async {
                join_all(batch.iter().map(|input| talk(self, input))).await;
                self.is_well().await;
            });
            Ok(())
        });
        talked.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The requests that inputs are made from, of `tests/fuzz/`.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}
