//! Values on their way to the database.
//!
//! What is no number, truth value or list of bytes goes as the text by which Postgres knows it: the server reads it as what
//! the statement needs in that place.

use std::fmt::Write as _;

use weft_capabilities::sql::SqlValue;

use super::wit::wasmcloud::postgres::types::{
    Date, HashableF64, Interval, Lexeme, LexemeWeight, MacAddressEui48, MacAddressEui64, Offset, PgValue,
    Point, Time, TimeTz, Timestamp, TimestampTz,
};

type Text = Result<String, String>;

/// What stands for a value.
///
/// # Errors
/// It can't be one, in a sentence.
pub(super) fn of(value: PgValue) -> Result<SqlValue, String> {
    use PgValue as V;
    let text = match value {
        V::Null => return Ok(SqlValue::Null),
        V::BigInt(n) | V::Int8(n) | V::BigSerial(n) | V::Serial8(n) => return Ok(SqlValue::Integer(n)),
        V::Integer(n) | V::Int(n) | V::Int4(n) => return Ok(SqlValue::Integer(n.into())),
        V::Serial(n) | V::Serial4(n) => return Ok(SqlValue::Integer(n.into())),
        V::SmallInt(n) | V::Int2(n) | V::SmallSerial(n) | V::Serial2(n) => {
            return Ok(SqlValue::Integer(n.into()));
        }
        V::Bool(is) | V::Boolean(is) => return Ok(SqlValue::Boolean(is)),
        V::Double(n) | V::Float8(n) => return Ok(SqlValue::Real(float8(n))),
        V::Real(n) | V::Float4(n) => return Ok(SqlValue::Real(float4(n).into())),
        V::Bytea(bytes) => return Ok(SqlValue::Blob(bytes.into())),

        V::Int8Array(all) => numbers(&all),
        V::Int4Array(all) => numbers(&all),
        V::Int2Array(all) => numbers(&all),
        V::BoolArray(all) => numbers(&all),
        V::Float8Array(all) => numbers(&all.into_iter().map(|n| float(float8(n))).collect::<Vec<_>>()),
        V::Float4Array(all) => numbers(
            &all.into_iter()
                .map(|n| float(float4(n).into()))
                .collect::<Vec<_>>(),
        ),
        V::Int2Vector(all) => vector(&all),
        V::Int2VectorArray(all) => array(&all, |all| Ok(vector(all)))?,

        V::Bit((len, bytes)) => bits(Some(len), &bytes)?,
        V::BitArray(all) => array(&all, |(len, bytes)| bits(Some(*len), bytes))?,
        V::BitVarying((len, bytes)) | V::Varbit((len, bytes)) => bits(len, &bytes)?,
        V::VarbitArray(all) => array(&all, |(len, bytes)| bits(*len, bytes))?,
        V::ByteaArray(all) => array(&all, |bytes| Ok(format!("\\x{}", hex(bytes, ""))))?,
        V::Char((_, bytes)) | V::Varchar((_, bytes)) => utf8(&bytes)?,
        V::CharArray(all) => array(&all, |(_, bytes)| utf8(bytes))?,
        V::VarcharArray(all) => array(&all, |(_, bytes)| utf8(bytes))?,

        V::Numeric(text)
        | V::Decimal(text)
        | V::Money(text)
        | V::Cidr(text)
        | V::Inet(text)
        | V::Json(text)
        | V::Jsonb(text)
        | V::Name(text)
        | V::Text(text)
        | V::Xml(text)
        | V::TsQuery(text)
        | V::Uuid(text) => text,
        V::NumericArray(all)
        | V::MoneyArray(all)
        | V::CidrArray(all)
        | V::InetArray(all)
        | V::JsonArray(all)
        | V::JsonbArray(all)
        | V::NameArray(all)
        | V::TextArray(all)
        | V::XmlArray(all)
        | V::UuidArray(all) => array(&all, |text| Ok(text.clone()))?,

        V::Macaddr(address) => eui48(&address),
        V::MacaddrArray(all) => array(&all, |address| Ok(eui48(address)))?,
        V::Macaddr8(address) => eui64(&address),
        V::Macaddr8Array(all) => array(&all, |address| Ok(eui64(address)))?,

        V::Point(at) => point(at),
        V::PointArray(all) => array(&all, |at| Ok(point(*at)))?,
        V::Box((from, to)) => points(&[from, to]),
        // Its arrays have another mark between their elements than those of all other types.
        V::BoxArray(all) => array(&all, |(from, to)| Ok(points(&[*from, *to])))?.replace("\",\"", "\";\""),
        V::Line((from, to)) => points(&[from, to]),
        V::LineArray(all) => array(&all, |(from, to)| Ok(points(&[*from, *to])))?,
        V::Lseg((from, to)) => format!("[{}]", points(&[from, to])),
        V::LsegArray(all) => array(&all, |(from, to)| Ok(format!("[{}]", points(&[*from, *to]))))?,
        V::Path(all) => format!("[{}]", points(&all)),
        V::PathArray(all) => array(&all, |all| Ok(format!("[{}]", points(all))))?,
        V::Polygon(all) => format!("({})", points(&all)),
        V::PolygonArray(all) => array(&all, |all| Ok(format!("({})", points(all))))?,
        V::Circle((center, radius)) => circle(center, radius),
        V::CircleArray(all) => array(&all, |(center, radius)| Ok(circle(*center, *radius)))?,

        V::Date(day) => date(&day),
        V::DateArray(all) => array(&all, |day| Ok(date(day)))?,
        V::Interval(between) => range(&between),
        V::IntervalArray(all) => array(&all, |between| Ok(range(between)))?,
        V::Time(at) => time(&at),
        V::TimeArray(all) => array(&all, |at| Ok(time(at)))?,
        V::TimeTz(at) => time_tz(&at),
        V::TimeTzArray(all) => array(&all, |at| Ok(time_tz(at)))?,
        V::Timestamp(at) => timestamp(&at, ""),
        V::TimestampArray(all) => array(&all, |at| Ok(timestamp(at, "")))?,
        V::TimestampTz(at) => timestamp_tz(&at),
        V::TimestampTzArray(all) => array(&all, |at| Ok(timestamp_tz(at)))?,

        V::PgLsn(at) => lsn(at),
        V::PgLsnArray(all) => array(&all, |at| Ok(lsn(*at)))?,
        V::PgSnapshot((xmin, xmax, running)) => {
            let running: Vec<_> = running.iter().map(ToString::to_string).collect();
            format!("{xmin}:{xmax}:{}", running.join(","))
        }
        V::TxidSnapshot(_) => {
            return Err(
                "a txid-snapshot is one number here and three in Postgres: use pg-snapshot".to_owned(),
            );
        }
        V::TsVector(all) => {
            let lexemes: Vec<_> = all.iter().map(lexeme).collect();
            lexemes.join(" ")
        }
        V::Hstore(pairs) => {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| {
                    let value = value.as_ref().map_or("NULL".to_owned(), |value| quoted(value));
                    format!("{}=>{value}", quoted(key))
                })
                .collect();
            pairs.join(",")
        }
    };
    Ok(SqlValue::Text(text))
}

