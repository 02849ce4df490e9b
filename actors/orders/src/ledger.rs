//! The tables, and every statement on them. In SQL that SQLite and Postgres both understand.

use crate::exports::shop::api::orders::{Error, Offer, Receipt, Sold, Summary};
use crate::shop::api::pricing::PricedLine;
use crate::weft::sql::database::{self, Transaction};
use crate::weft::sql::types::{Error as SqlError, ResultSet, Value};

/// Each may run again.
const TABLES: [&str; 4] = [
    "CREATE TABLE IF NOT EXISTS orders (
        id TEXT PRIMARY KEY,
        customer TEXT NOT NULL,
        placed_at_ms BIGINT NOT NULL,
        rule TEXT NOT NULL,
        subtotal_cents BIGINT NOT NULL CHECK (subtotal_cents >= 0),
        total_cents BIGINT NOT NULL CHECK (total_cents >= 0))",
    "CREATE INDEX IF NOT EXISTS orders_by_time ON orders (placed_at_ms)",
    "CREATE TABLE IF NOT EXISTS order_lines (
        order_id TEXT NOT NULL REFERENCES orders (id),
        position BIGINT NOT NULL,
        product TEXT NOT NULL,
        unit_price_cents BIGINT NOT NULL,
        quantity BIGINT NOT NULL CHECK (quantity > 0),
        percent_off BIGINT NOT NULL,
        total_cents BIGINT NOT NULL CHECK (total_cents >= 0),
        PRIMARY KEY (order_id, position))",
    "CREATE TABLE IF NOT EXISTS sold (
        product TEXT PRIMARY KEY,
        quantity BIGINT NOT NULL)",
];

pub(crate) fn place(receipt: &Receipt) -> Result<(), Error> {
    with_tables(|| write(receipt))
}

pub(crate) fn get(id: &str) -> Result<Option<Receipt>, Error> {
    // In one transaction, so that both are of one state.
    let (order, lines) = with_tables(|| {
        let transaction = database::begin()?;
        let order = transaction.query(
            "SELECT customer, placed_at_ms, rule, subtotal_cents, total_cents FROM orders WHERE id = $1",
            &[text(id)],
        )?;
        let lines = transaction.query(
            "SELECT product, unit_price_cents, quantity, percent_off, total_cents \
             FROM order_lines WHERE order_id = $1 ORDER BY position",
            &[text(id)],
        )?;
        Transaction::rollback(transaction)?;
        Ok((order, lines))
    })?;
    let Some(mut order) = fields(order).next() else {
        return Ok(None);
    };
    let line = |mut row: Row| {
        Ok(PricedLine {
            product: row.text()?,
            unit_price_cents: row.number()?,
            quantity: row.number()?,
            percent_off: row.number()?,
            total_cents: row.number()?,
        })
    };
    Ok(Some(Receipt {
        id: id.to_owned(),
        customer: order.text()?,
        placed_at_ms: order.number()?,
        offer: Offer {
            rule: order.text()?,
            subtotal_cents: order.number()?,
            total_cents: order.number()?,
            lines: fields(lines).map(line).collect::<Result<_, Error>>()?,
        },
    }))
}

pub(crate) fn recent(limit: u32) -> Result<Vec<Summary>, Error> {
    let rows = with_tables(|| {
        database::query(
            "SELECT id, customer, placed_at_ms, rule, total_cents FROM orders \
             ORDER BY placed_at_ms DESC, id LIMIT $1",
            &[Value::Integer(limit.into())],
        )
    })?;
    let summary = |mut row: Row| {
        Ok(Summary {
            id: row.text()?,
            customer: row.text()?,
            placed_at_ms: row.number()?,
            rule: row.text()?,
            total_cents: row.number()?,
        })
    };
    fields(rows).map(summary).collect()
}

pub(crate) fn sales() -> Result<Vec<Sold>, Error> {
    let rows = with_tables(|| {
        database::query(
            // Cast, as Postgres sums up to NUMERIC.
            "SELECT sold.product, sold.quantity, CAST(COALESCE(SUM(order_lines.quantity), 0) AS BIGINT) \
             FROM sold LEFT JOIN order_lines ON order_lines.product = sold.product \
             GROUP BY sold.product, sold.quantity ORDER BY sold.product",
            &[],
        )
    })?;
    let sold = |mut row: Row| {
        Ok(Sold {
            product: row.text()?,
            counted: row.number()?,
            summed: row.number()?,
        })
    };
    fields(rows).map(sold).collect()
}

