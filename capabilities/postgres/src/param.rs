//! Parameters on their way to the server.
//!
//! Everything but bytes goes as text, which the server reads as what the statement needs in that place: so a whole
//! number may be compared with a `numeric`, and a text be stored as a `uuid`, a `timestamptz` or an array. It is still a
//! value, never a part of the statement.

use std::error::Error;
use std::fmt::{self, Write as _};

use bytes::BytesMut;
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};
use weft_capabilities::sql::{SqlError, SqlValue};

/// A value as a parameter. Its `Debug` shows no value, as clients write parameters to logs.
pub(crate) struct Param<'a>(pub(crate) &'a SqlValue);

/// Whether the parameters fit the statement's places, as far as is known on this side.
pub(crate) fn check(statement: &Statement, params: &[SqlValue]) -> Result<(), SqlError> {
    let places = statement.params();
    if places.len() != params.len() {
        let message = format!(
            "it has {} parameters, and {} were given",
            places.len(),
            params.len()
        );
        return Err(SqlError::Syntax { message });
    }
    for (n, (place, param)) in places.iter().zip(params).enumerate() {
        if matches!(param, SqlValue::Blob(_)) && *place != Type::BYTEA {
            let message = format!("parameter ${} is bytes, expected {}", n + 1, place.name());
            return Err(SqlError::Syntax { message });
        }
    }
    Ok(())
}

impl fmt::Debug for Param<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0 {
            SqlValue::Null => return Ok(IsNull::Yes),
            SqlValue::Boolean(true) => out.extend_from_slice(b"true"),
            SqlValue::Boolean(false) => out.extend_from_slice(b"false"),
            SqlValue::Integer(number) => write!(out, "{number}")?,
            // The shortest text that reads as the same number; `NaN` and `inf` are names that Postgres knows.
            SqlValue::Real(number) => write!(out, "{number:e}")?,
            SqlValue::Text(text) => out.extend_from_slice(text.as_bytes()),
            SqlValue::Blob(bytes) => out.extend_from_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self.0 {
            SqlValue::Blob(_) => Format::Binary,
            _ => Format::Text,
        }
    }

    fn to_sql_checked(
        &self,
        place: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(place, out)
    }
}