/// The exponent that stands for what is no finite number, and the least mantissa of no number.
const SPECIAL_F64: (i16, u64) = (972, (1 << 52) + 1);
const SPECIAL_F32: (i16, u64) = (105, (1 << 23) + 1);

/// A number out of its parts.
pub(super) fn float8((mantissa, exponent, sign): HashableF64) -> f64 {
    if exponent == SPECIAL_F64.0 && mantissa >= SPECIAL_F64.1 {
        return f64::NAN;
    }
    // In two steps: the power by itself may be too small, or too large, where the number is neither.
    let half = i32::from(exponent) / 2;
    let number = mantissa as f64 * 2_f64.powi(half) * 2_f64.powi(i32::from(exponent) - half);
    if sign < 0 { -number } else { number }
}

fn float4((mantissa, exponent, sign): HashableF64) -> f32 {
    if exponent == SPECIAL_F32.0 && mantissa >= SPECIAL_F32.1 {
        return f32::NAN;
    }
    float8((mantissa, exponent, sign)) as f32
}

fn float(number: f64) -> String {
    format!("{number:e}")
}

/// An array of what needs no quotes.
fn numbers<T: ToString>(all: &[T]) -> String {
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    format!("{{{}}}", all.join(","))
}

fn array<T>(all: &[T], written: impl Fn(&T) -> Text) -> Text {
    let all: Vec<_> = all
        .iter()
        .map(|one| written(one).map(|text| quoted(&text)))
        .collect::<Result<_, _>>()?;
    Ok(format!("{{{}}}", all.join(",")))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn vector(all: &[i16]) -> String {
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    all.join(" ")
}

/// So many bits, or all.
fn bits(len: Option<u32>, bytes: &[u8]) -> Text {
    let all = bytes.len() * 8;
    let len = match len {
        None => all,
        Some(len) => usize::try_from(len)
            .ok()
            .filter(|len| *len <= all)
            .ok_or_else(|| format!("there are {all} bits, and {len} were said"))?,
    };
    let bit = |at: usize| {
        if bytes[at / 8] & (0x80 >> (at % 8)) == 0 {
            '0'
        } else {
            '1'
        }
    };
    Ok((0..len).map(bit).collect())
}

fn hex(bytes: &[u8], between: &str) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(between)
}

