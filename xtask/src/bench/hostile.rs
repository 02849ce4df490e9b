//! What an actor's answers take while another one of the same host attacks it.
//!
//! A probe asks `hello` at a steady pace, alone and beside each attack in turn; attackers call at a steady pace too, as
//! many as are told, and don't wait for one another.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::probe::{Times, times};
use super::process::{Kind, Server};
use super::{Row, Subjects, median};

/// The attacks, and how many callers each has at once.
const ATTACKS: [(&str, usize); 12] = [
    ("/loop", 4),
    ("/loop", 64),
    ("/fill", 4),
    ("/memory", 4),
    ("/handles?of=big-fields", 4),
    ("/recursion", 4),
    ("/headers", 4),
    ("/log-flood?n=10000", 4),
    ("/endless-body", 2),
    ("/kv-keys?n=10000", 2),
    ("/sql-forever", 2),
    ("/calls-deep", 4),
];
/// Calls of one attacker a second, if they don't take longer.
const PACE: Duration = Duration::from_millis(50);
const SECONDS: u64 = 4;
/// How long a caller listens to an answer: an endless one has to be left.
const LISTEN_MAX: Duration = Duration::from_millis(1_000);
const PATH: &str = "/hello/plain";

/// The manifest that [`Kind::Arena`] is started with.
pub(super) fn write_app(subjects: &Subjects) -> anyhow::Result<()> {
    let (hostile, hello) = (subjects.guest("hostile"), subjects.guest("hello"));
    let text = format!(
        "\
apiVersion: weft/v1
name: arena
actors:
  hostile:
    component: {}
    limits: {{ cpuTime: 1s, memory: 64MiB, timeout: 5s, streamTimeout: 5s }}
    links:
      test:hostile: {{ actor: hostile }}
      wasi:keyvalue: {{ provider: values }}
      weft:sql: {{ provider: database }}
  hello:
    component: {}
providers:
  values: {{ capability: key-value, backend: redb }}
  database: {{ capability: sql, backend: sqlite }}
routes:
  - {{ actor: hostile, path: /hostile, stripPrefix: true }}
  - {{ actor: hello, path: /hello, stripPrefix: true }}
",
        hostile.display(),
        hello.display()
    );
    fs::write(subjects.arena(), text)?;
    Ok(())
}

pub(super) fn measure(subjects: &Subjects, rows: &mut Vec<Row>) -> anyhow::Result<Value> {
    write_app(subjects)?;
    let rounds = subjects.rounds();
    let mut all = serde_json::Map::new();
    for (path, callers) in ATTACKS {
        eprintln!("Measuring hello beside {callers} callers of {path}, {rounds} rounds");
        let mut figures = [const { Vec::new() }; 6];
        for _ in 0..rounds {
            let server = Server::start(Kind::Arena, subjects)?;
            let alone = beside(subjects, server.address, path, 0)?;
            let beside = beside(subjects, server.address, path, callers)?;
            let of = |times: &Times| [times.at(0.5), times.at(0.99)];
            let ([p50, p99], [with_p50, with_p99]) = (of(&alone), of(&beside));
            let round = [p50, p99, with_p50, with_p99, with_p50 / p50, with_p99 / p99];
            for (figures, figure) in std::iter::zip(&mut figures, round) {
                figures.push(figure);
            }
        }
        let [p50, p99, with_p50, with_p99, ratio_p50, ratio_p99] = figures.map(median);
        rows.push(Row {
            what: format!("hello beside {callers} of {path}, p99"),
            weft: format!("{with_p99:.0} us (p50 {with_p50:.0})"),
            yardstick: format!("alone {p99:.0} us (p50 {p50:.0})"),
            ratio: Some(ratio_p99),
            reach: "",
            met: None,
        });
        all.insert(
            format!("{callers} {path}"),
            json!({
                "alone_us": { "p50": p50, "p99": p99 },
                "beside_us": { "p50": with_p50, "p99": with_p99 },
                "ratio": { "p50": ratio_p50, "p99": ratio_p99 },
            }),
        );
    }
    Ok(Value::Object(all))
}

/// Times of `hello` while so many callers attack.
fn beside(subjects: &Subjects, address: SocketAddr, path: &str, callers: usize) -> anyhow::Result<Times> {
    let over = AtomicBool::new(false);
    let seconds = if subjects.quick { 1 } else { SECONDS };
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    // How it ends is for the tests to say.
                    let _ = call(address, path);
                    std::thread::sleep(PACE.saturating_sub(started.elapsed()));
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(seconds);
        let times = times(address, PATH, || Instant::now() < end);
        over.store(true, Ordering::Relaxed);
        times
    })
}

/// Calls once, and listens for a while.
fn call(address: SocketAddr, path: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LISTEN_MAX))?;
    let request = format!("GET /hostile{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let started = Instant::now();
    let mut buffer = [0; 64 << 10];
    while started.elapsed() < LISTEN_MAX && stream.read(&mut buffer)? > 0 {}
    Ok(())
}
