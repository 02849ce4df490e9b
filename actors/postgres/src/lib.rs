//! A database over HTTP, by `wasmcloud:postgres@0.1.1-draft`, as components of wasmCloud use it.
//!
//! - `GET /values`: a line for each type: its name, what the server makes of a value of it as a parameter, and what comes
//!   back in a result.
//! - `POST /query`, `POST /batch`: runs the body, and answers the rows. `POST /insert?rows=`: prepares the body and runs it
//!   with 1, 2 and so on. `GET /unknown` runs what was never prepared.

wit_bindgen::generate!({
    world: "weft:postgres-test/postgres",
    path: ["../../wit/deps/wasmcloud-postgres.wit", "wit"],
    generate_all,
});

use std::fmt::{Debug, Write as _};
use std::io::Read as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use wasmcloud::postgres::types::{
    Date, Interval, Lexeme, LexemeWeight, MacAddressEui48, MacAddressEui64, Offset, PgValue, Time, TimeTz,
    Timestamp, TimestampTz,
};
use wasmcloud::postgres::{prepared, query};
use weft_guest_support::{Target, respond};

wasip2::http::proxy::export!(Postgres);

struct Postgres;

impl Guest for Postgres {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        match answer(&request, &Target::of(&request)) {
            Ok(text) => respond(response_out, 200, &text),
            Err(text) => respond(response_out, 500, &text),
        }
    }
}

fn answer(request: &IncomingRequest, target: &Target) -> Result<String, String> {
    match target.path.as_str() {
        "/values" => Ok(all().into_iter().map(line).collect()),
        "/query" => rows(&sent(request), &[]).map_err(told),
        "/batch" => query::query_batch(&sent(request))
            .map(|()| String::new())
            .map_err(told),
        "/insert" => {
            let token = prepared::prepare(&sent(request)).map_err(told)?;
            let rows = i64::try_from(target.number("rows", 1)).map_err(told)?;
            let changed = (1..=rows).map(|n| prepared::exec(&token, &[PgValue::BigInt(n)]));
            let changed = changed.sum::<Result<u64, _>>().map_err(told)?;
            Ok(changed.to_string())
        }
        "/unknown" => prepared::exec("nothing", &[])
            .map(|n| n.to_string())
            .map_err(told),
        _ => Err("There is nothing here; see postgres/src/lib.rs.\n".to_owned()),
    }
}

fn line((of_type, value): (&str, PgValue)) -> String {
    let as_text = rows(
        &format!("SELECT ($1::{of_type})::text AS t"),
        std::slice::from_ref(&value),
    );
    let back = rows(&format!("SELECT $1::{of_type} AS v"), &[value]);
    let shown = |found: Result<String, query::QueryError>| found.unwrap_or_else(told);
    format!("{of_type}: {} | {}\n", shown(as_text), shown(back))
}

fn rows(statement: &str, params: &[PgValue]) -> Result<String, query::QueryError> {
    let mut text = String::new();
    for (n, row) in query::query(statement, params)?.iter().enumerate() {
        let _ = write!(text, "{}", if n == 0 { "" } else { "; " });
        for (n, entry) in row.iter().enumerate() {
            let _ = write!(
                text,
                "{}{}={:?}",
                if n == 0 { "" } else { ", " },
                entry.column_name,
                entry.value
            );
        }
    }
    Ok(text)
}