fn utf8(bytes: &[u8]) -> Text {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    Ok(text.to_owned())
}

fn eui48(address: &MacAddressEui48) -> String {
    let (a, b, c, d, e, f) = address.bytes;
    hex(&[a, b, c, d, e, f], ":")
}

fn eui64(address: &MacAddressEui64) -> String {
    let (a, b, c, d, e, f, g, h) = address.bytes;
    hex(&[a, b, c, d, e, f, g, h], ":")
}

fn point((x, y): Point) -> String {
    format!("({},{})", float(float8(x)), float(float8(y)))
}

fn points(all: &[Point]) -> String {
    let all: Vec<_> = all.iter().map(|at| point(*at)).collect();
    all.join(",")
}

fn circle(center: Point, radius: HashableF64) -> String {
    format!("<{},{}>", point(center), float(float8(radius)))
}

/// A day of the year, and whether that is before the first.
fn day((year, month, day): (i32, u32, u32)) -> (String, &'static str) {
    let (year, era) = match i64::from(year) {
        year @ ..=0 => (1 - year, " BC"),
        year => (year, ""),
    };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

fn date(date: &Date) -> String {
    match date {
        Date::PositiveInfinity => "infinity".to_owned(),
        Date::NegativeInfinity => "-infinity".to_owned(),
        Date::Ymd(ymd) => {
            let (text, era) = day(*ymd);
            text + era
        }
    }
}

/// What the interface calls an interval is a range of dates.
fn range(between: &Interval) -> String {
    let open = if between.start_inclusive { '[' } else { '(' };
    let close = if between.end_inclusive { ']' } else { ')' };
    format!("{open}{},{}{close}", date(&between.start), date(&between.end))
}

fn time(
    Time {
        hour,
        min,
        sec,
        micro,
    }: &Time,
) -> String {
    let mut text = format!("{hour:02}:{min:02}:{sec:02}");
    if *micro > 0 {
        let _ = write!(text, ".{micro:06}");
    }
    text
}

fn time_tz(TimeTz { timesonze, time: at }: &TimeTz) -> String {
    format!("{} {timesonze}", time(at))
}

fn timestamp(at: &Timestamp, zone: &str) -> String {
    match &at.date {
        Date::Ymd(ymd) => {
            let (text, era) = day(*ymd);
            format!("{text} {}{zone}{era}", time(&at.time))
        }
        infinite => date(infinite),
    }
}

/// The time is that of the clocks at the offset.
fn timestamp_tz(at: &TimestampTz) -> String {
    let east = match at.offset {
        Offset::EasternHemisphereSecs(secs) => i64::from(secs),
        Offset::WesternHemisphereSecs(secs) => -i64::from(secs),
    };
    let (sign, secs) = (if east < 0 { '-' } else { '+' }, east.abs());
    let zone = format!("{sign}{:02}:{:02}:{:02}", secs / 3_600, secs / 60 % 60, secs % 60);
    timestamp(&at.timestamp, &zone)
}

fn lsn(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & u64::from(u32::MAX))
}

