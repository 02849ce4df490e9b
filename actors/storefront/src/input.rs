//! What customers and shopkeepers send, in JSON. Fields that don't exist are refused: they are mistyped ones.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::answer::Problem;
use crate::shop::api::catalog::Product;

/// Products of one order or quote.
const LINES_LEN_MAX: usize = 50;
/// Pieces of one product.
const QUANTITY_MAX: u32 = 999;

/// So many pieces of a product.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    pub(crate) product: String,
    pub(crate) quantity: u32,
}

/// `POST /api/orders`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) customer: String,
    lines: Vec<Wanted>,
}

/// `POST /api/quotes`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cart {
    lines: Vec<Wanted>,
}

/// `PUT /api/products/ID`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProduct {
    name: String,
    #[serde(default)]
    description: String,
    price_cents: u32,
    #[serde(default)]
    image: Option<String>,
}

pub(crate) fn order(body: &[u8]) -> Result<(String, Vec<Wanted>), Problem> {
    let order: Order = parsed(body)?;
    Ok((order.customer.trim().to_owned(), merged(order.lines)?))
}

pub(crate) fn cart(body: &[u8]) -> Result<Vec<Wanted>, Problem> {
    merged(parsed::<Cart>(body)?.lines)
}

pub(crate) fn product(id: &str, body: &[u8]) -> Result<Product, Problem> {
    let new: NewProduct = parsed(body)?;
    Ok(Product {
        id: id.to_owned(),
        name: new.name,
        description: new.description,
        price_cents: new.price_cents,
        image: new.image,
    })
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::malformed(error.to_string()))
}

/// One line a product, in the order that they were first named: otherwise a discount by quantity depends on how an
/// order is written down.
fn merged(lines: Vec<Wanted>) -> Result<Vec<Wanted>, Problem> {
    let mut merged: Vec<Wanted> = Vec::new();
    for line in lines {
        if line.quantity == 0 {
            let fault = format!("the quantity of {} is 0: leave the line out", line.product);
            return Err(Problem::invalid(fault));
        }
        match merged.iter_mut().find(|known| known.product == line.product) {
            Some(known) => known.quantity = known.quantity.saturating_add(line.quantity),
            None => merged.push(line),
        }
    }
    if !(1..=LINES_LEN_MAX).contains(&merged.len()) {
        let fault = format!(
            "{} products in one order: 1 to {LINES_LEN_MAX} can be",
            merged.len()
        );
        return Err(Problem::invalid(fault));
    }
    match merged.iter().find(|line| line.quantity > QUANTITY_MAX) {
        Some(line) => Err(Problem::invalid(format!(
            "{} of {} are too many: at most {QUANTITY_MAX} go into one order",
            line.quantity, line.product
        ))),
        None => Ok(merged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(product: &str, quantity: u32) -> Wanted {
        Wanted {
            product: product.to_owned(),
            quantity,
        }
    }

    #[test]
    fn reads_an_order_and_adds_up_the_lines_of_a_product() {
        let body = br#"{"customer":" Ada ","lines":[
            {"product":"rug","quantity":1},{"product":"scarf","quantity":2},{"product":"rug","quantity":3}]}"#;
        let (customer, lines) = order(body).unwrap();
        assert_eq!(customer, "Ada");
        assert_eq!(lines, [line("rug", 4), line("scarf", 2)]);
    }

    #[test]
    fn tells_where_json_breaks_and_which_field_is_wrong() {
        for (body, status, words) in [
            (&b"{"[..], 400, "line 1"),
            (br#"{"customer":"Ada"}"#, 400, "lines"),
            (br#"{"customer":"Ada","line":[]}"#, 400, "`line`"),
            (
                br#"{"customer":"Ada","lines":[{"product":"rug","quantity":-1}]}"#,
                400,
                "-1",
            ),
            (br#"{"customer":"Ada","lines":[]}"#, 422, "1 to 50"),
            (
                br#"{"customer":"Ada","lines":[{"product":"rug","quantity":0}]}"#,
                422,
                "rug is 0",
            ),
            (
                br#"{"customer":"Ada","lines":[{"product":"rug","quantity":1000}]}"#,
                422,
                "at most 999",
            ),
        ] {
            let problem = order(body).unwrap_err();
            let text = format!("{problem:?}");
            assert!(problem.status == status && text.contains(words), "{text}");
        }
    }

    #[test]
    fn quantities_that_add_up_to_more_than_a_number_holds_are_too_many() {
        let lines = vec![line("rug", u32::MAX), line("rug", u32::MAX)];
        assert_eq!(merged(lines).unwrap_err().status, 422);
    }

    #[test]
    fn an_order_is_bounded() {
        let lines = |count: usize| (0..count).map(|number| line(&number.to_string(), 1)).collect();
        assert!(merged(lines(LINES_LEN_MAX)).is_ok());
        assert_eq!(merged(lines(LINES_LEN_MAX + 1)).unwrap_err().status, 422);
    }

    #[test]
    fn a_product_takes_its_id_from_the_path() {
        let product = product("rug", br#"{"name":"Rug","price_cents":100}"#).unwrap();
        assert_eq!(
            (product.id.as_str(), product.price_cents, product.image),
            ("rug", 100, None)
        );
        let problem = super::product("rug", br#"{"id":"rug","name":"Rug","price_cents":100}"#).unwrap_err();
        assert_eq!(problem.status, 400);
    }
}
