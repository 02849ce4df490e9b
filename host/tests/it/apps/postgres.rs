//! `wasmcloud:postgres@0.1.1-draft` on a real Postgres.

use weft_servers::Postgres;

use super::component;
use crate::support::guests::POSTGRES;
use crate::support::{AppFile, Weft, weft};

fn app(backend: &str) -> AppFile {
    let guest = component(POSTGRES);
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: ledger
actors:
  books:
    component: {guest}
    links:
      wasmcloud:postgres: {{ provider: tables }}
providers:
  tables: {{ capability: sql, backend: {backend} }}
routes:
  - actor: books
"
    ))
}

fn on(server: &Postgres) -> AppFile {
    app(&format!("postgres, config: {{ url: \"{}\" }}", server.url()))
}

/// For each type: what the server makes of a value of it, and what comes back.
const VALUES: &str = r#"int8: t=PgValue::Text("-9223372036854775808") | v=PgValue::Int8(-9223372036854775808)
int8[]: t=PgValue::Text("{1,-2}") | v=PgValue::Int8Array([1, -2])
int4: t=PgValue::Text("-7") | v=PgValue::Int4(-7)
int4[]: t=PgValue::Text("{}") | v=PgValue::Int4Array([])
int2: t=PgValue::Text("7") | v=PgValue::Int2(7)
int2[]: t=PgValue::Text("{3}") | v=PgValue::Int2Array([3])
bool: t=PgValue::Text("true") | v=PgValue::Bool(true)
bool[]: t=PgValue::Text("{t,f}") | v=PgValue::BoolArray([true, false])
float8: t=PgValue::Text("1") | v=PgValue::Float8((4503599627370496, -52, 1))
float8[]: t=PgValue::Text("{1}") | v=PgValue::Float8Array([(4503599627370496, -52, 1)])
float4: t=PgValue::Text("0.5") | v=PgValue::Float4((8388608, -24, 1))
float4[]: t=PgValue::Text("{0.5}") | v=PgValue::Float4Array([(8388608, -24, 1)])
numeric: t=PgValue::Text("12.340") | v=PgValue::Numeric("12.340")
numeric[]: t=PgValue::Text("{0.1}") | v=PgValue::NumericArray(["0.1"])
money: t=PgValue::Text("$1.50") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type money, which has no form here: select it as text, by `::text`")
bit(3): t=PgValue::Text("101") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type bit, which has no form here: select it as text, by `::text`")
varbit: t=PgValue::Text("11110000") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type varbit, which has no form here: select it as text, by `::text`")
bytea: t=PgValue::Text("\\x00ff") | v=PgValue::Bytea([0, 255])
bytea[]: t=PgValue::Text("{\"\\\\x01\",\"\\\\x\"}") | v=PgValue::ByteaArray([[1], []])
char(3): t=PgValue::Text("ab") | v=PgValue::Char((3, [97, 98, 32]))
varchar: t=PgValue::Text("ab") | v=PgValue::Varchar((None, [97, 98]))
text: t=PgValue::Text("it's é") | v=PgValue::Text("it's é")
text[]: t=PgValue::Text("{\"a,\\\"b\\\\\",\"NULL\"}") | v=PgValue::TextArray(["a,\"b\\", "NULL"])
name: t=PgValue::Text("n") | v=PgValue::Name("n")
json: t=PgValue::Text("{\"a\": 1}") | v=PgValue::Json("{\"a\": 1}")
jsonb: t=PgValue::Text("{\"a\": 1}") | v=PgValue::Json("{\"a\": 1}")
uuid: t=PgValue::Text("00112233-4455-6677-8899-aabbccddeeff") | v=PgValue::Uuid("00112233-4455-6677-8899-aabbccddeeff")
date: t=PgValue::Text("2024-02-29") | v=PgValue::Date(Date::Ymd((2024, 2, 29)))
date: t=PgValue::Text("-infinity") | v=PgValue::Date(Date::NegativeInfinity)
date[]: t=PgValue::Text("{2024-02-29}") | v=PgValue::DateArray([Date::Ymd((2024, 2, 29))])
time: t=PgValue::Text("12:30:05.25") | v=PgValue::Time(Time { hour: 12, min: 30, sec: 5, micro: 250000 })
timetz: t=PgValue::Text("12:30:05.25+02") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type timetz, which has no form here: select it as text, by `::text`")
timestamp: t=PgValue::Text("2024-02-29 12:30:05.25") | v=PgValue::Timestamp(Timestamp { date: Date::Ymd((2024, 2, 29)), time: Time { hour: 12, min: 30, sec: 5, micro: 250000 } })
timestamptz: t=PgValue::Text("2024-02-29 10:30:05.25+00") | v=PgValue::TimestampTz(TimestampTz { timestamp: Timestamp { date: Date::Ymd((2024, 2, 29)), time: Time { hour: 10, min: 30, sec: 5, micro: 250000 } }, offset: Offset::WesternHemisphereSecs(0) })
daterange: t=PgValue::Text("[2024-02-29,2024-03-01)") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type daterange, which has no form here: select it as text, by `::text`")
inet: t=PgValue::Text("10.0.0.1/32") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type inet, which has no form here: select it as text, by `::text`")
cidr: t=PgValue::Text("10.0.0.0/8") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type cidr, which has no form here: select it as text, by `::text`")
macaddr: t=PgValue::Text("08:00:2b:01:02:03") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type macaddr, which has no form here: select it as text, by `::text`")
macaddr8: t=PgValue::Text("08:00:2b:01:02:03:04:05") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type macaddr8, which has no form here: select it as text, by `::text`")
point: t=PgValue::Text("(1,1)") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type point, which has no form here: select it as text, by `::text`")
box: t=PgValue::Text("(1,1),(1,1)") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type box, which has no form here: select it as text, by `::text`")
box[]: t=PgValue::Text("{(1,1),(1,1);(1,1),(1,1)}") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type _box, which has no form here: select it as text, by `::text`")
circle: t=PgValue::Text("<(1,1),1>") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type circle, which has no form here: select it as text, by `::text`")
lseg: t=PgValue::Text("[(1,1),(1,1)]") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type lseg, which has no form here: select it as text, by `::text`")
path: t=PgValue::Text("[(1,1),(1,1)]") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type path, which has no form here: select it as text, by `::text`")
polygon: t=PgValue::Text("((1,1),(1,1))") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type polygon, which has no form here: select it as text, by `::text`")
pg_lsn: t=PgValue::Text("16/AB") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type pg_lsn, which has no form here: select it as text, by `::text`")
tsquery: t=PgValue::Text("'a' & 'b'") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type tsquery, which has no form here: select it as text, by `::text`")
tsvector: t=PgValue::Text("'it''s':2A") | QueryError::InvalidQuery("the statement can't be run: column `v` has the type tsvector, which has no form here: select it as text, by `::text`")
int4: t=PgValue::Null | v=PgValue::Null
bit(9): QueryError::InvalidParams("parameter $1: there are 8 bits, and 9 were said") | QueryError::InvalidParams("parameter $1: there are 8 bits, and 9 were said")
"#;

