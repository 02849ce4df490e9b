//! Values on their way from the server, which sends them in binary.
//!
//! What the trait has no case for becomes text, in the form in which Postgres itself writes it with ISO dates and in
//! UTC. The tests compare each with the server's own `::text`.

mod time;

use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use tokio_postgres::types::{FromSql, Kind, Type};
use weft_capabilities::sql::{SqlError, SqlValue};

/// The bytes of a column, as they came. `None` is no value.
pub(crate) struct Raw<'a>(pub(crate) Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Whether values of a type can be read.
pub(crate) fn check(column: &str, of_type: &Type) -> Result<(), SqlError> {
    if is_read(of_type) {
        return Ok(());
    }
    let message = format!(
        "column `{column}` has the type {}, which has no form here: select it as text, by `::text`",
        of_type.name()
    );
    Err(SqlError::Syntax { message })
}

/// The name of what a type is in the end: a domain is what it is based on, and an enum is a text.
pub(crate) fn name(of_type: &Type) -> String {
    match of_type.kind() {
        Kind::Domain(base) => name(base),
        Kind::Array(element) => format!("_{}", name(element)),
        Kind::Enum(_) => Type::TEXT.name().to_owned(),
        _ => of_type.name().to_owned(),
    }
}

fn is_read(of_type: &Type) -> bool {
    match of_type.kind() {
        Kind::Domain(base) => return is_read(base),
        Kind::Array(element) => return !matches!(element.kind(), Kind::Array(_)) && is_read(element),
        Kind::Enum(_) => return true,
        _ => {}
    }
    is_text(of_type)
        || [
            Type::BOOL,
            Type::INT2,
            Type::INT4,
            Type::INT8,
            Type::OID,
            Type::FLOAT4,
            Type::FLOAT8,
            Type::BYTEA,
            Type::NUMERIC,
            Type::UUID,
            Type::JSONB,
            Type::DATE,
            Type::TIME,
            Type::TIMESTAMP,
            Type::TIMESTAMPTZ,
            Type::VOID,
        ]
        .contains(of_type)
}

/// Types whose binary form is their text.
fn is_text(of_type: &Type) -> bool {
    [
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::NAME,
        Type::JSON,
        Type::XML,
        Type::UNKNOWN,
    ]
    .contains(of_type)
        || of_type.name() == "citext"
}

/// A value of a type that [`check`] let pass.
pub(crate) fn read(of_type: &Type, raw: &[u8]) -> Result<SqlValue, SqlError> {
    value(of_type, raw).ok_or_else(|| SqlError::Backend {
        source: format!("the server sent a broken {}", of_type.name()).into(),
    })
}

fn value(of_type: &Type, raw: &[u8]) -> Option<SqlValue> {
    if let Kind::Domain(base) = of_type.kind() {
        return value(base, raw);
    }
    Some(match *of_type {
        Type::BOOL => SqlValue::Boolean(*raw.first()? != 0),
        Type::INT2 => SqlValue::Integer(i16::from_be_bytes(raw.try_into().ok()?).into()),
        Type::INT4 => SqlValue::Integer(i32::from_be_bytes(raw.try_into().ok()?).into()),
        Type::INT8 => SqlValue::Integer(i64::from_be_bytes(raw.try_into().ok()?)),
        Type::OID => SqlValue::Integer(u32::from_be_bytes(raw.try_into().ok()?).into()),
        Type::FLOAT4 => SqlValue::Real(f32::from_be_bytes(raw.try_into().ok()?).into()),
        Type::FLOAT8 => SqlValue::Real(f64::from_be_bytes(raw.try_into().ok()?)),
        Type::BYTEA => SqlValue::Blob(Bytes::copy_from_slice(raw)),
        Type::VOID => SqlValue::Null,
        _ => {
            let mut text = String::new();
            write_text(of_type, raw, &mut text)?;
            SqlValue::Text(text)
        }
    })
}

