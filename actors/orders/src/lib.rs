//! What customers bought, in a SQL database.
//!
//! `place` writes an order, its lines and the count of what was sold in one transaction: all of it or nothing.

wit_bindgen::generate!({
    world: "shop:orders/orders",
    path: ["../../wit/deps/weft-sql.wit", "../../compose/apps/shop/wit", "wit"],
    additional_derives: [Clone, PartialEq],
    generate_all,
});

mod id;
mod ledger;

use std::time::{SystemTime, UNIX_EPOCH};

use exports::shop::api::orders::{Error, Guest, Offer, Receipt, Sold, Summary};
use wasip2::random::random::get_random_u64;

struct Orders;

export!(Orders);

const CUSTOMER_LEN_MAX: usize = 80;
/// An order is written in one transaction, which holds SQLite's one writer.
const LINES_LEN_MAX: usize = 50;
const RECENT_LEN_MAX: u32 = 100;

impl Guest for Orders {
    fn place(customer: String, offer: Offer) -> Result<Receipt, Error> {
        check(&customer, &offer)?;
        let receipt = Receipt {
            id: id::of(get_random_u64()),
            customer,
            placed_at_ms: now_ms(),
            offer,
        };
        ledger::place(&receipt)?;
        Ok(receipt)
    }

    fn get(id: String) -> Result<Option<Receipt>, Error> {
        ledger::get(&id)
    }

    fn recent(limit: u32) -> Result<Vec<Summary>, Error> {
        ledger::recent(limit.min(RECENT_LEN_MAX))
    }

    fn sales() -> Result<Vec<Sold>, Error> {
        ledger::sales()
    }
}

fn check(customer: &str, offer: &Offer) -> Result<(), Error> {
    let fault = if customer.trim().is_empty() || customer.chars().count() > CUSTOMER_LEN_MAX {
        format!("a customer's name has 1 to {CUSTOMER_LEN_MAX} characters")
    } else if !(1..=LINES_LEN_MAX).contains(&offer.lines.len()) {
        format!("an order has 1 to {LINES_LEN_MAX} lines")
    } else if offer.lines.iter().any(|line| line.quantity == 0) {
        "a line is for at least one piece".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Invalid(fault))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::shop::api::orders::Offer;
    use crate::shop::api::pricing::PricedLine;

    fn offer(quantities: &[u32]) -> Offer {
        let line = |&quantity: &u32| PricedLine {
            product: "scarf".to_owned(),
            unit_price_cents: 1,
            quantity,
            percent_off: 0,
            total_cents: 1,
        };
        Offer {
            rule: "none".to_owned(),
            lines: quantities.iter().map(line).collect(),
            subtotal_cents: 1,
            total_cents: 1,
        }
    }

    #[test]
    fn refuses_orders_of_nobody_and_of_nothing() {
        assert!(check("Ada", &offer(&[1])).is_ok());
        for (customer, quantities) in [
            (" ", vec![1]),
            ("Ada", vec![]),
            ("Ada", vec![1, 0]),
            ("Ada", vec![1; 51]),
        ] {
            assert!(matches!(
                check(customer, &offer(&quantities)),
                Err(Error::Invalid(_))
            ));
        }
    }
}