/// Starts with a write, so that SQLite's writer is taken before anything is read.
fn write(receipt: &Receipt) -> Result<(), SqlError> {
    let Receipt {
        id,
        customer,
        placed_at_ms,
        offer,
    } = receipt;
    let transaction = database::begin()?;
    transaction.execute(
        "INSERT INTO orders (id, customer, placed_at_ms, rule, subtotal_cents, total_cents) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            text(id),
            text(customer),
            integer(*placed_at_ms),
            text(&offer.rule),
            integer(offer.subtotal_cents),
            integer(offer.total_cents),
        ],
    )?;
    for (position, line) in (0..).zip(&offer.lines) {
        transaction.execute(
            "INSERT INTO order_lines \
             (order_id, position, product, unit_price_cents, quantity, percent_off, total_cents) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                text(id),
                Value::Integer(position),
                text(&line.product),
                Value::Integer(line.unit_price_cents.into()),
                Value::Integer(line.quantity.into()),
                Value::Integer(line.percent_off.into()),
                integer(line.total_cents),
            ],
        )?;
    }
    // Always in one order: two transactions that lock rows in different ones wait for each other for ever.
    let mut lines: Vec<_> = offer.lines.iter().collect();
    lines.sort_by(|one, other| one.product.cmp(&other.product));
    for line in lines {
        transaction.execute(
            "INSERT INTO sold (product, quantity) VALUES ($1, $2) \
             ON CONFLICT (product) DO UPDATE SET quantity = sold.quantity + excluded.quantity",
            &[text(&line.product), Value::Integer(line.quantity.into())],
        )?;
    }
    Transaction::commit(transaction)
}

/// Makes the tables if `act` fails for want of them, and does it again. So the common case asks nothing.
fn with_tables<T>(act: impl Fn() -> Result<T, SqlError>) -> Result<T, Error> {
    act()
        .or_else(|error| match error {
            SqlError::Syntax(_) | SqlError::Other(_) => {
                for table in TABLES {
                    database::execute(table, &[])?;
                }
                act()
            }
            error => Err(error),
        })
        .map_err(failed)
}

/// The values of one row, from left to right.
struct Row(std::vec::IntoIter<Value>);

fn fields(set: ResultSet) -> impl Iterator<Item = Row> {
    set.rows.into_iter().map(|row| Row(row.into_iter()))
}

impl Row {
    fn text(&mut self) -> Result<String, Error> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text),
            other => Err(unexpected("text", other)),
        }
    }

    fn number<N: TryFrom<i64>>(&mut self) -> Result<N, Error> {
        match self.0.next() {
            Some(Value::Integer(number)) => {
                N::try_from(number).map_err(|_| unexpected("a smaller number", Some(Value::Integer(number))))
            }
            other => Err(unexpected("a number", other)),
        }
    }
}

fn unexpected(wanted: &str, found: Option<Value>) -> Error {
    Error::Unavailable(format!("the database gave {found:?} where {wanted} was expected"))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// What is too large for the column is cut to its largest, which no order reaches.
fn integer(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn failed(error: SqlError) -> Error {
    match error {
        SqlError::MayHaveCommitted => {
            Error::Uncertain("the connection to the database was lost at the commit".to_owned())
        }
        error => Error::Unavailable(format!("the database of orders failed: {error:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: Vec<Value>) -> Row {
        Row(values.into_iter())
    }

    #[test]
    fn reads_the_fields_of_a_row_in_their_order() {
        let mut row = row(vec![text("scarf"), Value::Integer(3)]);
        assert!(row.text().unwrap() == "scarf" && row.number::<u32>().unwrap() == 3);
    }

    #[test]
    fn a_field_of_another_type_or_size_is_an_error() {
        assert!(row(vec![Value::Null]).text().is_err());
        assert!(row(vec![Value::Integer(-1)]).number::<u64>().is_err());
        assert!(row(vec![Value::Integer(256)]).number::<u8>().is_err());
        assert!(row(vec![]).number::<u8>().is_err());
    }

    #[test]
    fn only_a_lost_commit_is_uncertain() {
        assert!(matches!(failed(SqlError::MayHaveCommitted), Error::Uncertain(_)));
        assert!(matches!(failed(SqlError::Busy), Error::Unavailable(_)));
    }
}
