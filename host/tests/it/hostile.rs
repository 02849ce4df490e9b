//! Guests that attack the host and those who share it. While one does, another actor of the same host is served; after
//! it, all is as it was before.

mod capabilities;
mod compile;
mod handmade;
mod many;
mod one;

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::support::guests::{HELLO, HOSTILE};
use crate::support::{AppFile, Reply, Weft, guest, wait_until};

/// What the other actor answers, at the least, while an attack goes on.
const ANSWERS_MIN: usize = 20;
/// The host's resident memory at its highest, in KiB, with invocations of at most 64 MiB one at a time: some 60 MiB of its
/// own, the guest's memory, and what one invocation may make the host keep: 1,024 handles of 64 KiB.
const PEAK_KIB_MAX: u64 = 256 << 10;
/// Bytes of log that attacks may cause in a second: an actor's share of a megabyte, as JSON with escapes or in part
/// counted for less than it takes, and the host's own words.
const LOG_BYTES_PER_S_MAX: u64 = 2 << 20;

/// An actor that attacks, at `/hostile`, and one that is served beside it, at `/hello`. `more` are further links of the
/// first, and `rest` is the rest of the manifest.
struct Arena {
    weft: Weft,
    files: usize,
}

impl Arena {
    async fn open() -> Self {
        Self::with("", &[]).await
    }

    /// The same with what else the attacker is linked to, and with more arguments.
    async fn with(links: &str, args: &[&str]) -> Self {
        Self::serve(
            &guest(HOSTILE).display().to_string(),
            &format!("test:hostile: {{ actor: hostile }}, {STORES}{links}"),
            args,
        )
        .await
    }

    /// The same with another component as the attacker.
    async fn serve(component: &str, links: &str, args: &[&str]) -> Self {
        let hello = guest(HELLO).display().to_string();
        let app = AppFile::new(&format!(
            "
apiVersion: weft/v1
name: arena
actors:
  hostile:
    component: {component}
    limits: {{ cpuTime: 500ms, memory: 64MiB, timeout: 10s, streamTimeout: 10s }}
    links: {{ {links} }}
  hello:
    component: {hello}
providers:
  values: {{ capability: key-value, backend: memory }}
  database: {{ capability: sql, backend: sqlite }}
routes:
  - {{ actor: hostile, path: /hostile, stripPrefix: true }}
  - {{ actor: hello, path: /hello, stripPrefix: true }}
"
        ));
        let weft = Weft::app(&app, args);
        // What is made on first use is there before files are counted.
        assert_eq!(weft.get("/hello/plain").await.status, 200);
        let files = weft.open_files();
        Self { weft, files }
    }

    /// Runs `attack` while the other actor is asked again and again, and waits until all is as before.
    async fn beside<T>(&self, attack: impl Future<Output = T>) -> T {
        let weft = &self.weft;
        let (log, started) = (weft.log().len(), Instant::now());
        let (over, answers) = (Cell::new(false), Cell::new(0));
        let others = async {
            while !over.get() || answers.get() < ANSWERS_MIN {
                let reply = weft.get("/hello/plain").await;
                assert_eq!((reply.status, reply.text()), (200, "Hello from Weft!\n"));
                answers.set(answers.get() + 1);
            }
        };
        let attack = async {
            let outcome = attack.await;
            over.set(true);
            outcome
        };
        let (outcome, ()) = tokio::join!(attack, others);
        self.is_as_before().await;
        let logged = (weft.log().len() - log) as u64;
        // A second more for what was begun, and one for what its budget of that one left.
        let seconds = started.elapsed().as_secs() + 2;
        assert!(
            logged < seconds * LOG_BYTES_PER_S_MAX,
            "{logged} bytes were logged in {seconds} s"
        );
        outcome
    }

    /// Waits until no instance is live and as few files are open as at the start.
    async fn is_as_before(&self) {
        self.weft.wait_until_idle().await;
        wait_until("as few files are open as before", || {
            self.weft.open_files() <= self.files
        })
        .await;
    }

    /// The answer to an attack while the other actor is served.
    async fn attack(&self, path: &str) -> Reply {
        self.beside(self.weft.get(&format!("/hostile{path}"))).await
    }

    /// The status and the code of the problem that an attack ends with.
    async fn problem(&self, path: &str) -> (u16, String) {
        let reply = self.attack(path).await;
        assert_eq!(
            reply.header("content-type"),
            "application/problem+json",
            "{path}: {}",
            reply.text()
        );
        reply.problem()
    }

    /// The most memory that the host has had, in KiB.
    fn assert_peak_is_bounded(&self) {
        let peak = self.weft.memory_kib("VmHWM");
        assert!(peak < PEAK_KIB_MAX, "{peak} KiB");
    }
}

/// What the guest imports has to be linked.
const STORES: &str = "wasi:keyvalue: { provider: values }, weft:sql: { provider: database }";

fn ended(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// For clients that hold on for a while and then leave.
const A_WHILE: Duration = Duration::from_millis(500);
