//! The shop's rule while there is a sale: a fifth off everything, however many are taken.
//!
//! Stands in for `pricing`, behind the same interface, under the same links.

wit_bindgen::generate!({
    world: "shop:pricing-sale/pricing-sale",
    path: ["../../compose/apps/shop/wit", "wit"],
    generate_all,
});

use exports::shop::api::pricing::{Guest, Line, Offer, PricedLine};

struct Pricing;

export!(Pricing);

const RULE: &str = "summer-sale";
const PERCENT_OFF: u8 = 20;

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

fn priced(line: Line) -> PricedLine {
    PricedLine {
        total_cents: less_a_fifth(full_cents(&line)),
        product: line.product,
        unit_price_cents: line.unit_price_cents,
        quantity: line.quantity,
        percent_off: PERCENT_OFF,
    }
}

/// Two 32-bit numbers multiply into 64 bits.
fn full_cents(line: &Line) -> u64 {
    u64::from(line.unit_price_cents) * u64::from(line.quantity)
}

/// Rounded half up: a fifth is never half a cent, and what is over goes to the customer or not by the nearest cent.
fn less_a_fifth(cents: u64) -> u64 {
    cents - (cents + 2) / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_fifth_off_every_line_and_names_its_rule() {
        let line = |unit_price_cents, quantity| Line {
            product: "scarf".to_owned(),
            unit_price_cents,
            quantity,
        };
        let offer = Pricing::quote(vec![line(1_000, 1), line(999, 10)]);
        let totals: Vec<_> = offer
            .lines
            .iter()
            .map(|line| (line.percent_off, line.total_cents))
            .collect();
        assert_eq!(totals, [(20, 800), (20, 7_992)]);
        assert_eq!((offer.subtotal_cents, offer.total_cents), (10_990, 8_792));
        assert_eq!(offer.rule, Pricing::rule_name());
    }

    #[test]
    fn rounds_to_the_nearest_cent() {
        // 80 % of 1 to 5 cents: 0.8, 1.6, 2.4, 3.2 and 4.
        assert_eq!([1, 2, 3, 4, 5].map(less_a_fifth), [1, 2, 2, 3, 4]);
        assert_eq!(less_a_fifth(0), 0);
    }
}
