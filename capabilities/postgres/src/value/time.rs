//! Dates and times, which the server counts from 2000-01-01, as Postgres's ISO text.

use std::fmt::Write as _;

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;

pub(super) fn write_date(days: i32, out: &mut String) -> Option<()> {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        days => {
            let is_before_christ = write_day(days.into(), out)?;
            push_era(is_before_christ, out);
        }
    }
    Some(())
}

pub(super) fn write_time(micros: i64, out: &mut String) -> Option<()> {
    let seconds = micros / 1_000_000;
    write!(
        out,
        "{:02}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
    .ok()?;
    let fraction = micros % 1_000_000;
    if fraction != 0 {
        let text = format!("{fraction:06}");
        out.push('.');
        out.push_str(text.trim_end_matches('0'));
    }
    Some(())
}

pub(super) fn write_timestamp(micros: i64, zone: &str, out: &mut String) -> Option<()> {
    match micros {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        micros => {
            let is_before_christ = write_day(micros.div_euclid(MICROS_PER_DAY), out)?;
            out.push(' ');
            write_time(micros.rem_euclid(MICROS_PER_DAY), out)?;
            out.push_str(zone);
            push_era(is_before_christ, out);
        }
    }
    Some(())
}

fn push_era(is_before_christ: bool, out: &mut String) {
    if is_before_christ {
        out.push_str(" BC");
    }
}

/// Writes a day, and gives whether it is before Christ. The year before the first is one before Christ.
fn write_day(days: i64, out: &mut String) -> Option<bool> {
    let (year, month, day) = civil(days + EPOCH_DAYS);
    let (year, is_before_christ) = if year > 0 { (year, false) } else { (1 - year, true) };
    write!(out, "{year:04}-{month:02}-{day:02}").ok()?;
    Some(is_before_christ)
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar without end.
/// (Howard Hinnant's `civil_from_days`: years begin in March, in eras of 400.)
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
