//! What a process of a provider says, in this host's log.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::time::Instant;
use weft_compose::ProviderName;
use weft_compose::secret::in_address;
use weft_secrets::Secret;
use zeroize::Zeroizing;

use crate::secret::opened::Used;

/// Bytes of one line; the rest of a longer one is the next.
const LINE_LEN_MAX: u64 = 8 << 10;
/// Bytes of a line of a secret that is hidden by itself: shorter ones stand in everything.
const HIDDEN_LINE_LEN_MIN: usize = 4;
/// Lines that are logged a second; those beyond are counted.
const LINES_PER_S_MAX: u32 = 100;

/// Logs each line until `from` ends, without the secrets of its environment.
pub(super) async fn tell(
    provider: &ProviderName,
    stream: &'static str,
    from: Option<impl AsyncRead + Unpin>,
    secrets: &Used,
) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let (mut second, mut told, mut dropped) = (Instant::now(), 0, 0_u64);
    let (secrets, mut line) = (Hidden::of(secrets), Vec::new());
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
        tracing::info!(%provider, stream, "{}", shown(&line, &secrets));
    }
}

/// What no line may have: secrets, as they are and as they stand in addresses, and lines of those that have several.
struct Hidden(Vec<Zeroizing<String>>);

impl Hidden {
    fn of(secrets: &Used) -> Self {
        let values = secrets.values().filter_map(Secret::reveal_text);
        let texts = values.flat_map(|value| {
            let lines = value.lines().filter(|line| line.len() >= HIDDEN_LINE_LEN_MIN);
            let as_they_are = std::iter::once(value).chain(lines).map(str::to_owned);
            as_they_are.chain([in_address(value)]).map(Zeroizing::new)
        });
        let mut texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
        // The longest first: one may be a part of another.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(texts)
    }
}

/// A line that can't move the cursor, and has no secret in it.
fn shown(line: &[u8], secrets: &Hidden) -> String {
    let line = String::from_utf8_lossy(line).into_owned();
    let hide = |line: String, text: &Zeroizing<String>| line.replace(text.as_str(), "***");
    let line = secrets.0.iter().fold(line, hide);
    let shown = line.trim_end().chars();
    shown.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_control_character() {
        let line = shown(b"a\tb\x1b[2J \xff\r\n", &Hidden::of(&Used::new()));
        assert_eq!(line, "a b [2J \u{fffd}");
    }

    #[test]
    fn a_line_has_no_secret_of_its_environment() {
        let secrets = [
            ("secret:token", "swordfish"),
            ("secret:longer", "swordfish-2"),
            ("secret:lines", "-- key --\nc29tZSBrZXk\n}\n"),
        ];
        let secrets = secrets.map(|(source, value)| {
            (
                source.parse().unwrap(),
                Secret::new(value.as_bytes().to_vec()).unwrap(),
            )
        });
        let secrets = Hidden::of(&Used::from(secrets));
        let line = shown(b"TOKEN=swordfish LONGER=swordfish-2", &secrets);
        assert_eq!(line, "TOKEN=*** LONGER=***");
        assert_eq!(shown(b"--%20key%20--%0Ac29tZSBrZXk%0A%7D%0A", &secrets), "***");
        assert_eq!(shown(b"KEY: c29tZSBrZXk {}\n", &secrets), "KEY: *** {}");
    }
}