fn lexeme(lexeme: &Lexeme) -> String {
    let mut text = format!("'{}'", lexeme.data.replace('\\', "\\\\").replace('\'', "''"));
    if let Some(position) = lexeme.position {
        let weight = match lexeme.weight {
            Some(LexemeWeight::A) => "A",
            Some(LexemeWeight::B) => "B",
            Some(LexemeWeight::C) => "C",
            Some(LexemeWeight::D) | None => "",
        };
        let _ = write!(text, ":{position}{weight}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: PgValue) -> String {
        match of(value) {
            Ok(SqlValue::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_no_case_of_its_own_goes_as_postgres_writes_it() {
        let one = (1_u64 << 52, -52, 1);
        let morning = || Time {
            hour: 9,
            min: 5,
            sec: 0,
            micro: 1_500,
        };
        let at = |date| Timestamp {
            date,
            time: morning(),
        };
        for (value, expected) in [
            (PgValue::Int4Array(vec![1, -2]), "{1,-2}"),
            (
                PgValue::Int2VectorArray(vec![vec![1, 2], vec![3]]),
                r#"{"1 2","3"}"#,
            ),
            (
                PgValue::TextArray(vec!["a\"b\\".into(), "NULL".into()]),
                r#"{"a\"b\\","NULL"}"#,
            ),
            (PgValue::Bit((10, vec![0b1010_0000, 0b0100_0000])), "1010000001"),
            (PgValue::ByteaArray(vec![vec![0, 255]]), r#"{"\\x00ff"}"#),
            (PgValue::Varchar((None, "é".into())), "é"),
            (
                PgValue::Macaddr(MacAddressEui48 {
                    bytes: (8, 0, 43, 1, 2, 3),
                }),
                "08:00:2b:01:02:03",
            ),
            (PgValue::Circle(((one, one), one)), "<(1e0,1e0),1e0>"),
            (
                PgValue::BoxArray(vec![((one, one), (one, one)); 2]),
                r#"{"(1e0,1e0),(1e0,1e0)";"(1e0,1e0),(1e0,1e0)"}"#,
            ),
            (PgValue::Date(Date::Ymd((2024, 2, 29))), "2024-02-29"),
            (PgValue::Date(Date::Ymd((-43, 3, 15))), "0044-03-15 BC"),
            (
                PgValue::Timestamp(at(Date::Ymd((2024, 2, 29)))),
                "2024-02-29 09:05:00.001500",
            ),
            (PgValue::Timestamp(at(Date::PositiveInfinity)), "infinity"),
            (
                PgValue::TimestampTz(TimestampTz {
                    timestamp: at(Date::Ymd((2024, 2, 29))),
                    offset: Offset::WesternHemisphereSecs(4 * 3_600 + 1_800),
                }),
                "2024-02-29 09:05:00.001500-04:30:00",
            ),
            (
                PgValue::Interval(Interval {
                    start: Date::Ymd((2024, 1, 1)),
                    start_inclusive: true,
                    end: Date::PositiveInfinity,
                    end_inclusive: false,
                }),
                "[2024-01-01,infinity)",
            ),
            (PgValue::PgLsn((22 << 32) | 0xAB), "16/AB"),
            (
                PgValue::Hstore(vec![("a".into(), None), ("b".into(), Some("\"".into()))]),
                r#""a"=>NULL,"b"=>"\"""#,
            ),
            (
                PgValue::TsVector(vec![Lexeme {
                    position: Some(3),
                    weight: Some(LexemeWeight::A),
                    data: "it's".into(),
                }]),
                "'it''s':3A",
            ),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn what_can_not_be_a_value_is_told() {
        for value in [
            PgValue::Bit((9, vec![0])),
            PgValue::Char((1, vec![0xff])),
            PgValue::TxidSnapshot(1),
        ] {
            assert!(of(value).is_err());
        }
    }

    #[test]
    fn a_number_is_as_good_out_of_its_parts() {
        for number in [
            0.0,
            1.0,
            -1.5,
            0.1,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            f64::INFINITY,
        ] {
            let parts = super::super::value::float8(number);
            assert_eq!(float8(parts), number);
            assert_eq!(float8((parts.0, parts.1, -1)), -number.abs());
        }
        assert!(float8(super::super::value::float8(f64::NAN)).is_nan());
        for number in [0.1_f32, f32::MAX, 1e-45, f32::INFINITY] {
            assert_eq!(float4(super::super::value::float4(number)), number);
        }
        assert!(float4(super::super::value::float4(f32::NAN)).is_nan());
        assert_eq!(float8((u64::MAX, i16::MAX, 1)), f64::INFINITY);
        assert_eq!(float8((u64::MAX, i16::MIN, 1)), 0.0);
    }
}