/// The answer to a body, and whether it is an error.
async fn post(weft: &Weft, path: &str, body: &str) -> Result<String, String> {
    let reply = weft.send("POST", path, body.to_owned()).await;
    match reply.status {
        200 => Ok(reply.text().to_owned()),
        _ => Err(reply.text().to_owned()),
    }
}

#[tokio::test]
async fn a_value_of_each_type_goes_in_and_comes_out_or_is_told_to_have_no_case() {
    let server = Postgres::start();
    let weft = Weft::app(&on(&server), &[]);
    let reply = weft.get("/values").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let found: Vec<_> = reply.text().lines().collect();
    assert_eq!(found, VALUES.lines().collect::<Vec<_>>());
}

#[tokio::test]
async fn statements_are_run_by_themselves_prepared_and_in_batches_of_all_or_none() {
    let server = Postgres::start();
    let weft = Weft::app(&on(&server), &[]);
    let schema = "-- Two statements; and a function with a semicolon in it.
        CREATE TABLE t (n int8 PRIMARY KEY, at timestamptz);
        CREATE FUNCTION f() RETURNS int4 LANGUAGE sql AS $$ SELECT 1; SELECT 2; $$;";
    post(&weft, "/batch", schema).await.unwrap();
    assert_eq!(
        post(&weft, "/insert?rows=3", "INSERT INTO t VALUES ($1)")
            .await
            .unwrap(),
        "3"
    );
    let returned = post(&weft, "/query", "INSERT INTO t VALUES (4) RETURNING n, at;").await;
    assert_eq!(returned.unwrap(), "n=PgValue::Int8(4), at=PgValue::Null");
    assert_eq!(
        post(&weft, "/query", "SELECT f()").await.unwrap(),
        "f=PgValue::Int4(2)"
    );

    let half = post(
        &weft,
        "/batch",
        "INSERT INTO t VALUES (5); INSERT INTO t VALUES (1)",
    )
    .await;
    assert!(
        half.unwrap_err().contains("duplicate key"),
        "the second broke the key"
    );
    let count = post(&weft, "/query", "SELECT count(*) AS c FROM t").await;
    assert_eq!(count.unwrap(), "c=PgValue::Int8(4)", "the first stayed");

    for (path, statement, expected) in [
        ("/query", "SELEC 1", "InvalidQuery"),
        ("/query", "BEGIN", "InvalidQuery"),
        ("/query", "INSERT INTO t VALUES (1)", "Unexpected"),
        ("/query", "SELECT int4range(1, 2)", "::text"),
        ("/query", "SELECT '{1,NULL}'::int4[]", "without NULL"),
        ("/insert", "SELEC $1", "QueryError"),
        ("/unknown", "", "UnknownPreparedQuery"),
    ] {
        let error = post(&weft, path, statement).await.unwrap_err();
        assert!(error.contains(expected), "{statement}: {error}");
    }
}

