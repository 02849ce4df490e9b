//! What the shop's front does, by calling the actors behind it.

use serde::Serialize;
use serde_json::json;

use crate::answer::{Answer, Problem};
use crate::input::{self, Wanted};
use crate::shop::api::catalog;
use crate::shop::api::images;
use crate::shop::api::orders::{self, Receipt};
use crate::shop::api::pricing::{self, Line, Offer, PricedLine};

const ORDERS_SHOWN: u32 = 20;

pub(crate) fn products() -> Result<Answer, Problem> {
    Ok(Answer::json(200, &catalog::list()?))
}

pub(crate) fn product(id: &str) -> Result<Answer, Problem> {
    let found = catalog::get(id)?;
    if found.product.is_none() {
        return Err(no_product(id));
    }
    Ok(Answer::json(200, &found))
}

pub(crate) fn put_product(id: &str, body: &[u8]) -> Result<Answer, Problem> {
    let product = input::product(id, body)?;
    let source = catalog::put(&product)?;
    Ok(Answer::json(
        200,
        &catalog::Found {
            product: Some(product),
            source,
        },
    ))
}

pub(crate) fn rule() -> Answer {
    Answer::json(200, &json!({ "rule": pricing::rule_name() }))
}

pub(crate) fn quote(body: &[u8]) -> Result<Answer, Problem> {
    Ok(Answer::json(200, &quoted(&input::cart(body)?)?))
}

pub(crate) fn place_order(body: &[u8]) -> Result<Answer, Problem> {
    let (customer, wanted) = input::order(body)?;
    let receipt = orders::place(&customer, &quoted(&wanted)?)?;
    let location = format!("/api/orders/{}", receipt.id);
    Ok(Answer::created(location, &Written::from(&receipt)))
}

pub(crate) fn order(id: &str) -> Result<Answer, Problem> {
    let receipt = orders::get(id)?.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))?;
    Ok(Answer::json(200, &Written::from(&receipt)))
}

pub(crate) fn orders() -> Result<Answer, Problem> {
    Ok(Answer::json(
        200,
        &json!({ "orders": orders::recent(ORDERS_SHOWN)? }),
    ))
}

pub(crate) fn sales() -> Result<Answer, Problem> {
    Ok(Answer::json(200, &json!({ "sold": orders::sales()? })))
}

pub(crate) fn put_image(bytes: &[u8]) -> Result<Answer, Problem> {
    let id = images::put(bytes)?;
    Ok(Answer::created(format!("/images/{id}"), &json!({ "id": id })))
}

pub(crate) fn image(id: &str) -> Result<Answer, Problem> {
    let picture = images::get(id)?.ok_or_else(|| Problem::not_found(format!("there is no picture {id}")))?;
    Ok(Answer::picture(&picture.media_type, picture.bytes))
}

/// At the catalog's prices, by the rule that holds now.
fn quoted(wanted: &[Wanted]) -> Result<Offer, Problem> {
    let line = |wanted: &Wanted| {
        let product = catalog::get(&wanted.product)?.product;
        let product =
            product.ok_or_else(|| Problem::invalid(format!("there is no product {}", wanted.product)))?;
        Ok(Line {
            product: product.id,
            unit_price_cents: product.price_cents,
            quantity: wanted.quantity,
        })
    };
    let lines = wanted.iter().map(line).collect::<Result<Vec<_>, Problem>>()?;
    Ok(pricing::quote(&lines))
}

fn no_product(id: &str) -> Problem {
    Problem::not_found(format!("there is no product {id}"))
}

/// A receipt as customers see it: without the offer as a part of its own.
#[derive(Serialize)]
struct Written<'a> {
    id: &'a str,
    customer: &'a str,
    placed_at_ms: u64,
    rule: &'a str,
    lines: &'a [PricedLine],
    subtotal_cents: u64,
    total_cents: u64,
}

impl<'a> From<&'a Receipt> for Written<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        Self {
            id: &receipt.id,
            customer: &receipt.customer,
            placed_at_ms: receipt.placed_at_ms,
            rule: &receipt.offer.rule,
            lines: &receipt.offer.lines,
            subtotal_cents: receipt.offer.subtotal_cents,
            total_cents: receipt.offer.total_cents,
        }
    }
}
