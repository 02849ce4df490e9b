//! Values that people type: durations and sizes.

use std::net::SocketAddr;
use std::time::Duration;

use weft_compose::AllowPattern;

/// Where to listen: `127.0.0.1:8080`, `0.0.0.0:80`, `[::]:80`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:80 or [::]:80";
    text.parse().map_err(|_| expected.to_owned())
}

/// A duration such as `30s`, `500ms` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 30s, 500ms or 1h, not `{text}`");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| expected())?;
    Duration::try_from(parsed).map_err(|_| expected())
}

/// A host with or without scheme and port, over HTTPS if it names none: `api.example.com`, `http://127.0.0.1:9000`.
pub(super) fn allow(text: &str) -> Result<AllowPattern, String> {
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    whole
        .parse()
        .map_err(|error: weft_compose::allow::AllowError| error.to_string())
}

/// A size such as `256MiB`, `10MB` or a number of bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let expected =
        || format!("expected a size such as 64KiB, 256MiB, 1GiB or a number of bytes, not `{text}`");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(expected()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(expected)
}

/// Bytes for people: `75.1 KiB`.
pub(super) fn show_bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_type() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(bytes("256MiB"), Ok(256 << 20));
        assert_eq!(bytes("1 GiB"), Ok(1 << 30));
        assert_eq!(bytes("12"), Ok(12));
        assert_eq!(address("[::1]:80").unwrap().port(), 80);
        for wrong in ["", "localhost:80", "127.0.0.1", "8080"] {
            assert!(address(wrong).unwrap_err().contains("127.0.0.1:8080"), "{wrong}");
        }
        for wrong in ["", "-1s", "soon", "1 lightyear"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "MiB", "-1", "1.5MiB", "99999999999999GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
