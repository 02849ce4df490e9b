//! Values on their way out of the database.
//!
//! The case is that of the column's type, as the provider of wasmCloud chose it. The texts are those that the backend
//! writes: ISO dates, in UTC.

use weft_capabilities::sql::SqlValue;

use super::wit::wasmcloud::postgres::types::{
    Date, HashableF64, Offset, PgValue, Time, Timestamp, TimestampTz,
};

/// A value of a column, whose type Postgres calls `of_type`.
///
/// # Errors
/// No case takes it, in a sentence.
pub(super) fn of(of_type: &str, value: SqlValue) -> Result<PgValue, String> {
    let none = || format!("its type {of_type} has no case in this interface: select it as text, by `::text`");
    Ok(match (of_type, value) {
        (_, SqlValue::Null) => PgValue::Null,
        (_, SqlValue::Boolean(is)) => PgValue::Bool(is),
        ("int2", SqlValue::Integer(n)) => PgValue::Int2(i16::try_from(n).map_err(|_| none())?),
        ("int4", SqlValue::Integer(n)) => PgValue::Int4(i32::try_from(n).map_err(|_| none())?),
        (_, SqlValue::Integer(n)) => PgValue::Int8(n),
        // It was made of one of so many bits.
        ("float4", SqlValue::Real(n)) => PgValue::Float4(float4(n as f32)),
        (_, SqlValue::Real(n)) => PgValue::Float8(float8(n)),
        (_, SqlValue::Blob(bytes)) => PgValue::Bytea(bytes.into()),
        (_, SqlValue::Text(text)) => match of_type.strip_prefix('_') {
            Some(element) => array(element, &text)?,
            None => of_text(of_type, text).ok_or_else(none)?,
        },
    })
}

fn of_text(of_type: &str, text: String) -> Option<PgValue> {
    Some(match of_type {
        "numeric" => PgValue::Numeric(text),
        "varchar" => PgValue::Varchar((None, text.into())),
        "bpchar" => PgValue::Char((u32::try_from(text.chars().count()).ok()?, text.into())),
        "name" => PgValue::Name(text),
        // Components that were built for wasmCloud find both kinds in the one case.
        "json" | "jsonb" => PgValue::Json(text),
        "xml" => PgValue::Xml(text),
        "uuid" => PgValue::Uuid(text),
        "date" => PgValue::Date(date(&text)?),
        "time" => PgValue::Time(time(&text)?),
        "timestamp" => PgValue::Timestamp(timestamp(&text)?),
        "timestamptz" => PgValue::TimestampTz(timestamp_tz(&text)?),
        _ => PgValue::Text(text),
    })
}

fn array(element: &str, text: &str) -> Result<PgValue, String> {
    let what = "an array of one dimension, without NULL, is all that this interface has a case for";
    let all = elements(text).ok_or_else(|| format!("{what}: select it as text, by `::text`"))?;
    fn each<T>(all: Vec<String>, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        all.iter().map(|text| read(text)).collect()
    }
    let read = match element {
        "bool" => each(all, |text| Some(text == "t")).map(PgValue::BoolArray),
        "int2" => each(all, |text| text.parse().ok()).map(PgValue::Int2Array),
        "int4" => each(all, |text| text.parse().ok()).map(PgValue::Int4Array),
        "int8" | "oid" => each(all, |text| text.parse().ok()).map(PgValue::Int8Array),
        "float4" => each(all, |text| text.parse().ok().map(float4)).map(PgValue::Float4Array),
        "float8" => each(all, |text| text.parse().ok().map(float8)).map(PgValue::Float8Array),
        "bytea" => each(all, bytes).map(PgValue::ByteaArray),
        "numeric" => Some(PgValue::NumericArray(all)),
        "varchar" => each(all, |text| Some((None, text.as_bytes().to_vec()))).map(PgValue::VarcharArray),
        "bpchar" => each(all, |text| {
            Some((
                u32::try_from(text.chars().count()).ok()?,
                text.as_bytes().to_vec(),
            ))
        })
        .map(PgValue::CharArray),
        "name" => Some(PgValue::NameArray(all)),
        "json" => Some(PgValue::JsonArray(all)),
        "jsonb" => Some(PgValue::JsonbArray(all)),
        "xml" => Some(PgValue::XmlArray(all)),
        "uuid" => Some(PgValue::UuidArray(all)),
        "date" => each(all, date).map(PgValue::DateArray),
        "time" => each(all, time).map(PgValue::TimeArray),
        "timestamp" => each(all, timestamp).map(PgValue::TimestampArray),
        "timestamptz" => each(all, timestamp_tz).map(PgValue::TimestampTzArray),
        _ => Some(PgValue::TextArray(all)),
    };
    read.ok_or_else(|| {
        format!("an element of its type {element} can't be read: select it as text, by `::text`")
    })
}

