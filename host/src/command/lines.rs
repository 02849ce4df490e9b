//! What a process of a provider says, in this host's log.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::time::Instant;
use weft_compose::ProviderName;

/// Bytes of one line; the rest of a longer one is the next.
const LINE_LEN_MAX: u64 = 8 << 10;
/// Lines that are logged a second; those beyond are counted.
const LINES_PER_S_MAX: u32 = 100;

/// Logs each line until `from` ends.
pub(super) async fn tell(
    provider: &ProviderName,
    stream: &'static str,
    from: Option<impl AsyncRead + Unpin>,
) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let (mut second, mut told, mut dropped) = (Instant::now(), 0, 0_u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut from).take(LINE_LEN_MAX).read_until(b'\n', &mut line).await;
        let is_over = !matches!(read, Ok(len) if len > 0);
        if is_over || second.elapsed() >= Duration::from_secs(1) {
            if dropped > 0 {
                tracing::warn!(%provider, stream, dropped, "its process said more than {LINES_PER_S_MAX} lines a second");
            }
            (second, told, dropped) = (Instant::now(), 0, 0);
        }
        if is_over {
            return;
        }
        if told >= LINES_PER_S_MAX {
            dropped += 1;
            continue;
        }
        told += 1;
        tracing::info!(%provider, stream, "{}", shown(&line));
    }
}

/// A line that can't move the cursor.
fn shown(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let shown = line.trim_end().chars();
    shown.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_control_character() {
        assert_eq!(shown(b"a\tb\x1b[2J \xff\r\n"), "a b [2J \u{fffd}");
    }
}
