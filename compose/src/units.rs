//! Durations and sizes as people write them: `500ms`, `64MiB`.
//!
//! Owns the units. A number without one is refused, as nobody knows whether `30` is seconds or milliseconds.

use std::time::Duration;

/// Units of time with their milliseconds, the largest first.
const TIMES: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of size with their bytes. The first four are those that are written.
const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
];

/// A duration such as `500ms`, `30s`, `5m` or `1h`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    scaled(text, TIMES).map(Duration::from_millis)
}

/// A size in bytes, such as `64MiB`, `256KiB`, `10MB` or `512B`.
pub fn parse_size(text: &str) -> Option<u64> {
    scaled(text, SIZES)
}

/// The shortest text that [`parse_duration`] reads as `duration`, which is cut to whole milliseconds.
pub fn duration_text(duration: Duration) -> String {
    text_of(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), TIMES)
}

/// The shortest text that [`parse_size`] reads as `bytes`.
pub fn size_text(bytes: u64) -> String {
    text_of(bytes, &SIZES[..4])
}

/// The duration that a text such as `30` or `5min` probably means.
pub(crate) fn duration_meant(text: &str) -> Option<String> {
    meant(text, "s", &["ms", "h", "m", "s"])
}

/// The size that a text such as `64`, `64mb` or `64M` probably means.
pub(crate) fn size_meant(text: &str) -> Option<String> {
    meant(text, "MiB", &["GiB", "MiB", "KiB", "GB", "MB", "KB", "B"])
}

fn meant(text: &str, usual: &str, units: &[&str]) -> Option<String> {
    // No number that is meant has more digits than the largest.
    const DIGITS_MAX: usize = 20;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let fits = |name: &&&str| {
        let name = name.to_ascii_lowercase();
        unit.starts_with(&name) || name.starts_with(&unit)
    };
    let unit = if unit.is_empty() {
        usual
    } else {
        units.iter().find(fits)?
    };
    (1..=DIGITS_MAX)
        .contains(&digits)
        .then(|| format!("{number}{unit}"))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

fn text_of(number: u64, units: &[(&str, u64)]) -> String {
    let whole = units
        .iter()
        .find(|(_, scale)| number > 0 && number.is_multiple_of(*scale));
    let &(unit, scale) = whole.or(units.last()).unwrap_or(&("", 1));
    format!("{}{unit}", number / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("10MB"), Some(10_000_000));
        assert_eq!(parse_size("0B"), Some(0));
    }

    #[test]
    fn refuses_a_number_without_a_unit_and_a_unit_without_a_number() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1h30m",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["", "64", "MiB", "64mib", "64 MiB", "18446744073709551615GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(ms in any::<u64>()) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
        }

        #[test]
        fn a_written_size_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&size_text(bytes)), Some(bytes));
        }
    }
}