/// The parts of a number.
pub(super) fn float8(number: f64) -> HashableF64 {
    let bits = number.to_bits();
    let (exponent, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
    let mantissa = if exponent == 0 {
        fraction << 1
    } else {
        fraction | (1 << 52)
    };
    (
        mantissa,
        parts_exponent(exponent, 1_023 + 52),
        sign(number.is_sign_negative()),
    )
}

pub(super) fn float4(number: f32) -> HashableF64 {
    let bits = u64::from(number.to_bits());
    let (exponent, fraction) = ((bits >> 23) & 0xff, bits & ((1 << 23) - 1));
    let mantissa = if exponent == 0 {
        fraction << 1
    } else {
        fraction | (1 << 23)
    };
    (
        mantissa,
        parts_exponent(exponent, 127 + 23),
        sign(number.is_sign_negative()),
    )
}

/// An exponent of at most 11 bits, less what it is shifted by.
fn parts_exponent(exponent: u64, shift: i16) -> i16 {
    i16::try_from(exponent).unwrap_or(i16::MAX) - shift
}

fn sign(is_negative: bool) -> i8 {
    if is_negative { -1 } else { 1 }
}

/// The elements of an array of one dimension; `None` for another, or one with no value among them.
fn elements(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut all = Vec::new();
    let mut chars = inner.chars().peekable();
    while chars.peek().is_some() {
        let mut element = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => element.push(chars.next()?),
                    c => element.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                element.push(c);
            }
            if element == "NULL" || element.contains(['{', '}']) {
                return None;
            }
        }
        all.push(element);
        match chars.next() {
            None => break,
            Some(',') if chars.peek().is_some() => {}
            Some(_) => return None,
        }
    }
    Some(all)
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    let bytes = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
    bytes.collect()
}

fn infinite(text: &str) -> Option<Date> {
    match text {
        "infinity" => Some(Date::PositiveInfinity),
        "-infinity" => Some(Date::NegativeInfinity),
        _ => None,
    }
}

fn date(text: &str) -> Option<Date> {
    if let Some(date) = infinite(text) {
        return Some(date);
    }
    let (text, is_before) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let mut parts = text.splitn(3, '-');
    let year: i32 = parts.next()?.parse().ok()?;
    let year = if is_before { 1 - year } else { year };
    Some(Date::Ymd((
        year,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    )))
}

fn time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.splitn(3, ':').map(|part| part.parse().ok());
    let micro = format!("{fraction:0<6}");
    Some(Time {
        hour: parts.next()??,
        min: parts.next()??,
        sec: parts.next()??,
        micro: micro.get(..6)?.parse().ok()?,
    })
}

fn timestamp(text: &str) -> Option<Timestamp> {
    if let Some(date) = infinite(text) {
        let (hour, min, sec, micro) = (0, 0, 0, 0);
        let time = Time {
            hour,
            min,
            sec,
            micro,
        };
        return Some(Timestamp { date, time });
    }
    let (text, era) = match text.strip_suffix(" BC") {
        Some(text) => (text, " BC"),
        None => (text, ""),
    };
    let (day, at) = text.split_once(' ')?;
    Some(Timestamp {
        date: date(&format!("{day}{era}"))?,
        time: time(at)?,
    })
}

/// The backend tells it in UTC.
fn timestamp_tz(text: &str) -> Option<TimestampTz> {
    Some(TimestampTz {
        timestamp: timestamp(&text.replacen("+00", "", 1))?,
        offset: Offset::WesternHemisphereSecs(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(of_type: &str, text: &str) -> String {
        match of(of_type, SqlValue::Text(text.to_owned())) {
            Ok(value) => format!("{value:?}"),
            Err(reason) => reason,
        }
    }

    #[test]
    fn a_text_has_the_case_of_its_type() {
        for (of_type, text, expected) in [
            ("numeric", "1.50", "Numeric(\"1.50\")"),
            ("jsonb", "{}", "Json(\"{}\")"),
            ("citext", "a", "Text(\"a\")"),
            ("date", "2024-02-29", "Ymd((2024, 2, 29))"),
            ("date", "0044-03-15 BC", "Ymd((-43, 3, 15))"),
            ("date", "-infinity", "NegativeInfinity"),
            ("time", "09:05:00.0015", "micro: 1500"),
            ("timestamptz", "2024-02-29 09:05:00+00", "Ymd((2024, 2, 29))"),
            ("timestamptz", "0044-03-15 09:05:00.5+00 BC", "micro: 500000"),
            ("timestamp", "infinity", "PositiveInfinity"),
            ("_int4", "{1,-2}", "Int4Array([1, -2])"),
            ("_text", r#"{a,"b\"\\,",""}"#, r#"TextArray(["a", "b\"\\,", ""])"#),
            ("_text", "{}", "TextArray([])"),
            ("_bytea", r#"{"\\x00ff"}"#, "ByteaArray([[0, 255]])"),
            ("_bool", "{t,f}", "BoolArray([true, false])"),
            ("_int4", "{1,NULL}", "without NULL"),
            ("_int4", "{{1},{2}}", "of one dimension"),
            ("_int4", "[2:3]={1,2}", "of one dimension"),
            ("_int4", "{x}", "can't be read"),
            ("date", "soon", "has no case in this interface"),
        ] {
            let found = read(of_type, text);
            assert!(found.contains(expected), "{of_type} {text}: {found}");
        }
    }

    #[test]
    fn a_number_has_the_case_of_its_size() {
        for (of_type, expected) in [
            ("int2", "PgValue::Int2(7)"),
            ("int4", "PgValue::Int4(7)"),
            ("int8", "PgValue::Int8(7)"),
            ("oid", "PgValue::Int8(7)"),
        ] {
            assert_eq!(
                format!("{:?}", of(of_type, SqlValue::Integer(7)).unwrap()),
                expected
            );
        }
        assert!(of("int2", SqlValue::Integer(70_000)).is_err());
    }
}
