//! The shop's everyday rule: who takes several of a product pays less for each.
//!
//! A pure function of its arguments. `pricing-sale` is another rule behind the same interface.

wit_bindgen::generate!({
    world: "shop:pricing/pricing",
    path: ["../../compose/apps/shop/wit", "wit"],
    generate_all,
});

use exports::shop::api::pricing::{Guest, Line, Offer, PricedLine};

struct Pricing;

export!(Pricing);

const RULE: &str = "quantity-discount";

impl Guest for Pricing {
    fn quote(lines: Vec<Line>) -> Offer {
        let subtotal_cents = lines.iter().map(full_cents).fold(0, u64::saturating_add);
        let lines: Vec<_> = lines.into_iter().map(priced).collect();
        Offer {
            rule: RULE.to_owned(),
            subtotal_cents,
            total_cents: lines
                .iter()
                .map(|line| line.total_cents)
                .fold(0, u64::saturating_add),
            lines,
        }
    }

    fn rule_name() -> String {
        RULE.to_owned()
    }
}

fn percent_off(quantity: u32) -> u8 {
    match quantity {
        0..3 => 0,
        3..10 => 5,
        _ => 10,
    }
}

fn priced(line: Line) -> PricedLine {
    let percent_off = percent_off(line.quantity);
    PricedLine {
        total_cents: less(full_cents(&line), percent_off),
        product: line.product,
        unit_price_cents: line.unit_price_cents,
        quantity: line.quantity,
        percent_off,
    }
}

/// Two 32-bit numbers multiply into 64 bits.
fn full_cents(line: &Line) -> u64 {
    u64::from(line.unit_price_cents) * u64::from(line.quantity)
}

/// `cents` less so many per cent of it, rounded half up. Wide, as a hundred times `cents` may not fit.
fn less(cents: u64, percent: u8) -> u64 {
    let left = u128::from(100_u8.saturating_sub(percent));
    u64::try_from((u128::from(cents) * left + 50) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quote(lines: &[(u32, u32)]) -> Offer {
        let line = |&(unit_price_cents, quantity): &(u32, u32)| Line {
            product: "scarf".to_owned(),
            unit_price_cents,
            quantity,
        };
        Pricing::quote(lines.iter().map(line).collect())
    }

    #[test]
    fn takes_more_off_the_more_is_bought_of_one_product() {
        for (quantity, percent, total) in [
            (1, 0, 1_000),
            (2, 0, 2_000),
            (3, 5, 2_850),
            (9, 5, 8_550),
            (10, 10, 9_000),
        ] {
            let offer = quote(&[(1_000, quantity)]);
            assert_eq!(
                (offer.lines[0].percent_off, offer.total_cents),
                (percent, total),
                "{quantity}"
            );
        }
    }

    #[test]
    fn counts_each_line_by_itself_and_names_its_rule() {
        let offer = quote(&[(1_000, 3), (500, 1)]);
        assert_eq!((offer.subtotal_cents, offer.total_cents), (3_500, 3_350));
        assert_eq!(
            (offer.rule.as_str(), offer.lines.len()),
            (Pricing::rule_name().as_str(), 2)
        );
    }

    #[test]
    fn rounds_half_a_cent_up() {
        assert_eq!(quote(&[(10, 3)]).total_cents, 29, "28.5");
        assert_eq!(quote(&[(1, 3)]).total_cents, 3, "2.85");
    }

    #[test]
    fn neither_nothing_nor_the_largest_order_is_too_much() {
        assert_eq!(quote(&[]).total_cents, 0);
        assert_eq!(quote(&[(u32::MAX, u32::MAX); 3]).subtotal_cents, u64::MAX);
    }
}
