//! A client that asks at a steady pace and takes the time of each answer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// How long any answer may take before the probe gives up.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// From one request to the next. A late one is sent at once and counted from when it was due, so that a server that
/// stands still is not asked less for it.
const PACE: Duration = Duration::from_millis(2);

/// Times of answers in microseconds, from the quickest to the slowest.
pub(super) struct Times(Vec<f64>);

impl Times {
    /// The time that this part of the answers stays below.
    pub(super) fn at(&self, part: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a position in a list of some thousands"
        )]
        let at = (self.0.len() as f64 * part) as usize;
        self.0
            .get(at.min(self.0.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// Asks for `path` over one connection for as long as `goes_on`; an error if any answer is not 200.
pub(super) fn times(
    address: SocketAddr,
    path: &str,
    mut goes_on: impl FnMut() -> bool,
) -> anyhow::Result<Times> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut times = Vec::new();
    let mut due = Instant::now();
    while goes_on() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream)?;
        times.push(due.elapsed().as_secs_f64() * 1e6);
        due += PACE;
    }
    times.sort_by(f64::total_cmp);
    Ok(Times(times))
}

/// Reads one whole answer with an announced length.
fn read_answer(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4 << 10];
    loop {
        let len = stream.read(&mut buffer)?;
        ensure!(len > 0, "the connection was closed within an answer");
        answer.extend_from_slice(&buffer[..len]);
        let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 200"), "answered {text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        if answer.len() >= head + 4 + length {
            return Ok(());
        }
    }
}