#[tokio::test]
async fn a_link_to_a_database_of_another_kind_is_refused() {
    let app = app("sqlite");
    let data = tempfile::tempdir().unwrap();
    let output = weft(&[
        "up",
        app.path().to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--data",
        data.path().to_str().unwrap(),
    ]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = "`wasmcloud:postgres` needs sql on postgres, and the provider `tables` serves sql on sqlite";
    assert!(error.contains(told), "{error}");
}

#[tokio::test]
async fn a_database_of_an_app_that_allows_it_no_more_is_denied_as_the_interface_says_it() {
    let server = Postgres::start();
    let offers = |allow: &str| {
        format!(
            "
apiVersion: weft/v1
name: offers
providers:
  tables: {{ capability: sql, backend: postgres, config: {{ url: \"{}\" }}{allow} }}
",
            server.url()
        )
    };
    let guest = component(POSTGRES);
    let wants = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: wants
actors:
  books: {{ component: {guest}, links: {{ wasmcloud:postgres: {{ provider: default/offers/tables }} }} }}
routes:
  - actor: books
"
    ));
    let offered = AppFile::new(&offers(", allowFrom: [wants]"));
    let weft = Weft::app(&offered, &[]);
    weft.cli(&["deploy", wants.path().to_str().unwrap()]).await;
    post(&weft, "/batch", "CREATE TABLE t (n int8)").await.unwrap();
    let (query, insert) = ("SELECT 1::int8 AS n", "INSERT INTO t VALUES ($1)");
    assert_eq!(post(&weft, "/query", query).await.unwrap(), "n=PgValue::Int8(1)");
    assert_eq!(post(&weft, "/insert?rows=1", insert).await.unwrap(), "1");

    offered.write(&offers(""));
    weft.cli(&["deploy", offered.path().to_str().unwrap()]).await;
    let why = "a database of another app, which does not let this one is denied to actors";
    for (path, body, kind) in [
        ("/query", query, "QueryError::InvalidQuery"),
        ("/batch", query, "QueryError::InvalidQuery"),
        ("/insert?rows=1", insert, "StatementPrepareError::Unexpected"),
    ] {
        let error = post(&weft, path, body).await.unwrap_err();
        assert_eq!(error.trim_end(), format!("{kind}(\"{why}\")"), "{path}");
    }
    let conditions = weft.cli(&["get", "conditions"]).await;
    assert!(
        conditions.contains("link default/wants/books wasmcloud:postgres"),
        "{conditions}"
    );
}