/// Writes a value as Postgres writes it as text.
fn write_text(of_type: &Type, raw: &[u8], out: &mut String) -> Option<()> {
    match of_type.kind() {
        Kind::Domain(base) => return write_text(base, raw, out),
        Kind::Array(element) => return write_array(element, raw, out),
        Kind::Enum(_) => {
            out.push_str(std::str::from_utf8(raw).ok()?);
            return Some(());
        }
        _ => {}
    }
    match *of_type {
        Type::BOOL => out.push(if *raw.first()? == 0 { 'f' } else { 't' }),
        Type::INT2 => write!(out, "{}", i16::from_be_bytes(raw.try_into().ok()?)).ok()?,
        Type::INT4 => write!(out, "{}", i32::from_be_bytes(raw.try_into().ok()?)).ok()?,
        Type::INT8 => write!(out, "{}", i64::from_be_bytes(raw.try_into().ok()?)).ok()?,
        Type::OID => write!(out, "{}", u32::from_be_bytes(raw.try_into().ok()?)).ok()?,
        Type::FLOAT4 => {
            let number = f32::from_be_bytes(raw.try_into().ok()?);
            write_float(&format!("{number:e}"), 6, out)?;
        }
        Type::FLOAT8 => {
            let number = f64::from_be_bytes(raw.try_into().ok()?);
            write_float(&format!("{number:e}"), 15, out)?;
        }
        Type::BYTEA => {
            out.push_str("\\x");
            for byte in raw {
                write!(out, "{byte:02x}").ok()?;
            }
        }
        Type::NUMERIC => write_numeric(raw, out)?,
        Type::UUID => {
            let [a, b, c, d, e, f, g, h, rest @ ..]: [u8; 16] = raw.try_into().ok()?;
            write!(
                out,
                "{:08x}-{:04x}-{:04x}-{:02x}{:02x}-",
                u32::from_be_bytes([a, b, c, d]),
                u16::from_be_bytes([e, f]),
                u16::from_be_bytes([g, h]),
                rest[0],
                rest[1]
            )
            .ok()?;
            for byte in &rest[2..] {
                write!(out, "{byte:02x}").ok()?;
            }
        }
        Type::JSONB => out.push_str(std::str::from_utf8(raw.strip_prefix(&[1])?).ok()?),
        Type::DATE => time::write_date(i32::from_be_bytes(raw.try_into().ok()?), out)?,
        Type::TIME => time::write_time(i64::from_be_bytes(raw.try_into().ok()?), out)?,
        Type::TIMESTAMP => time::write_timestamp(i64::from_be_bytes(raw.try_into().ok()?), "", out)?,
        Type::TIMESTAMPTZ => time::write_timestamp(i64::from_be_bytes(raw.try_into().ok()?), "+00", out)?,
        _ => out.push_str(std::str::from_utf8(raw).ok()?),
    }
    Some(())
}

/// `number` is Rust's shortest form, `d.ddde±x`. From `digits` on, and below 0.0001, Postgres keeps the exponent.
fn write_float(number: &str, digits: i32, out: &mut String) -> Option<()> {
    let Some((mantissa, exponent)) = number.split_once('e') else {
        out.push_str(match number {
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            other => other,
        });
        return Some(());
    };
    let exponent: i32 = exponent.parse().ok()?;
    if exponent < -4 || exponent >= digits {
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(out, "{mantissa}e{sign}{:02}", exponent.abs()).ok();
    }
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let all = mantissa.replace('.', "");
    out.push_str(sign);
    let Ok(before) = usize::try_from(exponent + 1) else {
        out.push_str("0.");
        out.extend((0..-(exponent + 1)).map(|_| '0'));
        out.push_str(&all);
        return Some(());
    };
    if before == 0 {
        out.push_str("0.");
        out.push_str(&all);
    } else if all.len() <= before {
        out.push_str(&all);
        out.extend((all.len()..before).map(|_| '0'));
    } else {
        out.push_str(&all[..before]);
        out.push('.');
        out.push_str(&all[before..]);
    }
    Some(())
}