/// A value for each type.
fn all() -> Vec<(&'static str, PgValue)> {
    let one = (1_u64 << 52, -52, 1);
    let half = (1_u64 << 23, -24, 1);
    let day = || Date::Ymd((2024, 2, 29));
    let time = || Time {
        hour: 12,
        min: 30,
        sec: 5,
        micro: 250_000,
    };
    let at = || Timestamp {
        date: day(),
        time: time(),
    };
    vec![
        ("int8", PgValue::BigInt(i64::MIN)),
        ("int8[]", PgValue::Int8Array(vec![1, -2])),
        ("int4", PgValue::Integer(-7)),
        ("int4[]", PgValue::Int4Array(vec![])),
        ("int2", PgValue::SmallInt(7)),
        ("int2[]", PgValue::Int2Array(vec![3])),
        ("bool", PgValue::Boolean(true)),
        ("bool[]", PgValue::BoolArray(vec![true, false])),
        ("float8", PgValue::Double(one)),
        ("float8[]", PgValue::Float8Array(vec![one])),
        ("float4", PgValue::Real(half)),
        ("float4[]", PgValue::Float4Array(vec![half])),
        ("numeric", PgValue::Decimal("12.340".to_owned())),
        ("numeric[]", PgValue::NumericArray(vec!["0.1".to_owned()])),
        ("money", PgValue::Money("1.50".to_owned())),
        ("bit(3)", PgValue::Bit((3, vec![0b1010_0000]))),
        ("varbit", PgValue::Varbit((None, vec![0xf0]))),
        ("bytea", PgValue::Bytea(vec![0, 255])),
        ("bytea[]", PgValue::ByteaArray(vec![vec![1], vec![]])),
        ("char(3)", PgValue::Char((2, b"ab".to_vec()))),
        ("varchar", PgValue::Varchar((None, b"ab".to_vec()))),
        ("text", PgValue::Text("it's \u{e9}".to_owned())),
        (
            "text[]",
            PgValue::TextArray(vec!["a,\"b\\".to_owned(), "NULL".to_owned()]),
        ),
        ("name", PgValue::Name("n".to_owned())),
        ("json", PgValue::Json("{\"a\": 1}".to_owned())),
        ("jsonb", PgValue::Jsonb("{\"a\": 1}".to_owned())),
        (
            "uuid",
            PgValue::Uuid("00112233-4455-6677-8899-aabbccddeeff".to_owned()),
        ),
        ("date", PgValue::Date(day())),
        ("date", PgValue::Date(Date::NegativeInfinity)),
        ("date[]", PgValue::DateArray(vec![day()])),
        ("time", PgValue::Time(time())),
        (
            "timetz",
            PgValue::TimeTz(TimeTz {
                timesonze: "+02".to_owned(),
                time: time(),
            }),
        ),
        ("timestamp", PgValue::Timestamp(at())),
        (
            "timestamptz",
            PgValue::TimestampTz(TimestampTz {
                timestamp: at(),
                offset: Offset::EasternHemisphereSecs(7_200),
            }),
        ),
        (
            "daterange",
            PgValue::Interval(Interval {
                start: day(),
                start_inclusive: true,
                end: Date::Ymd((2024, 3, 1)),
                end_inclusive: false,
            }),
        ),
        ("inet", PgValue::Inet("10.0.0.1".to_owned())),
        ("cidr", PgValue::Cidr("10.0.0.0/8".to_owned())),
        (
            "macaddr",
            PgValue::Macaddr(MacAddressEui48 {
                bytes: (8, 0, 43, 1, 2, 3),
            }),
        ),
        (
            "macaddr8",
            PgValue::Macaddr8(MacAddressEui64 {
                bytes: (8, 0, 43, 1, 2, 3, 4, 5),
            }),
        ),
        ("point", PgValue::Point((one, one))),
        ("box", PgValue::Box(((one, one), (one, one)))),
        ("box[]", PgValue::BoxArray(vec![((one, one), (one, one)); 2])),
        ("circle", PgValue::Circle(((one, one), one))),
        ("lseg", PgValue::Lseg(((one, one), (one, one)))),
        ("path", PgValue::Path(vec![(one, one); 2])),
        ("polygon", PgValue::Polygon(vec![(one, one); 2])),
        ("pg_lsn", PgValue::PgLsn((22 << 32) | 0xab)),
        ("tsquery", PgValue::TsQuery("a & b".to_owned())),
        (
            "tsvector",
            PgValue::TsVector(vec![Lexeme {
                position: Some(2),
                weight: Some(LexemeWeight::A),
                data: "it's".to_owned(),
            }]),
        ),
        ("int4", PgValue::Null),
        ("bit(9)", PgValue::Bit((9, vec![0]))),
    ]
}

/// What was read of the body, if it broke off.
fn sent(request: &IncomingRequest) -> String {
    let body = request.consume().expect("the body of a request is taken once");
    let mut stream = body.stream().expect("the stream of a body is taken once");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

fn told(error: impl Debug) -> String {
    format!("{error:?}")
}
