//! SQL over HTTP, by `weft:sql`: `POST /query`, `/execute` and `/transaction?commit=` (0, 1 or `drop`), in JSON.
//!
//! A statement is `{"sql": "select $1", "params": [1]}`, and a transaction is an array of those. A blob is
//! `{"blob": [1, 2]}`, both ways. An error answers `{"error": "constraint", "detail": ...}` with 409 if it is the
//! statement's or the data's, with 503 if it is the database's.

wit_bindgen::generate!({
    world: "weft:sql-test/sql",
    path: ["../../wit/deps/weft-sql.wit", "wit"],
    generate_all,
});

use std::io::Read as _;

use serde_json::{Value as Json, json};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};
use weft::sql::database::{self, Transaction};
use weft::sql::types::{Constraint, Error, ResultSet, Value};
use weft_guest_support::{Target, respond, sleep};

wasip2::http::proxy::export!(Sql);

struct Sql;

impl Guest for Sql {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        if !matches!(request.method(), Method::Post) {
            return respond(response_out, 405, "POST to /query, /execute or /transaction\n");
        }
        let target = Target::of(&request);
        let Ok(body) = serde_json::from_slice::<Json>(&sent(&request)) else {
            return respond(response_out, 400, "the body is not JSON\n");
        };
        let answer = match target.path.as_str() {
            "/query" => statement(&body).map(|(sql, params)| database::query(sql, &params).map(rows)),
            "/execute" => statement(&body).map(|(sql, params)| {
                database::execute(sql, &params).map(|changed| json!({ "changed": changed }))
            }),
            "/transaction" => Some(transaction(&body, &target)),
            _ => return respond(response_out, 404, "There is nothing here; see sql/src/lib.rs.\n"),
        };
        match answer {
            Some(Ok(json)) => respond(response_out, 200, &json.to_string()),
            Some(Err(error)) => {
                let (status, json) = described(error);
                respond(response_out, status, &json.to_string());
            }
            None => respond(response_out, 400, "expected {\"sql\": ..., \"params\": [...]}\n"),
        }
    }
}

/// Runs each statement as a query in one transaction, pauses for `ms` if that is given, and ends it as `commit` says.
fn transaction(body: &Json, target: &Target) -> Result<Json, Error> {
    let transaction = database::begin()?;
    let mut results = Vec::new();
    for (sql, params) in body.as_array().into_iter().flatten().filter_map(statement) {
        results.push(rows(transaction.query(sql, &params)?));
    }
    sleep(target.millis("ms", 0));
    match target.text("commit").as_deref() {
        Some("1") => Transaction::commit(transaction)?,
        Some("0") => Transaction::rollback(transaction)?,
        _ => drop(transaction),
    }
    Ok(Json::Array(results))
}

fn statement(json: &Json) -> Option<(&str, Vec<Value>)> {
    let params = json["params"].as_array().into_iter().flatten().map(value);
    Some((json["sql"].as_str()?, params.collect()))
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Boolean(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Real(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Text(text.clone()),
        other => {
            let bytes = other["blob"].as_array().into_iter().flatten();
            Value::Blob(
                bytes
                    .filter_map(|byte| u8::try_from(byte.as_u64()?).ok())
                    .collect(),
            )
        }
    }
}

fn rows(set: ResultSet) -> Json {
    let rows = set
        .rows
        .into_iter()
        .map(|row| row.into_iter().map(field).collect::<Json>());
    json!({ "columns": set.columns, "rows": rows.collect::<Json>() })
}

fn field(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(flag) => flag.into(),
        Value::Integer(integer) => integer.into(),
        Value::Real(real) => real.into(),
        Value::Text(text) => text.into(),
        Value::Blob(bytes) => json!({ "blob": bytes }),
    }
}

fn described(error: Error) -> (u16, Json) {
    let (status, name, detail) = match error {
        Error::Syntax(text) => (409, "syntax", text),
        Error::Constraint(violation) => {
            let kind = match violation.kind {
                Constraint::Unique => "unique",
                Constraint::NotNull => "not-null",
                Constraint::ForeignKey => "foreign-key",
                Constraint::Check => "check",
                Constraint::Other => "other",
            };
            let detail = json!({ "error": "constraint", "kind": kind, "detail": violation.message });
            return (409, detail);
        }
        Error::TooLarge(text) => (409, "too-large", text),
        Error::Denied(text) => (409, "denied", text),
        Error::Busy => (503, "busy", String::new()),
        Error::DeadlineExceeded => (503, "deadline-exceeded", String::new()),
        Error::Unavailable(text) => (503, "unavailable", text),
        Error::MayHaveCommitted => (503, "may-have-committed", String::new()),
        Error::Other(text) => (503, "other", text),
    };
    (status, json!({ "error": name, "detail": detail }))
}

/// What was read of the body, if it broke off.
fn sent(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("the body of a request is taken once");
    let mut stream = body.stream().expect("the stream of a body is taken once");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