/// Takes integers off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}

/// Digits of base 10,000; the first stands for `10000^weight`, and `scale` is the number of decimals to show.
fn write_numeric(raw: &[u8], out: &mut String) -> Option<()> {
    let mut reader = Reader(raw);
    let (len, weight, sign, scale) = (reader.i16()?, reader.i16()?, reader.i16()?, reader.i16()?);
    match sign.cast_unsigned() {
        0xC000 => out.push_str("NaN"),
        0xD000 => out.push_str("Infinity"),
        0xF000 => out.push_str("-Infinity"),
        sign => {
            let digits = (0..len).map(|_| reader.i16()).collect::<Option<Vec<_>>>()?;
            let digit = |place: i32| {
                let at = i32::from(weight) - place;
                usize::try_from(at)
                    .ok()
                    .and_then(|at| digits.get(at).copied())
                    .unwrap_or(0)
            };
            if sign == 0x4000 {
                out.push('-');
            }
            write!(out, "{}", digit(i32::from(weight.max(0)))).ok()?;
            for place in (0..i32::from(weight)).rev() {
                write!(out, "{:04}", digit(place)).ok()?;
            }
            let scale = usize::try_from(scale).ok()?;
            if scale > 0 {
                let mut decimals = String::new();
                let mut place = -1;
                while decimals.len() < scale {
                    write!(decimals, "{:04}", digit(place)).ok()?;
                    place -= 1;
                }
                out.push('.');
                out.push_str(decimals.get(..scale)?);
            }
        }
    }
    Some(())
}

/// Dimensions, whether there are nulls, the elements' type; for each dimension its length and first index; the elements.
fn write_array(element: &Type, raw: &[u8], out: &mut String) -> Option<()> {
    let mut reader = Reader(raw);
    let (dimensions, _nulls, _type) = (reader.i32()?, reader.i32()?, reader.i32()?);
    if dimensions == 0 {
        out.push_str("{}");
        return Some(());
    }
    let mut lens = Vec::new();
    let mut bounds = String::new();
    let mut is_usual = true;
    for _ in 0..dimensions {
        let (len, first) = (reader.i32()?, reader.i32()?);
        is_usual &= first == 1;
        write!(bounds, "[{first}:{}]", first.checked_add(len)?.checked_sub(1)?).ok()?;
        lens.push(len);
    }
    if !is_usual {
        out.push_str(&bounds);
        out.push('=');
    }
    write_elements(element, &lens, &mut reader, out)
}

fn write_elements(element: &Type, lens: &[i32], reader: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let (len, inner) = lens.split_first()?;
    out.push('{');
    for n in 0..*len {
        if n > 0 {
            out.push(',');
        }
        if !inner.is_empty() {
            write_elements(element, inner, reader, out)?;
            continue;
        }
        match usize::try_from(reader.i32()?) {
            Err(_) => out.push_str("NULL"),
            Ok(len) => {
                let mut text = String::new();
                write_text(element, reader.take(len)?, &mut text)?;
                write_quoted(&text, out);
            }
        }
    }
    out.push('}');
    Some(())
}

fn write_quoted(text: &str, out: &mut String) {
    let special = |c: char| {
        matches!(
            c,
            '{' | '}' | ',' | '"' | '\\' | ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c'
        )
    };
    if !text.is_empty() && !text.eq_ignore_ascii_case("NULL") && !text.contains(special) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn broken_bytes_are_an_error_and_never_a_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            for of_type in [
                Type::BOOL, Type::INT2, Type::INT4, Type::INT8, Type::FLOAT4, Type::FLOAT8, Type::NUMERIC, Type::UUID,
                Type::JSONB, Type::DATE, Type::TIME, Type::TIMESTAMP, Type::TIMESTAMPTZ, Type::TEXT, Type::INT4_ARRAY,
                Type::NUMERIC_ARRAY, Type::TEXT_ARRAY,
            ] {
                drop(read(&of_type, &raw));
            }
        }
    }
}
