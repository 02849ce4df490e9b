//! How a product is kept, and which products there may be.

use serde::{Deserialize, Serialize};

use crate::exports::shop::api::catalog::{Error, Product};

const ID_LEN_MAX: usize = 40;
const NAME_LEN_MAX: usize = 80;
const DESCRIPTION_LEN_MAX: usize = 1_000;
/// 100,000.00: whoever asks more has mistyped.
const PRICE_CENTS_MAX: u32 = 10_000_000;

/// A product as it is kept under its id, in JSON. Fields that a later version adds are passed over.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    description: String,
    price_cents: u32,
    #[serde(default)]
    image: Option<String>,
}

pub(crate) fn encoded(product: &Product) -> Vec<u8> {
    let kept = Kept {
        name: product.name.clone(),
        description: product.description.clone(),
        price_cents: product.price_cents,
        image: product.image.clone(),
    };
    serde_json::to_vec(&kept).expect("texts and numbers can be written as JSON")
}

pub(crate) fn decoded(id: &str, value: &[u8]) -> Result<Product, Error> {
    let kept: Kept = serde_json::from_slice(value)
        .map_err(|error| Error::Unavailable(format!("product {id} is kept in a broken form: {error}")))?;
    Ok(Product {
        id: id.to_owned(),
        name: kept.name,
        description: kept.description,
        price_cents: kept.price_cents,
        image: kept.image,
    })
}

pub(crate) fn check(product: &Product) -> Result<(), Error> {
    let is_id = |text: &str| {
        (1..=ID_LEN_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let fault = if !is_id(&product.id) {
        format!("an id has 1 to {ID_LEN_MAX} lower-case letters, digits and hyphens")
    } else if product.name.trim().is_empty() || product.name.chars().count() > NAME_LEN_MAX {
        format!("a name has 1 to {NAME_LEN_MAX} characters")
    } else if product.description.chars().count() > DESCRIPTION_LEN_MAX {
        format!("a description has at most {DESCRIPTION_LEN_MAX} characters")
    } else if product.price_cents > PRICE_CENTS_MAX {
        format!("a price is at most {PRICE_CENTS_MAX} cents")
    } else if product.image.as_deref().is_some_and(|image| !is_id(image)) {
        "an image is the id of a picture that was uploaded before".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Invalid(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scarf() -> Product {
        Product {
            id: "scarf".to_owned(),
            name: "Scarf".to_owned(),
            description: "Warm".to_owned(),
            price_cents: 4_900,
            image: Some("0a1b".to_owned()),
        }
    }

    #[test]
    fn a_product_is_read_as_it_was_written() {
        assert!(decoded("scarf", &encoded(&scarf())).unwrap() == scarf());
    }

    #[test]
    fn reads_a_product_without_a_picture_and_with_a_field_of_a_later_version() {
        let kept = br#"{"name":"Scarf","description":"","price_cents":1,"colour":"red"}"#;
        assert_eq!(decoded("scarf", kept).unwrap().image, None);
    }

    #[test]
    fn a_broken_value_is_an_error_and_no_missing_product() {
        assert!(matches!(decoded("scarf", b"{"), Err(Error::Unavailable(text)) if text.contains("scarf")));
    }

    #[test]
    fn refuses_what_can_not_be_sold() {
        assert!(check(&scarf()).is_ok());
        let refused: [fn(&mut Product); 7] = [
            |product| product.id = String::new(),
            |product| product.id = "Scarf/1".to_owned(),
            |product| product.id = "s".repeat(ID_LEN_MAX + 1),
            |product| product.name = " ".to_owned(),
            |product| product.description = "x".repeat(DESCRIPTION_LEN_MAX + 1),
            |product| product.price_cents = PRICE_CENTS_MAX + 1,
            |product| product.image = Some("../etc".to_owned()),
        ];
        for (number, spoil) in refused.into_iter().enumerate() {
            let mut product = scarf();
            spoil(&mut product);
            assert!(matches!(check(&product), Err(Error::Invalid(_))), "case {number}");
        }
    }
}
