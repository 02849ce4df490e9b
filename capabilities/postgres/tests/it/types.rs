//! Values of all types, compared with what the server itself makes of them.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use weft_capabilities::sql::{ConstraintKind, Sql, SqlError, SqlValue};
use weft_postgres::PostgresSql;
use weft_servers::Postgres;

use crate::{open, run};

async fn one(
    database: &PostgresSql,
    statement: &str,
    params: Vec<SqlValue>,
) -> Result<Vec<SqlValue>, SqlError> {
    let rows = Sql::query(database, statement, params, None).await?;
    Ok(rows.rows.into_iter().next().unwrap_or_default())
}

fn text(text: &str) -> SqlValue {
    SqlValue::Text(text.to_owned())
}

/// What has no case of its own comes as the server's own text, and goes back as it came.
#[tokio::test(flavor = "multi_thread")]
async fn types_without_a_case_come_and_go_as_text() {
    let server = Postgres::start();
    let database = open(&server.url());
    run(&database, "CREATE TYPE mood AS ENUM ('so so', 'fine')").await;
    run(&database, "CREATE DOMAIN price AS numeric(10, 2)").await;
    for (of_type, values) in [
        (
            "numeric",
            &[
                "0",
                "1",
                "-1",
                "0.5",
                "-0.0001",
                "12345.678900",
                "100000000",
                "9999",
                "10000",
                "0.00010000",
                "1e-20",
                "123456789012345678901234567890.123456789",
                "NaN",
                "Infinity",
                "-Infinity",
            ][..],
        ),
        (
            "date",
            &[
                "2024-02-29",
                "1999-12-31",
                "0001-01-01",
                "0044-03-15 BC",
                "12345-06-07",
                "infinity",
                "-infinity",
            ],
        ),
        ("time", &["00:00:00", "23:59:59.999999", "24:00:00", "01:02:03.5"]),
        (
            "timestamp",
            &["2024-02-29 12:34:56.789", "0001-12-31 23:59:59 BC", "infinity"],
        ),
        (
            "timestamptz",
            &[
                "2024-02-29 12:34:56.789+02",
                "1969-12-31 23:59:59.999999Z",
                "-infinity",
                "0100-01-01 00:00:00Z BC",
            ],
        ),
        ("uuid", &["00112233-4455-6677-8899-aabbccddeeff"]),
        ("jsonb", &["null", "{\"a\": [1, 2.50, \"x\"], \"ä\": null}"]),
        ("json", &["{ \"a\":1 }"]),
        ("mood", &["so so", "fine"]),
        ("price", &["1", "12.345"]),
        ("varchar(10)", &["", "grüße"]),
        ("char(5)", &["ab"]),
        ("name", &["a_name"]),
        ("int[]", &["{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={5,6}"]),
        (
            "text[]",
            &["{a,\"b c\",\"\",NULL,\"NULL\",\"q\\\"\\\\\",\"{x}\",\"a,b\"}"],
        ),
        ("numeric[]", &["{1.50,NaN}"]),
        ("bool[]", &["{t,f}"]),
        ("bytea[]", &["{\"\\\\x00ff\"}"]),
        ("uuid[]", &["{00112233-4455-6677-8899-aabbccddeeff}"]),
        ("timestamptz[]", &["{\"2024-02-29 12:34:56+00\"}"]),
        ("mood[]", &["{\"so so\",fine}"]),
        (
            "float8[]",
            &["{0,-0,1.5,1e300,1e-5,0.0001,123456789012345,1e15,NaN,-Infinity}"],
        ),
        ("float4[]", &["{0.1,1e6,999999,1e-5}"]),
    ] {
        for value in values {
            let own = format!("SELECT $1::{of_type}, ($1::{of_type})::text");
            let got = one(&database, &own, vec![text(value)]).await.unwrap();
            // `::text` takes the spaces off the end of a `char`.
            let server_own = if of_type.starts_with("char") {
                text("ab   ")
            } else {
                got[1].clone()
            };
            assert_eq!(got[0], server_own, "{of_type} {value}");
            let again = one(&database, &own, vec![got[0].clone()]).await.unwrap();
            assert_eq!(again[0], got[0], "{of_type} {value}");
        }
        let null = one(&database, &format!("SELECT $1::{of_type}"), vec![SqlValue::Null]).await;
        assert_eq!(null.unwrap(), [SqlValue::Null]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_go_where_the_statement_wants_them() {
    let server = Postgres::start();
    let database = open(&server.url());
    for (of_type, given, got) in [
        ("smallint", SqlValue::Integer(-7), SqlValue::Integer(-7)),
        ("real", SqlValue::Real(0.5), SqlValue::Real(0.5)),
        ("double precision", SqlValue::Integer(3), SqlValue::Real(3.0)),
        (
            "double precision",
            SqlValue::Real(f64::INFINITY),
            SqlValue::Real(f64::INFINITY),
        ),
        ("double precision", SqlValue::Real(5e-324), SqlValue::Real(5e-324)),
        (
            "numeric",
            SqlValue::Integer(i64::MIN),
            text("-9223372036854775808"),
        ),
        ("numeric", SqlValue::Real(1e20), text("100000000000000000000")),
        ("text", SqlValue::Integer(5), text("5")),
        (
            "oid",
            SqlValue::Integer(4_000_000_000),
            SqlValue::Integer(4_000_000_000),
        ),
    ] {
        let values = one(&database, &format!("SELECT $1::{of_type}"), vec![given]).await;
        assert_eq!(values.unwrap(), [got], "{of_type}");
    }
    for (of_type, given) in [
        ("smallint", SqlValue::Integer(40_000)),
        ("integer", text("x")),
        ("text", text("a\0b")),
        ("date", text("2024-02-30")),
    ] {
        let error = one(&database, &format!("SELECT $1::{of_type}"), vec![given])
            .await
            .unwrap_err();
        let is_check = matches!(
            error,
            SqlError::Constraint {
                kind: ConstraintKind::Check,
                ..
            }
        );
        assert!(is_check, "{of_type}: {error:?}");
    }
    let bytes = vec![SqlValue::Blob(vec![0, 0, 0, 1].into())];
    let error = one(&database, "SELECT $1::integer", bytes).await.unwrap_err();
    assert!(matches!(error, SqlError::Syntax { .. }), "{error:?}");
    let error = one(&database, "SELECT interval '1 day'", Vec::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("select it as text"), "{error}");
    assert_eq!(
        one(&database, "SELECT (interval '1 day')::text", Vec::new())
            .await
            .unwrap(),
        [text("1 day")]
    );
}

/// The bits of the only element of an array of `float4`.
fn single(array: &str) -> u32 {
    let element = array.trim_matches(['{', '}']);
    element.parse::<f32>().map(f32::to_bits).unwrap()
}

/// The same of one of `float8`.
fn double(array: &str) -> u64 {
    let element = array.trim_matches(['{', '}']);
    element.parse::<f64>().map(f64::to_bits).unwrap()
}

/// The law: a number or a moment of any size is written as the server writes it.
#[test]
fn any_number_and_any_moment_reads_as_the_server_writes_it() {
    let server = Postgres::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(async { open(&server.url()) });
    let law = (
        any::<f64>(),
        any::<f32>(),
        "-?[0-9]{1,30}(\\.[0-9]{1,30})?",
        -210_000_000_000_i64..8_000_000_000_000,
        -2_400_000_i32..100_000_000,
    );
    let statement = "SELECT a, a::text, b, b::text, c, c::text, d, d::text, e, e::text FROM \
                     (SELECT ARRAY[$1::float8] a, ARRAY[$2::float4] b, $3::numeric c, \
                     to_timestamp($4::float8 / 7) d, '2000-01-01'::date + $5::int e) x";
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let held = runner.run(&law, |(a, b, c, d, e)| {
        let params = vec![
            SqlValue::Real(a),
            SqlValue::Real(b.into()),
            SqlValue::Text(c),
            SqlValue::Integer(d),
            SqlValue::Integer(e.into()),
        ];
        let values = runtime.block_on(one(&database, statement, params)).unwrap();
        for (at, pair) in values.chunks(2).enumerate() {
            // Of two texts for one number either may be written, as both are read as that number: the server takes none at
            // the very bound of what is rounded to it, and so writes a digit more there.
            match (at, &pair[0], &pair[1]) {
                (0, SqlValue::Text(ours), SqlValue::Text(servers)) => {
                    prop_assert_eq!(double(ours), double(servers))
                }
                (1, SqlValue::Text(ours), SqlValue::Text(servers)) => {
                    prop_assert_eq!(single(ours), single(servers))
                }
                (_, ours, servers) => prop_assert_eq!(ours, servers),
            }
        }
        Ok(())
    });
    held.unwrap();
}
